//! Servers that fail in the middle of a run.

use std::time::Duration;

use rlaif_engine::VllmConfig;
use rlaif_lm::Sampled;
use rlaif_testing::{Letters, alone};
use serde_json::json;

use crate::{
    Client, adapted, config, how, move_weights, policy, prompts, repeated,
    server::{Fault, Vllm},
    start,
};

/// The ids of responses.
fn ids(sampled: &[Sampled]) -> Vec<Vec<u32>> {
    sampled.iter().map(|row| row.ids.clone()).collect()
}

#[test]
fn each_failure_that_passes_changes_no_token() {
    let _alone = alone();
    let server = start(policy(1));
    let rows = repeated(&prompts(6), 2);
    let mut client = Client::new(policy(1), config(&[&server]));
    let undisturbed = client.sample(&rows, &how(6), (0, 0)).unwrap();
    for fault in [
        Fault::Status(500, "engine"),
        Fault::Status(503, "paused"),
        Fault::Status(429, "busy"),
        Fault::Dies,
        Fault::Garbage,
        Fault::Silent(Duration::from_millis(50)),
        Fault::Changed("/choices/0/token_ids", json!([])),
        Fault::Changed("/choices/0/token_ids", json!([4, 999])),
        Fault::Changed("/choices/0/token_ids", json!(null)),
        Fault::Changed("/choices/0/prompt_token_ids", json!([4])),
        Fault::Changed("/choices/0/index", json!(5)),
        Fault::Changed("/choices/1/index", json!(0)),
        Fault::Changed("/choices/0/finish_reason", json!("abort")),
        Fault::Changed("/choices/0/finish_reason", json!(null)),
        Fault::Changed("/choices/0/logprobs", json!(null)),
        Fault::Changed("/choices/0/logprobs/token_logprobs", json!([1.5])),
        Fault::Changed("/choices", json!([])),
        Fault::Changed("/model", json!("other")),
    ] {
        let before = server.calls("/v1/completions").len();
        server.fail("/v1/completions", 1, fault.clone());
        let sampled = client.sample(&rows, &how(6), (0, 0)).unwrap();
        assert_eq!(sampled, undisturbed, "{fault:?}");
        assert_eq!(server.calls("/v1/completions").len() - before, 7, "{fault:?}");
    }
}

#[test]
fn a_server_that_dies_gives_its_work_to_the_others_and_comes_back() {
    let _alone = alone();
    let (one, two) = (start(policy(1)), start(policy(1)));
    let rows = repeated(&prompts(8), 2);
    let mut client = Client::new(policy(1), config(&[&one, &two]));
    let undisturbed = client.sample(&rows, &how(6), (0, 0)).unwrap();
    let (address, still) = (two.url.trim_start_matches("http://").to_owned(), two.calls("/").len());
    assert!(still > 0);
    two.fail("/v1/completions", 1000, Fault::Dies);
    assert_eq!(client.sample(&rows, &how(6), (0, 0)).unwrap(), undisturbed);
    drop(two);
    // The weights move on without it.
    move_weights(&client.policy, 0.01);
    let alone = client.sample(&rows, &how(6), (1, 0)).unwrap();
    assert!(alone.iter().all(|row| row.version == 1));
    // A new process at the same address has the first weights, and gets the current ones.
    let two = Vllm::at(policy(1), Letters, &address);
    assert_eq!(client.sample(&rows, &how(6), (1, 0)).unwrap(), alone);
    assert_eq!(two.calls("/collective_rpc").len(), 1);
}

#[test]
fn without_any_server_the_run_ends_and_each_is_named() {
    let _alone = alone();
    let (one, two) = (start(policy(1)), start(policy(1)));
    let mut client = Client::new(policy(1), config(&[&one, &two]));
    client.sample(&prompts(2), &how(4), (0, 0)).unwrap();
    one.fail("/v1/completions", 1000, Fault::Status(500, "engine is dead"));
    two.fail("/v1/completions", 1000, Fault::Dies);
    let error = client.sample(&prompts(12), &how(4), (0, 0)).unwrap_err();
    let told = rlaif_core::with_causes(&error);
    assert!(told.contains(&one.url) && told.contains(&two.url), "{told}");
    assert!(told.contains("engine is dead"), "{told}");
}

#[test]
fn a_server_that_was_started_again_gets_the_weights_again() {
    let _alone = alone();
    let server = start(policy(1));
    let rows = repeated(&prompts(4), 2);
    let mut client = Client::new(policy(1), config(&[&server]));
    move_weights(&client.policy, 0.01);
    let first = client.sample(&rows, &how(6), (3, 0)).unwrap();
    // Between two calls.
    server.restart(policy(1));
    assert_eq!(client.sample(&rows, &how(6), (3, 0)).unwrap(), first);
    assert_eq!(server.calls("/collective_rpc").len(), 2);
    // In the middle of one: its responses tell.
    server.state().tells_versions = true;
    let span = json!([{ "version": "default", "start": 0, "end": 6 }]);
    server.fail("/v1/completions", 1, Fault::Changed("/choices/0/weight_versions", span));
    assert_eq!(client.sample(&rows, &how(6), (3, 0)).unwrap(), first);
    // A server of an older version tells no version: digests find it.
    server.state().lacks = vec!["/weight_info", "/update_weight_version"];
    move_weights(&client.policy, 0.01);
    server.restart(policy(1));
    let _ = client.sample(&rows, &how(6), (4, 0));
    let calls = server.calls("/collective_rpc").len();
    server.restart(policy(2));
    let _ = client.sample(&rows, &how(6), (4, 0));
    assert!(server.calls("/collective_rpc").len() > calls);

    let server = start(policy(1));
    let mut client = Client::new(adapted(1), config(&[&server]));
    move_weights(&client.policy, 0.05);
    let first = client.sample(&rows, &how(6), (3, 0)).unwrap();
    server.restart(policy(1));
    assert_eq!(client.sample(&rows, &how(6), (3, 0)).unwrap(), first);
    assert_eq!(server.calls("/v1/load_lora_adapter").len(), 2);
    server.fail("/v1/completions", 1, Fault::Status(404, "The model does not exist."));
    assert_eq!(client.sample(&rows, &how(6), (3, 0)).unwrap(), first);
}

#[test]
fn weights_that_did_not_arrive_are_found_by_their_digests() {
    let _alone = alone();
    let (one, two) = (start(policy(1)), start(policy(1)));
    let rows = repeated(&prompts(4), 2);
    let mut client = Client::new(policy(1), config(&[&one]));
    client.sample(&rows, &how(6), (0, 0)).unwrap();
    // A server that says that it has read the weights, twice.
    move_weights(&client.policy, 0.01);
    one.fail("/collective_rpc", 2, Fault::Ignored);
    let error = rlaif_core::with_causes(&client.sample(&rows, &how(6), (1, 0)).unwrap_err());
    assert!(
        error.contains("does not have version 1") && error.contains("version before"),
        "{error}"
    );
    // Once is repaired.
    one.fail("/collective_rpc", 1, Fault::Ignored);
    client.sample(&rows, &how(6), (1, 0)).unwrap();
    // Two servers that have read different weights.
    let mut client = Client::new(policy(1), config(&[&one, &two]));
    client.sample(&rows, &how(6), (0, 0)).unwrap();
    move_weights(&client.policy, 0.01);
    for place in ["/checksums/rank0.lm_head.weight", "/checksums/rank0.model.norm.weight"] {
        two.fail("/weight_checker", 6, Fault::Changed(place, json!("00")));
    }
    let sampled = client.sample(&rows, &how(6), (1, 0)).unwrap();
    assert!(sampled.iter().all(|row| row.version == 1));
    // An update that changes nothing has the digests of the one before.
    let mut client = Client::new(policy(1), config(&[&one]));
    for version in 0..3 {
        client.sample(&rows, &how(6), (version, 0)).unwrap();
    }
}

#[test]
fn a_server_that_lags_is_asked_while_its_weights_are_not_too_old() {
    let _alone = alone();
    let server = start(policy(1));
    let rows = repeated(&prompts(4), 2);
    let settings = VllmConfig { max_staleness: 1, ..config(&[&server]) };
    let mut client = Client::new(policy(1), settings);
    client.sample(&rows, &how(6), (0, 0)).unwrap();
    let old = client.version_folder(0);
    assert!(old.exists());
    move_weights(&client.policy, 0.01);
    server.fail("/collective_rpc", 1000, Fault::Status(500, "no space"));
    let lagging = client.sample(&rows, &how(6), (1, 1)).unwrap();
    assert!(lagging.iter().all(|row| row.version == 0), "each row tells its version");
    let error = rlaif_core::with_causes(&client.sample(&rows, &how(6), (2, 1)).unwrap_err());
    assert!(error.contains("no space"), "{error}");
}

#[test]
fn responses_of_a_server_that_was_started_again_meanwhile_are_asked_for_again() {
    let _alone = alone();
    let server = start(policy(1));
    let rows = repeated(&prompts(6), 2);
    let mut client = Client::new(policy(1), config(&[&server]));
    move_weights(&client.policy, 0.05);
    let undisturbed = client.sample(&rows, &how(6), (1, 0)).unwrap();
    // The weights that it starts with give other responses, which nothing in them tells.
    let first = Client::new(policy(1), config(&[&start(policy(1))])).sample(&rows, &how(6), (1, 0));
    assert_ne!(first.unwrap(), undisturbed);
    for answered in [0, 3] {
        let loads = server.calls("/collective_rpc").len();
        server.state().restarts = Some((answered, policy(1)));
        assert_eq!(client.sample(&rows, &how(6), (1, 0)).unwrap(), undisturbed, "{answered}");
        assert_eq!(server.calls("/collective_rpc").len(), loads + 1, "{answered}");
    }
}

#[test]
fn requests_that_fail_together_are_one_failure() {
    let _alone = alone();
    let server = start(policy(1));
    let rows = prompts(24);
    let config = VllmConfig { concurrency: 24, retries: 1, ..config(&[&server]) };
    let mut client = Client::new(policy(1), config);
    let undisturbed = client.sample(&rows, &how(4), (0, 0)).unwrap();
    server.fail("/v1/completions", 24, Fault::Status(503, "overloaded"));
    assert_eq!(client.sample(&rows, &how(4), (0, 0)).unwrap(), undisturbed);
    // Those that fail again and again are not.
    server.fail("/v1/completions", 1000, Fault::Status(503, "overloaded"));
    let error = client.sample(&rows, &how(4), (0, 0)).unwrap_err();
    assert!(rlaif_core::with_causes(&error).contains("overloaded"), "{error}");
}

#[test]
fn a_server_that_a_trainer_has_left_paused_is_resumed() {
    let _alone = alone();
    let server = start(policy(1));
    server.state().paused = true;
    let mut client = Client::new(adapted(1), config(&[&server]));
    assert_eq!(client.sample(&prompts(2), &how(4), (0, 0)).unwrap().len(), 2);
}

#[test]
fn an_interrupted_update_does_not_leave_a_server_paused() {
    let _alone = alone();
    let server = start(policy(1));
    let mut client = Client::new(policy(1), config(&[&server]));
    client.sample(&prompts(2), &how(4), (0, 0)).unwrap();
    move_weights(&client.policy, 0.01);
    server.fail("/collective_rpc", 3, Fault::Status(500, "out of memory"));
    let error = rlaif_core::with_causes(&client.sample(&prompts(2), &how(4), (1, 0)).unwrap_err());
    assert!(error.contains("out of memory"), "{error}");
    let paths = server.paths();
    let last = |of: &str| paths.iter().rposition(|path| path.starts_with(of));
    assert!(last("/resume") > last("/pause"));
    let sampled = client.sample(&prompts(2), &how(4), (1, 0)).unwrap();
    assert_eq!(ids(&sampled).len(), 2);
}

//! Tokens, log-probabilities, settings and seeds.

use rlaif_engine::VllmConfig;
use rlaif_lm::{
    LocalSampler, Sampler,
    generate::{Ask, Eos, FinishReason, GenerationConfig, Sampling},
};
use rlaif_testing::{Letters, alone};
use serde_json::json;

use crate::{Client, ask, config, how, move_weights, policy, prompts, repeated, start};

#[test]
fn greedy_tokens_and_log_probabilities_are_those_of_the_policy() {
    let _alone = alone();
    let server = start(policy(1));
    let mut client = Client::new(policy(1), config(&[&server]));
    let greedy = GenerationConfig { sampling: Sampling::Greedy, ..how(8) };
    let rows = repeated(&prompts(6), 2);
    let remote = client.sample(&rows, &greedy, (0, 0)).unwrap();
    let call = (rlaif_lm::Weights::of(&client.policy), &greedy);
    let draw = rlaif_lm::Draw { seed: rlaif_core::Seed::new(4), step: 0 };
    let call = rlaif_lm::SamplerCall { weights: call.0, how: call.1, draw };
    let local = rlaif_lm::sample(&mut LocalSampler::new(&Letters), &rows, call).unwrap();
    assert!(
        remote.iter().any(|row| row.finish == FinishReason::Eos)
            || remote.iter().all(|row| row.ids.len() == 8)
    );
    for (remote, local) in remote.iter().zip(&local) {
        assert_eq!(
            (&remote.ids, &remote.text, remote.finish),
            (&local.ids, &local.text, local.finish)
        );
        let pairs = remote.log_probs.iter().flatten().zip(local.log_probs.iter().flatten());
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5));
        assert_eq!(remote.log_probs.as_ref().unwrap().len(), remote.ids.len());
    }
    // Twelve rows are six requests, each of one response: a server refuses several greedy ones.
    assert_eq!(server.calls("/v1/completions").len(), 6);
}

#[test]
fn responses_to_a_prompt_are_one_request_and_depend_on_the_row_alone() {
    let _alone = alone();
    let server = start(policy(1));
    let mut client = Client::new(policy(1), config(&[&server]));
    let rows = repeated(&prompts(5), 4);
    let all = client.sample(&rows, &how(8), (0, 3)).unwrap();
    let calls = server.calls("/v1/completions");
    assert_eq!(calls.len(), 5);
    assert!(calls.iter().all(|body| body["n"] == 4));
    for group in all.chunks(4) {
        assert!(group.iter().any(|row| row.ids != group[0].ids), "the same response four times");
    }
    // In another order, without other rows, and by another server: the same.
    let other = start(policy(1));
    let mut second = Client::new(policy(1), config(&[&server, &other]));
    let fewer: Vec<_> = rows[12..16].iter().chain(&rows[4..8]).cloned().collect();
    let again = second.sample(&fewer, &how(8), (0, 3)).unwrap();
    assert_eq!(again[..4], all[12..16]);
    assert_eq!(again[4..], all[4..8]);
    // Another step, and another seed of the server.
    let later = client.sample(&rows, &how(8), (0, 4)).unwrap();
    assert_ne!(later, all);
}

#[test]
fn all_settings_arrive_and_responses_end_for_the_same_reasons() {
    let _alone = alone();
    let server = start(policy(1));
    let mut client = Client::new(policy(1), config(&[&server]));
    let full = GenerationConfig {
        min_new_tokens: 2,
        sampling: Sampling::Sample {
            temperature: 0.7,
            top_k: Some(9),
            top_p: Some(0.9),
            min_p: Some(0.1),
        },
        repetition_penalty: 1.2,
        stop_ids: vec![7],
        stop_strings: vec!["GG".to_owned()],
        ..how(5)
    };
    let rows = repeated(&prompts(2), 2);
    let cut = client.sample(&rows, &full, (0, 0)).unwrap();
    // Those of a cut distribution are not those of the policy.
    assert!(cut.iter().all(|row| row.log_probs.is_none()));
    let body = server.calls("/v1/completions").pop().unwrap();
    for (key, value) in [
        ("model", json!("tiny")),
        ("max_tokens", json!(5)),
        ("min_tokens", json!(2)),
        ("temperature", json!(0.7)),
        ("top_k", json!(9)),
        ("top_p", json!(0.9)),
        ("min_p", json!(0.1)),
        ("repetition_penalty", json!(1.2)),
        ("stop_token_ids", json!([1, 7])),
        ("stop", json!(["GG"])),
        ("ignore_eos", json!(false)),
        ("logprobs", json!(0)),
    ] {
        assert_eq!(body[key], value, "{key}");
    }

    let ignoring = GenerationConfig { eos: Eos::Ignored, ..how(12) };
    let rows = repeated(&prompts(4), 8);
    let long = client.sample(&rows, &ignoring, (0, 0)).unwrap();
    assert!(long.iter().all(|row| row.finish == FinishReason::Length && row.ids.len() == 12));
    let ended = client.sample(&rows, &how(12), (0, 0)).unwrap();
    for row in &ended {
        assert_eq!(row.finish == FinishReason::Eos, row.ids.last() == Some(&1), "{row:?}");
    }
    assert!(ended.iter().any(|row| row.finish == FinishReason::Eos));
    let id = ended.iter().find(|row| row.ids.len() > 2).unwrap().ids[1];
    let stopping = GenerationConfig { stop_ids: vec![id], ..how(12) };
    let stopped = client.sample(&rows, &stopping, (0, 0)).unwrap();
    let by_id = |row: &&rlaif_lm::Sampled| row.ids.last() == Some(&id);
    assert!(stopped.iter().filter(by_id).count() > 0);
    assert!(stopped.iter().filter(by_id).all(|row| row.finish == FinishReason::Stop));
    let letter = char::from_u32(u32::from('@') + id).unwrap().to_string();
    let by_text = GenerationConfig { stop_strings: vec![letter.clone()], ..how(12) };
    let texts = client.sample(&rows, &by_text, (0, 0)).unwrap();
    assert!(texts.iter().any(|row| row.finish == FinishReason::Stop));
    assert!(texts.iter().all(|row| !row.text.contains(&letter)));
}

#[test]
fn rows_have_limits_of_their_own_and_texts_have_tokens() {
    let _alone = alone();
    let server = start(policy(1));
    let mut client = Client::new(policy(1), config(&[&server]));
    let asks: Vec<Ask> = (0..4)
        .map(|id| Ask { id, prompt: vec![5, 6], max_new_tokens: Some(1 + id as usize % 2) })
        .collect();
    let sampled = ask(&mut client.sampler, &client.policy, &asks);
    let calls = server.calls("/v1/completions");
    assert_eq!(calls.len(), 2);
    for (row, response) in sampled.iter().enumerate() {
        assert!(response.ids.len() <= 1 + row % 2);
        assert_eq!(client.sampler.tokens_before(&[4, 5, 6], 2).unwrap(), Some(2));
    }
    assert!(client.sampler.is_remote());
}

#[test]
fn two_runs_that_share_a_folder_keep_their_versions_apart() {
    let _alone = alone();
    let shared = tempfile::tempdir().unwrap();
    let folder = Some(shared.path().to_str().unwrap().to_owned());
    let sampled = [1, 2].map(|seed| {
        let server = start(policy(seed));
        let config = VllmConfig { folder: folder.clone(), ..config(&[&server]) };
        let mut client = Client::new(policy(seed), config);
        move_weights(&client.policy, 0.05);
        client.sample(&prompts(2), &how(6), (0, 0)).unwrap();
        let calls = server.calls("/collective_rpc");
        (calls[0]["kwargs"]["weights_path"].as_str().unwrap().to_owned(), client)
    });
    let [(one, _first), (two, _second)] = &sampled;
    assert_ne!(one, two);
    for path in [one, two] {
        let path = std::path::Path::new(path);
        assert!(path.starts_with(shared.path()) && path.ends_with("version-0"), "{path:?}");
        assert!(path.join("model.safetensors").exists());
    }
}

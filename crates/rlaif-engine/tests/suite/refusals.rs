//! Servers and settings that are refused before a run begins.

use rlaif_core::Fault as _;
use rlaif_engine::{EngineError, VllmConfig};
use rlaif_lm::{LmError, generate::GenerationConfig};
use rlaif_testing::alone;

use crate::{Client, adapted, config, connect, how, policy, prompts, server::Fault, start};

fn refused(settings: VllmConfig) -> EngineError {
    let folder = tempfile::tempdir().unwrap();
    connect(&mut policy(1), folder.path(), settings).unwrap_err()
}

/// The text of an error, with that of the server's fault.
fn told(error: &LmError) -> String {
    rlaif_core::with_causes(error)
}

#[test]
fn another_tokenizer_is_refused_with_the_ids_of_both() {
    let _alone = alone();
    let server = start(policy(1));
    server.state().shift = 1;
    let error = refused(config(&[&server]));
    assert!(matches!(&error, EngineError::OtherTokenizer { expected, found, .. }
        if expected.iter().zip(found).all(|(a, b)| a + 1 == *b)));
    assert!(error.is_users() && error.to_string().contains("--tokenizer"), "{error}");
}

#[test]
fn a_model_that_is_not_served_is_refused_with_those_that_are() {
    let _alone = alone();
    let server = start(policy(1));
    let settings = VllmConfig { model: Some("llama".to_owned()), ..config(&[&server]) };
    let error = refused(settings);
    assert!(
        matches!(&error, EngineError::NoModel { served, .. } if served == &["tiny"]),
        "{error}"
    );
    assert!(error.is_users());
    let settings = VllmConfig { model: Some("tiny".to_owned()), ..config(&[&server]) };
    Client::new(policy(1), settings);
}

#[test]
fn keys_are_sent_and_never_told() {
    let _alone = alone();
    let server = start(policy(1));
    server.state().key = Some("secret-of-vllm");
    let error = refused(config(&[&server]));
    assert!(matches!(error, EngineError::Refused { status: 401, .. }), "{error}");
    assert!(error.to_string().contains("api_key_env"), "{error}");
    let error =
        refused(VllmConfig { api_key_env: Some("NOT_SET".to_owned()), ..config(&[&server]) });
    assert!(matches!(error, EngineError::Key(_)), "{error}");
    let settings = VllmConfig { api_key_env: Some("VLLM_KEY".to_owned()), ..config(&[&server]) };
    let mut client = Client::new(policy(1), settings);
    client.sample(&prompts(1), &how(2), (0, 0)).unwrap();
    server.fail("/v1/completions", 20, Fault::Status(400, "bad key secret-of-vllm"));
    let error = told(&client.sample(&prompts(1), &how(2), (0, 0)).unwrap_err());
    assert!(error.contains("bad key") && !error.contains("secret-of-vllm"), "{error}");
}

#[test]
fn a_program_that_is_not_vllm_is_refused() {
    let _alone = alone();
    let server = start(policy(1));
    server.state().lacks = vec!["/v1/models"];
    let error = refused(config(&[&server]));
    assert!(matches!(error, EngineError::Refused { status: 404, .. }), "{error}");
    server.state().lacks.clear();
    server.fail("/v1/models", 20, Fault::Garbage);
    let error = refused(config(&[&server])).to_string();
    assert!(error.contains("not the answer of vLLM"), "{error}");
    let settings = VllmConfig { urls: vec!["http://127.0.0.1:1".to_owned()], ..config(&[&server]) };
    let error = refused(settings);
    assert!(matches!(error, EngineError::NoServer { .. }) && !error.is_users(), "{error}");
}

#[test]
fn servers_without_the_calls_that_change_weights_are_told_how_to_start() {
    let _alone = alone();
    let server = start(policy(1));
    server.state().lacks = vec!["/pause", "/collective_rpc"];
    let mut client = Client::new(policy(1), config(&[&server]));
    let error = told(&client.sample(&prompts(1), &how(2), (0, 0)).unwrap_err());
    assert!(error.contains("VLLM_SERVER_DEV_MODE=1"), "{error}");
    server.state().lacks = vec!["/v1/load_lora_adapter"];
    let mut client = Client::new(adapted(1), config(&[&server]));
    let error = told(&client.sample(&prompts(1), &how(2), (0, 0)).unwrap_err());
    assert!(error.contains("VLLM_ALLOW_RUNTIME_LORA_UPDATING"), "{error}");
    server.state().lacks.clear();
    server.state().max_loras = 0;
    let error = told(&client.sample(&prompts(1), &how(2), (0, 0)).unwrap_err());
    assert!(error.contains("more adapters than"), "{error}");
}

#[test]
fn a_server_of_another_model_is_found_by_its_log_probabilities() {
    let _alone = alone();
    // An adapter is loaded on the server's base, which is another one.
    let server = start(policy(2));
    let mut client = Client::new(adapted(1), config(&[&server]));
    let error = told(&client.sample(&prompts(4), &how(6), (0, 0)).unwrap_err());
    assert!(error.contains("max_mismatch_kl") && error.contains(&server.url), "{error}");
    let settings = VllmConfig { max_mismatch_kl: 1e3, ..config(&[&server]) };
    let mut client = Client::new(adapted(1), settings);
    client.sample(&prompts(4), &how(6), (0, 0)).unwrap();
}

#[test]
fn a_context_that_is_too_short_is_refused_before_anything_is_asked() {
    let _alone = alone();
    let server = start(policy(1));
    server.state().context = 8;
    let mut client = Client::new(policy(1), config(&[&server]));
    let error = told(&client.sample(&prompts(4), &how(6), (0, 0)).unwrap_err());
    assert!(error.contains("at most 8 tokens") && error.contains("has 11"), "{error}");
    assert!(server.calls("/v1/completions").is_empty());
}

#[test]
fn settings_that_vllm_lacks_are_refused_by_name() {
    let _alone = alone();
    let server = start(policy(1));
    let mut client = Client::new(policy(1), config(&[&server]));
    let bad = GenerationConfig { bad_ids: vec![vec![4]], ..how(6) };
    let error = client.sample(&prompts(1), &bad, (0, 0)).unwrap_err();
    assert!(matches!(&error, LmError::Setting(setting) if setting.field == "bad_ids"), "{error}");
    assert!(server.calls("/v1/completions").is_empty());
}

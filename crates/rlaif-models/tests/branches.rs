//! Several responses to a prompt in one pass equal each of them in a pass of its own: values and
//! gradients, with every prompt computed once.

use std::num::NonZeroU32;

use rlaif_lm::{
    Activations, Adapters, Dropout, Forward, Padding, Policy, TokenBatch, token_log_probs,
};
use rlaif_models::{AdapterConfig, Config, LanguageModel, TaskType};
use rlaif_testing::{LLAMA, T5, drawn};
use tch::{Device, Kind, Tensor};

const MISTRAL: &str = r#"{"model_type": "mistral", "vocab_size": 40, "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "eos_token_id": 1,
    "sliding_window": 3, "initializer_range": 0.3}"#;
const QWEN3: &str = r#"{"model_type": "qwen3", "vocab_size": 40, "hidden_size": 16, "head_dim": 4,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "eos_token_id": 1,
    "initializer_range": 0.3}"#;

fn policy(json: &str) -> LanguageModel {
    let config = Config::from_value(serde_json::from_str(json).unwrap());
    drawn(4, || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap())
}

/// Prompts of different lengths; two rounds of responses, one of them empty.
fn rows() -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let prompts = vec![vec![5, 6, 7, 8, 9], vec![10], vec![11, 12, 13]];
    let responses = vec![
        vec![20, 21, 1],
        vec![22, 23, 24, 25, 26, 1],
        vec![27],
        vec![30, 31, 32, 33],
        vec![],
        vec![34, 35, 36, 1],
    ];
    (prompts, responses)
}

/// Log-probabilities of all responses and the gradient of their weighted sum in every parameter.
fn outcome(policy: &LanguageModel, shared: bool, forward: Forward<'_>) -> (Tensor, Vec<Tensor>) {
    let (prompts, responses) = rows();
    let spec = policy.spec();
    let responses = TokenBatch::responses(responses, spec).unwrap();
    let prompts = TokenBatch::collate(prompts, spec, Padding::Right).unwrap();
    let hidden = if shared {
        policy.branch_hidden(&prompts, &responses, forward).unwrap()
    } else {
        let twice = prompts.select(&[0, 1, 2, 0, 1, 2]).unwrap();
        policy.response_hidden(&twice, &responses, forward).unwrap()
    };
    let head = policy.head(forward).unwrap();
    let log_probs = token_log_probs(&head, &hidden, &responses, 1.).unwrap().log_probs;
    let weights = Tensor::arange(log_probs.numel() as i64, (Kind::Float, Device::Cpu)).sin();
    let loss = (&log_probs * weights.view_as(&log_probs)).sum(Kind::Float);
    let parameters: Vec<Tensor> =
        policy.parameters().trainable().into_iter().map(|(_, tensor)| tensor).collect();
    parameters.iter().for_each(|tensor| tensor.shallow_clone().zero_grad());
    loss.backward();
    let gradients = parameters.iter().map(|tensor| tensor.grad().copy()).collect();
    (log_probs.detach(), gradients)
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn branches_equal_separate_rows_in_values_and_gradients() {
    for json in [LLAMA, MISTRAL, QWEN3, T5] {
        let policy = policy(json);
        policy.parameters().train_where(|_| true);
        let (want, want_gradients) = outcome(&policy, false, Forward::default());
        for activations in [Activations::Keep, Activations::Recompute] {
            let forward = Forward { activations, ..Forward::default() };
            let (got, gradients) = outcome(&policy, true, forward);
            assert!(distance(&got, &want) < 1e-5, "{json}");
            for (got, want) in gradients.iter().zip(&want_gradients) {
                let scale = 1. + want.abs().max().double_value(&[]);
                assert!(distance(got, want) < 1e-5 * scale, "{json} {activations:?}");
            }
        }
    }
}

#[test]
fn adapters_take_part_and_can_be_off() {
    let mut policy = policy(LLAMA);
    let plain = outcome(&policy, false, Forward::default()).0;
    let config = AdapterConfig::new(TaskType::CausalLm, NonZeroU32::new(2).unwrap());
    policy.adapters().add("new", config).unwrap();
    tch::no_grad(|| {
        for (name, tensor) in policy.parameters().iter() {
            if name.contains("lora_B") {
                let _ = tensor.shallow_clone().normal_(0., 0.1);
            }
        }
    });
    let off = Forward { adapters: Adapters::Off, dropout: Dropout::Off, ..Forward::default() };
    let (prompts, responses) = rows();
    let spec = policy.spec();
    let prompts = TokenBatch::collate(prompts, spec, Padding::Right).unwrap();
    let responses = TokenBatch::responses(responses, spec).unwrap();
    let hidden = policy.branch_hidden(&prompts, &responses, off).unwrap();
    let head = policy.head(off).unwrap();
    let without = token_log_probs(&head, &hidden, &responses, 1.).unwrap().log_probs;
    assert!(distance(&without, &plain) < 1e-5);
    let with = outcome(&policy, true, Forward::default()).0;
    assert!(distance(&with, &outcome(&policy, false, Forward::default()).0) < 1e-5);
    assert!(distance(&with, &plain) > 1e-3);
}

#[test]
fn responses_that_are_no_whole_number_of_rounds_are_refused() {
    for json in [LLAMA, T5] {
        let policy = policy(json);
        let (prompts, responses) = rows();
        let spec = policy.spec();
        let prompts = TokenBatch::collate(prompts, spec, Padding::Right).unwrap();
        let responses = TokenBatch::responses(responses[..4].to_vec(), spec).unwrap();
        let error = policy.branch_hidden(&prompts, &responses, Forward::default()).unwrap_err();
        assert!(error.to_string().contains("expected 6 rows, found 4"), "{error}");
    }
}

//! Generation against transformers and against full passes, on every tiny language model.

mod common;

use common::{Goldens, model, real};
use rlaif_core::Seed;
use rlaif_lm::{
    Forward, LmError, Padding, Policy, TokenBatch,
    generate::{
        Eos, FinishReason, Generated, GenerationConfig, GenerationRow, Hooks, Sampling, generate,
    },
    token_log_probs,
};
use rlaif_models::{LanguageModel, LoadOptions};
use serde_json::Value;
use tch::no_grad;

const MODELS: [&str; 12] = [
    "t5-v1.0",
    "flan",
    "flan-tied",
    "llama2",
    "llama3",
    "llama31",
    "llama-head-dim",
    "llama-bias",
    "mistral",
    "qwen2",
    "qwen2-window",
    "qwen3",
];

fn load(name: &str) -> LanguageModel {
    LanguageModel::load(&model(name), LoadOptions::default()).unwrap()
}

fn rows(prompts: &[Vec<u32>]) -> Vec<GenerationRow> {
    let row = |(prompt, id): (&Vec<u32>, u64)| GenerationRow {
        id,
        prompt: prompt.clone(),
        max_new_tokens: None,
    };
    prompts.iter().zip(0..).map(row).collect()
}

fn run(
    policy: &LanguageModel,
    rows: &[GenerationRow],
    config: &GenerationConfig,
) -> Result<Vec<Generated>, LmError> {
    generate(policy, rows, config, Seed::new(5), 2, Forward::default(), Hooks::default())
}

/// The prompts of a fixture: of 1 to 27 tokens.
fn prompts(goldens: &Value) -> Vec<Vec<u32>> {
    let row = |row: &Value| serde_json::from_value(row["prompt_ids"].clone()).unwrap();
    goldens["rows"].as_array().unwrap().iter().map(row).collect()
}

fn ids(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn greedy_responses_are_those_of_transformers() {
    for name in MODELS {
        let goldens = Goldens::read(&model(name)).json;
        let policy = load(name);
        let prompts = prompts(&goldens);
        let generation = &goldens["generation"];
        for (run_name, golden) in generation["runs"].as_object().unwrap() {
            let settings = &golden["settings"];
            for batch_size in [1, 2, prompts.len()] {
                let config = GenerationConfig {
                    max_new_tokens: generation["max_new_tokens"].as_u64().unwrap() as usize,
                    min_new_tokens: settings["min_new_tokens"].as_u64().unwrap_or(0) as usize,
                    sampling: Sampling::Greedy,
                    repetition_penalty: settings["repetition_penalty"].as_f64().unwrap_or(1.),
                    bad_ids: serde_json::from_value(settings["bad_words_ids"].clone())
                        .unwrap_or_default(),
                    batch_size,
                    ..GenerationConfig::default()
                };
                let got = run(&policy, &rows(&prompts), &config).unwrap();
                let responses: Vec<_> = got.iter().map(|row| row.ids.clone()).collect();
                assert_eq!(responses, ids(&golden["responses"]), "{name} {run_name} {batch_size}");
                let reasons: Vec<FinishReason> = got.iter().map(|row| row.finish).collect();
                let want: Vec<FinishReason> =
                    serde_json::from_value(golden["finish_reasons"].clone()).unwrap();
                assert_eq!(reasons, want, "{name} {run_name} {batch_size}");
            }
        }
    }
}

/// Rows with limits of their own, of several lengths.
fn many(name: &str) -> Vec<GenerationRow> {
    let prompts = prompts(&Goldens::read(&model(name)).json);
    (0..24)
        .map(|id| GenerationRow {
            id: 1000 + id as u64,
            prompt: prompts[id % prompts.len()].clone(),
            max_new_tokens: Some(1 + (id * 7) % 13),
        })
        .collect()
}

#[test]
fn tokens_depend_on_seed_row_id_and_step_alone() {
    for name in MODELS {
        let policy = load(name);
        let rows = many(name);
        let config = |batch_size| GenerationConfig { batch_size, ..GenerationConfig::default() };
        let alone = run(&policy, &rows, &config(1)).unwrap();
        for (row, got) in rows.iter().zip(&alone) {
            let limit = row.max_new_tokens.unwrap();
            assert_eq!(got.ids.len(), got.log_probs.len());
            match got.finish {
                FinishReason::Length => assert_eq!(got.ids.len(), limit),
                FinishReason::Eos => assert!(policy.spec().is_eos(*got.ids.last().unwrap())),
                FinishReason::Stop => panic!("nothing stops"),
            }
        }
        // 7 and 24 are coprime: every row once, in another order.
        let shuffled: Vec<usize> = (0..rows.len()).map(|i| (i * 7 + 3) % rows.len()).collect();
        for batch_size in [3, 8, 100] {
            let order: Vec<_> = shuffled.iter().map(|&i| rows[i].clone()).collect();
            let got = run(&policy, &order, &config(batch_size)).unwrap();
            for (got, &i) in got.iter().zip(&shuffled) {
                assert_eq!(got.ids, alone[i].ids, "{name}, row {i}, batch size {batch_size}");
                for (a, b) in got.log_probs.iter().zip(&alone[i].log_probs) {
                    assert!((a - b).abs() < 1e-5);
                }
            }
        }
        let other = |seed, step| {
            let hooks = Hooks::default();
            let forward = Forward::default();
            generate(&policy, &rows, &config(8), Seed::new(seed), step, forward, hooks).unwrap()
        };
        assert_ne!(other(5, 3), alone);
        assert_ne!(other(6, 2), alone);
    }
}

#[test]
fn log_probs_are_those_of_a_full_pass() {
    for name in MODELS {
        let policy = load(name);
        let rows = many(name);
        for temperature in [1., 0.7] {
            let sampling = Sampling::at(temperature);
            let config = GenerationConfig {
                sampling,
                batch_size: 6,
                eos: Eos::Ignored,
                ..Default::default()
            };
            let got = run(&policy, &rows, &config).unwrap();
            let spec = policy.spec();
            let prompts = rows.iter().map(|row| row.prompt.clone()).collect();
            let prompts = TokenBatch::collate(prompts, spec, Padding::Left).unwrap();
            let responses = got.iter().map(|row| row.ids.clone()).collect();
            let responses = TokenBatch::responses(responses, spec).unwrap();
            let forward = Forward::default();
            let want = no_grad(|| {
                let hidden = policy.response_hidden(&prompts, &responses, forward).unwrap();
                let head = policy.head(forward).unwrap();
                token_log_probs(&head, &hidden, &responses, temperature).unwrap().log_probs
            });
            let want = Vec::<f32>::try_from(&real(&want, &responses)).unwrap();
            let got: Vec<f32> = got.into_iter().flat_map(|row| row.log_probs).collect();
            assert_eq!(got.len(), want.len());
            for (a, b) in got.iter().zip(&want) {
                assert!((a - b).abs() < 1e-5 * (1. + b.abs()), "{name} {temperature}: {a} {b}");
            }
        }
    }
}

//! Generation against transformers and against full passes, on every tiny language model.

mod common;

use std::{cell::RefCell, ops::ControlFlow};

use common::{CAUSAL, Goldens, SEQ2SEQ, model, real};
use rlaif_core::Seed;
use rlaif_lm::{
    Adapters, DecodeState, Dropout, Forward, LmError, Padding, Policy, TokenBatch,
    generate::{
        Ask, Eos, FinishReason, Generated, GenerationConfig, Hooks, JoiningRow, NewToken,
        OpenBatch, Sampling, generate,
    },
    policy_by, token_log_probs,
};
use rlaif_models::{LanguageModel, LoadOptions};
use rlaif_torch::{Isa, isa};
use serde_json::Value;
use tch::no_grad;

fn load(name: &str) -> LanguageModel {
    LanguageModel::load(&model(name), LoadOptions::default()).unwrap()
}

fn rows(prompts: &[Vec<u32>]) -> Vec<Ask> {
    let row =
        |(prompt, id): (&Vec<u32>, u64)| Ask { id, prompt: prompt.clone(), max_new_tokens: None };
    prompts.iter().zip(0..).map(row).collect()
}

fn run(
    policy: &LanguageModel,
    rows: &[Ask],
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
fn at_each_width_of_vectors() {
    let lower = Isa::available().iter().filter(|&&other| isa().is_ok_and(|isa| other < isa));
    let tests = ["several_responses_to_a_prompt", "log_probs_are_those_of_a_full_pass"];
    rlaif_testing::run_again("RLAIF_ISA", lower.map(|isa| isa.name()), &tests);
}

#[test]
fn greedy_responses_are_those_of_transformers() {
    for name in CAUSAL.into_iter().chain(SEQ2SEQ) {
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
fn many(name: &str) -> Vec<Ask> {
    let prompts = prompts(&Goldens::read(&model(name)).json);
    (0..24)
        .map(|id| Ask {
            id: 1000 + id as u64,
            prompt: prompts[id % prompts.len()].clone(),
            max_new_tokens: Some(1 + (id * 7) % 13),
        })
        .collect()
}

#[test]
fn tokens_depend_on_seed_row_id_and_step_alone() {
    for name in CAUSAL.into_iter().chain(SEQ2SEQ) {
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
                // Log-probabilities to the last bit.
                assert_eq!(*got, alone[i], "{name}, row {i}, batch size {batch_size}");
            }
        }
        // Looked at every few tokens only, as on a GPU; the draw is libtorch's then.
        let seldom = GenerationConfig { check_every: Some(5), ..config(8) };
        for (got, want) in run(&policy, &rows, &seldom).unwrap().iter().zip(&alone) {
            assert_eq!((&got.ids, got.finish), (&want.ids, want.finish), "{name}");
            for (a, b) in got.log_probs.iter().zip(&want.log_probs) {
                assert!((a - b).abs() < 1e-5, "{name}: {a} {b}");
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

/// Rows with different settings and seeds join at different steps, some with the same prompt, and one leaves.
#[test]
fn rows_that_join_between_steps_are_those_of_calls_of_their_own() {
    for name in [CAUSAL[0], SEQ2SEQ[0]] {
        let policy = load(name);
        let config = |row: usize| GenerationConfig {
            sampling: match row % 4 {
                0 => Sampling::Greedy,
                1 => Sampling::at(1.),
                2 => Sampling::Sample {
                    temperature: 0.7,
                    top_k: Some(9),
                    top_p: Some(0.9),
                    min_p: None,
                },
                _ => Sampling::at(0.5),
            },
            repetition_penalty: if row.is_multiple_of(5) { 1.3 } else { 1. },
            min_new_tokens: usize::from(row % 3 == 1),
            eos: if row.is_multiple_of(2) { Eos::Ends } else { Eos::Ignored },
            ..GenerationConfig::default()
        };
        let asks = many(name);
        let joining: Vec<JoiningRow> = (asks.iter().enumerate())
            .map(|(row, ask)| JoiningRow {
                number: 100 + row,
                ask: ask.clone(),
                config: config(row),
                seed: Seed::new(row as u64 / 3),
                alternatives: row % 3,
            })
            .collect();
        let spec = policy.spec();
        for row in &joining {
            OpenBatch::check(row, spec, 60).unwrap();
        }
        let mut batch = OpenBatch::new(&policy, Forward::default(), 5, 60).unwrap();
        let mut waiting = joining.clone();
        let mut got: Vec<Vec<_>> = vec![Vec::new(); joining.len()];
        let mut turn = 0;
        while !(batch.is_empty() && waiting.is_empty()) {
            // One more row at each step, as requests arrive.
            let count = batch.free().min(1 + turn % 2).min(waiting.len());
            batch.join(waiting.drain(..count).collect()).unwrap();
            for token in batch.step(None).unwrap() {
                got[token.number - 100].push(token);
            }
            if turn == 3 {
                batch.leave(101);
            }
            turn += 1;
        }
        assert!(got[1].last().unwrap().finish.is_none(), "the second row has left");
        for (row, (joined, got)) in
            joining.iter().zip(&got).enumerate().filter(|(row, _)| *row != 1)
        {
            let ask = std::slice::from_ref(&joined.ask);
            let (config, hooks) = (&joined.config, Hooks::default());
            let alone =
                generate(&policy, ask, config, joined.seed, 0, Forward::default(), hooks).unwrap();
            let ids: Vec<u32> = got.iter().map(|token| token.id).collect();
            let log_probs: Vec<f32> = got.iter().map(|token| token.log_prob).collect();
            let finish = got.last().and_then(|token| token.finish);
            assert_eq!((&ids, finish), (&alone[0].ids, Some(alone[0].finish)), "{name}, row {row}");
            assert_eq!(log_probs, alone[0].log_probs, "{name}, row {row}");
            for token in got {
                assert_eq!(token.alternatives.len(), joined.alternatives);
                assert!(token.alternatives.is_sorted_by(|a, b| a.1 >= b.1 - 1e-5));
                let own = token.alternatives.iter().find(|(id, _)| *id == token.id);
                assert!(own.is_none_or(|(_, p)| *p == token.log_prob));
                let best = token.alternatives.first();
                assert!(best.is_none_or(|(_, p)| *p > token.log_prob - 1e-5));
            }
        }
        let long = JoiningRow {
            ask: Ask { max_new_tokens: Some(60), ..asks[0].clone() },
            ..joining[0].clone()
        };
        let refused = batch.join(vec![long]);
        match spec.decoder_start_id {
            None => assert!(matches!(refused, Err(LmError::TooLong { context: 60, .. })), "{name}"),
            Some(_) => refused.unwrap(),
        }
    }
}

/// A policy that counts the prompts it reads.
struct Counting {
    policy: LanguageModel,
    read: RefCell<Vec<Vec<u32>>>,
}

impl Policy for Counting {
    policy_by! { policy: spec response_hidden head open step parameters }

    fn enter(
        &self,
        state: &mut DecodeState,
        prompts: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Vec<u32>, LmError> {
        self.read.borrow_mut().extend(prompts.rows().iter().cloned());
        self.policy.enter(state, prompts, forward)
    }
}

#[test]
fn several_responses_to_a_prompt_read_it_once() {
    for name in CAUSAL.into_iter().chain(SEQ2SEQ) {
        let policy = load(name);
        let prompts = prompts(&Goldens::read(&model(name)).json);
        // Five responses to each prompt but the last, which has one; not side by side.
        let groups = prompts.len() - 1;
        let mut rows: Vec<Ask> = (0..5 * groups)
            .map(|i| Ask {
                id: 100 + i as u64,
                prompt: prompts[i % groups].clone(),
                max_new_tokens: Some(1 + (i * 5) % 11),
            })
            .collect();
        rows.push(Ask { id: 7, prompt: prompts[groups].clone(), max_new_tokens: None });
        let config = |batch_size, check_every| GenerationConfig {
            batch_size,
            check_every,
            max_new_tokens: 9,
            ..GenerationConfig::default()
        };
        // Each prompt read for each response.
        let apart: Vec<Generated> = (rows.iter())
            .map(|row| run(&policy, std::slice::from_ref(row), &config(1, None)).unwrap().remove(0))
            .collect();
        for (batch_size, check_every) in
            [(1, None), (2, None), (3, None), (4, Some(3)), (7, None), (100, None), (100, Some(4))]
        {
            let counting = Counting { policy: load(name), read: RefCell::default() };
            let how = config(batch_size, check_every);
            let hooks = Hooks::default();
            let got = generate(&counting, &rows, &how, Seed::new(5), 2, Forward::default(), hooks);
            for (got, want) in got.unwrap().iter().zip(&apart) {
                assert_eq!((&got.ids, got.finish), (&want.ids, want.finish), "{name} {batch_size}");
                for (a, b) in got.log_probs.iter().zip(&want.log_probs) {
                    assert!((a - b).abs() < 1e-5, "{name}: {a} {b}");
                }
            }
            let mut read = counting.read.into_inner();
            let mut once: Vec<Vec<u32>> = rows.iter().map(|row| row.prompt.clone()).collect();
            once.sort();
            once.dedup();
            read.sort();
            assert_eq!(read, once, "{name} {batch_size} {check_every:?}");
        }
    }
}

/// f16 has no kernels of its own, and neither has a GPU: libtorch's operations decode.
#[test]
fn without_kernels_for_rows_the_result_is_the_same() {
    for name in CAUSAL.into_iter().chain(SEQ2SEQ) {
        let policy = load(name);
        let rows = many(name);
        let config = GenerationConfig { batch_size: 5, ..GenerationConfig::default() };
        let want = run(&policy, &rows, &config).unwrap();
        // Dropout of probability 0 switches the kernels off, and nothing else.
        let config_json = std::fs::read_to_string(model(name).join("config.json")).unwrap();
        let mut fields: Value = serde_json::from_str(&config_json).unwrap();
        for field in ["dropout_rate", "attention_dropout"] {
            if fields.get(field).is_some() {
                fields[field] = 0.0.into();
            }
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), fields.to_string()).unwrap();
        let weights = "model.safetensors";
        std::fs::copy(model(name).join(weights), folder.path().join(weights)).unwrap();
        let policy = LanguageModel::load(folder.path(), LoadOptions::default()).unwrap();
        let forward = Forward { dropout: Dropout::On, ..Forward::default() };
        let hooks = Hooks::default();
        let got = generate(&policy, &rows, &config, Seed::new(5), 2, forward, hooks).unwrap();
        for (got, want) in got.iter().zip(&want) {
            assert_eq!((&got.ids, got.finish), (&want.ids, want.finish), "{name}");
            for (a, b) in got.log_probs.iter().zip(&want.log_probs) {
                assert!((a - b).abs() < 2e-5 * (1. + b.abs()), "{name}: {a} {b}");
            }
        }
    }
}

#[test]
fn adapters_act_in_generation() {
    for (name, adapter) in
        [("llama3", "llama3-b"), ("flan", "flan"), ("bart", "bart"), ("t5gemma", "t5gemma")]
    {
        let mut policy = load(name);
        let folder = common::fixtures().join("adapters").join(adapter);
        policy.adapters().load("default", &folder).unwrap();
        let rows = many(name);
        let config = GenerationConfig { batch_size: 7, ..GenerationConfig::default() };
        let on = |forward: Forward<'_>| {
            let hooks = Hooks::default();
            generate(&policy, &rows, &config, Seed::new(5), 2, forward, hooks).unwrap()
        };
        let with = on(Forward::default());
        let off = Forward { adapters: Adapters::Off, ..Forward::default() };
        assert_eq!(on(off), run(&load(name), &rows, &config).unwrap(), "{name}");
        assert_ne!(on(off), with);
        let spec = policy.spec();
        let prompts = rows.iter().map(|row| row.prompt.clone()).collect();
        let prompts = TokenBatch::collate(prompts, spec, Padding::Right).unwrap();
        let responses = with.iter().map(|row| row.ids.clone()).collect();
        let responses = TokenBatch::responses(responses, spec).unwrap();
        let want = no_grad(|| {
            let forward = Forward::default();
            let hidden = policy.response_hidden(&prompts, &responses, forward).unwrap();
            let head = policy.head(forward).unwrap();
            token_log_probs(&head, &hidden, &responses, 1.).unwrap().log_probs
        });
        let want = Vec::<f32>::try_from(&real(&want, &responses)).unwrap();
        for (a, b) in with.iter().flat_map(|row| &row.log_probs).zip(&want) {
            assert!((a - b).abs() < 2e-5 * (1. + b.abs()), "{name}: {a} {b}");
        }
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let policy = load("llama3");
    let row = |prompt: Vec<u32>, limit| Ask { id: 0, prompt, max_new_tokens: limit };
    let config = GenerationConfig { max_new_tokens: 4, ..GenerationConfig::default() };
    let refused = |rows: &[Ask], config: &GenerationConfig| {
        run(&policy, rows, config).unwrap_err().to_string()
    };
    let good = row(vec![5], None);
    for (bad, want) in [
        (row(vec![], None), "row 1 of the batch has no token"),
        (row(vec![5, 96], None), "row 1, position 1: token id 96"),
        (row(vec![5; 64], None), "row 1 has 68 tokens, but the model's context is 64"),
        (row(vec![5; 61], None), "row 1 has 65 tokens"),
        (row(vec![5], Some(0)), "max_new_tokens"),
        (row(vec![5], Some(usize::MAX)), "row 1 has"),
    ] {
        let error = refused(&[good.clone(), bad], &config);
        assert!(error.contains(want), "{error}");
    }
    // As long as it just fits.
    assert_eq!(run(&policy, &[row(vec![5; 60], None)], &config).unwrap().len(), 1);
    assert!(run(&policy, &[], &config).unwrap().is_empty());
    let stops = GenerationConfig { stop_strings: vec!["x".to_owned()], ..config.clone() };
    assert!(refused(std::slice::from_ref(&good), &stops).contains("needs a tokenizer"));
    let everything = (0..96).map(|id| vec![id]).collect();
    let nothing = GenerationConfig { bad_ids: everything, ..config.clone() };
    assert!(
        refused(std::slice::from_ref(&good), &nothing).contains("every token of the vocabulary")
    );
    let stop = |_: NewToken| ControlFlow::Break(());
    let hooks = Hooks { on_token: Some(&mut { stop }), ..Hooks::default() };
    let rows = [good];
    let error = generate(&policy, &rows, &config, Seed::new(1), 0, Forward::default(), hooks);
    assert!(matches!(error, Err(LmError::Interrupted)));
}

#[test]
fn a_batch_larger_than_the_memory_is_refused_with_its_bytes() {
    let policy = load("flan");
    let row = |id| Ask { id, prompt: vec![5], max_new_tokens: Some(1 << 40) };
    let rows: Vec<_> = (0..4).map(row).collect();
    let error = run(&policy, &rows, &GenerationConfig::default()).unwrap_err();
    assert!(
        matches!(error, LmError::BatchTooLarge { rows: 4, bytes, .. } if bytes > 1 << 50),
        "{error}"
    );
}

#[test]
fn logits_that_are_not_finite_end_the_call_with_row_and_token() {
    for check_every in [None, Some(3)] {
        let policy = load("llama3");
        let weight = policy.parameters().get("model.norm.weight").unwrap();
        no_grad(|| weight.shallow_clone().fill_(f64::NAN)).size();
        let rows = many("llama3");
        let config = GenerationConfig { check_every, ..GenerationConfig::default() };
        let error = run(&policy, &rows, &config).unwrap_err();
        assert!(matches!(error, LmError::NotFinite { token: 0, .. }), "{error}");
    }
}

#[test]
fn log_probs_are_those_of_a_full_pass() {
    for name in CAUSAL.into_iter().chain(SEQ2SEQ) {
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
            // Relative to the log-probability: f32 has no more digits.
            let distance = |(a, b): (&f32, &f32)| (a - b).abs() / (1. + b.abs());
            let largest = got.iter().zip(&want).map(distance).fold(0., f32::max);
            println!("{name} {temperature}: {largest:.1e}");
            assert!(largest < 1e-5, "{name} {temperature}: {largest}");
        }
    }
}

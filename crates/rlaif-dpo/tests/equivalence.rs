//! Whole runs of 50 steps that must be one run: batches in parts, padding, prompts computed once or
//! twice, activations computed again, a reference from the disk, adapters switched off or merged.

mod common;

use std::num::NonZeroU32;

use rlaif_core::Seed;
use rlaif_dpo::{
    DpoConfig, DpoTrainer, Objective, PairLoss, PromptForward, Reference, RewardShift, TokenPair,
};
use rlaif_lm::Activations;
use rlaif_models::{AdapterConfig, LanguageModel, TaskType};
use rlaif_testing::alone;
use rlaif_train::OptimizerConfig;

use common::model;

const STEPS: usize = 50;
const BATCH: usize = 8;
const LLAMA: &str = r#"{"model_type": "llama", "vocab_size": 61, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": 1,
    "initializer_range": 0.2}"#;
const T5: &str = r#"{"model_type": "t5", "vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 48,
    "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "initializer_factor": 0.5}"#;

fn adapted(json: &str) -> LanguageModel {
    let task = if json == T5 { TaskType::Seq2SeqLm } else { TaskType::CausalLm };
    let mut model = model(json);
    let config = AdapterConfig::new(task, NonZeroU32::new(4).unwrap());
    model.adapters().add("dpo", config).unwrap();
    model
}

/// 64 pairs: prompts of 1 to 17 tokens, responses of 1 to 19.
fn rows() -> Vec<TokenPair> {
    let draw = |i: u64, what: &str, low: u64, span: u64| -> Vec<u32> {
        let length = low + Seed::new(i).derive(what, 0).get() % span;
        (1..=length).map(|t| 2 + (Seed::new(i).derive(what, t).get() % 59) as u32).collect()
    };
    let row = |i: u64| TokenPair {
        id: i.to_string(),
        prompt: draw(i, "prompt", 1, 17),
        chosen: draw(i, "chosen", 1, 19),
        rejected: draw(i, "rejected", 1, 19),
        margin: None,
    };
    (0..64).map(row).collect()
}

fn config(loss: PairLoss) -> DpoConfig {
    DpoConfig {
        objective: Objective::Pairs(loss.into()),
        optimizer: OptimizerConfig { lr: 1e-3, weight_decay: 0.01, ..OptimizerConfig::default() },
        ..DpoConfig::default()
    }
}

fn sigmoid() -> DpoConfig {
    config(PairLoss::Sigmoid { beta: 0.1, label_smoothing: 0. })
}

/// The losses of the run, with the reference's sums given or computed in every step.
fn trajectory(trainer: &mut DpoTrainer<LanguageModel>, given: Option<&[[f32; 2]]>) -> Vec<f64> {
    let rows = rows();
    (0..STEPS)
        .map(|step| {
            let places: Vec<usize> = (0..BATCH).map(|i| (step * BATCH + i * 3) % 64).collect();
            let batch: Vec<&TokenPair> = places.iter().map(|&place| &rows[place]).collect();
            let given: Option<Vec<[f32; 2]>> =
                given.map(|given| places.iter().map(|&place| given[place]).collect());
            trainer.update_pairs(&batch, given.as_deref()).unwrap().loss
        })
        .collect()
}

fn live(json: &str, config: DpoConfig) -> Vec<f64> {
    let reference = Reference::frozen(model(json));
    let mut trainer = DpoTrainer::new(model(json), reference, config, STEPS as u64).unwrap();
    trajectory(&mut trainer, None)
}

#[track_caller]
fn same(what: &str, one: &[f64], other: &[f64]) {
    let furthest = one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
    assert!(furthest <= 1e-5, "{what}: {furthest:e} apart");
    assert!(one.last() < one.first(), "{what}: nothing was learnt");
}

#[test]
fn a_run_is_the_same_however_its_batches_are_computed() {
    let _alone = alone();
    for (family, json) in [("llama", LLAMA), ("t5", T5)] {
        let whole = live(json, sigmoid());
        assert!((whole[0] - 2f64.ln()).abs() < 1e-6, "{family}: {}", whole[0]);
        let variants = [
            ("4 x 2", DpoConfig { microbatch_size: 2, ..sigmoid() }),
            // Without any padding, on T5; the Llama family has none in whole batches either.
            ("8 x 1", DpoConfig { microbatch_size: 1, ..sigmoid() }),
            ("recomputed", DpoConfig { activations: Activations::Recompute, ..sigmoid() }),
            // Padded, on either.
            ("prompts twice", DpoConfig { prompt_forward: PromptForward::Twice, ..sigmoid() }),
            (
                "prompts twice, 8 x 1",
                DpoConfig { prompt_forward: PromptForward::Twice, microbatch_size: 1, ..sigmoid() },
            ),
        ];
        for (variant, config) in variants {
            same(&format!("{family}, {variant}"), &whole, &live(json, config));
        }
    }
}

#[test]
fn losses_that_see_the_whole_batch_see_it_in_parts_too() {
    let _alone = alone();
    for (name, loss) in [
        ("aot", PairLoss::Aot { beta: 0.1, label_smoothing: 0. }),
        ("bco", PairLoss::BcoPair { beta: 0.1, shift: RewardShift::RunningMean }),
        ("orpo", PairLoss::Orpo { lambda: 0.1 }),
    ] {
        let whole = live(LLAMA, config(loss));
        let parts = DpoConfig { microbatch_size: 3, ..config(loss) };
        same(name, &whole, &live(LLAMA, parts));
    }
}

#[test]
fn a_reference_from_the_disk_is_the_live_one() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    for (family, json) in [("llama", LLAMA), ("t5", T5)] {
        let start = || DpoTrainer::new(model(json), Reference::Given, sigmoid(), STEPS as u64);
        // Written by one trainer, read by another.
        start().unwrap().reference_of_pairs(&rows(), Some(folder.path())).unwrap();
        let mut trainer = start().unwrap();
        let sums = trainer.reference_of_pairs(&rows(), Some(folder.path())).unwrap();
        let cached = trajectory(&mut trainer, Some(sums.rows()));
        assert!((cached[0] - 2f64.ln()).abs() < 1e-6, "{family}: {}", cached[0]);
        same(family, &live(json, sigmoid()), &cached);
    }
}

#[test]
fn an_adapter_switched_off_is_the_reference_and_merged_it_is_the_policy() {
    let _alone = alone();
    for (family, json) in [("llama", LLAMA), ("t5", T5)] {
        let mut config = sigmoid();
        config.optimizer.lr = 5e-3;
        let new = |reference| {
            DpoTrainer::new(adapted(json), reference, config.clone(), STEPS as u64).unwrap()
        };
        let mut off = new(Reference::AdaptersOff);
        let mut apart = new(Reference::frozen(model(json)));
        let losses = trajectory(&mut off, None);
        same(family, &losses, &trajectory(&mut apart, None));

        let held_out = &rows()[..16];
        let evaluate = |policy: LanguageModel| {
            let reference = Reference::frozen(model(json));
            let trainer = DpoTrainer::new(policy, reference, config.clone(), 1).unwrap();
            let loss = trainer.evaluate(held_out, None).unwrap().loss;
            (trainer.into_policy(), loss)
        };
        let (mut policy, with_adapter) = evaluate(off.into_policy());
        policy.adapters().merge("dpo").unwrap();
        let (_, merged) = evaluate(policy);
        assert!((with_adapter - merged).abs() < 1e-5, "{family}: {with_adapter} and {merged}");
        assert!((merged - 2f64.ln()).abs() > 1e-3, "{family}: nothing was learnt");
    }
}

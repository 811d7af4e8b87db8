//! Settings that must not change the result: division of a batch, padding, packing, recomputation,
//! merging of an adapter. And the numbers equal those of transformers with torch's AdamW.

use std::{collections::BTreeMap, fs, path::Path};

use rlaif_checkpoint::{AdapterConfig, TaskType};
use rlaif_lm::{Activations, Policy};
use rlaif_models::{Config, LanguageModel, LoadOptions};
use rlaif_testing::{alone, drawn};
use rlaif_train::{Batching, LearnConfig, OptimizerConfig, SftRow, SftTrainer};
use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

const STEPS: usize = 50;

fn llama() -> LanguageModel {
    random(json!({
        "model_type": "llama", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "initializer_range": 0.2, "eos_token_id": 1,
    }))
}

fn t5() -> LanguageModel {
    random(json!({
        "model_type": "t5", "vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 48,
        "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": false, "decoder_start_token_id": 0, "pad_token_id": 0,
        "eos_token_id": 1, "initializer_factor": 0.5,
    }))
}

fn random(config: Value) -> LanguageModel {
    let config = Config::from_value(config);
    drawn(3, || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap())
}

/// 64 rows of 3 to 40 tokens; in every third, part of the response is not learned.
fn rows() -> Vec<SftRow> {
    let draw = |high: i64, n: i64| -> Vec<u32> {
        let ids = Tensor::randint_low(5, high, [n], (Kind::Int64, Device::Cpu));
        Vec::<i64>::try_from(ids).unwrap().into_iter().map(|id| id as u32).collect()
    };
    let row = |i: i64| {
        let mut row = SftRow::new(draw(61, 1 + i * 7 % 23), draw(61, 2 + i * 5 % 17));
        if i % 3 == 0 {
            row.learned = Some((0..row.response.len()).map(|j| j % 4 != 1).collect());
        }
        row
    };
    drawn(4, || (0..64).map(row).collect())
}

fn config() -> LearnConfig {
    let optimizer = OptimizerConfig { lr: 1e-3, weight_decay: 0.01, ..OptimizerConfig::default() };
    LearnConfig { batching: Batching::Padded, optimizer, ..LearnConfig::default() }
}

fn trajectory(policy: &LanguageModel, config: &LearnConfig) -> Vec<f64> {
    let rows = rows();
    let mut trainer = SftTrainer::new(policy, config, STEPS as u64).unwrap();
    (0..STEPS)
        .map(|step| {
            let batch: Vec<&SftRow> = (0..8).map(|i| &rows[(step * 8 + i * 3) % 64]).collect();
            trainer.step(&batch).unwrap().loss
        })
        .collect()
}

#[track_caller]
fn same(what: &str, one: &[f64], other: &[f64], within: f64) {
    let furthest = one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
    assert!(furthest <= within, "{what}: {furthest:e} apart");
    assert!(one.last() < one.first(), "{what}: nothing was learned");
}

#[test]
fn a_batch_is_the_same_however_it_is_divided() {
    let _alone = alone();
    for (name, policy) in [("llama", llama as fn() -> LanguageModel), ("t5", t5)] {
        let whole = trajectory(&policy(), &config());
        let variants = [
            ("4 x 2", LearnConfig { microbatch_size: 2, ..config() }),
            ("8 x 1", LearnConfig { microbatch_size: 1, ..config() }),
            ("by length", LearnConfig { batching: Batching::Length, ..config() }),
            (
                "by length, 3",
                LearnConfig { batching: Batching::Length, microbatch_size: 3, ..config() },
            ),
            ("recomputed", LearnConfig { activations: Activations::Recompute, ..config() }),
        ];
        for (variant, config) in variants {
            let got = trajectory(&policy(), &config);
            same(&format!("{name}, {variant}"), &whole, &got, 1e-5);
        }
    }
}

/// The loss of routers has its coefficient, and is the same for rows in one pass, packed or not.
#[test]
fn the_loss_of_routers_spreads_tokens() {
    let _alone = alone();
    let moe = || {
        random(json!({
            "model_type": "mixtral", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "num_local_experts": 4, "num_experts_per_tok": 1, "max_position_embeddings": 128,
            "initializer_range": 0.2, "eos_token_id": 1,
        }))
    };
    let rows = rows();
    let rows: Vec<&SftRow> = rows.iter().take(16).collect();
    let run = |coefficient, batching| {
        let policy = moe();
        let optimizer = OptimizerConfig { lr: 1e-2, ..OptimizerConfig::default() };
        let own =
            LearnConfig { router_aux_loss_coef: coefficient, batching, optimizer, ..config() };
        let mut trainer = SftTrainer::new(&policy, &own, 20).unwrap();
        let stats: Vec<_> = (0..20).map(|_| trainer.step(&rows).unwrap()).collect();
        let losses: Vec<f64> = stats.iter().map(|stats| stats.loss).collect();
        (losses, stats.iter().map(|stats| stats.router_aux_loss).collect::<Vec<_>>())
    };
    let (plain, none) = run(0., Batching::Padded);
    assert_eq!(none, [None; 20]);
    let (losses, of_routers) = run(0.5, Batching::Padded);
    assert!((losses[0] - plain[0]).abs() < 1e-6, "{losses:?} {plain:?}");
    let [first, last] = [of_routers[0].unwrap(), of_routers[19].unwrap()];
    // 1 is the loss of tokens that are evenly spread.
    assert!(first > 1.05 && last < first - 0.02, "{first} {last}");
    let (packed, of_packed) = run(0.5, Batching::Packed);
    // After the first steps, rounding decides which expert a token goes to.
    assert!((packed[0] - losses[0]).abs() < 1e-5, "{packed:?} {losses:?}");
    same("packed", &packed[..2], &losses[..2], 1e-3);
    let of_first = [of_packed[0].unwrap(), first];
    assert!((of_first[0] - of_first[1]).abs() < 1e-5, "{of_first:?}");
    let policy = llama();
    let own = LearnConfig { router_aux_loss_coef: 0.1, ..config() };
    let error = SftTrainer::new(&policy, &own, 1).unwrap().step(&rows).unwrap_err();
    assert!(error.to_string().contains("router_aux_loss_coef"), "{error}");
}

#[test]
fn packed_rows_are_the_same_as_padded_ones() {
    let _alone = alone();
    let whole = trajectory(&llama(), &config());
    for (variant, config) in [
        ("packed", LearnConfig { batching: Batching::Packed, ..config() }),
        ("packed, 4", LearnConfig { batching: Batching::Packed, microbatch_size: 4, ..config() }),
        (
            "packed and recomputed",
            LearnConfig {
                batching: Batching::Packed,
                activations: Activations::Recompute,
                ..config()
            },
        ),
    ] {
        same(variant, &whole, &trajectory(&llama(), &config), 1e-5);
    }
    let packed = LearnConfig { batching: Batching::Packed, ..config() };
    let error = SftTrainer::new(&t5(), &packed, 1).unwrap_err().to_string();
    assert!(error.contains("encoder-decoder"), "{error}");
}

#[test]
fn a_packed_row_with_a_sliding_window_is_the_same() {
    let _alone = alone();
    let windowed = || {
        random(json!({
            "model_type": "mistral", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "initializer_range": 0.2, "sliding_window": 5,
        }))
    };
    let packed = LearnConfig { batching: Batching::Packed, ..config() };
    same(
        "packed with a window",
        &trajectory(&windowed(), &config()),
        &trajectory(&windowed(), &packed),
        1e-5,
    );
}

#[test]
fn a_merged_adapter_gives_the_losses_of_one_that_is_not() {
    let _alone = alone();
    for (name, make, task) in [
        ("llama", llama as fn() -> LanguageModel, TaskType::CausalLm),
        ("t5", t5, TaskType::Seq2SeqLm),
    ] {
        let mut policy = make();
        let mut merged = make();
        for model in [&mut policy, &mut merged] {
            let adapter = AdapterConfig::new(task, 4.try_into().unwrap());
            drawn(9, || model.adapters().add("default", adapter).unwrap());
        }
        let rows = rows();
        let mut config = config();
        config.optimizer.lr = 5e-3;
        let mut trainer = SftTrainer::new(&policy, &config, STEPS as u64).unwrap();
        let trained = policy.parameters().trainable();
        assert!(trained.iter().all(|(name, _)| name.contains(".lora_")), "{name}");
        let (mut apart, mut together) = (Vec::new(), Vec::new());
        for step in 0..STEPS {
            let batch: Vec<&SftRow> = (0..8).map(|i| &rows[(step * 8 + i * 3) % 64]).collect();
            trainer.step(&batch).unwrap();
            apart.push(trainer.evaluate(&rows[..16]).unwrap().loss);
            for (name, from) in &trained {
                let mut to = merged.parameters().get(name).unwrap().shallow_clone();
                tch::no_grad(|| to.copy_(from));
            }
            merged.adapters().merge("default").unwrap();
            let reader = SftTrainer::new(&merged, &config, 1).unwrap();
            together.push(reader.evaluate(&rows[..16]).unwrap().loss);
            merged.adapters().unmerge().unwrap();
        }
        same(name, &apart, &together, 1e-5);
    }
}

#[test]
fn bf16_weights_with_f32_masters_learn_what_f32_learns() {
    let _alone = alone();
    let exact = trajectory(&llama(), &config());
    let json = llama().config().clone();
    let low = drawn(3, || LanguageModel::random(json, Kind::BFloat16, Device::Cpu).unwrap());
    let got = trajectory(&low, &config());
    // bf16 has 8 bits: each logit is off by up to 0.4 %.
    same("bf16", &exact, &got, 0.05);
}

#[derive(Deserialize)]
struct Golden {
    optimizer: OptimizerConfig,
    batches: Vec<Vec<GoldenRow>>,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
}

#[derive(Deserialize)]
struct GoldenRow {
    prompt: Vec<u32>,
    response: Vec<u32>,
}

// `fixtures/sft/export_goldens.py`: 50 steps of transformers and torch.optim.AdamW.
#[test]
fn fifty_steps_are_those_of_transformers() {
    let _alone = alone();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    for name in ["llama3", "flan"] {
        let text = fs::read(fixtures.join(format!("sft/{name}.json"))).unwrap();
        let golden: Golden = serde_json::from_slice(&text).unwrap();
        let folder = fixtures.join("models").join(name);
        let policy = LanguageModel::load(&folder, LoadOptions::default()).unwrap();
        let config = LearnConfig { optimizer: golden.optimizer.clone(), ..LearnConfig::default() };
        let mut trainer = SftTrainer::new(&policy, &config, 50).unwrap();
        for (step, batch) in golden.batches.iter().enumerate() {
            let rows: Vec<SftRow> = batch
                .iter()
                .map(|row| SftRow::new(row.prompt.clone(), row.response.clone()))
                .collect();
            let stats = trainer.step(&rows.iter().collect::<Vec<_>>()).unwrap();
            let off = (stats.loss - golden.losses[step]).abs();
            assert!(off <= 1e-4, "{name}, step {step}: {off:e}");
            let off = stats.optimizer.grad_norm / golden.grad_norms[step] - 1.;
            assert!(off.abs() <= 1e-3, "{name}, step {step}: norm off by {off:e}");
        }
        let want = Tensor::read_safetensors(fixtures.join(format!("sft/{name}.safetensors")));
        let want: BTreeMap<String, Tensor> = want.unwrap().into_iter().collect();
        let rates = (0..50).map(|s| {
            let OptimizerConfig { lr, schedule, warmup_steps, .. } = golden.optimizer;
            lr * schedule.factor(s, warmup_steps, 50)
        });
        let sum_of_rates: f64 = rates.sum();
        let (mut all, mut off, mut furthest) = (0., 0., 0f64);
        for (key, got) in policy.parameters().iter() {
            let difference = (got - &want[key]).abs();
            all += difference.numel() as f64;
            off += difference.gt(1e-4).sum(Kind::Double).double_value(&[]);
            furthest = furthest.max(difference.max().double_value(&[]));
        }
        assert!(off / all <= 1e-3, "{name}: {off} of {all} weights are off by more than 1e-4");
        assert!(furthest <= sum_of_rates, "{name}: a weight is off by {furthest:e}");
    }
}

//! Whole runs against TRL's trainers: 50 steps from one checkpoint on the same batches.

use std::path::{Path, PathBuf};

use rlaif_core::Desirability;
use rlaif_dpo::{
    DpoConfig, DpoStats, DpoTrainer, Lengths, Objective, PairLoss, Reference, ResponseRow,
    TokenPair, UnpairedLoss,
};
use rlaif_lm::Policy;
use rlaif_models::{LanguageModel, LoadOptions};
use rlaif_train::OptimizerConfig;
use serde_json::Value;
use tch::{Kind, Tensor};

const PAIRS: usize = 4;
const BETA: f64 = 0.1;

fn runs(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/runs").join(family)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn model(family: &str) -> LanguageModel {
    let options = LoadOptions { kind: Some(Kind::Float), ..LoadOptions::default() };
    LanguageModel::load(&runs(family).join("model"), options).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn pairs(family: &str, file: &str) -> Vec<TokenPair> {
    let rows = json(&runs(family).join(file));
    let row = |row: &Value| TokenPair {
        id: String::new(),
        prompt: ids(&row["prompt"]),
        chosen: ids(&row["chosen"]),
        rejected: ids(&row["rejected"]),
        margin: None,
    };
    rows.as_array().unwrap().iter().map(row).collect()
}

fn trainer(family: &str, objective: Objective) -> DpoTrainer<LanguageModel> {
    let config = DpoConfig {
        objective,
        optimizer: OptimizerConfig { lr: 1e-3, ..OptimizerConfig::default() },
        ..DpoConfig::default()
    };
    DpoTrainer::new(model(family), Reference::frozen(model(family)), config, 50).unwrap()
}

/// Compares a step with TRL's under each of `names`.
#[track_caller]
fn same(what: &str, step: usize, got: &DpoStats, want: &Value, names: &[&str]) {
    let got = got.metrics();
    for name in names {
        let Some(want) = want.get(*name).and_then(Value::as_f64) else { continue };
        let got = got.get(name).unwrap_or_else(|| panic!("{what}: no `{name}`"));
        // In the first step policy and reference are the same, and an accuracy is rounding.
        if step == 1 && *name == "rewards/accuracies" {
            continue;
        }
        let off = (got - want).abs();
        assert!(off < 1e-4 * (1. + want.abs()), "{what}, step {step}, {name}: {got} and {want}");
    }
}

/// At least 99.9 % of the final weights equal TRL's.
#[track_caller]
fn same_weights(what: &str, policy: &LanguageModel, file: &Path) {
    let want = Tensor::read_safetensors(file).unwrap();
    let (mut off, mut all) = (0, 0);
    for (name, want) in want {
        let got = policy.parameters().get(&name).unwrap_or_else(|| panic!("{what}: no {name}"));
        let far = (got - &want).abs().gt(1e-4).sum(Kind::Int64).int64_value(&[]);
        off += far;
        all += want.numel() as i64;
    }
    assert!(all > 4_000 && off * 1_000 <= all, "{what}: {off} of {all} weights differ");
}

const ALL: [&str; 11] = [
    "loss",
    "grad_norm",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
    "logits/chosen",
    "logits/rejected",
    "entropy",
];

/// Runs a loss of pairs beside TRL's run `name`; `names` are the metrics that mean the same.
fn beside(family: &str, name: &str, loss: PairLoss, names: &[&str]) -> Vec<DpoStats> {
    beside_on("pairs.json", family, name, loss, names)
}

fn beside_on(
    file: &str,
    family: &str,
    name: &str,
    loss: PairLoss,
    names: &[&str],
) -> Vec<DpoStats> {
    let want = json(&runs(family).join(format!("{name}.json")));
    let rows = pairs(family, file);
    let mut trainer = trainer(family, Objective::Pairs(loss.into()));
    let mut all = Vec::new();
    for (at, (batch, want)) in rows.chunks(PAIRS).zip(want["steps"].as_array().unwrap()).enumerate()
    {
        let batch: Vec<&TokenPair> = batch.iter().collect();
        let stats = trainer.update_pairs(&batch, None).unwrap();
        same(name, at + 1, &stats, want, names);
        all.push(stats);
    }
    assert_eq!(all.len(), 50);
    same_weights(name, trainer.policy(), &runs(family).join(format!("{name}.safetensors")));
    all
}

#[test]
fn sigmoid_on_llama_is_that_of_trl_1() {
    let loss = PairLoss::Sigmoid { beta: BETA, label_smoothing: 0. };
    let steps = beside("llama", "dpo-sigmoid", loss, &ALL);
    assert!((steps[0].loss - 2f64.ln()).abs() < 1e-6);
    assert!(steps.iter().any(|step| step.margin.abs() > 0.01), "something was learnt");
}

#[test]
fn ipo_on_llama_is_that_of_trl_1() {
    let loss = PairLoss::Ipo { beta: BETA, lengths: Lengths::Averaged };
    beside("llama", "dpo-ipo", loss, &ALL);
}

#[test]
fn hinge_on_llama_is_that_of_trl_1() {
    beside("llama", "dpo-hinge", PairLoss::Hinge { beta: BETA }, &ALL);
}

#[test]
fn robust_on_llama_is_that_of_trl_1() {
    let loss = PairLoss::Robust { beta: BETA, label_smoothing: 0.1 };
    let steps = beside("llama", "dpo-robust", loss, &ALL);
    assert!((steps[0].loss - 2f64.ln()).abs() < 1e-6);
}

// TRL 0.11's mean logits include padding.
#[test]
fn sigmoid_on_t5_is_that_of_trl_0_11() {
    let loss = PairLoss::Sigmoid { beta: BETA, label_smoothing: 0. };
    let steps = beside("t5-untied", "dpo-sigmoid", loss, &ALL[..8]);
    assert!((steps[0].loss - 2f64.ln()).abs() < 1e-6);
}

// TRL 0.11 averages the log-probabilities that it reports as well.
#[test]
fn ipo_on_t5_is_that_of_trl_0_11() {
    let loss = PairLoss::Ipo { beta: BETA, lengths: Lengths::Averaged };
    beside("t5-untied", "dpo-ipo", loss, &ALL[..2]);
}

// TRL's ORPO reports mean log-probabilities, and mean logits with padding.
#[test]
fn orpo_on_t5_is_that_of_trl_1() {
    let mut names = ALL[..6].to_vec();
    names.push("nll_loss");
    beside("t5", "orpo", PairLoss::Orpo { lambda: BETA }, &names);
}

// Of a decoder-only model TRL's ORPO also learns the prompt, all but its first token, and ours the
// response alone. With prompts of one token there is no difference.
#[test]
fn orpo_on_llama_is_that_of_trl_1_where_it_learns_no_prompt() {
    let mut names = ALL[..6].to_vec();
    names.push("nll_loss");
    beside_on("openings.json", "llama", "orpo", PairLoss::Orpo { lambda: BETA }, &names);
}

#[test]
fn kto_on_llama_is_that_of_trl_1() {
    let want = json(&runs("llama").join("kto.json"));
    let rows = json(&runs("llama").join("singles.json"));
    let rows: Vec<ResponseRow> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| ResponseRow {
            id: String::new(),
            prompt: ids(&row["prompt"]),
            response: ids(&row["response"]),
            desirability: if row["desirable"].as_bool().unwrap() {
                Desirability::Desirable
            } else {
                Desirability::Undesirable
            },
            mismatched: ids(&row["mismatched"]),
        })
        .collect();
    let loss = UnpairedLoss::Kto { beta: BETA, desirable_weight: 1., undesirable_weight: 1.5 };
    let mut trainer = trainer("llama", Objective::Unpaired(loss));
    let names = [
        "loss",
        "grad_norm",
        "kl",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
        "entropy",
    ];
    let mut moved = false;
    for (at, (batch, want)) in rows.chunks(PAIRS).zip(want["steps"].as_array().unwrap()).enumerate()
    {
        let batch: Vec<&ResponseRow> = batch.iter().collect();
        let stats = trainer.update_responses(&batch, None).unwrap();
        same("kto", at + 1, &stats, want, &names);
        moved |= stats.baseline > Some(0.1);
    }
    assert!(moved, "the baseline took part");
    same_weights("kto", trainer.policy(), &runs("llama").join("kto.safetensors"));
}

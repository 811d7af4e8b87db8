//! Ten steps of PPO equal TRL 0.11.4's, number by number. What TRL gave is in `fixtures/trl`, with
//! the script that exported it.

use std::{collections::BTreeMap, path::PathBuf};

use crate::common::{host, value_head};
use rlaif_lm::Policy;
use rlaif_models::{LanguageModel, LoadOptions};
use rlaif_ppo::{
    Compatibility, KlConfig, PpoConfig, PpoTrainer, Reference, Rollout, ScoreConfig, ScoreScaling,
    Whitening,
    train::{KlControl, KlEstimator, OptimizerConfig},
};
use serde::Deserialize;
use serde_json::Value;
use tch::Tensor;

#[derive(Deserialize)]
struct Inputs {
    queries: Vec<Vec<u32>>,
    responses: Vec<Vec<u32>>,
    scores: Vec<f64>,
}

#[derive(Deserialize)]
struct Case {
    settings: Value,
    steps: Vec<Report>,
}

#[derive(Deserialize)]
struct Report {
    permutations: Vec<Vec<usize>>,
    stats: BTreeMap<String, Value>,
}

fn fixture(model: &str, file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trl").join(model).join(file)
}

fn read<T: for<'a> Deserialize<'a>>(model: &str, file: &str) -> T {
    serde_json::from_slice(&std::fs::read(fixture(model, file)).unwrap()).unwrap()
}

/// Our settings of TRL's. Every key of TRL's is looked at, so that none is forgotten.
fn settings(trl: &Value, steps: usize) -> PpoConfig {
    let mut config = PpoConfig { steps: steps as u64, ..PpoConfig::trl() };
    config.generation.max_new_tokens = 8;
    let (mut adaptive, mut target, mut horizon) = (true, 6., 10_000.);
    let (mut scale, mut center) = (false, false);
    let (mut accumulation, mut mini, mut early, mut target_kl) = (1, 0, false, 1.);
    let mut optimizer = OptimizerConfig { max_grad_norm: 0., ..OptimizerConfig::default() };
    for (key, value) in trl.as_object().unwrap() {
        let number = value.as_f64().unwrap_or(f64::NAN);
        let count = value.as_u64().map(|n| usize::try_from(n).unwrap());
        let truth = value.as_bool();
        match key.as_str() {
            "batch_size" => config.batch_size = count.unwrap(),
            "mini_batch_size" => mini = count.unwrap(),
            "gradient_accumulation_steps" => accumulation = count.unwrap(),
            "ppo_epochs" => config.epochs = count.unwrap(),
            "learning_rate" => optimizer.lr = number,
            "max_grad_norm" => optimizer.max_grad_norm = number,
            "adap_kl_ctrl" => adaptive = truth.unwrap(),
            "target" => target = number,
            "horizon" => horizon = number,
            "kl_penalty" => {
                config.kl.estimator = match value.as_str().unwrap() {
                    "kl" => KlEstimator::K1,
                    "abs" => KlEstimator::Abs,
                    "mse" => KlEstimator::K2,
                    "full" => KlEstimator::Full,
                    other => panic!("no estimator for {other}"),
                }
            }
            "use_score_scaling" => scale = truth.unwrap(),
            "use_score_norm" => center = truth.unwrap(),
            "score_clip" => config.scores.clip = Some(number),
            "whiten_rewards" => config.reward_whitening = Whitening::Batch,
            "early_stopping" => early = truth.unwrap(),
            "target_kl" => target_kl = number,
            "ratio_threshold" => config.ratio_threshold = number,
            "gamma" => config.gamma = number,
            "lam" => config.gae_lambda = number,
            "cliprange" => config.clip = number,
            "cliprange_value" => config.value_clip = number,
            "vf_coef" => config.value_coef = number,
            other => panic!("no setting for TRL's {other}"),
        }
    }
    config.minibatch_size = mini * accumulation;
    config.microbatch_size = mini;
    config.target_kl = early.then_some(target_kl);
    let control = if adaptive {
        KlControl::Adaptive { init: 0.2, target, horizon }
    } else {
        KlControl::Fixed { coef: 0.2 }
    };
    config.kl = KlConfig { control, ..config.kl };
    config.scores = ScoreConfig {
        scaling: match (scale, center) {
            (false, _) => ScoreScaling::None,
            (true, false) => ScoreScaling::Scale,
            (true, true) => ScoreScaling::Normalize,
        },
        ..config.scores
    };
    config.optimizer = optimizer;
    assert_eq!(config.compatibility, Compatibility::Trl011);
    config
}

/// Within 1e-4 of what was exported, relative to it. Of sums of log-ratios, which may come to all but
/// 0, within what f32 leaves of differences between log-probabilities.
fn compare(place: &str, got: &[f64], want: &[f64], wrong: &mut Vec<String>) {
    assert_eq!(got.len(), want.len(), "{place}");
    for (at, (g, w)) in got.iter().zip(want).enumerate() {
        let near = (g - w).abs() <= 1e-4 * w.abs() + 1e-5;
        if !near {
            wrong.push(format!("{place}[{at}]: {g}, TRL has {w}"));
        }
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().map(|v| v.as_f64().unwrap()).collect(),
        one => vec![one.as_f64().unwrap()],
    }
}

/// The elements of a tensor over tokens where the mask is true, row by row.
fn counted(x: &Tensor, rollout: &Rollout) -> Vec<f64> {
    host(&x.masked_select(rollout.mask.tensor()))
}

fn check_case(model: &str, name: &str, case: &Case, inputs: &[Inputs]) {
    let config = settings(&case.settings, inputs.len());
    let updates = (config.steps * config.updates_per_step()) as f64;
    let lr = config.optimizer.lr;
    let load = || LanguageModel::load(&fixture(model, ""), LoadOptions::default()).unwrap();
    let policy = load();
    policy.parameters().train_where(|_| true);
    let head = value_head(&fixture(model, "value_head.safetensors"));
    let reference = Reference::Frozen(Box::new(load()));
    let mut trainer = PpoTrainer::new(policy, head, reference, config).unwrap();

    for (step, (given, report)) in inputs.iter().zip(&case.steps).enumerate() {
        let mut rollout = trainer
            .rollout_of(given.queries.clone(), given.responses.clone(), &given.scores)
            .unwrap();
        rollout.orders = report.permutations.clone();
        let advantages = trainer.advantages(&rollout).unwrap();
        let stats = trainer.update(&rollout, &advantages).unwrap();
        let mut wrong = Vec::new();
        for (key, want) in &report.stats {
            let place = format!("{model}, {name}, step {step}, {key}");
            let got = match key.as_str() {
                "objective/logprobs" => counted(&rollout.log_probs, &rollout),
                "objective/ref_logprobs" => counted(&rollout.ref_log_probs, &rollout),
                key => match stats.distributions.iter().find(|(name, _)| *name == key) {
                    Some((_, values)) if want.is_array() => values.clone(),
                    _ => vec![stats.metrics.get(key).unwrap_or_else(|| panic!("{place}"))],
                },
            };
            compare(&place, &got, &numbers(want), &mut wrong);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    check_weights(model, name, &trainer, updates * lr);
}

/// 99.9 % of the weights within 1e-5, and none further than Adam could have carried both.
fn check_weights(model: &str, name: &str, trainer: &PpoTrainer<LanguageModel>, reach: f64) {
    let finals = Tensor::read_safetensors(fixture(model, "final.safetensors")).unwrap();
    let mut differences = Vec::new();
    for (key, want) in finals {
        let Some(key) = key.strip_prefix(&format!("{name}/")) else { continue };
        let own = match key.strip_prefix("v_head.") {
            Some(_) => trainer.value().parameters().get(key),
            None => trainer.policy().parameters().get(key),
        };
        let own = own.unwrap_or_else(|| panic!("{model}: no parameter {key}"));
        differences.extend(host(&(own - want).abs()));
    }
    let all = trainer.policy().parameters().count() + trainer.value().parameters().count();
    assert_eq!(differences.len(), all, "{model}, {name}: every weight");
    let far = differences.iter().filter(|d| **d > 1e-5).count();
    let farthest = differences.iter().copied().fold(0., f64::max);
    assert!(far * 1000 <= all, "{model}, {name}: {far} of {all} weights differ by more than 1e-5");
    assert!(farthest <= 2. * reach, "{model}, {name}: a weight differs by {farthest}");
}

fn check(model: &str) {
    let inputs: Vec<Inputs> = read(model, "steps.json");
    let cases: BTreeMap<String, Case> = read(model, "cases.json");
    assert_eq!((inputs.len(), cases.len()), (10, 14));
    for (name, case) in &cases {
        check_case(model, name, case, &inputs);
    }
}

#[test]
fn t5_equals_trl() {
    check("t5");
}

#[test]
fn llama_equals_trl() {
    check("llama");
}

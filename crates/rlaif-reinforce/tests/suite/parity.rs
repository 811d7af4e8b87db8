//! Twenty steps equal those of TRL 1.16's `GRPOTrainer` and `RLOOTrainer`, number by number, on given
//! completions and rewards. The numbers are in `fixtures/rl/runs`, with the script that exported them.

use std::{collections::BTreeMap, path::PathBuf};

use rlaif_core::Exchange;
use rlaif_lm::{Policy, RecordedSampler, Sampled, generate::FinishReason};
use rlaif_models::{LanguageModel, LoadOptions};
use rlaif_reinforce::{
    NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer,
    core::PromptRecord,
    rl::{
        AdvantageEstimator, AdvantageScale, Average, KlForm, KlWeight, Prompt, RatioLevel,
        Surrogate,
    },
    train::{KlEstimator, OptimizerConfig},
};
use serde::Deserialize;
use serde_json::Value;
use tch::Tensor;

use crate::common::{alone, host};

#[derive(Deserialize)]
struct Given {
    prompts: Vec<Vec<u32>>,
    completions: Vec<Vec<u32>>,
    rewards: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    settings: Value,
    steps: Vec<BTreeMap<String, f64>>,
}

fn fixture(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/rl/runs").join(file)
}

fn read<T: for<'a> Deserialize<'a>>(file: &str) -> T {
    serde_json::from_slice(&std::fs::read(fixture(file)).unwrap()).unwrap()
}

const GROUP: usize = 4;
const LONGEST: usize = 8;

/// Our settings of TRL's. Every key is looked at, so that none is forgotten.
fn settings(name: &str, trl: &Value) -> ReinforceConfig {
    let is_rloo = name.starts_with("rloo");
    let kind = trl["loss_type"].as_str().unwrap_or("rloo");
    let number = |key: &str, default: f64| trl.get(key).map_or(default, |v| v.as_f64().unwrap());
    let known = [
        "loss_type",
        "beta",
        "epsilon",
        "epsilon_high",
        "scale_rewards",
        "use_bias_correction_kl",
        "importance_sampling_level",
        "normalize_advantages",
    ];
    assert!(trl.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{trl}");
    let (beta, low) = (number("beta", 0.), number("epsilon", 0.2));
    let high = number("epsilon_high", low);
    let clipped = Surrogate::Clipped { low, high, dual_clip: None };
    let scale = match trl["scale_rewards"].as_str() {
        None => AdvantageScale::Group { eps: 1e-4 },
        Some("none") => AdvantageScale::None,
        Some("batch") => AdvantageScale::Batch { eps: 1e-4 },
        Some(other) => panic!("no scale for {other}"),
    };
    let normalized = trl["normalize_advantages"] == true;
    let advantage = match is_rloo {
        true if normalized => {
            AdvantageEstimator::LeaveOneOut { scale: AdvantageScale::Whitened { eps: 1e-4 } }
        }
        true => AdvantageEstimator::LeaveOneOut { scale: AdvantageScale::None },
        false => AdvantageEstimator::GroupMean { scale },
    };
    let (surrogate, average) = match kind {
        "grpo" | "rloo" => (clipped, Average::Responses),
        "dapo" | "bnpo" => (clipped, Average::Tokens),
        "dr_grpo" => (clipped, Average::Constant(LONGEST.try_into().unwrap())),
        "cispo" => (Surrogate::Truncated { least: 0., most: high }, Average::Tokens),
        "sapo" => (Surrogate::SoftGate { positive: 1., negative: 1.05 }, Average::Responses),
        "vespo" => (Surrogate::Gamma { positive: (2., 3.), negative: (3., 2.) }, Average::Tokens),
        other => panic!("no loss for {other}"),
    };
    let ratio = match (kind, trl["importance_sampling_level"].as_str()) {
        ("rloo" | "vespo", _) => RatioLevel::Product,
        (_, Some("sequence")) => RatioLevel::Sequence,
        _ => RatioLevel::Token,
    };
    let weight = match trl["use_bias_correction_kl"] != false {
        true => KlWeight::Ratio,
        false => KlWeight::None,
    };
    let kl = match (beta > 0., is_rloo) {
        (false, _) => KlForm::None,
        (true, true) => KlForm::Reward { coef: beta, estimator: KlEstimator::K1 },
        (true, false) => KlForm::Loss { coef: beta, estimator: KlEstimator::K3, weight },
    };
    let mut config = ReinforceConfig {
        algorithm: NamedAlgorithm::Grpo,
        steps: 10,
        batch_size: 8,
        group_size: Some(GROUP),
        epochs: 2,
        advantage: Some(advantage),
        ratio: Some(ratio),
        surrogate: Some(surrogate),
        average: Some(average),
        kl: Some(kl),
        optimizer: OptimizerConfig { lr: 1e-3, ..OptimizerConfig::default() },
        ..ReinforceConfig::default()
    };
    config.generation.max_new_tokens = LONGEST;
    config
}

/// The completions of a rollout, each with its reward as its text.
fn recorded(given: &Given) -> RecordedSampler {
    let rows = given.completions.iter().zip(&given.rewards);
    let sampled = rows.map(|(ids, reward)| Sampled {
        finish: if ids.last() == Some(&1) { FinishReason::Eos } else { FinishReason::Length },
        ids: ids.clone(),
        log_probs: None,
        text: reward.to_string(),
        version: 0,
        played: None,
    });
    RecordedSampler::new(sampled.collect())
}

fn check_case(name: &str, case: &Case, given: &[Given]) {
    let load = || LanguageModel::load(&fixture(""), LoadOptions::default()).unwrap();
    let policy = load();
    policy.parameters().train_where(|_| true);
    let config = settings(name, &case.settings);
    let reach = 2. * 20. * config.optimizer.lr;
    let ratio = config.settings().combination.objective.ratio;
    let reference = Reference::Frozen(Box::new(load()));
    let mut trainer = ReinforceTrainer::new(policy, reference, config).unwrap();
    let reward = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|x| x.response.parse().unwrap()).collect()
    };
    let mut wrong = Vec::new();
    for (at, (given, steps)) in given.iter().zip(case.steps.chunks(2)).enumerate() {
        let prompts: Vec<Prompt> = (given.prompts.iter().enumerate())
            .map(|(row, ids)| Prompt::new(PromptRecord::new(row.to_string(), ""), ids.clone()))
            .collect();
        let mut recorded = recorded(given);
        let (experience, stats) =
            trainer.step(&prompts, &mut std::iter::empty(), &mut recorded, &reward).unwrap();
        let asked = given.prompts.iter().flat_map(|prompt| vec![prompt; GROUP]);
        assert!(experience.unwrap().rollout.prompts.rows().iter().eq(asked));
        // Two optimizer steps to a rollout; what belongs to the rollout, TRL tells in the first.
        let mean = |key: &str| steps.iter().map(|step| step[key]).sum::<f64>() / 2.;
        let mut compare = |key: &str, got: f64, want: f64| {
            if (got - want).abs() > 1e-4 * want.abs() + 1e-5 {
                wrong.push(format!("{name}, rollout {at}, {key}: {got}, TRL has {want}"));
            }
        };
        compare("loss", stats.get("ppo/loss/total"), mean("loss"));
        compare("entropy", stats.get("ppo/policy/entropy"), mean("entropy"));
        compare("grad_norm", stats.get("ppo/grad_norm"), mean("grad_norm"));
        compare("reward", stats.get("env/reward_mean"), steps[0]["reward"]);
        compare("reward_std", stats.get("env/reward_std"), steps[0]["reward_std"]);
        // With the scale of the batch, TRL tells if the whole batch is equal; with KL in the reward, if
        // rewards less their penalty are.
        let of_scores = !name.starts_with("rloo") || case.settings["beta"] == 0.;
        if case.settings["scale_rewards"] != "batch" && of_scores {
            let equal = steps[0]["frac_reward_zero_std"];
            compare("frac_reward_zero_std", stats.get("groups/equal"), equal);
        }
        if steps[0].contains_key("clip_ratio/region_mean") && ratio == RatioLevel::Token {
            let clipped = mean("clip_ratio/region_mean");
            compare("clip_ratio", stats.get("ppo/policy/clipfrac"), clipped);
        }
        let kl = trainer.config().settings().combination.objective.kl;
        if let KlForm::Loss { coef, .. } = kl
            && trainer.config().average == Some(Average::Tokens)
        {
            compare("kl", stats.get("ppo/loss/kl") / coef, mean("kl"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let finals = Tensor::read_safetensors(fixture("final.safetensors")).unwrap();
    let mut differences = Vec::new();
    for (key, want) in finals {
        let Some(key) = key.strip_prefix(&format!("{name}/")) else { continue };
        let own = trainer.policy().parameters().get(key).unwrap();
        differences.extend(host(&(own - want).abs()));
    }
    let all = trainer.policy().parameters().count();
    assert_eq!(differences.len(), all, "{name}: every weight");
    let far = differences.iter().filter(|d| **d > 1e-5).count();
    let farthest = differences.iter().copied().fold(0., f64::max);
    assert!(far * 1000 <= all, "{name}: {far} of {all} weights differ by more than 1e-5");
    assert!(farthest <= reach, "{name}: a weight differs by {farthest}");
}

#[test]
fn twenty_steps_equal_trl() {
    let _alone = alone();
    rlaif_torch::set_intra_op_threads(1).unwrap();
    let given: Vec<Given> = read("rollouts.json");
    let cases: BTreeMap<String, Case> = read("cases.json");
    assert_eq!((given.len(), cases.len()), (10, 11));
    for (name, case) in &cases {
        assert_eq!(case.steps.len(), 20);
        check_case(name, case, &given);
    }
}

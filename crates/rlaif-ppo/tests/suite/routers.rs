//! The loss of routers, in policies with experts.

use crate::common::{Family, Letters, policy, prompts, zero_head};
use rlaif_core::{Exchange, PromptRecord};
use rlaif_lm::{Policy, RecordedSampler, Sampled, generate::FinishReason};
use rlaif_models::{LanguageModel, LoadOptions};
use rlaif_ppo::{PpoConfig, PpoStats, PpoTrainer, Prompt, Reference, train::OptimizerConfig};
use rlaif_testing::{RouterGoldens, alone};
use tch::Tensor;

const COEFFICIENT: f64 = 0.5;

fn load(goldens: &RouterGoldens) -> LanguageModel {
    LanguageModel::load(&goldens.folder, LoadOptions::default()).unwrap()
}

/// A trainer of all weights, whose reference has the same weights.
fn trainer(
    policies: impl Fn() -> LanguageModel,
    config: PpoConfig,
) -> Result<PpoTrainer<LanguageModel>, rlaif_ppo::PpoError> {
    let policy = policies();
    policy.parameters().train_where(|_| true);
    let head = zero_head(&policy);
    PpoTrainer::new(policy, head, Reference::Frozen(Box::new(policies())), config)
}

/// One update on the rows of the goldens, all with a score of 0.
fn step(
    goldens: &RouterGoldens,
    change: impl Fn(&mut PpoConfig),
) -> (PpoStats, PpoTrainer<LanguageModel>) {
    let n = goldens.rows.len();
    let optimizer =
        OptimizerConfig { lr: 1., eps: 1., max_grad_norm: 0., ..OptimizerConfig::default() };
    let mut config = PpoConfig {
        batch_size: n,
        minibatch_size: n,
        epochs: 1,
        router_aux_loss_coef: COEFFICIENT,
        optimizer,
        ..PpoConfig::default()
    };
    config.generation.max_new_tokens = 16;
    change(&mut config);
    let mut trainer = trainer(|| load(goldens), config).unwrap();
    let prompt = |ids: &[u32]| Prompt::new(PromptRecord::new("p", "?"), ids.to_vec());
    let prompts: Vec<Prompt> = goldens.rows.iter().map(|[ids, _]| prompt(ids)).collect();
    let sampled = goldens.rows.iter().map(|[_, response]| Sampled {
        ids: response.clone(),
        log_probs: None,
        text: "?".to_owned(),
        finish: FinishReason::Length,
        version: 0,
        played: None,
    });
    let mut sampler = RecordedSampler::new(sampled.collect());
    let zero = |batch: &[Exchange<'_>]| vec![0f32; batch.len()];
    let rollout = trainer.rollout_from(&mut sampler, &prompts, &zero).unwrap();
    let advantages = trainer.advantages(&rollout).unwrap();
    let stats = trainer.update(&rollout, &advantages).unwrap();
    (stats, trainer)
}

fn weight(policy: &LanguageModel, name: &str) -> Tensor {
    policy.parameters().get(name).unwrap().detach().copy()
}

/// With scores of 0 and the policy as its own reference, the loss of routers is all there is: that of
/// transformers, by whose gradient the weights of the routers move.
#[test]
fn the_loss_of_routers_is_that_of_transformers() {
    let _alone = alone();
    for name in RouterGoldens::MODELS {
        let goldens = RouterGoldens::read(name);
        let before = load(&goldens);
        let (stats, trainer) = step(&goldens, |_| {});
        let loss = stats.get("router_aux_loss");
        assert!((loss - goldens.loss).abs() < 1e-5, "{name}: {loss} {}", goldens.loss);
        let total = stats.get("ppo/loss/total");
        assert!((total - COEFFICIENT * goldens.loss).abs() < 1e-5, "{name}: {total}");
        for (parameter, _) in &goldens.gradients {
            let [before, after] =
                [&before, trainer.policy()].map(|policy| weight(policy, parameter));
            goldens.assert_moved(parameter, &before, &after, COEFFICIENT);
        }
        // Each pass has its own shares of experts, weighted by its tokens.
        let (parts, _) = step(&goldens, |config| config.microbatch_size = 1);
        let mean = parts.get("router_aux_loss");
        assert!((mean - goldens.loss).abs() < 0.5 && mean != loss, "{name}: {mean}");
        let unmoved = |trainer: PpoTrainer<LanguageModel>| {
            let mut names = goldens.gradients.iter().map(|(name, _)| name);
            names.all(|name| weight(&before, name) == weight(trainer.policy(), name))
        };
        // While only the value head is trained, the loss is told and does not act.
        let (warmup, trainer) = step(&goldens, |config| config.value_warmup_steps = 1);
        assert_eq!(warmup.get("router_aux_loss"), loss, "{name}");
        assert_eq!(warmup.get("ppo/loss/total"), 0., "{name}");
        assert!(unmoved(trainer), "{name}");
        let (off, trainer) = step(&goldens, |config| config.router_aux_loss_coef = 0.);
        assert!(off.get("router_aux_loss").is_nan() && unmoved(trainer), "{name}");
    }
}

#[test]
fn a_loss_of_routers_is_refused_without_routers_and_below_0() {
    let _alone = alone();
    for family in [Family::T5, Family::Llama] {
        let with = |router_aux_loss_coef| {
            let mut config = PpoConfig {
                batch_size: 4,
                minibatch_size: 4,
                router_aux_loss_coef,
                ..PpoConfig::default()
            };
            config.generation.max_new_tokens = 8;
            let mut trainer = trainer(|| policy(family, 5), config)?;
            let zero = |batch: &[Exchange<'_>]| vec![0f32; batch.len()];
            trainer.step(&prompts(0, 4), &Letters, &zero)
        };
        let error = with(0.1).unwrap_err().to_string();
        assert!(error.contains("router_aux_loss_coef") && error.contains("no experts"), "{error}");
        let error = with(-1.).unwrap_err().to_string();
        assert!(error.contains("`router_aux_loss_coef` is -1"), "{error}");
    }
}

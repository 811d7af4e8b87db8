//! Helpers of the tests of this folder.

use rlaif_core::{Exchange, PromptRecord, Seed, Specials, TextCodec};
use rlaif_lm::{LocalSampler, Policy};
use rlaif_models::{Config, LanguageModel};
use rlaif_reinforce::{
    Experience, NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer,
    rl::{Prompt, Stats},
    train::OptimizerConfig,
};
pub(crate) use rlaif_testing::{Letters, alone};
use rlaif_torch::seeded;
use tch::{Device, Kind, Tensor};

/// The two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    T5,
    Llama,
}

pub(crate) const FAMILIES: [Family; 2] = [Family::T5, Family::Llama];

/// A policy of random weights, the same for the same seed, trained as a whole.
pub(crate) fn policy(family: Family, seed: i64) -> LanguageModel {
    let config = match family {
        Family::T5 => rlaif_testing::T5,
        Family::Llama => rlaif_testing::LLAMA,
    };
    let config = Config::from_value(serde_json::from_str(config).unwrap());
    let draw = || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap();
    let policy = seeded(seed, draw).unwrap();
    policy.parameters().train_where(|_| true);
    policy
}

/// `n` prompts of 2 to 5 letters each, with ids from `first` on.
pub(crate) fn prompts(first: usize, n: usize) -> Vec<Prompt> {
    (first..first + n)
        .map(|i| {
            let ids: Vec<u32> = (0..2 + i % 4).map(|j| 3 + ((i * 7 + j * 5) as u32 % 30)).collect();
            let text = Letters.decode(&ids, Specials::Exclude).unwrap();
            Prompt::new(PromptRecord::new(format!("p-{i}"), text), ids)
        })
        .collect()
}

/// Rewards vowels: enough for scores to differ.
pub(crate) fn vowels(batch: &[Exchange<'_>]) -> Vec<f32> {
    let of = |text: &str| text.chars().filter(|c| "AEIOU".contains(*c)).count() as f32;
    batch.iter().map(|x| of(x.response)).collect()
}

/// Two optimizer steps on 8 responses to 2 prompts, twice over.
pub(crate) fn config(algorithm: NamedAlgorithm) -> ReinforceConfig {
    let mut config = ReinforceConfig {
        algorithm,
        steps: 4,
        batch_size: 16,
        group_size: Some(4),
        minibatch_size: Some(8),
        epochs: 2,
        // With the usual ε, rounding decides which way a weight goes whose gradient is all but 0.
        optimizer: OptimizerConfig { lr: 1e-2, eps: 1e-2, ..OptimizerConfig::default() },
        seed: Seed::new(9),
        ..ReinforceConfig::default()
    };
    config.generation.max_new_tokens = 8;
    config
}

pub(crate) fn trainer(family: Family, config: ReinforceConfig) -> ReinforceTrainer<LanguageModel> {
    let reference = Reference::Frozen(Box::new(policy(family, 5)));
    ReinforceTrainer::new(policy(family, 5), reference, config).unwrap()
}

/// A step on 4 prompts.
pub(crate) fn step(
    trainer: &mut ReinforceTrainer<LanguageModel>,
    prompts: &[Prompt],
) -> (Option<Experience>, Stats) {
    let mut spare = self::prompts(100, 40).into_iter();
    trainer.step(prompts, &mut spare, &mut LocalSampler::new(&Letters), &vowels).unwrap()
}

/// The elements of a tensor.
pub(crate) fn host(x: &Tensor) -> Vec<f64> {
    rlaif_testing::numbers(x)
}

pub(crate) fn weights(trainer: &ReinforceTrainer<LanguageModel>) -> Vec<Tensor> {
    trainer.policy().parameters().iter().map(|(_, tensor)| tensor.detach().copy()).collect()
}

/// The largest difference between two sets of weights.
pub(crate) fn distance(one: &[Tensor], two: &[Tensor]) -> f64 {
    let far = |(a, b): (&Tensor, &Tensor)| host(&(a - b).abs().max())[0];
    one.iter().zip(two).map(far).fold(0., f64::max)
}

//! A policy of this library in the place of a service.

use rlaif_core::{RewardError, Seed};
use rlaif_lm::generate::{GenerationConfig, Sampling};

use super::config::{BATCH_SIZE, PolicyApi};
use super::keys::ServiceKeys;
use crate::build::{chat_of, policy_of, sampling_of};
use crate::neural::asker::PolicyAsker;
use crate::{ProviderError, Surroundings};

/// A policy, and the generation of its answers.
#[derive(Debug)]
pub(super) struct LocalLlm {
    pub(super) asker: PolicyAsker,
    pub(super) how: GenerationConfig,
    pub(super) seed: Seed,
}

impl LocalLlm {
    /// The policy of a configuration, with answers of at most `max_tokens` unless the configuration
    /// has another limit.
    pub(super) fn build(
        service: &ServiceKeys<'_>,
        api: &PolicyApi,
        max_tokens: u32,
        around: &Surroundings<'_>,
    ) -> Result<Self, ProviderError> {
        service.check_for_policy()?;
        let sampling = sampling_of(service.sampling)?.unwrap_or(Sampling::Greedy);
        let (policy, codec) = policy_of(api, around)?;
        let asker = PolicyAsker::new(policy, codec).with_chat(chat_of(api))?;
        let how = GenerationConfig {
            max_new_tokens: service.sampling.max_new_tokens.unwrap_or(max_tokens) as usize,
            batch_size: api.batch_size.unwrap_or(BATCH_SIZE),
            sampling,
            ..GenerationConfig::default()
        };
        how.check(asker.spec())?;
        Ok(Self { asker, how, seed: Seed::new(service.sampling.seed.unwrap_or(0)) })
    }
}

/// Converts an error of a judge or writer of this name.
pub(super) fn failed<E>(name: &str) -> impl Fn(E) -> RewardError
where
    E: std::error::Error + Send + Sync + 'static,
{
    let model = name.to_owned();
    move |source| RewardError::Failed { model: model.clone(), source: Box::new(source) }
}

//! The sampler against a server that answers as vLLM does, and misbehaves on demand.

mod faults;
mod real;
mod refusals;
mod sampling;
mod server;
mod training;

use std::path::{Path, PathBuf};

use rlaif_core::{PromptRecord, Seed, Specials, TextCodec};
use rlaif_engine::{EngineError, VllmConfig, VllmSampler};
use rlaif_lm::{
    Draw, LmError, Policy, Prompt, Sampled, Sampler, SamplerCall, Weights,
    generate::{Ask, GenerationConfig},
    sample,
};
use rlaif_models::{AdapterConfig, Config, LanguageModel, TaskType, WeightsWriter};
use rlaif_testing::Letters;
use rlaif_torch::seeded;
use server::Vllm;
use tch::{Device, Kind};

/// A policy of random weights, the same for the same seed, trained as a whole.
fn policy(seed: i64) -> LanguageModel {
    let config = Config::from_value(serde_json::from_str(rlaif_testing::LLAMA).unwrap());
    let draw = || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap();
    let policy = seeded(seed, draw).unwrap();
    policy.parameters().train_where(|_| true);
    policy
}

/// The same with an adapter, which has no effect yet.
fn adapted(seed: i64) -> LanguageModel {
    let mut policy = policy(seed);
    let config = AdapterConfig::new(TaskType::CausalLm, 4.try_into().unwrap());
    seeded(seed, || policy.adapters().add("default", config).unwrap()).unwrap();
    policy
}

/// Moves all trained weights.
fn move_weights(policy: &LanguageModel, by: f64) {
    let _guard = tch::no_grad_guard();
    for (_, tensor) in policy.parameters().trainable() {
        let _ = tensor.shallow_clone().g_add_scalar_(by);
    }
}

/// Prompts of 2 to 5 letters.
fn prompts(n: usize) -> Vec<Prompt> {
    (0..n)
        .map(|i| {
            let ids: Vec<u32> = (0..2 + i % 4).map(|j| 3 + ((i * 7 + j * 5) as u32 % 30)).collect();
            let text = Letters.decode(&ids, Specials::Exclude).unwrap();
            Prompt::new(PromptRecord::new(format!("p-{i}"), text), ids)
        })
        .collect()
}

/// Each prompt `times` times.
fn repeated(prompts: &[Prompt], times: usize) -> Vec<Prompt> {
    prompts.iter().flat_map(|prompt| vec![prompt.clone(); times]).collect()
}

/// Settings whose failures pass quickly.
fn config(servers: &[&Vllm]) -> VllmConfig {
    VllmConfig {
        urls: servers.iter().map(|server| server.url.clone()).collect(),
        concurrency: 4,
        retries: 2,
        longest_wait_s: 0.05,
        timeout_s: 20.,
        ..VllmConfig::default()
    }
}

fn connect(
    policy: &mut LanguageModel,
    folder: &Path,
    config: VllmConfig,
) -> Result<VllmSampler<'static>, EngineError> {
    let writer = WeightsWriter::new(policy, None)?;
    let environment = |name: &str| (name == "VLLM_KEY").then(|| "secret-of-vllm".to_owned());
    VllmSampler::connect(config, (policy.spec(), writer), &Letters, folder, &environment)
}

/// A sampler over servers, and the folder of its weights.
struct Client {
    policy: LanguageModel,
    sampler: VllmSampler<'static>,
    folder: tempfile::TempDir,
}

impl Client {
    fn new(mut policy: LanguageModel, config: VllmConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sampler = connect(&mut policy, folder.path(), config).unwrap();
        Self { policy, sampler, folder }
    }

    fn sample(
        &mut self,
        prompts: &[Prompt],
        how: &GenerationConfig,
        (version, step): (u64, u64),
    ) -> Result<Vec<Sampled>, LmError> {
        let weights = Weights { version, ..Weights::of(&self.policy) };
        let draw = Draw { seed: Seed::new(4), step };
        sample(&mut self.sampler, prompts, SamplerCall { weights, how, draw })
    }

    fn version_folder(&self, version: u64) -> PathBuf {
        self.folder.path().join(format!("version-{version}"))
    }
}

/// A server of this model.
fn start(model: LanguageModel) -> Vllm {
    Vllm::start(model, Letters)
}

fn how(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig { max_new_tokens, ..GenerationConfig::default() }
}

/// Asks without records, by their number.
fn ask(sampler: &mut dyn Sampler, policy: &LanguageModel, asks: &[Ask]) -> Vec<Sampled> {
    let (weights, draw) = (Weights::of(policy), Draw { seed: Seed::new(4), step: 0 });
    sampler.sample(asks, SamplerCall { weights, how: &how(6), draw }).unwrap()
}

//! The same against a real vLLM, if RLAIF_VLLM names the folder of an environment that has it.

use std::path::{Path, PathBuf};

use rlaif_core::{PromptRecord, Seed, Specials, TextCodec};
use rlaif_engine::{VllmConfig, VllmSampler};
use rlaif_lm::{
    Draw, LocalSampler, Policy, Prompt, Sampled, SamplerCall, Weights,
    generate::{GenerationConfig, Sampling},
    sample,
};
use rlaif_models::{AdapterConfig, LanguageModel, LoadOptions, TaskType, WeightsWriter};
use rlaif_testing::{RealVllm, alone};
use rlaif_text::HfTokenizer;
use tch::{Device, Kind};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/summary-llama").canonicalize().unwrap()
}

fn prompts(codec: &dyn TextCodec) -> Vec<Prompt> {
    let texts =
        ["The children went to the river", "A new school", "In the morning she", "Two dogs"];
    let prompt = |(row, text): (usize, &&str)| {
        let ids = codec.encode(text, Specials::Include).unwrap();
        Prompt::new(PromptRecord::new(format!("p-{row}"), *text), ids)
    };
    texts.iter().enumerate().map(prompt).collect()
}

fn load() -> LanguageModel {
    LanguageModel::load(&model(), LoadOptions::new(Device::Cpu, Kind::Float)).unwrap()
}

fn move_weights(policy: &LanguageModel) {
    let _guard = tch::no_grad_guard();
    for (_, tensor) in policy.parameters().trainable() {
        let moved = tensor.randn_like() * 0.02;
        let _ = tensor.shallow_clone().g_add_(&moved);
    }
}

/// Samples at both places, and compares tokens (of greedy responses) and log-probabilities.
fn same(sampler: &mut VllmSampler<'_>, policy: &LanguageModel, codec: &HfTokenizer, version: u64) {
    let rows = prompts(codec);
    let weights = Weights { version, ..Weights::of(policy) };
    let draw = Draw { seed: Seed::new(1), step: version };
    let greedy =
        GenerationConfig { max_new_tokens: 12, sampling: Sampling::Greedy, ..Default::default() };
    let call = SamplerCall { weights, how: &greedy, draw };
    let remote = sample(sampler, &rows, call).unwrap();
    let local = sample(&mut LocalSampler::new(codec), &rows, call).unwrap();
    let far = |(a, b): (&Sampled, &Sampled)| {
        assert_eq!((&a.ids, a.finish), (&b.ids, b.finish), "version {version}");
        let pairs = a.log_probs.iter().flatten().zip(b.log_probs.iter().flatten());
        pairs.map(|(a, b)| (a - b).abs()).fold(0., f32::max)
    };
    let far = remote.iter().zip(&local).map(far).fold(0., f32::max);
    assert!(far < 1e-2, "version {version}: {far}");
    // Drawn responses, whose log-probabilities the sampler has compared itself.
    let drawn = GenerationConfig { max_new_tokens: 12, ..Default::default() };
    let groups: Vec<Prompt> = rows.iter().flat_map(|row| vec![row.clone(); 4]).collect();
    let call = SamplerCall { weights, how: &drawn, draw };
    let first = sample(sampler, &groups, call).unwrap();
    assert!(first.iter().all(|row| row.version == version && row.log_probs.is_some()));
    assert!(first.chunks(4).any(|group| group.iter().any(|row| row.ids != group[0].ids)));
}

#[test]
fn a_real_vllm_gets_whole_weights_and_adapters_and_survives_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let lora = ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "8"];
    let options = [&["--max-model-len", "256"], &lora[..]].concat();
    // Of a model with tied embeddings, vLLM keeps a packed copy of the head, which it does not renew.
    let untied = place.path().join("untied");
    let mut policy = load();
    let writer = WeightsWriter::new(&mut policy, Some(&model())).unwrap();
    writer.write(policy.parameters(), &untied).unwrap();
    let Some(mut server) = RealVllm::start(&untied, place.path(), &options) else { return };
    let _alone = alone();
    let codec = HfTokenizer::from_folder(model()).unwrap();
    let config = VllmConfig { urls: vec![server.url()], ..VllmConfig::default() };
    let connect = |policy: &mut LanguageModel, folder: &str| {
        let writer = WeightsWriter::new(policy, Some(&model())).unwrap();
        let place = place.path().join(folder);
        let config = config.clone();
        let spec = policy.spec().clone();
        VllmSampler::connect(config, (&spec, writer), &codec, &place, &|_: &str| None).unwrap()
    };

    // The adapter first: it belongs to the base that the server began with.
    tch::manual_seed(3);
    let lora = AdapterConfig::new(TaskType::CausalLm, 4.try_into().unwrap());
    policy.adapters().add("default", lora).unwrap();
    let mut sampler = connect(&mut policy, "adapters");
    for version in 0..4 {
        same(&mut sampler, &policy, &codec, version);
        move_weights(&policy);
    }

    let mut policy = load();
    policy.parameters().train_where(|_| true);
    let mut sampler = connect(&mut policy, "whole");
    for version in 0..3 {
        same(&mut sampler, &policy, &codec, version);
        move_weights(&policy);
    }
    server.restart();
    same(&mut sampler, &policy, &codec, 3);
}

//! GRPO with rollouts on servers.

use rlaif_core::{Exchange, PromptRecord, Seed, Specials, TextCodec};
use rlaif_engine::VllmConfig;
use rlaif_lm::{LocalSampler, Policy, Prompt, Sampler, generate::Eos};
use rlaif_models::LanguageModel;
use rlaif_reinforce::{
    NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer, Rollouts, rl::KlForm,
    train::OptimizerConfig,
};
use rlaif_testing::{Letters, alone, names_in};

use crate::{adapted, config, connect, policy, start};

/// The first digit in the alphabet of [`Letters`]: `D` is 0.
const ZERO: u32 = 4;

/// A digit, to be answered by the next one.
fn digits(step: u64, n: usize) -> Vec<Prompt> {
    (0..n)
        .map(|i| {
            let draw = Seed::new(3).derive("prompt", step * 64 + i as u64).get();
            let ids = vec![ZERO + (draw % 4) as u32, ZERO];
            let text = Letters.decode(&ids, Specials::Exclude).unwrap();
            Prompt::new(PromptRecord::new(format!("{step}-{i}"), text), ids)
        })
        .collect()
}

/// 1 for the next digit.
fn next(batch: &[Exchange<'_>]) -> Vec<f32> {
    let right =
        |x: &Exchange<'_>| x.response.bytes().next() == x.prompt.bytes().next().map(|c| c + 1);
    batch.iter().map(|x| f32::from(u8::from(right(x)))).collect()
}

const STEPS: u64 = 40;

/// Metrics of a step.
struct Told {
    score: f64,
    mismatch: f64,
    versions: Vec<u64>,
}

fn run(
    policy: LanguageModel,
    rollouts: Rollouts,
    sampler: &mut dyn Sampler,
    steps: u64,
) -> Vec<Told> {
    let mut config = ReinforceConfig {
        algorithm: NamedAlgorithm::Grpo,
        steps: STEPS,
        batch_size: 64,
        group_size: Some(8),
        kl: Some(KlForm::None),
        rollouts,
        optimizer: OptimizerConfig { lr: 1e-2, ..OptimizerConfig::default() },
        seed: Seed::new(1),
        ..ReinforceConfig::default()
    };
    config.generation.max_new_tokens = 1;
    config.generation.eos = Eos::Ignored;
    let is_adapter = policy.parameters().iter().any(|(name, _)| rlaif_lm::is_adapter(name));
    let copy = if is_adapter { adapted(21) } else { crate::policy(21) };
    let mut trainer = ReinforceTrainer::new(policy, Reference::Given, config).unwrap();
    if rollouts == Rollouts::Asynchronous {
        trainer = trainer.sampling_copy(copy).unwrap();
    }
    (0..steps)
        .map(|step| {
            let (own, after) = (digits(step, 8), digits(step + 1, 8));
            let mut spare = std::iter::empty();
            let (experience, stats) = match rollouts {
                Rollouts::Synchronous => trainer.step(&own, &mut spare, sampler, &next).unwrap(),
                Rollouts::Asynchronous => {
                    let after = (step + 1 < steps).then_some(after.as_slice());
                    trainer.step_ahead(&own, after, &mut spare, sampler, &next).unwrap()
                }
            };
            Told {
                score: stats.get("env/reward_mean"),
                mismatch: stats.get("objective/mismatch_kl"),
                versions: experience.unwrap().rollout.versions,
            }
        })
        .collect()
}

fn ends(told: &[Told]) -> (f64, f64) {
    let mean = |told: &[Told]| told.iter().map(|told| told.score).sum::<f64>() / told.len() as f64;
    (mean(&told[..5]), mean(&told[told.len() - 5..]))
}

#[test]
fn grpo_learns_on_servers_that_reload_its_weights_as_it_does_locally() {
    let _alone = alone();
    let local = run(policy(21), Rollouts::Synchronous, &mut LocalSampler::new(&Letters), STEPS);
    // Servers that began with other weights.
    let servers = [start(policy(21)), start(policy(22))];
    let folder = tempfile::tempdir().unwrap();
    let mut own = policy(21);
    let mut sampler =
        connect(&mut own, folder.path(), config(&[&servers[0], &servers[1]])).unwrap();
    let remote = run(own, Rollouts::Synchronous, &mut sampler, STEPS);
    for told in [&local, &remote] {
        let (first, last) = ends(told);
        assert!(first < 0.3 && last > first + 0.4, "{first} to {last}");
    }
    for (step, told) in remote.iter().enumerate() {
        assert!(told.mismatch < 1e-8, "step {step}: {}", told.mismatch);
        assert_eq!(told.versions, vec![step as u64; 64]);
    }
    for server in &servers {
        assert!(!server.calls("/v1/completions").is_empty());
        // Each version once: paused, read, named, resumed, and proved.
        let steps = usize::try_from(STEPS).unwrap();
        for call in ["/pause", "/collective_rpc", "/reset_prefix_cache", "/resume"] {
            assert_eq!(server.calls(call).len(), steps, "{call}");
        }
        assert!(server.calls("/weight_checker").len() >= steps);
    }
    // Folders of versions that no server reads any more are gone.
    assert_eq!(
        names_in(folder.path()),
        [format!("version-{}", STEPS - 2), format!("version-{}", STEPS - 1)]
    );
}

#[test]
fn grpo_learns_with_adapters_under_new_names() {
    let _alone = alone();
    let server = start(policy(21));
    let folder = tempfile::tempdir().unwrap();
    let mut own = adapted(21);
    let mut sampler = connect(&mut own, folder.path(), config(&[&server])).unwrap();
    let told = run(own, Rollouts::Synchronous, &mut sampler, STEPS);
    let (first, last) = ends(&told);
    assert!(first < 0.3 && last > first + 0.3, "{first} to {last}");
    assert!(told.iter().all(|told| told.mismatch < 1e-8));
    assert!(told.iter().enumerate().all(|(step, told)| told.versions == vec![step as u64; 64]));
    let loads = server.calls("/v1/load_lora_adapter");
    assert_eq!(loads.len(), usize::try_from(STEPS).unwrap());
    let mut names: Vec<&str> =
        loads.iter().map(|load| load["lora_name"].as_str().unwrap()).collect();
    names.dedup();
    assert_eq!(names.len(), loads.len(), "each version has a name of its own");
    assert!(loads.iter().all(|load| load["lora_path"].as_str().unwrap().starts_with('/')));
    // Those before are unloaded, and the base is never touched.
    assert_eq!(server.adapters(), [*names.last().unwrap()]);
    assert!(server.calls("/collective_rpc").is_empty() && server.calls("/pause").is_empty());
}

#[test]
fn asynchronous_rollouts_ask_for_the_weights_before_the_update() {
    let _alone = alone();
    let server = start(policy(21));
    let folder = tempfile::tempdir().unwrap();
    let mut own = policy(21);
    let settings = VllmConfig { max_staleness: 1, ..config(&[&server]) };
    let mut sampler = connect(&mut own, folder.path(), settings).unwrap();
    let told = run(own, Rollouts::Asynchronous, &mut sampler, 6);
    for (step, told) in told.iter().enumerate() {
        assert_eq!(told.versions, vec![step.saturating_sub(1) as u64; 64]);
    }
}

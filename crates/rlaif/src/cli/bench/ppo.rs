//! `rlaif bench ppo`.

use std::{collections::BTreeMap, num::NonZeroU32, time::Instant};

use clap::Args;
use rlaif_core::Seed;
use rlaif_lm::{
    Activations, Draw, Forward, LmSpec, Padding, Policy, SequenceClassifier, TokenBatch, ValueHead,
    ValueInit, Weights,
    generate::{Ask, Eos, GenerationConfig, Hooks},
    respond,
};
use rlaif_models::{Classifier, LanguageModel, LoadOptions, Lora, PolicySetup};
use rlaif_ppo::{PpoConfig, PpoTrainer, Reference};
use rlaif_run::RunError;
use rlaif_torch::{Work, seeded};
use serde_json::json;
use tch::{Device, no_grad};

use super::common::{Measured, Meter, random_rows};
use crate::cli::{
    error::CliError,
    lengths::Lengths,
    model::{self, Placement},
};

#[derive(Debug, Args)]
pub(crate) struct PpoBench {
    /// The policy: a folder in Hugging Face's layout, or a hub id.
    #[arg(long)]
    policy: String,
    /// A classifier that scores the ids of responses. By default, scores are random.
    #[arg(long)]
    reward: Option<String>,
    #[command(flatten)]
    placement: Placement,
    /// Responses per step.
    #[arg(long = "batch-size", alias = "batch", default_value_t = 16)]
    batch: usize,
    /// Responses per optimizer step.
    #[arg(long, alias = "minibatch", default_value_t = 4)]
    minibatch_size: usize,
    /// Responses per forward and backward pass; 0 for the whole minibatch.
    #[arg(long, alias = "microbatch", default_value_t = 0)]
    microbatch_size: usize,
    /// Passes of an update over the rollout.
    #[arg(long, default_value_t = 4)]
    epochs: usize,
    /// Lengths of the prompts in tokens: one length, one for each row (64,101,..) or a range
    /// (8-256).
    #[arg(long, default_value = "64-128")]
    prompt_len: Lengths,
    /// Tokens per response; end of sequence is ignored.
    #[arg(long, default_value_t = 32)]
    new_tokens: usize,
    /// Timed steps, after one untimed step.
    #[arg(long, default_value_t = 2)]
    steps: u64,
    /// Trains LoRA adapters of this rank on every linear layer, with the adapter-free policy as the
    /// reference. By default, all weights are trained, with a copy as the reference.
    #[arg(long)]
    lora: Option<NonZeroU32>,
    /// Recomputes activations in the backward pass (gradient checkpointing).
    #[arg(long)]
    recompute: bool,
    /// Seed of ids, lengths and draws.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl PpoBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        if self.steps == 0 {
            return Err(CliError::Flag {
                flag: "steps",
                found: "0".to_owned(),
                expected: "at least 1",
            });
        }
        let options = self.placement.options()?;
        seeded(self.seed.cast_signed(), || self.timed(options))?
    }

    fn timed(&self, options: LoadOptions) -> Result<(), CliError> {
        let reward = match &self.reward {
            Some(location) => Some(model::files(location)?.classifier(options)?),
            None => None,
        };
        let mut trainer = self.trainer(options)?;

        let mut phases: BTreeMap<&str, f64> = BTreeMap::new();
        let mut details: BTreeMap<String, f64> = BTreeMap::new();
        let mut meter = Meter::default();
        for step in 0..=self.steps {
            let vocab = trainer.policy().spec().vocab_size;
            let seed = Seed::new(self.seed).derive("lengths", step);
            let lengths = self.prompt_len.of("prompt-len", self.batch, seed)?;
            let queries: Vec<Vec<u32>> =
                lengths.into_iter().map(|length| random_rows(1, length, vocab).remove(0)).collect();
            let before = Work::so_far();
            let seconds = self.step(&mut trainer, reward.as_ref(), queries, &mut details)?;
            // The first step is a warm-up.
            if step == 0 {
                details.clear();
                continue;
            }
            meter.add(before, seconds.iter().sum());
            for (phase, second) in ["generate", "reward", "update"].into_iter().zip(seconds) {
                *phases.entry(phase).or_default() += second / self.steps as f64;
            }
        }
        for second in details.values_mut() {
            *second /= self.steps as f64;
        }
        self.report(&phases, &details, &meter, trainer.policy().spec())
    }

    fn trainer(&self, options: LoadOptions) -> Result<PpoTrainer<LanguageModel>, CliError> {
        let lora = self.lora.map(|rank| Lora::new("ppo", rank));
        let files = model::files(&self.policy)?;
        if let (Some(adapter), Some(_)) = (&files.adapter, &lora) {
            return Err(CliError::Flag {
                flag: "lora",
                found: format!("a new adapter on the adapter {}", adapter.display()),
                expected: "a whole model (`rlaif merge` makes one), or no --lora: the adapter is trained",
            });
        }
        let setup = PolicySetup { lora, ..PolicySetup::new(files, options) };
        let (policy, reference) = setup.load()?;
        let reference = match reference {
            Some(reference) => Reference::Frozen(Box::new(reference)),
            None => Reference::AdaptersOff,
        };
        let activations = if self.recompute { Activations::Recompute } else { Activations::Keep };
        let config = PpoConfig {
            steps: self.steps + 1,
            batch_size: self.batch,
            minibatch_size: self.minibatch_size,
            microbatch_size: self.microbatch_size,
            epochs: self.epochs,
            generation: GenerationConfig {
                max_new_tokens: self.new_tokens,
                eos: Eos::Ignored,
                batch_size: self.batch,
                ..GenerationConfig::default()
            },
            activations,
            seed: Seed::new(self.seed),
            ..PpoConfig::default()
        };
        let spec = policy.spec();
        let head = ValueHead::new(spec.hidden_size, ValueInit::Zero, spec.device);
        Ok(PpoTrainer::new(policy, head, reference, config).map_err(RunError::from)?)
    }

    /// Seconds of generation, of scoring, and of everything else.
    fn step(
        &self,
        trainer: &mut PpoTrainer<LanguageModel>,
        reward: Option<&Classifier>,
        queries: Vec<Vec<u32>>,
        details: &mut BTreeMap<String, f64>,
    ) -> Result<[f64; 3], CliError> {
        let start = Instant::now();
        let rows: Vec<Ask> = (0..)
            .zip(&queries)
            .map(|(id, prompt)| Ask { id, prompt: prompt.clone(), max_new_tokens: None })
            .collect();
        let draw = Draw { seed: trainer.config().seed, step: trainer.steps_done() };
        let how = &trainer.config().generation;
        let sampled = respond(Weights::of(trainer.policy()), &rows, how, draw, Hooks::default())?;
        let responses: Vec<Vec<u32>> = sampled.into_iter().map(|row| row.ids).collect();
        let generate_s = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let scores = match reward {
            Some(classifier) => score(classifier, &responses)?,
            None => (0..self.batch as u64)
                .map(|row| Seed::new(self.seed).derive("score", row).get() as f64 / u64::MAX as f64)
                .collect(),
        };
        let reward_s = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let stats = trainer
            .rollout_of(queries, responses, &scores)
            .and_then(|rollout| {
                let advantages = trainer.advantages(&rollout)?;
                trainer.update(&rollout, &advantages)
            })
            .map_err(RunError::from)?;
        let update_s = start.elapsed().as_secs_f64();
        for phase in
            ["forward_pass", "compute_rewards", "compute_advantages", "optimize_step", "calc_stats"]
        {
            *details.entry(phase.to_owned()).or_default() +=
                stats.get(&format!("time/ppo/{phase}"));
        }
        Ok([generate_s, reward_s, update_s])
    }

    fn report(
        &self,
        phases: &BTreeMap<&str, f64>,
        details: &BTreeMap<String, f64>,
        meter: &Meter,
        spec: &LmSpec,
    ) -> Result<(), CliError> {
        let second: f64 = phases.values().sum();
        let samples = self.batch as f64 / second;
        let measured = Measured::default()
            .value("sec_per_step", second)
            .value("phases", json!(phases))
            .value("update_phases", json!(details))
            .value("samples_per_s", samples)
            .value("tokens_per_s", (self.batch * self.new_tokens) as f64 / second)
            .line("step", format!("{second:.3} s, {samples:.2} samples/s"));
        let line = |measured: Measured, (phase, second): (String, &f64)| {
            measured.line(phase, format!("{second:.3} s"))
        };
        let phases = phases.iter().map(|(phase, second)| ((*phase).to_owned(), second));
        let details = details.iter().map(|(phase, second)| (format!("  {phase}"), second));
        phases
            .chain(details)
            .fold(measured, line)
            .shares(meter, spec.kind, spec.device)?
            .print(self.json, spec.device)
    }
}

/// The first logit of each response. The ids have no meaning for the classifier, because only time
/// counts here.
fn score(classifier: &Classifier, responses: &[Vec<u32>]) -> Result<Vec<f64>, CliError> {
    let spec = classifier.spec();
    let vocab = u32::try_from(spec.vocab_size).unwrap_or(u32::MAX);
    let rows = responses.iter().map(|row| row.iter().map(|id| id % vocab).collect()).collect();
    let rows = TokenBatch::collate(rows, spec, Padding::Right)?;
    let logits = no_grad(|| classifier.logits(&rows, None, Forward::default()))?;
    let first = logits.select(1, 0).to_kind(tch::Kind::Double).to_device(Device::Cpu);
    Ok(Vec::<f64>::try_from(first).expect("one logit per row"))
}

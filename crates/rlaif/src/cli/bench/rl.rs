//! Code shared by the benches of reinforcement learning: flags, models, prompts and the report.

use std::num::NonZeroU32;

use clap::Args;
use rlaif_core::Seed;
use rlaif_lm::{
    Activations, LmSpec, Reference,
    generate::{Eos, GenerationConfig},
};
use rlaif_models::{LanguageModel, LoadOptions, Lora, PolicySetup};
use rlaif_torch::{Work, seeded};
use serde_json::{Map, Value};

use super::common::{Measured, Meter, at_least_one, random_rows};
use crate::cli::{
    error::CliError,
    lengths::Lengths,
    model::{self, Placement},
};

/// The settings of a bench of steps with sampled responses.
#[derive(Debug, Args)]
pub(super) struct RlSteps {
    /// The policy: a folder in Hugging Face's layout, or a hub id.
    #[arg(long, alias = "policy")]
    model: String,
    #[command(flatten)]
    placement: Placement,
    /// Responses per step.
    #[arg(long, alias = "batch", default_value_t = 16)]
    pub(super) batch_size: usize,
    /// Responses per forward and backward pass; 0 for the whole minibatch.
    #[arg(long, alias = "microbatch", default_value_t = 0)]
    pub(super) microbatch_size: usize,
    /// Lengths of the prompts in tokens: one length, one for each prompt (64,101,..) or a range
    /// (8-256).
    #[arg(long, default_value = "64-128")]
    prompt_len: Lengths,
    /// Tokens per response; end of sequence is ignored.
    #[arg(long, default_value_t = 32)]
    new_tokens: usize,
    /// Timed steps, after one untimed step.
    #[arg(long, default_value_t = 2)]
    pub(super) steps: u64,
    /// Trains LoRA adapters of this rank on every linear layer, with the adapter-free policy as the
    /// reference. By default, all weights are trained, with a copy as the reference.
    #[arg(long)]
    lora: Option<NonZeroU32>,
    /// Recomputes activations in the backward pass (gradient checkpointing).
    #[arg(long)]
    recompute: bool,
    /// Seed of ids, lengths and draws.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Seconds of phases, by name.
pub(super) type Phases = Vec<(&'static str, f64)>;

/// Seconds and work of the timed steps.
#[derive(Debug, Default)]
pub(super) struct Times {
    phases: Phases,
    details: Phases,
    meter: Meter,
}

impl Times {
    /// Adds a step: its phases, and the parts of the last phase.
    pub(super) fn add(&mut self, before: Work, phases: &Phases, details: &Phases) {
        self.meter.add(before, phases.iter().map(|(_, seconds)| seconds).sum());
        for (all, step) in [(&mut self.phases, phases), (&mut self.details, details)] {
            if all.is_empty() {
                all.extend(step.iter().map(|(phase, _)| (*phase, 0.)));
            }
            for ((_, sum), (_, seconds)) in all.iter_mut().zip(step) {
                *sum += seconds;
            }
        }
    }
}

impl RlSteps {
    /// Checks the flags, and runs a bench with the seed's random numbers.
    pub(super) fn run(
        &self,
        bench: impl FnOnce(LoadOptions) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        at_least_one(&[("steps", usize::try_from(self.steps).unwrap_or(usize::MAX))])?;
        let options = self.placement.options()?;
        seeded(self.seed.cast_signed(), || bench(options))?
    }

    /// The policy, and its reference if it is needed.
    pub(super) fn policy(
        &self,
        options: LoadOptions,
        needs_reference: bool,
    ) -> Result<(LanguageModel, Reference), CliError> {
        let lora = self.lora.map(|rank| Lora::new("bench", rank));
        let files = model::files(&self.model)?;
        if let (Some(adapter), Some(_)) = (&files.adapter, &lora) {
            return Err(CliError::Flag {
                flag: "lora",
                found: format!("a new adapter on the adapter {}", adapter.display()),
                expected: "a whole model (`rlaif merge` makes one), or no --lora: the adapter is trained",
            });
        }
        let setup = PolicySetup { lora, ..PolicySetup::new(files, options) };
        if !needs_reference {
            return Ok((setup.policy()?, Reference::Given));
        }
        Ok(setup.load()?)
    }

    /// Random ids of `count` prompts of a step.
    pub(super) fn prompts(
        &self,
        step: u64,
        count: usize,
        spec: &LmSpec,
    ) -> Result<Vec<Vec<u32>>, CliError> {
        let seed = Seed::new(self.seed).derive("lengths", step);
        let lengths = self.prompt_len.of("prompt-len", count, seed)?;
        Ok(lengths.into_iter().map(|n| random_rows(1, n, spec.vocab_size).remove(0)).collect())
    }

    /// Random scores of a step's responses, between 0 and 1.
    pub(super) fn scores(&self) -> Vec<f64> {
        let score = |row| Seed::new(self.seed).derive("score", row).get() as f64 / u64::MAX as f64;
        (0..self.batch_size as u64).map(score).collect()
    }

    pub(super) fn generation(&self) -> GenerationConfig {
        GenerationConfig {
            max_new_tokens: self.new_tokens,
            eos: Eos::Ignored,
            batch_size: self.batch_size,
            ..GenerationConfig::default()
        }
    }

    pub(super) fn activations(&self) -> Activations {
        if self.recompute { Activations::Recompute } else { Activations::Keep }
    }

    /// Prints the means over the timed steps.
    pub(super) fn report(&self, times: &Times, spec: &LmSpec) -> Result<(), CliError> {
        let mean = |phases: &Phases| -> Phases {
            phases.iter().map(|(phase, sum)| (*phase, sum / self.steps as f64)).collect()
        };
        let object = |phases: &Phases| {
            let values = phases.iter().map(|(phase, s)| ((*phase).to_owned(), Value::from(*s)));
            Value::Object(values.collect::<Map<_, _>>())
        };
        let (phases, details) = (mean(&times.phases), mean(&times.details));
        let second: f64 = phases.iter().map(|(_, seconds)| seconds).sum();
        let samples = self.batch_size as f64 / second;
        let measured = Measured::default()
            .value("sec_per_step", second)
            .value("phases", object(&phases))
            .value("update_phases", object(&details))
            .value("samples_per_s", samples)
            .value("tokens_per_s", (self.batch_size * self.new_tokens) as f64 / second)
            .line("step", format!("{second:.3} s, {samples:.2} samples/s"));
        let details = details.iter().map(|(phase, seconds)| (format!("  {phase}"), seconds));
        phases
            .iter()
            .map(|(phase, seconds)| ((*phase).to_owned(), seconds))
            .chain(details)
            .fold(measured, |all, (phase, seconds)| all.line(phase, format!("{seconds:.3} s")))
            .shares(&times.meter, spec.kind, spec.device)?
            .print(self.json, spec.device)
    }
}

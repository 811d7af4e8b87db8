//! Code shared by the benches of reinforcement learning: settings, models, prompts and the report.

use std::num::NonZeroU32;

use rlaif_core::Seed;
use rlaif_lm::{
    Activations, LmSpec, Reference,
    generate::{Eos, GenerationConfig},
};
use rlaif_models::{LanguageModel, LoadOptions, Lora, PolicySetup};
use rlaif_torch::{WorkOfProducts, seeded};
use serde_json::{Map, Value};

use super::{
    lengths::BenchLengths,
    measured::{Measured, Meter, random_rows},
};
use crate::command::{
    error::{CommandError, at_least_one},
    model::ModelChoice,
};

/// The settings of a bench of steps with sampled responses.
#[derive(Debug, Clone)]
pub struct RlSteps {
    /// The policy.
    pub model: ModelChoice,
    /// Responses per step.
    pub batch_size: usize,
    /// Responses per forward and backward pass; 0 for the whole minibatch.
    pub microbatch_size: usize,
    /// Lengths of the prompts in tokens.
    pub prompt_len: BenchLengths,
    /// Tokens per response; end of sequence is ignored.
    pub new_tokens: usize,
    /// Timed steps, after one untimed step.
    pub steps: u64,
    /// Trains LoRA adapters of this rank on every linear layer, with the adapter-free policy as the
    /// reference. By default, all weights are trained, with a copy as the reference.
    pub lora: Option<NonZeroU32>,
    /// Activations of the forward pass.
    pub activations: Activations,
    /// Seed of ids, lengths and draws.
    pub seed: u64,
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
    pub(super) fn add(&mut self, before: WorkOfProducts, phases: &Phases, details: &Phases) {
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
    /// Checks the settings, and runs a bench with the seed's random numbers.
    pub(super) fn run(
        &self,
        bench: impl FnOnce(LoadOptions) -> Result<Measured, CommandError>,
    ) -> Result<Measured, CommandError> {
        at_least_one(&[("steps", usize::try_from(self.steps).unwrap_or(usize::MAX))])?;
        let options = self.model.loading.options()?;
        seeded(self.seed.cast_signed(), || bench(options))?
    }

    /// The policy, and its reference if it is needed.
    pub(super) fn policy(
        &self,
        options: LoadOptions,
        needs_reference: bool,
    ) -> Result<(LanguageModel, Reference), CommandError> {
        let lora = self.lora.map(|rank| Lora::new("bench", rank));
        let files = self.model.files()?;
        if let (Some(adapter), Some(_)) = (&files.adapter, &lora) {
            return Err(CommandError::setting(
                "lora",
                format!("a new adapter on the adapter {}", adapter.display()),
                "a whole model (`rlaif merge` makes one), or no --lora: the adapter is trained",
            ));
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
    ) -> Result<Vec<Vec<u32>>, CommandError> {
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

    /// The means over the timed steps.
    pub(super) fn report(&self, times: &Times, spec: &LmSpec) -> Result<Measured, CommandError> {
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
            .finish(spec.device)
    }
}

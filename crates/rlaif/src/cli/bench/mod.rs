//! `rlaif bench`: speed of this machine on a model, with random token ids of fixed length.

mod common;
mod dpo;
mod generate;
mod ppo;
mod reinforce;
mod rl;
mod sft;

use std::time::Instant;

use clap::{Args, Subcommand};
use rlaif_lm::{
    Forward, Padding, Parameters, Policy, SequenceClassifier, TokenBatch, policy_log_probs,
};
use rlaif_models::{ModelFiles, ModelSort};
use rlaif_torch::{Work, seeded};
use tch::{Kind, Tensor, no_grad};

use super::{error::CliError, model::ModelArguments};
use common::{Measured, Meter, at_least_one, median, random_rows};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Forward, and forward with backward: the log-probs of random responses to random prompts, or
    /// a classifier's cross-entropy on random labels.
    Forward(ForwardBench),
    /// One optimizer step of DPO on pairs.
    Dpo(dpo::DpoBench),
    /// Optimizer steps of supervised fine-tuning.
    Sft(sft::SftBench),
    /// Steps of PPO: generation, scoring, and the update.
    Ppo(ppo::PpoBench),
    /// Steps of GRPO and its family: generation of groups, scoring, and the update.
    Reinforce(reinforce::ReinforceBench),
    /// Generation: responses of fixed length to random prompts, sampled from the whole vocabulary.
    Generate(generate::GenerateBench),
}

impl Bench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        match self {
            Self::Forward(bench) => bench.run(),
            Self::Dpo(bench) => bench.run(),
            Self::Sft(bench) => bench.run(),
            Self::Ppo(bench) => bench.run(),
            Self::Reinforce(bench) => bench.run(),
            Self::Generate(bench) => bench.run(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ForwardBench {
    #[command(flatten)]
    model: ModelArguments,
    /// Rows.
    #[arg(long, alias = "batch", default_value_t = 8)]
    batch_size: usize,
    /// Tokens per prompt; for a classifier, per sequence.
    #[arg(long, default_value_t = 128)]
    prompt_len: usize,
    /// Tokens per response; not used by classifiers.
    #[arg(long, alias = "response-len", default_value_t = 32)]
    new_tokens: usize,
    /// Timed passes of each kind, after one untimed pass.
    #[arg(long, alias = "repeats", default_value_t = 5)]
    steps: usize,
    /// Seed of the token ids.
    #[arg(long, default_value_t = 1)]
    seed: i64,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Seconds of a forward pass and of one with its backward pass, the work of both, and the model's dtype.
type Timed = (f64, f64, Meter, Kind);

impl ForwardBench {
    fn run(&self) -> Result<(), CliError> {
        at_least_one(&[
            ("batch-size", self.batch_size),
            ("prompt-len", self.prompt_len),
            ("steps", self.steps),
        ])?;
        let options = self.model.placement.options()?;
        let files = self.model.files()?;
        let sort = files.sort(options)?;
        let (forward_s, forward_backward_s, meter, kind) = seeded(self.seed, || match sort {
            ModelSort::LanguageModel => self.language_model(&files),
            ModelSort::Classifier => self.classifier(&files),
        })??;
        Measured::default()
            .value("forward_s", forward_s)
            .value("forward_backward_s", forward_backward_s)
            .line("forward", format!("{forward_s:.4} s"))
            .line("forward + backward", format!("{forward_backward_s:.4} s"))
            .shares(&meter, kind, options.device)?
            .print(self.json, options.device)
    }

    fn language_model(&self, files: &ModelFiles) -> Result<Timed, CliError> {
        if self.new_tokens == 0 {
            return Err(CliError::Flag {
                flag: "new-tokens",
                found: "0".to_owned(),
                expected: "at least 1 for a language model",
            });
        }
        let policy = self.model.language_model(files)?;
        let spec = policy.spec();
        let prompts = random_rows(self.batch_size, self.prompt_len, spec.vocab_size);
        let prompts = TokenBatch::collate(prompts, spec, Padding::Right)?;
        let responses = random_rows(self.batch_size, self.new_tokens, spec.vocab_size);
        let responses = TokenBatch::responses(responses, spec)?;
        let forward = Forward::default();
        let loss = || {
            let found = policy_log_probs(&policy, &prompts, &responses, forward, 1.)?;
            Ok(-found.log_probs.mean(Kind::Float))
        };
        self.time(policy.parameters(), spec.kind, loss)
    }

    fn classifier(&self, files: &ModelFiles) -> Result<Timed, CliError> {
        let classifier = self.model.classifier(files)?;
        let spec = classifier.spec();
        let rows = random_rows(self.batch_size, self.prompt_len, spec.vocab_size);
        let rows = TokenBatch::collate(rows, spec, Padding::Right)?;
        let labels = i64::try_from(classifier.labels().len()).unwrap_or(1);
        let options = (Kind::Int64, spec.device);
        let labels = Tensor::randint(labels, [rows.len() as i64], options);
        let loss = || {
            let logits = classifier.logits(&rows, None, Forward::default())?;
            Ok(logits.cross_entropy_for_logits(&labels))
        };
        self.time(classifier.parameters(), spec.kind, loss)
    }

    /// Medians, after one untimed pass of either kind.
    fn time(
        &self,
        parameters: &Parameters,
        kind: Kind,
        loss: impl Fn() -> Result<Tensor, CliError>,
    ) -> Result<Timed, CliError> {
        let mut meter = Meter::default();
        let tensors: Vec<&Tensor> = parameters.iter().map(|(_, tensor)| tensor).collect();
        let forward = self.seconds(&mut meter, || {
            no_grad(&loss)?.double_value(&[]);
            Ok(())
        })?;
        let both = self.seconds(&mut meter, || {
            rlaif_torch::drop_grads(&tensors)?;
            let loss = loss()?;
            loss.backward();
            loss.double_value(&[]);
            Ok(())
        })?;
        Ok((forward, both, meter, kind))
    }

    fn seconds(
        &self,
        meter: &mut Meter,
        pass: impl Fn() -> Result<(), CliError>,
    ) -> Result<f64, CliError> {
        pass()?;
        let mut seconds = Vec::with_capacity(self.steps);
        for _ in 0..self.steps {
            let (start, before) = (Instant::now(), Work::so_far());
            pass()?;
            seconds.push(start.elapsed().as_secs_f64());
            meter.add(before, start.elapsed().as_secs_f64());
        }
        Ok(median(seconds))
    }
}

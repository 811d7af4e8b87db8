//! `rlaif bench`: this machine's times on a model, with random token ids of fixed length.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    time::Instant,
};

use clap::{Args, Subcommand};
use rlaif_lm::{
    Forward, Padding, Parameters, Policy, SequenceClassifier, TokenBatch, token_log_probs,
};
use rlaif_models::{Classifier, Config, LanguageModel, LoadOptions, ModelSort};
use serde::de::DeserializeOwned;
use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};

use super::{
    bench_dpo::DpoBench,
    bench_generate::GenerateBench,
    bench_ppo::PpoBench,
    bench_sft::SftBench,
    error::{CliError, RowProblem},
    model::{self, ModelArguments},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Forward, and forward with backward: the log-probs of random responses to random prompts, or
    /// a classifier's cross-entropy on random labels.
    Forward(ForwardBench),
    /// One optimizer step of DPO on pairs.
    Dpo(DpoBench),
    /// Optimizer steps of supervised fine-tuning.
    Sft(SftBench),
    /// Steps of PPO: generation, scoring, and the update.
    Ppo(PpoBench),
    /// Generation: responses of fixed length to random prompts, sampled from the whole vocabulary.
    Generate(GenerateBench),
}

impl Bench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        match self {
            Self::Forward(bench) => bench.run(),
            Self::Dpo(bench) => bench.run(),
            Self::Sft(bench) => bench.run(),
            Self::Ppo(bench) => bench.run(),
            Self::Generate(bench) => bench.run(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ForwardBench {
    #[command(flatten)]
    model: ModelArguments,
    /// Rows.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Tokens of each prompt; of each sequence, for a classifier.
    #[arg(long, default_value_t = 128)]
    prompt_len: usize,
    /// Tokens of each response; a classifier reads none.
    #[arg(long, default_value_t = 32)]
    response_len: usize,
    /// Timed passes of either kind, after one that is not counted.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Seed of the token ids.
    #[arg(long, default_value_t = 1)]
    seed: i64,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl ForwardBench {
    fn run(&self) -> Result<(), CliError> {
        at_least_one(&[
            ("batch", self.batch),
            ("prompt-len", self.prompt_len),
            ("repeats", self.repeats),
        ])?;
        let options = self.model.placement.options()?;
        let folder = model::folder(&self.model.model, self.model.revision.as_deref())?;
        tch::manual_seed(self.seed);
        let (forward_s, forward_backward_s) = match ModelSort::of(&Config::read(&folder)?)? {
            ModelSort::LanguageModel => self.language_model(&folder, options)?,
            ModelSort::Classifier => self.classifier(&folder, options)?,
        };
        let peak = peak_memory(options.device)?;
        if self.json {
            let object = json!({
                "forward_s": forward_s,
                "forward_backward_s": forward_backward_s,
                "peak_memory_bytes": peak,
            });
            println!("{object}");
        } else {
            println!("forward            {forward_s:.4} s");
            println!("forward + backward {forward_backward_s:.4} s");
            if let Some(peak) = peak {
                println!("peak memory        {} MiB", peak >> 20);
            }
        }
        Ok(())
    }

    fn language_model(&self, folder: &Path, options: LoadOptions) -> Result<(f64, f64), CliError> {
        if self.response_len == 0 {
            return Err(CliError::Flag {
                flag: "response-len",
                found: "0".to_owned(),
                expected: "at least 1 for a language model",
            });
        }
        let policy = LanguageModel::load(folder, options)?;
        let spec = policy.spec();
        let prompts = random_rows(self.batch, self.prompt_len, spec.vocab_size);
        let prompts = TokenBatch::collate(prompts, spec, Padding::Right)?;
        let responses = random_rows(self.batch, self.response_len, spec.vocab_size);
        let responses = TokenBatch::responses(responses, spec)?;
        let forward = Forward::default();
        let loss = || {
            let hidden = policy.response_hidden(&prompts, &responses, forward)?;
            let head = policy.head(forward)?;
            Ok(-token_log_probs(&head, &hidden, &responses, 1.)?.log_probs.mean(Kind::Float))
        };
        self.time(policy.parameters(), loss)
    }

    fn classifier(&self, folder: &Path, options: LoadOptions) -> Result<(f64, f64), CliError> {
        let classifier = Classifier::load(folder, options)?;
        let spec = classifier.spec();
        let rows = random_rows(self.batch, self.prompt_len, spec.vocab_size);
        let rows = TokenBatch::collate(rows, spec, Padding::Right)?;
        let labels = i64::try_from(classifier.labels().len()).unwrap_or(1);
        let options = (Kind::Int64, spec.device);
        let labels = Tensor::randint(labels, [rows.len() as i64], options);
        let loss = || {
            let logits = classifier.logits(&rows, None, Forward::default())?;
            Ok(logits.cross_entropy_for_logits(&labels))
        };
        self.time(classifier.parameters(), loss)
    }

    /// Median seconds of a forward pass, and of a forward pass with its backward pass.
    fn time(
        &self,
        parameters: &Parameters,
        loss: impl Fn() -> Result<Tensor, CliError>,
    ) -> Result<(f64, f64), CliError> {
        let tensors: Vec<&Tensor> = parameters.iter().map(|(_, tensor)| tensor).collect();
        let forward = self.median(|| {
            no_grad(&loss)?.double_value(&[]);
            Ok(())
        })?;
        let both = self.median(|| {
            rlaif_torch::drop_grads(&tensors)?;
            let loss = loss()?;
            loss.backward();
            loss.double_value(&[]);
            Ok(())
        })?;
        Ok((forward, both))
    }

    fn median(&self, pass: impl Fn() -> Result<(), CliError>) -> Result<f64, CliError> {
        pass()?;
        let mut seconds = Vec::with_capacity(self.repeats);
        for _ in 0..self.repeats {
            let start = Instant::now();
            pass()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok((seconds[(seconds.len() - 1) / 2] + seconds[seconds.len() / 2]) / 2.)
    }
}

/// Rows of random ids, clear of the first few, which are special in most vocabularies.
pub(super) fn random_rows(rows: usize, length: usize, vocab_size: i64) -> Vec<Vec<u32>> {
    let first = if vocab_size > 20 { 10 } else { 0 };
    (0..rows)
        .map(|_| {
            let options = (Kind::Int64, Device::Cpu);
            let ids = Tensor::randint_low(first, vocab_size, [length as i64], options);
            let ids = Vec::<i64>::try_from(&ids).expect("a vector of int64");
            ids.into_iter().map(|id| u32::try_from(id).expect("ids are not negative")).collect()
        })
        .collect()
}

/// Refuses a flag that is 0.
pub(super) fn at_least_one(flags: &[(&'static str, usize)]) -> Result<(), CliError> {
    match flags.iter().find(|(_, value)| *value == 0) {
        Some((flag, _)) => {
            Err(CliError::Flag { flag, found: "0".to_owned(), expected: "at least 1" })
        }
        None => Ok(()),
    }
}

/// The first `needed` rows of a file of token ids, JSON Lines with the fields `expected`.
pub(super) fn rows_of_ids<T: DeserializeOwned>(
    path: &Path,
    expected: &'static str,
    needed: usize,
) -> Result<Vec<T>, CliError> {
    let open = |source| CliError::Open { path: path.to_owned(), source };
    let lines = BufReader::new(File::open(path).map_err(open)?).lines();
    let mut rows = Vec::with_capacity(needed);
    for (line, text) in (1..).zip(lines).take(needed) {
        let row = serde_json::from_str(&text.map_err(open)?).map_err(|source| {
            let problem = RowProblem::Json { expected, source };
            CliError::Row { source_name: path.display().to_string(), line, problem }
        })?;
        rows.push(row);
    }
    if rows.len() < needed {
        return Err(CliError::Flag {
            flag: "input",
            found: format!("a file of {} rows", rows.len()),
            expected: "a file of --batch times (--steps + 1) rows",
        });
    }
    Ok(rows)
}

/// The most memory that was held so far, where the system says, in bytes: of the device, if that
/// is a GPU.
pub(super) fn peak_memory(device: Device) -> Result<Option<u64>, CliError> {
    Ok(match device {
        Device::Cuda(device) => Some(rlaif_torch::cuda_memory(device)?.allocated_peak),
        _ => rlaif_torch::host_memory().resident_peak,
    })
}

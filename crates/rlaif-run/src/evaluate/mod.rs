//! From two policies to a report: responses to held-out prompts, scores, comparison.

mod config;
mod data;
mod error;
mod metric;
mod response;
mod responses;
mod training;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use rlaif_core::{PromptRecord, Provenance, Sample, Seed, TextCodec};
use rlaif_eval::likelihood::{self, Likelihood, columns};
use rlaif_eval::{
    About, CompareOptions, Comparison, Details, EvalError, Evaluation, Measurement, Metric,
    PairJudge, Report, Timing, WinRateOptions, win_rate,
};
use rlaif_lm::generate::GenerationConfig;
use rlaif_lm::{Forward, Policy, Sampler};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use config::{EvalFile, PolicyConfig, PreferenceCheck};
pub use data::{CorpusName, EvalData};
pub use error::EvaluateError;
pub use metric::MetricConfig;
use response::Response;
pub use training::tell_of_training;

/// A model that answers prompts.
#[derive(Clone, Copy)]
pub struct EvaluatedModel<'a> {
    /// Name in reports: a folder, a hub id.
    pub name: &'a str,
    /// The policy.
    pub policy: &'a dyn Policy,
    /// Mode of the policy; [`rlaif_lm::Adapters::Off`] makes a tuned policy its own baseline.
    pub forward: Forward<'a>,
    /// The tokenizer.
    pub codec: &'a dyn TextCodec,
}

/// Perplexity and KL divergence under the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LikelihoodMetrics {
    /// Measured.
    #[default]
    On,
    /// Not measured.
    Off,
}

/// Side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The baseline.
    Before,
    /// The tuned policy.
    After,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Compares a baseline and a tuned policy on the same prompts with the same seeds.
///
/// The numbers of a response depend on the seed, the prompt's id and the number of the response.
/// Both sides therefore draw the same random numbers, and batch size and other prompts affect a
/// response only by rounding. With a folder, responses and scores are written to disk immediately,
/// and the same call after an interruption continues with the missing ones.
///
/// ```
/// # use rlaif_core::{CodecError, GenerationPrompt, Message, Specials, TextCodec};
/// # struct Bytes;
/// # impl TextCodec for Bytes {
/// #     fn name(&self) -> &str { "bytes" }
/// #     fn encode(&self, text: &str, _: Specials) -> Result<Vec<u32>, CodecError> { Ok(text.bytes().map(u32::from).collect()) }
/// #     fn decode(&self, ids: &[u32], _: Specials) -> Result<String, CodecError> { Ok(ids.iter().map(|&id| char::from(id as u8)).collect()) }
/// #     fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> { Err(CodecError::NoChatTemplate { codec: "bytes".to_owned() }) }
/// # }
/// # let config = || rlaif_models::Config::from_value(serde_json::json!({
/// #     "model_type": "llama", "vocab_size": 128, "hidden_size": 16, "intermediate_size": 24,
/// #     "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
/// # }));
/// # let model = |seed| {
/// #     tch::manual_seed(seed);
/// #     rlaif_models::LanguageModel::random(config(), tch::Kind::Float, tch::Device::Cpu)
/// # };
/// # let (base, tuned, codec) = (model(1)?, model(2)?, Bytes);
/// use rlaif_core::{PromptRecord, Seed};
/// use rlaif_eval::{Metric, text::{LengthMetric, LengthUnit}};
/// use rlaif_lm::generate::GenerationConfig;
/// use rlaif_run::{Evaluate, EvaluatedModel};
///
/// let prompts: Vec<PromptRecord> =
///     (0..8).map(|n| PromptRecord::new(format!("q-{n}"), format!("What is {n} + {n}?"))).collect();
/// let metrics: [Box<dyn Metric>; 1] = [Box::new(LengthMetric::new(LengthUnit::Words))];
/// let before = EvaluatedModel {
///     name: "base", policy: &base, forward: Default::default(), codec: &codec,
/// };
/// let after = EvaluatedModel { name: "tuned", policy: &tuned, ..before };
/// let report = Evaluate::new("Longer?", Seed::new(42), &metrics)
///     .generating(GenerationConfig { max_new_tokens: 12, ..Default::default() })
///     .run(&before, &after, &prompts)?;
/// assert_eq!(report.comparison().prompts, 8);
/// // The base is the reference.
/// assert!(report.comparison().row("kl_from_reference")?.before.moments.mean.abs() < 1e-5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Evaluate<'a> {
    title: String,
    seed: Seed,
    metrics: &'a [Box<dyn Metric>],
    judges: Vec<&'a dyn PairJudge>,
    generation: GenerationConfig,
    responses: usize,
    likelihood: LikelihoodMetrics,
    compare: CompareOptions,
    details: Details,
    provenance: Provenance,
    folder: Option<PathBuf>,
    /// Held from the first measurement on.
    lock: Option<File>,
    progress: Option<Box<OnProgress<'a>>>,
    /// The sampler of each side, if it is not the policy in this process.
    samplers: [Option<Box<dyn Sampler + 'a>>; 2],
}

type OnProgress<'a> = dyn FnMut(EvaluateProgress<'_>) + 'a;

/// Progress of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluateProgress<'a> {
    /// `before: responses`, `after: toxicity`, ...
    pub stage: &'a str,
    /// Rows done.
    pub done: usize,
    /// Rows there are.
    pub total: usize,
}

impl<'a> Evaluate<'a> {
    /// With these metrics; one sampled response of up to 128 tokens for each prompt, perplexity
    /// and KL divergence under the baseline as well, nothing on disk.
    pub fn new(title: impl Into<String>, seed: Seed, metrics: &'a [Box<dyn Metric>]) -> Self {
        Self {
            title: title.into(),
            seed,
            metrics,
            judges: Vec::new(),
            generation: GenerationConfig::default(),
            responses: 1,
            likelihood: LikelihoodMetrics::On,
            compare: CompareOptions { seed, ..CompareOptions::default() },
            details: Details::default(),
            provenance: Provenance::default(),
            folder: None,
            lock: None,
            progress: None,
            samplers: [None, None],
        }
    }

    /// Generation of responses.
    #[must_use]
    pub fn generating(mut self, generation: GenerationConfig) -> Self {
        self.generation = generation;
        self
    }

    /// Number of responses to each prompt; several show the worst of k.
    #[must_use]
    pub fn responses(mut self, count: usize) -> Self {
        self.responses = count;
        self
    }

    /// Takes the responses of one side from another sampler: a server, or a recording. By default,
    /// the policy samples them in this process. Log-probabilities that the sampler does not tell
    /// are computed by the policy.
    #[must_use]
    pub fn sampler(mut self, side: Side, sampler: impl Sampler + 'a) -> Self {
        self.samplers[side as usize] = Some(Box::new(sampler));
        self
    }

    /// Without perplexity and KL divergence, for policies of different vocabularies.
    #[must_use]
    pub fn without_likelihood(mut self) -> Self {
        self.likelihood = LikelihoodMetrics::Off;
        self
    }

    /// Also how often this judge prefers the tuned policy, asked in both orders.
    #[must_use]
    pub fn judge(mut self, judge: &'a dyn PairJudge) -> Self {
        self.judges.push(judge);
        self
    }

    /// Comparison of the two sides.
    #[must_use]
    pub fn comparing(mut self, options: CompareOptions) -> Self {
        self.compare = options;
        self
    }

    /// Further contents of the report.
    #[must_use]
    pub fn details(mut self, details: Details) -> Self {
        self.details = details;
        self
    }

    /// Origin of the prompts.
    #[must_use]
    pub fn provenance(mut self, provenance: Provenance) -> Self {
        self.provenance = provenance;
        self
    }

    /// Keeps responses and scores in this folder, uses what is there, and writes the report there.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Reports progress to a callback.
    #[must_use]
    pub fn progress(mut self, call: impl FnMut(EvaluateProgress<'_>) + 'a) -> Self {
        self.progress = Some(Box::new(call));
        self
    }

    /// Both sides and the report, which is also written if there is a folder.
    ///
    /// # Errors
    /// As [`Evaluate::measure`] and [`Evaluate::report`]; [`EvaluateError::Eval`] before anything is
    /// generated when the sides could not be compared as asked for: an unknown headline, say.
    pub fn run(
        mut self,
        before: &EvaluatedModel<'_>,
        after: &EvaluatedModel<'_>,
        prompts: &[PromptRecord],
    ) -> Result<Report, EvaluateError> {
        let mut names: Vec<&str> =
            self.metrics.iter().map(|metric| metric.info().name.as_str()).collect();
        if self.likelihood == LikelihoodMetrics::On {
            names.extend(likelihood::NAMES);
        }
        self.compare.check(&names, prompts)?;
        if prompts.len() == 1 {
            let what = "prompts to compare on".to_owned();
            return Err(EvalError::TooFew { what, needed: 2, found: 1 }.into());
        }
        let measured = self.measure(Side::Before, before, before, prompts)?;
        let tuned = self.measure(Side::After, after, before, prompts)?;
        self.report(&measured, &tuned)
    }

    /// One side: its responses, scored. Where the baseline is measured before training and the
    /// tuned policy after it, this is called twice.
    ///
    /// # Errors
    /// [`EvaluateError::DuplicatePrompt`], [`EvaluateError::NoPrompts`] and
    /// [`EvaluateError::NoReference`] of the prompts;
    /// [`EvaluateError::Policy`] when a policy fails; [`EvaluateError::OtherEvaluation`] when the
    /// folder holds another one; what metrics say.
    pub fn measure(
        &mut self,
        side: Side,
        who: &EvaluatedModel<'_>,
        reference: &EvaluatedModel<'_>,
        prompts: &[PromptRecord],
    ) -> Result<Evaluation, EvaluateError> {
        let start = Instant::now();
        let responses = self.respond(side, who, prompts)?;
        self.took(side, "responses", start);
        let sample = |response: &Response| Sample {
            record: prompts[response.prompt].clone(),
            response: response.text.clone().into(),
        };
        let samples: Vec<Sample> = responses.iter().map(sample).collect();
        let mut about = About::new(who.name, self.seed);
        about.generation = match serde_json::to_value(&self.generation) {
            Ok(Value::Object(settings)) => settings,
            _ => Map::new(),
        };
        about.generation.insert("responses".to_owned(), self.responses.into());

        let start = Instant::now();
        let mut measurement = Measurement::of(self.metrics);
        if let Some(folder) = &self.folder {
            measurement = measurement.journal(folder.join("scores.jsonl"));
        }
        if let Some(call) = &mut self.progress {
            measurement = measurement.progress(move |at| {
                let stage = format!("{}: {}", side.name(), at.metric);
                call(EvaluateProgress { stage: &stage, done: at.done, total: at.total });
            });
        }
        let mut evaluation = measurement.run(about, samples)?;
        evaluation.provenance = self.provenance.clone();
        self.took(side, "scores", start);

        if self.likelihood == LikelihoodMetrics::On {
            let start = Instant::now();
            let under = self.under_reference(reference, prompts, &responses)?;
            // The reference does not differ from itself, by as little as rounding.
            let same =
                std::ptr::addr_eq(who.policy, reference.policy) && who.forward == reference.forward;
            let row = |(response, reference): (&Response, f64)| Likelihood {
                tokens: response.ids.len(),
                policy: if same { reference } else { response.log_prob },
                reference,
            };
            let rows: Vec<Likelihood> = responses.iter().zip(under).map(row).collect();
            for column in columns(&rows)? {
                evaluation.add(column)?;
            }
            self.took(side, "likelihood", start);
        }
        Ok(evaluation)
    }

    /// The report on two sides that were measured alike.
    ///
    /// # Errors
    /// [`EvaluateError::Eval`] when they cannot be compared, a judge fails, or the report cannot
    /// be written.
    pub fn report(
        &mut self,
        before: &Evaluation,
        after: &Evaluation,
    ) -> Result<Report, EvaluateError> {
        let comparison = Comparison::of(before, after, &self.compare)?;
        let mut details = self.details.clone();
        for judge in &self.judges {
            let options = WinRateOptions {
                seed: self.seed,
                missing: self.compare.missing,
                ..WinRateOptions::default()
            };
            details.win_rates.push(win_rate(*judge, before.samples(), after.samples(), &options)?);
        }
        let report = Report::new(&self.title, before, after, comparison, details)?;
        if let Some(folder) = &self.folder {
            report.write(folder)?;
        }
        Ok(report)
    }

    /// Locks the folder, if there is one, for this evaluation.
    fn lock(&mut self) -> Result<(), EvaluateError> {
        let (Some(folder), None) = (&self.folder, &self.lock) else { return Ok(()) };
        let lock = rlaif_files::lock_folder(folder).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => EvaluateError::Busy { folder: folder.clone() },
            _ => EvaluateError::File { path: folder.clone(), source },
        })?;
        self.lock = Some(lock);
        Ok(())
    }

    fn took(&mut self, side: Side, what: &str, since: Instant) {
        let phase = format!("{}: {what}", side.name());
        self.details.timings.push(Timing { phase, seconds: since.elapsed().as_secs_f64() });
    }

    fn tell(&mut self, stage: &str, done: usize, total: usize) {
        if let Some(call) = &mut self.progress {
            call(EvaluateProgress { stage, done, total });
        }
    }
}

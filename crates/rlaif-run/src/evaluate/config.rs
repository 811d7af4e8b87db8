//! The configuration file of `rlaif eval`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use rlaif_core::{
    AskedPair, BadSetting, PromptRecord, PromptRow, Rendering, RewardModel, Seed, TextCodec,
    Unread, say,
};
use rlaif_data::{Dataset, Import, ImportColumns, Reader};
use rlaif_eval::{
    CompareOptions, Details, Metric, Missing, PairJudge, Report, ScoreJudge, SliceBy,
    preference_accuracy, read_curves,
};
use rlaif_lm::generate::GenerationConfig;
use rlaif_lm::{Forward, Policy};
use rlaif_models::{AnswerBatch, LanguageModel, LoadOptions, ModelError, ModelNames};
use rlaif_rewards::neural::{Copies, LocalModel, ModelDtype, tokenizer_folder};
use rlaif_rewards::{RewardConfig, RewardInput, Surroundings};
use rlaif_text::HfTokenizer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Device;

use super::data::EvalData;
use super::metric::{MetricConfig, card};
use super::responses::check_references;
use super::training;
use super::{Evaluate, EvaluateProgress, EvaluatedModel, LikelihoodMetrics, tell_of_training};
use crate::{
    error::RunError,
    fetch::model_files,
    file::RunFile,
    model::{Placement, tell_of_slow_dtype, tell_of_unread},
    prompt::{PromptSection, described, held_in},
    rewards::found,
    source::source,
    vocabulary::same_vocabulary,
    work::Work,
};

/// Contents of a file for `rlaif eval`. `docs/evaluation.md` describes every key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EvalFile {
    /// The report's heading.
    #[serde(default = "EvalFile::title")]
    pub title: String,
    /// Seed of sampling and resampling.
    #[serde(default)]
    pub seed: Seed,
    /// The folder of report, responses and scores; `--out` overrides it.
    pub out: Option<PathBuf>,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The model before tuning.
    pub baseline: PolicyConfig,
    /// The model after tuning.
    pub tuned: PolicyConfig,
    /// The prompts.
    pub data: EvalData,
    /// The text of a prompt. By default as in the evaluated run (`run`, or the run that produced
    /// `tuned`); without such a run as in training: texts unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptSection>,
    /// Generation of responses.
    #[serde(default)]
    pub generation: GenerationConfig,
    /// Responses to each prompt.
    #[serde(default = "EvalFile::one")]
    pub responses: NonZeroUsize,
    /// Perplexity and KL divergence under the baseline: measured or not.
    #[serde(default)]
    pub likelihood: LikelihoodMetrics,
    /// The metrics.
    pub metrics: Vec<MetricConfig>,
    /// Rewards that count which of the two responses they prefer.
    #[serde(default)]
    pub judges: Vec<RewardConfig>,
    /// Rewards to compare with recorded preferences.
    #[serde(default)]
    pub preferences: Vec<PreferenceCheck>,
    /// The metric of the headline; by default, the first.
    pub headline: Option<String>,
    /// Bootstrap resamples.
    #[serde(default = "EvalFile::resamples")]
    pub resamples: usize,
    /// Treatment of prompts with a response without a score.
    #[serde(default)]
    pub missing: Missing,
    /// Breakdown of the comparison.
    #[serde(default = "EvalFile::slices")]
    pub slices: Vec<SliceBy>,
    /// The metadata column with the toxicity of the prompt.
    pub prompt_toxicity: Option<String>,
    /// The metrics of the training reward and of a judge that took no part in training.
    pub reward_and_judge: Option<(String, String)>,
    /// The folder of the training run, for its curves, settings and findings.
    pub run: Option<PathBuf>,
    /// A judge that took no part in the training `run`, for the over-optimisation curve: it scores the responses
    /// in the run's samples.jsonl (`train.samples`), beside their scores in training and the KL divergence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_judge: Option<RewardConfig>,
}

impl EvalFile {
    fn title() -> String {
        "Baseline and tuned policy".to_owned()
    }
    fn one() -> NonZeroUsize {
        NonZeroUsize::MIN
    }
    fn resamples() -> usize {
        CompareOptions::default().resamples
    }
    fn slices() -> Vec<SliceBy> {
        CompareOptions::default().slices
    }
}

/// A policy to evaluate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Folder or hub id.
    pub model: String,
    /// Branch, tag or commit of a hub id.
    pub revision: Option<String>,
    /// Folder or hub id of a LoRA adapter on the model; `model` may also be an adapter itself.
    pub adapter: Option<String>,
    /// Base of the adapter in `model`; by default, the base in its configuration.
    pub base: Option<String>,
    /// The dtype of the weights; by default, that of the checkpoint.
    pub dtype: Option<ModelDtype>,
}

/// Agreement of a reward with the recorded preferences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreferenceCheck {
    /// A file, or a pattern, with preference pairs in any form.
    pub file: String,
    /// Maximum number of pairs, from the beginning.
    pub take: Option<usize>,
    /// The column of reference responses, for rewards that compare with them.
    pub reference_column: Option<String>,
    /// The reward.
    pub reward: RewardConfig,
}

impl PreferenceCheck {
    fn pairs(&self) -> Result<Vec<AskedPair>, RunError> {
        let source = source(&self.file)?;
        let mut metadata = self.reward.columns();
        metadata.extend(self.reference_column.clone());
        let columns = ImportColumns { metadata, ..ImportColumns::default() };
        let pairs = Import::find_named(&source, columns)?.pairs(Reader::new(source))?;
        let pairs = match self.take {
            Some(count) => pairs.take(count),
            None => pairs,
        };
        let how = Rendering::default();
        let reference = self.reference_column.as_deref();
        let pairs = pairs.into_records().into_iter().map(|row| row.asked(&how, reference));
        Ok(pairs.collect::<Result<_, _>>()?)
    }
}

impl PolicyConfig {
    /// The names of the model.
    fn names(&self) -> ModelNames<'_> {
        ModelNames {
            model: &self.model,
            revision: self.revision.as_deref(),
            adapter: self.adapter.as_deref(),
            base: self.base.as_deref(),
        }
    }

    /// The model, which generates these answers.
    fn local_model(&self, answers: AnswerBatch) -> LocalModel<'_> {
        LocalModel {
            names: self.names(),
            device: None,
            dtype: self.dtype,
            quantization: None,
            copies: Copies::Own,
            answers: Some(answers),
        }
    }
}

/// A policy in memory.
struct Loaded {
    name: String,
    policy: LanguageModel,
    codec: HfTokenizer,
}

impl Loaded {
    fn of(config: &PolicyConfig, device: Device) -> Result<Self, RunError> {
        let files = model_files(&config.names())?;
        let codec = HfTokenizer::from_folder(tokenizer_folder(&files))?;
        let kind = config.dtype.map(Into::into);
        let policy = files.language_model(LoadOptions::new(device, kind))?;
        tell_of_unread(&config.model, policy.unread());
        tell_of_slow_dtype(&config.model, policy.spec().kind, device);
        let name = match &config.adapter {
            Some(adapter) => format!("{} with {adapter}", config.model),
            None => config.model.clone(),
        };
        Ok(Self { name, policy, codec })
    }

    fn responder(&self) -> EvaluatedModel<'_> {
        EvaluatedModel {
            name: &self.name,
            policy: &self.policy,
            forward: Forward::default(),
            codec: &self.codec,
        }
    }
}

/// The rendering of prompts in an evaluation, and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PromptForms {
    how: Rendering,
    from: String,
}

impl EvalFile {
    /// Returns the rendering of prompts in this evaluation, and its origin.
    ///
    /// # Errors
    /// [`RunError::Model`] of a damaged file in the evaluated run.
    pub fn about_prompts(&self) -> Result<String, RunError> {
        let PromptForms { how, from } = self.prompt_forms()?;
        Ok(format!("{} ({from})", described(&how)))
    }

    /// The prompts, as the policy of this tokenizer reads them.
    ///
    /// # Errors
    /// [`RunError::Data`] and [`RunError::Setting`].
    pub fn prompts(&self, codec: &HfTokenizer) -> Result<Dataset<PromptRecord>, RunError> {
        self.data.prompts(&self.data.rows()?, codec, self.prompt_forms()?.how)
    }

    /// The configuration's own section, or else the rendering of the evaluated run.
    fn prompt_forms(&self) -> Result<PromptForms, RunError> {
        let own = self.prompt.as_ref().map(|section| PromptForms {
            how: section.rendering(),
            from: "as `[prompt]` says".to_owned(),
        });
        let forms = match own {
            Some(own) => own,
            None => self.trained_forms()?.unwrap_or_else(|| PromptForms {
                how: Rendering::default(),
                from: "no run says otherwise; `prompt.plain = \"chat\"` uses the chat template"
                    .to_owned(),
            }),
        };
        Ok(forms)
    }

    /// The rendering that the training of the evaluated model used: in its run's folder, in its own,
    /// or in the folder that holds it, symbolic links followed.
    fn trained_forms(&self) -> Result<Option<PromptForms>, RunError> {
        let result = Path::new(self.tuned.adapter.as_deref().unwrap_or(&self.tuned.model));
        let result = result.canonicalize().unwrap_or_else(|_| result.to_owned());
        let folders = self.run.as_deref().into_iter().chain([&*result]).chain(result.parent());
        for folder in folders {
            if let Some(how) = held_in(folder).map_err(ModelError::from)? {
                let from = format!("as in the training of {}", folder.display());
                return Ok(Some(PromptForms { how, from }));
            }
        }
        Ok(None)
    }

    /// Checks that both policies and all models of metrics, judges and checks fit into memory.
    fn check_memory(&self, device: Device) -> Result<(), RunError> {
        let GenerationConfig { batch_size: rows, max_new_tokens: tokens, .. } = self.generation;
        let answers = AnswerBatch { rows, tokens };
        let policies = [&self.baseline, &self.tuned].map(|policy| policy.local_model(answers));
        let metrics: Vec<RewardConfig> =
            self.metrics.iter().filter_map(MetricConfig::as_reward).collect();
        let checks = self.preferences.iter().map(|check| &check.reward);
        let rewards = metrics.iter().chain(&self.judges).chain(&self.run_judge).chain(checks);
        let rewards = rewards.flat_map(RewardConfig::local_models);
        self.placement.check_models(device, policies, rewards)
    }

    /// Tells what prompts have that no reward reads.
    fn tell_of_unread(&self, rows: &Dataset<PromptRow>) {
        let metrics = self.metrics.iter().filter_map(MetricConfig::reward);
        let inputs = metrics.chain(&self.judges).map(RewardConfig::input);
        if inputs.max() == Some(RewardInput::Text) {
            let mut unread = Unread::default();
            rows.records().iter().for_each(|row| unread.add([&row.prompt]));
            unread.sentences("metrics and judges").iter().for_each(say);
        }
    }

    /// Runs the configured evaluation, and writes the report to the folder `out`.
    ///
    /// A relative cache of a judge is relative to `beside`, the folder of the configuration; other
    /// paths are relative to the current folder.
    ///
    /// # Errors
    /// [`RunError`] of any failed step; the results until then are in `out`.
    pub fn run(
        &self,
        beside: &Path,
        out: &Path,
        progress: impl FnMut(EvaluateProgress<'_>),
    ) -> Result<Report, RunError> {
        let device = self.placement.device()?;
        say(self.about_prompts()?);
        let around = Surroundings::of_folder(beside).models(&found).device(device);
        // Checks come before slow work: files before models.
        let mut details = Details::default();
        if let Ok(Value::Object(configuration)) = serde_json::to_value(self) {
            details.configuration = configuration;
        }
        if let Some(run) = &self.run {
            // A folder without curves does not belong to a run.
            details.training = read_curves(&run.join("metrics.jsonl"))?;
            tell_of_training(&mut details, run)?;
        }
        match (&self.run, &self.run_judge) {
            (Some(run), Some(judge)) => {
                let judge = judge.build(&around)?;
                details.by_divergence = training::over_optimisation(run, &*judge)?;
            }
            (None, Some(_)) => {
                let expected = "the folder of the run whose responses `run_judge` scores";
                return Err(BadSetting::new("run", "missing", expected).into());
            }
            (_, None) => {}
        }
        let rows = self.data.rows()?;
        self.tell_of_unread(&rows);
        for metric in &self.metrics {
            if matches!(metric, MetricConfig::Rouge { .. }) {
                let records = rows.records().iter();
                let records: Vec<PromptRecord> = records
                    .map(|row| PromptRecord {
                        reference: row.reference.clone(),
                        ..PromptRecord::new(&row.id, "")
                    })
                    .collect();
                check_references(&[metric.build(&around)?], &records)?;
            }
        }
        self.check_memory(device)?;
        let metrics: Vec<Box<dyn Metric>> =
            self.metrics.iter().map(|metric| metric.build(&around)).collect::<Result<_, _>>()?;
        let judges: Vec<ScoreJudge<_>> = self
            .judges
            .iter()
            .map(|judge| Ok::<_, RunError>(ScoreJudge(judge.build(&around)?)))
            .collect::<Result<_, _>>()?;
        let checks: Vec<(Box<dyn RewardModel>, Vec<AskedPair>)> = self
            .preferences
            .iter()
            .map(|check| Ok::<_, RunError>((check.reward.build(&around)?, check.pairs()?)))
            .collect::<Result<_, _>>()?;
        let baseline = Loaded::of(&self.baseline, device)?;
        let how = self.prompt_forms()?.how;
        let rendering = serde_json::to_value(&how).unwrap_or_default();
        details.configuration.insert("prompt".to_owned(), rendering);
        let prompts = self.data.prompts(&rows, &baseline.codec, how)?;
        // The form of the rows, and what was left out.
        prompts.provenance().steps.iter().for_each(|step| say(format_args!("{step}")));
        for notice in baseline.codec.take_notices() {
            say(format_args!("{notice}"));
        }
        let tuned = Loaded::of(&self.tuned, device)?;
        if self.likelihood == LikelihoodMetrics::On {
            same_vocabulary(
                (&baseline.name, &baseline.codec),
                (&tuned.name, &tuned.codec),
                (
                    "perplexity and KL divergence read the ids of one under the other",
                    "set `likelihood = \"off\"` to compare their texts alone",
                ),
            )?;
        }

        for (reward, pairs) in &checks {
            const AT_ONCE: usize = 64;
            let accuracy = preference_accuracy(&**reward, pairs, AT_ONCE, self.missing)?;
            details.accuracies.push(accuracy);
        }
        details.reward_models = self.metrics.iter().filter_map(card).collect();
        let compare = CompareOptions {
            headline: self.headline.clone(),
            seed: self.seed,
            resamples: self.resamples,
            missing: self.missing,
            slices: self.slices.clone(),
            prompt_toxicity: self.prompt_toxicity.clone(),
            reward_and_judge: self.reward_and_judge.clone(),
            ..CompareOptions::default()
        };
        let mut evaluate = Evaluate::new(&self.title, self.seed, &metrics)
            .generating(self.generation.clone())
            .responses(self.responses.get())
            .comparing(compare)
            .details(details)
            .provenance(prompts.provenance().clone())
            .folder(out)
            .progress(progress);
        evaluate = match self.likelihood {
            LikelihoodMetrics::On => evaluate,
            LikelihoodMetrics::Off => evaluate.without_likelihood(),
        };
        for judge in &judges {
            evaluate = evaluate.judge(judge as &dyn PairJudge);
        }
        Ok(evaluate.run(&baseline.responder(), &tuned.responder(), prompts.records())?)
    }
}

impl RunFile for EvalFile {
    const COMMAND: &'static str = "eval";

    // Without `run` and `out`.
    fn locations(&mut self) -> Vec<&mut String> {
        let Self { baseline, tuned, data, metrics, judges, preferences, run_judge, .. } = self;
        let mut all: Vec<&mut String> = Vec::new();
        for PolicyConfig { model, adapter, base, .. } in [baseline, tuned] {
            all.push(model);
            all.extend(adapter.iter_mut().chain(base));
        }
        all.extend(&mut data.file);
        for metric in metrics {
            match metric {
                MetricConfig::Toxicity { classifier, .. } => all.extend(classifier.locations()),
                MetricConfig::Reward { reward, .. } => all.extend(reward.locations()),
                MetricConfig::Rouge { .. }
                | MetricConfig::Length { .. }
                | MetricConfig::Repetition { .. }
                | MetricConfig::Refusal {}
                | MetricConfig::Evasion {} => {}
            }
        }
        all.extend(judges.iter_mut().chain(run_judge).flat_map(RewardConfig::locations));
        for PreferenceCheck { file, reward, .. } in preferences {
            all.push(file);
            all.extend(reward.locations());
        }
        all
    }
}

impl Work for EvalFile {
    const OUT: &'static str = "the folder of the report, here or as `out` in the run file";
    const KEEPS: &'static str = "responses and scores";
    type Out = PathBuf;
    type Summary = Report;
    type Error = RunError;

    fn out(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    fn work(&self, base: &Path, out: &PathBuf) -> Result<Report, RunError> {
        self.run(base, out, |_| ())
    }

    fn work_shown(
        &self,
        base: &Path,
        out: &PathBuf,
        progress: &mut dyn FnMut(EvaluateProgress<'_>),
    ) -> Result<Report, RunError> {
        self.run(base, out, progress)
    }
}

//! The run file of `rlaif dpo`, and its rows: preference pairs, single responses with a verdict
//! each, or prompts that the policy answers itself.

use std::collections::HashSet;

use rlaif_core::{
    ChatOptions, Metadata, PairRow as PreferenceRow, PreferencePair, PromptRecord, PromptRow,
    Rendering, Seed, TextCodec, TextKind, UnpairedRow,
};
use rlaif_data::{
    Import, ImportOptions, RowForm, Unusable,
    builtin::{self, Part},
};
use rlaif_dpo::{
    DpoConfig, DpoError, DpoTask, DpoTrainer, HeldOutEvaluation, HeldOutRows, Objective, OnProblem,
    OnlineConfig, PairProblem, PairRow, Reference, ReferenceConfig, RowConfig, RowReport, TooLong,
    TrainRows, pair_rows, response_rows,
};
use rlaif_lm::{Joiner, LmSpec, Policy};
use rlaif_models::{LanguageModel, LoadOptions, MemoryPlan};
use rlaif_rewards::RewardConfig;
use rlaif_train::{FitConfig, RunFolder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    data::{DataRows, DataSection, ShuffledBatches},
    error::RunError,
    file::RunFile,
    memory::{WeightsInMemory, longest, rows_of_pass},
    model::{ModelSection, Placement, tokenizer},
    prompt::{PromptSection, of_rows, rendered},
    recipe::{Basics, Outline, Recipe, Start},
    rewards::rewards_from_config,
    rows::{PairNames, RowReader},
    skipped::SkippedRows,
};

/// The run file of `rlaif dpo`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DpoFile {
    /// Seed of all random numbers.
    #[serde(default)]
    pub seed: u64,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The policy.
    pub model: ModelSection,
    /// The rows; without it, the built-in pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSection>,
    /// Contents of the rows.
    #[serde(default)]
    pub columns: PairColumnsSection,
    /// The text of a prompt.
    #[serde(default)]
    pub prompt: PromptSection,
    /// Encoding of rows as token ids.
    #[serde(default)]
    pub rows: RowConfig,
    /// The loss and the update.
    #[serde(default)]
    pub dpo: DpoConfig,
    /// Pairs of the policy's own responses, to the prompts of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<OnlineSection>,
    /// Steps, evaluations, checkpoints.
    #[serde(default)]
    pub train: FitConfig,
}

/// The judge of two responses, and their sampling.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnlineSection {
    /// Any reward.
    pub reward: RewardConfig,
    /// Sampling of pairs.
    #[serde(default)]
    pub sampling: OnlineConfig,
}

/// Contents of the rows of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PairFormat {
    /// Found by the columns: every form of docs/data.md.
    #[default]
    Auto,
    /// Prompt, chosen and rejected response in columns of their own.
    Pairs,
    /// HH: two whole dialogues, or their prompt apart.
    Hh,
    /// Prompt, response, and whether it is a good one.
    Unpaired,
}

impl PairFormat {
    /// The form of rows; `None` where it is found by the columns.
    pub(crate) fn form(self) -> Option<RowForm> {
        match self {
            Self::Auto => None,
            Self::Pairs => Some(RowForm::Preference),
            Self::Hh => Some(RowForm::Hh),
            Self::Unpaired => Some(RowForm::Unpaired),
        }
    }
}

/// Contents of rows, and their columns.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PairColumnsSection {
    /// Contents of the rows.
    pub format: PairFormat,
    /// Column of prompts.
    pub prompt: String,
    /// Column of preferred responses.
    pub chosen: String,
    /// Column of the other responses.
    pub rejected: String,
    /// Column of margins, which soft labels are made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// Column of single responses.
    pub response: String,
    /// Column of verdicts on them.
    pub label: String,
}

impl Default for PairColumnsSection {
    fn default() -> Self {
        Self {
            format: PairFormat::Auto,
            prompt: "prompt".to_owned(),
            chosen: "chosen".to_owned(),
            rejected: "rejected".to_owned(),
            margin: None,
            response: "completion".to_owned(),
            label: "label".to_owned(),
        }
    }
}

impl PairColumnsSection {
    /// The way to read the rows.
    fn reader(&self, options: ImportOptions) -> RowReader {
        // `RowConfig` says what becomes of empty and of equal responses.
        let options = ImportOptions { unusable: Unusable::Read, ..options };
        let names = PairNames {
            prompt: &self.prompt,
            chosen: &self.chosen,
            rejected: &self.rejected,
            margin: self.margin.as_deref(),
        };
        let mut reader = names.reader(self.format.form(), options);
        reader.columns =
            reader.columns.rename(&self.response, "completion").rename(&self.label, "label");
        reader
    }
}

impl RunFile for DpoFile {
    const COMMAND: &'static str = "dpo";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.data.as_mut().map_or_else(Vec::new, DataSection::locations);
        all.extend(self.model.locations());
        all.extend(self.online.iter_mut().flat_map(|online| online.reward.locations()));
        all
    }
}

impl Recipe for DpoFile {
    const SHOWN: &'static [&'static str] =
        &["loss", "rewards/accuracies", "rewards/margins", "eval/rewards/accuracies"];

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        Self::check(self)
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let memory = self.memory(start.options, None)?;
        self.placement.check_memory(&memory, WeightsInMemory::NotLoaded)?;
        let policy = start.fresh(|| self.model.language_model(start.options))?;
        let tokenizer = tokenizer(&self.model.files()?, policy.spec().vocab_size)?;
        let rows = self.read(&tokenizer, policy.spec(), start.seed)?;
        let memory = self.memory(start.options, Some(&rows))?;
        let DpoRows { train, held_out, mut batches, report, skipped, mut notes, rendering } = rows;
        notes.extend(tokenizer.take_notices());
        let total_steps = self.train.total_steps(train.len())?;
        let trainer = self.trainer(total_steps, policy)?;
        self.placement.check_memory(&memory, WeightsInMemory::Loaded)?;
        // Before anything is written.
        let reward = self
            .online
            .as_ref()
            .map(|online| rewards_from_config(&online.reward, start.folder(), start.options.device))
            .transpose()?;

        let read = match skipped == SkippedRows::default() {
            true => String::new(),
            false => format!(" ({skipped})"),
        };
        let about = format!("{report}{read}; {} held out, {total_steps} steps", held_out.len());
        let seed = start.seed;
        let mut run = start.begin(&Outline { about, fit: &self.train, total_steps })?;
        run.tell(&notes)?;
        run.keep_rendering(&rendering)?;
        let cache = run.folder.path().join("reference");
        let mut task = DpoTask::new(trainer, train, held_out, &cache)?;
        if let (Some(online), Some(reward)) = (&self.online, &reward) {
            task = task.online(&tokenizer, &**reward, &online.sampling, seed);
        }
        let before = task.evaluation()?;
        run.drive(&mut task, &mut batches)?;
        if let (Some(before), Some(after)) = (&before, task.evaluation()?) {
            say_held_out(&mut run.folder, before, &after)?;
        }
        run.write(&mut task.into_policy())
    }
}

/// Says how well held-out rows are told apart, before and after, with 95 % intervals.
fn say_held_out(
    run: &mut RunFolder,
    before: &HeldOutEvaluation,
    after: &HeldOutEvaluation,
) -> Result<(), RunError> {
    let of = |share: rlaif_dpo::Share| {
        format!("{:.3} [{:.3}, {:.3}]", share.value, share.ci95.0, share.ci95.1)
    };
    let said = match (before, after) {
        (HeldOutEvaluation::Pairs(before), HeldOutEvaluation::Pairs(after)) => {
            let likelier = [before, after].map(|evaluation| of(evaluation.likelihood_accuracy()));
            format!(
                "{} held-out pairs: the chosen response is the likelier one in {} before, {} \
                 after; it has the higher implicit reward in {}",
                after.outcomes.len(),
                likelier[0],
                likelier[1],
                of(after.accuracy())
            )
        }
        (_, HeldOutEvaluation::Responses(after)) => format!(
            "{} held-out responses: the implicit reward is on the right side of 0 in {}",
            after.outcomes.len(),
            of(after.accuracy())
        ),
        (HeldOutEvaluation::Responses(_), HeldOutEvaluation::Pairs(_)) => return Ok(()),
    };
    Ok(run.say(&said)?)
}

/// Rows in token ids, and the order of the training rows.
#[derive(Debug)]
pub struct DpoRows {
    /// Rows to learn from.
    pub train: TrainRows,
    /// Rows to evaluate on.
    pub held_out: HeldOutRows,
    /// The rows of each step.
    pub batches: ShuffledBatches,
    /// Report on the training rows.
    pub report: RowReport,
    /// Counts of rows that the reader had left out before.
    pub skipped: SkippedRows,
    /// Sentences on the form of the rows, for the log.
    pub notes: Vec<String>,
    /// The rendering of the prompts.
    pub rendering: Rendering,
}

impl DpoFile {
    /// Checks what contradicts itself, before anything is loaded.
    ///
    /// # Errors
    /// [`RunError::Setting`], [`RunError::Dpo`].
    pub fn check(&self) -> Result<(), RunError> {
        self.dpo.check().map_err(|error| RunError::from(error).within("dpo"))?;
        self.rows.check().map_err(|error| RunError::from(error).within("rows"))?;
        self.prompt.check()?;
        let setting =
            |key, problem: &str| Err(RunError::Setting { key, problem: problem.to_owned() });
        let unpaired = matches!(self.dpo.objective, Objective::Unpaired(_));
        let fits = match self.columns.format {
            PairFormat::Auto => true,
            PairFormat::Unpaired => unpaired,
            PairFormat::Pairs | PairFormat::Hh => !unpaired,
        };
        if !fits {
            return setting(
                "columns.format",
                "an unpaired loss takes rows of format \"unpaired\", and a loss of pairs takes \
                 pairs; set dpo.objective.unpaired or dpo.objective.pairs to match",
            );
        }
        if unpaired && self.data.is_none() {
            return setting("data", "the built-in rows are pairs; name rows with verdicts");
        }
        let cached = self.dpo.reference == ReferenceConfig::Cached;
        if self.online.is_some() {
            if unpaired {
                return setting("online", "two responses make a pair: take a loss of pairs");
            }
            if cached && self.dpo.objective.needs_reference() {
                return setting(
                    "dpo.reference",
                    "responses that are sampled have no cached reference; set type = \"live\"",
                );
            }
        }
        Ok(())
    }

    /// The policy, and the reference that the settings ask for.
    ///
    /// # Errors
    /// [`RunError`] for a model that cannot be had, [`RunError::Dpo`].
    pub fn trainer(
        &self,
        total_steps: u64,
        policy: LanguageModel,
    ) -> Result<DpoTrainer<LanguageModel>, RunError> {
        let live = matches!(self.dpo.reference, ReferenceConfig::Live { .. });
        let reference = if !self.dpo.objective.needs_reference() {
            Reference::Given
        } else if live || self.model.lora.is_some() {
            let setup = self.model.setup(self.placement.options(self.model.precision)?)?;
            match setup.reference_of(policy.parameters())? {
                Some(reference) => Reference::frozen(reference),
                None => Reference::AdaptersOff,
            }
        } else {
            Reference::Given
        };
        Ok(DpoTrainer::new(policy, reference, self.dpo.clone(), total_steps)?)
    }

    /// Memory that the run needs for these rows; without rows, the least that it needs.
    ///
    /// # Errors
    /// [`RunError::Fetch`].
    pub fn memory(
        &self,
        options: LoadOptions,
        rows: Option<&DpoRows>,
    ) -> Result<MemoryPlan, RunError> {
        let live = matches!(self.dpo.reference, ReferenceConfig::Live { .. });
        let mut plan = MemoryPlan {
            copy: live && self.dpo.objective.needs_reference(),
            activations: self.dpo.activations,
            ..self.model.memory(options)?
        };
        let Some(rows) = rows else { return Ok(plan) };
        // Both responses of a pair, or both prompts of an unpaired one, are rows of one pass.
        plan.microbatch =
            2 * rows_of_pass(self.dpo.microbatch_size, self.train.batch_size.min(rows.train.len()));
        plan.tokens = match &rows.train {
            TrainRows::Pairs(rows) => longest(rows.iter().map(PairRow::len)),
            TrainRows::Responses(rows) => longest(
                rows.iter()
                    .map(|row| row.prompt.len() + row.response.len().max(row.mismatched.len())),
            ),
            // Prompts get their ids when they are answered: the answers alone are known.
            TrainRows::Prompts(_) => {
                self.online.as_ref().map_or(0, |online| online.sampling.generation.max_new_tokens)
            }
        };
        if self.online.is_some() {
            plan.batch = 2 * self.train.batch_size;
        }
        Ok(plan)
    }

    /// Reads the rows and makes token ids of them.
    ///
    /// # Errors
    /// [`RunError::Data`] for rows that cannot be read, [`RunError::Row`] for one that ends the
    /// run, [`RunError::Dpo`] where none is left to learn from.
    pub fn read(
        &self,
        codec: &dyn TextCodec,
        spec: &LmSpec,
        seed: Seed,
    ) -> Result<DpoRows, RunError> {
        self.token_ids(codec, spec, seed).map_err(|error| match (error, &self.data) {
            (RunError::Dpo(DpoError::Pair { id, problem }), Some(data)) => {
                RunError::Row { row: self.place(data, &id), problem: problem.into() }
            }
            (error, _) => error,
        })
    }

    /// Returns the place of the row with this id.
    fn place(&self, data: &DataSection, id: &str) -> String {
        let reader = self.columns.reader(data.import);
        let files = data.files();
        if matches!(self.dpo.objective, Objective::Unpaired(_)) {
            reader.place::<UnpairedRow>(&files, id)
        } else if self.answers_prompts(&reader, data) {
            reader.place::<PromptRow>(&files, id)
        } else {
            reader.place::<PreferenceRow>(&files, id)
        }
    }

    /// Returns whether the rows are prompts alone, which the policy answers.
    fn answers_prompts(&self, reader: &RowReader, data: &DataSection) -> bool {
        let gives_none = |(_, import): (_, Import)| !import.gives::<PreferenceRow>();
        self.online.is_some() && reader.import(&data.train).is_ok_and(gives_none)
    }

    fn token_ids(
        &self,
        codec: &dyn TextCodec,
        spec: &LmSpec,
        seed: Seed,
    ) -> Result<DpoRows, RunError> {
        let mut config = self.rows.clone();
        if let Some(data) = &self.data {
            config.max_length = config.max_length.or(Some(data.max_tokens));
        }
        let size = self.train.batch_size;
        let how = self.prompt.rendering();
        let rendering = |conversations| of_rows(&self.prompt, conversations);
        if let (Objective::Unpaired(_), Some(data)) = (&self.dpo.objective, &self.data) {
            let reader = self.columns.reader(data.import);
            let rows = data.import::<UnpairedRow>(&reader, seed)?;
            let DataRows { train, held_out, mut skipped, read_as: notes } = rows;
            let render = |rows: &[UnpairedRow], skipped: &mut SkippedRows| {
                let rows = rendered(rows, skipped, |row| row.render(codec, &how))?;
                Ok::<Vec<_>, RunError>(rows.into_iter().flatten().collect())
            };
            let train = render(&train, &mut skipped)?;
            let (rows, report) = response_rows(&train, codec, spec, &config)?;
            let held_out = match render(&held_out, &mut SkippedRows::default())?.as_slice() {
                [] => Vec::new(),
                held_out => response_rows(held_out, codec, spec, &config)?.0,
            };
            let batches = ShuffledBatches::new(&rows, size, seed)?;
            let rendering = rendering(train.iter().any(|row| row.kind == TextKind::Rendered));
            let train = TrainRows::Responses(rows);
            let held_out = HeldOutRows::Responses(held_out);
            return Ok(DpoRows { train, held_out, batches, report, skipped, notes, rendering });
        }
        let prompts = match &self.data {
            Some(data) => {
                let reader = self.columns.reader(data.import);
                self.answers_prompts(&reader, data).then_some((data, reader))
            }
            None => None,
        };
        if let (Some((data, reader)), Some(online)) = (prompts, &self.online) {
            let rows = data.import::<PromptRow>(&reader, seed)?;
            let DataRows { train, mut skipped, read_as: notes, .. } = rows;
            let train = rendered(&train, &mut skipped, |row| row.render(codec, &how))?;
            let train = train.into_iter().flatten().collect();
            let (prompts, report) = prompts_to_answer(train, codec, spec, &config, online)?;
            let batches = ShuffledBatches::new(&prompts, size, seed)?;
            let rendering = rendering(prompts.iter().any(|row| row.kind == TextKind::Rendered));
            let (train, held_out) = (TrainRows::Prompts(prompts), HeldOutRows::Pairs(Vec::new()));
            return Ok(DpoRows { train, held_out, batches, report, skipped, notes, rendering });
        }
        let DataRows { train, held_out, mut skipped, read_as: notes } = self.pairs(seed)?;
        let render = |rows: &[PreferenceRow], skipped: &mut SkippedRows| {
            let rows = rendered(rows, skipped, |row| row.render(codec, &how))?;
            Ok::<Vec<_>, RunError>(rows.into_iter().flatten().collect())
        };
        let held_out = match render(&held_out, &mut SkippedRows::default())?.as_slice() {
            [] => Vec::new(),
            held_out => self.checked(pair_rows(held_out, codec, spec, &config)?)?.0,
        };
        let held_out = HeldOutRows::Pairs(held_out);
        if let Some(online) = &self.online {
            let train = rendered(&train, &mut skipped, |row| {
                let prompt = PromptRow { reference: None, ..row.clone().into_prompt() };
                prompt.render(codec, &how)
            })?;
            let train = train.into_iter().flatten().collect();
            let (prompts, report) = prompts_to_answer(train, codec, spec, &config, online)?;
            let batches = ShuffledBatches::new(&prompts, size, seed)?;
            let rendering = rendering(prompts.iter().any(|row| row.kind == TextKind::Rendered));
            let train = TrainRows::Prompts(prompts);
            return Ok(DpoRows { train, held_out, batches, report, skipped, notes, rendering });
        }
        let train = render(&train, &mut skipped)?;
        let (rows, report) = self.checked(pair_rows(&train, codec, spec, &config)?)?;
        let batches = ShuffledBatches::new(&rows, size, seed)?;
        let rendering = rendering(train.iter().any(|row| row.kind == TextKind::Rendered));
        let train = TrainRows::Pairs(rows);
        Ok(DpoRows { train, held_out, batches, report, skipped, notes, rendering })
    }

    /// The rows, if they have what the loss needs: the training would end at the first without.
    fn checked(
        &self,
        rows: (Vec<PairRow>, RowReport),
    ) -> Result<(Vec<PairRow>, RowReport), DpoError> {
        let needs_margins =
            matches!(&self.dpo.objective, Objective::Pairs(pairs) if pairs.needs_margins());
        match rows.0.iter().find(|row| needs_margins && row.margin.is_none()) {
            Some(row) => Err(DpoError::Pair { id: row.id.clone(), problem: PairProblem::NoMargin }),
            None => Ok(rows),
        }
    }

    /// Training pairs and held-out ones, as the rows have them.
    fn pairs(&self, seed: Seed) -> Result<DataRows<PreferenceRow>, RunError> {
        let mut rows = match &self.data {
            None => {
                let of = |part| {
                    let dialogues = builtin::dialogues(part).into_records();
                    dialogues.into_iter().map(|dialogue| as_row(dialogue.pair)).collect()
                };
                let (train, held_out) = (of(Part::Train), of(Part::HeldOut));
                let skipped = SkippedRows::default();
                DataRows { train, held_out, skipped, read_as: Vec::new() }
            }
            Some(data) => data.import(&self.columns.reader(data.import), seed)?,
        };
        for row in rows.train.iter_mut().chain(&mut rows.held_out) {
            row.margin = row.margin.or_else(|| difference_of_scores(row));
        }
        Ok(rows)
    }
}

fn as_row(pair: PreferencePair) -> PreferenceRow {
    PreferenceRow {
        id: pair.id,
        prompt: pair.prompt.into(),
        chosen: pair.chosen.into(),
        rejected: pair.rejected.into(),
        margin: pair.margin,
        chat: ChatOptions::default(),
        metadata: Metadata::new(),
    }
}

/// By how much the chosen response is better, where the row has scores of both.
fn difference_of_scores(row: &PreferenceRow) -> Option<f64> {
    let score = |name: &str| row.metadata.get(name)?.as_f64();
    Some(score("score_chosen")? - score("score_rejected")?)
}

/// The prompts of the rows, each once, that leave room for an answer.
fn prompts_to_answer(
    all: Vec<PromptRecord>,
    codec: &dyn TextCodec,
    spec: &LmSpec,
    config: &RowConfig,
    online: &OnlineSection,
) -> Result<(Vec<PromptRecord>, RowReport), RunError> {
    let mut report = RowReport { read: all.len(), ..RowReport::default() };
    let mut known = HashSet::new();
    let prompts: Vec<PromptRecord> =
        all.into_iter().filter(|record| known.insert(record.prompt.clone())).collect();
    if prompts.len() < report.read {
        report.skipped.insert("the same prompt again".to_owned(), report.read - prompts.len());
    }
    let texts: Vec<_> =
        prompts.iter().map(|record| (record.prompt.as_str(), record.kind)).collect();
    let ids = Joiner::new(codec, spec).open(&texts)?;
    let answer = online.sampling.generation.max_new_tokens;
    // What an encoder reads, the answer does not shorten.
    let room = |limit: usize| match spec.decoder_start_id {
        Some(_) => limit,
        None => limit.saturating_sub(answer),
    };
    let limits = [config.max_prompt_length, config.max_length.map(room), spec.context.map(room)];
    let limit = limits.into_iter().flatten().min().unwrap_or(usize::MAX);
    let mut kept = Vec::with_capacity(prompts.len());
    for (prompt, ids) in prompts.into_iter().zip(ids) {
        let problem = match ids.len() {
            0 => PairProblem::EmptyPrompt,
            length if length > limit => PairProblem::TooLong { length, limit },
            _ => {
                kept.push(prompt);
                continue;
            }
        };
        let stop = match problem {
            PairProblem::EmptyPrompt => config.empty == OnProblem::Error,
            // A prompt is text that the reward reads as well: it is not cut.
            _ => config.too_long == TooLong::Error,
        };
        if stop {
            return Err(DpoError::Pair { id: prompt.id, problem }.into());
        }
        report.skip(problem);
    }
    report.kept = kept.len();
    if kept.is_empty() {
        let (read, skipped) = (report.read, report.to_string());
        return Err(DpoError::NoRows { read, skipped: format!(": {skipped}") }.into());
    }
    Ok((kept, report))
}

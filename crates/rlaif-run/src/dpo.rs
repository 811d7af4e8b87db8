//! The run file of `rlaif dpo`, and its rows: preference pairs, single responses with a verdict
//! each, or prompts that the policy answers itself.

use std::collections::HashSet;

use rlaif_core::{PreferencePair, PromptRecord, Seed, Specials, TextCodec};
use rlaif_data::{
    builtin::{self, Part},
    corpora::{Hh, PairColumns, UnpairedColumns},
};
use rlaif_dpo::{
    DpoConfig, DpoError, DpoTask, DpoTrainer, HeldOutEvaluation, HeldOutRows, Objective, OnProblem,
    OnlineConfig, PairProblem, PairRow, Reference, ReferenceConfig, RowConfig, RowReport, TooLong,
    TrainRows, pair_rows, response_rows,
};
use rlaif_lm::{LmSpec, Policy};
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
    recipe::{Basics, Outline, Recipe, Start},
    rewards::rewards_from_config,
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
    /// Prompt, chosen and rejected response in columns of their own.
    #[default]
    Pairs,
    /// HH: two whole dialogues, or their prompt apart.
    Hh,
    /// Prompt, response, and whether it is a good one.
    Unpaired,
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
            format: PairFormat::Pairs,
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
    fn pairs(&self) -> PairColumns {
        PairColumns {
            id: None,
            prompt: self.prompt.clone(),
            chosen: self.chosen.clone(),
            rejected: self.rejected.clone(),
            margin: self.margin.clone(),
        }
    }

    fn unpaired(&self) -> UnpairedColumns {
        UnpairedColumns {
            id: None,
            prompt: self.prompt.clone(),
            response: self.response.clone(),
            label: self.label.clone(),
        }
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
        let DpoRows { train, held_out, mut batches, report, skipped } = rows;
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
}

impl DpoFile {
    /// Checks what contradicts itself, before anything is loaded.
    ///
    /// # Errors
    /// [`RunError::Setting`], [`RunError::Dpo`].
    pub fn check(&self) -> Result<(), RunError> {
        self.dpo.check().map_err(|error| RunError::from(error).within("dpo"))?;
        self.rows.check().map_err(|error| RunError::from(error).within("rows"))?;
        let setting =
            |key, problem: &str| Err(RunError::Setting { key, problem: problem.to_owned() });
        let unpaired = matches!(self.dpo.objective, Objective::Unpaired(_));
        if unpaired != (self.columns.format == PairFormat::Unpaired) {
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
        match self.columns.format {
            PairFormat::Pairs => data.place(&self.columns.pairs(), id),
            PairFormat::Hh => data.place(&Hh::default(), id),
            PairFormat::Unpaired => data.place(&self.columns.unpaired(), id),
        }
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
        if self.columns.format == PairFormat::Unpaired {
            let data = self.data.as_ref().expect("`check` asked for rows");
            let DataRows { train, held_out, skipped } =
                data.read(&self.columns.unpaired(), seed)?;
            let (rows, report) = response_rows(&train, codec, spec, &config)?;
            let held_out = match held_out.as_slice() {
                [] => Vec::new(),
                held_out => response_rows(held_out, codec, spec, &config)?.0,
            };
            let batches = ShuffledBatches::new(&rows, size, seed)?;
            let train = TrainRows::Responses(rows);
            let held_out = HeldOutRows::Responses(held_out);
            return Ok(DpoRows { train, held_out, batches, report, skipped });
        }
        let DataRows { train, held_out, skipped } = self.pairs(seed)?;
        let held_out = match held_out.as_slice() {
            [] => Vec::new(),
            held_out => self.checked(pair_rows(held_out, codec, spec, &config)?)?.0,
        };
        let held_out = HeldOutRows::Pairs(held_out);
        if let Some(online) = &self.online {
            let (prompts, report) = prompts_to_answer(train, codec, spec, &config, online)?;
            let batches = ShuffledBatches::new(&prompts, size, seed)?;
            let train = TrainRows::Prompts(prompts);
            return Ok(DpoRows { train, held_out, batches, report, skipped });
        }
        let (rows, report) = self.checked(pair_rows(&train, codec, spec, &config)?)?;
        let batches = ShuffledBatches::new(&rows, size, seed)?;
        Ok(DpoRows { train: TrainRows::Pairs(rows), held_out, batches, report, skipped })
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

    /// Training pairs and held-out ones, as text.
    fn pairs(&self, seed: Seed) -> Result<DataRows<PreferencePair>, RunError> {
        match (&self.data, self.columns.format) {
            (None, _) => {
                let of = |part| {
                    let dialogues = builtin::dialogues(part).into_records();
                    dialogues.into_iter().map(|dialogue| dialogue.pair).collect()
                };
                let (train, held_out) = (of(Part::Train), of(Part::HeldOut));
                Ok(DataRows { train, held_out, skipped: SkippedRows::default() })
            }
            (Some(data), PairFormat::Hh) => {
                Ok(data.read(&Hh::default(), seed)?.map(|record| record.pair))
            }
            (Some(data), _) => data.read(&self.columns.pairs(), seed),
        }
    }
}

/// The prompts of the rows, each once, that leave room for an answer.
fn prompts_to_answer(
    pairs: Vec<PreferencePair>,
    codec: &dyn TextCodec,
    spec: &LmSpec,
    config: &RowConfig,
    online: &OnlineSection,
) -> Result<(Vec<PromptRecord>, RowReport), RunError> {
    let mut report = RowReport { read: pairs.len(), ..RowReport::default() };
    let mut known = HashSet::new();
    let prompts: Vec<PromptRecord> = pairs
        .into_iter()
        .filter(|pair| known.insert(pair.prompt.clone()))
        .map(|pair| PromptRecord::new(pair.id, pair.prompt))
        .collect();
    if prompts.len() < report.read {
        report.skipped.insert("the same prompt again".to_owned(), report.read - prompts.len());
    }
    let texts: Vec<&str> = prompts.iter().map(|prompt| prompt.prompt.as_str()).collect();
    let ids = codec.encode_batch(&texts, Specials::Include)?;
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

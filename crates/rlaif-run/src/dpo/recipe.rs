//! Training by the run file of `rlaif dpo`.

use rlaif_core::TextCodec;
use rlaif_dpo::{
    DpoTask, DpoTrainer, HeldOutEvaluation, Reference, ReferenceConfig, TokenPair, TrainRows,
};
use rlaif_lm::Policy;
use rlaif_models::{LanguageModel, LoadOptions, MemoryPlan, ReferenceCopy};
use rlaif_train::RunFolder;

use crate::{
    dpo::{file::DpoFile, rows::DpoRows},
    error::RunError,
    memory::{WeightsInMemory, longest, reward_models},
    model::tokenizer,
    recipe::{Basics, Outline, Recipe, Start},
    rl::servers,
    skipped::SkippedRows,
};

impl Recipe for DpoFile {
    const SHOWN: &'static [&'static str] =
        &["loss", "rewards/accuracies", "rewards/margins", "eval/rewards/accuracies"];
    const DATA_PARALLEL: bool = true;

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        Self::check(self)
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let memory = self.memory(start.options, None)?;
        self.placement.check_memory(&memory, WeightsInMemory::NotLoaded)?;
        let mut policy = start.fresh(|| self.model.language_model(start.options))?;
        let tokenizer = tokenizer(&self.model.files()?, policy.spec().vocab_size)?;
        if let Some(online) = &self.online {
            let checked = online.pairs.check_policy(policy.spec());
            checked.map_err(|error| RunError::from(error).within("online.pairs"))?;
        }
        let rows = self.read(&tokenizer, policy.spec(), start.seed)?;
        let memory = self.memory(start.options, Some(&rows))?;
        let DpoRows { train, held_out, mut batches, report, skipped, mut notes, rendering } = rows;
        notes.extend(tokenizer.take_notices());
        let total_steps = self.train.total_steps(train.len())?;
        let place = (&self.model, start.folder());
        let servers = servers(self.vllm.as_ref(), &mut policy, &tokenizer, place)?;
        notes.extend(servers.as_ref().map(|(_, told)| told.clone()));
        let mut trainer = self.trainer(total_steps, policy)?;
        trainer.join(&start.world)?;
        self.placement.check_memory(&memory, WeightsInMemory::Loaded)?;
        // Checked before anything is written.
        let reward = match &self.online {
            Some(online) => {
                let (reward, grades) =
                    start.graded_reward(&online.reward, &self.prompt.rendering())?;
                notes.extend(grades);
                Some(reward)
            }
            None => None,
        };

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
            task = task.online(&tokenizer, &**reward, &online.pairs, seed)?;
            task = task.samples(online.samples);
            if let Some((sampler, _)) = servers {
                task = task.sampler(sampler);
            }
        }
        let before = task.evaluation()?;
        run.drive(&mut task, &mut batches)?;
        if let (Some(before), Some(after)) = (&before, task.evaluation()?) {
            say_held_out(&mut run.folder, before, &after)?;
        }
        run.write(&mut task.into_policy())
    }
}

/// Reports the accuracy on held-out rows, before and after, with 95 % intervals.
fn say_held_out(
    run: &mut RunFolder,
    before: &HeldOutEvaluation,
    after: &HeldOutEvaluation,
) -> Result<(), RunError> {
    let of = |share: rlaif_dpo::PairShare| match share.value.is_finite() {
        true => format!("{:.3} [{:.3}, {:.3}]", share.value, share.ci95.0, share.ci95.1),
        false => "no share (log-probabilities that are not finite)".to_owned(),
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

impl DpoFile {
    /// The policy, and the reference of the settings.
    ///
    /// # Errors
    /// [`RunError`] for an unavailable model, [`RunError::Dpo`].
    pub fn trainer(
        &self,
        total_steps: u64,
        policy: LanguageModel,
    ) -> Result<DpoTrainer<LanguageModel>, RunError> {
        let live = matches!(self.dpo.reference, ReferenceConfig::Live { .. });
        let reference = if !self.dpo.objective.needs_reference() {
            Reference::Given
        } else if live || self.model.lora.is_some() {
            let setup = self.model.setup(self.placement.options(self.model.dtype)?)?;
            setup.reference_of(policy.parameters())?
        } else {
            Reference::Given
        };
        Ok(DpoTrainer::new(policy, reference, self.dpo.clone(), total_steps)?)
    }

    /// Memory that the run needs for these rows; without rows, the minimum.
    ///
    /// # Errors
    /// [`RunError::Fetch`]; [`RunError::Reward`] for a reward's model.
    pub fn memory(
        &self,
        options: LoadOptions,
        rows: Option<&DpoRows>,
    ) -> Result<MemoryPlan, RunError> {
        let live = matches!(self.dpo.reference, ReferenceConfig::Live { .. });
        let mut plan = MemoryPlan {
            reference: match live && self.dpo.objective.needs_reference() {
                true => ReferenceCopy::Trained,
                false => ReferenceCopy::None,
            },
            rewards: match &self.online {
                Some(online) => reward_models(online.reward.local_models(), options.device)?,
                None => Vec::new(),
            },
            activations: self.dpo.activations,
            ..self.model.memory(options)?
        };
        let Some(rows) = rows else { return Ok(plan) };
        // Both responses of a pair, or both prompts of an unpaired one, are rows of one pass.
        let batch = self.train.batch_size.min(rows.train.len());
        plan.microbatch_size =
            2 * rlaif_train::rows_of_pass(self.dpo.microbatch_size, batch).min(batch);
        plan.tokens = match &rows.train {
            TrainRows::Pairs(rows) => longest(rows.iter().map(TokenPair::len)),
            TrainRows::Responses(rows) => longest(
                rows.iter()
                    .map(|row| row.prompt.len() + row.response.len().max(row.mismatched.len())),
            ),
            TrainRows::Prompts(prompts) => {
                let online = self.online.as_ref();
                let answer = online.map_or(0, |online| online.pairs.generation.max_new_tokens);
                longest(prompts.iter().map(|prompt| prompt.ids.len())) + answer
            }
        };
        if self.online.is_some() {
            plan.batch_size = 2 * self.train.batch_size;
        }
        Ok(plan)
    }
}

//! A run on prompts, from its data to the beginning of training.

use rlaif_core::{Rendering, Seed, TextCodec};
use rlaif_lm::Policy;
use rlaif_models::LanguageModel;
use rlaif_rl::Prompt;
use rlaif_text::HfTokenizer;

use crate::{
    data::ShuffledBatches,
    error::RunError,
    recipe::{OngoingRun, Outline, Recipe, Start},
    rl::{
        prompts::RlPrompts,
        sections::{RlSections, RlSettings},
    },
    skipped::SkippedRows,
};

/// The prompts of a run that has not begun.
pub(crate) struct PromptRun<'a> {
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) batches: ShuffledBatches,
    /// Sentences for the log.
    pub(crate) notes: Vec<String>,
    sections: RlSections<'a>,
    settings: RlSettings<'a>,
    skipped: SkippedRows,
    rendering: Rendering,
}

impl<'a> PromptRun<'a> {
    /// Orders the prompts.
    ///
    /// # Errors
    /// [`RunError::Data`] if there are fewer than a step needs.
    pub(crate) fn new(
        sections: RlSections<'a>,
        settings: RlSettings<'a>,
        prompts: RlPrompts,
    ) -> Result<Self, RunError> {
        let RlPrompts { prompts, skipped, notes, rendering } = prompts;
        let seed = Seed::new(sections.seed);
        let batches = ShuffledBatches::new(&prompts, settings.prompts.0, seed)?.whole()?;
        Ok(Self { prompts, batches, notes, sections, settings, skipped, rendering })
    }

    /// Creates the run's folder, and describes the run there; `more` is appended to the description.
    ///
    /// # Errors
    /// Those of [`Start::begin`].
    pub(crate) fn begin<'r, R: Recipe>(
        &self,
        start: Start<'r, R>,
        (policy, tokenizer): (&LanguageModel, &HfTokenizer),
        more: &str,
    ) -> Result<OngoingRun<'r>, RunError> {
        let (total_steps, responses) = (self.settings.steps, self.settings.responses);
        let about = format!(
            "{} prompts ({}), {} trained weights, {total_steps} steps of {responses} responses{more}",
            self.prompts.len(),
            self.skipped,
            policy.parameters().count_trainable(),
        );
        let fit = &self.sections.train.fit(total_steps);
        let mut run = start.begin(&Outline { about, fit, total_steps })?;
        run.tell(&self.notes)?;
        run.tell(&tokenizer.take_notices())?;
        run.keep_rendering(&self.rendering)?;
        Ok(run)
    }
}

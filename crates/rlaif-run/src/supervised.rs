//! From rows to a trained model: what the recipes of supervised training have in common.

use rlaif_core::{BadSetting, Record, Rendering, Seed};
use rlaif_models::MemoryPlan;
use rlaif_train::{FitConfig, LearnConfig, Supervised, SupervisedTask, TrainError};

use crate::{
    data::{DataRows, ShuffledBatches},
    error::RunError,
    memory::{WeightsInMemory, longest},
    recipe::{OngoingRun, Outline, Recipe, Start},
    skipped::SkippedRows,
};

/// A row as token ids.
pub(crate) trait EncodedRow {
    /// Rows of a forward pass that it makes.
    const SEQUENCES: usize = 1;

    /// Tokens of the longest of them.
    fn tokens(&self) -> usize;
}

/// The sections of a run file for supervised training.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SupervisedSections<'a> {
    pub(crate) train: &'a FitConfig,
    pub(crate) learn: &'a LearnConfig,
}

/// Rows ready to be learned from, and the order of the training rows.
#[derive(Debug)]
pub(crate) struct SupervisedRows<'a, T> {
    sections: SupervisedSections<'a>,
    pub(crate) train: Vec<T>,
    held_out: Vec<T>,
    batches: ShuffledBatches,
    skipped: SkippedRows,
    /// Sentences for the log.
    pub(crate) notes: Vec<String>,
    /// The rendering of the prompts, for the run's folder.
    pub(crate) rendering: Option<Rendering>,
    total_steps: u64,
}

impl<'a> SupervisedSections<'a> {
    /// Encodes the rows. `encode` returns the records that it keeps, with their rows, and counts the
    /// others.
    ///
    /// # Errors
    /// Those of `encode`; [`RunError::Setting`] if no row is left.
    pub(crate) fn encoded<R, K: Record, T>(
        self,
        rows: DataRows<R>,
        seed: Seed,
        encode: impl Fn(Vec<R>, &mut SkippedRows) -> Result<(Vec<K>, Vec<T>), RunError>,
    ) -> Result<SupervisedRows<'a, T>, RunError> {
        let DataRows { train, held_out, mut skipped, read_as } = rows;
        let (records, train) = encode(train, &mut skipped)?;
        let (_, held_out) = encode(held_out, &mut SkippedRows::default())?;
        let total_steps = total_steps(self.train, train.len(), &skipped)?;
        let batches = ShuffledBatches::new(&records, self.train.batch_size, seed)?;
        Ok(SupervisedRows {
            sections: self,
            train,
            held_out,
            batches,
            skipped,
            notes: read_as,
            rendering: None,
            total_steps,
        })
    }
}

impl<T: EncodedRow> SupervisedRows<'_, T> {
    /// Compares the memory of the longest rows with the machine's, begins the run, and trains to
    /// the end. `trainer` is told the number of steps.
    ///
    /// # Errors
    /// [`RunError::Memory`]; those of `trainer`, of [`Start::begin`] and of [`OngoingRun::drive`].
    pub(crate) fn learn<'s, R: Recipe, S: Supervised<Row = T>>(
        self,
        start: Start<'s, R>,
        memory: MemoryPlan,
        trainer: impl FnOnce(u64) -> Result<S, TrainError>,
    ) -> Result<OngoingRun<'s>, RunError>
    where
        Self: 's,
    {
        let Self { sections, train, held_out, mut batches, skipped, notes, rendering, total_steps } =
            self;
        let batch = sections.train.batch_size.min(train.len());
        let rows = rlaif_train::rows_of_pass(sections.learn.microbatch_size, batch).min(batch);
        let tokens = longest(train.iter().map(T::tokens));
        let memory = MemoryPlan { microbatch_size: T::SEQUENCES * rows, tokens, ..memory };
        start.check_memory(&memory, WeightsInMemory::Loaded)?;
        let mut trainer =
            trainer(total_steps).map_err(|error| RunError::from(error).within("learn"))?;
        // Ranks with other weights are refused before anything is written.
        trainer.join(&start.world)?;
        let about = format!(
            "{} rows to train on ({skipped}), {} held out, {total_steps} steps",
            train.len(),
            held_out.len()
        );
        let mut run = start.begin(&Outline { about, fit: sections.train, total_steps })?;
        run.tell(&notes)?;
        if let Some(rendering) = &rendering {
            run.keep_rendering(rendering)?;
        }
        let mut task = SupervisedTask::new(trainer, train, held_out);
        run.drive(&mut task, &mut batches)?;
        task.finish();
        Ok(run)
    }
}

/// The length of a run over `rows` rows.
fn total_steps(train: &FitConfig, rows: usize, skipped: &SkippedRows) -> Result<u64, RunError> {
    if rows == 0 {
        let found = format!(
            "a file in which no row has anything to learn within `data.max_tokens`: {skipped}"
        );
        return Err(BadSetting::new("data.train", found, "rows to learn from").into());
    }
    Ok(train.total_steps(rows)?)
}

//! Training on rows with known answers, as tasks of the common training loop.

use rlaif_core::Metrics;
use rlaif_torch::dist::World;

use crate::{
    checkpoints::{CheckpointFiles, Saved},
    drive::{Fit, Stepped},
    error::TrainError,
    learner::Learner,
    optimizer::StepReport,
};

/// A trainer on rows with known answers, such as [`SftTrainer`](crate::SftTrainer),
/// [`ClassifierTrainer`](crate::ClassifierTrainer) and
/// [`PreferenceTrainer`](crate::PreferenceTrainer).
pub trait Supervised {
    /// The type of a training row.
    type Row;

    /// Makes one optimizer step on the mean over `rows`, and returns its numbers.
    ///
    /// # Errors
    /// Those of the trainer's own `step`.
    fn learn(&mut self, rows: &[&Self::Row]) -> Result<Metrics, TrainError>;

    /// Numbers on held-out rows, among them `eval/loss`: without dropout, and with the averaged
    /// weights, if there are any.
    ///
    /// # Errors
    /// Those of the trainer's own `evaluate`.
    fn measure(&self, rows: &[Self::Row]) -> Result<Metrics, TrainError>;

    /// Trains together with the other ranks: [`Supervised::learn`] and [`Supervised::measure`] get the rows of all
    /// of them, and work on [`World::share`]. By default, several ranks are refused.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    fn join(&mut self, world: &World) -> Result<(), TrainError> {
        crate::drive::one_process("this trainer", world)
    }

    /// The trained weights with their optimizer.
    fn learner(&self) -> &Learner;

    /// The trained weights with their optimizer.
    fn learner_mut(&mut self) -> &mut Learner;

    /// Runs `f` with the weights of the result in the model: the averaged ones, if there are any.
    fn with_result<R>(&self, f: impl FnOnce() -> R) -> R
    where
        Self: Sized,
    {
        self.learner().with_result(f)
    }

    /// Sets the model to the weights of the result, permanently.
    fn finish(mut self)
    where
        Self: Sized,
    {
        self.learner_mut().finish();
    }

    /// Writes all state that a later step depends on.
    ///
    /// # Errors
    /// Errors of writing.
    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        self.learner().save(files)
    }

    /// Continues from the state that [`Supervised::save`] wrote.
    ///
    /// # Errors
    /// [`TrainError::Torch`] or [`TrainError::BadCheckpoint`] if the state belongs to another model
    /// or another configuration.
    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        self.learner_mut().restore(saved)
    }

    /// Takes the weights and their averages from the state that [`Supervised::save`] wrote.
    ///
    /// # Errors
    /// As [`Supervised::restore`].
    fn restore_weights(&mut self, saved: &Saved) -> Result<(), TrainError> {
        self.learner_mut().restore_weights(saved)
    }
}

/// A trainer with its rows, as [`drive`](crate::drive()) takes it; the best weights are those with
/// the lowest `eval/loss`.
#[derive(Debug)]
pub struct SupervisedTask<T: Supervised> {
    trainer: T,
    train: Vec<T::Row>,
    held_out: Vec<T::Row>,
}

impl<T: Supervised> SupervisedTask<T> {
    /// Trains on `train`, evaluates on `held_out`, which may be empty.
    pub fn new(trainer: T, train: Vec<T::Row>, held_out: Vec<T::Row>) -> Self {
        Self { trainer, train, held_out }
    }

    /// The trainer.
    pub fn trainer(&self) -> &T {
        &self.trainer
    }

    /// Sets the model to the weights of the result, permanently: the averaged ones, if there are
    /// any.
    pub fn finish(self) {
        self.trainer.finish();
    }
}

impl<T: Supervised> Fit for SupervisedTask<T> {
    fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
        let rows: Vec<&T::Row> = rows.iter().map(|&i| &self.train[i]).collect();
        self.trainer.learn(&rows).map(Stepped::from)
    }

    fn join(&mut self, world: &World) -> Result<(), TrainError> {
        self.trainer.join(world)
    }

    fn evaluate(&mut self) -> Result<Option<Metrics>, TrainError> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        self.trainer.measure(&self.held_out).map(Some)
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        self.trainer.save(files)
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        self.trainer.restore(saved)
    }

    fn restore_weights(&mut self, saved: &Saved) -> Result<(), TrainError> {
        self.trainer.restore_weights(saved)
    }
}

/// Refuses the first faulty row, and an empty batch.
pub(crate) fn check_rows<'r, R: 'r>(
    rows: impl IntoIterator<Item = &'r R>,
    problem: impl Fn(&R) -> Option<String>,
) -> Result<(), TrainError> {
    let refuse = |what: &str, problem| Err(TrainError::Data { what: what.to_owned(), problem });
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return refuse("a batch", "there is no row".to_owned());
    }
    match rows.find_map(problem) {
        Some(problem) => refuse("a row", problem),
        None => Ok(()),
    }
}

/// The numbers of a step: those of the trainer, and those of the optimizer.
pub(crate) fn step_metrics(
    own: impl IntoIterator<Item = (&'static str, f64)>,
    tokens: u64,
    report: &StepReport,
) -> Metrics {
    let mut metrics: Metrics = own.into_iter().collect();
    metrics.set("grad_norm", report.grad_norm);
    metrics.set("learning_rate", report.lr);
    if report.skipped.is_some() {
        metrics.set("skipped", 1.);
    }
    metrics.set("tokens", tokens as f64);
    metrics
}

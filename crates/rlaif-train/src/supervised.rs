//! Trainings on rows whose answers are known, as tasks of the loop that trainers share.

use rlaif_core::Metrics;

use crate::{
    checkpoints::{CheckpointFiles, Saved},
    drive::{Fit, Stepped},
    error::TrainError,
    learner::Learner,
    optimizer::StepReport,
};

/// A trainer that learns from rows whose answers are known, such as
/// [`SftTrainer`](crate::SftTrainer), [`ClassifierTrainer`](crate::ClassifierTrainer) and
/// [`PreferenceTrainer`](crate::PreferenceTrainer).
pub trait Supervised {
    /// What it learns from.
    type Row;

    /// One optimizer step on the mean over `rows`, with its numbers.
    ///
    /// # Errors
    /// Those of the trainer's own `step`.
    fn learn(&mut self, rows: &[&Self::Row]) -> Result<Metrics, TrainError>;

    /// Numbers on rows that it does not learn from, `eval/loss` among them: without dropout, and
    /// with the averaged weights, if there are some.
    ///
    /// # Errors
    /// Those of the trainer's own `evaluate`.
    fn measure(&self, rows: &[Self::Row]) -> Result<Metrics, TrainError>;

    /// The trained weights with their optimizer.
    fn learner(&self) -> &Learner;

    /// The trained weights with their optimizer.
    fn learner_mut(&mut self) -> &mut Learner;

    /// Runs `f` while the model has the weights that are the result: the averaged ones, if there
    /// are some.
    fn with_result<R>(&self, f: impl FnOnce() -> R) -> R
    where
        Self: Sized,
    {
        self.learner().with_result(f)
    }

    /// Gives the model the weights that are the result, for good.
    fn finish(mut self)
    where
        Self: Sized,
    {
        self.learner_mut().finish();
    }

    /// Writes everything that a later step depends on.
    ///
    /// # Errors
    /// What cannot be written.
    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        self.learner().save(files)
    }

    /// Goes on from what [`Supervised::save`] wrote.
    ///
    /// # Errors
    /// [`TrainError::Torch`] or [`TrainError::BadCheckpoint`] if it is of another model or another
    /// configuration.
    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        self.learner_mut().restore(saved)
    }

    /// Takes the weights, and their averages, from what [`Supervised::save`] wrote.
    ///
    /// # Errors
    /// As [`Supervised::restore`].
    fn restore_weights(&mut self, saved: &Saved) -> Result<(), TrainError> {
        self.learner_mut().restore_weights(saved)
    }
}

/// A trainer with its rows, as [`drive`](crate::drive()) takes it; `eval/loss` says which weights
/// are best.
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

    /// Gives the model the weights that are the result, for good: the averaged ones, if there are
    /// some.
    pub fn finish(self) {
        self.trainer.finish();
    }
}

impl<T: Supervised> Fit for SupervisedTask<T> {
    fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
        let rows: Vec<&T::Row> = rows.iter().map(|&i| &self.train[i]).collect();
        self.trainer.learn(&rows).map(Stepped::from)
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

/// Refuses the first row that there is a problem with, and a batch without any.
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

/// The numbers of a step: its own, and those of the optimizer.
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

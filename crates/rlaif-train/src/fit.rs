//! The loop that supervised trainings share: batches, steps, evaluation, checkpoints, the end.

use std::time::Instant;

use rlaif_core::{Metrics, Seed};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoints::{CheckpointFiles, Goal, Keep, Saved},
    error::TrainError,
    interrupt::Interrupt,
    run_folder::{Marks, RunFolder},
};

/// When to evaluate, to save and to stop. Counts are in optimizer steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FitConfig {
    /// Passes over the data, unless `steps` says otherwise.
    pub epochs: u64,
    /// Length of the run; 0 means `epochs` passes over the data.
    pub steps: u64,
    /// Rows of an optimizer step.
    pub batch_size: usize,
    /// Between two evaluations; 0 evaluates at the end alone.
    pub eval_every: u64,
    /// Between two checkpoints; 0 saves at the end alone, and when the run is interrupted.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept, the newest.
    pub keep: usize,
    /// Evaluations in a row without a better score after which the run ends; 0 never ends it.
    pub patience: u64,
    /// Which weights are the result.
    pub result: FitResult,
}

impl Default for FitConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            steps: 0,
            batch_size: 16,
            eval_every: 0,
            checkpoint_every: 0,
            keep: 2,
            patience: 0,
            result: FitResult::Last,
        }
    }
}

/// Which weights are the result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FitResult {
    /// Those after the last step.
    #[default]
    Last,
    /// Those of the evaluation with the best score; its checkpoint is kept as well.
    Best,
}

impl FitConfig {
    /// Which checkpoints a run with this configuration keeps, by a score of which `goal` says the
    /// better end.
    #[must_use]
    pub fn keep(&self, goal: Goal) -> Keep {
        Keep { newest: self.keep, best: (self.result == FitResult::Best).then_some(goal) }
    }

    /// Number of steps with `rows` rows of data; the last step of an epoch takes what is left.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if it comes to nothing, or no checkpoint is to be kept.
    pub fn total_steps(&self, rows: usize) -> Result<u64, TrainError> {
        if self.batch_size == 0 {
            return Err(TrainError::setting("train.batch_size", 0, "at least 1"));
        }
        if self.keep == 0 {
            return Err(TrainError::setting("train.keep", 0, "at least 1"));
        }
        let total = match self.steps {
            0 => {
                let per_epoch = rows.div_ceil(self.batch_size) as u64;
                self.epochs.checked_mul(per_epoch).ok_or_else(|| {
                    let expected = "fewer: their steps do not fit 64 bits";
                    TrainError::setting("train.epochs", self.epochs, expected)
                })?
            }
            steps => steps,
        };
        if total == 0 {
            return Err(TrainError::setting("train.epochs", self.epochs, "at least 1, with data"));
        }
        Ok(total)
    }
}

/// What is trained: steps over rows that the loop names by their indices.
pub trait Fit {
    /// One optimizer step over the rows with these indices, with its numbers.
    ///
    /// # Errors
    /// What stops the run.
    fn step(&mut self, rows: &[usize]) -> Result<Metrics, TrainError>;

    /// Numbers on held-out rows; `None` without any.
    ///
    /// # Errors
    /// What stops the run.
    fn evaluate(&mut self) -> Result<Option<Metrics>, TrainError>;

    /// The metric of [`Fit::evaluate`] that says which weights are best, and which way.
    fn score(&self) -> (&'static str, Goal);

    /// Everything that a later step depends on.
    ///
    /// # Errors
    /// What cannot be written.
    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError>;

    /// Goes on from what [`Fit::save`] wrote.
    ///
    /// # Errors
    /// What does not fit.
    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError>;

    /// Takes the weights alone from what [`Fit::save`] wrote.
    ///
    /// # Errors
    /// What does not fit.
    fn restore_weights(&mut self, saved: &Saved) -> Result<(), TrainError>;
}

/// Which rows a step takes: a function of the step, so that a resumed run needs no position.
pub trait Batches {
    /// Indices of the rows of `step`, counted from 0.
    ///
    /// # Errors
    /// What stops the run.
    fn batch(&mut self, step: u64) -> Result<Vec<usize>, TrainError>;

    /// Differs for other rows, another order or another batch size.
    fn fingerprint(&self) -> u64;
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// After its last step.
    Finished,
    /// Its score had not become better for a while.
    Stopped,
    /// By [`Interrupt`], with a checkpoint to go on from.
    Interrupted,
}

/// A run as it was decided on.
#[derive(Debug, Clone, Copy)]
pub struct FitPlan<'a> {
    /// When to evaluate, to save and to stop.
    pub config: &'a FitConfig,
    /// Its length, by [`FitConfig::total_steps`]; the optimizer's schedule goes by it.
    pub total_steps: u64,
    /// What dropout is drawn from.
    pub seed: Seed,
    /// What asks it to stop.
    pub interrupt: &'a Interrupt,
}

/// What the loop itself has to remember.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct State {
    marks: Marks,
    fingerprint: u64,
    best: Option<f64>,
    /// Evaluations since the best one.
    since_best: u64,
}

/// Trains to the end of the run, from its beginning or from `saved`.
///
/// Before each step libtorch's generators are seeded from `seed` and the step, so that a resumed run
/// draws what an uninterrupted one draws.
///
/// Metrics are recorded after each step; `time/…` are those that two runs of one seed do not share.
///
/// # Errors
/// What the task, the batches or the folder fail with.
pub fn fit(
    task: &mut dyn Fit,
    batches: &mut dyn Batches,
    run: &mut RunFolder,
    saved: Option<&Saved>,
    plan: &FitPlan<'_>,
) -> Result<Ending, TrainError> {
    let FitPlan { config, total_steps, seed, interrupt } = *plan;
    let mut state = State { fingerprint: batches.fingerprint(), ..State::default() };
    let mut done = 0;
    if let Some(saved) = saved {
        let of: State = saved.json("loop")?;
        if of.fingerprint != state.fingerprint {
            return Err(TrainError::BadCheckpoint {
                path: saved.folder().to_owned(),
                problem: "the data, their order or the batch size are not those it was written \
                          with; resume with the same, or begin another run"
                    .to_owned(),
            });
        }
        state = of;
        run.rewind(state.marks)?;
        task.restore(saved)?;
        done = saved.step();
    }
    let (metric, goal) = task.score();
    let no_better = |state: &State| config.patience > 0 && state.since_best >= config.patience;
    // A run that had ended early, and is resumed, has ended.
    let stopped = no_better(&state) && done < total_steps;
    let mut ending = if stopped { Ending::Stopped } else { Ending::Finished };
    while done < total_steps && ending == Ending::Finished {
        let start = Instant::now();
        let rows = batches.batch(done)?;
        tch::manual_seed(seed.derive("fit", done).get() as i64);
        let mut metrics = task.step(&rows)?;
        done += 1;
        let seconds = start.elapsed().as_secs_f64();
        metrics.set("time/step", seconds);
        if let Some(tokens) = metrics.get("tokens") {
            metrics.set("time/tokens_per_s", tokens / seconds);
        }
        let last = done == total_steps;
        let due = |every: u64| every > 0 && done % every == 0;
        let mut score = None;
        let mut improved = false;
        if (last || due(config.eval_every))
            && let Some(evaluated) = task.evaluate()?
        {
            score = evaluated.get(metric);
            metrics.extend(evaluated);
            // A score that is not a number is no better than any, the first included.
            improved = score.is_some_and(|s| {
                s.is_finite() && state.best.is_none_or(|best| goal.better(s, best))
            });
            if improved {
                state.best = score;
                state.since_best = 0;
            } else {
                state.since_best += 1;
            }
        }
        run.record(done, &metrics)?;
        if no_better(&state) && !last {
            ending = Ending::Stopped;
        }
        if interrupt.requested() && !last && ending == Ending::Finished {
            ending = Ending::Interrupted;
        }
        let best = improved && config.result == FitResult::Best;
        if last || best || due(config.checkpoint_every) || ending != Ending::Finished {
            state.marks = run.marks()?;
            run.checkpoints.write(done, score, |files| {
                files.json("loop", &state)?;
                task.save(files)
            })?;
        }
        if ending == Ending::Interrupted {
            return Ok(ending);
        }
    }
    if ending == Ending::Stopped {
        let best = state.best.unwrap_or(f64::NAN);
        run.say(&format!(
            "stopped after step {done}: {metric} has not become better than {best} for {} \
             evaluations",
            config.patience
        ))?;
    }
    if config.result == FitResult::Best
        && let Some(best) = run.checkpoints.best()?
    {
        task.restore_weights(&best)?;
        run.say(&format!("the result is that of step {}", best.step()))?;
    }
    Ok(ending)
}

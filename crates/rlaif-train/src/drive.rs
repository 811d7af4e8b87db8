//! The training loop shared by all algorithms: batches, steps, evaluation, checkpoints,
//! findings, end of the run.
//!
//! A training implements [`Fit`], and [`drive`] does the rest. A custom loop over the stages of
//! a trainer (`rollout`, `advantages`, `update`) needs none of this.

use std::time::Instant;

use rlaif_core::{Finding, Interrupted, Metrics, Seed};
use rlaif_torch::{
    TorchError,
    dist::{DistError, World},
    seeded,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoints::{CheckpointFiles, Goal, Keep, Saved},
    error::TrainError,
    interrupt::Interrupt,
    run_folder::{Marks, RunFolder},
};

/// The schedule of evaluation and saving, and the rules for stopping. Counts are in optimizer
/// steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FitConfig {
    /// Passes over the data, if `steps` is 0.
    pub epochs: u64,
    /// Length of the run; 0 means `epochs` passes over the data.
    pub steps: u64,
    /// Rows of an optimizer step.
    pub batch_size: usize,
    /// Steps between two evaluations; 0 evaluates only at the end.
    pub eval_every: u64,
    /// Steps between two checkpoints; 0 saves only at the end, and when the run is interrupted.
    pub checkpoint_every: u64,
    /// Number of checkpoints to keep: the newest.
    pub keep: usize,
    /// Number of consecutive evaluations without a better score that ends the run; 0 to disable the
    /// rule.
    pub patience: u64,
    /// The weights to keep as the result.
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

/// The weights that are the result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FitResult {
    /// The weights after the last step.
    #[default]
    Last,
    /// The weights of the evaluation with the best score; its checkpoint is kept as well.
    Best,
}

impl FitConfig {
    /// Returns which checkpoints to keep under this configuration. `goal` tells whether a high
    /// or a low score is better.
    #[must_use]
    pub fn keep(&self, goal: Goal) -> Keep {
        Keep { newest: self.keep, best: (self.result == FitResult::Best).then_some(goal) }
    }

    /// Number of steps with `rows` rows of data; the last step of an epoch takes what is left.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if the number is 0, or no checkpoint is to be kept.
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

/// Outcome of a step.
///
/// ```
/// use rlaif_train::Stepped;
/// let mut stepped = Stepped::from([("loss", 0.7)].into_iter().collect::<rlaif_core::Metrics>());
/// stepped.notes.push("the first response is empty".to_owned());
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stepped {
    /// The numbers, for `metrics.jsonl` and every other sink.
    pub metrics: Metrics,
    /// Rows for `samples.jsonl`.
    pub samples: Vec<serde_json::Value>,
    /// Messages for the user.
    pub notes: Vec<String>,
    /// Symptoms that have begun: shown, and kept in `findings.json`.
    pub findings: Vec<Finding>,
    /// The reason why the run ends with this step, if it does.
    pub stop: Option<String>,
}

impl From<Metrics> for Stepped {
    fn from(metrics: Metrics) -> Self {
        Self { metrics, ..Self::default() }
    }
}

/// A training objective: steps over rows that the loop names by their indices.
///
/// Only [`Fit::step`], [`Fit::save`] and [`Fit::restore`] have no default:
///
/// ```
/// use rlaif_train::{CheckpointFiles, Fit, Saved, Stepped, TrainError};
///
/// /// Counts the rows that it was given.
/// struct Counter(usize);
///
/// impl Fit for Counter {
///     fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
///         self.0 += rows.len();
///         Ok(Stepped::from([("rows", self.0 as f64)].into_iter().collect::<rlaif_core::Metrics>()))
///     }
///     fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
///         files.json("counter", &self.0)
///     }
///     fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
///         self.0 = saved.json("counter")?;
///         Ok(())
///     }
/// }
/// ```
pub trait Fit {
    /// One step over the rows with these indices.
    ///
    /// # Errors
    /// The errors that stop the run.
    fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError>;

    /// `true` if a step begins the work of the next one: [`drive`] then calls [`Fit::announce`] before it. `false`
    /// by default.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// Names the rows of the step after the next call of [`Fit::step`]. It is not called before the last step.
    fn announce(&mut self, rows: Vec<usize>) {
        let _ = rows;
    }

    /// Everything that a later step depends on.
    ///
    /// # Errors
    /// An error of writing.
    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError>;

    /// Continues from the state that [`Fit::save`] wrote.
    ///
    /// # Errors
    /// The saved state does not fit this training.
    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError>;

    /// Restores only the weights from the state that [`Fit::save`] wrote, as far as the result needs
    /// them: [`drive`] calls it to return to the best weights. By default [`Fit::restore`].
    ///
    /// # Errors
    /// The saved state does not fit this training.
    fn restore_weights(&mut self, saved: &Saved) -> Result<(), TrainError> {
        self.restore(saved)
    }

    /// Metrics on held-out rows; `None`, the default, where there are no such rows.
    ///
    /// # Errors
    /// The errors that stop the run.
    fn evaluate(&mut self) -> Result<Option<Metrics>, TrainError> {
        Ok(None)
    }

    /// The metric of [`Fit::evaluate`] that decides which weights are best, and its direction:
    /// the lowest `eval/loss` by default.
    fn score(&self) -> (&'static str, Goal) {
        ("eval/loss", Goal::Lowest)
    }

    /// Trains together with other ranks: each calls [`Fit::step`] with the same rows, and the numbers that it returns
    /// are those of all ranks. [`drive`] calls it before the first step. By default, several ranks are refused.
    ///
    /// # Errors
    /// [`TrainError::Torch`] with [`DistError::OneProcess`].
    fn join(&mut self, world: &World) -> Result<(), TrainError> {
        one_process("this training", world)
    }

    /// Messages for the user before the first step; none by default.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Refuses several ranks.
pub(crate) fn one_process(what: &str, world: &World) -> Result<(), TrainError> {
    match world.size() {
        1 => Ok(()),
        size => Err(TorchError::from(DistError::OneProcess { what: what.to_owned(), size }).into()),
    }
}

/// Source of the rows of each step: a function of the step, so that a resumed run needs no
/// position.
pub trait Batches {
    /// Indices of the rows of `step`, counted from 0.
    ///
    /// # Errors
    /// The errors that stop the run.
    fn batch(&mut self, step: u64) -> Result<Vec<usize>, TrainError>;

    /// A number that differs for other rows, another order or another batch size.
    fn fingerprint(&self) -> u64;
}

/// End of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// After its last step.
    Finished,
    /// Before its last step: its score had not become better for a while, or the task asked for
    /// the end ([`Stepped::stop`]).
    Stopped,
    /// By [`Interrupt`], with a checkpoint to continue from.
    Interrupted,
}

/// The plan of a run, decided before its first step.
#[derive(Debug, Clone, Copy)]
pub struct FitPlan<'a> {
    /// The schedule of evaluation and saving, and the rules for stopping.
    pub config: &'a FitConfig,
    /// The number of steps, from [`FitConfig::total_steps`]; the optimizer's schedule is computed
    /// from it.
    pub total_steps: u64,
    /// Seed of dropout.
    pub seed: Seed,
    /// The request to stop.
    pub interrupt: &'a Interrupt,
}

/// The loop's own state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    marks: Marks,
    fingerprint: u64,
    best: Option<f64>,
    /// Evaluations since the best one.
    since_best: u64,
    #[serde(default)]
    findings: Vec<Finding>,
    /// The reason why the run ended before its steps were done, if it did.
    #[serde(default)]
    stopped: Option<String>,
    /// The step whose evaluation was interrupted, if this is the checkpoint before it.
    #[serde(default)]
    unevaluated: Option<Unevaluated>,
}

/// Outcome of a step that was not evaluated yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Unevaluated {
    /// Metrics, as bits: they need not be finite.
    metrics: Vec<(String, u64)>,
    stop: Option<String>,
}

impl Unevaluated {
    fn new(metrics: &Metrics, stop: Option<String>) -> Self {
        let bits = metrics.iter().map(|(name, value)| (name.to_owned(), value.to_bits()));
        Self { metrics: bits.collect(), stop }
    }

    fn metrics(&self) -> Metrics {
        self.metrics.iter().map(|(name, bits)| (name.clone(), f64::from_bits(*bits))).collect()
    }
}

/// Reasons for writing a checkpoint after a step: without a reason, none is written.
#[derive(Debug, Clone, Copy)]
struct Due {
    last: bool,
    /// The best evaluation so far, whose weights are the result.
    best: bool,
    /// `checkpoint_every`.
    periodic: bool,
    ending: Ending,
}

impl Due {
    fn any(self) -> bool {
        self.last || self.best || self.periodic || self.ending != Ending::Finished
    }
}

/// Trains to the end of the run, from its beginning or from `saved`.
///
/// During each step libtorch's generators are seeded from `seed` and the step, so that a resumed run
/// draws what an uninterrupted one draws; afterwards they are as they were.
///
/// Metrics, samples, findings, checkpoints and what was said are in the run's folder. Metrics
/// `time/…` are those that two runs of one seed do not share.
///
/// # Errors
/// What the task, the batches or the folder fail with.
pub fn drive(
    task: &mut dyn Fit,
    batches: &mut dyn Batches,
    run: &mut RunFolder,
    saved: Option<&Saved>,
    plan: &FitPlan<'_>,
) -> Result<Ending, TrainError> {
    let FitPlan { config, total_steps, seed, interrupt } = *plan;
    let mut state = State { fingerprint: batches.fingerprint(), ..State::default() };
    let world = run.world().clone();
    let remedy = "give all ranks the same data files, seed and batch size";
    world.same("the order of rows", &format!("digest {:016x}", state.fingerprint), remedy)?;
    task.join(&world)?;
    // The same numbers in every rank would be the same dropout masks for other rows.
    let seed = if world.is_first() { seed } else { seed.derive("rank", world.rank() as u64) };
    let mut done = 0;
    if let Some(saved) = saved {
        state = taken_up(saved, state.fingerprint)?;
        run.rewind(state.marks)?;
        task.restore(saved)?;
        done = saved.step();
    }
    run.taken_up()?;
    run.write_findings(&state.findings)?;
    for warning in task.warnings() {
        run.say(&format!("warning: {warning}"))?;
    }
    let (metric, goal) = task.score();
    run.checkpoints.go_by(goal);
    // A run that had ended early, and is resumed, has ended.
    if state.stopped.is_none() && done < total_steps {
        state.stopped = no_better(&state, config, metric);
    }
    let stopped = state.stopped.is_some();
    let mut ending = if stopped { Ending::Stopped } else { Ending::Finished };
    let mut unevaluated = state.unevaluated.take();
    // The step of the newest checkpoint.
    let mut kept = done;
    while (done < total_steps || unevaluated.is_some()) && ending == Ending::Finished {
        let (mut metrics, stop) = if let Some(step) = unevaluated.take() {
            (step.metrics(), step.stop)
        } else {
            let start = Instant::now();
            let rows = batches.batch(done)?;
            if task.looks_ahead() && done + 1 < total_steps {
                task.announce(batches.batch(done + 1)?);
            }
            let stepped = match seeded(seed.for_libtorch_at("fit", done), || task.step(&rows))? {
                // This step changed nothing: the state is that before it.
                Err(error) if Interrupted::ended(&error) => {
                    if kept < done {
                        write_checkpoint(run, task, &mut state, done, None)?;
                    }
                    return Ok(Ending::Interrupted);
                }
                stepped => stepped?,
            };
            let Stepped { mut metrics, samples, notes, findings, stop } = stepped;
            done += 1;
            let seconds = start.elapsed().as_secs_f64();
            metrics.set("time/step", seconds);
            if let Some(tokens) = metrics.get("tokens") {
                metrics.set("time/tokens_per_s", tokens / seconds);
            }
            samples.iter().try_for_each(|row| run.sample(row))?;
            if !findings.is_empty() {
                findings.iter().try_for_each(|finding| run.say(&finding.to_string()))?;
                state.findings.extend(findings);
                run.write_findings(&state.findings)?;
            }
            notes.iter().try_for_each(|note| run.say(note))?;
            (metrics, stop)
        };

        let last = done == total_steps;
        let due = |every: u64| every > 0 && done.is_multiple_of(every);
        let mut score = None;
        let mut improved = false;
        let evaluated = match (last || due(config.eval_every)).then(|| task.evaluate()) {
            Some(Err(error)) if Interrupted::ended(&error) => {
                state.unevaluated = Some(Unevaluated::new(&metrics, stop));
                write_checkpoint(run, task, &mut state, done, None)?;
                return Ok(Ending::Interrupted);
            }
            evaluated => evaluated.transpose()?.flatten(),
        };
        if let Some(evaluated) = evaluated {
            score = evaluated.get(metric);
            metrics.extend(evaluated);
            // A score that is not finite never counts as an improvement, not even the first one.
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
        state.stopped = stop.or_else(|| no_better(&state, config, metric)).filter(|_| !last);
        if state.stopped.is_some() {
            ending = Ending::Stopped;
        } else if world.any(interrupt.requested())? && !last {
            ending = Ending::Interrupted;
        }
        let best = improved && config.result == FitResult::Best;
        if (Due { last, best, periodic: due(config.checkpoint_every), ending }).any() {
            write_checkpoint(run, task, &mut state, done, score)?;
            kept = done;
        }
        if ending == Ending::Interrupted {
            run.say_not_finite()?;
            return Ok(ending);
        }
    }
    run.say_not_finite()?;
    if let Some(reason) = &state.stopped {
        run.say(&format!("stopped after step {done}: {reason}"))?;
    }
    if config.result == FitResult::Best
        && let Some(best) = run.checkpoints.best()?
    {
        task.restore_weights(&best)?;
        run.say(&format!("the result is that of step {}", best.step()))?;
    }
    Ok(ending)
}

fn write_checkpoint(
    run: &mut RunFolder,
    task: &dyn Fit,
    state: &mut State,
    step: u64,
    score: Option<f64>,
) -> Result<(), TrainError> {
    state.marks = run.marks()?;
    let world = run.world().clone();
    // Only one rank writes; the others wait, so that none is ahead of what a resumed run finds.
    world.first(|| {
        run.checkpoints.write(step, score, |files| {
            files.json("loop", state)?;
            task.save(files)
        })
    })?;
    Ok(())
}

/// The loop's state from a checkpoint that was written with the same batches.
fn taken_up(saved: &Saved, fingerprint: u64) -> Result<State, TrainError> {
    let state: State = saved.json("loop")?;
    if state.fingerprint == fingerprint {
        return Ok(state);
    }
    Err(TrainError::BadCheckpoint {
        path: saved.folder().to_owned(),
        problem: "the data, their order or the batch size are not those it was written with; \
                  resume with the same, or begin another run"
            .to_owned(),
    })
}

/// The reason to stop because the score has not improved for `patience` evaluations.
fn no_better(state: &State, config: &FitConfig, metric: &str) -> Option<String> {
    (config.patience > 0 && state.since_best >= config.patience).then(|| {
        let best = state.best.unwrap_or(f64::NAN);
        format!("{metric} has not become better than {best} for {} evaluations", config.patience)
    })
}

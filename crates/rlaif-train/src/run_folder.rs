//! The folder of one run, and all files that the run writes into it.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rlaif_core::{Finding, MetricSink, Metrics, printable, say};
use rlaif_torch::dist::World;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoints::{Checkpoints, Keep, Saved},
    error::TrainError,
    metrics::{JsonLines, JsonlMetrics, TensorBoard, Terminal},
};

/// The lengths of the growing files of a run. A checkpoint stores them, and a resumed run truncates
/// the files to them, so that they are the same as without the interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marks {
    metrics: u64,
    samples: u64,
    events: u64,
}

/// The folder of one run.
///
/// ```text
/// run.toml            the run file with every default
/// metrics.jsonl       one object per step
/// events.out.tfevents.*   the same for TensorBoard
/// samples.jsonl       what the model answered
/// findings.json       what went wrong, as the run noticed it
/// checkpoints/        see [`Checkpoints`]
/// model/              the result
/// log.txt             what was said, with dates
/// ```
///
/// Locked by one process at a time. Of several ranks, rank 0 alone has the files; in the others
/// ([`RunFolder::of_another`]), methods that write do nothing.
///
/// ```
/// use rlaif_core::Metrics;
/// use rlaif_train::{Keep, RunFolder};
/// # let parent = tempfile::tempdir()?;
/// # let path = parent.path().join("run");
/// let mut run = RunFolder::create(&path, "seed = 1\n", Keep { newest: 2, best: None })?;
/// run.record(1, &[("loss", 0.7)].into_iter().collect())?;
/// let marks = run.marks()?;
/// run.checkpoints.write(1, None, |files| files.json("marks", &marks))?;
/// run.record(2, &[("loss", 0.6)].into_iter().collect())?;
/// drop(run); // killed
///
/// let (mut run, saved) = RunFolder::resume(&path, Keep { newest: 2, best: None })?;
/// let saved = saved.expect("step 1 was saved");
/// run.rewind(saved.json("marks")?)?;
/// assert_eq!(std::fs::read_to_string(path.join("metrics.jsonl"))?, "{\"step\":1,\"loss\":0.7}\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    /// The checkpoints.
    pub checkpoints: Checkpoints,
    /// `None` in a rank that writes nothing.
    files: Option<Files>,
    world: World,
    terminal: Option<Terminal>,
    sinks: Sinks,
    /// Metrics that were not finite, with the number of steps.
    not_finite: BTreeMap<String, u64>,
    /// The run file to continue with, and the settings that it changes.
    next_run_file: Option<(String, Vec<String>)>,
}

/// The growing files.
#[derive(Debug)]
struct Files {
    metrics: JsonlMetrics,
    samples: JsonLines,
    board: TensorBoard,
    /// Open and locked while the run uses the folder.
    log: File,
}

/// Custom sinks.
#[derive(Default)]
struct Sinks(Vec<Box<dyn MetricSink>>);

impl std::fmt::Debug for Sinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sinks", self.0.len())
    }
}

impl RunFolder {
    /// Creates the folder and writes `run.toml` into it.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if no checkpoint is to be kept, [`TrainError::RunExists`] if the
    /// folder already holds a run, [`TrainError::RunBusy`], [`TrainError::Write`].
    pub fn create(root: &Path, run_file: &str, keep: Keep) -> Result<Self, TrainError> {
        // Before anything is written.
        keep.check()?;
        fs::create_dir_all(root).map_err(TrainError::write(root))?;
        let path = root.join("run.toml");
        if path.exists() {
            return Err(TrainError::RunExists { folder: root.to_owned() });
        }
        let run = Self::open(root, keep)?;
        // Last, and complete: a folder with a run.toml is a run.
        rlaif_files::write_bytes(&path, run_file.as_bytes()).map_err(TrainError::write(&path))?;
        Ok(run)
    }

    /// Opens a run to resume, and finds its newest intact checkpoint; damaged ones are reported and
    /// logged with the reason. `None` if the run had not written a checkpoint: then it starts from
    /// the beginning.
    ///
    /// # Errors
    /// [`TrainError::NoRun`], [`TrainError::RunBusy`], [`TrainError::NoGoodCheckpoint`],
    /// [`TrainError::Write`].
    pub fn resume(root: &Path, keep: Keep) -> Result<(Self, Option<Saved>), TrainError> {
        if !root.join("run.toml").exists() {
            return Err(TrainError::NoRun { folder: root.to_owned() });
        }
        let mut run = Self::open(root, keep)?;
        let found = run.checkpoints.newest_valid()?;
        for (path, problem) in &found.skipped {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            run.say(&format!("skipped checkpoint {name}: {problem}"))?;
        }
        match &found.saved {
            Some(saved) => run.say(&format!("going on from step {}", saved.step()))?,
            None => {
                run.say("there is no checkpoint yet; starting from the beginning")?;
                run.rewind(Marks::default())?;
            }
        }
        Ok((run, found.saved))
    }

    fn open(root: &Path, keep: Keep) -> Result<Self, TrainError> {
        let path = root.join("log.txt");
        let log = rlaif_files::open_growing(&path).map_err(TrainError::write(&path))?;
        match log.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(TrainError::RunBusy { folder: root.to_owned() });
            }
            // Without file locks, concurrent runs cannot detect each other; there is no other harm.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        Ok(Self {
            root: root.to_owned(),
            checkpoints: Checkpoints::open(&root.join("checkpoints"), keep)?,
            files: Some(Files {
                metrics: JsonlMetrics::new(JsonLines::open(&root.join("metrics.jsonl"))?),
                samples: JsonLines::open(&root.join("samples.jsonl"))?,
                board: TensorBoard::open(root)?,
                log,
            }),
            world: World::default(),
            terminal: None,
            sinks: Sinks::default(),
            not_finite: BTreeMap::new(),
            next_run_file: None,
        })
    }

    /// The folder as a rank sees it that writes nothing into it: rank 0 has created it. It must be in a file system
    /// that all hosts share.
    ///
    /// # Errors
    /// [`TrainError::NoRun`] if this rank does not see the folder.
    pub fn of_another(root: &Path, keep: Keep, world: &World) -> Result<Self, TrainError> {
        if !root.join("run.toml").exists() {
            return Err(TrainError::NoRun { folder: root.to_owned() });
        }
        Ok(Self {
            root: root.to_owned(),
            checkpoints: Checkpoints::of_another(&root.join("checkpoints"), keep),
            files: None,
            world: world.clone(),
            terminal: None,
            sinks: Sinks::default(),
            not_finite: BTreeMap::new(),
            next_run_file: None,
        })
    }

    /// As [`RunFolder::of_another`], where rank 0 has resumed the run, with the newest intact checkpoint.
    ///
    /// # Errors
    /// [`TrainError::NoRun`], [`TrainError::NoGoodCheckpoint`], [`TrainError::Read`].
    pub fn resume_of_another(
        root: &Path,
        keep: Keep,
        world: &World,
    ) -> Result<(Self, Option<Saved>), TrainError> {
        let mut run = Self::of_another(root, keep, world)?;
        let saved = run.checkpoints.newest_valid()?.saved;
        Ok((run, saved))
    }

    /// Makes this the folder of several ranks, in rank 0.
    #[must_use]
    pub fn in_world(mut self, world: &World) -> Self {
        self.world = world.clone();
        self
    }

    /// The ranks that train together.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Makes the run continue with another run file, which must not affect the result. It is
    /// written, and its `changes` are reported, once the checkpoint is known to fit it.
    pub fn go_on_with(&mut self, run_file: String, changes: Vec<String>) {
        self.next_run_file = Some((run_file, changes));
    }

    /// Writes the run file to continue with, if there is one: the run was resumed.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub(crate) fn taken_up(&mut self) -> Result<(), TrainError> {
        let Some((run_file, changes)) = self.next_run_file.take() else { return Ok(()) };
        if self.files.is_none() {
            return Ok(());
        }
        let path = self.root.join("run.toml");
        rlaif_files::write_bytes(&path, run_file.as_bytes()).map_err(TrainError::write(&path))?;
        changes.iter().try_for_each(|change| self.say(&format!("from here on, {change}")))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The folder of the result: `model/`.
    pub fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    /// Also shows progress on a terminal.
    pub fn show(&mut self, terminal: Terminal) {
        self.terminal = Some(terminal).filter(|_| self.files.is_some());
    }

    /// Also passes metrics on to this sink.
    pub fn add_sink(&mut self, sink: Box<dyn MetricSink>) {
        self.sinks.0.push(sink);
    }

    /// Writes the numbers of a step to every sink. Non-finite numbers are reported.
    ///
    /// # Errors
    /// [`TrainError::Metric`].
    pub fn record(&mut self, step: u64, metrics: &Metrics) -> Result<(), TrainError> {
        if self.files.is_none() {
            return Ok(());
        }
        for (name, value) in metrics.iter().filter(|(_, value)| !value.is_finite()) {
            let count = self.not_finite.entry(name.to_owned()).or_default();
            *count += 1;
            if *count == 1 {
                self.say(&format!("warning: step {step}: the metric `{name}` is {value}"))?;
            }
        }
        if let Some(files) = &mut self.files {
            files.metrics.record(step, metrics)?;
            files.board.record(step, metrics)?;
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.record(step, metrics)?;
        }
        self.sinks.0.iter_mut().try_for_each(|sink| sink.record(step, metrics))?;
        Ok(())
    }

    /// Reports the metrics that were not finite since the folder was opened, with counts.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn say_not_finite(&mut self) -> Result<(), TrainError> {
        for (name, count) in std::mem::take(&mut self.not_finite) {
            self.say(&format!("warning: the metric `{name}` was not finite in {count} steps"))?;
        }
        Ok(())
    }

    /// Appends a row to `samples.jsonl`.
    ///
    /// # Errors
    /// [`TrainError::Write`], [`TrainError::Json`].
    pub fn sample(&mut self, row: &impl Serialize) -> Result<(), TrainError> {
        self.files.as_mut().map_or(Ok(()), |files| files.samples.append(row))
    }

    /// Writes `findings.json`: the symptoms found so far, for the report.
    ///
    /// # Errors
    /// [`TrainError::Files`].
    pub fn write_findings(&self, findings: &[Finding]) -> Result<(), TrainError> {
        if self.files.is_none() {
            return Ok(());
        }
        Ok(rlaif_checkpoint::write_json(&self.root.join("findings.json"), &findings)?)
    }

    /// Prints a message on standard error, and writes it to `log.txt`.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn say(&mut self, text: &str) -> Result<(), TrainError> {
        if self.files.is_none() {
            return Ok(());
        }
        match &self.terminal {
            Some(terminal) => terminal.say(text),
            None => say(text),
        }
        self.note(text)
    }

    /// Writes a message to `log.txt` only.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn note(&mut self, text: &str) -> Result<(), TrainError> {
        let line = format!("{} {}\n", date(Timestamp::now()), printable(text));
        let Some(files) = &mut self.files else { return Ok(()) };
        files.log.write_all(line.as_bytes()).map_err(TrainError::write(&self.root.join("log.txt")))
    }

    /// Flushes all files to the disk, and returns their lengths, for a checkpoint.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn marks(&mut self) -> Result<Marks, TrainError> {
        self.sinks.0.iter_mut().try_for_each(|sink| sink.flush())?;
        let Some(files) = &mut self.files else { return Ok(Marks::default()) };
        Ok(Marks {
            metrics: files.metrics.lines().mark()?,
            samples: files.samples.mark()?,
            events: files.board.mark()?,
        })
    }

    /// Truncates all files to the lengths stored in a checkpoint.
    ///
    /// # Errors
    /// [`TrainError::BadCheckpoint`] if a file is shorter than the stored length,
    /// [`TrainError::Write`].
    pub fn rewind(&mut self, marks: Marks) -> Result<(), TrainError> {
        let Some(files) = &mut self.files else { return Ok(()) };
        files.metrics.lines().cut(marks.metrics)?;
        files.samples.cut(marks.samples)?;
        files.board.cut(marks.events)
    }
}

/// A time as `2026-03-01 12:00:00Z`.
fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_date_u() {
        // date -u -d @N
        let date = |seconds| date(Timestamp::from_second(seconds).unwrap());
        assert_eq!(date(0), "1970-01-01 00:00:00Z");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59Z");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(date(1_798_761_599), "2026-12-31 23:59:59Z");
    }
}

//! The folder of one run, and everything that is written into it as the run goes on.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rlaif_core::{Finding, MetricSink, Metrics, printable, say};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoints::{Checkpoints, Keep, Saved},
    error::TrainError,
    metrics::{JsonLines, JsonlMetrics, TensorBoard, Terminal},
};

/// How far the growing files of a run are: a checkpoint keeps it, and a resumed run cuts them back
/// to it, so that they are what they would be without the interruption.
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
/// Locked by one process at a time.
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
    metrics: JsonlMetrics,
    samples: JsonLines,
    board: TensorBoard,
    terminal: Option<Terminal>,
    /// Open and locked as long as the run has the folder.
    log: File,
    sinks: Sinks,
    /// Metrics that were not finite, and in how many steps.
    not_finite: BTreeMap<String, u64>,
    /// The run file to go on with, and the settings that it changes.
    next_run_file: Option<(String, Vec<String>)>,
}

/// Sinks of the user's.
#[derive(Default)]
struct Sinks(Vec<Box<dyn MetricSink>>);

impl std::fmt::Debug for Sinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sinks", self.0.len())
    }
}

impl RunFolder {
    /// Makes the folder and writes `run.toml` into it.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if no checkpoint is to be kept, [`TrainError::RunExists`] if there is
    /// a run already, [`TrainError::RunBusy`], [`TrainError::Write`].
    pub fn create(root: &Path, run_file: &str, keep: Keep) -> Result<Self, TrainError> {
        // Before anything is written.
        keep.check()?;
        fs::create_dir_all(root).map_err(TrainError::write(root))?;
        let path = root.join("run.toml");
        if path.exists() {
            return Err(TrainError::RunExists { folder: root.to_owned() });
        }
        let run = Self::open(root, keep)?;
        // Last, and whole: a folder with a run.toml is a run.
        rlaif_files::write_bytes(&path, run_file.as_bytes()).map_err(TrainError::write(&path))?;
        Ok(run)
    }

    /// Takes up a run, and finds the newest checkpoint that is whole; what it skipped, and why, is
    /// said and logged. `None` if the run had not come to its first: then it begins anew.
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
                run.say("there is no checkpoint yet; beginning anew")?;
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
            // A file system without locks has runs that cannot see each other, no more.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        Ok(Self {
            root: root.to_owned(),
            checkpoints: Checkpoints::open(&root.join("checkpoints"), keep)?,
            metrics: JsonlMetrics::new(JsonLines::open(&root.join("metrics.jsonl"))?),
            samples: JsonLines::open(&root.join("samples.jsonl"))?,
            board: TensorBoard::open(root)?,
            terminal: None,
            log,
            sinks: Sinks::default(),
            not_finite: BTreeMap::new(),
            next_run_file: None,
        })
    }

    /// Has the run go on with another run file, which does not decide about its result. It is written,
    /// and its `changes` are said, once the checkpoint is known to fit it.
    pub fn go_on_with(&mut self, run_file: String, changes: Vec<String>) {
        self.next_run_file = Some((run_file, changes));
    }

    /// Writes the run file to go on with, if there is one: the run was taken up.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub(crate) fn taken_up(&mut self) -> Result<(), TrainError> {
        let Some((run_file, changes)) = self.next_run_file.take() else { return Ok(()) };
        let path = self.root.join("run.toml");
        rlaif_files::write_bytes(&path, run_file.as_bytes()).map_err(TrainError::write(&path))?;
        changes.iter().try_for_each(|change| self.say(&format!("from here on, {change}")))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Where the result goes: `model/`.
    pub fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    /// Shows progress as well.
    pub fn show(&mut self, terminal: Terminal) {
        self.terminal = Some(terminal);
    }

    /// Passes metrics on to another sink as well.
    pub fn add_sink(&mut self, sink: Box<dyn MetricSink>) {
        self.sinks.0.push(sink);
    }

    /// Writes the numbers of a step to every sink. Those that are not finite are told.
    ///
    /// # Errors
    /// [`TrainError::Metric`].
    pub fn record(&mut self, step: u64, metrics: &Metrics) -> Result<(), TrainError> {
        for (name, value) in metrics.iter().filter(|(_, value)| !value.is_finite()) {
            let count = self.not_finite.entry(name.to_owned()).or_default();
            *count += 1;
            if *count == 1 {
                self.say(&format!("warning: step {step}: the metric `{name}` is {value}"))?;
            }
        }
        self.metrics.record(step, metrics)?;
        self.board.record(step, metrics)?;
        if let Some(terminal) = &mut self.terminal {
            terminal.record(step, metrics)?;
        }
        self.sinks.0.iter_mut().try_for_each(|sink| sink.record(step, metrics))?;
        Ok(())
    }

    /// Says which metrics were not finite since the folder was opened, and how often.
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
        self.samples.append(row)
    }

    /// Writes `findings.json`: what went wrong so far, for the report.
    ///
    /// # Errors
    /// [`TrainError::Files`].
    pub fn write_findings(&self, findings: &[Finding]) -> Result<(), TrainError> {
        Ok(rlaif_checkpoint::write_json(&self.root.join("findings.json"), &findings)?)
    }

    /// Says something on standard error, and in `log.txt`.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn say(&mut self, text: &str) -> Result<(), TrainError> {
        match &self.terminal {
            Some(terminal) => terminal.say(text),
            None => say(text),
        }
        self.note(text)
    }

    /// Writes something to `log.txt` alone.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn note(&mut self, text: &str) -> Result<(), TrainError> {
        let line = format!("{} {}\n", date(Timestamp::now()), printable(text));
        self.log.write_all(line.as_bytes()).map_err(TrainError::write(&self.root.join("log.txt")))
    }

    /// Brings everything written to the disk, and returns how far it is: for a checkpoint.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn marks(&mut self) -> Result<Marks, TrainError> {
        self.sinks.0.iter_mut().try_for_each(|sink| sink.flush())?;
        Ok(Marks {
            metrics: self.metrics.lines().mark()?,
            samples: self.samples.mark()?,
            events: self.board.mark()?,
        })
    }

    /// Cuts everything back to where a checkpoint was.
    ///
    /// # Errors
    /// [`TrainError::BadCheckpoint`] if a file is shorter than it was, [`TrainError::Write`].
    pub fn rewind(&mut self, marks: Marks) -> Result<(), TrainError> {
        self.metrics.lines().cut(marks.metrics)?;
        self.samples.cut(marks.samples)?;
        self.board.cut(marks.events)
    }
}

/// A moment as `2026-03-01 12:00:00Z`.
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

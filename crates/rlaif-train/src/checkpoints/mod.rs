//! Checkpoints that are complete or absent.
//!
//! ```text
//! checkpoints/
//!   step-200/                 renamed into place when it is complete and on the disk
//!     checkpoint.json         step, and size and checksum of every other file
//!     score.json              what the best is found by, if there is one
//!     policy.safetensors      the parts of the algorithm
//!     optimizer.safetensors
//!     run.json
//!   step-300.partial/         of a process that was killed; removed by the next
//! ```

mod tensors;

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use rlaif_checkpoint::write_json;
use rlaif_files::{JsonError, PARTIAL, open_file, replace_folder};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tch::Tensor;
use twox_hash::XxHash3_128;

use crate::error::{TrainError, advice};

const MANIFEST: &str = "checkpoint.json";
const SCORE: &str = "score";
const SCORE_FILE: &str = "score.json";
const FORMAT: u32 = 1;

/// The better direction of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Lower is better: losses.
    Lowest,
    /// Higher is better: rewards, accuracies.
    Highest,
}

impl Goal {
    /// Returns true if `score` is better than `than`. A NaN is never better.
    #[must_use]
    pub fn better(self, score: f64, than: f64) -> bool {
        match self {
            Self::Lowest => score < than,
            Self::Highest => score > than,
        }
    }
}

/// The checkpoints to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Number of newest checkpoints to keep, at least 1.
    pub newest: usize,
    /// Goal that selects a best checkpoint, kept in addition.
    pub best: Option<Goal>,
}

impl Keep {
    /// # Errors
    /// [`TrainError::Setting`] if no checkpoint is to be kept.
    pub(crate) fn check(self) -> Result<(), TrainError> {
        match self.newest {
            0 => Err(TrainError::setting("checkpoints.keep", 0, "at least 1")),
            _ => Ok(()),
        }
    }
}

/// The checkpoints of one run.
///
/// A checkpoint is a set of files: named tensors and JSON values. It is written to a temporary
/// folder, synced to the disk and renamed, so that a killed process or a full disk leaves the
/// earlier checkpoints unchanged.
///
/// ```
/// use rlaif_train::{Checkpoints, Keep};
/// use tch::Tensor;
/// # let folder = tempfile::tempdir()?;
/// let weights = vec![("w".to_owned(), Tensor::from_slice(&[1f32, 2.]))];
/// let mut checkpoints = Checkpoints::open(folder.path(), Keep { newest: 2, best: None })?;
/// checkpoints.write(100, None, |files| {
///     files.tensors("policy", &weights)?;
///     files.json("position", &7)
/// })?;
///
/// let found = checkpoints.newest_valid()?;
/// let saved = found.saved.expect("one was written");
/// assert_eq!(saved.step(), 100);
/// assert_eq!(saved.tensors("policy")?[0].1, Tensor::from_slice(&[1f32, 2.]));
/// assert_eq!(saved.json::<u32>("position")?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: Keep,
    /// The newest checkpoint known to be intact.
    last_good: Option<PathBuf>,
}

/// Result of [`Checkpoints::newest_valid`].
#[derive(Debug)]
pub struct Found {
    /// The newest intact checkpoint; `None` if there is none at all.
    pub saved: Option<Saved>,
    /// Newer checkpoints that are damaged, each with the fault.
    pub skipped: Vec<(PathBuf, String)>,
}

impl Checkpoints {
    /// The checkpoints in `folder`, which is created if it does not exist. Incomplete files of a
    /// killed process are removed.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if no checkpoint is to be kept; [`TrainError::Write`].
    pub fn open(folder: &Path, keep: Keep) -> Result<Self, TrainError> {
        keep.check()?;
        let error = TrainError::write(folder);
        fs::create_dir_all(folder).map_err(&error)?;
        for entry in fs::read_dir(folder).map_err(&error)? {
            let entry = entry.map_err(&error)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.strip_suffix(PARTIAL).and_then(step_of).is_some() {
                fs::remove_dir_all(entry.path()).map_err(TrainError::write(&entry.path()))?;
            }
        }
        Ok(Self { folder: folder.to_owned(), keep, last_good: None })
    }

    /// The checkpoints in `folder`, which another rank writes.
    pub(crate) fn of_another(folder: &Path, keep: Keep) -> Self {
        Self { folder: folder.to_owned(), keep, last_good: None }
    }

    /// Sets the goal of [`Keep::best`], if that is enabled, to the goal of the training, which is
    /// not known when the folder is opened.
    pub(crate) fn go_by(&mut self, goal: Goal) {
        self.keep.best = self.keep.best.map(|_| goal);
    }

    /// Writes the checkpoint of `step`, replacing one of the same step, then removes those that
    /// need not be kept.
    ///
    /// # Errors
    /// [`TrainError::CheckpointWrite`] if it cannot be written; no partial checkpoint is left
    /// behind, and the error names the checkpoint to continue from. Errors of `fill` are returned
    /// unchanged.
    pub fn write(
        &mut self,
        step: u64,
        score: Option<f64>,
        fill: impl FnOnce(&mut CheckpointFiles) -> Result<(), TrainError>,
    ) -> Result<PathBuf, TrainError> {
        let target = self.path(step);
        let partial = self.folder.join(format!("step-{step}{PARTIAL}"));
        let written = self.write_aside(step, score, &partial, &target, fill);
        if let Err(error) = written {
            // The caller needs to know the first error.
            let _ = fs::remove_dir_all(&partial);
            return Err(match error.io() {
                Some(source) => TrainError::CheckpointWrite {
                    path: target,
                    advice: advice(source),
                    last_good: self.last_good.clone(),
                    source: Box::new(error),
                },
                None => error,
            });
        }
        self.last_good = Some(target.clone());
        self.prune(step)?;
        Ok(target)
    }

    /// The newest checkpoint whose files all exist with the checksums they were written with.
    ///
    /// # Errors
    /// [`TrainError::NoGoodCheckpoint`] if there are checkpoints and all are damaged;
    /// [`TrainError::Read`].
    pub fn newest_valid(&mut self) -> Result<Found, TrainError> {
        let mut skipped = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            let folder = self.path(step);
            match Saved::open(&folder) {
                Ok(saved) => {
                    self.last_good = Some(folder);
                    return Ok(Found { saved: Some(saved), skipped });
                }
                Err(problem) => skipped.push((folder, problem.to_string())),
            }
        }
        if skipped.is_empty() {
            return Ok(Found { saved: None, skipped });
        }
        let problems = skipped.into_iter().map(|(_, problem)| problem).collect();
        Err(TrainError::NoGoodCheckpoint { folder: self.folder.clone(), problems })
    }

    /// The checkpoint with the best score, if there are scores and [`Keep::best`] is set.
    ///
    /// # Errors
    /// [`TrainError::Read`].
    pub fn best(&self) -> Result<Option<Saved>, TrainError> {
        let Some(step) = self.best_step()? else { return Ok(None) };
        Saved::open(&self.path(step)).map(Some)
    }

    fn write_aside(
        &self,
        step: u64,
        score: Option<f64>,
        partial: &Path,
        target: &Path,
        fill: impl FnOnce(&mut CheckpointFiles) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let error = TrainError::write(partial);
        fs::create_dir(partial).map_err(&error)?;
        let mut files = CheckpointFiles { folder: partial.to_owned(), files: BTreeMap::new() };
        fill(&mut files)?;
        files.json(SCORE, &score)?;
        let manifest = Manifest { format: FORMAT, step, files: files.files };
        write_json(&partial.join(MANIFEST), &manifest)?;
        let old = self.folder.join(format!("step-{step}.old{PARTIAL}"));
        if replace_folder(partial, target, &old).map_err(&error)? {
            fs::remove_dir_all(&old).map_err(TrainError::write(&old))?;
        }
        Ok(())
    }

    /// Removes checkpoints older than the newest few up to `step`. Checkpoints after `step` are
    /// damaged remains of a run that continued from an earlier one; they do not count as newest.
    fn prune(&self, step: u64) -> Result<(), TrainError> {
        let steps = self.steps()?;
        let until = steps.partition_point(|&known| known <= step);
        let old = &steps[..until.saturating_sub(self.keep.newest)];
        let best = self.best_step()?;
        for &known in old.iter().filter(|known| best != Some(**known)) {
            // Renamed first: half a checkpoint must not look like a complete one.
            let path = self.path(known);
            let doomed = self.folder.join(format!("step-{known}.old{PARTIAL}"));
            fs::rename(&path, &doomed)
                .and_then(|()| fs::remove_dir_all(&doomed))
                .map_err(TrainError::write(&path))?;
        }
        Ok(())
    }

    fn best_step(&self) -> Result<Option<u64>, TrainError> {
        let Some(goal) = self.keep.best else { return Ok(None) };
        let mut best: Option<(u64, f64)> = None;
        for step in self.steps()? {
            // A damaged checkpoint has no score; `newest_valid` reports the damage.
            let Ok(score) = read_json::<Option<f64>>(&self.path(step).join(SCORE_FILE)) else {
                continue;
            };
            if let Some(score) = score
                && best.is_none_or(|(_, than)| goal.better(score, than))
            {
                best = Some((step, score));
            }
        }
        Ok(best.map(|(step, _)| step))
    }

    /// Steps with a checkpoint, intact or not, in order.
    fn steps(&self) -> Result<Vec<u64>, TrainError> {
        let error = TrainError::read(&self.folder);
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(&error)? {
            let name = entry.map_err(&error)?.file_name();
            steps.extend(name.to_str().and_then(exact_step_of));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step}"))
    }
}

/// The step in the names `step-N` and `step-N.old`.
fn step_of(name: &str) -> Option<u64> {
    exact_step_of(name.strip_suffix(".old").unwrap_or(name))
}

fn exact_step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

/// The files of a checkpoint in writing.
#[derive(Debug)]
pub struct CheckpointFiles {
    folder: PathBuf,
    files: BTreeMap<String, Sum>,
}

impl CheckpointFiles {
    /// Writes `NAME.safetensors`. The tensors are copied to the host one at a time.
    ///
    /// # Errors
    /// [`TrainError::Files`] if it cannot be written.
    pub fn tensors(&mut self, name: &str, tensors: &[(String, Tensor)]) -> Result<(), TrainError> {
        let file = format!("{name}.safetensors");
        let path = self.folder.join(&file);
        tensors::write(&path, tensors)?;
        self.add(file, &path)
    }

    /// Writes `NAME.json`.
    ///
    /// # Errors
    /// [`TrainError::Files`] if it cannot be written.
    pub fn json(&mut self, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
        let file = format!("{name}.json");
        let path = self.folder.join(&file);
        write_json(&path, value)?;
        self.add(file, &path)
    }

    fn add(&mut self, file: String, path: &Path) -> Result<(), TrainError> {
        self.files.insert(file, Sum::of(path)?);
        Ok(())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    step: u64,
    files: BTreeMap<String, Sum>,
}

impl Manifest {
    fn read(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(MANIFEST);
        let manifest: Self = read_json(&path)?;
        if manifest.format != FORMAT {
            let problem = format!(
                "format {} is not known here, only {FORMAT}; resume with the version of rlaif that \
                 wrote it",
                manifest.format
            );
            return Err(TrainError::BadCheckpoint { path, problem });
        }
        let name = folder.file_name().and_then(|name| name.to_str());
        if name.and_then(exact_step_of) != Some(manifest.step) {
            let problem = format!("says that it is of step {}", manifest.step);
            return Err(TrainError::BadCheckpoint { path, problem });
        }
        Ok(manifest)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, TrainError> {
    rlaif_files::read_json(path).map_err(|error| match error {
        JsonError::Io(source) => TrainError::read(path)(source),
        JsonError::Json(source) => TrainError::Json { path: path.to_owned(), source },
    })
}

/// Size and checksum of a file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sum {
    bytes: u64,
    /// 32 hexadecimal digits.
    xxh3_128: String,
}

impl Sum {
    fn of(path: &Path) -> Result<Self, TrainError> {
        let error = TrainError::read(path);
        let mut file = open_file(path).map_err(&error)?;
        let mut hash = XxHash3_128::new();
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer).map_err(&error)? {
                0 => break,
                n => {
                    hash.write(&buffer[..n]);
                    bytes += n as u64;
                }
            }
        }
        Ok(Self { bytes, xxh3_128: format!("{:032x}", hash.finish_128()) })
    }
}

/// An intact checkpoint.
#[derive(Debug)]
pub struct Saved {
    folder: PathBuf,
    manifest: Manifest,
    score: Option<f64>,
}

impl Saved {
    /// Opens a checkpoint after comparing every file with its checksum.
    ///
    /// # Errors
    /// [`TrainError::BadCheckpoint`] names the first file that differs from its checksum;
    /// [`TrainError::Read`].
    pub fn open(folder: &Path) -> Result<Self, TrainError> {
        let manifest = Manifest::read(folder)?;
        for (name, written) in &manifest.files {
            let path = folder.join(name);
            let found = Sum::of(&path)?;
            let problem = if found.bytes != written.bytes {
                format!("has {} bytes, but was written with {}", found.bytes, written.bytes)
            } else if found != *written {
                "its content is not what was written (the checksum differs)".to_owned()
            } else {
                continue;
            };
            return Err(TrainError::BadCheckpoint { path, problem });
        }
        let score = read_json(&folder.join(SCORE_FILE))?;
        Ok(Self { folder: folder.to_owned(), manifest, score })
    }

    /// The step after which the checkpoint was written.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// The score, if one was given.
    pub fn score(&self) -> Option<f64> {
        self.score
    }

    /// The checkpoint's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The tensors of `NAME.safetensors`, in name order, on the CPU.
    ///
    /// # Errors
    /// [`TrainError::BadCheckpoint`] if it has no such file.
    pub fn tensors(&self, name: &str) -> Result<Vec<(String, Tensor)>, TrainError> {
        tensors::read(&self.file(format!("{name}.safetensors"))?)
    }

    /// The value of `NAME.json`.
    ///
    /// # Errors
    /// [`TrainError::BadCheckpoint`] if it has no such file, [`TrainError::Json`].
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, TrainError> {
        read_json(&self.file(format!("{name}.json"))?)
    }

    fn file(&self, name: String) -> Result<PathBuf, TrainError> {
        if self.manifest.files.contains_key(&name) {
            return Ok(self.folder.join(name));
        }
        let problem = format!("holds no {name}; it was written by another kind of run");
        Err(TrainError::BadCheckpoint { path: self.folder.clone(), problem })
    }
}

//! A model folder, written beside its target and renamed.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rlaif_core::TOKENIZER_FILES;
use rlaif_files::{PARTIAL, open_file, read_bytes, replace_folder, sibling};
use serde::Serialize;

use super::aside::{sync_folder, write_bytes, write_error, write_file, write_json};
use super::card::ModelCard;
use super::source::TensorSource;
use super::weights::write_weights;
use crate::interrupted::PREVIOUS;
use crate::json::refuse_lfs_pointer;
use crate::peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::{AdapterConfig, CheckpointError, is_plain_name, write_safetensors};

/// Far above the size of the largest known tokenizer.json (tens of megabytes).
const TOKENIZER_LIMIT: u64 = 1 << 28;

/// The folder of a tokenizer's named chat templates.
const TEMPLATES: &str = "additional_chat_templates";

/// The names of the templates in that folder, in order; empty if the folder does not exist.
fn template_names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let failed = |source| CheckpointError::Read { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        names.extend(name.to_str().filter(|name| name.ends_with(".jinja")).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Locked while its folder is written; its presence marks the folder as one that may be removed.
const MARKER: &str = ".writing";

/// Writes a model folder beside its target, and renames it when it is complete.
///
/// Files are written to `NAME.partial`, and [`finish`](Self::finish) renames it to `NAME`. Until
/// then the existing folder stays unchanged, and dropping the writer removes the new files. An
/// existing `NAME` is first moved to `NAME.previous.partial`, and removed once the new folder is in
/// place. Weights, adapters and configurations are replaced as a whole; any other file of the old
/// folder that the new one lacks (notes, a tokenizer, a subfolder) is kept.
///
/// A killed process leaves `NAME.partial` or `NAME.previous.partial`. The next writer of the same
/// folder removes the first and restores the second; [`Checkpoint::open`] reports it when only the
/// second exists.
///
/// [`Checkpoint::open`]: crate::Checkpoint::open
///
/// ```
/// use std::collections::BTreeMap;
/// use rlaif_checkpoint::{Checkpoint, DEFAULT_SHARD_BYTES, Dtype, FolderWriter, TensorBytes};
///
/// # let parent = tempfile::tempdir()?;
/// # let path = parent.path().join("model");
/// let weight = TensorBytes { dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] };
/// let mut folder = FolderWriter::create(&path)?;
/// folder.weights(&BTreeMap::from([("weight".to_owned(), weight)]), DEFAULT_SHARD_BYTES)?;
/// folder.json("config.json", &serde_json::json!({"model_type": "t5"}))?;
/// folder.finish()?;
/// assert!(Checkpoint::open(&path)?.tensors().contains_key("weight"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FolderWriter {
    target: PathBuf,
    partial: PathBuf,
    /// Holds the lock; `None` once the folder is in place.
    marker: Option<File>,
}

impl FolderWriter {
    /// Creates `NAME.partial` and its parent folders, after clearing up the remains of a killed
    /// writer.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Busy`] if another process writes the same folder,
    /// [`CheckpointError::InTheWay`] if `NAME.partial` was not left by a writer,
    /// [`CheckpointError::Write`] if the folder cannot be created.
    pub fn create(target: &Path) -> Result<Self, CheckpointError> {
        let error = write_error(target);
        if target.file_name().is_none() {
            return Err(error(io::ErrorKind::InvalidFilename.into()));
        }
        if target.is_file() {
            return Err(error(io::ErrorKind::NotADirectory.into()));
        }
        // Without a trailing slash, which would put the suffix inside the folder; and at the target
        // of a link, so that the link stays.
        let target: PathBuf = if target.is_symlink() {
            fs::canonicalize(target).map_err(&error)?
        } else {
            target.components().collect()
        };
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(&error)?;
        }
        let partial = sibling(&target, PARTIAL);
        remove_abandoned(&partial)?;
        fs::create_dir(&partial).map_err(&error)?;
        let created = File::create_new(partial.join(MARKER));
        let marker = created.map_err(|source| {
            let _ = fs::remove_dir_all(&partial);
            error(source)
        })?;
        // Without file locks, concurrent writers cannot detect each other; there is no other harm.
        let _ = marker.try_lock();
        let writer = Self { target, partial, marker: Some(marker) };
        writer.recover_previous()?;
        Ok(writer)
    }

    /// Writes `model.safetensors`, or shards and their index if it would exceed `shard_bytes`.
    ///
    /// # Errors
    ///
    /// As [`write_safetensors`].
    pub fn weights(
        &mut self,
        source: &dyn TensorSource,
        shard_bytes: u64,
    ) -> Result<(), CheckpointError> {
        write_weights(&self.partial, source, shard_bytes)
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` as peft reads them.
    ///
    /// The source's names are the file's keys: [`AdapterKey`](crate::AdapterKey) makes them.
    ///
    /// # Errors
    ///
    /// As [`write_safetensors`].
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use std::num::NonZeroU32;
    /// use rlaif_checkpoint::{
    ///     AdapterConfig, AdapterKey, Checkpoint, Dtype, FolderWriter, TaskType, TensorBytes,
    /// };
    ///
    /// # let parent = tempfile::tempdir()?;
    /// # let path = parent.path().join("adapter");
    /// let config = AdapterConfig::new(TaskType::CausalLm, NonZeroU32::new(1).unwrap());
    /// let key = AdapterKey::LoraA { module: "model.layers.0.mlp.up_proj".to_owned() }.to_string();
    /// let factor = TensorBytes { dtype: Dtype::F32, shape: vec![1, 2], bytes: vec![0; 8] };
    /// let mut folder = FolderWriter::create(&path)?;
    /// folder.adapter(&config, &BTreeMap::from([(key.clone(), factor)]))?;
    /// folder.finish()?;
    ///
    /// assert_eq!(AdapterConfig::read(&path)?, config);
    /// assert!(Checkpoint::open_adapter(&path)?.tensors().contains_key(&key));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn adapter(
        &mut self,
        config: &AdapterConfig,
        source: &dyn TensorSource,
    ) -> Result<(), CheckpointError> {
        write_safetensors(&self.partial.join(ADAPTER_WEIGHTS), source, &Default::default())?;
        self.json(ADAPTER_CONFIG, config)
    }

    /// Writes any JSON file, such as `config.json` or `generation_config.json`.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::FileName`] if the name is not a plain file name, otherwise as
    /// [`write_json`].
    pub fn json(&mut self, name: &str, value: &impl Serialize) -> Result<(), CheckpointError> {
        write_json(&self.place(name)?, value)
    }

    /// Writes the model card, `README.md`.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Write`].
    pub fn card(&mut self, card: &ModelCard) -> Result<(), CheckpointError> {
        write_bytes(&self.place("README.md")?, card.to_markdown().as_bytes())
    }

    /// Copies the files of [`TOKENIZER_FILES`] that exist in `folder`, and its named chat templates
    /// (`additional_chat_templates/*.jinja`), and returns their names.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Read`], [`CheckpointError::LfsPointer`] and [`CheckpointError::Write`].
    pub fn copy_tokenizer(&mut self, folder: &Path) -> Result<Vec<String>, CheckpointError> {
        let mut copied = Vec::new();
        for name in TOKENIZER_FILES {
            let from = folder.join(name);
            let bytes = match read_bytes(&from, TOKENIZER_LIMIT) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(CheckpointError::Read { path: from, source }),
            };
            refuse_lfs_pointer(&from, &bytes)?;
            let to = self.place(name)?;
            write_file(&to, |out| out.write_all(&bytes).map_err(write_error(&to)))?;
            copied.push(name.to_owned());
        }
        for name in template_names(&folder.join(TEMPLATES))? {
            let from = folder.join(TEMPLATES).join(&name);
            let read = |source| CheckpointError::Read { path: from.clone(), source };
            let bytes = read_bytes(&from, TOKENIZER_LIMIT).map_err(read)?;
            refuse_lfs_pointer(&from, &bytes)?;
            let to = self.partial.join(TEMPLATES);
            fs::create_dir_all(&to).map_err(write_error(&to))?;
            let to = to.join(&name);
            write_file(&to, |out| out.write_all(&bytes).map_err(write_error(&to)))?;
            copied.push(format!("{TEMPLATES}/{name}"));
        }
        Ok(copied)
    }

    /// Moves the folder to its target.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Write`]; the previous folder is kept or restored. If only the clearing up
    /// failed, the new folder is in place and the next writer clears up.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        let error = write_error(&self.target);
        let previous = sibling(&self.target, PREVIOUS);
        // Held until the rename, except on Windows, where a folder with an open file cannot be
        // renamed.
        let lock = self.marker.take().filter(|_| !cfg!(windows));
        let replaced = replace_folder(&self.partial, &self.target, &previous);
        drop(lock);
        if replaced.is_err() && self.partial.is_dir() {
            let _ = fs::remove_dir_all(&self.partial);
        }
        if replaced.map_err(&error)? {
            carry_over(&previous, &self.target)?;
        }
        fs::remove_file(self.target.join(MARKER)).map_err(&error)?;
        sync_folder(self.target.parent())
    }

    fn place(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        if !is_plain_name(name) || name == MARKER {
            return Err(CheckpointError::FileName { name: name.to_owned() });
        }
        Ok(self.partial.join(name))
    }

    /// Completes the [`finish`](Self::finish) of a killed writer.
    fn recover_previous(&self) -> Result<(), CheckpointError> {
        let previous = sibling(&self.target, PREVIOUS);
        if !previous.is_dir() {
            return Ok(());
        }
        if self.target.exists() {
            return carry_over(&previous, &self.target);
        }
        fs::rename(&previous, &self.target).map_err(write_error(&self.target))
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        if self.marker.take().is_some() {
            // There is no caller to report to; the next writer tries again.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// Removes a folder left by a killed writer, and nothing else.
fn remove_abandoned(partial: &Path) -> Result<(), CheckpointError> {
    if partial.symlink_metadata().is_err() {
        return Ok(());
    }
    let in_the_way = || CheckpointError::InTheWay { path: partial.to_owned() };
    let Ok(marker) = open_file(&partial.join(MARKER)) else {
        // Killed before it had marked the folder: the folder is empty.
        return fs::remove_dir(partial).map_err(|_| in_the_way());
    };
    if matches!(marker.try_lock(), Err(TryLockError::WouldBlock)) {
        return Err(CheckpointError::Busy { path: partial.to_owned() });
    }
    drop(marker);
    fs::remove_dir_all(partial).map_err(write_error(partial))
}

/// Moves files that the new folder lacks from the old folder, except those that describe the old
/// weights, and removes the old folder.
fn carry_over(previous: &Path, target: &Path) -> Result<(), CheckpointError> {
    let error = write_error(target);
    for entry in fs::read_dir(previous).map_err(&error)? {
        let entry = entry.map_err(&error)?;
        let to = target.join(entry.file_name());
        if !belongs_to_weights(&entry.file_name().to_string_lossy()) && !to.exists() {
            fs::rename(entry.path(), to).map_err(&error)?;
        }
    }
    fs::remove_dir_all(previous).map_err(&error)
}

fn belongs_to_weights(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        ADAPTER_CONFIG,
        ADAPTER_WEIGHTS,
        MARKER,
    ];
    NAMES.contains(&name) || (name.starts_with("model-") && name.ends_with(".safetensors"))
}

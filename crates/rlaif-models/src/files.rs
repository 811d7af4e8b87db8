//! A model on this disk: a folder, and the adapter on it.

use std::path::{Path, PathBuf};

use rlaif_checkpoint::{AdapterConfig, Checkpoint, CheckpointError};

use crate::error::ModelError;

/// The name that an adapter has in a model that was loaded with it.
pub const ADAPTER: &str = "default";

/// A model as a command or a run file names it: a model, a model and an adapter on it, or an adapter,
/// which names its base itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelNames<'a> {
    /// Folder or hub id of a model or of an adapter.
    pub model: &'a str,
    /// The branch, tag or commit.
    pub revision: Option<&'a str>,
    /// Folder or hub id of an adapter on the model.
    pub adapter: Option<&'a str>,
    /// Base of the adapter that `model` names, in place of the one that it names itself.
    pub base: Option<&'a str>,
}

/// The base of an adapter, as its configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterBase {
    /// Folder or hub id.
    pub model: String,
    /// Branch, tag or commit of a hub id.
    pub revision: Option<String>,
}

/// A model on this disk: a folder in Hugging Face's layout, and perhaps the folder of a LoRA adapter
/// on it.
///
/// ```
/// use rlaif_models::{LoadOptions, ModelFiles};
/// # let fixtures = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures"));
/// let files = ModelFiles {
///     folder: fixtures.join("models/llama3"),
///     adapter: Some(fixtures.join("adapters/llama3-a")),
/// };
/// let mut policy = files.language_model(LoadOptions::default())?;
/// assert_eq!(policy.adapters().active(), Some("default"));
/// # Ok::<(), rlaif_models::ModelError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelFiles {
    /// The folder of the model, or of the adapter's base.
    pub folder: PathBuf,
    /// The folder of the adapter.
    pub adapter: Option<PathBuf>,
}

impl From<PathBuf> for ModelFiles {
    fn from(folder: PathBuf) -> Self {
        Self { folder, adapter: None }
    }
}

impl From<&Path> for ModelFiles {
    fn from(folder: &Path) -> Self {
        folder.to_owned().into()
    }
}

impl From<&PathBuf> for ModelFiles {
    fn from(folder: &PathBuf) -> Self {
        folder.clone().into()
    }
}

impl From<&str> for ModelFiles {
    fn from(folder: &str) -> Self {
        PathBuf::from(folder).into()
    }
}

impl ModelFiles {
    /// `true` for a folder with an adapter and without the weights of a complete model.
    pub fn is_adapter(folder: &Path) -> bool {
        folder.join("adapter_config.json").is_file()
            && matches!(Checkpoint::open(folder), Err(CheckpointError::NoWeights { .. }))
    }

    /// The base that an adapter's configuration names; `None` if it names none.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if `adapter_config.json` cannot be read.
    pub fn base_of(adapter: &Path) -> Result<Option<AdapterBase>, ModelError> {
        let config = AdapterConfig::read(adapter)?;
        let named = |text: Option<String>| text.filter(|text| !text.is_empty());
        let revision = named(config.revision);
        Ok(named(config.base_model_name_or_path).map(|model| AdapterBase { model, revision }))
    }
}

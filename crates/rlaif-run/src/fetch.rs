//! Models from folders and from the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rlaif_core::Fault;
use rlaif_hub::{Hub, HubError, Repo, RepoKind};
use rlaif_models::{AdapterBase, ModelError, ModelFiles, ModelNames};
use rlaif_text::HfTokenizer;
use serde::Deserialize;

/// Errors of locating or downloading the files of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The hub, or its local cache, failed.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A file instead of a folder.
    #[error("{location} is a file; a model is a folder with a config.json in it, or a hub id")]
    File {
        /// The file.
        location: String,
    },
    /// A name that is neither a folder nor a repository with an owner.
    #[error("there is no folder {location}, so it was taken for a hub id: {source}")]
    Nowhere {
        /// The requested model.
        location: String,
        /// The hub's error.
        #[source]
        source: Box<HubError>,
    },
    /// An adapter whose base is unavailable.
    #[error(
        "{} is an adapter on `{base}`, which could not be fetched: {source}; name its base \
         yourself (`--base`, or `base` beside the model in a run file)",
        .adapter.display()
    )]
    Base {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The base that it names.
        base: String,
        /// The error for the base.
        #[source]
        source: Box<FetchError>,
    },
    /// An adapter that names no base.
    #[error(
        "{} is an adapter that does not name its base; give the base (`--base`, or `base` beside \
         the model in a run file)",
        .adapter.display()
    )]
    NoBase {
        /// The adapter's folder.
        adapter: PathBuf,
    },
    /// An adapter on an adapter.
    #[error(
        "{} is an adapter, and so is {}; merge the latter first (`rlaif merge`), and name the \
         merged model",
        .adapter.display(), .base.display()
    )]
    Stacked {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The folder of the adapter's base.
        base: PathBuf,
    },
    /// A folder that is not an adapter, although it was named as one.
    #[error("{} holds no adapter: there is no adapter_config.json", .folder.display())]
    NoAdapter {
        /// The folder.
        folder: PathBuf,
    },
    /// A base for a model that is not an adapter.
    #[error("{} is a whole model, not an adapter; leave its base (`{base}`) out", .folder.display())]
    NoUseForBase {
        /// The model's folder.
        folder: PathBuf,
        /// The base.
        base: String,
    },
    /// Quantized weights in one file, instead of a model folder.
    #[error(
        "{location} is a GGUF file, whose weights are quantized or in a layout of their own; make a \
         folder of it by `rlaif import gguf {location} --out FOLDER`, and name that, or name the folder or \
         the hub id of the original model"
    )]
    Gguf {
        /// The file.
        location: String,
    },
    /// The file that lists the files of weights.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Fault for FetchError {
    fn is_users(&self) -> bool {
        match self {
            Self::Hub(error) => error.is_users(),
            // The named folder does not exist; the hub's answer does not matter.
            Self::File { .. }
            | Self::Nowhere { .. }
            | Self::NoBase { .. }
            | Self::Stacked { .. }
            | Self::NoAdapter { .. }
            | Self::NoUseForBase { .. }
            | Self::Gguf { .. } => true,
            Self::Base { source, .. } => source.is_users(),
            Self::Model(error) => error.is_users(),
        }
    }
}

/// A local model folder: `location` if that is a folder; otherwise the files of the hub's
/// repository with that id that loading needs, downloaded to the cache.
///
/// # Errors
/// [`FetchError`] when the repository, its revision or one of its files is unavailable.
///
/// ```
/// let folder = std::env::temp_dir();
/// assert_eq!(rlaif_run::model_folder(folder.to_str().unwrap(), None)?, folder);
/// # Ok::<(), rlaif_run::FetchError>(())
/// ```
pub fn model_folder(location: &str, revision: Option<&str>) -> Result<PathBuf, FetchError> {
    if Path::new(location).is_dir() && revision.is_none() {
        return match gguf_alone(Path::new(location)) {
            Some(location) => Err(FetchError::Gguf { location }),
            None => Ok(PathBuf::from(location)),
        };
    }
    if Path::new(location).is_file() {
        if location.ends_with(".gguf") {
            return Err(FetchError::Gguf { location: location.to_owned() });
        }
        return Err(FetchError::File { location: location.to_owned() });
    }
    let open = || {
        let repo = Hub::from_env()?.open(RepoKind::Model, location, revision)?;
        let config = match repo.try_get(ADAPTER_CONFIG)? {
            // A repository that holds only an adapter.
            Some(adapter) => repo.try_get("config.json")?.unwrap_or(adapter),
            None => repo.get("config.json")?,
        };
        Ok::<_, HubError>((repo, config))
    };
    let nowhere = |source| FetchError::Nowhere { location: location.to_owned(), source };
    // Few repositories have no owner in their id, so this is probably a misspelt folder.
    let (repo, config) = open().map_err(|error| {
        if location.contains('/') { error.into() } else { nowhere(Box::new(error)) }
    })?;
    fetch_weights(&repo)?;
    if repo.try_get(ADAPTER_CONFIG)?.is_some() && repo.try_get(ADAPTER_WEIGHTS[0])?.is_none() {
        repo.try_get(ADAPTER_WEIGHTS[1])?;
    }
    for file in HfTokenizer::files().chain(["generation_config.json"]) {
        repo.try_get(file)?;
    }
    for file in repo.files()?.iter().filter(|file| HfTokenizer::is_named_template(file)) {
        repo.get(file)?;
    }
    // Every file of a repository lies in one folder.
    Ok(config.parent().map_or_else(|| PathBuf::from("."), PathBuf::from))
}

/// The local files of a model; the files of a hub repository are downloaded first.
///
/// # Errors
/// As [`model_folder`]; [`FetchError::Base`] and [`FetchError::NoBase`] for an adapter whose base is
/// unavailable, [`FetchError::Stacked`] for an adapter on an adapter.
pub fn model_files(names: &ModelNames<'_>) -> Result<ModelFiles, FetchError> {
    let folder = model_folder(names.model, names.revision)?;
    if ModelFiles::is_adapter(&folder) {
        return match names.adapter {
            None => on_base(folder, names.base),
            Some(adapter) => {
                let adapter = PathBuf::from(adapter);
                Err(FetchError::Stacked { adapter, base: folder })
            }
        };
    }
    if let Some(base) = names.base {
        return Err(FetchError::NoUseForBase { folder, base: base.to_owned() });
    }
    let adapter = names.adapter.map(|adapter| model_folder(adapter, None)).transpose()?;
    match adapter {
        Some(folder) if !folder.join(ADAPTER_CONFIG).is_file() => {
            Err(FetchError::NoAdapter { folder })
        }
        adapter => Ok(ModelFiles { folder, adapter }),
    }
}

/// The folder of an adapter, and that of its base.
fn on_base(adapter: PathBuf, base: Option<&str>) -> Result<ModelFiles, FetchError> {
    let named = match base {
        Some(base) => Some(AdapterBase { model: base.to_owned(), revision: None }),
        None => ModelFiles::base_of(&adapter)?,
    };
    let Some(AdapterBase { model: base, revision }) = named else {
        return Err(FetchError::NoBase { adapter });
    };
    let beside = adapter.join(&base);
    let folder = match Path::new(&base) {
        // As in peft, relative to the current folder; or else to the adapter's.
        path if !path.is_dir() && path.is_relative() && beside.is_dir() => beside,
        path => {
            let revision = revision.filter(|_| !path.is_dir());
            model_folder(&base, revision.as_deref()).map_err(|source| FetchError::Base {
                adapter: adapter.clone(),
                base: base.clone(),
                source: Box::new(source),
            })?
        }
    };
    if ModelFiles::is_adapter(&folder) {
        return Err(FetchError::Stacked { adapter, base: folder });
    }
    Ok(ModelFiles { folder, adapter: Some(adapter) })
}

/// peft's name of an adapter's configuration.
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// File names of weights, in the order of preference.
const ADAPTER_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// The GGUF file in a folder without other weights.
fn gguf_alone(folder: &Path) -> Option<String> {
    let files: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).collect();
    let ends = |file: &Path, end: &str| file.extension().is_some_and(|extension| extension == end);
    if files.iter().any(|file| ends(file, "safetensors") || ends(file, "bin")) {
        return None;
    }
    Some(files.iter().find(|file| ends(file, "gguf"))?.display().to_string())
}

/// The index of sharded weights, which maps tensors to files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Downloads the first available form of weights, including shards.
fn fetch_weights(repo: &Repo) -> Result<(), FetchError> {
    for whole in ["model.safetensors", "pytorch_model.bin"] {
        if repo.try_get(whole)?.is_some() {
            return Ok(());
        }
        let index = format!("{whole}.index.json");
        if let Some(index) = repo.try_get(&index)? {
            let index: Index = rlaif_checkpoint::read_json(&index).map_err(ModelError::from)?;
            for shard in index.weight_map.into_values().collect::<BTreeSet<_>>() {
                repo.get(&shard)?;
            }
            return Ok(());
        }
    }
    Ok(())
}

//! Models from folders and from the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rlaif_core::Fault;
use rlaif_hub::{Hub, HubError, Repo, RepoKind};
use rlaif_models::ModelError;
use rlaif_text::HfTokenizer;
use serde::Deserialize;

/// Why the files of a model could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The hub, or the cache of it on this disk.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A file in the place of a folder.
    #[error("{location} is a file; a model is a folder with a config.json in it, or a hub id")]
    File {
        /// The file.
        location: String,
    },
    /// Neither a folder nor a repository without an owner.
    #[error("there is no folder {location} here; taken for a hub id: {source}")]
    Nowhere {
        /// The requested model.
        location: String,
        /// Why the hub does not have it.
        #[source]
        source: Box<HubError>,
    },
    /// The list of the files that hold the weights.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Fault for FetchError {
    fn is_users(&self) -> bool {
        match self {
            Self::Hub(error) => error.is_users(),
            // The folder that was named is not there; the hub's answer does not matter.
            Self::File { .. } | Self::Nowhere { .. } => true,
            Self::Model(error) => error.is_users(),
        }
    }
}

/// A model's folder on this disk: `location` where that is a folder, else the files of the hub's
/// repository of that id, every one that loading needs, fetched into the cache first.
///
/// # Errors
/// [`FetchError`] when the repository, its revision or one of its files cannot be had.
///
/// ```
/// let folder = std::env::temp_dir();
/// assert_eq!(rlaif_run::model_folder(folder.to_str().unwrap(), None)?, folder);
/// # Ok::<(), rlaif_run::FetchError>(())
/// ```
pub fn model_folder(location: &str, revision: Option<&str>) -> Result<PathBuf, FetchError> {
    if Path::new(location).is_dir() && revision.is_none() {
        return Ok(PathBuf::from(location));
    }
    if Path::new(location).is_file() {
        return Err(FetchError::File { location: location.to_owned() });
    }
    let open = || {
        let repo = Hub::from_env()?.open(RepoKind::Model, location, revision)?;
        let config = repo.get("config.json")?;
        Ok::<_, HubError>((repo, config))
    };
    let nowhere = |source| FetchError::Nowhere { location: location.to_owned(), source };
    // Few repositories have no owner in their id: more likely it is a folder that is misspelt.
    let (repo, config) = open().map_err(|error| {
        if location.contains('/') { error.into() } else { nowhere(Box::new(error)) }
    })?;
    fetch_weights(&repo)?;
    for file in HfTokenizer::FILES.iter().copied().chain(["generation_config.json"]) {
        repo.try_get(file)?;
    }
    // Every file of a repository lies in one folder.
    Ok(config.parent().map_or_else(|| PathBuf::from("."), PathBuf::from))
}

/// The index of sharded weights: which file holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Fetches the first of the forms that weights come in, shards included.
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

//! Datasets of the Hugging Face hub as sources.

use std::collections::BTreeSet;

use rlaif_hub::{Hub, RepoKind};

use crate::error::DataError;
use crate::source::{Input, Source};

/// The branch with the hub's own conversion of a dataset to Parquet.
const CONVERTED: &str = "refs/convert/parquet";

/// A selection of files of a hub dataset.
///
/// Files are sorted into splits as in Python's `datasets`: by `train`, `validation` (`valid`,
/// `val`, `dev`) or `test` (`eval`) in their paths, or all into `train` when no path names a split.
/// The files are kept in the cache shared with Python. Offline, and at a pinned commit, they are
/// read from the cache.
///
/// ```no_run
/// use rlaif_data::{HubDataset, Reader, corpora::Hh};
/// use rlaif_hub::Hub;
/// let hub = Hub::from_env()?;
/// let source = HubDataset::hh().folder("harmless-base").split("test").source(&hub)?;
/// let pairs = Reader::new(source).dataset(Hh::default())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubDataset {
    id: String,
    revision: Option<String>,
    split: String,
    layout: Layout,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// The files as published, in a folder if one is named.
    Published { folder: Option<String> },
    /// `{config}/{split}/0000.parquet` and so on, on the branch of the conversion.
    Converted { config: Option<String> },
}

impl HubDataset {
    /// The train split of a dataset as published, at its newest commit.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            revision: None,
            split: "train".to_owned(),
            layout: Layout::Published { folder: None },
        }
    }

    /// `Anthropic/hh-rlhf`: the preference pairs of all four subsets (`harmless-base`,
    /// `helpful-base`, `helpful-online`, `helpful-rejection-sampled`). [`HubDataset::folder`]
    /// selects one. Read it as [`Hh`](crate::corpora::Hh).
    pub fn hh() -> Self {
        Self::new("Anthropic/hh-rlhf")
    }

    /// The red-team attempts of `Anthropic/hh-rlhf`. Read them as
    /// [`RedTeam`](crate::corpora::RedTeam).
    pub fn red_team() -> Self {
        Self::hh().folder("red-team-attempts")
    }

    /// `allenai/real-toxicity-prompts`. Read it as
    /// [`RealToxicityPrompts`](crate::corpora::RealToxicityPrompts).
    pub fn real_toxicity_prompts() -> Self {
        Self::new("allenai/real-toxicity-prompts")
    }

    /// `knkarthick/dialogsum`. Read it as [`DialogSum`](crate::corpora::DialogSum).
    pub fn dialogsum() -> Self {
        Self::new("knkarthick/dialogsum")
    }

    /// Reads a branch, tag or commit instead of `main`.
    #[must_use]
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Reads only the files in this folder, `data_dir` in Python's `datasets`.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<String>) -> Self {
        let folder = folder.into().trim_matches('/').to_owned();
        self.layout = Layout::Published { folder: Some(folder) };
        self
    }

    /// Reads another split than `train`.
    #[must_use]
    pub fn split(mut self, split: impl Into<String>) -> Self {
        self.split = split.into();
        self
    }

    /// Reads the hub's own conversion to Parquet, which exists for almost every dataset regardless
    /// of its file format. A dataset with several configurations needs the name of one.
    #[must_use]
    pub fn converted(mut self, config: Option<&str>) -> Self {
        self.layout = Layout::Converted { config: config.map(str::to_owned) };
        self
    }

    /// The files, downloaded if the cache does not have them.
    ///
    /// # Errors
    /// [`DataError::Hub`] when the files cannot be downloaded or found, [`DataError::HubLayout`]
    /// when the dataset does not have the folder, configuration or split; the error lists the
    /// existing names.
    pub fn source(&self, hub: &Hub) -> Result<Source, DataError> {
        let failed = |source| DataError::Hub { dataset: self.id.clone(), source: Box::new(source) };
        let revision = match (&self.revision, &self.layout) {
            (Some(revision), _) => Some(revision.as_str()),
            (None, Layout::Converted { .. }) => Some(CONVERTED),
            (None, Layout::Published { .. }) => None,
        };
        let repo = hub.repo(RepoKind::Dataset, &self.id, revision).map_err(failed)?;
        let files = repo.files().map_err(failed)?;
        let chosen = match &self.layout {
            Layout::Published { folder } => self.published(&files, folder.as_deref())?,
            Layout::Converted { config } => self.conversion(&files, config.as_deref())?,
        };
        let commit = repo.commit().map_err(failed)?;
        let inputs = chosen
            .into_iter()
            .map(|file| {
                Ok(Input {
                    name: format!("{}/{file}", self.id),
                    path: repo.get(file).map_err(failed)?,
                    revision: commit.clone(),
                    content: None,
                })
            })
            .collect::<Result<_, DataError>>()?;
        Ok(Source::of_inputs(inputs))
    }

    fn published<'a>(
        &self,
        files: &'a [String],
        folder: Option<&str>,
    ) -> Result<Vec<&'a str>, DataError> {
        let data: Vec<&str> = files.iter().map(String::as_str).filter(|f| is_data(f)).collect();
        let within = |file: &&str| match folder {
            Some(folder) => file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
            None => true,
        };
        let inside: Vec<&str> = data.iter().copied().filter(within).collect();
        if inside.is_empty() {
            let folders: BTreeSet<&str> =
                data.iter().filter_map(|file| Some(file.rsplit_once('/')?.0)).collect();
            return Err(self.layout_error("folder", folder.unwrap_or("/"), &folders));
        }
        // The folder was requested by name, so its name gives no information about splits.
        let skip = folder.map_or(0, str::len);
        let splits: Vec<Option<String>> =
            inside.iter().map(|file| split_of(&file[skip..])).collect();
        let named = splits.iter().any(Option::is_some);
        let wanted = split_of(&self.split).unwrap_or_else(|| self.split.clone());
        let unnamed = (!named).then_some("train");
        let chosen: Vec<&str> = inside
            .iter()
            .zip(&splits)
            .filter(|(_, split)| split.as_deref().or(unnamed) == Some(wanted.as_str()))
            .map(|(file, _)| *file)
            .collect();
        if chosen.is_empty() {
            let found: BTreeSet<&str> =
                splits.iter().map(|split| split.as_deref().unwrap_or("train")).collect();
            return Err(self.layout_error("split", &self.split, &found));
        }
        Ok(chosen)
    }

    fn conversion<'a>(
        &self,
        files: &'a [String],
        config: Option<&str>,
    ) -> Result<Vec<&'a str>, DataError> {
        let parts: Vec<(&str, &str, &str)> = files
            .iter()
            .filter(|file| file.ends_with(".parquet"))
            .filter_map(|file| {
                let mut parts = file.splitn(3, '/');
                let (config, split) = (parts.next()?, parts.next()?);
                parts.next().map(|_| (config, split, file.as_str()))
            })
            .collect();
        let configs: BTreeSet<&str> = parts.iter().map(|part| part.0).collect();
        let config = match config {
            Some(config) => configs.get(config).copied(),
            None => configs.first().copied().filter(|_| configs.len() == 1),
        };
        let Some(config) = config else {
            let asked = match &self.layout {
                Layout::Converted { config: Some(config) } => config.as_str(),
                Layout::Converted { config: None } | Layout::Published { folder: _ } => {
                    "(none named)"
                }
            };
            return Err(self.layout_error("configuration", asked, &configs));
        };
        let of_config = || parts.iter().filter(|part| part.0 == config);
        let chosen: Vec<&str> =
            of_config().filter(|part| part.1 == self.split).map(|part| part.2).collect();
        if chosen.is_empty() {
            let splits = of_config().map(|part| part.1).collect();
            return Err(self.layout_error("split", &self.split, &splits));
        }
        Ok(chosen)
    }

    fn layout_error(&self, what: &'static str, asked: &str, found: &BTreeSet<&str>) -> DataError {
        DataError::HubLayout {
            dataset: self.id.clone(),
            what,
            asked: asked.to_owned(),
            found: found.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

/// `true` if a file may hold rows, judged by its name: before the download, only names distinguish
/// data from a README. The format is recognised later, by content.
fn is_data(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let name = [".gz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    let by_format = [".jsonl", ".ndjson", ".json", ".csv", ".parquet"];
    let about = ["dataset_infos.json", "dataset_info.json", "state.json", "config.json"];
    by_format.iter().any(|end| name.ends_with(end)) && !about.contains(&name)
}

/// The split that a path names: a word such as `train`, or a longer name that begins with one, such
/// as `train_sft`, which is a split of its own.
fn split_of(path: &str) -> Option<String> {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.map(str::to_ascii_lowercase).find_map(|word| {
        let parts: Vec<&str> = word.split('_').collect();
        let at = parts.iter().position(|part| known_split(part).is_some())?;
        // A following number counts files, not splits.
        let named = at == 0 && parts.get(1).is_some_and(|p| p.starts_with(char::is_alphabetic));
        if named { Some(word.clone()) } else { known_split(parts[at]).map(str::to_owned) }
    })
}

fn known_split(word: &str) -> Option<&'static str> {
    match word.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "train" | "training" => Some("train"),
        "validation" | "valid" | "val" | "dev" => Some("validation"),
        "test" | "testing" | "eval" | "evaluation" => Some("test"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_told_by_whole_words() {
        for (path, split) in [
            ("data/train-00000-of-00002.parquet", Some("train")),
            ("helpful-base/test.jsonl.gz", Some("test")),
            ("dev.csv", Some("validation")),
            ("dialogsum_train.csv", Some("train")),
            ("train_00001.parquet", Some("train")),
            ("train2.csv", Some("train")),
            // Splits of their own, not parts of one.
            ("data/train_sft-00000-of-00001.parquet", Some("train_sft")),
            ("data/test_prefs-0.jsonl", Some("test_prefs")),
            ("red-team-attempts/red_team_attempts.jsonl.gz", None),
            ("contest/values.csv", None),
        ] {
            assert_eq!(split_of(path).as_deref(), split, "{path}");
        }
    }

    #[test]
    fn what_stands_beside_the_data_is_no_data() {
        assert!(is_data("a/train.JSONL.gz") && is_data("train.csv") && is_data("x.parquet"));
        assert!(
            !is_data("README.md") && !is_data(".gitattributes") && !is_data("dataset_infos.json")
        );
    }
}

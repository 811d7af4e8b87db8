//! Run files from the configurations of TRL's scripts.
//!
//! A script of TRL reads one file of fields: those of its trainer's configuration, of `ModelConfig` and of
//! `ScriptArguments`. [`ImportTrl`] writes the run file with the same settings. Fields that the file does not give have TRL's
//! defaults, which differ from those of rlaif.

mod elsewhere;
mod error;
mod fields;
mod policy;
mod ppo;
mod preference;
mod supervised;
mod training;

use std::{fmt, fmt::Write, num::NonZeroUsize, path::Path};

use serde_json::{Map, Value};

pub use self::error::TrlError;
use self::fields::Fields;
use crate::{DpoFile, PpoFile, ReinforceFile, RewardFile, RunFile, SftFile};

/// Maximum size of a configuration, in bytes.
const MOST: u64 = 1 << 20;

/// A trainer of TRL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrlTrainer {
    /// `PPOTrainer` of TRL 0.11.4, the last one with `step`.
    Ppo,
    /// `DPOTrainer` of TRL 1.16, like the following ones.
    Dpo,
    /// `KTOTrainer`.
    Kto,
    /// `GRPOTrainer`.
    Grpo,
    /// `RLOOTrainer`.
    Rloo,
    /// `RewardTrainer`.
    Reward,
    /// `SFTTrainer`.
    Sft,
}

impl TrlTrainer {
    /// All trainers.
    pub const ALL: [Self; 7] =
        [Self::Ppo, Self::Dpo, Self::Kto, Self::Grpo, Self::Rloo, Self::Reward, Self::Sft];

    /// The name in lower case, such as `dpo`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ppo => "ppo",
            Self::Dpo => "dpo",
            Self::Kto => "kto",
            Self::Grpo => "grpo",
            Self::Rloo => "rloo",
            Self::Reward => "reward",
            Self::Sft => "sft",
        }
    }

    /// The command of rlaif that does the same.
    pub fn command(self) -> &'static str {
        match self {
            Self::Ppo => PpoFile::COMMAND,
            Self::Dpo | Self::Kto => DpoFile::COMMAND,
            Self::Grpo | Self::Rloo => ReinforceFile::COMMAND,
            Self::Reward => RewardFile::COMMAND,
            Self::Sft => SftFile::COMMAND,
        }
    }

    /// TRL's class, with its version.
    pub fn class(self) -> &'static str {
        match self {
            Self::Ppo => "PPOConfig of TRL 0.11.4",
            Self::Dpo => "DPOConfig of TRL 1.16",
            Self::Kto => "KTOConfig of TRL 1.16",
            Self::Grpo => "GRPOConfig of TRL 1.16",
            Self::Rloo => "RLOOConfig of TRL 1.16",
            Self::Reward => "RewardConfig of TRL 1.16",
            Self::Sft => "SFTConfig of TRL 1.16",
        }
    }
}

impl fmt::Display for TrlTrainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The counterpart of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counterpart {
    /// Keys of the run file.
    Keys(Vec<String>),
    /// No key: rlaif always does this, or does it elsewhere.
    Elsewhere(&'static str),
    /// Nothing: the run differs from TRL's in this.
    Nothing(String),
}

/// A field of TRL's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct TrlField {
    /// TRL's name.
    pub name: String,
    /// The value in the file, or TRL's default.
    pub value: Value,
    /// The counterpart in rlaif.
    pub counterpart: Counterpart,
}

/// A run file with the settings of a configuration of TRL.
#[derive(Debug, Clone)]
pub struct ImportedTrl {
    /// The trainer.
    pub trainer: TrlTrainer,
    /// The keys and values.
    pub table: toml::Table,
    /// All fields of the configuration, by name.
    pub fields: Vec<TrlField>,
    /// Keys that the configuration cannot give, such as `data.train`, with the reason.
    pub needed: Vec<(&'static str, &'static str)>,
}

impl ImportedTrl {
    /// Fields of the configuration in which the run differs from TRL's, with the difference.
    pub fn differences(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().filter_map(|field| match &field.counterpart {
            Counterpart::Nothing(difference) => Some((field.name.as_str(), difference.as_str())),
            Counterpart::Keys(_) | Counterpart::Elsewhere(_) => None,
        })
    }

    /// The run file, with its differences from TRL and the missing keys as comments.
    pub fn to_toml(&self) -> String {
        let mut text = format!("# From a {}, by `rlaif import trl`.\n", self.trainer.class());
        for (field, difference) in self.differences() {
            let _ = writeln!(text, "# Not as in TRL: `{field}`: {difference}");
        }
        for (key, reason) in &self.needed {
            let _ = writeln!(text, "# To be set: `{key}`: {reason}");
        }
        text.push('\n');
        text.push_str(&self.table.to_string());
        text
    }

    /// Writes the run file.
    ///
    /// # Errors
    /// [`TrlError::Exists`] if there is such a file: it may have been edited. [`TrlError::Write`] if the
    /// system refuses.
    pub fn write(&self, path: &Path) -> Result<(), TrlError> {
        let path = path.to_owned();
        if path.symlink_metadata().is_ok() {
            return Err(TrlError::Exists { path });
        }
        rlaif_files::write_bytes(&path, self.to_toml().as_bytes())
            .map_err(|source| TrlError::Write { path, source })
    }
}

/// Reads configurations of TRL's scripts.
///
/// ```
/// use std::num::NonZeroUsize;
/// use rlaif_run::{ImportTrl, TrlTrainer};
///
/// let import = ImportTrl { trainer: TrlTrainer::Dpo, processes: NonZeroUsize::MIN };
/// let imported = import.read("dpo.yaml", "model_name_or_path: Qwen/Qwen3-0.6B\nbeta: 0.05\n")?;
/// assert_eq!(imported.table["model"]["path"].as_str(), Some("Qwen/Qwen3-0.6B"));
/// assert!(imported.to_toml().contains("beta = 0.05"));
/// assert_eq!(imported.needed[0].0, "data.train");
/// # Ok::<(), rlaif_run::TrlError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct ImportTrl {
    /// TRL's trainer.
    pub trainer: TrlTrainer,
    /// Number of processes that the script ran in. TRL's batch sizes are those of one process.
    pub processes: NonZeroUsize,
}

impl ImportTrl {
    /// Reads a file of JSON or YAML.
    ///
    /// # Errors
    /// [`TrlError`], as [`ImportTrl::read`]; also for a file that cannot be read.
    pub fn read_file(&self, path: &Path) -> Result<ImportedTrl, TrlError> {
        let text = rlaif_files::read_text(path, MOST)
            .map_err(|source| TrlError::File { path: path.to_owned(), source })?;
        self.read(&path.display().to_string(), &text)
    }

    /// Reads the text of a JSON or YAML file; `name` is for error messages.
    ///
    /// # Errors
    /// [`TrlError`] for other syntax, unknown fields, and values of another type or out of range.
    pub fn read(&self, name: &str, text: &str) -> Result<ImportedTrl, TrlError> {
        // JSON is nearly a subset of YAML, but not in tabs and in the messages of errors.
        let parsed = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())
        } else {
            serde_norway::from_str(text).map_err(|error| error.to_string())
        };
        let given: Value =
            parsed.map_err(|message| TrlError::Syntax { file: name.to_owned(), message })?;
        match given {
            Value::Object(given) => self.import(name, given),
            Value::Null if text.trim().is_empty() => self.import(name, Map::new()),
            _ => Err(TrlError::Syntax {
                file: name.to_owned(),
                message: "expected names of fields with their values".to_owned(),
            }),
        }
    }

    fn import(&self, name: &str, given: Map<String, Value>) -> Result<ImportedTrl, TrlError> {
        let trainer = self.trainer;
        let mut fields = Fields::new(trainer, name, given, self.processes)?;
        match trainer {
            TrlTrainer::Ppo => ppo::import(&mut fields)?,
            TrlTrainer::Dpo => preference::import_dpo(&mut fields)?,
            TrlTrainer::Kto => preference::import_kto(&mut fields)?,
            TrlTrainer::Grpo => policy::import_grpo(&mut fields)?,
            TrlTrainer::Rloo => policy::import_rloo(&mut fields)?,
            TrlTrainer::Reward => supervised::import_reward(&mut fields)?,
            TrlTrainer::Sft => supervised::import_sft(&mut fields)?,
        }
        elsewhere::settle(&mut fields);
        Ok(fields.finish())
    }
}

/// The fields of a trainer's configuration with their counterparts, as a table in Markdown: for `shared` those that all
/// trainers of TRL 1.16 have, for the name of one of them those that `shared` lacks.
///
/// ```
/// let table = rlaif_run::trl_table("dpo");
/// assert!(table.contains("| `beta` | `0.1` | `dpo.objective.pairs.terms` |"));
/// assert!(rlaif_run::trl_table("shared").contains("| `learning_rate` |"));
/// ```
pub fn trl_table(which: &str) -> String {
    let mut table = "| TRL | default | rlaif |\n|---|---|---|\n".to_owned();
    let shared = |name: &str| {
        let others = TrlTrainer::ALL.iter().filter(|trainer| **trainer != TrlTrainer::Ppo);
        others.clone().all(|trainer| Fields::knows(*trainer, name))
    };
    let is_shared = which == "shared";
    let named = TrlTrainer::ALL.into_iter().find(|trainer| trainer.name() == which);
    let trainer = if is_shared { Some(TrlTrainer::Sft) } else { named };
    let import = trainer.map(|trainer| ImportTrl { trainer, processes: NonZeroUsize::MIN });
    let Some(Ok(imported)) = import.map(|import| import.import(which, Map::new())) else {
        return table;
    };
    let of_ppo = trainer == Some(TrlTrainer::Ppo);
    for field in imported.fields.iter().filter(|field| of_ppo || shared(&field.name) == is_shared) {
        let counterpart = match &field.counterpart {
            Counterpart::Keys(keys) => {
                keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
            }
            Counterpart::Elsewhere(place) => (*place).to_owned(),
            Counterpart::Nothing(difference) => format!("differs: {difference}"),
        };
        let _ = writeln!(table, "| `{}` | `{}` | {counterpart} |", field.name, field.value);
    }
    table
}

//! The trainers of TRL, and a run file made of one of their configurations.

use std::{fmt, fmt::Write, path::Path};

use serde_json::Value;

use super::error::TrlError;
use crate::{DpoFile, PpoFile, ReinforceFile, RewardFile, RunFile, SftFile};

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

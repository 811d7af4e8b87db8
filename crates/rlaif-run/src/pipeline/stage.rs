//! A stage with its key, and the record of a complete one.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Table;

use super::commands::{StageCommand, StageSize};

/// A stage of a pipeline.
#[derive(Debug, Clone)]
pub struct PlannedStage {
    /// The stage's name.
    pub name: String,
    /// The command that it runs.
    pub command: &'static str,
    /// The stages whose outputs it reads.
    pub needs: Vec<String>,
    /// A hash of everything that the result depends on: settings, the content of input files, the keys of
    /// the stages that it needs.
    pub key: String,
    /// The stage's folder.
    pub folder: PathBuf,
    /// The state of the folder.
    pub state: StageState,
    /// The least memory for the training, in bytes, if the model is here.
    pub memory: Option<u64>,
    /// The model that it trains, or the one that the first of its stages began with.
    pub(super) base: Option<String>,
    pub(super) size: StageSize,
    /// The run file.
    pub(super) settings: Table,
    pub(super) open: &'static StageCommand,
}

/// The state of a stage's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StageState {
    /// Nothing is there.
    New,
    /// The stage was interrupted, and continues.
    Begun,
    /// The stage is complete, and is not run again.
    Done,
}

impl fmt::Display for StageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Begun => "continues",
            Self::Done => "reused",
        })
    }
}

/// The record of a complete stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// The stage's name.
    pub stage: String,
    /// The command of the stage.
    pub command: String,
    /// The key of the stage.
    pub key: String,
    /// Seconds of the run that completed it.
    pub seconds: f64,
    /// The numbers that the command tells at its end.
    pub summary: Value,
}

//! Reading a configuration, and the tables of docs/trl.md.

use std::{fmt::Write, num::NonZeroUsize, path::Path};

use serde_json::{Map, Value};

use super::{
    elsewhere,
    error::TrlError,
    fields::Fields,
    imported::{Counterpart, ImportedTrl, TrlTrainer},
    policy, ppo, preference, supervised,
};

/// Maximum size of a configuration, in bytes.
const MOST: u64 = 1 << 20;

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

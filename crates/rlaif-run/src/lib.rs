//! Run files, and the runs that they describe.
//!
//! ```toml
//! seed = 7
//! [model]
//! path = "google/flan-t5-small"
//! [train]
//! steps = 500
//! [learn.optimizer]
//! lr = 1e-4
//! ```
//!
//! Each command has one type for its run file: a serde struct with `deny_unknown_fields` and
//! defaults wherever possible, composed of sections that commands share ([`ModelSection`],
//! [`DataSection`]) and of the library's configurations. The type implements [`RunFile`], and
//! [`RunRequest::open`] does the rest:
//!
//! 1. reads the file, sets the keys of `--set a.b=v`, and refuses unknown keys with the nearest
//!    known one;
//! 2. makes local paths absolute, so that the run can be resumed from anywhere;
//! 3. with `--resume`, takes `run.toml` of the run folder instead, and refuses settings that differ;
//! 4. [`OpenRun::folder`] then creates the folder, or continues in it, and writes the resolved
//!    file.
//!
//! ```
//! use rlaif_run::{RunFile, RunRequest};
//! use rlaif_train::{FitConfig, Keep};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct MyRun {
//!     model: String,
//!     #[serde(default)]
//!     train: FitConfig,
//! }
//! impl RunFile for MyRun {
//!     const COMMAND: &'static str = "mine";
//!     fn locations(&mut self) -> Vec<&mut String> {
//!         vec![&mut self.model]
//!     }
//! }
//!
//! # let folder = tempfile::tempdir()?;
//! let file = folder.path().join("mine.toml");
//! std::fs::write(&file, "model = \"google/flan-t5-small\"\n[train]\nstpes = 3\n")?;
//! let request = RunRequest {
//!     config: Some(file.clone()),
//!     out: Some(folder.path().join("out")),
//!     set: vec!["train.batch_size=4".into()],
//!     ..RunRequest::default()
//! };
//! let error = request.open::<MyRun>().unwrap_err().to_string();
//! assert!(error.contains("unknown key `stpes`; did you mean `steps`?"), "{error}");
//!
//! std::fs::write(&file, "model = \"google/flan-t5-small\"\n[train]\nsteps = 3\n")?;
//! let run = request.open::<MyRun>()?;
//! assert_eq!((run.config.train.steps, run.config.train.batch_size), (3, 4));
//! let (folder, saved) = run.folder(Keep { newest: 2, best: None })?;
//! assert!(saved.is_none() && folder.path().join("run.toml").exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// Each has one place: rlaif_core::say, rlaif_files.
#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)
)]

mod annotate;
mod candidates;
mod classifier;
mod columns;
pub mod command;
mod data;
mod distill;
mod dpo;
mod encode;
mod error;
mod evaluate;
mod exam;
mod fetch;
mod file;
mod grade;
mod groups;
mod journal;
mod judge;
mod label;
mod memory;
mod model;
mod pair_columns;
mod pipeline;
mod place;
mod ppo;
mod project;
mod prompt;
mod recipe;
mod red_team;
mod reinforce;
mod results;
mod resume;
mod revise;
mod reward;
mod rewards;
mod rl;
mod rows;
mod schema;
mod sft;
mod skipped;
mod source;
mod supervised;
mod trl;
mod verdicts;
mod vocabulary;
mod work;

pub use annotate::{AnnotateData, AnnotateFile, AnnotateSummary};
pub use candidates::{CandidateData, CandidatesFile, CandidatesSummary, ResponseFile};
pub use classifier::{ClassifierColumns, ClassifierFile};
pub use columns::{ColumnSection, DataFormat};
pub use data::{DataRows, DataSection, ShuffledBatches};
pub use distill::DistillFile;
pub use dpo::{DpoFile, DpoRows, OnlineSection};
pub use encode::Encoder;
pub use error::{RowProblem, RunError};
pub use evaluate::{
    CorpusName, EvalData, EvalFile, Evaluate, EvaluateError, EvaluateProgress, EvaluatedModel,
    LikelihoodMetrics, MetricConfig, PolicyConfig, PreferenceCheck, Side, tell_of_training,
};
pub use exam::{ExamData, ExamFile, ExamSettings};
pub use fetch::{FetchError, model_files, model_folder};
pub use file::{OpenRun, RunFile, RunRequest};
pub use judge::{JudgeData, JudgeFile, JudgeSummary};
pub use label::{LabelData, LabelFile, LabelSummary, Lessons};
pub use memory::{WeightsInMemory, longest};
pub use model::{
    LoraBias, LoraInit, LoraSection, LoraTargets, ModelSection, Placement, tell_of_slow_dtype,
    tell_of_unread, tokenizer,
};
pub use pair_columns::{PairColumnsSection, PairFormat};
pub use pipeline::{
    Pipeline, PipelineFile, PipelineRequest, PlannedStage, RoundGain, Rounds, StageRecord,
    StageState,
};
pub use ppo::{PpoFile, PretrainingSection, ValueSection, ValueStart};
pub use project::{NewProject, ProjectError, ProjectKind};
pub use prompt::{PromptSection, pass_on_rendering};
pub use recipe::{Basics, OngoingRun, Outline, Recipe, Start, TrainedModel, train};
pub use red_team::{PromptFilter, RedTeamData, RedTeamFile, RedTeamSummary};
pub use reinforce::ReinforceFile;
pub use resume::{AtResume, Change};
pub use revise::{
    Critiques, FirstResponse, ReviseData, ReviseFile, ReviseSummary, RevisedRows, RoundMeasures,
};
pub use reward::{RewardColumns, RewardFile};
pub use rewards::{rewards_for_file, rewards_from_config};
pub use rl::{
    EnvironmentConfig, PromptData, RlFile, RlPrompts, RlSections, RlSettings, RlTrainSection,
    ToolConfig,
};
pub use schema::{
    Key, api_table, commands_with_files, commands_with_runs, key_lines, key_table, keys,
    reward_key_table, reward_keys, reward_table, schema,
};
pub use sft::SftFile;
pub use skipped::SkippedRows;
pub use trl::{Counterpart, ImportTrl, ImportedTrl, TrlError, TrlField, TrlTrainer, trl_table};
pub use verdicts::{any_scored, score_into};
pub use vocabulary::OtherVocabulary;
pub use work::{OpenWork, Work, WorkOut, WorkRequest};

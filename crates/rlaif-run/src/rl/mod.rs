//! Reinforcement learning from run files: sections, and one recipe for every algorithm.

mod environment;
mod file;
mod models;
mod prompts;
mod run;
mod sections;
mod servers;

pub use environment::{EnvironmentConfig, ToolConfig};
pub use file::RlFile;
pub(crate) use file::in_section;
pub(crate) use models::{check_vocabulary, files_of, policy, policy_and_reference};
pub use prompts::{PromptData, RlPrompts};
pub(crate) use run::PromptRun;
pub use sections::{RlSections, RlSettings, RlTrainSection};
pub(crate) use sections::{sections_of, within};
pub(crate) use servers::servers;

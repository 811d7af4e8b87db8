//! Reinforcement learning from run files: sections, and one recipe for every algorithm.

mod file;
mod models;
mod prompts;
mod section;

pub(crate) use file::in_section;
pub use file::{RlFile, RlSections, RlSettings};
pub(crate) use models::{check_vocabulary, files_of, policy_and_reference};
pub(crate) use prompts::Needed;
pub use prompts::{PromptData, RlPrompts};
pub use section::RlTrainSection;

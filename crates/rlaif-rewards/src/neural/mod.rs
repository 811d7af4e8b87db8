//! Rewards that run a model of this library: classifiers, reward models with a scalar head, and
//! policies as judges.

pub(crate) mod asker;
mod classifier;
mod config;
mod folder;
mod judged;
mod policy_judge;

pub use classifier::{
    ClassifierOptions, ClassifierReward, Input, LabelChoice, NOT_HATE_MODEL, Output, Preset,
};
pub use config::{ClassifierConfig, Copies, FindModel, LocalModel, ModelDtype};
pub use folder::tokenizer_folder;
pub use judged::{closing_tokens, encode_judged};
pub use policy_judge::PolicyJudge;

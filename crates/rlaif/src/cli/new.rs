//! `rlaif new`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rlaif_core::say;
use rlaif_run::{NewProject, ProjectKind};

use super::error::CliError;

#[derive(Debug, Args)]
pub(crate) struct New {
    /// The folder to create; its name is the project's.
    folder: PathBuf,
    /// The first training.
    #[arg(long, value_enum, default_value_t)]
    with: First,
    /// A checkout of rlaif; by default, the one that this program was built in.
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.."), hide_default_value = true)]
    rlaif: PathBuf,
}

/// The first training of a project.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum First {
    /// PPO against a reward of the project
    #[default]
    Ppo,
    /// DPO on a file of pairs
    Dpo,
    /// GRPO against a reward of the project
    Reinforce,
    /// A reward model from a file of pairs
    Reward,
}

impl From<First> for ProjectKind {
    fn from(first: First) -> Self {
        match first {
            First::Ppo => Self::Ppo,
            First::Dpo => Self::Dpo,
            First::Reinforce => Self::Reinforce,
            First::Reward => Self::Reward,
        }
    }
}

impl New {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let Self { folder, with, rlaif } = self;
        let kind = ProjectKind::from(*with);
        NewProject { folder: folder.clone(), kind, rlaif: rlaif.clone() }.write()?;
        if !rlaif.join(".libtorch/torch").exists() {
            say(format_args!(
                "libtorch: there is none in the checkout yet; run `cargo xtask setup` there, or set LIBTORCH"
            ));
        }
        let command = kind.command();
        say(format_args!(
            "the project is in {}: `cargo test`, then `cargo run --release -- {command} --config {command}.toml`",
            folder.display()
        ));
        Ok(())
    }
}

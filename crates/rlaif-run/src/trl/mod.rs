//! Run files from the configurations of TRL's scripts.
//!
//! A script of TRL reads one file of fields: those of its trainer's configuration, of `ModelConfig` and of
//! `ScriptArguments`. [`ImportTrl`] writes the run file with the same settings. Fields that the file does not give have TRL's
//! defaults, which differ from those of rlaif.

mod elsewhere;
mod error;
mod fields;
mod import;
mod imported;
mod policy;
mod ppo;
mod preference;
mod supervised;
mod training;

pub use self::{
    error::TrlError,
    import::{ImportTrl, trl_table},
    imported::{Counterpart, ImportedTrl, TrlField, TrlTrainer},
};

//! Preference learning without a reward model: the run file, and its rows.

mod file;
mod recipe;
mod rows;

pub use file::{DpoFile, OnlineSection};
pub use rows::DpoRows;

//! Destinations of the numbers of a run.

mod jsonl;
mod tensorboard;
mod terminal;

pub use jsonl::{JsonLines, JsonlMetrics};
pub use tensorboard::TensorBoard;
pub use terminal::Terminal;

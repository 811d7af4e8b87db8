//! Where the numbers of a run go.

mod jsonl;
mod tensorboard;
mod terminal;

pub use jsonl::{JsonLines, JsonlMetrics};
pub use tensorboard::TensorBoard;
pub use terminal::Terminal;

//! Commands that are set by flags instead of a run file: streams of rows (`rlaif generate`,
//! `logprobs` and `score`), `rlaif inspect`, `merge`, `report`, `bench`, `verify`, `import` and `export`.
//!
//! ```no_run
//! use std::{io, path::Path};
//!
//! use rlaif_run::command::{LogProbRows, ModelChoice, RowStream};
//!
//! let model = ModelChoice::new("google/flan-t5-small");
//! let rows = RowStream {
//!     input: Path::new("rows.jsonl"),
//!     batch_size: 16,
//!     output: &mut io::stdout(),
//!     progress: &mut |_| {},
//! };
//! LogProbRows::default().run(&model, rows)?;
//! # Ok::<(), rlaif_run::command::CommandError>(())
//! ```

pub mod bench;
mod error;
mod generate;
mod gguf;
mod ids;
mod inspect;
mod log_probs;
mod matrix;
mod merge;
mod model;
mod report;
mod responder;
mod rows;
mod score;
mod tokenizer;
mod verify;

pub use error::{CommandError, RowFault};
pub use generate::GenerateRows;
pub use gguf::{ExportGguf, ImportGguf};
pub use inspect::{InspectedAdapter, InspectedFile, Inspection};
pub use log_probs::LogProbRows;
pub use merge::MergeAdapter;
pub use model::{Loading, ModelChoice};
pub use report::{RunReports, WrittenReport};
pub use responder::{ModelResponder, ResponderModel};
pub use rows::{RowStream, StreamProgress, open};
pub use score::ScoreRows;
pub use verify::{Check, Trained, Verification, Verified};

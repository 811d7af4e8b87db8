//! Converts the rows of a file to records: one module for each corpus, and named columns for other
//! files.

mod columns;
mod dialogsum;
mod exams;
mod hh;
mod real_toxicity_prompts;
mod red_team;

use std::marker::PhantomData;

use serde::de::DeserializeOwned;

pub use columns::{
    ConversationColumns, DemonstrationColumns, PairColumns, PromptColumns, UnpairedColumns,
};
pub use dialogsum::{DialogSum, DialogSumRecord};
pub use exams::Exams;
pub use hh::{DIALOGUE_CHARACTERS, DivergencePoint, EarlierDivergence, Hh, HhRecord};
pub(crate) use hh::{end_of_prompt, spaced};
pub use real_toxicity_prompts::{RealToxicityPrompts, ScoredText, ToxicityPrompt, ToxicityScores};
pub use red_team::{RedTeam, RedTeamAttempt};

use crate::error::DataError;
use crate::row::Row;

/// The result of a row that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<R> {
    /// A record.
    Kept(R),
    /// A record that is also counted under this remark.
    Noted(R, &'static str),
    /// No record: the row is left out, and counted under this reason.
    Dropped(&'static str),
}

/// Conversion of the rows of a corpus to records.
///
/// ```
/// use rlaif_data::{DataError, Reader, Row, Source, corpora::{Corpus, Outcome}};
///
/// /// Labelled texts, of which only the toxic ones are wanted.
/// struct Toxic;
///
/// impl Corpus for Toxic {
///     type Record = String;
///     fn name(&self) -> String {
///         "toxic texts".to_owned()
///     }
///     fn record(&self, mut row: Row<'_>) -> Result<Outcome<String>, DataError> {
///         Ok(if row.truth("label")? { Outcome::Kept(row.text("text")?) } else { Outcome::Dropped("harmless") })
///     }
/// }
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("t.csv");
/// # std::fs::write(&path, "text,label\nyou fool,1\nhello,0\n")?;
/// let toxic = Reader::new(Source::file(path)?).dataset(Toxic)?;
/// assert_eq!(toxic.records(), ["you fool"]);
/// assert_eq!(toxic.provenance().steps[0].dropped["harmless"], 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Corpus: Send + Sync + 'static {
    /// The type of a record.
    type Record: Send + 'static;

    /// Names the corpus in provenance.
    fn name(&self) -> String;

    /// The record of one row. Called from several threads concurrently.
    ///
    /// # Errors
    /// The fault of the row; the errors of [`Row`]'s methods name the place.
    fn record(&self, row: Row<'_>) -> Result<Outcome<Self::Record>, DataError>;
}

/// Rows as a type of the caller that implements `Deserialize`.
///
/// ```
/// use rlaif_data::{Reader, Source, corpora::Typed};
/// #[derive(serde::Deserialize)]
/// struct Labelled { text: String, label: u8 }
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("t.jsonl");
/// # std::fs::write(&path, r#"{"text":"hello","label":0}"#)?;
/// let rows = Reader::new(Source::file(path)?).dataset(Typed::<Labelled>::new())?;
/// assert_eq!(rows.records()[0].label, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Typed<T>(PhantomData<fn() -> T>);

impl<T> Typed<T> {
    /// Rows as `T`.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Typed<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: DeserializeOwned + Send + 'static> Corpus for Typed<T> {
    type Record = T;

    fn name(&self) -> String {
        std::any::type_name::<T>().rsplit("::").next().unwrap_or_default().to_owned()
    }

    fn record(&self, row: Row<'_>) -> Result<Outcome<T>, DataError> {
        row.deserialize().map(Outcome::Kept)
    }
}

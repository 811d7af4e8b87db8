//! Rows of known data sets, and of TRL's types, as the rows that algorithms learn from.

mod convert;
mod form;
mod given;
mod options;
mod value;

use serde_json::{Map, Value};

pub use form::RowForm;
pub use options::{Dialogues, Import, ImportOptions, Ranked, SafeRlhfVerdict};
use rlaif_core::{
    ConversationRow, DemonstrationRow, LabelledRow, PairRow, PromptRow, Step, StepsRow, UnpairedRow,
};

use self::convert::{Made, Making};
use crate::corpora::{Corpus, Outcome};
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::read::Reader;
use crate::row::Row;
use crate::source::Source;

/// Number of rows that the form is recognised by.
const LOOKED_AT: usize = 8;

struct Whole;

impl Corpus for Whole {
    type Record = Map<String, Value>;

    fn name(&self) -> String {
        "rows".to_owned()
    }

    fn record(&self, row: Row<'_>) -> Result<Outcome<Self::Record>, DataError> {
        row.deserialize().map(Outcome::Kept)
    }
}

impl Import {
    /// An import of rows whose form is known, with the default options.
    pub fn of(form: RowForm) -> Self {
        Self { form, options: ImportOptions::default() }
    }

    /// Tells the form of a file's rows by the first few. The source is read twice: not for
    /// standard input.
    ///
    /// # Errors
    /// [`DataError::UnknownForm`] with the columns there are; the errors of reading.
    pub fn find(source: &Source) -> Result<Self, DataError> {
        let mut rows = Vec::new();
        for row in Reader::new(source.clone()).stream(Whole).take(LOOKED_AT) {
            rows.push(row?);
        }
        match RowForm::find(&rows) {
            Some(form) => Ok(Self::of(form)),
            None => Err(DataError::UnknownForm {
                source_name: source.first_name(),
                found: rows.first().map(|row| row.keys().cloned().collect()).unwrap_or_default(),
            }),
        }
    }

    /// The same import with other options.
    #[must_use]
    pub fn with(mut self, options: ImportOptions) -> Self {
        self.options = options;
        self
    }

    /// Preference pairs.
    ///
    /// # Errors
    /// [`DataError::WrongForm`] where the form has none; the errors of reading.
    pub fn pairs(&self, reader: Reader) -> Result<Dataset<PairRow>, DataError> {
        if self.form == RowForm::HelpSteer2 {
            let rows = self.read::<LabelledRow>(reader, "preference pairs")?;
            return Ok(convert::neighbours(rows));
        }
        self.read(reader, "preference pairs")
    }

    /// Prompts with a response to imitate: of a preference, the preferred one.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn demonstrations(&self, reader: Reader) -> Result<Dataset<DemonstrationRow>, DataError> {
        self.read(reader, "prompts with responses")
    }

    /// Texts or conversations to learn from as a whole; what has a prompt and a response is one
    /// conversation, or one text.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn conversations(&self, reader: Reader) -> Result<Dataset<ConversationRow>, DataError> {
        self.read(reader, "conversations")
    }

    /// Prompts, with the (preferred) response for reference where there is one.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn prompts(&self, reader: Reader) -> Result<Dataset<PromptRow>, DataError> {
        self.read(reader, "prompts")
    }

    /// Responses with a verdict each; a pair is two of them.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn unpaired(&self, reader: Reader) -> Result<Dataset<UnpairedRow>, DataError> {
        self.read(reader, "responses with a verdict")
    }

    /// Responses with scores.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn labelled(&self, reader: Reader) -> Result<Dataset<LabelledRow>, DataError> {
        self.read(reader, "responses with scores")
    }

    /// Solutions whose steps have labels.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn steps(&self, reader: Reader) -> Result<Dataset<StepsRow>, DataError> {
        self.read(reader, "solutions in steps")
    }

    fn read<T: Made>(&self, reader: Reader, wanted: &'static str) -> Result<Dataset<T>, DataError> {
        if !T::of_form(self.form) {
            return Err(DataError::WrongForm { form: self.form, wanted });
        }
        let rows = reader.dataset(Making::<T>::new(*self))?;
        let before = rows.len() as u64;
        let mut provenance = rows.provenance().clone();
        let records: Vec<T> = rows.into_records().into_iter().flatten().collect();
        if records.len() as u64 != before {
            provenance.steps.push(Step {
                operation: format!("make {wanted} of {before} rows of {}", self.form),
                kept: records.len() as u64,
                ..Step::default()
            });
        }
        Ok(Dataset::new(records, provenance))
    }
}

//! Converts rows of known data sets, and of TRL's types, to the rows that algorithms learn from.

mod convert;
mod form;
mod given;
mod options;
mod pairs;
mod prompts;
mod reading;
mod value;

use std::borrow::Cow;

use serde_json::{Map, Value};

pub use form::RowForm;
pub use options::{
    Dialogues, Import, ImportColumns, ImportOptions, Ranked, SafeRlhfVerdict, Unusable,
};
use rlaif_core::{
    ConversationRow, DemonstrationRow, LabelledRow, PairRow, PromptRow, Record, Step, StepsRow,
    UnpairedRow,
};

use self::convert::{Made, Making};

use crate::corpora::{Corpus, Outcome};
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::place::place_of;
use crate::read::Reader;
use crate::row::Row;
use crate::source::Source;

/// Kinds of records that [`Import`] converts the rows of a file to.
pub trait ImportedRow: Made + Record {
    /// The kind in words, for messages.
    const NAME: &'static str;
}

macro_rules! imported {
    ($($row:ty: $name:literal),+ $(,)?) => {$(
        impl ImportedRow for $row {
            const NAME: &'static str = $name;
        }
    )+};
}

imported!(
    PairRow: "preference pairs",
    DemonstrationRow: "prompts with responses",
    ConversationRow: "conversations",
    PromptRow: "prompts",
    UnpairedRow: "responses with a verdict",
    LabelledRow: "responses with scores",
    StepsRow: "solutions in steps",
);

/// Number of rows that are read to recognise the form.
const LOOKED_AT: usize = 8;

struct Whole(ImportColumns);

impl Corpus for Whole {
    type Record = Map<String, Value>;

    fn name(&self) -> String {
        "rows".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<Self::Record>, DataError> {
        row.rename(&self.0.renamed)?;
        let texts_alone = row.has_texts_alone();
        let mut columns: Map<String, Value> = row.deserialize()?;
        if texts_alone {
            for value in columns.values_mut() {
                if let Ok(Cow::Owned(messages)) = value::of_csv(value) {
                    *value = messages;
                }
            }
        }
        Ok(Outcome::Kept(columns))
    }
}

impl Import {
    /// An import of rows whose form is known, with the default options.
    pub fn of(form: RowForm) -> Self {
        Self { form, options: ImportOptions::default(), columns: ImportColumns::default() }
    }

    /// Recognises the form of a file by its first rows. The source is read twice, so standard
    /// input does not work.
    ///
    /// # Errors
    /// [`DataError::UnknownForm`] with the columns that were found; the errors of reading.
    pub fn find(source: &Source) -> Result<Self, DataError> {
        Self::find_named(source, ImportColumns::default())
    }

    /// As [`Import::find`], for rows some of whose columns have other names.
    ///
    /// # Errors
    /// As [`Import::find`].
    pub fn find_named(source: &Source, columns: ImportColumns) -> Result<Self, DataError> {
        Self::find_preferring(source, columns, &[])
    }

    /// As [`Import::find_named`], for rows that may have the columns of several forms: the
    /// first form in `preferred` that fits is taken.
    ///
    /// # Errors
    /// As [`Import::find`].
    pub fn find_preferring(
        source: &Source,
        columns: ImportColumns,
        preferred: &[RowForm],
    ) -> Result<Self, DataError> {
        let mut rows = Vec::new();
        for row in Reader::new(source.clone()).stream(Whole(columns.clone())).take(LOOKED_AT) {
            rows.push(row?);
        }
        let preferred = preferred.iter().copied().find(|form| form.is_of(&rows));
        match preferred.or_else(|| RowForm::find(&rows)) {
            Some(form) => Ok(Self::of(form).named(columns)),
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

    /// The same import with renamed columns, and with further columns.
    #[must_use]
    pub fn named(mut self, columns: ImportColumns) -> Self {
        self.columns = columns;
        self
    }

    /// `true` if rows of this form give this kind of record.
    pub fn gives<T: ImportedRow>(&self) -> bool {
        T::of_form(self.form)
    }

    /// Rows of a kind, for code that is generic over it; [`Import::pairs`] and its siblings
    /// call this.
    ///
    /// # Errors
    /// [`DataError::WrongForm`] where the form has none; the errors of reading.
    pub fn rows<T: ImportedRow>(&self, reader: Reader) -> Result<Dataset<T>, DataError> {
        T::read(self, reader, T::NAME)
    }

    /// `FILE, line N` of the row that becomes the record with this id; `None` if there is none.
    /// The file is read again.
    pub fn place<T: ImportedRow>(&self, reader: Reader, id: &str) -> Option<String> {
        let id = id.to_owned();
        place_of(reader, Making::<T>::new(self.clone()), move |made| {
            made.iter().any(|made| made.id() == id)
        })
    }

    /// Reads preference pairs.
    ///
    /// # Errors
    /// [`DataError::WrongForm`] where the form has none; the errors of reading.
    pub fn pairs(&self, reader: Reader) -> Result<Dataset<PairRow>, DataError> {
        self.rows(reader)
    }

    /// Reads prompts with a response to imitate; of a preference, the preferred response.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn demonstrations(&self, reader: Reader) -> Result<Dataset<DemonstrationRow>, DataError> {
        self.rows(reader)
    }

    /// Reads texts or conversations to learn from as a whole. A prompt with a response becomes
    /// one conversation, or one text.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn conversations(&self, reader: Reader) -> Result<Dataset<ConversationRow>, DataError> {
        self.rows(reader)
    }

    /// Reads prompts, each with its (preferred) response as the reference if it has one.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn prompts(&self, reader: Reader) -> Result<Dataset<PromptRow>, DataError> {
        self.rows(reader)
    }

    /// Reads responses with one verdict each; a pair gives two.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn unpaired(&self, reader: Reader) -> Result<Dataset<UnpairedRow>, DataError> {
        self.rows(reader)
    }

    /// Reads responses with scores.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn labelled(&self, reader: Reader) -> Result<Dataset<LabelledRow>, DataError> {
        self.rows(reader)
    }

    /// Reads solutions whose steps have labels.
    ///
    /// # Errors
    /// As [`Import::pairs`].
    pub fn steps(&self, reader: Reader) -> Result<Dataset<StepsRow>, DataError> {
        self.rows(reader)
    }

    fn read<T: Made>(&self, reader: Reader, wanted: &'static str) -> Result<Dataset<T>, DataError> {
        if !T::of_form(self.form) {
            let source_name = reader.source().first_name();
            return Err(DataError::WrongForm { source_name, form: self.form, wanted });
        }
        let rows = reader.dataset(Making::<T>::new(self.clone()))?;
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

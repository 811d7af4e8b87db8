//! Rows of files: their form, found by the columns, and the records that they become.

use std::fs;

use rlaif_core::{ConversationRow, DemonstrationRow, Record, TextOrMessages};
use rlaif_data::{
    Dataset, Import, ImportColumns, ImportOptions, ImportedRow, Reader, RowForm, Source,
};

use crate::{
    error::RunError,
    source::{is_pattern, source},
};

/// Reading of rows as the sections of a run file say.
#[derive(Debug, Clone)]
pub(crate) struct RowReader {
    /// The form of the rows; by default it is found by the columns.
    pub(crate) form: Option<RowForm>,
    /// The form of what can be read only once, standard input for instance.
    pub(crate) usual: RowForm,
    /// The forms that come first, where rows have the columns of several.
    pub(crate) preferred: &'static [RowForm],
    /// Columns by other names, and further ones.
    pub(crate) columns: ImportColumns,
    /// Choices that data sets leave open.
    pub(crate) options: ImportOptions,
}

impl RowReader {
    /// A file, or the files of a pattern, with the import that reads its rows.
    ///
    /// # Errors
    /// [`RunError::Data`].
    pub(crate) fn import(&self, path: &str) -> Result<(Source, Import), RunError> {
        let source = source(path)?;
        let once = !is_pattern(path) && fs::metadata(path).is_ok_and(|about| !about.is_file());
        let import = match self.form {
            Some(form) => Import::of(form).named(self.columns.clone()),
            None if once => Import::of(self.usual).named(self.columns.clone()),
            None => Import::find_preferring(&source, self.columns.clone(), self.preferred)?,
        };
        Ok((source, import.with(self.options)))
    }

    /// The rows of a file, and their form.
    ///
    /// # Errors
    /// [`RunError::Data`].
    pub(crate) fn read<T: ImportedRow>(
        &self,
        path: &str,
    ) -> Result<(Dataset<T>, RowForm), RunError> {
        let (source, import) = self.import(path)?;
        Ok((import.rows(Reader::new(source))?, import.form))
    }

    /// `FILE, line N` of the first row that becomes the record of this id, or the id where no file
    /// holds it any longer. They are read again: an error is rare, and a place kept with every row
    /// would cost each run its memory.
    pub(crate) fn place<T: ImportedRow>(&self, files: &[&str], id: &str) -> String {
        let find = |path: &&str| {
            let (source, import) = self.import(path).ok()?;
            import.place::<T>(Reader::new(source), id)
        };
        files.iter().find_map(find).unwrap_or_else(|| format!("row `{id}`"))
    }
}

/// The columns of preference pairs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairNames<'a> {
    pub(crate) prompt: &'a str,
    pub(crate) chosen: &'a str,
    pub(crate) rejected: &'a str,
    pub(crate) margin: Option<&'a str>,
}

impl PairNames<'_> {
    /// The way to read pairs of this form.
    pub(crate) fn reader(self, form: Option<RowForm>, options: ImportOptions) -> RowReader {
        let mut columns = ImportColumns::default()
            .rename(self.prompt, "prompt")
            .rename(self.chosen, "chosen")
            .rename(self.rejected, "rejected");
        if let Some(margin) = self.margin {
            columns = columns.rename(margin, "margin");
            columns.needed.push("margin".to_owned());
        }
        RowReader { form, usual: RowForm::Preference, preferred: &[], columns, options }
    }
}

/// Tells the form of a file's rows, for the log.
pub(crate) fn read_as(path: &str, form: RowForm) -> String {
    format!("rows of {path} are read as {form}")
}

/// A row to learn from: a response to a prompt, or a text or conversation as a whole.
#[derive(Debug, Clone)]
pub(crate) enum LearnedRow {
    Response(DemonstrationRow),
    Whole(ConversationRow),
}

impl LearnedRow {
    /// Returns whether it has messages, which go through the chat template.
    pub(crate) fn is_conversation(&self) -> bool {
        let messages = |said: &TextOrMessages| matches!(said, TextOrMessages::Messages(_));
        match self {
            Self::Response(row) => messages(&row.prompt) || messages(&row.response),
            Self::Whole(row) => messages(&row.conversation),
        }
    }
}

impl Record for LearnedRow {
    fn id(&self) -> &str {
        match self {
            Self::Response(row) => &row.id,
            Self::Whole(row) => &row.id,
        }
    }
}

/// The rows of a file, and their form in words for the log.
pub(crate) fn learned_rows(
    reader: &RowReader,
    path: &str,
) -> Result<(Dataset<LearnedRow>, String), RunError> {
    let (source, import) = reader.import(path)?;
    let rows = if is_whole(&import) {
        import.conversations(Reader::new(source))?.map(LearnedRow::Whole)
    } else {
        import.demonstrations(Reader::new(source))?.map(LearnedRow::Response)
    };
    Ok((rows, read_as(path, import.form)))
}

fn is_whole(import: &Import) -> bool {
    matches!(import.form, RowForm::Messages | RowForm::ShareGpt | RowForm::Text)
}

/// As [`RowReader::place`], of a row to learn from.
pub(crate) fn place_of_learned(reader: &RowReader, files: &[&str], id: &str) -> String {
    let whole = files.first().and_then(|path| reader.import(path).ok());
    if whole.is_some_and(|(_, import)| is_whole(&import)) {
        reader.place::<ConversationRow>(files, id)
    } else {
        reader.place::<DemonstrationRow>(files, id)
    }
}

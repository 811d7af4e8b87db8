//! Files of prompts with several responses, as `rlaif candidates` writes them.

use rlaif_core::{BadSetting, ChatOptions, Metadata, PromptRecord, Reply, TextOrMessages, Unread};
use rlaif_data::{Reader, corpora::Typed};
use rlaif_label::Group;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{error::RunError, source::source};

#[derive(Deserialize)]
struct GroupRow {
    id: Option<Value>,
    prompt: TextOrMessages,
    #[serde(alias = "candidates", alias = "completions")]
    responses: Vec<Reply>,
    #[serde(flatten)]
    more: Metadata,
}

/// The rows of a file of prompts with lists of responses.
pub(crate) struct Groups {
    pub(crate) groups: Vec<Group>,
    /// Contents of messages that the text of the rows leaves out.
    pub(crate) unread: Unread,
}

/// The first rows of a file of prompts with lists of responses, with the column of references and the
/// columns that rewards read; `None` for a file of another form.
///
/// # Errors
/// [`RunError::Data`]; [`RunError::Setting`] for a row without one of the columns.
pub(crate) fn groups(
    file: &str,
    reference: Option<&str>,
    columns: &[String],
    most: usize,
) -> Result<Option<Groups>, RunError> {
    let source = source(file)?;
    let rows = Reader::new(source.clone()).stream(Typed::<Map<String, Value>>::new());
    let mut has_groups = false;
    for row in rows.take(1) {
        let row = row?;
        let lists = ["responses", "candidates", "completions"].iter();
        has_groups = row.contains_key("prompt")
            && !row.contains_key("labels")
            && lists.filter_map(|name| row.get(*name)).any(Value::is_array);
    }
    if !has_groups {
        return Ok(None);
    }
    let rows = Reader::new(source).dataset(Typed::<GroupRow>::new())?.into_records();
    let mut unread = Unread::default();
    let group = |(at, row): (usize, GroupRow)| {
        let said: Vec<TextOrMessages> =
            row.responses.iter().cloned().map(TextOrMessages::from).collect();
        unread.add([&row.prompt].into_iter().chain(&said));
        row.group(at, reference, columns)
    };
    let groups = rows.into_iter().take(most).enumerate().map(group).collect::<Result<_, _>>()?;
    Ok(Some(Groups { groups, unread }))
}

impl GroupRow {
    /// The group of the row at this place.
    fn group(
        self,
        at: usize,
        reference: Option<&str>,
        columns: &[String],
    ) -> Result<Group, RunError> {
        let Self { id, prompt, responses, mut more } = self;
        let id = match id {
            Some(Value::String(id)) => id,
            Some(other) => other.to_string(),
            None => at.to_string(),
        };
        let missing = |key: &'static str, column: &str| {
            let found = format!("row `{id}` without the column `{column}`");
            RunError::from(BadSetting::new(key, found, "a value in each row"))
        };
        let reference = match reference {
            Some(column) => match more.get(column) {
                Some(Value::String(text)) => Some(text.clone()),
                Some(Value::Null) => None,
                _ => return Err(missing("data.reference_column", column)),
            },
            None => None,
        };
        let mut metadata = Metadata::new();
        for column in columns {
            let value = more.remove(column).ok_or_else(|| missing("data.file", column))?;
            metadata.insert(column.clone(), value);
        }
        ChatOptions::of_metadata(&more).keep_in(&mut metadata);
        let record = PromptRecord { reference, metadata, ..PromptRecord::asked(id, prompt) };
        Ok(Group { record, responses })
    }
}

/// A prompt of a group as its file has it.
pub(crate) fn as_written(record: &PromptRecord) -> TextOrMessages {
    match record.messages.as_slice() {
        [] => record.prompt.clone().into(),
        messages => messages.to_vec().into(),
    }
}

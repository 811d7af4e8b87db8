//! Files of prompts with several responses, as `rlaif candidates` writes them.

use rlaif_core::TextOrMessages;
use rlaif_data::{Reader, corpora::Typed};
use rlaif_label::{Candidate, Group};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{error::RunError, source::source};

#[derive(Deserialize)]
struct GroupRow {
    id: Option<Value>,
    prompt: TextOrMessages,
    #[serde(alias = "candidates", alias = "completions")]
    responses: Vec<Candidate>,
}

/// The rows of a file of prompts with lists of responses, each with its prompt as the file has it; `None` for
/// a file of another form.
pub(crate) fn groups(file: &str) -> Result<Option<Vec<(Group, TextOrMessages)>>, RunError> {
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
    let group = |(at, GroupRow { id, prompt, responses }): (usize, GroupRow)| {
        let id = match id {
            Some(Value::String(id)) => id,
            Some(other) => other.to_string(),
            None => at.to_string(),
        };
        (Group { id, prompt: prompt.readable(), responses }, prompt)
    };
    Ok(Some(rows.into_iter().enumerate().map(group).collect()))
}

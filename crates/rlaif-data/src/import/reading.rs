//! The contents of a row, and the reading of its columns.

use std::collections::BTreeMap;

use rlaif_core::{ChatOptions, Message, Metadata, TextOrMessages, python_json::json_text};
use serde_json::{Map, Value};

use super::value::{is_python, messages, objects, of_csv, text_or_messages};
use crate::error::DataError;
use crate::row::Row;

/// Contents of a row.
pub(super) enum Given {
    Compared {
        prompt: TextOrMessages,
        chosen: TextOrMessages,
        rejected: TextOrMessages,
    },
    /// Answers with scores; a higher score is better.
    Ranked {
        prompt: TextOrMessages,
        answers: Vec<(TextOrMessages, f64)>,
    },
    Labelled {
        prompt: TextOrMessages,
        response: TextOrMessages,
        scores: BTreeMap<String, f64>,
    },
    Unpaired {
        prompt: TextOrMessages,
        response: TextOrMessages,
        desirable: bool,
    },
    Answered {
        prompt: TextOrMessages,
        response: TextOrMessages,
    },
    /// A problem with its right answer, and a worked solution if there is one.
    Problem {
        prompt: TextOrMessages,
        solution: Option<String>,
        answer: Option<String>,
    },
    Whole(TextOrMessages),
    Steps {
        prompt: String,
        steps: Vec<String>,
        labels: Vec<bool>,
    },
    Prompt(TextOrMessages),
}

/// The content of a row together with its metadata.
pub struct Content {
    pub(super) given: Given,
    pub(super) chat: ChatOptions,
    pub(super) margin: Option<f64>,
    pub(super) metadata: Metadata,
    /// The text of the column of references that was named.
    pub(super) reference: Option<String>,
}

/// Reasons why a row gives no record.
pub(super) enum Nothing {
    Dropped(&'static str),
    Failed(DataError),
}

impl From<DataError> for Nothing {
    fn from(error: DataError) -> Self {
        Self::Failed(error)
    }
}

pub(super) const SAME: &str = "both responses are the same";
pub(super) const TIE: &str = "a tie";
pub(super) const NO_ANSWER: &str = "no answer";
pub(super) const NOT_VALID: &str = "neither response is valid";

/// Reads a row by the names of its columns; its errors name the place.
pub(super) struct Reading<'r, 'a> {
    pub(super) row: &'r mut Row<'a>,
}

impl Reading<'_, '_> {
    pub(super) fn has(&self, column: &str) -> bool {
        self.row.has(column)
    }

    pub(super) fn text(&mut self, column: &str) -> Result<String, DataError> {
        self.row.text(column)
    }

    pub(super) fn either(&mut self, column: &str) -> Result<TextOrMessages, DataError> {
        let value = self.row.take(column)?;
        let read = match self.row.has_texts_alone() {
            true => of_csv(&value).and_then(|value| text_or_messages(&value)),
            false => text_or_messages(&value),
        };
        read.map_err(|_| {
            let expected = match value.as_str().is_some_and(is_python) {
                true => "a text, or a list of messages as JSON (`json.dumps`, not Python's `str`)",
                false => "a text, or a list of messages with `role` and `content`",
            };
            self.row.wrong_type(column, expected, &value)
        })
    }

    /// A response; null is an empty one.
    pub(super) fn said(&mut self, column: &str) -> Result<TextOrMessages, DataError> {
        match self.row.get(column) {
            Some(Value::Null) if self.row.not_finite(column).is_none() => Ok(String::new().into()),
            _ => self.either(column),
        }
    }

    pub(super) fn messages(&mut self, column: &str) -> Result<Vec<Message>, DataError> {
        let value = self.row.take(column)?;
        messages(&value).map_err(|_| {
            let expected = "a list of messages with `role` and `content` (or `from` and `value`)";
            self.row.wrong_type(column, expected, &value)
        })
    }

    pub(super) fn objects(
        &mut self,
        column: &str,
        expected: &'static str,
    ) -> Result<Vec<Map<String, Value>>, DataError> {
        let value = self.row.take(column)?;
        objects(&value).ok_or_else(|| self.row.wrong_type(column, expected, &value))
    }

    pub(super) fn object(&mut self, column: &str) -> Result<Map<String, Value>, DataError> {
        let value = self.row.take(column)?;
        match json_text(&value).as_object() {
            Some(object) => Ok(object.clone()),
            None => Err(self.row.wrong_type(column, "an object", &value)),
        }
    }

    pub(super) fn wrong(&self, column: &str, expected: &'static str, found: &Value) -> DataError {
        self.row.wrong_type(column, expected, found)
    }

    /// Turns as Arena's CSV has them: a JSON list of texts.
    pub(super) fn turns(
        &mut self,
        column: &str,
    ) -> Result<Result<Vec<String>, Nothing>, DataError> {
        let value = self.row.take(column)?;
        let Value::Array(turns) = json_text(&value).into_owned() else {
            return Err(self.wrong(column, "a JSON list of turns", &value));
        };
        let texts: Option<Vec<String>> =
            turns.iter().map(|turn| turn.as_str().map(str::to_owned)).collect();
        match texts {
            Some(texts) => Ok(Ok(texts)),
            None if turns.iter().any(Value::is_null) => {
                Ok(Err(Nothing::Dropped("a turn is missing")))
            }
            None => Err(self.wrong(column, "a JSON list of turns", &value)),
        }
    }
}

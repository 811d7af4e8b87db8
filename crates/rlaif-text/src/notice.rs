//! Notices of a tokenizer that a run should show once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Notice {
    /// A text began with the special tokens that begin every text.
    Begins(String),
    /// A text ended with the special tokens that end every text.
    Ends(String),
    /// A key of messages that the chat template did not look at.
    Unread(String),
    /// An input of the chat template, `tools` for instance, that it does not read.
    Unused(String),
}

impl Notice {
    fn sentence(&self, tokenizer: &str) -> String {
        match self {
            Self::Begins(token) => format!(
                "a text begins with `{token}` already, which the tokenizer of {tokenizer} puts \
                 before every text: it is there once, not twice"
            ),
            Self::Ends(token) => format!(
                "a text ends with `{token}` already, which the tokenizer of {tokenizer} puts \
                 behind every text: it is there once, not twice"
            ),
            Self::Unread(key) => format!(
                "the chat template of {tokenizer} does not read `{key}` of the messages: what it \
                 says is not in the text"
            ),
            Self::Unused(name) => format!(
                "the chat template of {tokenizer} does not read `{name}`, which rows or settings \
                 give: it is not in the text"
            ),
        }
    }
}

/// Notices by what happened; the sentence until it is handed out.
#[derive(Debug, Default)]
pub(crate) struct Notices(Mutex<BTreeMap<Notice, Option<String>>>);

impl Notices {
    pub(crate) fn add(&self, notice: Notice, tokenizer: &str) {
        // Keys of messages are data: many different ones are not worth a notice.
        const MOST: usize = 64;
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() < MOST && !notices.contains_key(&notice) {
            let sentence = notice.sentence(tokenizer);
            notices.insert(notice, Some(sentence));
        }
    }

    pub(crate) fn take(&self) -> Vec<String> {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notices.values_mut().filter_map(Option::take).collect()
    }
}

//! Prompts, responses and pairs as rewards, judges and exams read them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    codec::CodecError,
    message::TextOrMessages,
    record::{Exchange, PreferencePair, PromptRecord, Record},
    reply::Reply,
    rows::{PairRow, Rendering},
};

impl PromptRecord {
    /// A prompt as rewards read it, from a text or messages.
    pub fn asked(id: impl Into<String>, prompt: TextOrMessages) -> Self {
        let text = prompt.readable();
        let messages = match prompt {
            TextOrMessages::Text(_) => Vec::new(),
            TextOrMessages::Messages(messages) => messages,
        };
        Self { messages, ..Self::new(id, text) }
    }

    /// A prompt that rewards read ([`PromptRecord::asked`]), as a training with this rendering puts it
    /// to them.
    ///
    /// # Errors
    /// As [`Rendering::asked`].
    pub fn asked_by(self, how: &Rendering) -> Result<Self, CodecError> {
        let Self { prompt, messages, .. } = &self;
        let (prompt, messages) = match messages.as_slice() {
            [] => how.asked(&prompt.as_str().into())?,
            _ => (prompt.clone(), how.with_system(messages.clone())),
        };
        Ok(Self { prompt, messages, ..self })
    }

    /// The prompt with a response, as reward models and metrics take it.
    pub fn answered<'a>(&'a self, reply: &'a Reply) -> Exchange<'a> {
        let said = (!reply.messages.is_empty()).then_some(reply.messages.as_slice());
        Exchange { said, ..self.exchange(&reply.text) }
    }
}

/// A prompt and two responses as rewards read them, the preferred one first.
///
/// ```
/// use rlaif_core::AskedPair;
/// let pair = AskedPair::new("7", "What is 2 + 2?", "4", "5");
/// assert_eq!(pair.exchanges().map(|exchange| exchange.response), ["4", "5"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedPair {
    /// The prompt.
    pub record: PromptRecord,
    /// The preferred response.
    pub chosen: Reply,
    /// The other response.
    pub rejected: Reply,
}

impl AskedPair {
    /// A pair of texts.
    pub fn new(
        id: impl Into<String>,
        prompt: impl Into<String>,
        chosen: impl Into<Reply>,
        rejected: impl Into<Reply>,
    ) -> Self {
        let record = PromptRecord::new(id, prompt);
        Self { record, chosen: chosen.into(), rejected: rejected.into() }
    }

    /// The two exchanges, the preferred one first.
    pub fn exchanges(&self) -> [Exchange<'_>; 2] {
        [&self.chosen, &self.rejected].map(|reply| self.record.answered(reply))
    }
}

impl From<&PreferencePair> for AskedPair {
    fn from(pair: &PreferencePair) -> Self {
        let PreferencePair { id, prompt, chosen, rejected, .. } = pair;
        Self::new(id, prompt, chosen.as_str(), rejected.as_str())
    }
}

impl Record for AskedPair {
    fn id(&self) -> &str {
        &self.record.id
    }
}

impl PairRow {
    /// The pair as rewards read it: without the special tokens of a chat template, with messages if the
    /// row has them, and with the row's further columns. The column `reference` is the reference
    /// response.
    ///
    /// # Errors
    /// As [`Rendering::asked`].
    pub fn asked(self, how: &Rendering, reference: Option<&str>) -> Result<AskedPair, CodecError> {
        let Self { id, prompt, chosen, rejected, mut metadata, chat, .. } = self;
        chat.keep_in(&mut metadata);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let record = PromptRecord {
            reference: reference.and_then(|column| metadata.get(column)).and_then(text),
            metadata,
            ..PromptRecord::asked(id, prompt).asked_by(how)?
        };
        Ok(AskedPair { record, chosen: chosen.into(), rejected: rejected.into() })
    }
}

/// Contents of messages that the text of rows leaves out, with the number of rows.
///
/// ```
/// use rlaif_core::{Message, TextOrMessages, Unread};
/// let asked = vec![Message::new("system", "Be brief."), Message::new("user", "Name a prime.")];
/// let mut unread = Unread::default();
/// unread.add([&TextOrMessages::from(asked)]);
/// assert_eq!(unread.sentences("rewards").len(), 1);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unread(BTreeMap<String, usize>);

impl Unread {
    /// Adds a row of these texts.
    pub fn add<'a>(&mut self, row: impl IntoIterator<Item = &'a TextOrMessages>) {
        let mut names: Vec<String> =
            row.into_iter().flat_map(TextOrMessages::not_in_text).collect();
        names.sort();
        names.dedup();
        for name in names {
            *self.0.entry(name).or_default() += 1;
        }
    }

    /// Sentences for the log, about these readers of the text.
    pub fn sentences(&self, readers: &str) -> Vec<String> {
        let said = |(name, count): (&String, &usize)| {
            format!(
                "{count} rows have {name} in their messages, which the text that {readers} read \
                 leaves out"
            )
        };
        self.0.iter().map(said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    #[test]
    fn a_pair_has_the_messages_the_reference_and_the_columns_of_its_row() {
        let row: PairRow = serde_json::from_value(serde_json::json!({
            "id": "7",
            "prompt": [
                {"role": "user", "content": "Name a prime."},
                {"role": "assistant", "content": "Two."},
                {"role": "user", "content": "Another one."},
            ],
            "chosen": [{"role": "assistant", "content": "Seven.", "reasoning_content": "Odd."}],
            "rejected": [{"role": "assistant", "content": "Nine."}],
            "metadata": {"gold": "Three.", "source": "web"},
        }))
        .unwrap();
        let how = Rendering { system: Some("Be brief.".to_owned()), ..Rendering::default() };
        let pair = row.asked(&how, Some("gold")).unwrap();
        let [chosen, rejected] = pair.exchanges();
        let roles = |messages: &[Message]| -> Vec<String> {
            messages.iter().map(|turn| turn.role.clone()).collect()
        };
        assert_eq!(roles(chosen.messages.unwrap()), ["system", "user", "assistant", "user"]);
        assert_eq!(chosen.said.unwrap()[0].more["reasoning_content"], "Odd.");
        assert_eq!((rejected.response, rejected.said), ("Nine.", None));
        assert_eq!(rejected.reference, Some("Three."));
        assert_eq!(rejected.metadata.unwrap()["source"], "web");
    }
}

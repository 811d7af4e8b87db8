//! Rows as people bring them, texts or messages, and how they become records.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::codec::{ChatOptions, CodecError, GenerationPrompt, TextCodec};
use crate::message::{Message, OtherContent, TextOrMessages};
use crate::metadata::Metadata;
use crate::record::{
    Demonstration, Desirability, PreferencePair, PromptRecord, Record, TextKind,
    UnpairedPreference, identified_by_their_id_field,
};

/// Treatment of a prompt that is a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlainText {
    /// The text itself: for encoder-decoders and base models.
    #[default]
    Text,
    /// The user's turn in a conversation, rendered by the chat template.
    Chat,
}

/// Conversion of rows to texts. One for training and measuring, so that both see one form of
/// prompt.
///
/// Messages go through the chat template as TRL 1.16's `apply_chat_template` puts them: a prompt
/// ends with the header that makes the model answer, or, where its last turn is the assistant's,
/// continues that turn; prompt and response are the rendered whole, parted where all responses
/// of the row begin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rendering {
    /// Inputs of the template besides the messages. A row's own options come on top.
    pub chat: ChatOptions,
    /// Treatment of prompts that are texts.
    pub plain: PlainText,
    /// The system message of conversations that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Template for prompts that are texts, with `{prompt}` in place of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
}

/// Marks the end of the prompt's last turn, where the response continues it; no conversation
/// contains this text.
const GOES_ON: &str = "RLAIF_THE_LAST_TURN_GOES_ON ";
/// Placeholder of the prompt in a prompt template.
const SLOT: &str = "{prompt}";

impl Rendering {
    /// The text of a prompt, and how it came about.
    ///
    /// # Errors
    /// [`CodecError::Conversation`] for a prompt without a message, or with nobody to answer, and
    /// for a prompt template without its slot; the codec's errors.
    pub fn prompt(
        &self,
        codec: &dyn TextCodec,
        prompt: &TextOrMessages,
        own: &ChatOptions,
    ) -> Result<(String, TextKind), CodecError> {
        match self.messages(prompt)? {
            Ok(text) => Ok((text, TextKind::Plain)),
            Err(messages) => {
                let options = self.chat.and(own);
                Ok((begin(codec, &messages, &options)?, TextKind::Rendered))
            }
        }
    }

    /// The texts of a prompt and of responses to it, and how they came about. `prompt + response`
    /// is the whole text, for each response.
    ///
    /// # Errors
    /// As [`Rendering::prompt`].
    pub fn exchange(
        &self,
        codec: &dyn TextCodec,
        prompt: &TextOrMessages,
        responses: &[&TextOrMessages],
        own: &ChatOptions,
    ) -> Result<(String, Vec<String>, TextKind), CodecError> {
        let texts: Option<Vec<String>> = responses
            .iter()
            .map(|response| match response {
                TextOrMessages::Text(text) => Some(text.clone()),
                TextOrMessages::Messages(_) => None,
            })
            .collect();
        let asked = match (self.messages(prompt)?, texts) {
            (Ok(prompt), Some(texts)) => return Ok((prompt, texts, TextKind::Plain)),
            // A text that is answered by messages is what the user says.
            (Ok(prompt), None) => self.with_system(vec![Message::new("user", prompt)]),
            (Err(messages), _) => messages,
        };
        let options = self.chat.and(own);
        let mut prompt = begin(codec, &asked, &options)?;
        let wholes = responses
            .iter()
            .map(|response| {
                let answered = (*response).clone().into_messages("assistant");
                let whole: Vec<Message> = asked.iter().cloned().chain(answered).collect();
                codec.render_chat_with(&whole, GenerationPrompt::Omit, &options)
            })
            .collect::<Result<Vec<String>, _>>()?;
        // A template may open what it does not keep in the whole, `<think>` for instance.
        for whole in &wholes {
            let common = prompt.bytes().zip(whole.bytes()).take_while(|(a, b)| a == b).count();
            prompt.truncate(prompt.floor_char_boundary(common));
        }
        let said = wholes.iter().map(|whole| whole[prompt.len()..].to_owned()).collect();
        Ok((prompt, said, TextKind::Rendered))
    }

    /// A prompt as rewards and reports read it: its text, and the conversation if it is one.
    ///
    /// # Errors
    /// [`CodecError::Conversation`] for a prompt template without its slot, and for a system message
    /// without a conversation.
    ///
    /// ```
    /// use rlaif_core::{Message, PlainText, Rendering};
    /// let how = Rendering { plain: PlainText::Chat, ..Rendering::default() };
    /// let (text, messages) = how.asked(&"Name a prime.".into())?;
    /// assert_eq!((text.as_str(), messages), ("Name a prime.", vec![Message::new("user", "Name a prime.")]));
    /// # Ok::<(), rlaif_core::CodecError>(())
    /// ```
    pub fn asked(&self, prompt: &TextOrMessages) -> Result<(String, Vec<Message>), CodecError> {
        Ok(match self.messages(prompt)? {
            Ok(text) => (text, Vec::new()),
            Err(messages) => (self.filled(prompt)?.readable(), messages),
        })
    }

    /// A prompt that is a text in its template; messages as they are.
    fn filled(&self, prompt: &TextOrMessages) -> Result<TextOrMessages, CodecError> {
        let (TextOrMessages::Text(text), Some(template)) = (prompt, &self.prompt_template) else {
            return Ok(prompt.clone());
        };
        let count = template.matches(SLOT).count();
        if count != 1 {
            let problem =
                format!("a prompt template needs `{SLOT}` exactly once, but has it {count} times");
            return Err(CodecError::Conversation { problem });
        }
        Ok(template.replace(SLOT, text).into())
    }

    /// The text that stays a text, or the messages for the template.
    fn messages(
        &self,
        prompt: &TextOrMessages,
    ) -> Result<Result<String, Vec<Message>>, CodecError> {
        let text = match self.filled(prompt)? {
            TextOrMessages::Messages(messages) => return Ok(Err(self.with_system(messages))),
            TextOrMessages::Text(text) => text,
        };
        match (self.plain, &self.system) {
            (PlainText::Chat, _) => Ok(Err(self.with_system(vec![Message::new("user", text)]))),
            (PlainText::Text, None) => Ok(Ok(text)),
            (PlainText::Text, Some(_)) => Err(CodecError::Conversation {
                problem: "a system prompt needs a conversation: have plain prompts go through the \
                          chat template (`plain = \"chat\"`), or write it into the prompt template"
                    .to_owned(),
            }),
        }
    }

    /// A conversation with the system message, where it has none.
    #[must_use]
    pub fn with_system(&self, mut messages: Vec<Message>) -> Vec<Message> {
        if let Some(system) = &self.system
            && messages.first().is_some_and(|m| !["system", "developer"].contains(&&*m.role))
        {
            messages.insert(0, Message::new("system", system));
        }
        messages
    }
}

/// A conversation as the beginning of an answer.
fn begin(
    codec: &dyn TextCodec,
    messages: &[Message],
    options: &ChatOptions,
) -> Result<String, CodecError> {
    let problem = |problem: &str| CodecError::Conversation { problem: problem.to_owned() };
    let Some((last, before)) = messages.split_last() else {
        return Err(problem("a prompt without a message; give at least what the user says"));
    };
    match last.role.as_str() {
        "system" | "developer" => Err(problem(
            "the prompt ends with the system message; nobody says anything that could be answered",
        )),
        "assistant" => {
            let mut last = last.clone();
            match &mut last.other_content {
                None => last.content.push_str(GOES_ON),
                Some(OtherContent::Parts(parts)) => {
                    let text = parts.iter_mut().rev().find_map(|part| part.get_mut("text"));
                    let Some(Value::String(text)) = text else {
                        return Err(problem("the prompt's last turn has no text to continue"));
                    };
                    text.push_str(GOES_ON);
                }
                Some(OtherContent::Null | OtherContent::Absent) => {
                    return Err(problem("the prompt's last turn has no text to continue"));
                }
            }
            let messages: Vec<Message> = before.iter().cloned().chain([last]).collect();
            let text = codec.render_chat_with(&messages, GenerationPrompt::Omit, options)?;
            let Some(at) = text.rfind(GOES_ON.trim_end()) else {
                return Err(problem("the chat template leaves out the turn to continue"));
            };
            let kept = &text[..at];
            // A template that trims takes the space behind the mark, and that before it.
            let trims = !text[at..].starts_with(GOES_ON);
            Ok(if trims { kept.trim_end() } else { kept }.to_owned())
        }
        _ => codec.render_chat_with(messages, GenerationPrompt::Add, options),
    }
}

/// A prompt as a row has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptRow {
    /// The row's identity.
    pub id: String,
    /// The prompt.
    pub prompt: TextOrMessages,
    /// A response written by a person, or the preferred one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The row's own options for the chat template.
    #[serde(default, skip_serializing_if = "ChatOptions::is_empty")]
    pub chat: ChatOptions,
    /// Other columns, for rewards and reports.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}

/// A prompt with the response to imitate, as a row has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DemonstrationRow {
    /// The row's identity.
    pub id: String,
    /// The prompt.
    pub prompt: TextOrMessages,
    /// The response to learn.
    pub response: TextOrMessages,
    /// The row's own options for the chat template.
    #[serde(default, skip_serializing_if = "ChatOptions::is_empty")]
    pub chat: ChatOptions,
}

/// A text or a conversation to learn from as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConversationRow {
    /// The row's identity.
    pub id: String,
    /// The text, or the messages.
    pub conversation: TextOrMessages,
    /// The row's own options for the chat template.
    #[serde(default, skip_serializing_if = "ChatOptions::is_empty")]
    pub chat: ChatOptions,
}

/// A prompt with the response that was preferred and the one that was not, as a row has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    /// The row's identity.
    pub id: String,
    /// The prompt.
    pub prompt: TextOrMessages,
    /// The preferred response.
    pub chosen: TextOrMessages,
    /// The other response.
    pub rejected: TextOrMessages,
    /// The margin of `chosen` over `rejected`, if the row states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// The row's own options for the chat template.
    #[serde(default, skip_serializing_if = "ChatOptions::is_empty")]
    pub chat: ChatOptions,
    /// Further facts about the two, the scores of both for instance.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}

/// A prompt, one response and whether it is a good one, as a row has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnpairedRow {
    /// The row's identity.
    pub id: String,
    /// The prompt.
    pub prompt: TextOrMessages,
    /// The response.
    pub response: TextOrMessages,
    /// The verdict on the response.
    pub desirability: Desirability,
    /// The row's own options for the chat template.
    #[serde(default, skip_serializing_if = "ChatOptions::is_empty")]
    pub chat: ChatOptions,
}

/// A prompt and a response with scores, as a row has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelledRow {
    /// The row's identity.
    pub id: String,
    /// The prompt.
    pub prompt: TextOrMessages,
    /// The response.
    pub response: TextOrMessages,
    /// The scores by name.
    pub scores: BTreeMap<String, f64>,
    /// The row's own options for the chat template.
    #[serde(default, skip_serializing_if = "ChatOptions::is_empty")]
    pub chat: ChatOptions,
}

/// A prompt, the steps of a solution, and whether each is right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepsRow {
    /// The row's identity.
    pub id: String,
    /// The prompt.
    pub prompt: String,
    /// The steps, in order.
    pub steps: Vec<String>,
    /// Labels of the steps, as many as there are steps.
    pub labels: Vec<bool>,
}

impl PromptRow {
    /// The prompt that a policy reads.
    ///
    /// # Errors
    /// As [`Rendering::prompt`].
    pub fn render(
        &self,
        codec: &dyn TextCodec,
        how: &Rendering,
    ) -> Result<PromptRecord, CodecError> {
        let (prompt, kind) = how.prompt(codec, &self.prompt, &self.chat)?;
        let (asked, messages) = how.asked(&self.prompt)?;
        let asked = (kind == TextKind::Rendered).then_some(asked);
        let mut metadata = self.metadata.clone();
        self.chat.keep_in(&mut metadata);
        Ok(PromptRecord {
            id: self.id.clone(),
            prompt,
            asked,
            messages,
            reference: self.reference.clone(),
            metadata,
            kind,
        })
    }
}

impl DemonstrationRow {
    /// The texts of prompt and response.
    ///
    /// # Errors
    /// As [`Rendering::exchange`].
    pub fn render(
        &self,
        codec: &dyn TextCodec,
        how: &Rendering,
    ) -> Result<Demonstration, CodecError> {
        let (prompt, mut said, kind) =
            how.exchange(codec, &self.prompt, &[&self.response], &self.chat)?;
        let response = said.pop().unwrap_or_default();
        Ok(Demonstration { id: self.id.clone(), prompt, response, kind })
    }
}

impl PairRow {
    /// The texts of the pair.
    ///
    /// # Errors
    /// As [`Rendering::exchange`].
    pub fn render(
        &self,
        codec: &dyn TextCodec,
        how: &Rendering,
    ) -> Result<PreferencePair, CodecError> {
        let (prompt, mut said, kind) =
            how.exchange(codec, &self.prompt, &[&self.chosen, &self.rejected], &self.chat)?;
        let rejected = said.pop().unwrap_or_default();
        let chosen = said.pop().unwrap_or_default();
        Ok(PreferencePair {
            id: self.id.clone(),
            prompt,
            chosen,
            rejected,
            margin: self.margin,
            kind,
        })
    }

    /// The preferred response as one to imitate.
    pub fn into_demonstration(self) -> DemonstrationRow {
        let Self { id, prompt, chosen, chat, .. } = self;
        DemonstrationRow { id, prompt, response: chosen, chat }
    }

    /// The prompt, with the preferred response for reference.
    pub fn into_prompt(self) -> PromptRow {
        let Self { id, prompt, chosen, chat, metadata, .. } = self;
        let reference = Some(match chosen {
            TextOrMessages::Text(text) => text,
            TextOrMessages::Messages(messages) => {
                messages.into_iter().next().map(|m| m.content).unwrap_or_default()
            }
        });
        PromptRow { id, prompt, reference, chat, metadata }
    }

    /// The two responses with a verdict each.
    pub fn into_unpaired(self) -> [UnpairedRow; 2] {
        let Self { id, prompt, chosen, rejected, chat, .. } = self;
        let row = |suffix: &str, response, desirability| UnpairedRow {
            id: format!("{id}{suffix}"),
            prompt: prompt.clone(),
            response,
            desirability,
            chat: chat.clone(),
        };
        [
            row("/chosen", chosen, Desirability::Desirable),
            row("/rejected", rejected, Desirability::Undesirable),
        ]
    }
}

impl UnpairedRow {
    /// The texts of prompt and response.
    ///
    /// # Errors
    /// As [`Rendering::exchange`].
    pub fn render(
        &self,
        codec: &dyn TextCodec,
        how: &Rendering,
    ) -> Result<UnpairedPreference, CodecError> {
        let (prompt, mut said, kind) =
            how.exchange(codec, &self.prompt, &[&self.response], &self.chat)?;
        let response = said.pop().unwrap_or_default();
        let (id, desirability) = (self.id.clone(), self.desirability);
        Ok(UnpairedPreference { id, prompt, response, desirability, kind })
    }
}

identified_by_their_id_field!(
    PromptRow,
    DemonstrationRow,
    ConversationRow,
    PairRow,
    UnpairedRow,
    LabelledRow,
    StepsRow
);

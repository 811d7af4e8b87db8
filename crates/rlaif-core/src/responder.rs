//! A model that answers the requests of several clients at once, as servers need it.

use std::ops::ControlFlow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BadSetting, ChatOptions, Fault, Message};

/// A model that answers the requests of several clients at once.
///
/// Tokens are reported from a thread of the responder's own, so the report must not wait.
pub trait Responder: std::fmt::Debug + Send + Sync {
    /// The name by which clients ask for it.
    fn name(&self) -> &str;

    /// The maximum number of tokens of prompt and response together.
    fn context(&self) -> usize;

    /// `true` if the model has a chat template.
    fn has_chat_template(&self) -> bool;

    /// Queues the responses, and returns the token ids of the prompts. Every token is reported to `report`; its
    /// `Break` ends all responses of the request.
    ///
    /// # Errors
    /// [`ResponderError`] before anything is computed.
    fn respond(
        &self,
        request: ResponseRequest,
        report: ResponseReport,
    ) -> Result<Vec<Vec<u32>>, ResponderError>;
}

/// The receiver of a request's tokens.
pub type ResponseReport = Box<dyn FnMut(ResponseEvent) -> ControlFlow<()> + Send>;

/// A prompt of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum ResponsePrompt {
    /// Token ids, used unchanged.
    Ids(Vec<u32>),
    /// A text, used unchanged.
    Text(String),
    /// Messages, rendered by the chat template.
    Chat(Vec<Message>, ChatOptions),
}

/// Effect of an end-of-sequence id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Eos {
    /// The response ends.
    #[default]
    Ends,
    /// The id is a token like any other: every response has its full length.
    Ignored,
}

/// Responses to generate. The tokens of a response depend only on its prompt, on the settings, on `seed` and on its
/// number: they are those of row `number` of `rlaif generate` with the same seed.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseRequest {
    /// The prompts, at least one.
    pub prompts: Vec<ResponsePrompt>,
    /// Number of responses to each prompt. Response i to prompt p has the number p · `responses` + i.
    pub responses: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Maximum length of a response in tokens; `None` for the rest of the context.
    pub max_new_tokens: Option<usize>,
    /// Minimum length of a response in tokens, before an end of sequence.
    pub min_new_tokens: usize,
    /// Divisor of the logits; 0 for the most probable token.
    pub temperature: f64,
    /// Draws from the K most probable tokens.
    pub top_k: Option<usize>,
    /// Draws from the most probable tokens that sum to P.
    pub top_p: Option<f64>,
    /// Draws from tokens at least P times as probable as the most probable one.
    pub min_p: Option<f64>,
    /// Penalty on the logits of tokens that occurred; 1 disables it.
    pub repetition_penalty: f64,
    /// The effect of the model's end-of-sequence ids.
    pub eos: Eos,
    /// Ids that end a response, besides the model's own.
    pub stop_ids: Vec<u32>,
    /// Texts that end a response.
    pub stop_strings: Vec<String>,
    /// Number of the most probable tokens that are reported with each token; `None` for tokens without their texts.
    pub alternatives: Option<usize>,
}

impl Default for ResponseRequest {
    /// No prompt; one response, drawn from the whole vocabulary at temperature 1.
    fn default() -> Self {
        Self {
            prompts: Vec::new(),
            responses: 1,
            seed: 0,
            max_new_tokens: None,
            min_new_tokens: 0,
            temperature: 1.,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.,
            eos: Eos::Ends,
            stop_ids: Vec::new(),
            stop_strings: Vec::new(),
            alternatives: None,
        }
    }
}

/// A report about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum ResponseEvent {
    /// A token of a response.
    Token(ResponseToken),
    /// The reason why all responses of the request failed. No token follows.
    Failed(String),
}

/// A token of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseToken {
    /// Number of the response, see [`ResponseRequest`].
    pub response: usize,
    /// The token.
    pub id: u32,
    /// The token's log-probability under softmax(logits / temperature), over the whole vocabulary.
    pub log_prob: f32,
    /// The text that is certain with this token, after that of earlier tokens. It may be empty: a character may
    /// have several tokens, and the beginning of a stop string is held back.
    pub text: String,
    /// The text of the token itself, and the most probable tokens in its place; `None` unless asked for.
    pub shown: Option<ShownToken>,
    /// Set with a response's last token.
    pub end: Option<ResponseEnd>,
}

/// A token for readers.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownToken {
    /// The text, with special tokens as they are written.
    pub text: String,
    /// Text and log-probability of the most probable tokens, the most probable one first.
    pub alternatives: Vec<(String, f32)>,
}

/// The end of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseEnd {
    /// The reason.
    pub reason: ResponseEndReason,
    /// The text of the whole response, without special tokens, up to the first stop string.
    pub text: String,
}

/// Reasons for the end of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseEndReason {
    /// An end of sequence of the model.
    Eos,
    /// One of the stop ids.
    StopId(u32),
    /// One of the stop strings.
    StopString(String),
    /// The maximum length.
    Length,
}

/// Reasons why a request is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponderError {
    /// A setting out of range.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A prompt that the model cannot read.
    #[error("prompt {prompt}: {problem}")]
    Prompt {
        /// Index of the prompt, from 0.
        prompt: usize,
        /// The reason.
        problem: String,
    },
    /// Too many responses are waiting.
    #[error("{waiting} responses are waiting, and {most} may; ask again later")]
    Busy {
        /// Responses that are waiting.
        waiting: usize,
        /// The limit.
        most: usize,
    },
    /// The responder has ended.
    #[error("the model has ended: {reason}")]
    Ended {
        /// The reason.
        reason: String,
    },
    /// The responder failed on a request that is not at fault.
    #[error("the model failed: {reason}")]
    Failed {
        /// The reason.
        reason: String,
    },
}

impl Fault for ResponderError {
    fn is_users(&self) -> bool {
        match self {
            Self::Setting(error) => error.is_users(),
            Self::Prompt { .. } => true,
            Self::Busy { .. } | Self::Ended { .. } | Self::Failed { .. } => false,
        }
    }
}

//! Text to token ids and back: the contract between tokenizers and everything that needs one.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::message::Message;
use crate::metadata::Metadata;
use crate::python_json::json_text;

/// Use of the special tokens of a tokenizer (BOS, EOS, `<s>`, ...).
///
/// In [`TextCodec::encode`], `Include` lets the tokenizer add the ones its post-processor adds;
/// in [`TextCodec::decode`], `Include` keeps them in the text and `Exclude` leaves them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Specials {
    /// Add them when encoding, keep them when decoding.
    Include,
    /// Add none when encoding, leave them out when decoding.
    Exclude,
}

/// The end of a rendered conversation: with or without the header that makes the model answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GenerationPrompt {
    /// End with the assistant's header: the model is to answer.
    Add,
    /// End with the last message: the conversation is complete.
    Omit,
}

/// Inputs of a chat template besides the messages.
///
/// ```
/// use rlaif_core::ChatOptions;
/// let options = ChatOptions::default().with("enable_thinking", false);
/// assert_eq!(options.kwargs["enable_thinking"], false);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatOptions {
    /// The template's name, where a tokenizer has several; `None` is the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Variables of the template: transformers' `chat_template_kwargs`.
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    pub kwargs: Metadata,
    /// JSON schemas of the tools that the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from, each with a `title` and a `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<Vec<Value>>,
}

impl ChatOptions {
    /// The same options with a variable of the template.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.kwargs.insert(name.into(), value.into());
        self
    }

    /// Merges the options: `more` takes precedence, for example a row's own options over those of
    /// the run.
    #[must_use]
    pub fn and(&self, more: &Self) -> Self {
        let mut kwargs = self.kwargs.clone();
        kwargs.extend(more.kwargs.clone());
        Self {
            template: more.template.clone().or_else(|| self.template.clone()),
            kwargs,
            tools: more.tools.clone().or_else(|| self.tools.clone()),
            documents: more.documents.clone().or_else(|| self.documents.clone()),
        }
    }

    /// The tools of a row's column: a list of JSON schemas, or that list as JSON text, as TRL takes both.
    /// Null, an empty text and an empty list mean no tools.
    ///
    /// ```
    /// use rlaif_core::ChatOptions;
    /// let tools = ChatOptions::tools_of(&r#"[{"name": "clock"}]"#.into())?;
    /// assert_eq!(tools.unwrap()[0]["name"], "clock");
    /// assert_eq!(ChatOptions::tools_of(&serde_json::Value::Null)?, None);
    /// # Ok::<(), &str>(())
    /// ```
    ///
    /// # Errors
    /// The expected value, for another one.
    pub fn tools_of(value: &Value) -> Result<Option<Vec<Value>>, &'static str> {
        match &*json_text(value) {
            Value::Null => Ok(None),
            Value::String(text) if text.trim().is_empty() => Ok(None),
            Value::Array(tools) => Ok((!tools.is_empty()).then(|| tools.clone())),
            _ => Err("a list of JSON schemas, or that list as JSON text"),
        }
    }

    /// The variables of a row's column `chat_template_kwargs`: an object, or that object as JSON text.
    /// Null and an empty text mean no variables.
    ///
    /// # Errors
    /// The expected value, for another one.
    pub fn kwargs_of(value: &Value) -> Result<Metadata, &'static str> {
        match &*json_text(value) {
            Value::Null => Ok(Metadata::new()),
            Value::String(text) if text.trim().is_empty() => Ok(Metadata::new()),
            Value::Object(kwargs) => Ok(kwargs.clone()),
            _ => Err("an object, or that object as JSON text"),
        }
    }

    /// [`ChatOptions::tools_of`] for a field `tools` of a row, with `#[serde(deserialize_with)]`.
    ///
    /// # Errors
    /// The error of the deserializer; another value, by the field's name.
    pub fn tools_field<'de, D: Deserializer<'de>>(row: D) -> Result<Option<Vec<Value>>, D::Error> {
        Self::tools_of(&Value::deserialize(row)?)
            .map_err(|expected| D::Error::custom(format!("`tools` should be {expected}")))
    }

    /// [`ChatOptions::kwargs_of`] for a field `chat_template_kwargs`.
    ///
    /// # Errors
    /// As [`ChatOptions::tools_field`].
    pub fn kwargs_field<'de, D: Deserializer<'de>>(row: D) -> Result<Metadata, D::Error> {
        Self::kwargs_of(&Value::deserialize(row)?).map_err(|expected| {
            D::Error::custom(format!("`chat_template_kwargs` should be {expected}"))
        })
    }

    /// Puts `tools` and `chat_template_kwargs` of a row into its metadata, where a reward with a chat template of
    /// its own finds them ([`ChatOptions::of_metadata`]). Keys that exist stay.
    ///
    /// ```
    /// use rlaif_core::{ChatOptions, Metadata};
    /// let mut metadata = Metadata::new();
    /// let options = ChatOptions::default().with("enable_thinking", false);
    /// options.keep_in(&mut metadata);
    /// assert_eq!(metadata["chat_template_kwargs"]["enable_thinking"], false);
    /// assert_eq!(ChatOptions::of_metadata(&metadata), options);
    /// ```
    pub fn keep_in(&self, metadata: &mut Metadata) {
        if let Some(tools) = &self.tools {
            metadata.entry("tools").or_insert_with(|| tools.clone().into());
        }
        if !self.kwargs.is_empty() {
            metadata.entry("chat_template_kwargs").or_insert_with(|| self.kwargs.clone().into());
        }
    }

    /// The options in a row's metadata, without values of another type.
    #[must_use]
    pub fn of_metadata(metadata: &Metadata) -> Self {
        let tools = metadata.get("tools").and_then(|value| Self::tools_of(value).ok());
        let kwargs = metadata.get("chat_template_kwargs");
        let kwargs = kwargs.and_then(|value| Self::kwargs_of(value).ok());
        Self { tools: tools.flatten(), kwargs: kwargs.unwrap_or_default(), ..Self::default() }
    }

    /// Returns `true` if there is nothing to pass to a template.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Errors of encoding, decoding and rendering text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The tokenizer refused the text or the ids.
    #[error("the tokenizer `{codec}` failed: {source}")]
    Tokenizer {
        /// The tokenizer, usually the folder or file it was read from.
        codec: String,
        /// The tokenizer's message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The conversation could not be rendered.
    #[error("the chat template of `{codec}` failed: {source}")]
    ChatTemplate {
        /// The tokenizer of the template.
        codec: String,
        /// The message of the template engine, or of the template's own `raise_exception`.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no chat template to render with.
    #[error(
        "`{codec}` has no chat template; give plain prompts, or add `chat_template.jinja` or \
         `chat_template` in tokenizer_config.json"
    )]
    NoChatTemplate {
        /// The tokenizer that lacks one.
        codec: String,
    },
    /// A conversation from which no prompt, or no response, can be made.
    #[error("{problem}")]
    Conversation {
        /// The fault found.
        problem: String,
    },
}

/// Text to token ids and back.
///
/// The files that a tokenizer may consist of: those of a folder are fetched, copied and read. A folder has
/// some of them.
pub const TOKENIZER_FILES: [&str; 13] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// Object-safe, so that data, rollouts and judges take `&dyn TextCodec` and need no tokenizer
/// library. Token ids are `u32`, as tokenizers count them.
pub trait TextCodec: Send + Sync {
    /// Names the tokenizer in errors and provenance: a folder, a file or a hub id.
    fn name(&self) -> &str;

    /// Token ids of `text`.
    ///
    /// # Errors
    /// [`CodecError::Tokenizer`] when the tokenizer fails.
    fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, CodecError>;

    /// Token ids of every text, in order. Tokenizers with a parallel batch call override it.
    ///
    /// # Errors
    /// The first failure, as [`TextCodec::encode`].
    fn encode_batch(
        &self,
        texts: &[&str],
        specials: Specials,
    ) -> Result<Vec<Vec<u32>>, CodecError> {
        texts.iter().map(|text| self.encode(text, specials)).collect()
    }

    /// The text of `ids`.
    ///
    /// # Errors
    /// [`CodecError::Tokenizer`] when the tokenizer fails.
    fn decode(&self, ids: &[u32], specials: Specials) -> Result<String, CodecError>;

    /// A conversation as the model's chat template writes it, BOS included if the template
    /// writes one: encode the result with [`Specials::Exclude`].
    ///
    /// # Errors
    /// [`CodecError::NoChatTemplate`] when the model has none, [`CodecError::ChatTemplate`] when
    /// the template refuses the conversation.
    fn render_chat(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
    ) -> Result<String, CodecError>;

    /// [`TextCodec::render_chat`] with more for the template.
    ///
    /// # Errors
    /// As [`TextCodec::render_chat`]. A codec that knows no options refuses those that are not
    /// empty with [`CodecError::ChatTemplate`].
    fn render_chat_with(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
        options: &ChatOptions,
    ) -> Result<String, CodecError> {
        if options.is_empty() {
            return self.render_chat(messages, generation_prompt);
        }
        let source = "it takes no options other than the messages".into();
        Err(CodecError::ChatTemplate { codec: self.name().to_owned(), source })
    }

    /// Id of the token that ends a text, `eos_token` of the tokenizer: what is put behind a learned
    /// response. Other tokens may end one in generation as well.
    fn eos_id(&self) -> Option<u32> {
        None
    }

    /// Notices since the last call, to be shown once per run, in whole sentences: a
    /// special token that the text had already and was not added again, message keys that the chat
    /// template does not read. No notice is handed out twice.
    fn take_notices(&self) -> Vec<String> {
        Vec::new()
    }
}

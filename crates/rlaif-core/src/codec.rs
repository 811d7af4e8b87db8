//! Text to token ids and back: the contract between tokenizers and everything that needs one.

use crate::record::Message;

/// Whether the special tokens of a tokenizer (BOS, EOS, `<s>`, ...) take part.
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

/// Whether a rendered conversation ends with the header that makes the model answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GenerationPrompt {
    /// End with the assistant's header: the model is to answer.
    Add,
    /// End with the last message: the conversation is complete.
    Omit,
}

/// Why a text could not be encoded, decoded or rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The tokenizer refused the text or the ids.
    #[error("the tokenizer `{codec}` failed: {source}")]
    Tokenizer {
        /// Which tokenizer, usually the folder or file it was read from.
        codec: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The conversation could not be rendered.
    #[error("the chat template of `{codec}` failed: {source}")]
    ChatTemplate {
        /// Which tokenizer the template belongs to.
        codec: String,
        /// What the template engine, or the template's own `raise_exception`, said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no chat template to render with.
    #[error(
        "`{codec}` has no chat template; give plain prompts, or add `chat_template.jinja` or \
         `chat_template` in tokenizer_config.json"
    )]
    NoChatTemplate {
        /// Which tokenizer lacks one.
        codec: String,
    },
}

/// Text to token ids and back.
///
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
}

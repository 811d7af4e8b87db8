//! The tokenizer: ids, texts, chats.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rlaif_core::{
    ChatOptions, CodecError, GenerationPrompt, Message, Specials, TOKENIZER_FILES, TextCodec,
};
use tokenizers::models::ModelWrapper;
use tokenizers::tokenizer::PostProcessor;
use tokenizers::utils::truncation::{
    TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};
use tokenizers::{Encoding, Tokenizer};

use crate::chat::Chat;
use crate::config::{Config, SequenceSide};
use crate::error::TextError;
use crate::guard::guarded;
use crate::load::load;
use crate::mask::{self, LearnedTurns, MaskError, MaskedChat};
use crate::notice::{Notice, Notices};
use crate::surround::Surround;

/// A token with a role.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpecialToken {
    /// Text of the token.
    pub text: String,
    /// The id.
    pub id: u32,
}

/// The tokens that have a role, where a tokenizer has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<SpecialToken>,
    /// Ends a sequence.
    pub eos: Option<SpecialToken>,
    /// Stands for what the vocabulary cannot say.
    pub unk: Option<SpecialToken>,
    /// Separates two texts.
    pub sep: Option<SpecialToken>,
    /// Fills up batches.
    pub pad: Option<SpecialToken>,
    /// Input of a classifier.
    pub cls: Option<SpecialToken>,
    /// Stands for a hidden word.
    pub mask: Option<SpecialToken>,
}

/// A text, or a pair of texts, as a model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Text that each token belongs to, where the tokenizer tells (BERT: 0 and 1).
    pub type_ids: Vec<u32>,
    /// Tokens that were left out.
    pub dropped: usize,
}

/// A tokenizer as a model's folder describes it, read as transformers reads it.
///
/// ```
/// use rlaif_core::{Message, GenerationPrompt, Specials, TextCodec};
/// use rlaif_text::HfTokenizer;
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chatml");
/// let tokenizer = HfTokenizer::from_folder(folder)?;
/// let ids = tokenizer.encode("Is honey safe for infants?", Specials::Include)?;
/// assert_eq!(tokenizer.decode(&ids, Specials::Include)?, "Is honey safe for infants?");
///
/// let chat = [Message::new("user", "Is honey safe for infants?")];
/// let text = tokenizer.render_chat(&chat, GenerationPrompt::Add)?;
/// assert!(text.ends_with("<|im_start|>assistant\n"));
/// let ids = tokenizer.encode_chat(&chat, GenerationPrompt::Add)?; // no second BOS
/// assert_eq!(ids, tokenizer.encode(&text, Specials::Exclude)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct HfTokenizer {
    name: String,
    tokenizer: Tokenizer,
    specials: SpecialTokens,
    padding_side: SequenceSide,
    truncation_side: SequenceSide,
    max_length: Option<usize>,
    clean_up_spaces: bool,
    chat: Chat,
    template_files: Vec<PathBuf>,
    surround: Surround,
    notices: Notices,
}

/// An id that means different tokens in two vocabularies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VocabularyDifference {
    /// The id.
    pub id: u32,
    /// The token in the first vocabulary.
    pub token: String,
    /// The token in the other vocabulary.
    pub other: String,
}

/// The tokens of a vocabulary, added ones included.
fn by_id(tokenizer: &Tokenizer) -> BTreeMap<u32, String> {
    tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect()
}

impl HfTokenizer {
    /// The files that [`HfTokenizer::from_folder`] reads, for code that has to fetch them first.
    /// Templates in an `additional_chat_templates` folder come on top.
    pub fn files() -> impl Iterator<Item = &'static str> {
        TOKENIZER_FILES.into_iter().chain(["config.json"])
    }

    /// True of a file, relative to its folder, that holds a chat template with a name of its own:
    /// `additional_chat_templates/NAME.jinja`.
    ///
    /// ```
    /// use rlaif_text::HfTokenizer;
    /// assert!(HfTokenizer::is_named_template("additional_chat_templates/rag.jinja"));
    /// assert!(!HfTokenizer::is_named_template("chat_template.jinja"));
    /// ```
    pub fn is_named_template(file: &str) -> bool {
        let named = file.strip_prefix("additional_chat_templates/");
        named.and_then(|name| name.strip_suffix(".jinja")).is_some_and(|name| !name.contains('/'))
    }

    /// Reads `tokenizer.json`, or else a vocabulary from which transformers 5 builds the same
    /// tokenizer: `vocab.json` and `merges.txt` (RoBERTa, GPT-2, Qwen2), `vocab.txt` (BERT),
    /// `tokenizer.model` (Llama, Mistral), `spiece.model` (T5), `sentencepiece.bpe.model`
    /// (XLM-RoBERTa); with what the configuration beside it says.
    ///
    /// As in transformers 5, `tokenizer.json` alone decides which special tokens surround a text:
    /// `add_bos_token` and `add_eos_token` beside it are ignored.
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`], [`TextError::UnknownClass`], [`TextError::Read`],
    /// [`TextError::Json`] and [`TextError::Build`]. A template is parsed when it is first used.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self, TextError> {
        let folder = folder.as_ref();
        let mut config = Config::read(folder)?;
        let tokenizer = load(folder, &mut config)?;
        let role = |key: &str| {
            let text = config.named.get(key)?.content.clone();
            let id = tokenizer.token_to_id(&text)?;
            Some(SpecialToken { text, id })
        };
        let specials = SpecialTokens {
            bos: role("bos_token"),
            eos: role("eos_token"),
            unk: role("unk_token"),
            sep: role("sep_token"),
            pad: role("pad_token"),
            cls: role("cls_token"),
            mask: role("mask_token"),
        };
        let is_bpe = matches!(tokenizer.get_model(), ModelWrapper::BPE(_));
        let surround = Surround::of(&tokenizer)
            .map_err(|source| TextError::Build { path: folder.to_owned(), source })?;
        let seen = config.named.iter().map(|(key, token)| (key.clone(), token.content.clone()));
        let chat = Chat::new(config.chat_templates, seen.collect());
        Ok(Self {
            name: folder.display().to_string(),
            tokenizer,
            specials,
            padding_side: config.padding_side.unwrap_or(SequenceSide::Right),
            truncation_side: config.truncation_side,
            max_length: config.max_length,
            // The rules are WordPiece's, and destroy text of byte-level tokenizers.
            clean_up_spaces: config.clean_up_spaces && !is_bpe,
            chat,
            template_files: config.template_files,
            surround,
            notices: Notices::default(),
        })
    }

    /// Another name in errors and provenance: the id of the repository the folder came from.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Has [`HfTokenizer::encode_truncated`] cut there, regardless of the configuration.
    #[must_use]
    pub fn truncating(mut self, side: SequenceSide) -> Self {
        self.truncation_side = side;
        self
    }

    /// Pins the date and time that templates see (`strftime_now`), so that a run tomorrow renders
    /// the same prompts: `2024-07-26` or `2024-07-26T12:00:00`.
    ///
    /// # Errors
    /// [`TextError::Date`].
    pub fn at(mut self, now: &str) -> Result<Self, TextError> {
        let date = now.parse().map_err(|source: jiff::Error| TextError::Date {
            given: now.to_owned(),
            source: source.into(),
        })?;
        self.chat.set_now(date);
        Ok(self)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// One more than the largest id: the rows that an embedding must have at least. Larger than
    /// [`HfTokenizer::vocab_size`] where ids have gaps.
    pub fn embedding_rows(&self) -> usize {
        let largest = self.tokenizer.get_vocab(true).into_values().max();
        largest.map_or(0, |id| id as usize + 1)
    }

    /// The lowest id that both tokenizers have, for different tokens; `None` if ids that both have mean
    /// the same. Either may have further tokens.
    pub fn first_difference(&self, other: &Self) -> Option<VocabularyDifference> {
        let own = by_id(&self.tokenizer);
        let others = by_id(&other.tokenizer);
        own.into_iter().find_map(|(id, token)| {
            let other = others.get(&id).filter(|other| **other != token)?.clone();
            Some(VocabularyDifference { id, token, other })
        })
    }

    /// The tokens that have a role.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.specials
    }

    /// SequenceSide of the padding in a batch.
    pub fn padding_side(&self) -> SequenceSide {
        self.padding_side
    }

    /// The longest input the model was made for, in tokens, if the configuration says.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// The id of a token, written as in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// A token, written as in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// A text, or two, with special tokens, and at most `max_length` tokens in all. What is too
    /// much is taken from the longer text's end (or beginning, if the configuration says so):
    /// transformers' `longest_first`.
    ///
    /// # Errors
    /// [`TextError::TooShort`] when nothing of the text would be left, [`TextError::Encode`].
    pub fn encode_truncated(
        &self,
        text: &str,
        pair: Option<&str>,
        max_length: usize,
    ) -> Result<Encoded, TextError> {
        let added =
            self.tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(pair.is_some()));
        if max_length <= added {
            return Err(TextError::TooShort { name: self.name.clone(), max_length, added });
        }
        let failed = |source| TextError::Encode {
            name: self.name.clone(),
            bytes: text.len() + pair.map_or(0, str::len),
            source,
        };
        let bare = |text: &str| guarded(|| self.tokenizer.encode_fast(text, false)).map_err(failed);
        let first = self.without_repeated(bare(text)?, pair.is_none());
        let second = pair.map(bare).transpose()?;
        let total = first.len() + second.as_ref().map_or(0, Encoding::len);
        let params = TruncationParams {
            max_length: max_length - added,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: match self.truncation_side {
                SequenceSide::Left => TruncationDirection::Left,
                SequenceSide::Right => TruncationDirection::Right,
            },
        };
        let (first, mut second) =
            guarded(|| truncate_encodings(first, second, &params)).map_err(failed)?;
        if let Some(second) = &mut second {
            // Encoded on its own, it counts as a first text.
            second.set_type_ids(vec![1; second.len()]);
        }
        let kept = first.len() + second.as_ref().map_or(0, Encoding::len);
        let whole = guarded(|| self.tokenizer.post_process(first, second, true)).map_err(failed)?;
        Ok(Encoded {
            ids: whole.get_ids().to_vec(),
            type_ids: whole.get_type_ids().to_vec(),
            dropped: total - kept,
        })
    }

    /// [`HfTokenizer::encode_truncated`] of every row, in parallel, in order.
    ///
    /// # Errors
    /// As for one row.
    pub fn encode_truncated_batch(
        &self,
        rows: &[(&str, Option<&str>)],
        max_length: usize,
    ) -> Result<Vec<Encoded>, TextError> {
        rows.par_iter().map(|(text, pair)| self.encode_truncated(text, *pair, max_length)).collect()
    }

    /// A text's tokens without those special tokens at its start or end that are added anyway.
    /// `alone` means that nothing follows the text.
    fn without_repeated(&self, mut bare: Encoding, alone: bool) -> Encoding {
        let repeated = self.surround.repeated(bare.get_ids());
        let ends = if alone { repeated.end } else { 0 };
        if repeated.begin > 0 {
            let token = self.surround.written(&self.tokenizer, true);
            self.notices.add(Notice::Begins(token), &self.name);
            let left = bare.len() - repeated.begin;
            bare.truncate(left, 0, TruncationDirection::Left);
        }
        if ends > 0 {
            let token = self.surround.written(&self.tokenizer, false);
            self.notices.add(Notice::Ends(token), &self.name);
            bare.truncate(bare.len() - ends, 0, TruncationDirection::Right);
        }
        bare
    }

    /// A conversation's ids, with the one BOS that the template writes, if it does.
    ///
    /// # Errors
    /// As [`TextCodec::render_chat`] and [`TextCodec::encode`].
    pub fn encode_chat(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
    ) -> Result<Vec<u32>, CodecError> {
        self.encode(&self.render_chat(messages, generation_prompt)?, Specials::Exclude)
    }

    /// A conversation with the parts that the assistant wrote: those that `{% generation %}` marks
    /// in the chat template, as in transformers' `return_assistant_tokens_mask`, or else each of
    /// the assistant's turns as the template renders them.
    ///
    /// # Errors
    /// [`MaskError`]; where it [is of the row](MaskError::is_of_the_row), the conversation is to be
    /// left out and counted.
    ///
    /// ```
    /// use rlaif_core::{ChatOptions, Message};
    /// use rlaif_text::{HfTokenizer, LearnedTurns};
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chatml");
    /// let tokenizer = HfTokenizer::from_folder(folder)?;
    /// let chat = [Message::new("user", "Name a prime."), Message::new("assistant", "Seven.")];
    /// let masked = tokenizer.mask_chat(&chat, &ChatOptions::default(), LearnedTurns::All)?;
    /// assert_eq!(&masked.text[masked.learned[0].clone()], "Seven.<|im_end|>");
    /// let (ids, learned) = tokenizer.encode_masked(&masked)?;
    /// assert_eq!(ids.len(), learned.len());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mask_chat(
        &self,
        messages: &[Message],
        options: &ChatOptions,
        which: LearnedTurns,
    ) -> Result<MaskedChat, MaskError> {
        if !self.chat.marks(options) {
            let eos = self.specials.eos.as_ref().map(|token| token.text.as_str());
            return mask::by_comparison(self, messages, options, which, eos);
        }
        mask::turns(messages, which)?;
        let marked = self.chat.render_marked(messages, options).map_err(|source| {
            let codec = self.name.clone();
            MaskError::Refused(CodecError::ChatTemplate { codec, source: source.into() })
        })?;
        let (text, mut learned) = marked;
        learned.retain(|range| !range.is_empty());
        if which == LearnedTurns::Last {
            learned.drain(..learned.len().saturating_sub(1));
        }
        if learned.is_empty() {
            Err(MaskError::NothingSaid)
        } else {
            Ok(MaskedChat { text, learned })
        }
    }

    /// The ids of a masked conversation, and for each of them whether it is learned: an id counts
    /// as learned if any of its text does. No special tokens are added.
    ///
    /// # Errors
    /// [`CodecError::Tokenizer`].
    pub fn encode_masked(&self, chat: &MaskedChat) -> Result<(Vec<u32>, Vec<bool>), CodecError> {
        let encoding = guarded(|| self.tokenizer.encode(chat.text.as_str(), false));
        let encoding = encoding.map_err(self.failed())?;
        let learned = encoding
            .get_offsets()
            .iter()
            .map(|&(start, end)| {
                chat.learned.iter().any(|range| start < range.end && end > range.start)
            })
            .collect();
        Ok((encoding.get_ids().to_vec(), learned))
    }

    /// Names of the chat templates; [`TextCodec::render_chat`] uses `default`.
    pub fn chat_templates(&self) -> impl Iterator<Item = &str> {
        self.chat.names()
    }

    /// The source of a chat template; `default` is that of [`TextCodec::render_chat`].
    pub fn chat_template(&self, name: &str) -> Option<&str> {
        self.chat.source(name)
    }

    /// The content of a tokenizer.json for this tokenizer, read from any of its files.
    ///
    /// # Errors
    /// [`CodecError::Tokenizer`].
    pub fn to_json(&self) -> Result<serde_json::Value, CodecError> {
        serde_json::to_value(&self.tokenizer).map_err(|error| self.failed()(error.into()))
    }

    /// The files beside the tokenizer's own that hold its chat templates, relative to its folder:
    /// `chat_template.jinja` and those of `additional_chat_templates`. A copy of the tokenizer
    /// needs them.
    pub fn template_files(&self) -> &[PathBuf] {
        &self.template_files
    }

    fn failed(&self) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> CodecError {
        let codec = self.name.clone();
        move |source| CodecError::Tokenizer { codec: codec.clone(), source }
    }
}

impl TextCodec for HfTokenizer {
    fn name(&self) -> &str {
        &self.name
    }

    fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, CodecError> {
        let bare = guarded(|| self.tokenizer.encode_fast(text, false)).map_err(self.failed())?;
        if specials == Specials::Exclude {
            return Ok(bare.get_ids().to_vec());
        }
        let bare = self.without_repeated(bare, true);
        let whole =
            guarded(|| self.tokenizer.post_process(bare, None, true)).map_err(self.failed())?;
        Ok(whole.get_ids().to_vec())
    }

    fn encode_batch(
        &self,
        texts: &[&str],
        specials: Specials,
    ) -> Result<Vec<Vec<u32>>, CodecError> {
        texts.par_iter().map(|text| self.encode(text, specials)).collect()
    }

    fn decode(&self, ids: &[u32], specials: Specials) -> Result<String, CodecError> {
        let without = specials == Specials::Exclude;
        let text = guarded(|| self.tokenizer.decode(ids, without)).map_err(self.failed())?;
        Ok(if self.clean_up_spaces { clean_up(&text) } else { text })
    }

    fn render_chat(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
    ) -> Result<String, CodecError> {
        self.render_chat_with(messages, generation_prompt, &ChatOptions::default())
    }

    fn render_chat_with(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
        options: &ChatOptions,
    ) -> Result<String, CodecError> {
        if self.chat.names().next().is_none() {
            return Err(CodecError::NoChatTemplate { codec: self.name.clone() });
        }
        let rendered = self.chat.render(messages, generation_prompt, options);
        let (text, unread) = rendered.map_err(|source| CodecError::ChatTemplate {
            codec: self.name.clone(),
            source: source.into(),
        })?;
        for notice in unread {
            self.notices.add(notice, &self.name);
        }
        Ok(text)
    }

    fn eos_id(&self) -> Option<u32> {
        self.specials.eos.as_ref().map(|token| token.id)
    }

    fn take_notices(&self) -> Vec<String> {
        self.notices.take()
    }
}

impl fmt::Debug for HfTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HfTokenizer")
            .field("name", &self.name)
            .field("vocab_size", &self.vocab_size())
            .field("specials", &self.specials)
            .finish_non_exhaustive()
    }
}

/// transformers' `clean_up_tokenization`: spaces before punctuation and abbreviations go.
fn clean_up(text: &str) -> String {
    const REPLACED: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

//! A text as a classifier reads it, in training and in scoring: without its beginning if it is too long, because
//! the judged response stands at the end.

use rlaif_core::{CodecError, Specials, TextCodec, TextKind};
use rlaif_text::{HfTokenizer, TextError};

/// Encodes texts as at most `limit` tokens.
#[derive(Clone, Copy)]
pub(super) struct JudgedTexts<'a> {
    tokenizer: &'a HfTokenizer,
    /// The end of sequence of a plain text that has none.
    eos: Option<u32>,
    limit: usize,
}

/// Token ids, and `true` if they are not those of the whole text.
type Ids = (Vec<u32>, bool);

impl<'a> JudgedTexts<'a> {
    /// Plain texts end as the tokenizer ends them.
    pub(super) fn of_classifier(tokenizer: &'a HfTokenizer, limit: usize) -> Self {
        Self { tokenizer, eos: None, limit }
    }

    /// Plain texts end in the tokenizer's end of sequence, as in TRL's reward trainer.
    pub(super) fn of_reward_model(tokenizer: &'a HfTokenizer, limit: usize) -> Self {
        Self { tokenizer, eos: tokenizer.eos_id(), limit }
    }

    fn ended(&self, mut ids: Vec<u32>) -> Vec<u32> {
        ids.extend(self.eos.filter(|eos| ids.last() != Some(eos)));
        ids
    }

    /// A plain text, with its token ids, special tokens included.
    pub(super) fn plain(&self, text: &str, ids: Vec<u32>) -> Result<Ids, CodecError> {
        let ids = self.ended(ids);
        if ids.len() <= self.limit {
            return Ok((ids, false));
        }
        let bare = self.tokenizer.encode(text, Specials::Exclude)?;
        let frame = self.ended(self.tokenizer.encode("", Specials::Include)?);
        Ok((self.without_beginning(&ids, &bare, &frame)?, true))
    }

    /// The output of a chat template, as token ids. Its first token stays.
    pub(super) fn rendered(&self, ids: Vec<u32>) -> Result<Ids, CodecError> {
        if ids.len() <= self.limit {
            return Ok((ids, false));
        }
        Ok((self.without_beginning(&ids, &ids[1..], &ids[..1])?, true))
    }

    /// Removes the beginning of `bare` from `ids`, which are `bare` between special tokens. `frame`
    /// are the special tokens alone.
    fn without_beginning(
        &self,
        ids: &[u32],
        bare: &[u32],
        frame: &[u32],
    ) -> Result<Vec<u32>, CodecError> {
        let name = self.tokenizer.name();
        let keep = self.limit.checked_sub(frame.len()).filter(|keep| *keep > 0);
        let keep = keep.ok_or_else(|| CodecError::Tokenizer {
            codec: name.to_owned(),
            source: Box::new(TextError::TooShort {
                name: name.to_owned(),
                max_length: self.limit,
                added: frame.len(),
            }),
        })?;
        let before = ids.len().saturating_sub(bare.len()).min(frame.len());
        let before = (0..=before)
            .find(|&n| ids[n..].starts_with(bare) && ids[..n] == frame[..n])
            .unwrap_or(0);
        let keep = keep.min(bare.len());
        Ok([&frame[..before], &bare[bare.len() - keep..], &frame[before..]].concat())
    }
}

/// The tokens that the tokenizer adds behind a text. A head on tokens reads the last token before them.
///
/// # Errors
/// [`CodecError::Tokenizer`].
pub fn closing_tokens(tokenizer: &HfTokenizer) -> Result<Vec<u32>, CodecError> {
    let whole = tokenizer.encode("a", Specials::Include)?;
    let bare = tokenizer.encode("a", Specials::Exclude)?;
    let start = (0..whole.len()).find(|&start| whole[start..].starts_with(&bare));
    Ok(start.map_or_else(Vec::new, |start| whole[start + bare.len()..].to_vec()))
}

/// Token ids of a text as a reward model reads it, at most `limit`, and `true` if the text lost its beginning.
///
/// A plain text ends in the tokenizer's end of sequence, as in TRL's reward trainer; a text from a chat template
/// ends as in the template, and keeps its first token.
///
/// # Errors
/// [`CodecError::Tokenizer`], also if nothing of the text would be left.
///
/// ```
/// use rlaif_core::TextKind;
/// use rlaif_rewards::encode_judged;
/// use rlaif_text::HfTokenizer;
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../rlaif-text/tests/fixtures/roberta");
/// let tokenizer = HfTokenizer::from_folder(folder)?;
/// let (whole, _) = encode_judged(&tokenizer, "Why? Why? I like you.", TextKind::Plain, 100)?;
/// let (ids, shortened) = encode_judged(&tokenizer, "Why? Why? I like you.", TextKind::Plain, 6)?;
/// assert!(shortened && ids.len() == 6);
/// // The special tokens around it stay, and the end of the text.
/// assert_eq!((ids[0], &ids[1..]), (whole[0], &whole[whole.len() - 5..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn encode_judged(
    tokenizer: &HfTokenizer,
    text: &str,
    kind: TextKind,
    limit: usize,
) -> Result<(Vec<u32>, bool), CodecError> {
    let texts = JudgedTexts::of_reward_model(tokenizer, limit);
    match kind {
        TextKind::Plain => texts.plain(text, tokenizer.encode(text, Specials::Include)?),
        TextKind::Rendered => texts.rendered(tokenizer.encode(text, Specials::Exclude)?),
    }
}

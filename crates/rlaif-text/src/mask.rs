//! The assistant's part of a rendered conversation.

use std::ops::Range;

use rlaif_core::{ChatOptions, CodecError, Fault, GenerationPrompt, Message, TextCodec};

/// The turns of the assistant that are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LearnedTurns {
    /// Every one.
    #[default]
    All,
    /// The last one.
    Last,
}

/// A rendered conversation with what is to be learned of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskedChat {
    /// The conversation as the chat template writes it.
    pub text: String,
    /// Byte ranges of the text that the assistant says, in order: each from behind the header that
    /// makes it answer to the end of the turn, with the token that ends it.
    pub learned: Vec<Range<usize>>,
}

/// Reasons why a conversation has no mask.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaskError {
    /// No conversation has one with this tokenizer.
    #[error(transparent)]
    Codec(CodecError),
    /// The chat template refuses the conversation.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(CodecError),
    /// No turn of the assistant.
    #[error("the assistant says nothing in the conversation")]
    NothingSaid,
    /// A turn that cannot be found in the whole.
    #[error(
        "turn {turn} (of role `assistant`) cannot be masked: the chat template renders the \
         conversation up to this turn differently from the whole; mark the learned parts in the \
         template with {{% generation %}} and {{% endgeneration %}}"
    )]
    Turn {
        /// Number of the message, from 1.
        turn: usize,
    },
}

impl MaskError {
    /// Returns `true` if this conversation is at fault: a run then leaves it out, counts it and
    /// continues.
    pub fn is_of_the_row(&self) -> bool {
        !matches!(self, Self::Codec(_))
    }
}

impl Fault for MaskError {
    fn is_users(&self) -> bool {
        match self {
            Self::Codec(error) | Self::Refused(error) => error.is_users(),
            Self::NothingSaid | Self::Turn { .. } => true,
        }
    }
}

fn render(
    codec: &dyn TextCodec,
    messages: &[Message],
    generation_prompt: GenerationPrompt,
    options: &ChatOptions,
) -> Result<String, MaskError> {
    codec.render_chat_with(messages, generation_prompt, options).map_err(|error| match error {
        CodecError::ChatTemplate { .. } => MaskError::Refused(error),
        error => MaskError::Codec(error),
    })
}

/// The turns to learn: indices of messages.
pub(crate) fn turns(messages: &[Message], which: LearnedTurns) -> Result<Vec<usize>, MaskError> {
    let mut turns: Vec<usize> =
        (0..messages.len()).filter(|&i| messages[i].role == "assistant").collect();
    if which == LearnedTurns::Last {
        turns.drain(..turns.len().saturating_sub(1));
    }
    if turns.is_empty() { Err(MaskError::NothingSaid) } else { Ok(turns) }
}

/// The mask of a conversation by what its template writes of parts of it: for templates that do
/// not mark it themselves.
///
/// A template may write a turn otherwise when it is the last (Qwen3 drops earlier thoughts), and
/// may open what the whole does not keep (`<think>`). A turn begins where the conversation before
/// it, with the header that makes the assistant answer, parts from the whole; and ends where the
/// conversation up to it ends, or else where the whole with another text in its place continues.
pub(crate) fn by_comparison(
    codec: &dyn TextCodec,
    messages: &[Message],
    options: &ChatOptions,
    which: LearnedTurns,
    eos: Option<&str>,
) -> Result<MaskedChat, MaskError> {
    let turns = turns(messages, which)?;
    let whole = render(codec, messages, GenerationPrompt::Omit, options)?;
    let mut learned: Vec<Range<usize>> = Vec::new();
    for turn in turns {
        let lost = MaskError::Turn { turn: turn + 1 };
        let Some(range) = range(codec, messages, options, &whole, turn, eos)? else {
            return Err(lost);
        };
        let from = learned.last().map_or(0, |range| range.end);
        if range.start < from || range.start > range.end {
            return Err(lost);
        }
        learned.push(range);
    }
    Ok(MaskedChat { text: whole, learned })
}

fn common(a: &str, b: &str) -> usize {
    let common = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    a.floor_char_boundary(common)
}

/// Stands for what a turn says; no conversation has it.
const MARK: &str = "RLAIF_WHAT_THIS_TURN_SAYS";

fn range(
    codec: &dyn TextCodec,
    messages: &[Message],
    options: &ChatOptions,
    whole: &str,
    turn: usize,
    eos: Option<&str>,
) -> Result<Option<Range<usize>>, MaskError> {
    // A template may refuse a part of what it accepts as a whole: no answer then.
    let part = |messages: &[Message], prompt| match render(codec, messages, prompt, options) {
        Ok(text) => Ok(Some(text)),
        Err(MaskError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    };
    let said = |text: &str| {
        let mut message = Message { content: text.to_owned(), ..messages[turn].clone() };
        message.other_content = None;
        for key in ["reasoning_content", "thinking", "reasoning"] {
            message.more.shift_remove(key);
        }
        message
    };
    let marked = || {
        let mut marked = messages.to_vec();
        marked[turn] = said(MARK);
        Ok(part(&marked, GenerationPrompt::Omit)?
            .and_then(|text| text.split_once(MARK).map(|(a, b)| (a.to_owned(), b.to_owned()))))
    };

    let (mut start, mut asked_length) = (None, None);
    if turn > 0 {
        let before = part(&messages[..turn], GenerationPrompt::Omit)?;
        let asked = part(&messages[..turn], GenerationPrompt::Add)?;
        if let Some(asked) = asked {
            let common = common(&asked, whole);
            asked_length = Some(asked.len());
            // Within the header at the latest: else it is the conversation that differs.
            let header = before.filter(|before| asked.starts_with(before.as_str()));
            if common == asked.len() || header.is_some_and(|before| before.len() < common) {
                start = Some(common);
            }
        }
    }
    // Where the header has more than the whole, the two may have a letter too many in common.
    if (start.is_none() || start != asked_length)
        && let Some((before, _)) = marked()?
        && whole.starts_with(&before)
        && start.is_none_or(|start| before.len() < start)
    {
        start = Some(before.len());
    }
    let Some(start) = start else { return Ok(None) };

    if turn + 1 == messages.len() {
        return Ok(Some(start..whole.len()));
    }
    if let Some(with) = part(&messages[..=turn], GenerationPrompt::Omit)? {
        // Some templates end every output with the end of sequence.
        let without = eos.and_then(|eos| with.strip_suffix(eos));
        for with in [Some(with.as_str()), without].into_iter().flatten() {
            if whole.starts_with(with) {
                return Ok(Some(start..with.len()));
            }
        }
    }
    // What ends a turn, and what follows it in the whole.
    let mut alone = messages[..=turn].to_vec();
    alone[turn] = said(MARK);
    let ending = part(&alone, GenerationPrompt::Omit)?
        .and_then(|text| text.split_once(MARK).map(|(_, ending)| ending.to_owned()));
    let (Some(ending), Some((_, behind))) = (ending, marked()?) else { return Ok(None) };
    if behind.starts_with(&ending) && whole.ends_with(&behind) {
        return Ok(Some(start..whole.len() - behind.len() + ending.len()));
    }
    Ok(None)
}

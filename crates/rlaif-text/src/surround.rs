//! The special tokens that a tokenizer puts around every text.

use tokenizers::Tokenizer;

use crate::guard::guarded;

/// Tokens before and after every text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Surround {
    before: Vec<u32>,
    behind: Vec<u32>,
}

/// Counts of tokens at the ends of a text that are added anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repeated {
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

impl Surround {
    /// Looks at how a tokenizer surrounds a text.
    pub(crate) fn of(tokenizer: &Tokenizer) -> tokenizers::Result<Self> {
        let bare = guarded(|| tokenizer.encode_fast("a", false))?;
        let inner = bare.get_ids().to_vec();
        let whole = guarded(|| tokenizer.post_process(bare, None, true))?;
        let ids = whole.get_ids();
        let at = ids.windows(inner.len().max(1)).position(|part| part == inner);
        Ok(match at {
            Some(at) if !inner.is_empty() => {
                Self { before: ids[..at].to_vec(), behind: ids[at + inner.len()..].to_vec() }
            }
            _ => Self::default(),
        })
    }

    /// Repetitions of the ids in front (or of their longest end) at the beginning of the text, and of
    /// the ids behind (or of their longest beginning) at the end of the rest.
    pub(crate) fn repeated(&self, ids: &[u32]) -> Repeated {
        let mut begin = 0;
        while let Some(n) = (1..=self.before.len().min(ids.len() - begin))
            .rev()
            .find(|&n| self.before[self.before.len() - n..] == ids[begin..begin + n])
        {
            begin += n;
        }
        let rest = &ids[begin..];
        let mut end = 0;
        while let Some(n) = (1..=self.behind.len().min(rest.len() - end))
            .rev()
            .find(|&n| self.behind[..n] == rest[rest.len() - end - n..rest.len() - end])
        {
            end += n;
        }
        Repeated { begin, end }
    }

    /// Written form of the tokens of one side.
    pub(crate) fn written(&self, tokenizer: &Tokenizer, before: bool) -> String {
        let ids = if before { &self.before } else { &self.behind };
        ids.iter().filter_map(|id| tokenizer.id_to_token(*id)).collect()
    }
}

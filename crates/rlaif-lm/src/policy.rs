//! The contract between language models and algorithms.

use tch::Tensor;

use crate::{
    batch::TokenBatch,
    branches::whole_rounds,
    cache::{DecodeState, Room},
    error::LmError,
    forward::Forward,
    head::VocabHead,
    params::Parameters,
    spec::LmSpec,
};

/// π(y | x), with any architecture behind it.
///
/// Row t of every result *predicts* response token t, starting with the first: the shift by one is
/// the business of the two adaptors, [`crate::CausalPolicy`] and [`crate::Seq2SeqPolicy`], and of
/// nobody else.
pub trait Policy: Send {
    /// Sizes, limits and special tokens.
    fn spec(&self) -> &LmSpec;

    /// Hidden states `[B, T, H]` from which response token t is predicted; T is the width of
    /// `responses`. Rows beyond a response's end hold unspecified finite numbers. Responses may start over
    /// ([`TokenBatch::segments`]): their later parts are sequences without the prompt.
    ///
    /// # Errors
    /// [`LmError::BatchMismatch`] if the two batches differ in rows, [`LmError::TooLong`] if
    /// prompt and response, or a later part of it, do not fit the context, [`LmError::Forks`] from a model whose
    /// responses cannot start over, [`LmError::UnknownAdapter`].
    fn response_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError>;

    /// Hidden states `[R, T, H]` from which the tokens of several responses to each prompt are
    /// predicted: response r answers prompt `r % prompts.len()`. As [`Policy::response_hidden`] of
    /// each of them, to rounding, with every prompt computed once.
    ///
    /// # Errors
    /// As [`Policy::response_hidden`]; [`LmError::BatchMismatch`] if the responses are not a
    /// multiple of the prompts.
    fn branch_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        whole_rounds(prompts, responses)?;
        let rows: Vec<usize> = (0..responses.len()).map(|row| row % prompts.len()).collect();
        self.response_hidden(&prompts.select(&rows)?, responses, forward)
    }

    /// The map from hidden states to logits.
    ///
    /// # Errors
    /// [`LmError::UnknownAdapter`].
    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError>;

    /// Creates an empty state with this much room. A decoder-only model needs room for
    /// [`Room::total`] tokens per row, an encoder-decoder model for prompt and response separately.
    ///
    /// # Errors
    /// [`LmError::BatchTooLarge`] or [`LmError::Torch`] if there is not enough memory.
    fn open(&self, room: Room) -> Result<DecodeState, LmError>;

    /// Reads prompts, which become rows after those that the state holds, and returns the token
    /// that the next [`Policy::step`] takes for each: the decoder's start token, or the prompt's
    /// last.
    ///
    /// # Errors
    /// [`LmError::BatchMismatch`] or [`LmError::CacheFull`] without room for them,
    /// [`LmError::Torch`], [`LmError::UnknownAdapter`].
    fn enter(
        &self,
        state: &mut DecodeState,
        prompts: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Vec<u32>, LmError>;

    /// Takes one token for each row in use, int64 `[B]`, and returns the logits `[B, V]` of the
    /// next. [`DecodeState::advance`] ends the step; until then it may be repeated.
    ///
    /// # Errors
    /// [`LmError::CacheFull`], [`LmError::Torch`], [`LmError::UnknownAdapter`].
    fn step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError>;

    /// The parameters, adapters included.
    fn parameters(&self) -> &Parameters;
}

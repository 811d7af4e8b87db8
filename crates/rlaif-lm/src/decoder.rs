//! The part of a language model that decodes token by token.

use tch::Tensor;

use crate::{
    batch::TokenBatch,
    cache::{DecodeState, Room},
    error::LmError,
    forward::Forward,
    head::VocabHead,
    params::Parameters,
    spec::LmSpec,
};

/// The common part of decoder-only and encoder-decoder language models. Implement it beside
/// [`CausalLm`](crate::CausalLm) or [`Seq2SeqLm`](crate::Seq2SeqLm).
pub trait DecoderLm: Send {
    /// Sizes, limits and special tokens; of an encoder-decoder model `decoder_start_id` is set.
    fn spec(&self) -> &LmSpec;

    /// An empty state with this much room. A decoder-only model has [`Room::total`] tokens in each
    /// row, an encoder-decoder model [`Room::prompt`] tokens of the encoder and
    /// [`Room::response`] of the decoder.
    ///
    /// # Errors
    /// [`LmError::BatchTooLarge`] or [`LmError::Torch`] if there is not enough memory.
    fn open(&self, room: Room) -> Result<DecodeState, LmError>;

    /// Reads tokens, which become rows after those that the state holds: right-padded tokens of a
    /// decoder-only model, where a row may be empty; prompts of an encoder-decoder model, whose
    /// cross-attention keys and values are kept.
    ///
    /// # Errors
    /// [`LmError::BatchMismatch`] or [`LmError::CacheFull`] without room for them,
    /// [`LmError::Torch`], [`LmError::UnknownAdapter`].
    fn prefill(
        &self,
        state: &mut DecodeState,
        tokens: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<(), LmError>;

    /// Hidden states `[B, H]` after one more token of the decoder per row, int64 `[B]`. The step is
    /// ended by [`DecodeState::advance`].
    ///
    /// # Errors
    /// [`LmError::CacheFull`], [`LmError::Torch`], [`LmError::UnknownAdapter`].
    fn decode_step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError>;

    /// The logits `[B, V]` after one more token of the decoder per row.
    ///
    /// # Errors
    /// As [`DecoderLm::decode_step`].
    fn step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let hidden = self.decode_step(state, tokens, forward)?;
        Ok(self.head(forward)?.row_logits(&hidden))
    }

    /// The map from hidden states to logits.
    ///
    /// # Errors
    /// [`LmError::UnknownAdapter`].
    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError>;

    /// The parameters, adapters included.
    fn parameters(&self) -> &Parameters;
}

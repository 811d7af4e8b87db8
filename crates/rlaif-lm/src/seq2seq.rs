//! Encoder-decoder language models, and their policy.

use tch::{Kind, Tensor};

use crate::{
    batch::{Padding, TokenBatch, int},
    cache::DecodeState,
    causal::same_rows,
    error::LmError,
    forward::Forward,
    head::VocabHead,
    mask::Mask,
    params::Parameters,
    policy::Policy,
    spec::LmSpec,
};

/// What an encoder made of a batch of prompts.
#[derive(Debug)]
pub struct Encoded {
    /// Hidden states `[B, S, H]`.
    pub hidden: Tensor,
    /// Which of them belong to real tokens; `None` if all do.
    pub mask: Option<Mask>,
}

/// An encoder-decoder language model. Implement it to add one; [`Seq2SeqPolicy`] makes it a
/// [`Policy`].
pub trait Seq2SeqLm: Send {
    /// Sizes, limits and special tokens; `decoder_start_id` is set.
    fn spec(&self) -> &LmSpec;

    /// Runs the encoder. Padding on either side changes no real token's row.
    ///
    /// # Errors
    /// [`LmError::Torch`], [`LmError::UnknownAdapter`].
    fn encode(&self, prompts: &TokenBatch, forward: Forward<'_>) -> Result<Encoded, LmError>;

    /// Last hidden states `[B, T, H]` of the decoder for right-padded ids, int64 `[B, T]`, that
    /// begin with the decoder's start token.
    ///
    /// # Errors
    /// [`LmError::Torch`], [`LmError::UnknownAdapter`].
    fn decode(
        &self,
        ids: &Tensor,
        encoded: &Encoded,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError>;

    /// Computes the cross-attention keys once, with room for `new_tokens` decoder tokens.
    ///
    /// # Errors
    /// [`LmError::Torch`] when the memory cannot be had, [`LmError::UnknownAdapter`].
    fn begin_decoding(
        &self,
        encoded: &Encoded,
        new_tokens: usize,
        forward: Forward<'_>,
    ) -> Result<DecodeState, LmError>;

    /// Hidden states `[B, H]` after one more decoder token per row, int64 `[B]`.
    ///
    /// # Errors
    /// [`LmError::Torch`], [`LmError::UnknownAdapter`].
    fn decode_step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError>;

    /// What turns hidden states into logits.
    ///
    /// # Errors
    /// [`LmError::UnknownAdapter`].
    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError>;

    /// The parameters, adapters included.
    fn parameters(&self) -> &Parameters;
}

/// An encoder-decoder model as a policy: the decoder reads the start token and the response but
/// its last token, so that row t predicts response token t.
#[derive(Debug)]
pub struct Seq2SeqPolicy<M>(pub M);

impl<M: Seq2SeqLm> Seq2SeqPolicy<M> {
    fn start(&self) -> u32 {
        let spec = self.0.spec();
        spec.decoder_start_id.unwrap_or(spec.pad_id)
    }
}

impl<M: Seq2SeqLm> Policy for Seq2SeqPolicy<M> {
    fn spec(&self) -> &LmSpec {
        self.0.spec()
    }

    fn response_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        same_rows(prompts, responses)?;
        let spec = self.spec();
        let inputs = responses
            .rows()
            .iter()
            .map(|row| [&[self.start()], &row[..row.len().saturating_sub(1)]].concat())
            .collect();
        let inputs = TokenBatch::pad(inputs, spec.pad_id, Padding::Right, spec.device)?;
        let encoded = self.0.encode(prompts, forward)?;
        let hidden = self.0.decode(inputs.ids(), &encoded, forward)?;
        // Without any response token the start token's row predicts nothing that is asked for.
        Ok(hidden.narrow(1, 0, int(responses.width())))
    }

    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError> {
        self.0.head(forward)
    }

    fn begin(
        &self,
        prompts: &TokenBatch,
        new_tokens: usize,
        forward: Forward<'_>,
    ) -> Result<(DecodeState, Tensor), LmError> {
        let spec = self.spec();
        for row in 0..prompts.len() {
            spec.check_length(row, new_tokens + 1)?;
        }
        let encoded = self.0.encode(prompts, forward)?;
        let mut state = self.0.begin_decoding(&encoded, new_tokens + 1, forward)?;
        let start =
            Tensor::full([int(prompts.len())], i64::from(self.start()), (Kind::Int64, spec.device));
        let logits = self.step(&mut state, &start, forward)?;
        Ok((state, logits))
    }

    fn step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let hidden = self.0.decode_step(state, tokens, forward)?;
        Ok(self.head(forward)?.logits(&hidden))
    }

    fn parameters(&self) -> &Parameters {
        self.0.parameters()
    }
}

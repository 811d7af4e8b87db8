//! Encoder-decoder language models, and their policy.

use tch::Tensor;

use crate::{
    batch::{Padding, TokenBatch, int},
    branches::whole_rounds,
    cache::DecodeState,
    causal::same_rows,
    decoder::DecoderLm,
    error::LmError,
    forward::Forward,
    mask::Mask,
    policy::Policy,
    policy_by,
};

/// An encoder's output for a batch of prompts.
#[derive(Debug)]
pub struct EncoderStates {
    /// Hidden states `[B, S, H]`; unpadded, `[1, N, H]`, with the rows concatenated.
    pub hidden: Tensor,
    /// The tokens that the hidden states belong to.
    pub tokens: EncodedTokens,
}

/// The layout of the hidden states of [`EncoderStates`].
#[derive(Debug)]
pub enum EncodedTokens {
    /// All tokens are real.
    Full,
    /// The mask of the real tokens.
    Padded(Mask),
    /// Without padding: the lengths of the rows, B numbers with sum N.
    Unpadded(Vec<i64>),
}

impl EncoderStates {
    /// All rows, repeated `times` times in turn.
    fn repeated(&self, times: i64) -> Self {
        let whole = [times, 1, 1];
        let (size, tokens) = match &self.tokens {
            EncodedTokens::Full => (whole, EncodedTokens::Full),
            EncodedTokens::Padded(mask) => {
                (whole, EncodedTokens::Padded(Mask::new(mask.tensor().repeat([times, 1]))))
            }
            EncodedTokens::Unpadded(lengths) => {
                let lengths = lengths.repeat(times.unsigned_abs() as usize);
                ([1, times, 1], EncodedTokens::Unpadded(lengths))
            }
        };
        Self { hidden: self.hidden.repeat(size), tokens }
    }
}

/// An encoder-decoder language model. To add one, implement this trait; [`Seq2SeqPolicy`] turns it
/// into a [`Policy`].
pub trait Seq2SeqLm: DecoderLm {
    /// Runs the encoder. Padding on either side does not change the rows of real tokens.
    ///
    /// # Errors
    /// [`LmError::Torch`], [`LmError::UnknownAdapter`].
    fn encode(&self, prompts: &TokenBatch, forward: Forward<'_>) -> Result<EncoderStates, LmError>;

    /// Last hidden states `[B, T, H]` of the decoder for right-padded ids, int64 `[B, T]`, that
    /// begin with the decoder's start token.
    ///
    /// # Errors
    /// [`LmError::Torch`], [`LmError::UnknownAdapter`].
    fn decode(
        &self,
        ids: &Tensor,
        encoded: &EncoderStates,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError>;
}

/// An encoder-decoder model as a policy: the decoder reads the start token and the response without
/// its last token, so that row t predicts response token t.
#[derive(Debug)]
pub struct Seq2SeqPolicy<M>(pub M);

impl<M: Seq2SeqLm> Seq2SeqPolicy<M> {
    fn start(&self) -> u32 {
        let spec = self.0.spec();
        spec.decoder_start_id.unwrap_or(spec.pad_id)
    }

    /// Hidden states `[B, T, H]` that predict the tokens of `responses`.
    fn decode_responses(
        &self,
        encoded: &EncoderStates,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let spec = self.0.spec();
        for (row, lengths) in responses.segments().into_iter().flatten().enumerate() {
            if let [first, _, ..] = **lengths {
                let expected = "a decoder-only model: an encoder reads one prompt".to_owned();
                return Err(LmError::Forks { row, found: vec![first], expected });
            }
        }
        for (row, ids) in responses.rows().iter().enumerate() {
            spec.check_length(row, ids.len())?;
        }
        let inputs = responses
            .rows()
            .iter()
            .map(|row| [&[self.start()], &row[..row.len().saturating_sub(1)]].concat())
            .collect();
        let inputs = TokenBatch::pad(inputs, spec.pad_id, Padding::Right, spec.device)?;
        let hidden = self.0.decode(inputs.ids(), encoded, forward)?;
        // Without response tokens, the prediction of the start token's row is not needed.
        Ok(hidden.narrow(1, 0, int(responses.width())))
    }
}

impl<M: Seq2SeqLm> Policy for Seq2SeqPolicy<M> {
    policy_by! { 0: spec head open step parameters }

    fn response_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        same_rows(prompts, responses)?;
        self.decode_responses(&self.0.encode(prompts, forward)?, responses, forward)
    }

    fn branch_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        whole_rounds(prompts, responses)?;
        let rounds = int(responses.len() / prompts.len());
        let encoded = self.0.encode(prompts, forward)?.repeated(rounds);
        self.decode_responses(&encoded, responses, forward)
    }

    fn enter(
        &self,
        state: &mut DecodeState,
        prompts: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Vec<u32>, LmError> {
        self.0.prefill(state, prompts, forward)?;
        Ok(vec![self.start(); prompts.len()])
    }
}

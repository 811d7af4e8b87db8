//! Facts about a language model that algorithms need: sizes, limits and special tokens.

use tch::{Device, Kind};

use crate::error::LmError;

/// Tokens that a model's generation settings prescribe at a place of every response, as
/// `forced_bos_token_id` and `forced_eos_token_id` of transformers do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForcedIds {
    /// The first token, such as the language that mBART writes in.
    pub first: Option<u32>,
    /// The token at the maximum length.
    pub last: Option<u32>,
}

/// Facts about a language model that algorithms need.
#[derive(Debug, Clone, PartialEq)]
pub struct LmSpec {
    /// `model_type` of config.json: `t5`, `llama`, `qwen2`, ...
    pub model_type: String,
    /// Width H of the hidden states that [`crate::Policy::response_hidden`] returns.
    pub hidden_size: i64,
    /// Rows of the vocabulary head: valid token ids are `0..vocab_size`.
    pub vocab_size: i64,
    /// Maximum sequence length of the position encoding; `None` without a limit (T5).
    pub context: Option<usize>,
    /// The padding token. It is masked everywhere, so its value changes nothing.
    pub pad_id: u32,
    /// Any of these ends a response. Empty if config.json names none.
    pub eos_ids: Vec<u32>,
    /// Beginning of sequence, if the model has one.
    pub bos_id: Option<u32>,
    /// The first token of the decoder of an encoder-decoder model; `None` for decoder-only models.
    pub decoder_start_id: Option<u32>,
    /// Tokens that generation puts into every response.
    pub forced: ForcedIds,
    /// Data type of the weights.
    pub kind: Kind,
    /// The device of the weights.
    pub device: Device,
}

impl LmSpec {
    /// Checks the token ids and the length of the sequence `row` before anything is computed.
    ///
    /// # Errors
    /// [`LmError::EmptyInput`], [`LmError::IdOutOfRange`] or [`LmError::TooLong`].
    pub fn check(&self, row: usize, ids: &[u32]) -> Result<(), LmError> {
        if ids.is_empty() {
            return Err(LmError::EmptyInput { row });
        }
        self.check_ids(row, ids)?;
        self.check_length(row, ids.len())
    }

    /// Checks that every id of one sequence is in the vocabulary.
    ///
    /// # Errors
    /// [`LmError::IdOutOfRange`] names the row, the position and the id.
    pub fn check_ids(&self, row: usize, ids: &[u32]) -> Result<(), LmError> {
        match ids.iter().position(|&id| i64::from(id) >= self.vocab_size) {
            Some(position) => Err(LmError::IdOutOfRange {
                row,
                position,
                id: ids[position],
                vocab_size: self.vocab_size,
            }),
            None => Ok(()),
        }
    }

    /// Returns how much of the context a prompt and its response take, in tokens: their sum. For an
    /// encoder-decoder model it is the longer of the two, which are limited separately.
    pub fn positions(&self, prompt: usize, response: usize) -> usize {
        match self.decoder_start_id {
            None => prompt.saturating_add(response),
            Some(_) => prompt.max(response),
        }
    }

    /// Returns how many of `limit` tokens a prompt of `taken` tokens leaves to its response, or a
    /// response to its prompt. For an encoder-decoder model these are all.
    pub fn remaining(&self, limit: usize, taken: usize) -> usize {
        match self.decoder_start_id {
            None => limit.saturating_sub(taken),
            Some(_) => limit,
        }
    }

    /// Checks that a sequence of `length` tokens fits the context.
    ///
    /// # Errors
    /// [`LmError::TooLong`] names the row, its length and the limit.
    pub fn check_length(&self, row: usize, length: usize) -> Result<(), LmError> {
        match self.context {
            Some(context) if length > context => Err(LmError::TooLong { row, length, context }),
            _ => Ok(()),
        }
    }

    /// `true` if `id` ends a response.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos_ids.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_and_its_response_share_the_context_of_a_decoder_alone() {
        let spec = |decoder_start_id| LmSpec {
            model_type: "bart".to_owned(),
            hidden_size: 8,
            vocab_size: 16,
            context: Some(1024),
            pad_id: 0,
            eos_ids: vec![1],
            bos_id: None,
            decoder_start_id,
            forced: ForcedIds::default(),
            kind: Kind::Float,
            device: Device::Cpu,
        };
        let (decoder, encoder_decoder) = (spec(None), spec(Some(2)));
        assert_eq!((decoder.positions(900, 200), decoder.remaining(1024, 900)), (1100, 124));
        assert_eq!(decoder.remaining(1024, 2000), 0);
        let spec = encoder_decoder;
        assert_eq!((spec.positions(900, 200), spec.remaining(1024, 900)), (900, 1024));
        assert!(decoder.check_length(0, decoder.positions(900, 200)).is_err());
        assert!(spec.check_length(0, spec.positions(900, 200)).is_ok());
    }
}

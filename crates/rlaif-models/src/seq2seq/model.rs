//! Encoder-decoder models with a head over the vocabulary.

use rlaif_lm::{
    DecodeState, DecoderLm, EncoderStates, Forward, LmError, LmSpec, Parameters, Room, Seq2SeqLm,
    Seq2SeqPolicy, TokenBatch, VocabHead,
};
use tch::Tensor;

use super::{
    Seq2SeqTrunk, TrunkLayers,
    decode::{decode, decode_step, encode, open, prefill},
};
use crate::{
    architecture::{Framed, LanguageLayers},
    config::{Config, check_ids},
    error::ModelError,
    frame::{Frame, Parts},
    layers::Linear,
    weights::ModelTensors,
};

/// A head over the vocabulary.
#[derive(Debug)]
pub(crate) struct LmHead {
    /// The layer, which may share the matrix of the embeddings.
    pub(crate) layer: Linear,
    /// The factor of the decoder's hidden states before it.
    pub(crate) scale: f64,
    /// Cap of the logits: l becomes cap · tanh(l / cap).
    pub(crate) cap: Option<f64>,
    /// The parameter that is added to the logits.
    pub(crate) bias: Option<&'static str>,
    /// Fields of config.json, and their values once the head has a matrix of its own.
    pub(crate) untied: Vec<(&'static str, bool)>,
}

/// A model with a head over the vocabulary.
#[derive(Debug)]
struct Seq2SeqModel<T> {
    frame: Frame,
    trunk: T,
    head: LmHead,
}

/// Puts the head on a trunk; the tensors of both have been requested from `source`.
pub(crate) fn language_model<T: Seq2SeqTrunk + 'static>(
    trunk: T,
    head: LmHead,
    spec: LmSpec,
    config: Config,
    source: ModelTensors<'_>,
    harmless: impl Fn(&str) -> bool,
) -> Result<Box<dyn LanguageLayers>, ModelError> {
    let parameters = source.finish(harmless)?;
    check_ids(&spec)?;
    let frame = Frame::new(spec, config, parameters);
    Ok(Box::new(Seq2SeqPolicy(Seq2SeqModel { frame, trunk, head })))
}

impl<T: Seq2SeqTrunk> Framed for Seq2SeqModel<T> {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn parts(&mut self) -> Parts<'_> {
        let TrunkLayers { linears, words, tables } = self.trunk.layers();
        let mut parts =
            self.frame.parts(linears, vec![&mut self.head.layer]).embeddings(words, tables);
        parts.untied.clone_from(&self.head.untied);
        parts
    }
}

impl<T: Seq2SeqTrunk> Seq2SeqLm for Seq2SeqModel<T> {
    fn encode(&self, prompts: &TokenBatch, forward: Forward<'_>) -> Result<EncoderStates, LmError> {
        encode(&self.trunk, prompts, self.frame.adapters.resolve(forward)?)
    }

    fn decode(
        &self,
        ids: &Tensor,
        encoded: &EncoderStates,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        decode(&self.trunk, ids, encoded, self.frame.adapters.resolve(forward)?)
    }
}

impl<T: Seq2SeqTrunk> DecoderLm for Seq2SeqModel<T> {
    fn spec(&self) -> &LmSpec {
        &self.frame.spec
    }

    fn open(&self, room: Room) -> Result<DecodeState, LmError> {
        open(&self.trunk, &self.frame.spec, room)
    }

    fn prefill(
        &self,
        state: &mut DecodeState,
        prompts: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<(), LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        prefill(&self.trunk, &self.frame.spec, state, prompts, pass)
    }

    fn decode_step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        decode_step(&self.trunk, &self.frame.spec, state, tokens, pass)
    }

    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        let head = self.head.layer.vocab_head(self.head.scale, pass);
        let mut head = VocabHead { cap: self.head.cap, ..head };
        let bias = self.head.bias.and_then(|name| self.frame.parameters.get(name));
        head.bias = bias.map(|bias| bias.view([-1])).or(head.bias);
        Ok(head)
    }

    fn parameters(&self) -> &Parameters {
        &self.frame.parameters
    }
}

//! Traits that a model file implements, so that this crate can load, adapt and save the model.

use std::fmt;

use rlaif_checkpoint::TaskType;
use rlaif_lm::{
    CausalLm, CausalPolicy, LmError, LmSpec, Parameters, Policy, Seq2SeqLm, Seq2SeqPolicy,
    TokenBatch,
};
use tch::Tensor;

use crate::{
    adapter::Pass,
    frame::{Frame, Parts},
};

/// The common state of a language model, and the linear layers that adapters can be put on.
///
/// A model file implements this in addition to [`CausalLm`] or [`Seq2SeqLm`]; then [`CausalPolicy`]
/// or [`Seq2SeqPolicy`] around the model is [`LanguageLayers`].
pub trait Framed {
    /// Description, parameters and adapters.
    fn frame(&self) -> &Frame;

    /// The linear layers of trunk and head, see [`Frame::parts`].
    fn parts(&mut self) -> Parts<'_>;
}

/// A language model as the contract that it implements.
#[derive(Clone, Copy)]
pub enum Architecture<'a> {
    /// A decoder that continues its input.
    DecoderOnly(&'a dyn CausalLm),
    /// An encoder for the prompt, a decoder for the response.
    EncoderDecoder(&'a dyn Seq2SeqLm),
}

impl Architecture<'_> {
    /// The task's name in peft.
    pub fn task(self) -> TaskType {
        match self {
            Self::DecoderOnly(_) => TaskType::CausalLm,
            Self::EncoderDecoder(_) => TaskType::Seq2SeqLm,
        }
    }
}

impl fmt::Debug for Architecture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DecoderOnly(_) => "DecoderOnly",
            Self::EncoderDecoder(_) => "EncoderDecoder",
        })
    }
}

/// The layers of a [`crate::LanguageModel`].
pub trait LanguageLayers: Framed + fmt::Debug + Send {
    /// The model as a policy.
    fn policy(&self) -> &dyn Policy;

    /// The model as the contract that it implements.
    fn architecture(&self) -> Architecture<'_>;
}

impl<M: Framed> Framed for CausalPolicy<M> {
    fn frame(&self) -> &Frame {
        self.0.frame()
    }

    fn parts(&mut self) -> Parts<'_> {
        self.0.parts()
    }
}

impl<M: Framed> Framed for Seq2SeqPolicy<M> {
    fn frame(&self) -> &Frame {
        self.0.frame()
    }

    fn parts(&mut self) -> Parts<'_> {
        self.0.parts()
    }
}

impl<M: CausalLm + Framed + fmt::Debug> LanguageLayers for CausalPolicy<M> {
    fn policy(&self) -> &dyn Policy {
        self
    }

    fn architecture(&self) -> Architecture<'_> {
        Architecture::DecoderOnly(&self.0)
    }
}

impl<M: Seq2SeqLm + Framed + fmt::Debug> LanguageLayers for Seq2SeqPolicy<M> {
    fn policy(&self) -> &dyn Policy {
        self
    }

    fn architecture(&self) -> Architecture<'_> {
        Architecture::EncoderDecoder(&self.0)
    }
}

/// The layers of a [`crate::Classifier`].
pub trait ClassifierLayers: fmt::Debug + Send {
    /// Last hidden states `[B, T, H]`. In a batch of pairs, `second_start` has the index of each
    /// row's first token of the second text.
    ///
    /// # Errors
    /// [`LmError::BatchMismatch`] if `second_start` has another number of rows, [`LmError::Torch`].
    fn hidden(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError>;

    /// Index of the token whose hidden state is classified.
    fn read_token(&self, row: &[u32]) -> usize;

    /// The input `[B, H]` of the head, from hidden states `[B, T, H]`, where it is not the state of one token.
    fn pooled(&self, _hidden: &Tensor, _input: &TokenBatch) -> Option<Tensor> {
        None
    }

    /// Logits `[B, labels]` of hidden states `[B, H]`.
    fn score(&self, hidden: Tensor, pass: Pass) -> Tensor;

    /// The parts that adapters change, see [`Frame::parts`].
    fn parts<'a>(&'a mut self, frame: &'a mut Frame) -> Parts<'a>;
}

/// A classifier as built by its family: its layers, description and parameters.
pub type BuiltClassifier = (Box<dyn ClassifierLayers>, LmSpec, Parameters);

//! What a model file implements, so that the rest of this crate can load, adapt and save it.

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
    layers::Linear,
};

/// The frame of a language model, and the linear layers that adapters go on.
///
/// A model file implements this beside [`CausalLm`] or [`Seq2SeqLm`]; [`CausalPolicy`] or
/// [`Seq2SeqPolicy`] around it then are [`LanguageLayers`].
pub trait Framed {
    /// Description, parameters and adapters.
    fn frame(&self) -> &Frame;

    /// The linear layers of trunk and head, see [`Frame::parts`].
    fn parts(&mut self) -> Parts<'_>;
}

/// A language model by the contract that it implements.
#[derive(Clone, Copy)]
pub enum Architecture<'a> {
    /// One stack that continues its input.
    DecoderOnly(&'a dyn CausalLm),
    /// An encoder for the prompt, a decoder for the response.
    EncoderDecoder(&'a dyn Seq2SeqLm),
}

impl Architecture<'_> {
    /// The name that peft has for it.
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
    /// The model as algorithms see it.
    fn policy(&self) -> &dyn Policy;

    /// The model by its contract.
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
    /// Last hidden states `[B, T, H]`. In a batch of pairs, `second_start` has the token of each row
    /// that begins the second text.
    ///
    /// # Errors
    /// [`LmError::BatchMismatch`] if `second_start` has another number of rows, [`LmError::Torch`].
    fn hidden(
        &self,
        input: &TokenBatch,
        second_start: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError>;

    /// The token of a row whose hidden state is classified.
    fn read_token(&self, row: &[u32]) -> usize;

    /// Logits `[B, labels]` of hidden states `[B, H]`.
    fn score(&self, hidden: Tensor, pass: Pass) -> Tensor;

    /// The linear layers of the trunk, and of the head.
    fn linears(&mut self) -> (Vec<&mut Linear>, Vec<&mut Linear>);
}

/// A classifier as a family builds it: its layers, description and parameters.
pub type BuiltClassifier = (Box<dyn ClassifierLayers>, LmSpec, Parameters);

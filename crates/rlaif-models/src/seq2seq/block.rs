//! Blocks of encoder-decoder families: their attentions, and a pass over a stack of them.

use rlaif_lm::{Activations, LmError};
use tch::Tensor;

use super::{Attention, AttentionBias, Cover};
use crate::{
    adapter::Pass,
    layers::Linear,
    recompute::{Shallow, recompute},
};

/// The side of the model that a stack of blocks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Attention to all tokens of the prompt.
    Encoder,
    /// Attention to earlier tokens, and to the states of the encoder.
    Decoder,
}

/// The attentions of a block, each with its norm.
#[derive(Debug)]
pub(crate) struct Attentions<N> {
    /// Self-attention.
    pub(crate) own: (Attention, N),
    /// Cross-attention, in the decoder.
    pub(crate) cross: Option<(Attention, N)>,
}

impl<N> Attentions<N> {
    /// Self-attention; in a decoder cross-attention as well.
    pub(crate) fn load(
        role: Role,
        own: impl FnOnce() -> (Attention, N),
        cross: impl FnOnce() -> (Attention, N),
    ) -> Self {
        let own = own();
        match role {
            Role::Encoder => Self { own, cross: None },
            Role::Decoder => Self { own, cross: Some(cross()) },
        }
    }

    /// The linear layers.
    pub(crate) fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        let Self { own: (own, _), cross } = self;
        own.linears().into_iter().chain(cross.iter_mut().flat_map(|(cross, _)| cross.linears()))
    }
}

impl<N: Shallow> Shallow for Attentions<N> {
    fn handle(&self) -> Self {
        Self { own: self.own.handle(), cross: self.cross.handle() }
    }
}

/// The tensors that a block reads besides its input.
pub(crate) struct Context<'a> {
    /// Self-attention.
    pub(crate) scores: AttentionBias<'a>,
    /// Cross-attention: hidden states of the encoder, and the exclusion of its padding.
    pub(crate) encoded: Option<(&'a Tensor, &'a Cover)>,
}

/// One layer of an encoder or a decoder.
pub(crate) trait Seq2SeqBlock: Shallow + Send + 'static {
    /// The output for `x` `[B, T, d_model]`.
    fn forward(&self, x: &Tensor, context: &Context<'_>, pass: Pass) -> Tensor;
}

/// The output of the last block.
pub(crate) fn run_blocks<B: Seq2SeqBlock>(
    blocks: &[B],
    mut x: Tensor,
    context: &Context<'_>,
    pass: Pass,
) -> Result<Tensor, LmError> {
    for block in blocks {
        x = match pass.activations {
            Activations::Keep => block.forward(&x, context, pass),
            Activations::Recompute => recomputed(block, &x, context, pass)?,
        };
    }
    Ok(x)
}

/// As [`Seq2SeqBlock::forward`], recomputed in the backward pass.
fn recomputed(
    block: &impl Seq2SeqBlock,
    x: &Tensor,
    context: &Context<'_>,
    pass: Pass,
) -> Result<Tensor, LmError> {
    let AttentionBias { bias, cover, keys } = context.scores;
    let cover = cover.handle();
    let (encoded, shield) = context
        .encoded
        .map_or((None, Cover::Full), |(encoded, cover)| (Some(encoded), cover.handle()));
    // Gradients flow to both, so they are inputs of the segment.
    let optional = [bias, encoded];
    let there = optional.map(|tensor| tensor.is_some());
    let inputs: Vec<&Tensor> = std::iter::once(x).chain(optional.into_iter().flatten()).collect();
    recompute(block, &inputs, move |block, inputs| {
        let mut rest = inputs[1..].iter();
        let [bias, encoded] = there.map(|there| if there { rest.next() } else { None });
        let context = Context {
            scores: AttentionBias { bias, cover: &cover, keys },
            encoded: encoded.map(|encoded| (encoded, &shield)),
        };
        block.forward(&inputs[0], &context, pass)
    })
}

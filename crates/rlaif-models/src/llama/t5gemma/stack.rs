//! The encoder or the decoder: layers, and passes over whole texts.

use rlaif_lm::{Activations, LmError};
use rlaif_torch::Keys;
use tch::{Kind, Tensor};

use super::config::{Side, VARIANT};
use crate::{
    adapter::Pass,
    error::ModelError,
    layers::{Linear, Norm, Visible, dropout, hide, in_heads},
    llama::{
        attention::Context,
        block::{Block, before},
        config::Plan,
        heads::{Heads, seen},
    },
    recompute::{Shallow, recompute},
    rope::{Angles, Rope},
    seq2seq::Role,
    weights::TensorTree,
};

/// Attention of the decoder to the states of the encoder, with its norms.
#[derive(Debug)]
pub(super) struct Cross {
    pub(super) norm: Norm,
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) o: Linear,
    pub(super) post_norm: Norm,
    pub(super) heads: Heads,
}

impl Cross {
    /// The attention of a layer to states of this width.
    fn load(weights: &TensorTree<'_>, plan: Plan<'_>, layer: usize, width: i64) -> Self {
        let Plan { raw, shape, names } = plan;
        let heads = Heads::of(shape, layer);
        let [queries, keys] = [heads.queries, heads.keys].map(|heads| heads * shape.head_dim);
        let attention = weights.at("cross_attn");
        let [q, k, v, o] = names.projections.map(|key| attention.at(key));
        let linear = |place: &TensorTree<'_>, inputs, outputs, bias| {
            Linear::load(place, inputs, outputs, bias, raw.initializer_range)
        };
        let norm = |key| plan.norm(&weights.at(key), shape.hidden);
        Self {
            norm: norm("pre_cross_attn_layernorm"),
            q: linear(&q, shape.hidden, queries, shape.qkv_bias),
            k: linear(&k, width, keys, shape.qkv_bias),
            v: linear(&v, width, keys, shape.qkv_bias),
            o: linear(&o, queries, shape.hidden, shape.output_bias),
            post_norm: norm("post_cross_attn_layernorm"),
            heads,
        }
    }

    /// Queries of `x` `[.., H]`, `[.., heads, D]`.
    pub(super) fn queries(&self, x: &Tensor, pass: Pass) -> Tensor {
        in_heads(&self.q.forward(x, pass), self.heads.queries, self.heads.head_dim)
    }

    fn forward(
        &self,
        x: &Tensor,
        (states, visible): (&Tensor, &Visible<'_>),
        pass: Pass,
    ) -> Tensor {
        let [k, v] = Linear::project([&self.k, &self.v], states, pass)
            .map(|x| in_heads(&x, self.heads.keys, self.heads.head_dim));
        self.heads.mix([&self.queries(x, pass), &k, &v], visible, pass)
    }
}

impl Shallow for Cross {
    fn handle(&self) -> Self {
        Self {
            norm: self.norm.handle(),
            q: self.q.handle(),
            k: self.k.handle(),
            v: self.v.handle(),
            o: self.o.handle(),
            post_norm: self.post_norm.handle(),
            heads: self.heads,
        }
    }
}

/// One layer: self-attention, in the decoder cross-attention, feed-forward; each between two norms, with a
/// residual connection around them.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) block: Block,
    pub(super) cross: Option<Cross>,
}

impl Layer {
    /// The output for `x` `[B, T, H]`; `encoded` are the encoder's states, and those of them that are seen.
    fn forward(
        &self,
        x: &Tensor,
        own: Context<'_>,
        encoded: Option<(&Tensor, &Visible<'_>)>,
        pass: Pass,
    ) -> Tensor {
        let (normed, x) = before(self.block.attention_norm.as_ref(), x);
        let (mixed, _) = self.block.attention.forward(&normed, own, pass);
        let mut x = self.block.attended(&x, &mixed, pass);
        if let (Some(cross), Some(encoded)) = (&self.cross, encoded) {
            let (normed, beside) = cross.norm.before(&x);
            x = self.crossed(cross, &beside, &cross.forward(&normed, encoded, pass), pass);
        }
        self.fed(&x, pass)
    }

    /// The output of cross-attention, added to `x`.
    pub(super) fn crossed(&self, cross: &Cross, x: &Tensor, mixed: &Tensor, pass: Pass) -> Tensor {
        self.block.sum(x, &cross.o.forward(mixed, pass), Some(&cross.post_norm), pass)
    }

    /// The output of the feed-forward layer for `x`, added to it.
    pub(super) fn fed(&self, x: &Tensor, pass: Pass) -> Tensor {
        let (normed, x) = before(self.block.feed_forward_norm.as_ref(), x);
        self.block.fed(&x, &normed, pass).0
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let mut all = self.block.linears();
        if let Some(Cross { q, k, v, o, .. }) = &mut self.cross {
            all.extend([q, k, v, o]);
        }
        all
    }
}

impl Shallow for Layer {
    fn handle(&self) -> Self {
        Self { block: self.block.handle(), cross: self.cross.handle() }
    }
}

/// The tokens that a stack reads besides its own.
pub(super) struct Reads<'a> {
    /// The stack's own tokens that each of them attends to.
    pub(super) keys: Keys,
    /// The bias `[B, 1, 1, T]` that hides padding among them.
    pub(super) padding: Option<&'a Tensor>,
    /// The states of the encoder, and the bias that hides their padding.
    pub(super) encoded: Option<(&'a Tensor, Option<&'a Tensor>)>,
}

/// The encoder or the decoder.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) layers: Vec<Layer>,
    /// The window of each layer that has one.
    pub(super) windows: Vec<Option<i64>>,
    norm: Norm,
    ropes: Vec<Rope>,
    embedding_scale: f64,
    dropout: f64,
}

impl Stack {
    /// The stack at this path, whose embeddings have this dtype; a decoder reads states of width `encoded`.
    pub(super) fn load(
        weights: &TensorTree<'_>,
        Side { raw, shape }: &Side,
        role: Role,
        encoded: i64,
        kind: Kind,
        dropout: f64,
    ) -> Result<Self, ModelError> {
        let names = &VARIANT.names;
        let plan = Plan { raw, shape, names };
        let layers = weights.at(names.layers);
        let layer = |i: usize| {
            let place = layers.at(i);
            Ok(Layer {
                block: Block::load(&place, plan, i)?,
                cross: match role {
                    Role::Encoder => None,
                    Role::Decoder => Some(Cross::load(&place, plan, i, encoded)),
                },
            })
        };
        let device = weights.source().device();
        Ok(Self {
            layers: (0..shape.layers).map(layer).collect::<Result<_, ModelError>>()?,
            windows: shape.windows.clone(),
            norm: plan.norm(&weights.at(names.norm), shape.hidden),
            ropes: shape.ropes.iter().map(|spec| Rope::new(spec, device)).collect(),
            embedding_scale: shape.embedding_scale_in(kind),
            dropout,
        })
    }

    /// The input of the first layer.
    pub(super) fn begin(&self, embedded: Tensor, pass: Pass) -> Tensor {
        dropout(embedded * self.embedding_scale, self.dropout, pass.dropout)
    }

    /// The angles of each rotary embedding.
    pub(super) fn angles(&self, positions: &Tensor, kind: Kind) -> Vec<Angles> {
        // No angle depends on the length of its sequence.
        self.ropes.iter().map(|rope| rope.angles(positions, positions, kind)).collect()
    }

    /// The last hidden states.
    pub(super) fn end(&self, x: &Tensor, pass: Pass) -> Tensor {
        dropout(self.norm.forward(x), self.dropout, pass.dropout)
    }

    /// The last hidden states for embedded tokens `[B, T, H]`.
    pub(super) fn forward(
        &self,
        embedded: Tensor,
        reads: &Reads<'_>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let (width, kind, device) = (embedded.size()[1], embedded.kind(), embedded.device());
        let angles = self.angles(&Tensor::arange(width, (Kind::Int64, device)), kind);
        let mut x = self.begin(embedded, pass);
        let mut biases: Vec<(Option<i64>, Option<Tensor>)> = Vec::new();
        for (layer, window) in self.layers.iter().zip(&self.windows) {
            let window = window.filter(|window| *window < width);
            let bias = match biases.iter().position(|(of, _)| *of == window) {
                Some(place) => biases[place].1.handle(),
                None => {
                    let bias = own_bias(&x, reads, window);
                    biases.push((window, bias.handle()));
                    bias
                }
            };
            x = run(layer, &x, layer.block.angles(&angles), bias, reads, pass)?;
        }
        Ok(self.end(&x, pass))
    }

    pub(super) fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.layers.iter_mut().flat_map(Layer::linears)
    }
}

/// The bias of self-attention in layers with this window; `None` if a pass needs none.
fn own_bias(x: &Tensor, reads: &Reads<'_>, window: Option<i64>) -> Option<Tensor> {
    let width = x.size()[1];
    match (window, reads.padding, reads.keys) {
        (None, None, _) => None,
        (None, Some(padding), Keys::All) => Some(padding.shallow_clone()),
        (window, padding, keys) => {
            let bias = hide(&seen(width, width, keys, window, x), x.kind());
            Some(padding.map_or(bias.shallow_clone(), |padding| bias + padding))
        }
    }
}

/// The output of a layer, recomputed in the backward pass if the pass says so.
fn run(
    layer: &Layer,
    x: &Tensor,
    angles: Option<&Angles>,
    bias: Option<Tensor>,
    reads: &Reads<'_>,
    pass: Pass,
) -> Result<Tensor, LmError> {
    let (keys, states) = (reads.keys, reads.encoded.map(|(states, _)| states));
    let hidden = reads.encoded.and_then(|(_, hidden)| hidden).map(Tensor::handle);
    let angles = angles.map(Shallow::handle);
    let forward = move |layer: &Layer, inputs: &[Tensor]| {
        let visible = match (&bias, keys) {
            (Some(bias), _) => Visible::Bias(bias),
            (None, Keys::All) => Visible::All,
            (None, Keys::Causal) => Visible::Causal,
        };
        let across = hidden.as_ref().map_or(Visible::All, Visible::Bias);
        let encoded = inputs.get(1).map(|states| (states, &across));
        let own = Context { angles: angles.as_ref(), visible: &visible };
        layer.forward(&inputs[0], own, encoded, pass)
    };
    // Gradients flow to the states of the encoder as well, so they are an input.
    let inputs: Vec<&Tensor> = std::iter::once(x).chain(states).collect();
    match pass.activations {
        Activations::Keep => {
            let inputs: Vec<Tensor> = inputs.into_iter().map(Tensor::shallow_clone).collect();
            Ok(forward(layer, &inputs))
        }
        Activations::Recompute => recompute(layer, &inputs, forward),
    }
}

//! Self-attention of the Llama family.

use rlaif_lm::{Branches, KvCache};
use tch::{Kind, Tensor};

use super::{
    config::Plan,
    norm,
    variant::{Projections, QueryKeyNorm},
};
use crate::{
    adapter::Pass,
    layers::{Linear, Norm, Visible, attend, attention, dropout, hide, in_heads},
    recompute::Shallow,
    rope::{Angles, turn},
    weights::TensorTree,
};

/// Self-attention with grouped key-value heads.
#[derive(Debug)]
pub(super) struct Attention {
    pub(super) inputs: Inputs,
    pub(super) o: Linear,
    /// The norms of queries and of keys.
    norms: Option<(Norm, Norm)>,
    norm_places: QueryKeyNorm,
    pub(super) heads: i64,
    pub(super) kv_heads: i64,
    pub(super) head_dim: i64,
    pub(super) scores: Scores,
    dropout: f64,
}

/// The tensors that attention reads besides its input.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) angles: Option<&'a Angles>,
    pub(super) visible: &'a Visible<'a>,
}

/// Scaling of attention scores before the softmax.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores {
    /// The factor of the scores.
    pub(super) scale: f64,
    /// The cap: scores s become cap · tanh(s / cap).
    pub(super) cap: Option<f64>,
}

/// The layers for queries, keys and values.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one value for each layer, and most have the larger")]
pub(super) enum Inputs {
    Apart([Linear; 3]),
    /// One layer.
    Fused {
        layer: Linear,
        order: FusedOrder,
    },
}

/// The order of the outputs of one layer for queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FusedOrder {
    /// All queries, then all keys, then all values.
    ByPart,
    /// Grouped by head: query, key and value.
    ByHead,
}

impl Attention {
    pub(super) fn load(
        weights: &TensorTree<'_>,
        Plan { raw, shape, names }: Plan<'_>,
        layer: usize,
    ) -> Self {
        let std = raw.initializer_range;
        let [q, k, v, o] = names.projections;
        let (queries, keys) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let layers = |key, size, bias| {
            Linear::load_stored(&weights.at(key), size, bias, std, shape.matrices)
        };
        let inward = |key, width| layers(key, [shape.hidden, width], shape.qkv_bias);
        let inputs = match shape.projections {
            Projections::Apart => {
                Inputs::Apart([inward(q, queries), inward(k, keys), inward(v, keys)])
            }
            Projections::Fused => {
                Inputs::Fused { layer: inward(q, queries + 2 * keys), order: FusedOrder::ByPart }
            }
            Projections::FusedByHead => {
                Inputs::Fused { layer: inward(q, queries + 2 * keys), order: FusedOrder::ByHead }
            }
        };
        let norms = |queries, keys| {
            let norm = |key, size| norm(&weights.at(key), size, raw.norm_eps, shape.norm);
            (norm("q_norm", queries), norm("k_norm", keys))
        };
        Self {
            inputs,
            o: layers(o, [queries, shape.hidden], shape.output_bias),
            norms: match shape.query_key_norm {
                QueryKeyNorm::Absent => None,
                QueryKeyNorm::Heads => Some(norms(shape.head_dim, shape.head_dim)),
                QueryKeyNorm::Width => Some(norms(queries, keys)),
            },
            norm_places: shape.query_key_norm,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            scores: Scores { scale: shape.attention_scales[layer], cap: shape.attention_cap },
            dropout: shape.attention_dropout,
        }
    }

    /// Queries, keys and values `[.., heads, D]`, normed and rotated.
    pub(super) fn heads_of(&self, made: Made, angles: Option<&Angles>) -> [Tensor; 3] {
        let d = self.head_dim;
        let [mut q, mut k, v] = match made {
            Made::Apart([mut q, mut k, v]) => {
                if let (Some((q_norm, k_norm)), QueryKeyNorm::Width) =
                    (&self.norms, self.norm_places)
                {
                    (q, k) = (q_norm.forward(&q), k_norm.forward(&k));
                }
                [
                    in_heads(&q, self.heads, d),
                    in_heads(&k, self.kv_heads, d),
                    in_heads(&v, self.kv_heads, d),
                ]
            }
            Made::Fused { all, order: FusedOrder::ByHead } => {
                let all = in_heads(&all, self.heads, 3 * d);
                [0, 1, 2].map(|part| all.narrow(-1, part * d, d))
            }
            Made::Fused { all, order: FusedOrder::ByPart } => {
                let (queries, keys) = (self.heads * d, self.kv_heads * d);
                let part = |start, heads| in_heads(&all.narrow(-1, start, heads * d), heads, d);
                [
                    part(0, self.heads),
                    part(queries, self.kv_heads),
                    part(queries + keys, self.kv_heads),
                ]
            }
        };
        if let (Some((q_norm, k_norm)), QueryKeyNorm::Heads) = (&self.norms, self.norm_places) {
            (q, k) = (q_norm.forward(&q), k_norm.forward(&k));
        }
        match angles {
            Some(angles) => [turn(&q, angles), turn(&k, angles), v],
            None => [q, k, v],
        }
    }

    /// Rotated queries, rotated keys and values, each `[B, T, heads, D]`.
    fn project(&self, x: &Tensor, angles: Option<&Angles>, pass: Pass) -> [Tensor; 3] {
        let made = match &self.inputs {
            Inputs::Apart([q, k, v]) => Made::Apart(Linear::project([q, k, v], x, pass)),
            Inputs::Fused { layer, order } => {
                Made::Fused { all: layer.forward(x, pass), order: *order }
            }
        };
        self.heads_of(made, angles)
    }

    pub(super) fn forward(
        &self,
        x: &Tensor,
        context: Context<'_>,
        pass: Pass,
    ) -> (Tensor, [Tensor; 2]) {
        let [q, k, v] = self.project(x, context.angles, pass);
        (self.mix([&q, &k, &v], context.visible, pass), [k, v])
    }

    /// Attention `[B, T, heads · D]` of queries, keys and values.
    fn mix(&self, [q, k, v]: [&Tensor; 3], visible: &Visible<'_>, pass: Pass) -> Tensor {
        let p = pass.dropout_p(self.dropout);
        let Some(cap) = self.scores.cap else {
            return attention(q, k, v, visible, self.scores.scale, p);
        };
        let across = |x: &Tensor| x.transpose(1, 2);
        let length = q.size()[1];
        let causal = match visible {
            Visible::Causal => Some(causal(length, q)),
            Visible::All | Visible::Bias(_) => None,
        };
        let bias = causal.as_ref().or(visible.bias());
        let (k, v) = (self.repeated(&across(k)), self.repeated(&across(v)));
        let weights = self.weights(&across(q), &k, cap, bias);
        let weights = dropout(weights, p, pass.dropout);
        across(&weights.matmul(&v)).flatten(2, 3)
    }

    /// Keys or values `[B, kv, S, D]`, repeated to one head per query head.
    fn repeated(&self, x: &Tensor) -> Tensor {
        match self.heads / self.kv_heads {
            1 => x.shallow_clone(),
            group => x.repeat_interleave_self_int(group, 1, self.heads),
        }
    }

    /// `softmax(cap · tanh(q kᵀ · scale / cap) + bias)`, softmax in f32.
    fn weights(&self, q: &Tensor, k: &Tensor, cap: f64, bias: Option<&Tensor>) -> Tensor {
        let scores = q.matmul(&k.transpose(-2, -1)) * (self.scores.scale / cap);
        let scores = scores.tanh() * cap;
        let scores = match bias {
            Some(bias) => scores + bias,
            None => scores,
        };
        scores.softmax(-1, Kind::Float).to_kind(q.kind())
    }

    /// Causal attention of a single row of tokens, `[1, heads, T, D]`: queries `[1, heads, T, D]`,
    /// keys and values `[1, kv, S, D]`; S - T keys precede the first query.
    pub(super) fn mix_row(&self, [q, k, v]: [&Tensor; 3], window: Option<i64>) -> Tensor {
        let (length, keys) = (q.size()[2], k.size()[2]);
        let window = window.filter(|&window| window < keys);
        let bias = (length > 1 || window.is_some()).then(|| {
            let columns = Tensor::arange(keys, (Kind::Int64, q.device()));
            let distance = columns.narrow(0, keys - length, length).unsqueeze(1) - &columns;
            let seen = distance.ge(0);
            let seen = window.map(|w| seen.logical_and(&distance.lt(w))).unwrap_or(seen);
            hide(&seen, q.kind()).view([1, 1, length, keys])
        });
        match self.scores.cap {
            Some(cap) => {
                let (k, v) = (self.repeated(k), self.repeated(v));
                self.weights(q, &k, cap, bias.as_ref()).matmul(&v)
            }
            None => {
                let bias = bias.filter(|_| window.is_some());
                let grouped = self.heads != self.kv_heads;
                Tensor::scaled_dot_product_attention(
                    q,
                    k,
                    v,
                    bias.as_ref(),
                    0.,
                    bias.is_none(),
                    self.scores.scale,
                    grouped,
                )
            }
        }
    }

    /// Attention of one query per row to a cache. The queries of a group attend to the same keys,
    /// so they are the rows of one attention, and keys are not repeated.
    pub(super) fn step(
        &self,
        x: &Tensor,
        angles: Option<&Angles>,
        cache: &mut KvCache,
        layer: usize,
        bias: Option<&Tensor>,
        pass: Pass,
    ) -> Tensor {
        let [q, k, v] = self.project(x, angles, pass);
        let (k, v) = cache.append(layer, &k, &v);
        let b = q.size()[0];
        let q = q.reshape([b, self.kv_heads, self.heads / self.kv_heads, self.head_dim]);
        let mixed = match self.scores.cap {
            Some(cap) => self.weights(&q, &k, cap, bias).matmul(&v),
            None => {
                let visible = bias.map_or(Visible::All, Visible::Bias);
                let p = pass.dropout_p(self.dropout);
                attend(&q, &k, &v, &visible, self.scores.scale, p)
            }
        };
        // [B, kv, group, D]: the query heads, in order.
        mixed.reshape([b, 1, self.heads * self.head_dim])
    }

    /// Projections of concatenated rows `[N, H]`, and attention within each row.
    pub(super) fn forward_run(
        &self,
        x: &Tensor,
        context: Context<'_>,
        run: &Branches,
        pass: Pass,
    ) -> Tensor {
        // The concatenation is one row of a batch, [1, N, H]; its angles are [N, 1, D].
        let [q, k, v] = self.project(&x.unsqueeze(0), context.angles, pass);
        let rows = |x: &Tensor, heads: i64| {
            let rows = run.to_rows(&x.reshape([-1, heads * self.head_dim]));
            let [r, w] = [rows.size()[0], rows.size()[1]];
            rows.view([r, w, heads, self.head_dim])
        };
        let (k, v) = (rows(&k, self.kv_heads), rows(&v, self.kv_heads));
        run.from_rows(&self.mix([&rows(&q, self.heads), &k, &v], context.visible, pass))
    }

    pub(super) fn linears(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = match &mut self.inputs {
            Inputs::Apart(layers) => layers.iter_mut().collect(),
            Inputs::Fused { layer, .. } => vec![layer],
        };
        all.push(&mut self.o);
        all
    }
}

/// Outputs of the layers for queries, keys and values.
pub(super) enum Made {
    Apart([Tensor; 3]),
    Fused { all: Tensor, order: FusedOrder },
}

/// The causal bias, `[T, T]`.
fn causal(length: i64, like: &Tensor) -> Tensor {
    let columns = Tensor::arange(length, (Kind::Int64, like.device()));
    hide(&(columns.unsqueeze(1) - &columns).ge(0), like.kind())
}

impl Shallow for Inputs {
    fn handle(&self) -> Self {
        match self {
            Self::Apart(layers) => Self::Apart(layers.each_ref().map(Linear::handle)),
            Self::Fused { layer, order } => Self::Fused { layer: layer.handle(), order: *order },
        }
    }
}

impl Shallow for Attention {
    fn handle(&self) -> Self {
        Self {
            inputs: self.inputs.handle(),
            o: self.o.handle(),
            norms: self.norms.handle(),
            ..*self
        }
    }
}

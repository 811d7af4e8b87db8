//! Attention of queries to keys and values, whose heads are shared by groups of queries.

use rlaif_lm::KvCache;
use rlaif_torch::{Keys, RowAttention};
use tch::{Kind, Tensor};

use super::config::Shape;
use crate::{
    adapter::Pass,
    layers::{Visible, attend, attention, dropout, hide},
};

/// Heads of queries, and groups of them for each head of keys and values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) queries: i64,
    pub(super) keys: i64,
    pub(super) head_dim: i64,
    /// Factor of the scores.
    scale: f64,
    /// Cap of the scores: s becomes cap · tanh(s / cap).
    cap: Option<f64>,
    dropout: f64,
}

impl Heads {
    /// The heads of a layer.
    pub(super) fn of(shape: &Shape, layer: usize) -> Self {
        Self {
            queries: shape.heads,
            keys: shape.kv_heads,
            head_dim: shape.head_dim,
            scale: shape.attention_scales[layer],
            cap: shape.attention_cap,
            dropout: shape.attention_dropout,
        }
    }

    /// Attention `[B, T, heads · D]` of queries `[B, T, heads, D]` to keys and values `[B, S, kv, D]`.
    pub(super) fn mix(&self, [q, k, v]: [&Tensor; 3], visible: &Visible<'_>, pass: Pass) -> Tensor {
        let p = pass.dropout_p(self.dropout);
        let Some(cap) = self.cap else {
            return attention(q, k, v, visible, self.scale, p);
        };
        let across = |x: &Tensor| x.transpose(1, 2);
        let length = q.size()[1];
        let causal = match visible {
            Visible::Causal => Some(hide(&seen(length, length, Keys::Causal, None, q), q.kind())),
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
        match self.queries / self.keys {
            1 => x.shallow_clone(),
            group => x.repeat_interleave_self_int(group, 1, self.queries),
        }
    }

    /// `softmax(cap · tanh(q kᵀ · scale / cap) + bias)`, softmax in f32 as in transformers, of f64 in f64: the
    /// biases of f64 that hide keys are infinite in f32.
    fn weights(&self, q: &Tensor, k: &Tensor, cap: f64, bias: Option<&Tensor>) -> Tensor {
        let scores = q.matmul(&k.transpose(-2, -1)) * (self.scale / cap);
        let scores = scores.tanh() * cap;
        let scores = match bias {
            Some(bias) => scores + bias,
            None => scores,
        };
        let kind = if q.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        scores.softmax(-1, kind).to_kind(q.kind())
    }

    /// Attention of a single row of tokens, `[1, heads, T, D]`: queries `[1, heads, T, D]`, keys and values
    /// `[1, kv, S, D]`; S - T keys precede the first query.
    pub(super) fn mix_row(
        &self,
        [q, k, v]: [&Tensor; 3],
        keys: Keys,
        window: Option<i64>,
    ) -> Tensor {
        let (length, total) = (q.size()[2], k.size()[2]);
        let window = window.filter(|&window| window < total);
        let causal = keys == Keys::Causal;
        let bias = (causal && length > 1 || window.is_some()).then(|| {
            let seen = seen(length, total, keys, window, q);
            hide(&seen, q.kind()).view([1, 1, length, total])
        });
        match self.cap {
            Some(cap) => {
                let (k, v) = (self.repeated(k), self.repeated(v));
                self.weights(q, &k, cap, bias.as_ref()).matmul(&v)
            }
            None => {
                let bias = bias.filter(|_| window.is_some());
                let grouped = self.queries != self.keys;
                Tensor::scaled_dot_product_attention(
                    q,
                    k,
                    v,
                    bias.as_ref(),
                    0.,
                    causal && bias.is_none(),
                    self.scale,
                    grouped,
                )
            }
        }
    }

    /// Attention `[B, 1, heads · D]` of one query per row, `[B, 1, heads, D]`, to keys and values `[B, kv, S, D]`. The
    /// queries of a group attend to the same keys, so they are the rows of one attention, and keys are not
    /// repeated.
    pub(super) fn mix_next(
        &self,
        [q, k, v]: [&Tensor; 3],
        bias: Option<&Tensor>,
        pass: Pass,
    ) -> Tensor {
        let b = q.size()[0];
        let q = q.reshape([b, self.keys, self.queries / self.keys, self.head_dim]);
        let mixed = match self.cap {
            Some(cap) => self.weights(&q, k, cap, bias).matmul(v),
            None => {
                let visible = bias.map_or(Visible::All, Visible::Bias);
                attend(&q, k, v, &visible, self.scale, pass.dropout_p(self.dropout))
            }
        };
        // [B, kv, group, D]: the query heads, in order.
        mixed.reshape([b, 1, self.queries * self.head_dim])
    }

    /// Attention `[B, heads · D]` of one more token per row, `[B, heads, D]` each, to those of the cache, which
    /// it is added to; `lengths` are the numbers of tokens then.
    pub(super) fn step(
        &self,
        cache: &mut KvCache,
        layer: usize,
        [q, k, v]: [&Tensor; 3],
        lengths: &[i64],
        window: Option<i64>,
    ) -> Tensor {
        if self.cap.is_some() {
            let (keys, values) = cache.append(layer, &k.unsqueeze(1), &v.unsqueeze(1));
            return self.each_row([q, &keys, &values], lengths, window);
        }
        let (keys, values) = cache.layers().held(layer);
        let new = (k.flatten(1, 2), v.flatten(1, 2));
        self.rows([keys, values], lengths, window).apply(&q.flatten(1, 2), Some((&new.0, &new.1)))
    }

    /// The fused operation, which supports no cap.
    pub(super) fn rows<'a>(
        &self,
        [keys, values]: [&'a Tensor; 2],
        lengths: &'a [i64],
        window: Option<i64>,
    ) -> RowAttention<'a> {
        RowAttention { keys, values, lengths, scale: self.scale, window, bias: None }
    }

    /// `true` if scores are capped, which the fused operation does not support.
    pub(super) fn is_capped(&self) -> bool {
        self.cap.is_some()
    }

    /// Attention `[B, heads · D]` of one query per row, `[B, heads, D]`, to the last of the first `lengths` keys and
    /// values `[B, kv, S, D]`: each row separately, so that it does not depend on the others.
    pub(super) fn each_row(
        &self,
        [q, keys, values]: [&Tensor; 3],
        lengths: &[i64],
        window: Option<i64>,
    ) -> Tensor {
        let rows: Vec<Tensor> = (0i64..)
            .zip(lengths)
            .map(|(row, &length)| {
                let seen = window.map_or(length, |window| window.min(length));
                let part = |x: &Tensor| x.narrow(0, row, 1).narrow(2, length - seen, seen);
                let q = q.narrow(0, row, 1).transpose(0, 1).unsqueeze(0);
                let mixed = self.mix_row([&q, &part(keys), &part(values)], Keys::All, None);
                mixed.reshape([1, self.queries * self.head_dim])
            })
            .collect();
        Tensor::cat(&rows, 0)
    }
}

/// The keys, bool `[T, S]`, that queries at the last T of S positions attend to. A causal window includes the query
/// itself; one to both sides reaches as far to each, without the query, as in transformers.
pub(super) fn seen(
    length: i64,
    total: i64,
    keys: Keys,
    window: Option<i64>,
    like: &Tensor,
) -> Tensor {
    let columns = Tensor::arange(total, (Kind::Int64, like.device()));
    let distance = columns.narrow(0, total - length, length).unsqueeze(1) - &columns;
    match (keys, window) {
        (Keys::Causal, None) => distance.ge(0),
        (Keys::Causal, Some(window)) => distance.ge(0).logical_and(&distance.lt(window)),
        (Keys::All, None) => distance.ones_like().to_kind(Kind::Bool),
        (Keys::All, Some(window)) => distance.abs().le(window),
    }
}

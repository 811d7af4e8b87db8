//! Decoding of the Llama family on the CPU: rows without padding, few and fused operations.

use rlaif_lm::{KvCache, LmError, TokenBatch};
use rlaif_torch::{Keys, RowCount};
use tch::Tensor;

use super::{
    Trunk,
    attention::{Attention, Inputs, Made},
    block::{Block, Inner},
    experts::Experts,
    feed_forward::{FeedForward, Gate},
};
use crate::{
    adapter::Pass,
    layers::{Linear, Norm, RmsNorm},
    rope::Angles,
    rows::{self, PackedRows},
};

/// The input rows of a layer after this norm, and the norm if the layer fuses it.
fn before<'a>(norm: Option<&'a Norm>, x: &Tensor) -> (Tensor, Option<&'a RmsNorm>) {
    match norm {
        None => (x.shallow_clone(), None),
        Some(Norm::Rms(norm)) => (x.shallow_clone(), Some(norm)),
        Some(Norm::Layer(norm)) => (norm.forward(x), None),
    }
}

impl Attention {
    /// Rotated queries, rotated keys and values of the unnormed rows `x`, each `[M, heads, D]`.
    pub(super) fn project_rows(
        &self,
        x: &Tensor,
        norm: Option<&Norm>,
        angles: Option<&Angles>,
        count: RowCount,
        pass: Pass,
    ) -> [Tensor; 3] {
        let (x, norm) = before(norm, x);
        let made = match &self.inputs {
            Inputs::Apart([q, k, v]) => {
                Made::Apart(rows::project(&x, norm, [q, k, v], count, pass))
            }
            Inputs::Fused { layer, order } => {
                let [all] = rows::project(&x, norm, [layer], count, pass);
                Made::Fused { all, order: *order }
            }
        };
        self.heads_of(made, angles)
    }
}

impl Block {
    /// The sum of `x` and `layer(inner)`.
    fn add_rows(
        &self,
        x: &Tensor,
        layer: &Linear,
        inner: &Tensor,
        post: Option<&Norm>,
        count: RowCount,
        pass: Pass,
    ) -> Tensor {
        if post.is_none() && self.residual_scale == 1. {
            return rows::add(x, inner, layer, count, pass);
        }
        let [y] = rows::project(inner, None, [layer], count, pass);
        x + self.scaled(post.map_or(y.shallow_clone(), |norm| norm.forward(&y)))
    }

    /// Output projection and feed-forward layer, with their residual connections.
    pub(super) fn finish_rows(
        &self,
        x: &Tensor,
        mixed: &Tensor,
        count: RowCount,
        pass: Pass,
    ) -> Tensor {
        let mid = self.attended_rows(x, mixed, count, pass);
        let read = if self.parallel { x } else { &mid };
        self.fed_rows(&mid, read, count, pass)
    }

    /// The sum of `x` and the output projection of attention.
    pub(super) fn attended_rows(
        &self,
        x: &Tensor,
        mixed: &Tensor,
        count: RowCount,
        pass: Pass,
    ) -> Tensor {
        let post = self.attention_post_norm.as_ref();
        self.add_rows(x, &self.attention.o, mixed, post, count, pass)
    }

    /// The sum of `x` and the output of the feed-forward layer for the unnormed rows `read`.
    pub(super) fn fed_rows(
        &self,
        x: &Tensor,
        read: &Tensor,
        count: RowCount,
        pass: Pass,
    ) -> Tensor {
        let post = self.feed_forward_post_norm.as_ref();
        match &self.feed_forward {
            Inner::One(layer) => {
                let (read, norm) = before(self.feed_forward_norm.as_ref(), read);
                let inner = layer.inner_rows(&read, norm, count, pass);
                self.add_rows(x, &layer.down, &inner, post, count, pass)
            }
            Inner::Experts(experts) => {
                let norm = self.feed_forward_norm.as_ref();
                let read = norm.map_or_else(|| read.shallow_clone(), |norm| norm.forward(read));
                let y = experts.forward_rows(&read, count, pass);
                x + self.scaled(post.map_or(y.shallow_clone(), |norm| norm.forward(&y)))
            }
        }
    }
}

impl FeedForward {
    /// The input of `down`.
    fn inner_rows(
        &self,
        x: &Tensor,
        norm: Option<&RmsNorm>,
        count: RowCount,
        pass: Pass,
    ) -> Tensor {
        let activation = self.activation;
        match &self.gate {
            Gate::Apart(gate) => {
                rows::gated(x, norm, Some(gate), &self.up, activation, count, pass)
            }
            Gate::Absent => rows::gated(x, norm, None, &self.up, activation, count, pass),
            Gate::Fused => {
                let [both] = rows::project(x, norm, [&self.up], count, pass);
                self.gated(&both)
            }
        }
    }

    fn forward_rows(&self, x: &Tensor, count: RowCount, pass: Pass) -> Tensor {
        let inner = self.inner_rows(x, None, count, pass);
        let [y] = rows::project(&inner, None, [&self.down], count, pass);
        y
    }
}

impl Experts {
    fn forward_rows(&self, x: &Tensor, count: RowCount, pass: Pass) -> Tensor {
        let [logits] = rows::project(x, None, [&self.router], count, pass);
        let routing = self.route(&logits);
        let mixed = self.mix(x, &routing, |expert, x| expert.forward_rows(x, count, pass));
        match &self.shared {
            Some((shared, gate)) => {
                let [gate] = rows::project(x, None, [gate], count, pass);
                mixed + gate.sigmoid() * shared.forward_rows(x, count, pass)
            }
            None => mixed,
        }
    }
}

impl Trunk {
    pub(super) fn prefill_rows(
        &self,
        cache: &mut KvCache,
        tokens: &TokenBatch,
        pass: Pass,
    ) -> Result<(), LmError> {
        let packed = PackedRows::new(tokens);
        if packed.ids.numel() > 0 {
            let positions = packed.positions();
            let mut x = self.embed(&packed.ids, &positions, pass);
            // At least one token follows.
            let lengths = packed.row_lengths() + 1;
            let angles = self.angles(&positions, &lengths, x.kind());
            for (i, block) in self.blocks.iter().enumerate() {
                let (layer, norm) = (&block.attention, block.attention_norm.as_ref());
                let angles = block.angles(&angles);
                let [q, k, v] = layer.project_rows(&x, norm, angles, RowCount::Many, pass);
                cache.layers().fill_packed(
                    i,
                    &k.flatten(1, 2),
                    &v.flatten(1, 2),
                    &packed.lengths,
                )?;
                if i + 1 == self.blocks.len() {
                    // No prediction is needed here: the last layer only stores its keys and values.
                    break;
                }
                let mixed = packed.attention([&q, &k, &v], |[q, k, v], _| {
                    layer.heads.mix_row([&q, &k, &v], Keys::Causal, self.shape.windows[i])
                });
                x = block.finish_rows(&x, &mixed, RowCount::Many, pass);
            }
        }
        cache.enter(&packed.lengths)
    }

    /// Hidden states `[B, H]` after one more token per row.
    pub(super) fn step_rows(&self, cache: &mut KvCache, tokens: &Tensor, pass: Pass) -> Tensor {
        let lengths: Vec<i64> =
            cache.layers().lengths().iter().map(|&length| length as i64 + 1).collect();
        let mut x = self.embed(tokens, cache.positions(), pass);
        let angles = self.angles(cache.positions(), &(cache.positions() + 1), x.kind());
        for (i, block) in self.blocks.iter().enumerate() {
            let (layer, norm) = (&block.attention, block.attention_norm.as_ref());
            let angles = block.angles(&angles);
            let [q, k, v] = layer.project_rows(&x, norm, angles, RowCount::Few, pass);
            let mixed = layer.heads.step(cache, i, [&q, &k, &v], &lengths, self.shape.windows[i]);
            x = block.finish_rows(&x, &mixed, RowCount::Few, pass);
        }
        self.norm.forward(&x)
    }
}

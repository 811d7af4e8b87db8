//! Decoding of the Llama family on the CPU: rows without padding, few and fused operations.

use rlaif_lm::{KvCache, LmError, TokenBatch};
use rlaif_torch::{RowAttention, RowCount};
use tch::{Kind, Tensor};

use super::{Attention, Block, Trunk};
use crate::{
    adapter::Pass,
    layers::hide,
    rows::{self, PackedRows},
};

impl Attention {
    /// Rotated queries, rotated keys and values of the normed rows, each `[M, heads, D]`.
    fn project_rows(
        &self,
        x: &Tensor,
        block: &Block,
        angles: &(Tensor, Tensor),
        count: RowCount,
        pass: Pass,
    ) -> [Tensor; 3] {
        let qkv = [&self.q, &self.k, &self.v];
        let [q, k, v] = rows::project(x, Some(&block.attention_norm), qkv, count, pass);
        let heads = |x: &Tensor, heads| x.view([-1, heads, self.head_dim]);
        let (mut q, mut k) = (heads(&q, self.heads), heads(&k, self.kv_heads));
        if let Some((q_norm, k_norm)) = &self.norms {
            q = q_norm.forward(&q);
            k = k_norm.forward(&k);
        }
        let turn = |x: &Tensor| rlaif_torch::rope(x, &angles.0, &angles.1);
        [turn(&q), turn(&k), heads(&v, self.kv_heads)]
    }
}

impl Block {
    /// Output projection and feed-forward layer, with their residual connections.
    fn finish_rows(&self, x: &Tensor, mixed: &Tensor, count: RowCount, pass: Pass) -> Tensor {
        let x = rows::add(x, mixed, &self.attention.o, count, pass);
        let layer = &self.feed_forward;
        let norm = &self.feed_forward_norm;
        let (gate, activation) = (Some(&layer.gate), layer.activation);
        let inner = rows::gated(&x, norm, gate, &layer.up, activation, count, pass);
        rows::add(&x, &inner, &layer.down, count, pass)
    }
}

/// The bias that hides all but the last `window` keys up to each query, `[1, 1, T, T]`.
fn window_bias(length: i64, window: i64, like: &Tensor) -> Tensor {
    let columns = Tensor::arange(length, (Kind::Int64, like.device()));
    let distance = columns.unsqueeze(1) - &columns;
    let seen = distance.ge(0).logical_and(&distance.lt(window));
    hide(&seen, like.kind()).view([1, 1, length, length])
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
            let mut x = self.embed(&packed.ids);
            let angles = self.rope.angles(&packed.positions(), x.kind());
            for (i, block) in self.blocks.iter().enumerate() {
                let layer = &block.attention;
                let [q, k, v] = layer.project_rows(&x, block, &angles, RowCount::Many, pass);
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
                let grouped = layer.heads != layer.kv_heads;
                let mixed = packed.attention([&q, &k, &v], |[q, k, v], length| {
                    let window = self.shape.windows[i].filter(|&window| window < length);
                    let bias = window.map(|window| window_bias(length, window, &q));
                    Tensor::scaled_dot_product_attention(
                        &q,
                        &k,
                        &v,
                        bias.as_ref(),
                        0.,
                        bias.is_none(),
                        layer.scale(),
                        grouped,
                    )
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
        let mut x = self.embed(tokens);
        let angles = self.rope.angles(cache.positions(), x.kind());
        for (i, block) in self.blocks.iter().enumerate() {
            let layer = &block.attention;
            let [q, k, v] = layer.project_rows(&x, block, &angles, RowCount::Few, pass);
            let (keys, values) = cache.layers().held(i);
            let attention = RowAttention {
                keys,
                values,
                lengths: &lengths,
                scale: layer.scale(),
                window: self.shape.windows[i],
                bias: None,
            };
            let new = (k.flatten(1, 2), v.flatten(1, 2));
            let mixed = attention.apply(&q.flatten(1, 2), Some((&new.0, &new.1)));
            x = block.finish_rows(&x, &mixed, RowCount::Few, pass);
        }
        self.norm.forward(&x)
    }
}

//! T5 as it decodes on the CPU: rows without padding, few and fused operations.

use rlaif_lm::{DecodeState, LmError, TokenBatch};
use rlaif_torch::{RowAttention, RowCount};
use tch::{Kind, Tensor};

use super::{Block, RelativeBias, Trunk};
use crate::{
    adapter::Pass,
    rows::{self, PackedRows},
};

impl RelativeBias {
    /// Bias f32 `[heads, max_distance + 1]` by how far back a key is.
    fn back(&self) -> Tensor {
        let buckets = self.buckets.narrow(0, 0, self.max_distance + 1).flip([0]);
        self.weight.index_select(0, &buckets).tr().to_kind(Kind::Float).contiguous()
    }
}

impl Block {
    /// The feed-forward layer with its norm and residual.
    fn finish_rows(&self, x: &Tensor, count: RowCount, pass: Pass) -> Tensor {
        let layer = &self.feed_forward;
        let norm = &self.feed_forward_norm;
        let (gate, activation) = (layer.gate.as_ref(), layer.activation);
        let inner = rows::gated(x, Some(norm), gate, &layer.wi, activation, count, pass);
        rows::add(x, &inner, &layer.wo, count, pass)
    }
}

impl Trunk {
    /// The encoder's last hidden states `[N, d_model]`.
    fn encode_rows(&self, packed: &PackedRows, pass: Pass) -> Tensor {
        let heads = [-1, self.shape.heads, self.shape.d_kv];
        let longest = packed.lengths.iter().copied().max().unwrap_or(0) as i64;
        let bias = self.encoder.bias.full(longest, longest);
        let mut x = self.words[0].adapted(&packed.ids, pass);
        for block in &self.encoder.blocks {
            let layer = &block.attention;
            let qkv = [&layer.q, &layer.k, &layer.v];
            let qkv = rows::project(&x, Some(&block.attention_norm), qkv, RowCount::Many, pass);
            let [q, k, v] = qkv.each_ref().map(|x| x.view(heads));
            let mixed = packed.attention([&q, &k, &v], |[q, k, v], length| {
                let bias = bias.narrow(2, 0, length).narrow(3, 0, length);
                Tensor::scaled_dot_product_attention(&q, &k, &v, Some(&bias), 0., false, 1., false)
            });
            x = rows::add(&x, &mixed, &layer.o, RowCount::Many, pass);
            x = block.finish_rows(&x, RowCount::Many, pass);
        }
        self.encoder.end(&x, pass)
    }

    pub(super) fn prefill_rows(
        &self,
        state: &mut DecodeState,
        prompts: &TokenBatch,
        pass: Pass,
    ) -> Result<(), LmError> {
        let packed = PackedRows::new(prompts);
        let memory = state.memory.as_mut().ok_or(LmError::NoMemory)?;
        let encoded = self.encode_rows(&packed, pass);
        for (i, block) in self.decoder.blocks.iter().enumerate() {
            if let Some((cross, _)) = &block.cross {
                let [k, v] =
                    rows::project(&encoded, None, [&cross.k, &cross.v], RowCount::Many, pass);
                memory.layers().fill_packed(i, &k, &v, &packed.lengths)?;
            }
        }
        memory.enter(&packed.lengths)?;
        state.cache.enter(&vec![0; packed.lengths.len()])
    }

    /// Hidden states `[B, d_model]` after one more decoder token per row.
    pub(super) fn decode_rows(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let memory = state.memory.as_ref().ok_or(LmError::NoMemory)?;
        let cache = &mut state.cache;
        cache.check_space()?;
        let lengths: Vec<i64> =
            cache.layers().lengths().iter().map(|&length| length as i64 + 1).collect();
        let prompts: Vec<i64> =
            memory.layers().lengths().iter().map(|&length| length as i64).collect();
        let bias = self.decoder.bias.back();
        let mut x = self.embed(tokens, pass);
        for (i, block) in self.decoder.blocks.iter().enumerate() {
            let layer = &block.attention;
            let qkv = [&layer.q, &layer.k, &layer.v];
            let [q, k, v] =
                rows::project(&x, Some(&block.attention_norm), qkv, RowCount::Few, pass);
            let (keys, values) = cache.layers().held(i);
            let own = RowAttention {
                keys,
                values,
                lengths: &lengths,
                scale: 1.,
                window: None,
                bias: Some(&bias),
            };
            x = rows::add(&x, &own.apply(&q, Some((&k, &v))), &layer.o, RowCount::Few, pass);
            if let Some((cross, norm)) = &block.cross {
                let [q] = rows::project(&x, Some(norm), [&cross.q], RowCount::Few, pass);
                let (keys, values) = memory.layers().held(i);
                let seen = RowAttention { keys, values, lengths: &prompts, bias: None, ..own };
                x = rows::add(&x, &seen.apply(&q, None), &cross.o, RowCount::Few, pass);
            }
            x = block.finish_rows(&x, RowCount::Few, pass);
        }
        Ok(self.decoder.end(&x, pass))
    }
}

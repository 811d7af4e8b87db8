//! Decoding of BART's kin: step by step with libtorch's operations, and over rows without padding on the CPU.

use rlaif_lm::{DecodeState, EncodedTokens, EncoderStates, LmError, TokenBatch};
use rlaif_torch::{Keys, RowAttention, RowCount, attends_rows};
use tch::Tensor;

use super::{Block, Context, Trunk, positions};
use crate::{
    adapter::Pass,
    layers::{LayerNorm, Linear, hide},
    rows::{self, PackedRows},
    seq2seq::{Attention, CachedTrunk, Cover},
};

impl Block {
    /// As [`Block::part`], over rows.
    fn part_rows(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        out: &Linear,
        count: RowCount,
        pass: Pass,
        inner: impl FnOnce(&Tensor) -> Tensor,
    ) -> Tensor {
        if self.norms_first {
            return rows::add(x, &inner(&norm.forward(x)), out, count, pass);
        }
        norm.forward(&rows::add(x, &inner(x), out, count, pass))
    }

    /// The feed-forward layer with its norm and residual.
    fn finish_rows(&self, x: &Tensor, count: RowCount, pass: Pass) -> Tensor {
        self.part_rows(x, &self.feed_forward_norm, &self.fc2, count, pass, |x| {
            rows::gated(x, None, None, &self.fc1, self.activation, count, pass)
        })
    }
}

impl CachedTrunk for Trunk {
    fn decoder_heads(&self) -> [i64; 2] {
        let heads = self.shape.decoder.heads;
        [heads, self.shape.d_model / heads]
    }

    fn crosses(&self) -> impl Iterator<Item = &Attention> {
        self.decoder.blocks.iter().filter_map(|block| block.cross.as_ref().map(|(cross, _)| cross))
    }

    fn attends_rows(&self, pass: Pass) -> bool {
        let (kind, device) = (self.embeddings().kind(), self.embeddings().device());
        let heads = [self.shape.encoder.heads, self.shape.decoder.heads];
        heads.into_iter().all(|heads| attends_rows(kind, device, self.shape.d_model / heads))
            && pass.dropout_p(self.shape.attention_dropout) == 0.
    }

    fn encode_as(
        &self,
        tokens: EncodedTokens,
        prompts: &TokenBatch,
        pass: Pass,
    ) -> Result<EncoderStates, LmError> {
        let embedded = match &tokens {
            EncodedTokens::Unpadded(_) => self.words[0].adapted(&prompts.unpadded_ids(), pass),
            EncodedTokens::Full | EncodedTokens::Padded(_) => {
                self.words[0].adapted(prompts.ids(), pass)
            }
        };
        let cover = Cover::self_attention(&tokens, embedded.kind());
        let context = Context { cover: &cover, keys: Keys::All, encoded: None };
        let x = self.encoder.begin(embedded, &positions(prompts, &tokens), pass);
        let hidden = self.encoder.forward(x, &context, pass)?;
        Ok(EncoderStates { hidden, tokens })
    }

    fn encode_rows(&self, packed: &PackedRows, pass: Pass) -> Tensor {
        let many = RowCount::Many;
        let heads = self.shape.encoder.heads;
        let size = [-1, heads, self.shape.d_model / heads];
        let embedded = self.words[0].adapted(&packed.ids, pass);
        let mut x = self.encoder.begin(embedded, &packed.positions(), pass);
        for block in &self.encoder.blocks {
            let layer = &block.attention;
            x = block.part_rows(&x, &block.attention_norm, &layer.o, many, pass, |x| {
                let qkv = rows::project(x, None, [&layer.q, &layer.k, &layer.v], many, pass);
                let [q, k, v] = qkv.each_ref().map(|x| x.view(size));
                packed.attention([&q, &k, &v], |[q, k, v], _| {
                    let (mask, scale) = (None::<&Tensor>, layer.scale);
                    Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0., false, scale, false)
                })
            });
            x = block.finish_rows(&x, many, pass);
        }
        self.encoder.end(x)
    }

    fn decode_rows(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let few = RowCount::Few;
        let memory = state.memory.as_ref().ok_or(LmError::NoMemory)?;
        let cache = &mut state.cache;
        cache.check_space()?;
        let lengths: Vec<i64> =
            cache.layers().lengths().iter().map(|&length| length as i64 + 1).collect();
        let prompts: Vec<i64> =
            memory.layers().lengths().iter().map(|&length| length as i64).collect();
        let embedded = self.words[1].adapted(tokens, pass);
        let mut x = self.decoder.begin(embedded, cache.positions(), pass);
        for (i, block) in self.decoder.blocks.iter().enumerate() {
            let layer = &block.attention;
            let (keys, values) = cache.layers().held(i);
            let own = RowAttention {
                keys,
                values,
                lengths: &lengths,
                scale: layer.scale,
                window: None,
                bias: None,
            };
            x = block.part_rows(&x, &block.attention_norm, &layer.o, few, pass, |x| {
                let qkv = [&layer.q, &layer.k, &layer.v];
                let [q, k, v] = rows::project(x, None, qkv, few, pass);
                own.apply(&q, Some((&k, &v)))
            });
            if let Some((cross, norm)) = &block.cross {
                let (keys, values) = memory.layers().held(i);
                let seen = RowAttention { keys, values, lengths: &prompts, ..own };
                x = block.part_rows(&x, norm, &cross.o, few, pass, |x| {
                    let [q] = rows::project(x, None, [&cross.q], few, pass);
                    seen.apply(&q, None)
                });
            }
            x = block.finish_rows(&x, few, pass);
        }
        Ok(self.decoder.end(x))
    }

    fn decode_next(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let kind = self.embeddings().kind();
        let memory = state.memory.as_ref().ok_or(LmError::NoMemory)?;
        let hidden = memory.visible().map(|seen| hide(seen, kind));
        let cache = &mut state.cache;
        cache.check_space()?;
        let embedded = self.words[1].adapted(&tokens.unsqueeze(1), pass);
        let positions = cache.positions().unsqueeze(1);
        let mut x = self.decoder.begin(embedded, &positions, pass);
        let own = cache.visible(None).map(|visible| hide(&visible, kind));
        for (i, block) in self.decoder.blocks.iter().enumerate() {
            let layer = &block.attention;
            x = block.part(&x, &block.attention_norm, &layer.o, pass, |x| {
                let [k, v] = layer.keys_values(x, pass);
                let (k, v) = cache.append(i, &k, &v);
                layer.step(x, &k, &v, own.as_ref(), pass)
            });
            if let Some((cross, norm)) = &block.cross {
                let (k, v) = memory.layer(i);
                x = block.part(&x, norm, &cross.o, pass, |x| {
                    cross.step(x, &k, &v, hidden.as_ref(), pass)
                });
            }
            x = block.finish(&x, pass);
        }
        Ok(self.decoder.end(x).squeeze_dim(1))
    }
}

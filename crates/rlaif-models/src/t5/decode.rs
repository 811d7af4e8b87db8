//! T5 as it decodes on the CPU: rows without padding, few and fused operations.

use rlaif_lm::{DecodeState, EncodedTokens, EncoderStates, LmError, TokenBatch};
use rlaif_torch::{Keys, RowAttention, RowCount, attends_rows};
use tch::{Kind, Tensor};

use super::{Block, Context, RelativeBias, Trunk};
use crate::{
    adapter::Pass,
    layers::{Linear, dropout, hide},
    rows::{self, PackedRows},
    seq2seq::{Attention, AttentionBias, CachedTrunk, Cover},
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

impl CachedTrunk for Trunk {
    fn decoder_heads(&self) -> [i64; 2] {
        [self.shape.heads, self.shape.d_kv]
    }

    fn crosses(&self) -> impl Iterator<Item = &Attention> {
        self.decoder.blocks.iter().filter_map(|block| block.cross.as_ref().map(|(cross, _)| cross))
    }

    fn attends_rows(&self, pass: Pass) -> bool {
        let (kind, device) = (self.embeddings().kind(), self.embeddings().device());
        attends_rows(kind, device, self.shape.d_kv) && pass.dropout_p(self.shape.dropout) == 0.
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
        let width = prompts.ids().size()[1];
        let bias = self.encoder.bias.full(width, width);
        let cover = Cover::self_attention(&tokens, embedded.kind());
        let scores = AttentionBias { bias: Some(&bias), cover: &cover, keys: Keys::All };
        let context = Context { scores, encoded: None };
        let hidden = self.encoder.forward(embedded, &context, pass)?;
        Ok(EncoderStates { hidden, tokens })
    }

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

    fn decode_rows(
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

    fn decode_next(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let memory = state.memory.as_ref().ok_or(LmError::NoMemory)?;
        let hidden = memory.visible().map(|seen| hide(seen, self.embeddings().kind()));
        let cache = &mut state.cache;
        cache.check_space()?;
        let mut x =
            dropout(self.embed(&tokens.unsqueeze(1), pass), self.decoder.dropout, pass.dropout);
        let mut bias = self.decoder.bias.at(cache.positions(), cache.width());
        if let Some(visible) = cache.visible(None) {
            bias = &bias + hide(&visible, bias.kind());
        }
        for (i, block) in self.decoder.blocks.iter().enumerate() {
            let normed = block.attention_norm.forward(&x);
            let heads = |layer: &Linear| {
                let size = [tokens.size()[0], 1, self.shape.heads, self.shape.d_kv];
                layer.forward(&normed, pass).view(size)
            };
            let (k, v) = cache.append(i, &heads(&block.attention.k), &heads(&block.attention.v));
            let mixed = block.attention.step(&normed, &k, &v, Some(&bias), pass);
            x = block.add(&x, &block.attention.o, &mixed, pass);
            if let Some((cross, norm)) = &block.cross {
                let (k, v) = memory.layer(i);
                let mixed = cross.step(&norm.forward(&x), &k, &v, hidden.as_ref(), pass);
                x = block.add(&x, &cross.o, &mixed, pass);
            }
            x = block.finish(&x, pass);
        }
        Ok(self.decoder.end(&x, pass).squeeze_dim(1))
    }
}

//! Passes of T5: over whole texts and step by step with libtorch's operations, and over rows without padding on the
//! CPU, with few and fused operations.

use rlaif_lm::{EncodedTokens, LmError, TokenBatch};
use rlaif_torch::{Keys, RowAttention, RowCount, attends_rows};
use tch::{Kind, Tensor};

use super::{Block, RelativeBias, Stack, Trunk};
use crate::{
    adapter::Pass,
    layers::{Embedding, Linear, dropout, hide},
    rows::{self, PackedRows},
    seq2seq::{
        AttentionBias, Attentions, Context, Cover, CrossKeys, RowStep, Seq2SeqTrunk, Step,
        TrunkLayers,
    },
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

impl Stack {
    /// The last hidden states of an encoder for embedded tokens, of at most `width` in a row.
    pub(super) fn encode(
        &self,
        embedded: Tensor,
        width: i64,
        tokens: &EncodedTokens,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let bias = self.bias.full(width, width);
        let cover = Cover::self_attention(tokens, embedded.kind());
        let scores = AttentionBias { bias: Some(&bias), cover: &cover, keys: Keys::All };
        self.forward(embedded, &Context { scores, encoded: None }, pass)
    }
}

impl Seq2SeqTrunk for Trunk {
    fn words(&self) -> &[Embedding; 2] {
        &self.words
    }

    fn decoder_heads(&self) -> [i64; 2] {
        [self.shape.heads, self.shape.d_kv]
    }

    fn crosses(&self) -> impl Iterator<Item = CrossKeys<'_>> {
        let crosses =
            self.decoder.blocks.iter().filter_map(|block| block.attentions.cross.as_ref());
        crosses.map(|(cross, _)| cross.cross_keys())
    }

    fn attends_rows(&self, pass: Pass) -> bool {
        let (kind, device) = (self.embeddings().kind(), self.embeddings().device());
        attends_rows(kind, device, self.shape.d_kv) && pass.dropout_p(self.shape.dropout) == 0.
    }

    fn encode(
        &self,
        embedded: Tensor,
        prompts: &TokenBatch,
        tokens: &EncodedTokens,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        self.encoder.encode(embedded, prompts.ids().size()[1], tokens, pass)
    }

    fn encode_rows(&self, embedded: Tensor, packed: &PackedRows, pass: Pass) -> Tensor {
        let heads = [-1, self.shape.heads, self.shape.d_kv];
        let longest = packed.lengths.iter().copied().max().unwrap_or(0) as i64;
        let bias = self.encoder.bias.full(longest, longest);
        let mut x = embedded;
        for block in &self.encoder.blocks {
            let (own, norm) = &block.attentions.own;
            let qkv = rows::project(&x, Some(norm), [&own.q, &own.k, &own.v], RowCount::Many, pass);
            let [q, k, v] = qkv.each_ref().map(|x| x.view(heads));
            let mixed = packed.attention([&q, &k, &v], |[q, k, v], length| {
                let bias = bias.narrow(2, 0, length).narrow(3, 0, length);
                Tensor::scaled_dot_product_attention(&q, &k, &v, Some(&bias), 0., false, 1., false)
            });
            x = rows::add(&x, &mixed, &own.o, RowCount::Many, pass);
            x = block.finish_rows(&x, RowCount::Many, pass);
        }
        self.encoder.end(&x, pass)
    }

    fn decode(
        &self,
        embedded: Tensor,
        encoded: (&Tensor, &Cover),
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let width = embedded.size()[1];
        let bias = self.decoder.bias.full(width, width);
        let scores = AttentionBias { bias: Some(&bias), cover: &Cover::Full, keys: Keys::Causal };
        self.decoder.forward(embedded, &Context { scores, encoded: Some(encoded) }, pass)
    }

    fn decode_rows(&self, step: RowStep<'_>, pass: Pass) -> Tensor {
        let RowStep { embedded: mut x, cache, memory, lengths, prompts } = step;
        let bias = self.decoder.bias.back();
        for (i, block) in self.decoder.blocks.iter().enumerate() {
            let Attentions { own: (layer, norm), cross } = &block.attentions;
            let qkv = [&layer.q, &layer.k, &layer.v];
            let [q, k, v] = rows::project(&x, Some(norm), qkv, RowCount::Few, pass);
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
            if let Some((cross, norm)) = cross {
                let [q] = rows::project(&x, Some(norm), [&cross.q], RowCount::Few, pass);
                let (keys, values) = memory.layers().held(i);
                let seen = RowAttention { keys, values, lengths: &prompts, bias: None, ..own };
                x = rows::add(&x, &seen.apply(&q, None), &cross.o, RowCount::Few, pass);
            }
            x = block.finish_rows(&x, RowCount::Few, pass);
        }
        self.decoder.end(&x, pass)
    }

    fn decode_next(&self, step: Step<'_>, pass: Pass) -> Tensor {
        let Step { embedded, cache, memory, hidden } = step;
        let size = [embedded.size()[0], 1, self.shape.heads, self.shape.d_kv];
        let mut x = dropout(embedded, self.decoder.dropout, pass.dropout);
        let mut bias = self.decoder.bias.at(cache.positions(), cache.width());
        if let Some(visible) = cache.visible(None) {
            bias = &bias + hide(&visible, bias.kind());
        }
        for (i, block) in self.decoder.blocks.iter().enumerate() {
            let Attentions { own: (own, norm), cross } = &block.attentions;
            let normed = norm.forward(&x);
            let heads = |layer: &Linear| layer.forward(&normed, pass).view(size);
            let (k, v) = cache.append(i, &heads(&own.k), &heads(&own.v));
            let mixed = own.step(&normed, &k, &v, Some(&bias), pass);
            x = block.add(&x, &own.o, &mixed, pass);
            if let Some((cross, norm)) = cross {
                let (k, v) = memory.layer(i);
                let mixed = cross.step(&norm.forward(&x), &k, &v, hidden.as_ref(), pass);
                x = block.add(&x, &cross.o, &mixed, pass);
            }
            x = block.finish(&x, pass);
        }
        self.decoder.end(&x, pass)
    }

    fn layers(&mut self) -> TrunkLayers<'_> {
        let Self { words, encoder, decoder, .. } = self;
        let blocks = encoder.blocks.iter_mut().chain(&mut decoder.blocks);
        let linears = blocks.flat_map(Block::linears).collect();
        TrunkLayers { linears, words: words.iter_mut().collect(), tables: Vec::new() }
    }
}

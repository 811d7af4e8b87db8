//! Passes of BART's kin: over whole texts and step by step with libtorch's operations, and over rows without
//! padding on the CPU.

use rlaif_lm::{EncodedTokens, LmError, TokenBatch};
use rlaif_torch::{Keys, RowAttention, RowCount, attends_rows};
use tch::{Kind, Tensor};

use super::{Block, NormPlace, Positions, Stack, Trunk, positions};
use crate::{
    adapter::Pass,
    layers::{Embedding, LayerNorm, Linear, hide},
    rows::{self, PackedRows},
    seq2seq::{
        AttentionBias, Attentions, Context, Cover, CrossKeys, RowStep, Seq2SeqTrunk, Step,
        TrunkLayers, run_blocks,
    },
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
        match self.norms {
            NormPlace::Before => rows::add(x, &inner(&norm.forward(x)), out, count, pass),
            NormPlace::After => norm.forward(&rows::add(x, &inner(x), out, count, pass)),
        }
    }

    /// The feed-forward layer with its norm and residual.
    fn finish_rows(&self, x: &Tensor, count: RowCount, pass: Pass) -> Tensor {
        self.part_rows(x, &self.feed_forward_norm, &self.fc2, count, pass, |x| {
            rows::gated(x, None, None, &self.fc1, self.activation, count, pass)
        })
    }
}

impl Seq2SeqTrunk for Trunk {
    fn words(&self) -> &[Embedding; 2] {
        &self.words
    }

    fn decoder_heads(&self) -> [i64; 2] {
        let heads = self.shape.decoder.heads;
        [heads, self.shape.d_model / heads]
    }

    fn crosses(&self) -> impl Iterator<Item = CrossKeys<'_>> {
        let crosses =
            self.decoder.blocks.iter().filter_map(|block| block.attentions.cross.as_ref());
        crosses.map(|(cross, _)| cross.cross_keys())
    }

    fn attends_rows(&self, pass: Pass) -> bool {
        let (kind, device) = (self.embeddings().kind(), self.embeddings().device());
        let heads = [self.shape.encoder.heads, self.shape.decoder.heads];
        heads.into_iter().all(|heads| attends_rows(kind, device, self.shape.d_model / heads))
            && pass.dropout_p(self.shape.attention_dropout) == 0.
    }

    fn encode(
        &self,
        embedded: Tensor,
        prompts: &TokenBatch,
        tokens: &EncodedTokens,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let cover = Cover::self_attention(tokens, embedded.kind());
        let scores = AttentionBias { bias: None, cover: &cover, keys: Keys::All };
        let x = self.encoder.begin(embedded, &positions(prompts, tokens), pass);
        let context = Context { scores, encoded: None };
        Ok(self.encoder.end(run_blocks(&self.encoder.blocks, x, &context, pass)?))
    }

    fn encode_rows(&self, embedded: Tensor, packed: &PackedRows, pass: Pass) -> Tensor {
        let many = RowCount::Many;
        let heads = self.shape.encoder.heads;
        let size = [-1, heads, self.shape.d_model / heads];
        let mut x = self.encoder.begin(embedded, &packed.positions(), pass);
        for block in &self.encoder.blocks {
            let (own, norm) = &block.attentions.own;
            x = block.part_rows(&x, norm, &own.o, many, pass, |x| {
                let qkv = rows::project(x, None, [&own.q, &own.k, &own.v], many, pass);
                let [q, k, v] = qkv.each_ref().map(|x| x.view(size));
                packed.attention([&q, &k, &v], |[q, k, v], _| {
                    let (mask, scale) = (None::<&Tensor>, own.scale);
                    Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0., false, scale, false)
                })
            });
            x = block.finish_rows(&x, many, pass);
        }
        self.encoder.end(x)
    }

    fn decode(
        &self,
        embedded: Tensor,
        encoded: (&Tensor, &Cover),
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let options = (Kind::Int64, embedded.device());
        let positions = Tensor::arange(embedded.size()[1], options);
        let x = self.decoder.begin(embedded, &positions, pass);
        let scores = AttentionBias { bias: None, cover: &Cover::Full, keys: Keys::Causal };
        let context = Context { scores, encoded: Some(encoded) };
        Ok(self.decoder.end(run_blocks(&self.decoder.blocks, x, &context, pass)?))
    }

    fn decode_rows(&self, step: RowStep<'_>, pass: Pass) -> Tensor {
        let few = RowCount::Few;
        let RowStep { embedded, cache, memory, lengths, prompts } = step;
        let mut x = self.decoder.begin(embedded, cache.positions(), pass);
        for (i, block) in self.decoder.blocks.iter().enumerate() {
            let Attentions { own: (layer, norm), cross } = &block.attentions;
            let (keys, values) = cache.layers().held(i);
            let own = RowAttention {
                keys,
                values,
                lengths: &lengths,
                scale: layer.scale,
                window: None,
                bias: None,
            };
            x = block.part_rows(&x, norm, &layer.o, few, pass, |x| {
                let qkv = [&layer.q, &layer.k, &layer.v];
                let [q, k, v] = rows::project(x, None, qkv, few, pass);
                own.apply(&q, Some((&k, &v)))
            });
            if let Some((cross, norm)) = cross {
                let (keys, values) = memory.layers().held(i);
                let seen = RowAttention { keys, values, lengths: &prompts, ..own };
                x = block.part_rows(&x, norm, &cross.o, few, pass, |x| {
                    let [q] = rows::project(x, None, [&cross.q], few, pass);
                    seen.apply(&q, None)
                });
            }
            x = block.finish_rows(&x, few, pass);
        }
        self.decoder.end(x)
    }

    fn decode_next(&self, step: Step<'_>, pass: Pass) -> Tensor {
        let Step { embedded, cache, memory, hidden } = step;
        let kind = embedded.kind();
        let mut x = self.decoder.begin(embedded, &cache.positions().unsqueeze(1), pass);
        let own = cache.visible(None).map(|visible| hide(&visible, kind));
        for (i, block) in self.decoder.blocks.iter().enumerate() {
            let Attentions { own: (layer, norm), cross } = &block.attentions;
            x = block.part(&x, norm, &layer.o, pass, |x| {
                let [k, v] = layer.cross_keys().of(x, pass);
                let (k, v) = cache.append(i, &k, &v);
                layer.step(x, &k, &v, own.as_ref(), pass)
            });
            if let Some((cross, norm)) = cross {
                let (k, v) = memory.layer(i);
                x = block.part(&x, norm, &cross.o, pass, |x| {
                    cross.step(x, &k, &v, hidden.as_ref(), pass)
                });
            }
            x = block.finish(&x, pass);
        }
        self.decoder.end(x)
    }

    fn layers(&mut self) -> TrunkLayers<'_> {
        let Self { words, encoder, decoder, .. } = self;
        let (mut linears, mut tables) = (Vec::new(), Vec::new());
        for Stack { positions, blocks, .. } in [encoder, decoder] {
            linears.extend(blocks.iter_mut().flat_map(Block::linears));
            tables.extend(match positions {
                Positions::Learned(table) => Some(table),
                Positions::Sines(_) => None,
            });
        }
        TrunkLayers { linears, words: words.iter_mut().collect(), tables }
    }
}

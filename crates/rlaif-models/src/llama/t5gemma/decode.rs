//! Passes of T5Gemma: over whole texts and step by step with libtorch's operations, and over rows without padding on
//! the CPU.

use rlaif_lm::{EncodedTokens, LmError, TokenBatch};
use rlaif_torch::{Keys, RowCount};
use tch::Tensor;

use super::{
    Trunk,
    stack::{Cross, Layer, Reads},
};
use crate::{
    adapter::Pass,
    layers::{Embedding, hide, in_heads},
    llama::block::before,
    rows::{self, PackedRows},
    seq2seq::{Cover, CrossKeys, RowStep, Seq2SeqTrunk, Step, TrunkLayers},
};

impl Cross {
    /// Cross-attention of the rows `x` `[B, H]` to keys and values `[B, kv, S, D]`, of which each row has `prompts`.
    fn forward_rows(&self, x: &Tensor, held: [&Tensor; 2], prompts: &[i64], pass: Pass) -> Tensor {
        let heads = self.heads;
        let normed = self.norm.forward(x);
        let [q] = rows::project(&normed, None, [&self.q], RowCount::Few, pass);
        let mixed = if heads.is_capped() {
            let q = in_heads(&q, heads.queries, heads.head_dim);
            heads.each_row([&q, held[0], held[1]], prompts, None)
        } else {
            heads.rows(held, prompts, None).apply(&q, None)
        };
        let [y] = rows::project(&mixed, None, [&self.o], RowCount::Few, pass);
        x + self.post_norm.forward(&y)
    }
}

impl Seq2SeqTrunk for Trunk {
    fn words(&self) -> &[Embedding; 2] {
        &self.words
    }

    fn decoder_heads(&self) -> [i64; 2] {
        self.shape
    }

    fn crosses(&self) -> impl Iterator<Item = CrossKeys<'_>> {
        let crosses = self.decoder.layers.iter().filter_map(|layer| layer.cross.as_ref());
        crosses.map(|Cross { k, v, heads, .. }| {
            let (heads, head_dim) = (heads.keys, heads.head_dim);
            CrossKeys { k, v, heads, head_dim }
        })
    }

    fn attends_rows(&self, _: Pass) -> bool {
        // Caps and windows are biases of padded rows.
        false
    }

    fn encode(
        &self,
        embedded: Tensor,
        _: &TokenBatch,
        tokens: &EncodedTokens,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let cover = Cover::self_attention(tokens, embedded.kind());
        let reads = Reads { keys: Keys::All, padding: cover.mask(), encoded: None };
        self.encoder.forward(embedded, &reads, pass)
    }

    fn encode_rows(&self, embedded: Tensor, packed: &PackedRows, pass: Pass) -> Tensor {
        let stack = &self.encoder;
        let mut x = stack.begin(embedded, pass);
        let angles = stack.angles(&packed.positions(), x.kind());
        for (Layer { block, .. }, window) in stack.layers.iter().zip(&stack.windows) {
            let (own, norm) = (&block.attention, block.attention_norm.as_ref());
            let angles = block.angles(&angles);
            let [q, k, v] = own.project_rows(&x, norm, angles, RowCount::Many, pass);
            let mixed = packed.attention([&q, &k, &v], |[q, k, v], _| {
                own.heads.mix_row([&q, &k, &v], Keys::All, *window)
            });
            x = block.finish_rows(&x, &mixed, RowCount::Many, pass);
        }
        stack.end(&x, pass)
    }

    fn decode(
        &self,
        embedded: Tensor,
        (states, cover): (&Tensor, &Cover),
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let encoded = Some((states, cover.mask()));
        self.decoder.forward(embedded, &Reads { keys: Keys::Causal, padding: None, encoded }, pass)
    }

    fn decode_rows(&self, step: RowStep<'_>, pass: Pass) -> Tensor {
        let RowStep { embedded, cache, memory, lengths, prompts } = step;
        let stack = &self.decoder;
        let mut x = stack.begin(embedded, pass);
        let angles = stack.angles(cache.positions(), x.kind());
        for (i, layer) in stack.layers.iter().enumerate() {
            let block = &layer.block;
            let (own, norm) = (&block.attention, block.attention_norm.as_ref());
            let angles = block.angles(&angles);
            let [q, k, v] = own.project_rows(&x, norm, angles, RowCount::Few, pass);
            let mixed = own.heads.step(cache, i, [&q, &k, &v], &lengths, stack.windows[i]);
            x = block.attended_rows(&x, &mixed, RowCount::Few, pass);
            if let Some(cross) = &layer.cross {
                let (keys, values) = memory.layers().held(i);
                x = cross.forward_rows(&x, [keys, values], &prompts, pass);
            }
            x = block.fed_rows(&x, &x, RowCount::Few, pass);
        }
        stack.end(&x, pass)
    }

    fn decode_next(&self, step: Step<'_>, pass: Pass) -> Tensor {
        let Step { embedded, cache, memory, hidden } = step;
        let stack = &self.decoder;
        let mut x = stack.begin(embedded, pass);
        let angles = stack.angles(&cache.positions().unsqueeze(1), x.kind());
        for (i, layer) in stack.layers.iter().enumerate() {
            let block = &layer.block;
            let bias = cache.visible(stack.windows[i]).map(|seen| hide(&seen, x.kind()));
            let (normed, residual) = before(block.attention_norm.as_ref(), &x);
            let angles = block.angles(&angles);
            let mixed = block.attention.step(&normed, angles, cache, i, bias.as_ref(), pass);
            x = block.attended(&residual, &mixed, pass);
            if let Some(cross) = &layer.cross {
                let (normed, beside) = cross.norm.before(&x);
                let (k, v) = memory.layer(i);
                let q = cross.queries(&normed, pass);
                let mixed = cross.heads.mix_next([&q, &k, &v], hidden.as_ref(), pass);
                x = layer.crossed(cross, &beside, &mixed, pass);
            }
            x = layer.fed(&x, pass);
        }
        stack.end(&x, pass)
    }

    fn layers(&mut self) -> TrunkLayers<'_> {
        let Self { words, encoder, decoder, .. } = self;
        let linears = encoder.linears().chain(decoder.linears()).collect();
        TrunkLayers { linears, words: words.iter_mut().collect(), tables: Vec::new() }
    }
}

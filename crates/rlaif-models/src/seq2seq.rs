//! Parts that encoder-decoder families share: attention with padding excluded, the embeddings of both sides, decoding.

mod block;
mod classifier;
mod cross;
mod decode;
mod model;
mod trunk;

use rlaif_lm::{EncodedTokens, EncoderStates, Mask, TokenBatch};
use rlaif_torch::{AttentionOptions, Keys, RowLengths};
use tch::{Kind, Tensor};

use crate::{
    adapter::Pass,
    layers::{Linear, Visible, attend, hide, in_heads},
    recompute::Shallow,
};
pub(crate) use block::{Attentions, Context, Role, Seq2SeqBlock, run_blocks};
pub(crate) use classifier::{HeadSettings, Start, classifier};
pub(crate) use cross::CrossKeys;
pub(crate) use decode::{RowStep, Seq2SeqTrunk, Step};
pub(crate) use model::{LmHead, language_model};
pub(crate) use trunk::{Trunk, TrunkLayers, check_encoder_decoder, shared_words};

/// Multi-head attention to its own input, or to the states of an encoder.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) heads: i64,
    pub(crate) head_dim: i64,
    /// Factor of the scores.
    pub(crate) scale: f64,
    pub(crate) dropout: f64,
}

impl Attention {
    fn heads(&self, x: &Tensor) -> Tensor {
        in_heads(x, self.heads, self.head_dim)
    }

    /// The layers for keys and values.
    pub(crate) fn cross_keys(&self) -> CrossKeys<'_> {
        CrossKeys { k: &self.k, v: &self.v, heads: self.heads, head_dim: self.head_dim }
    }

    /// Self-attention of `x` `[B, T, d_model]`, before the output layer.
    pub(crate) fn self_attention(
        &self,
        x: &Tensor,
        scores: &AttentionBias<'_>,
        pass: Pass,
    ) -> Tensor {
        let qkv = Linear::project([&self.q, &self.k, &self.v], x, pass);
        self.attend(&qkv, scores, pass)
    }

    /// Cross-attention of `x` `[B, T, d_model]` to the encoder's states, `[B, S, d_model]` or
    /// unpadded, before the output layer.
    pub(crate) fn cross_attention(
        &self,
        x: &Tensor,
        encoded: &Tensor,
        cover: &Cover,
        pass: Pass,
    ) -> Tensor {
        let q = self.q.forward(x, pass);
        let [k, v] = Linear::project([&self.k, &self.v], encoded, pass);
        self.attend(&[q, k, v], &AttentionBias { bias: None, cover, keys: Keys::All }, pass)
    }

    fn attend(&self, [q, k, v]: &[Tensor; 3], scores: &AttentionBias<'_>, pass: Pass) -> Tensor {
        let options = AttentionOptions {
            head_dim: Some(self.head_dim),
            scale: self.scale,
            keys: scores.keys,
            bias: scores.bias,
            mask: scores.cover.mask(),
            rows: scores.cover.rows(),
            dropout: pass.dropout_p(self.dropout),
        };
        rlaif_torch::attention(q, k, v, &options)
    }

    /// Attention of one query per row, `x` `[B, 1, d_model]`, to keys and values `[B, heads, S,
    /// d_kv]` in the cache; returns the input of the output layer.
    pub(crate) fn step(
        &self,
        x: &Tensor,
        k: &Tensor,
        v: &Tensor,
        bias: Option<&Tensor>,
        pass: Pass,
    ) -> Tensor {
        let q = self.heads(&self.q.forward(x, pass)).transpose(1, 2);
        let visible = bias.map_or(Visible::All, Visible::Bias);
        let mixed = attend(&q, k, v, &visible, self.scale, pass.dropout_p(self.dropout));
        mixed.transpose(1, 2).flatten(2, 3)
    }

    pub(crate) fn linears(&mut self) -> [&mut Linear; 4] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o]
    }
}

impl Shallow for Attention {
    fn handle(&self) -> Self {
        Self {
            q: self.q.handle(),
            k: self.k.handle(),
            v: self.v.handle(),
            o: self.o.handle(),
            ..*self
        }
    }
}

/// The bias added to the scores of an attention, and the visible keys.
#[derive(Clone, Copy)]
pub(crate) struct AttentionBias<'a> {
    /// `[1, heads, T, S]`.
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) cover: &'a Cover,
    pub(crate) keys: Keys,
}

/// Exclusion of padding from an attention.
#[derive(Debug)]
pub(crate) enum Cover {
    /// There is no padding.
    Full,
    /// An additive mask `[B, 1, 1, S]` hides it.
    Mask(Tensor),
    /// The rows are concatenated without padding: numbers of queries and keys of each row.
    Unpadded { queries: Vec<i64>, keys: Vec<i64> },
}

impl Cover {
    pub(crate) fn mask(&self) -> Option<&Tensor> {
        match self {
            Self::Mask(mask) => Some(mask),
            Self::Full | Self::Unpadded { .. } => None,
        }
    }

    pub(crate) fn rows(&self) -> Option<RowLengths<'_>> {
        match self {
            Self::Unpadded { queries, keys } => Some(RowLengths { queries, keys }),
            Self::Full | Self::Mask(_) => None,
        }
    }

    /// Padding of the encoder's self-attention.
    pub(crate) fn self_attention(tokens: &EncodedTokens, kind: Kind) -> Self {
        match tokens {
            EncodedTokens::Unpadded(lengths) => {
                Self::Unpadded { queries: lengths.clone(), keys: lengths.clone() }
            }
            EncodedTokens::Padded(mask) => Self::hiding(mask, kind),
            EncodedTokens::Full => Self::Full,
        }
    }

    /// Padding of the cross-attention of `width` queries in each row.
    pub(crate) fn cross_attention(tokens: &EncodedTokens, width: i64, kind: Kind) -> Self {
        match tokens {
            EncodedTokens::Unpadded(lengths) => {
                Self::Unpadded { queries: vec![width; lengths.len()], keys: lengths.clone() }
            }
            EncodedTokens::Padded(mask) => Self::hiding(mask, kind),
            EncodedTokens::Full => Self::Full,
        }
    }

    fn hiding(mask: &Mask, kind: Kind) -> Self {
        Self::Mask(hide(&mask.tensor().unsqueeze(1).unsqueeze(1), kind))
    }
}

impl Shallow for Cover {
    fn handle(&self) -> Self {
        match self {
            Self::Full => Self::Full,
            Self::Mask(mask) => Self::Mask(mask.shallow_clone()),
            Self::Unpadded { queries, keys } => {
                Self::Unpadded { queries: queries.clone(), keys: keys.clone() }
            }
        }
    }
}

/// Tokens in the layout of the batch, with padding between them.
pub(crate) fn as_collated(prompts: &TokenBatch) -> EncodedTokens {
    if prompts.is_full() {
        EncodedTokens::Full
    } else {
        EncodedTokens::Padded(prompts.mask().clone())
    }
}

/// Hidden states `[1, N, H]` of rows with these lengths, padded on the right.
pub(crate) fn padded(hidden: &Tensor, lengths: &[i64]) -> EncoderStates {
    let (tokens, size) = (hidden.size()[1], hidden.size()[2]);
    let width = lengths.iter().copied().max().unwrap_or(0);
    let mut begin = 0;
    let mut places = Vec::new();
    for &length in lengths {
        // The last token is followed by a row of zeros.
        places.extend((0..width).map(|t| if t < length { begin + t } else { tokens }));
        begin += length;
    }
    let places = Tensor::from_slice(&places).to_device(hidden.device());
    let zeros = Tensor::zeros([1, size], (hidden.kind(), hidden.device()));
    let shape = [lengths.len() as i64, width];
    let rows = Tensor::cat(&[&hidden.squeeze_dim(0), &zeros], 0).index_select(0, &places);
    EncoderStates {
        hidden: rows.view([shape[0], width, size]),
        tokens: EncodedTokens::Padded(Mask::new(places.ne(tokens).view(shape))),
    }
}

//! The vocabulary head as a value, so that log-probabilities can be computed chunk by chunk.

use rlaif_torch::{RowKind, RowLinear};
use tch::{Kind, Tensor};

/// Maps hidden states to logits: `z = (scale · x) Wᵀ + bias + s (x Aᵀ) Bᵀ`, and with a cap
/// `cap · tanh(z / cap)`.
///
/// A value of shallow handles instead of a method, so that a backward pass can recompute a chunk of
/// logits without the model.
#[derive(Debug)]
pub struct VocabHead {
    /// W, `[V, H]`.
    pub weight: Tensor,
    /// `[V]`.
    pub bias: Option<Tensor>,
    /// Factor of the hidden states: `d_model^-0.5` for T5 with tied embeddings.
    pub scale: f64,
    /// Soft cap of the logits (Gemma 2).
    pub cap: Option<f64>,
    /// A LoRA adapter on the head.
    pub adapter: Option<HeadAdapter>,
}

/// A LoRA adapter on the vocabulary head.
#[derive(Debug)]
pub struct HeadAdapter {
    /// A, `[r, H]`.
    pub a: Tensor,
    /// B, `[V, r]`.
    pub b: Tensor,
    /// s.
    pub scale: f64,
}

impl VocabHead {
    /// Logits `[.., V]` of hidden states `[.., H]`, in the dtype of the weights.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let hidden = if self.scale == 1. { hidden.shallow_clone() } else { hidden * self.scale };
        let logits = hidden.linear(&self.weight, self.bias.as_ref());
        self.capped(match &self.adapter {
            Some(adapter) => {
                let low = hidden.linear(&adapter.a, None::<&Tensor>);
                logits + low.linear(&adapter.b, None::<&Tensor>) * adapter.scale
            }
            None => logits,
        })
    }

    fn capped(&self, logits: Tensor) -> Tensor {
        match self.cap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// [`VocabHead::logits`] of the rows `[B, H]` of a decoding step, in f32 where that costs
    /// nothing. On the CPU, a row's logits are bitwise independent of the other rows.
    pub(crate) fn row_logits(&self, hidden: &Tensor) -> Tensor {
        if !rlaif_torch::rows_serve(self.weight.kind(), self.weight.device()) {
            return self.logits(hidden);
        }
        let scaled = (self.scale != 1.).then(|| hidden * self.scale);
        let hidden = scaled.as_ref().unwrap_or(hidden);
        let layer = RowLinear { results: RowKind::Float, ..RowLinear::default() };
        let mut logits = layer.apply(hidden, &[(&self.weight, self.bias.as_ref())]).remove(0);
        if let Some(HeadAdapter { a, b, scale }) = &self.adapter {
            let low = layer.apply(&hidden.to_kind(a.kind()), &[(a, None)]).remove(0) * *scale;
            let low = low.to_kind(b.kind());
            logits += layer.apply(&low, &[(b, None)]).remove(0);
        }
        self.capped(logits)
    }

    /// Log-probabilities over the vocabulary, f32 `[.., V]`, at a sampling temperature.
    pub fn log_softmax(&self, hidden: &Tensor, temperature: f64) -> Tensor {
        let logits = self.logits(hidden).to_kind(Kind::Float);
        let logits = if temperature == 1. { logits } else { logits / temperature };
        logits.log_softmax(-1, Kind::Float)
    }
}

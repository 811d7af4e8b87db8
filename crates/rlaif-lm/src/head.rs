//! The vocabulary head as a value, so that log-probabilities can be computed chunk by chunk.

use rlaif_torch::{RowKind, RowLinear};
use tch::{Kind, Tensor};

/// Maps hidden states to logits: `z = (scale · x) Wᵀ + bias + s (x Aᵀ) Bᵀ`, and with a cap
/// `cap · tanh(z / cap)`. With DoRA, the logits before the bias are multiplied by a factor each.
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
    /// DoRA's factor of each logit before its bias, `[V]`.
    pub ratio: Option<Tensor>,
}

impl HeadAdapter {
    /// The sum of the head's logits and the adapter's, with DoRA's factors.
    fn scaled(&self, logits: Tensor, added: &Tensor, bias: Option<&Tensor>) -> Tensor {
        match (&self.ratio, bias) {
            (None, _) => logits + added,
            (Some(ratio), None) => (logits + added) * ratio,
            (Some(ratio), Some(bias)) => (logits - bias + added) * ratio + bias,
        }
    }

    /// The head's weight with the adapter in it, in f32 or wider.
    pub(crate) fn on(&self, weight: &Tensor) -> Tensor {
        let sum = weight + self.b.matmul(&self.a) * self.scale;
        match &self.ratio {
            Some(ratio) => sum * ratio.unsqueeze(1),
            None => sum,
        }
    }
}

impl VocabHead {
    /// Logits `[.., V]` of hidden states `[.., H]`, in the dtype of the weights.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let hidden = if self.scale == 1. { hidden.shallow_clone() } else { hidden * self.scale };
        let logits = hidden.linear(&self.weight, self.bias.as_ref());
        self.capped(match &self.adapter {
            Some(adapter) => {
                let low = hidden.linear(&adapter.a, None::<&Tensor>);
                let added = low.linear(&adapter.b, None::<&Tensor>) * adapter.scale;
                adapter.scaled(logits, &added, self.bias.as_ref())
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
        if let Some(adapter) = &self.adapter {
            let HeadAdapter { a, b, scale, .. } = adapter;
            let low = layer.apply(&hidden.to_kind(a.kind()), &[(a, None)]).remove(0) * *scale;
            let low = low.to_kind(b.kind());
            let added = layer.apply(&low, &[(b, None)]).remove(0);
            logits = adapter.scaled(logits, &added, self.bias.as_ref());
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

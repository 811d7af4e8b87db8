//! The feed-forward layer of the Llama family.

use tch::Tensor;

use super::{config::Plan, variant::GateRule};
use crate::{
    adapter::Pass,
    error::ModelError,
    layers::{Activation, Linear, dropout},
    recompute::Shallow,
    weights::TensorTree,
};

/// `down (act(gate x) · up x)`, or `down act(up x)`.
#[derive(Debug)]
pub(super) struct FeedForward {
    pub(super) gate: Gate,
    /// The up projection; with [`Gate::Fused`], gate and up together.
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) activation: Activation,
    /// Dropout of the input of `down`.
    dropout: f64,
}

/// Location of the gate.
#[derive(Debug)]
pub(super) enum Gate {
    Apart(Linear),
    /// The first half of the output of `up`.
    Fused,
    Absent,
}

impl FeedForward {
    pub(super) fn load(
        weights: &TensorTree<'_>,
        Plan { raw, shape, .. }: Plan<'_>,
        [gate, up, down]: [&'static str; 3],
        inner: i64,
    ) -> Result<Self, ModelError> {
        let hidden = shape.hidden;
        let layer = |key, size| {
            let std = raw.initializer_range;
            Linear::load_stored(&weights.at(key), size, shape.mlp_bias, std, shape.matrices)
        };
        Ok(Self {
            gate: match shape.gate {
                GateRule::Apart => Gate::Apart(layer(gate, [hidden, inner])),
                GateRule::Fused => Gate::Fused,
                GateRule::Absent => Gate::Absent,
            },
            up: match shape.gate {
                GateRule::Fused => layer(up, [hidden, 2 * inner]),
                GateRule::Apart | GateRule::Absent => layer(up, [hidden, inner]),
            },
            down: layer(down, [inner, hidden]),
            activation: Activation::parse("hidden_act", &raw.hidden_act)?,
            dropout: shape.inner_dropout,
        })
    }

    /// The input of `down`.
    pub(super) fn inner(&self, x: &Tensor, pass: Pass) -> Tensor {
        let inner = match &self.gate {
            Gate::Apart(gate) => {
                let [gate, up] = Linear::project([gate, &self.up], x, pass);
                self.activation.gated(&gate, &up)
            }
            Gate::Fused => self.gated(&self.up.forward(x, pass)),
            Gate::Absent => self.activation.apply(&self.up.forward(x, pass)),
        };
        dropout(inner, self.dropout, pass.dropout)
    }

    pub(super) fn forward(&self, x: &Tensor, pass: Pass) -> Tensor {
        self.down.forward(&self.inner(x, pass), pass)
    }

    /// `act(gate) · up` of both in one tensor.
    pub(super) fn gated(&self, both: &Tensor) -> Tensor {
        let half = both.size()[both.dim() - 1] / 2;
        self.activation.gated(&both.narrow(-1, 0, half), &both.narrow(-1, half, half))
    }

    pub(super) fn linears(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = match &mut self.gate {
            Gate::Apart(gate) => vec![gate],
            Gate::Fused | Gate::Absent => Vec::new(),
        };
        all.extend([&mut self.up, &mut self.down]);
        all
    }
}

impl Shallow for FeedForward {
    fn handle(&self) -> Self {
        Self {
            gate: match &self.gate {
                Gate::Apart(gate) => Gate::Apart(gate.handle()),
                Gate::Fused => Gate::Fused,
                Gate::Absent => Gate::Absent,
            },
            up: self.up.handle(),
            down: self.down.handle(),
            ..*self
        }
    }
}

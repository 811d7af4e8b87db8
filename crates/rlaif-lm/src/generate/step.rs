//! Steps on a GPU: recorded and replayed, and the draw where the logits are.

use rlaif_torch::CudaGraph;
use tch::{Device, Kind, Tensor};

use super::config::Sampling;
use crate::{cache::DecodeState, error::LmError, forward::Forward, policy::Policy};

/// How often a step must have the same layout before it is recorded.
const REPEATS: usize = 3;

/// Runs steps of decoding. On a CUDA device, a step that has had the same layout a few times is
/// recorded as a graph and replayed from then on; what cannot be recorded is run as it is.
pub(super) struct Stepper<'a> {
    policy: &'a dyn Policy,
    forward: Forward<'a>,
    /// Rows, columns read, and whether some are hidden.
    layout: (usize, i64, bool),
    seen: usize,
    recorded: Option<Recorded>,
    records: bool,
}

struct Recorded {
    graph: CudaGraph,
    inputs: Tensor,
    logits: Tensor,
}

impl<'a> Stepper<'a> {
    pub(super) fn new(policy: &'a dyn Policy, forward: Forward<'a>) -> Self {
        let records = matches!(policy.spec().device, Device::Cuda(_));
        Self { policy, forward, layout: (0, 0, false), seen: 0, recorded: None, records }
    }

    /// Logits `[B, V]` after the tokens `inputs`, int64 `[B]`; they are overwritten by the next
    /// step.
    pub(super) fn step(
        &mut self,
        state: &mut DecodeState,
        inputs: &Tensor,
    ) -> Result<Tensor, LmError> {
        if !self.records {
            return self.policy.step(state, inputs, self.forward);
        }
        let layout = state.layout();
        if layout != self.layout {
            self.layout = layout;
            self.seen = 0;
            self.recorded = None;
        }
        self.seen += 1;
        if self.recorded.is_none() && self.seen > REPEATS {
            let inputs = inputs.copy();
            let (policy, forward) = (self.policy, self.forward);
            let device = policy.spec().device;
            match CudaGraph::record(device, || policy.step(state, &inputs, forward)) {
                Ok((graph, logits)) => self.recorded = Some(Recorded { graph, inputs, logits }),
                // An operation that cannot be recorded: none will be in this call.
                Err(_) => self.records = false,
            }
        }
        match &self.recorded {
            Some(Recorded { graph, inputs: place, logits }) => {
                place.shallow_clone().copy_(inputs);
                state.cache.check_space()?;
                graph.replay()?;
                Ok(logits.shallow_clone())
            }
            None => self.policy.step(state, inputs, self.forward),
        }
    }
}

/// Tokens chosen where the logits are.
pub(super) struct Drawn {
    /// int64 `[B]`.
    pub(super) ids: Tensor,
    /// f32 `[B]`; NaN where a logit is NaN or +∞.
    pub(super) log_probs: Tensor,
}

/// Chooses for each row of logits `[B, V]` the token on which its number of `uniforms`, f64 `[B]`,
/// falls when the probabilities are laid side by side in order of ids.
pub(super) fn draw(logits: &Tensor, sampling: &Sampling, uniforms: &Tensor) -> Drawn {
    let mut logits = logits.to_kind(Kind::Float);
    let temperature = sampling.temperature();
    if temperature != 1. {
        logits /= temperature;
    }
    let log_p = logits.log_softmax(-1, Kind::Float);
    let ids = match sampling {
        Sampling::Greedy => logits.argmax(-1, true),
        Sampling::Sample { .. } => {
            let ends = log_p.exp().cumsum(-1, Kind::Double);
            let vocab = ends.size()[1];
            let goals = uniforms.unsqueeze(1) * ends.narrow(1, vocab - 1, 1);
            let none = None::<&Tensor>;
            goals.searchsorted(&ends, false, true, "right", none).clamp_max(vocab - 1)
        }
    };
    let log_probs = log_p.gather(1, &ids, false).squeeze_dim(1);
    Drawn { ids: ids.squeeze_dim(1), log_probs }
}

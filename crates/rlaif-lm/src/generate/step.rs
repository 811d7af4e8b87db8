//! Steps on a GPU: recorded and replayed, with the draw on the device.

use rlaif_torch::CudaGraph;
use tch::{Device, Kind, Tensor};

use super::config::Sampling;
use crate::{cache::DecodeState, error::LmError, forward::Forward, policy::Policy};

/// Number of steps with the same layout before a step is recorded.
const REPEATS: usize = 3;

/// Runs decoding steps. On a CUDA device, a step is recorded as a graph once its layout has
/// occurred a few times, and replayed from then on; steps that cannot be recorded run directly.
pub(super) struct Stepper<'a> {
    policy: &'a dyn Policy,
    forward: Forward<'a>,
    /// Number of rows, number of columns read, and `true` if some columns are masked.
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

    /// Logits `[B, V]` after the tokens `inputs`, int64 `[B]`; the next step overwrites them.
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
                // An operation that cannot be recorded: stop recording in this call.
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

/// Tokens chosen on the device.
pub(super) struct Drawn {
    /// int64 `[B]`.
    pub(super) ids: Tensor,
    /// f32 `[B]`; NaN where a logit is NaN or +∞.
    pub(super) log_probs: Tensor,
}

/// Chooses a token for each row of logits `[B, V]`: the one whose interval contains the row's
/// number in `uniforms`, f64 `[B]`, with the probabilities laid side by side in order of ids.
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

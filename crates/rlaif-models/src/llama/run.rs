//! A forward pass over a run of tokens without padding, prompts shared: see
//! [`rlaif_lm::Branches`].

use rlaif_lm::{Activations, Branches, LmError, Routers};
use tch::{Kind, Tensor};

use super::{Context, Trunk};
use crate::{
    adapter::Pass,
    layers::{Visible, hide},
    recompute::{Shallow, recompute_many},
};

impl Trunk {
    /// Last hidden states `[N, H]` of the run.
    pub(super) fn forward_run(
        &self,
        run: &Branches,
        routers: Option<&Routers>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let mut x = self.embed(run.ids(), run.positions(), pass);
        let (kind, device) = (x.kind(), x.device());
        let all = self.angles(run.positions(), run.positions(), kind);
        let windows = self.shape.windows.iter().map(|w| w.filter(|window| *window < run.width()));
        let mut made: Option<(i64, Tensor)> = None;
        for (block, window) in self.blocks.iter().zip(windows) {
            if let Some(window) = window
                && made.as_ref().is_none_or(|(of, _)| *of != window)
            {
                let columns = Tensor::arange(run.width(), (Kind::Int64, device));
                let distance = columns.unsqueeze(1) - &columns;
                let seen = distance.ge(0).logical_and(&distance.lt(window));
                made = Some((window, hide(&seen, kind)));
            }
            let bias = window.and(made.as_ref().map(|(_, bias)| bias));
            let visible = bias.map_or(Visible::Causal, Visible::Bias);
            let angles = block.angles(&all);
            let routed;
            (x, routed) = match pass.activations {
                Activations::Keep => {
                    block.forward_run(&x, Context { angles, visible: &visible }, run, pass)
                }
                Activations::Recompute => {
                    let angles = angles.map(Shallow::handle);
                    let bias = bias.map(Tensor::handle);
                    let run = run.handle();
                    let wanted = routers.is_some();
                    let made = recompute_many(block, &[&x], move |block, inputs| {
                        let visible = bias.as_ref().map_or(Visible::Causal, Visible::Bias);
                        let context = Context { angles: angles.as_ref(), visible: &visible };
                        let (x, routed) = block.forward_run(&inputs[0], context, &run, pass);
                        [Some(x), routed.filter(|_| wanted)].into_iter().flatten().collect()
                    })?;
                    let mut made = made.into_iter();
                    (made.next().unwrap_or(x), made.next())
                }
            };
            block.count(routers, routed.as_ref(), None);
        }
        Ok(self.norm.forward(&x))
    }
}

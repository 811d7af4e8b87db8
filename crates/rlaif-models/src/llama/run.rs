//! A forward pass over a run of tokens without padding, prompts shared: see
//! [`rlaif_lm::Branches`].

use rlaif_lm::{Activations, Branches, LmError};
use tch::{Kind, Tensor};

use super::{Attention, Block, Trunk};
use crate::{
    adapter::Pass,
    layers::{Visible, attention, hide},
    recompute::{Shallow, recompute},
};

impl Trunk {
    /// Last hidden states `[N, H]` of the run.
    pub(super) fn forward_run(&self, run: &Branches, pass: Pass) -> Result<Tensor, LmError> {
        let mut x = self.embed(run.ids());
        let (kind, device) = (x.kind(), x.device());
        let angles = self.rope.angles(run.positions(), kind);
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
            x = match pass.activations {
                Activations::Keep => block.forward_run(&x, &angles, &visible, run, pass),
                Activations::Recompute => {
                    let (angles, bias) = (angles.handle(), bias.map(Tensor::handle));
                    let run = run.handle();
                    recompute(block, &[&x], move |block, inputs| {
                        let visible = bias.as_ref().map_or(Visible::Causal, Visible::Bias);
                        block.forward_run(&inputs[0], &angles, &visible, &run, pass)
                    })?
                }
            };
        }
        Ok(self.norm.forward(&x))
    }
}

impl Block {
    fn forward_run(
        &self,
        x: &Tensor,
        angles: &(Tensor, Tensor),
        visible: &Visible<'_>,
        run: &Branches,
        pass: Pass,
    ) -> Tensor {
        let (normed, x) = self.attention_norm.before(x);
        let mixed = self.attention.forward_run(&normed, angles, visible, run, pass);
        self.finish(&self.attention.o.onto(&x, &mixed, pass), pass)
    }
}

impl Attention {
    /// Projections on the run `[N, H]`, attention on its rows.
    fn forward_run(
        &self,
        x: &Tensor,
        angles: &(Tensor, Tensor),
        visible: &Visible<'_>,
        run: &Branches,
        pass: Pass,
    ) -> Tensor {
        // The run stands as one row of a batch, [1, N, H]: angles are the run's, [N, 1, D].
        let [q, k, v] = self.project(&x.unsqueeze(0), angles, pass);
        let rows = |x: &Tensor, heads: i64| {
            let rows = run.to_rows(&x.view([-1, heads * self.head_dim]));
            let [r, w] = [rows.size()[0], rows.size()[1]];
            rows.view([r, w, heads, self.head_dim])
        };
        let (k, v) = (rows(&k, self.kv_heads), rows(&v, self.kv_heads));
        let p = pass.dropout_p(self.dropout);
        let mixed = attention(&rows(&q, self.heads), &k, &v, visible, self.scale(), p);
        run.from_rows(&mixed)
    }
}

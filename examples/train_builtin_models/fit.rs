//! The training loop that all four models share: AdamW, warm-up, cosine decay, a budget.

use std::error::Error;
use std::time::{Duration, Instant};

use rlaif::lm::Parameters;
use rlaif::tch::Tensor;
use rlaif::torch::{AdamW, AdamWOptions, ParamGroup};

/// Length of training.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Budget {
    /// This number of optimizer steps.
    Steps(u64),
    /// As many steps as fit into this time. The number is measured while the learning rate warms
    /// up, so that a run with [`Budget::Steps`] of that number repeats this one.
    Time(Duration),
}

/// The settings of a stage of training.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// The name of the stage.
    pub(crate) name: &'static str,
    /// The length of training.
    pub(crate) budget: Budget,
    /// The highest learning rate.
    pub(crate) lr: f64,
    /// Number of warm-up steps.
    pub(crate) warm_up: u64,
    /// Weight decay of matrices; vectors are not decayed.
    pub(crate) weight_decay: f64,
}

/// Trains `parameters` on what `loss` returns for each step. Returns the number of steps.
pub(crate) fn fit(
    parameters: &Parameters,
    plan: Plan,
    mut loss: impl FnMut(u64) -> Result<Tensor, Box<dyn Error>>,
) -> Result<u64, Box<dyn Error>> {
    let group = |matrices: bool, weight_decay| {
        let mut params = parameters.trainable();
        params.retain(|(_, tensor)| (tensor.dim() > 1) == matrices);
        ParamGroup {
            params,
            options: AdamWOptions {
                lr: 0.,
                betas: (0.9, 0.98),
                weight_decay,
                ..Default::default()
            },
        }
    };
    let mut optimizer = AdamW::new(vec![group(true, plan.weight_decay), group(false, 0.)])?;
    let start = Instant::now();
    let mut half_warm = None;
    let mut total = match plan.budget {
        Budget::Steps(steps) => steps,
        Budget::Time(_) => u64::MAX,
    };
    let mut sum = Tensor::from(0f32);
    let mut shown = 0;
    let mut step = 0;
    while step < total {
        let lr = plan.lr * share_of_rate(step, plan.warm_up, total);
        optimizer.set_lr(0, lr)?;
        optimizer.set_lr(1, lr)?;
        optimizer.zero_grad()?;
        let value = loss(step)?;
        value.backward();
        optimizer.clip_grad_norm(Some(1.))?;
        optimizer.step()?;
        sum = sum.to_device(value.device()) + value.detach();
        step += 1;
        if let Budget::Time(time) = plan.budget {
            if step == plan.warm_up / 2 {
                half_warm = Some(Instant::now());
            }
            if step == plan.warm_up
                && let Some(since) = half_warm
            {
                let one = since.elapsed().as_secs_f64() / (step - step / 2) as f64;
                let left = time.saturating_sub(start.elapsed()).as_secs_f64();
                total = step + (left / one) as u64;
                println!("{}: {total} steps fit", plan.name);
            }
        }
        if step % 100 == 0 || step == total {
            let mean = sum.double_value(&[]) / (step - shown) as f64;
            let rate = step as f64 / start.elapsed().as_secs_f64();
            println!("{}: step {step}, loss {mean:.4}, {rate:.1} steps/s", plan.name);
            (sum, shown) = (Tensor::from(0f32), step);
        }
    }
    Ok(step)
}

/// Linear warm-up, then a cosine decay to a twentieth.
fn share_of_rate(step: u64, warm_up: u64, total: u64) -> f64 {
    if step < warm_up || total == u64::MAX {
        return ((step + 1) as f64 / warm_up as f64).min(1.);
    }
    let done = (step - warm_up) as f64 / (total - warm_up).max(1) as f64;
    0.05 + 0.95 * 0.5 * (1. + (std::f64::consts::PI * done).cos())
}

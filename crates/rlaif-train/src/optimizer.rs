//! One optimizer step: gradient norm, check for NaN, clipping, schedule, AdamW.

use rlaif_torch::{AdamW, AdamWOptions, ParamGroup, dist::World, non_finite_grads};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{error::TrainError, schedule::Schedule};

/// The optimizer's settings. The default is PyTorch's AdamW without weight decay, at a constant
/// rate of 1e-5, with gradients clipped to a norm of 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Peak learning rate η.
    pub lr: f64,
    /// Learning rate of value heads (parameters named `v_head.…`); by default, `lr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_head_lr: Option<f64>,
    /// Decay rates β₁ and β₂ of the two moments, each in [0, 1).
    pub betas: (f64, f64),
    /// ε, added to the square root of the second moment.
    pub eps: f64,
    /// Weight decay λ of matrices; norms and biases are not decayed.
    pub weight_decay: f64,
    /// Maximum global norm of the gradients, which are scaled down to it; 0 disables clipping.
    pub max_grad_norm: f64,
    /// Schedule of the rate after warm-up.
    pub schedule: Schedule,
    /// Number of warm-up steps.
    pub warmup_steps: u64,
    /// Steps whose gradients have NaN or infinity are skipped; this many consecutive ones stop the
    /// run, and so does the first step of all.
    pub max_skipped: u64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            lr: 1e-5,
            value_head_lr: None,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.,
            max_grad_norm: 1.,
            schedule: Schedule::Constant,
            warmup_steps: 0,
            max_skipped: 10,
        }
    }
}

impl OptimizerConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`TrainError::Setting`] with the field as `optimizer.lr`, the section's name in every
    /// configuration.
    pub fn check(&self) -> Result<(), TrainError> {
        let amounts = [
            ("optimizer.lr", self.lr),
            ("optimizer.value_head_lr", self.value_head_lr.unwrap_or(self.lr)),
            ("optimizer.eps", self.eps),
            ("optimizer.weight_decay", self.weight_decay),
            ("optimizer.max_grad_norm", self.max_grad_norm),
        ];
        for (field, value) in amounts {
            if !(value.is_finite() && value >= 0.) {
                return Err(TrainError::setting(field, value, "a finite number of at least 0"));
            }
        }
        // With ε = 0, a weight whose gradient was always 0 would make a step of 0 / 0.
        if self.eps == 0. {
            return Err(TrainError::setting("optimizer.eps", 0, "a number above 0"));
        }
        for beta in [self.betas.0, self.betas.1] {
            if !(0. ..1.).contains(&beta) {
                let found = format!("[{}, {}]", self.betas.0, self.betas.1);
                let expected = "two numbers of at least 0 and below 1";
                return Err(TrainError::setting("optimizer.betas", found, expected));
            }
        }
        if self.max_skipped == 0 {
            return Err(TrainError::setting("optimizer.max_skipped", 0, "at least 1"));
        }
        Ok(())
    }
}

/// Numbers of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Steps so far, this one included.
    pub step: u64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The learning rate of this step.
    pub lr: f64,
    /// If the step was skipped: the parameter whose gradient had NaN or infinity.
    pub skipped: Option<String>,
}

/// The state of an [`Optimizer`] that is not a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerProgress {
    /// Steps so far, skipped ones included.
    pub step: u64,
    /// Steps skipped so far.
    pub skipped: u64,
    /// Number of steps skipped since the last step that was made.
    pub skipped_in_a_row: u64,
}

/// AdamW with parameter groups, a schedule, clipping and a check for NaN and infinity.
///
/// Groups: norms and biases (one dimension, or `bias` in the name) are not decayed; value heads
/// (`v_head.…`) have a separate rate.
///
/// ```
/// use rlaif_train::{Optimizer, OptimizerConfig};
/// use tch::{Kind, Tensor};
/// let w = Tensor::from_slice(&[3f32, 4.]).view([1, 2]).set_requires_grad(true);
/// let config = OptimizerConfig { lr: 0.1, ..OptimizerConfig::default() };
/// let mut optimizer = Optimizer::new(vec![("w".into(), w.shallow_clone())], &config, 100)?;
/// (&w * &w).sum(Kind::Float).backward(); // gradient [6, 8]
/// let report = optimizer.step()?;
/// assert_eq!((report.step, report.grad_norm, report.skipped), (1, 10., None));
/// # Ok::<(), rlaif_train::TrainError>(())
/// ```
#[derive(Debug)]
pub struct Optimizer {
    adamw: AdamW,
    /// Peak rate of each of AdamW's groups.
    rates: Vec<f64>,
    config: OptimizerConfig,
    total_steps: u64,
    progress: OptimizerProgress,
    world: World,
}

impl Optimizer {
    /// An optimizer of `parameters`, for a run of `total_steps` steps.
    ///
    /// # Errors
    /// [`TrainError::NothingTrained`] without parameters, [`TrainError::Setting`], and any error of
    /// [`AdamW::new`].
    pub fn new(
        params: Vec<(String, Tensor)>,
        config: &OptimizerConfig,
        total_steps: u64,
    ) -> Result<Self, TrainError> {
        config.check()?;
        if params.is_empty() {
            return Err(TrainError::NothingTrained { why: "all of them are frozen" });
        }
        let mut groups: [Vec<(String, Tensor)>; 4] = Default::default();
        for (name, tensor) in params {
            let of_head = name.starts_with("v_head.");
            let plain = tensor.dim() < 2 || name.contains("bias");
            groups[2 * usize::from(of_head) + usize::from(plain)].push((name, tensor));
        }
        let mut rates = Vec::new();
        let mut built = Vec::new();
        for (i, params) in groups.into_iter().enumerate().filter(|(_, params)| !params.is_empty()) {
            let lr = if i >= 2 { config.value_head_lr.unwrap_or(config.lr) } else { config.lr };
            let weight_decay = if i % 2 == 0 { config.weight_decay } else { 0. };
            let options = AdamWOptions { lr, betas: config.betas, eps: config.eps, weight_decay };
            rates.push(lr);
            built.push(ParamGroup { params, options });
        }
        Ok(Self {
            adamw: AdamW::new(built)?,
            rates,
            config: config.clone(),
            total_steps,
            progress: OptimizerProgress::default(),
            world: World::default(),
        })
    }

    /// Adds up the gradients of all ranks at each step. Losses must then be divided by counts of all ranks, not of
    /// this one.
    pub fn join(&mut self, world: &World) {
        self.world = world.clone();
    }

    /// The processes that train together.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Makes one step with the accumulated gradients, and clears them.
    ///
    /// A step whose gradients have NaN or infinity changes only the number of steps.
    ///
    /// # Errors
    /// [`TrainError::NonFinite`] after [`OptimizerConfig::max_skipped`] consecutive such steps, or if the
    /// first step of all is one: then the weights or the rows are at fault, and later steps are no better.
    /// [`TrainError::Torch`].
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        let factor = self.config.schedule.factor(
            self.progress.step,
            self.config.warmup_steps,
            self.total_steps,
        );
        let max_norm = (self.config.max_grad_norm > 0.).then_some(self.config.max_grad_norm);
        for (group, rate) in self.rates.iter().enumerate() {
            self.adamw.set_lr(group, rate * factor)?;
        }
        self.world.sum_gradients(self.adamw.parameters().map(|(_, parameter)| parameter))?;
        let grad_norm = self.adamw.step_clipped(max_norm)?;
        self.progress.step += 1;
        let lr = self.config.lr * factor;
        let skipped = if grad_norm.is_finite() {
            self.progress.skipped_in_a_row = 0;
            None
        } else {
            self.progress.skipped += 1;
            self.progress.skipped_in_a_row += 1;
            let mut tensors = non_finite_grads(self.adamw.parameters())?;
            tensors.sort();
            let none_was_good = self.progress.skipped == self.progress.step;
            if none_was_good || self.progress.skipped_in_a_row >= self.config.max_skipped {
                return Err(TrainError::NonFinite {
                    step: self.progress.step,
                    skipped: self.progress.skipped_in_a_row,
                    tensors,
                });
            }
            Some(tensors.into_iter().next().unwrap_or_default())
        };
        self.adamw.zero_grad()?;
        Ok(StepReport { step: self.progress.step, grad_norm, lr, skipped })
    }

    /// The progress: numbers of steps and of skipped steps.
    pub fn progress(&self) -> OptimizerProgress {
        self.progress
    }

    /// The parameters with their names.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.adamw.parameters()
    }

    /// The tensors that a checkpoint needs, named as in [`AdamW::state`]: moments, step counts and,
    /// for weights in low precision, the f32 master copies. They share memory with the optimizer.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.adamw.state()
    }

    /// Continues from a saved state.
    ///
    /// # Errors
    /// [`TrainError::Torch`] if the tensors do not fit; the state is then unchanged.
    pub fn restore(
        &mut self,
        state: &[(String, Tensor)],
        progress: OptimizerProgress,
    ) -> Result<(), TrainError> {
        self.adamw.load_state(state)?;
        self.progress = progress;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn param(name: &str, size: &[i64]) -> (String, Tensor) {
        let tensor = Tensor::ones(size, (Kind::Float, Device::Cpu)).set_requires_grad(true);
        (name.to_owned(), tensor)
    }

    fn give_grad(params: &[(String, Tensor)], value: f64) {
        let sum: Tensor = params.iter().map(|(_, t)| t.sum(Kind::Float) * value).sum();
        sum.backward();
    }

    #[test]
    fn norms_and_biases_do_not_decay_and_the_value_head_has_its_rate() {
        let params = vec![
            param("layer.weight", &[2, 2]),
            param("norm.weight", &[2]),
            param("relative_attention_bias.weight", &[2, 2]),
            param("v_head.summary.weight", &[1, 2]),
        ];
        let handles: Vec<Tensor> = params.iter().map(|(_, t)| t.shallow_clone()).collect();
        let config = OptimizerConfig {
            lr: 0.1,
            value_head_lr: Some(0.2),
            weight_decay: 0.5,
            ..OptimizerConfig::default()
        };
        let mut optimizer = Optimizer::new(params, &config, 10).unwrap();
        let sum: Tensor = handles.iter().map(|t| t.sum(Kind::Float) * 0.).sum();
        sum.backward();
        optimizer.step().unwrap();
        // With zero gradients, AdamW only decays: w (1 - lr λ).
        let now: Vec<f64> = handles.iter().map(|t| t.view([-1]).double_value(&[0])).collect();
        for (now, want) in now.iter().zip([0.95, 1., 1., 0.9]) {
            assert!((now - want).abs() < 1e-6, "{now} {want}");
        }
    }

    #[test]
    fn a_step_with_nan_is_skipped_counted_and_in_the_end_refused() {
        let params = vec![param("a", &[2]), param("b", &[2])];
        let (a, b) = (params[0].1.shallow_clone(), params[1].1.shallow_clone());
        let all = [("a".to_owned(), a.shallow_clone()), ("b".to_owned(), b.shallow_clone())];
        let config = OptimizerConfig { max_skipped: 2, ..OptimizerConfig::default() };
        let mut optimizer = Optimizer::new(params, &config, 10).unwrap();
        let poison = || (a.sum(Kind::Float) + b.sum(Kind::Float) * f64::NAN).backward();

        give_grad(&all, 1.);
        assert_eq!(optimizer.step().unwrap().skipped, None);
        let before = a.copy();
        poison();
        let report = optimizer.step().unwrap();
        assert_eq!(report.skipped.as_deref(), Some("b"));
        assert_eq!(a, before);
        give_grad(&all, 1.);
        assert_eq!(optimizer.step().unwrap().skipped, None);
        assert_ne!(a, before);

        poison();
        optimizer.step().unwrap();
        poison();
        let error = optimizer.step().unwrap_err();
        assert!(error.to_string().contains("gradient of `b`; 2 steps in a row"), "{error}");
        assert_eq!(
            optimizer.progress(),
            OptimizerProgress { step: 5, skipped: 3, skipped_in_a_row: 2 }
        );
    }

    #[test]
    fn nan_in_the_first_step_of_all_ends_the_run() {
        let params = vec![param("a", &[2])];
        let a = params[0].1.shallow_clone();
        let mut optimizer = Optimizer::new(params, &OptimizerConfig::default(), 10).unwrap();
        (a.sum(Kind::Float) * f64::NAN).backward();
        let error = optimizer.step().unwrap_err();
        assert!(matches!(error, TrainError::NonFinite { step: 1, skipped: 1, .. }), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let config = OptimizerConfig::default();
        assert!(matches!(
            Optimizer::new(vec![], &config, 1),
            Err(TrainError::NothingTrained { .. })
        ));
        for config in [
            OptimizerConfig { max_grad_norm: -1., ..config.clone() },
            OptimizerConfig { max_grad_norm: f64::NAN, ..config.clone() },
            OptimizerConfig { value_head_lr: Some(-1.), ..config.clone() },
            OptimizerConfig { lr: f64::INFINITY, ..config.clone() },
            OptimizerConfig { max_skipped: 0, ..config },
        ] {
            assert!(Optimizer::new(vec![param("a", &[1])], &config, 1).is_err(), "{config:?}");
        }
    }

    #[test]
    fn a_restored_optimizer_goes_on_bit_by_bit() {
        let config = OptimizerConfig {
            lr: 0.1,
            schedule: Schedule::Cosine,
            warmup_steps: 2,
            ..OptimizerConfig::default()
        };
        let fresh = || vec![param("a", &[3, 2]), param("b", &[2])];
        let params = fresh();
        let handles: Vec<(String, Tensor)> =
            params.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
        let mut optimizer = Optimizer::new(params, &config, 8).unwrap();
        for i in 0..4 {
            give_grad(&handles, f64::from(i) - 1.5);
            optimizer.step().unwrap();
        }
        let copies = fresh();
        for ((_, to), (_, from)) in copies.iter().zip(&handles) {
            tch::no_grad(|| to.shallow_clone().copy_(from));
        }
        let seen: Vec<(String, Tensor)> =
            copies.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
        let mut other = Optimizer::new(copies, &config, 8).unwrap();
        let state: Vec<_> = optimizer.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
        other.restore(&state, optimizer.progress()).unwrap();
        for i in 0..4 {
            give_grad(&handles, f64::from(i) * 0.3 - 0.7);
            give_grad(&seen, f64::from(i) * 0.3 - 0.7);
            assert_eq!(optimizer.step().unwrap(), other.step().unwrap());
        }
        for ((_, one), (_, two)) in handles.iter().zip(&seen) {
            assert_eq!(one, two);
        }
    }
}

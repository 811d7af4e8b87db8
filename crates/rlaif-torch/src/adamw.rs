//! AdamW with an accessible state: named, readable, restorable.

use std::collections::{BTreeMap, BTreeSet};
use std::ptr;

use rlaif_core::BadSetting;
use tch::{Device, Kind, Tensor};

use crate::error::TorchError;
use crate::{ffi, grad};

/// The settings of one parameter group. The default is PyTorch's.
///
/// ```
/// let options = rlaif_torch::AdamWOptions { lr: 1e-5, ..Default::default() };
/// assert_eq!(options.betas, (0.9, 0.999));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// Learning rate η.
    pub lr: f64,
    /// Decay rates β₁ and β₂ of the two moments, each in [0, 1).
    pub betas: (f64, f64),
    /// ε, added to the square root of the second moment.
    pub eps: f64,
    /// Weight decay λ, applied to the parameter and not to the gradient.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2 }
    }
}

impl AdamWOptions {
    fn check(&self) -> Result<(), TorchError> {
        let setting = |setting: &'static str, value: f64, expected: &'static str| {
            Err(BadSetting::new(setting, value, expected).into())
        };
        let amount = |v: f64| v.is_finite() && v >= 0.0;
        let (beta1, beta2) = self.betas;
        match () {
            () if !amount(self.lr) => setting("lr", self.lr, "a finite number of at least 0"),
            () if !(0.0..1.0).contains(&beta1) => setting("betas.0", beta1, "at least 0, below 1"),
            () if !(0.0..1.0).contains(&beta2) => setting("betas.1", beta2, "at least 0, below 1"),
            () if !amount(self.eps) => setting("eps", self.eps, "a finite number of at least 0"),
            () if !amount(self.weight_decay) => {
                setting("weight_decay", self.weight_decay, "a finite number of at least 0")
            }
            () => Ok(()),
        }
    }
}

/// Parameters that share their settings.
#[derive(Debug)]
pub struct ParamGroup {
    /// Name and tensor of each parameter: a leaf that requires a gradient, in f32, bf16 or f16.
    pub params: Vec<(String, Tensor)>,
    /// The settings of these parameters.
    pub options: AdamWOptions,
}

/// AdamW (Loshchilov and Hutter 2019, [arXiv:1711.05101](https://arxiv.org/abs/1711.05101),
/// Algorithm 2), fused over all parameters of a group: a kernel of this crate on the CPU, libtorch's
/// on CUDA. For a parameter θ with gradient g, at its step t:
///
/// ```text
/// θ ← θ − η λ θ
/// m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
/// θ ← θ − η · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
/// ```
///
/// - Moments are f32, regardless of the parameter's dtype. A parameter in bf16 or f16 is the
///   rounded value of an f32 master weight, which the step updates. The master weight is
///   initialised when the optimizer is built, so load weights before. For bf16 on the CPU, no
///   master copy is stored, only the remainder: the 16 bits that the parameter lacks.
/// - A parameter without a gradient is skipped, and its step count t does not advance.
/// - Parameters of a group are kept in the order of their names, regardless of the order in which
///   they were given, so that the same model gives the same state on every run.
///
/// ```
/// use rlaif_torch::{AdamW, AdamWOptions, ParamGroup};
/// use tch::{Device, Kind, Tensor};
///
/// let w = Tensor::from_slice(&[1f32, -2.0]).set_requires_grad(true);
/// let params = vec![("w".to_owned(), w.shallow_clone())];
/// let options = AdamWOptions { lr: 0.1, weight_decay: 0.0, ..Default::default() };
/// let mut optimizer = AdamW::new(vec![ParamGroup { params, options }])?;
/// for _ in 0..100 {
///     optimizer.zero_grad()?;
///     (&w * &w).sum(Kind::Float).backward();
///     let norm = optimizer.clip_grad_norm(Some(1.0))?;
///     assert!(norm.is_finite());
///     optimizer.step()?;
/// }
/// assert!(w.abs().max().double_value(&[]) < 0.1);
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
#[derive(Debug)]
pub struct AdamW {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    options: AdamWOptions,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    param: Tensor,
    low: Option<LowPrecision>,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    /// t, 0-dim f32 on the parameter's device, as the fused kernels need it.
    step: Tensor,
}

/// The missing bits of a parameter in low precision.
#[derive(Debug)]
enum LowPrecision {
    /// The f32 weight itself; the parameter is its rounded copy.
    Master(Tensor),
    /// The bits of the f32 weight minus those of the parameter, which is its rounded upper half:
    /// i16. Only for bf16 on the CPU.
    Remainder(Tensor),
}

impl AdamW {
    /// Creates an optimizer of these parameters, and allocates its state.
    ///
    /// # Errors
    /// [`TorchError::Setting`] for settings out of range; [`TorchError::Tensor`] for a parameter
    /// that is not a leaf, requires no gradient, has another dtype, shares memory between its
    /// elements or has the name of another one; [`TorchError::OutOfMemory`].
    pub fn new(groups: Vec<ParamGroup>) -> Result<Self, TorchError> {
        let mut names = BTreeSet::new();
        let mut built = Vec::with_capacity(groups.len());
        for ParamGroup { mut params, options } in groups {
            options.check()?;
            params.sort_by(|(a, _), (b, _)| a.cmp(b));
            let mut entries = Vec::with_capacity(params.len());
            for (name, param) in params {
                if !names.insert(name.clone()) {
                    return Err(unfit(&name, "a unique name", "the name twice".to_owned()));
                }
                entries.push(Entry::new(name, param)?);
            }
            built.push(Group { options, entries });
        }
        Ok(Self { groups: built })
    }

    /// The settings of each group, in the order given to [`AdamW::new`].
    pub fn options(&self) -> impl ExactSizeIterator<Item = &AdamWOptions> {
        self.groups.iter().map(|group| &group.options)
    }

    /// Sets the learning rate of one group from the next step on.
    ///
    /// # Errors
    /// [`TorchError::Setting`] if there is no such group, or the rate is negative or not finite.
    pub fn set_lr(&mut self, group: usize, lr: f64) -> Result<(), TorchError> {
        let Some(found) = self.groups.get_mut(group) else {
            let expected = "the index of a parameter group";
            return Err(BadSetting::new("group", group, expected).into());
        };
        let options = AdamWOptions { lr, ..found.options };
        options.check()?;
        found.options = options;
        Ok(())
    }

    /// The parameters with their names: group by group, within a group in the order of names.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries().map(|entry| (entry.name.as_str(), &entry.param))
    }

    /// Makes one step with the current gradients.
    ///
    /// # Errors
    /// [`TorchError::Libtorch`] if a gradient is sparse, or if a parameter changed its shape, kind
    /// or device since the optimizer was built; [`TorchError::OutOfMemory`].
    pub fn step(&mut self) -> Result<(), TorchError> {
        self.step_scaled(1.)
    }

    /// Clips the gradients of all parameters by their global norm, makes a step with them, and
    /// returns the norm before clipping: [`AdamW::clip_grad_norm`] and [`AdamW::step`] with one
    /// pass less over memory, because gradients are scaled as they are read. The values left in the
    /// parameters' gradients are unspecified.
    ///
    /// If the norm is not finite, no step is made.
    ///
    /// # Errors
    /// Those of the two functions.
    ///
    /// ```
    /// use rlaif_torch::{AdamW, AdamWOptions, ParamGroup};
    /// use tch::{Kind, Tensor};
    /// let w = Tensor::from_slice(&[3f32, 4.]).set_requires_grad(true);
    /// let params = vec![("w".to_owned(), w.shallow_clone())];
    /// let mut optimizer = AdamW::new(vec![ParamGroup { params, options: AdamWOptions::default() }])?;
    /// (&w * &w).sum(Kind::Float).backward(); // gradient [6, 8]
    /// assert_eq!(optimizer.step_clipped(Some(1.0))?, 10.0);
    /// # Ok::<(), rlaif_torch::TorchError>(())
    /// ```
    pub fn step_clipped(&mut self, max_norm: Option<f64>) -> Result<f64, TorchError> {
        let (norm, gradient) = grad::clip_factor(&self.tensors(), max_norm)?;
        if norm.is_finite() {
            self.step_scaled(gradient)?;
        }
        Ok(norm)
    }

    #[expect(clippy::needless_pass_by_ref_mut, reason = "the kernel writes parameters and state")]
    fn step_scaled(&mut self, gradient: f64) -> Result<(), TorchError> {
        for group in &self.groups {
            let slots: Vec<ffi::AdamWSlot> = group.entries.iter().map(Entry::slot).collect();
            let AdamWOptions { lr, betas: (beta1, beta2), eps, weight_decay } = group.options;
            let options = ffi::AdamWOptions { lr, beta1, beta2, eps, weight_decay, gradient };
            // SAFETY: the slots point to tensors that `self` keeps alive. The kernels check for
            // every parameter that the layouts agree.
            let status =
                unsafe { ffi::rlaif_adamw_step(slots.as_ptr(), slots.len(), &raw const options) };
            ffi::check("AdamW step", status)?;
        }
        Ok(())
    }

    /// Drops the gradients of all parameters; see [`drop_grads`](crate::drop_grads).
    ///
    /// # Errors
    /// Those of the function.
    pub fn zero_grad(&mut self) -> Result<(), TorchError> {
        grad::drop_grads(&self.tensors())
    }

    /// Clips the gradients of all parameters by their global norm, and returns the norm; see
    /// [`clip_grad_norm`](crate::clip_grad_norm).
    ///
    /// # Errors
    /// Those of the function.
    pub fn clip_grad_norm(&mut self, max_norm: Option<f64>) -> Result<f64, TorchError> {
        grad::clip_grad_norm(&self.tensors(), max_norm)
    }

    /// The state as named tensors: `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step`, and for
    /// parameters in low precision `NAME.master`, or `NAME.remainder` for bf16 on the CPU.
    ///
    /// The tensors share memory with the optimizer: save them before the next step. Learning rates
    /// and other settings are not included.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.entries()
            .flat_map(|entry| {
                entry.state().map(|(part, t)| (format!("{}.{part}", entry.name), t.shallow_clone()))
            })
            .collect()
    }

    /// Copies a saved [`state`](AdamW::state) into this optimizer, bit by bit. Parameters are not
    /// changed.
    ///
    /// # Errors
    /// [`TorchError::State`] if any tensor is missing, unknown or of another shape or dtype; the
    /// error names all of them, and nothing is changed.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<(), TorchError> {
        let mut saved: BTreeMap<&str, &Tensor> =
            state.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let (mut missing, mut mismatched) = (Vec::new(), Vec::new());
        let mut copies = Vec::new();
        for (name, mut own) in self.state() {
            match saved.remove(name.as_str()) {
                None => missing.push(name),
                Some(found) if describe(found) != describe(&own) => mismatched.push(format!(
                    "{name}: expected {}, found {}",
                    describe(&own),
                    describe(found)
                )),
                Some(found) => copies.push(move || own.f_copy_(found)),
            }
        }
        let unexpected: Vec<String> = saved.into_keys().map(str::to_owned).collect();
        if !(missing.is_empty() && unexpected.is_empty() && mismatched.is_empty()) {
            return Err(TorchError::State { what: "AdamW", missing, unexpected, mismatched });
        }
        let _guard = tch::no_grad_guard();
        copies.into_iter().try_for_each(|mut copy| Ok(copy()?))
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.groups.iter().flat_map(|group| &group.entries)
    }

    fn tensors(&self) -> Vec<&Tensor> {
        self.entries().map(|entry| &entry.param).collect()
    }
}

impl Entry {
    fn new(name: String, param: Tensor) -> Result<Self, TorchError> {
        if !param.defined() {
            return Err(unfit(&name, "a tensor", "none".to_owned()));
        }
        if !param.requires_grad() || !param.is_leaf() {
            let found =
                if param.requires_grad() { "the result of an operation" } else { "neither" };
            return Err(unfit(&name, "a leaf that requires a gradient", found.to_owned()));
        }
        let kind = param.f_kind()?;
        if !matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Half) {
            return Err(unfit(&name, "Float, BFloat16 or Half", format!("{kind:?}")));
        }
        // SAFETY: the tensor is defined and alive.
        if unsafe { ffi::rlaif_is_dense(param.as_ptr()) } == 0 {
            let expected = "elements side by side in memory";
            return Err(unfit(&name, expected, format!("strides {:?}", param.stride())));
        }
        let _guard = tch::no_grad_guard();
        // With the parameter's memory layout.
        let zeros = |kind| param.detach().f_to_kind(kind)?.f_zeros_like();
        let low = match kind {
            Kind::Float => None,
            Kind::BFloat16 if param.device() == Device::Cpu => {
                Some(LowPrecision::Remainder(zeros(Kind::Int16)?))
            }
            _ => Some(LowPrecision::Master(param.detach().f_to_kind(Kind::Float)?)),
        };
        Ok(Self {
            exp_avg: zeros(Kind::Float)?,
            exp_avg_sq: zeros(Kind::Float)?,
            step: Tensor::f_zeros([0i64; 0], (Kind::Float, param.device()))?,
            name,
            param,
            low,
        })
    }

    fn slot(&self) -> ffi::AdamWSlot {
        ffi::AdamWSlot {
            param: self.param.as_ptr(),
            master: match &self.low {
                Some(LowPrecision::Master(master)) => master.as_ptr(),
                _ => ptr::null(),
            },
            remainder: match &self.low {
                Some(LowPrecision::Remainder(remainder)) => remainder.as_ptr(),
                _ => ptr::null(),
            },
            exp_avg: self.exp_avg.as_ptr(),
            exp_avg_sq: self.exp_avg_sq.as_ptr(),
            step: self.step.as_ptr(),
        }
    }

    fn state(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        let always =
            [("exp_avg", &self.exp_avg), ("exp_avg_sq", &self.exp_avg_sq), ("step", &self.step)];
        always.into_iter().chain(self.low.iter().map(|low| match low {
            LowPrecision::Master(master) => ("master", master),
            LowPrecision::Remainder(remainder) => ("remainder", remainder),
        }))
    }
}

fn unfit(name: &str, expected: &str, found: String) -> TorchError {
    TorchError::Tensor { name: name.to_owned(), expected: expected.to_owned(), found }
}

/// Dtype and shape; an undefined tensor has neither.
fn describe(tensor: &Tensor) -> String {
    match tensor.f_kind() {
        Ok(kind) if tensor.defined() => format!("{kind:?} {:?}", tensor.size()),
        _ => "no tensor".to_owned(),
    }
}

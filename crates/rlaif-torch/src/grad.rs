//! Gradients of a list of parameters, taken together.

use std::borrow::Borrow;
use std::ptr;

use rlaif_core::BadSetting;
use tch::Tensor;

use crate::error::TorchError;
use crate::ffi;

/// Scales all gradients so that their global norm is at most `max_norm`, and returns the norm they
/// had: `√(Σ gᵢ²)` over every element of every gradient.
///
/// As `torch.nn.utils.clip_grad_norm_`, gradients are multiplied by
/// `min(1, max_norm / (norm + 1e-6))`; without `max_norm` only the norm is computed. Gradients in
/// bf16 or f16 are summed in f32, and large ones in pieces, so that the norm is good to 1e-5 where
/// PyTorch's on the CPU is off by 5e-4 for 16 M elements. Parameters without a gradient count as
/// zero.
///
/// Unlike there, gradients are left as they are when the norm is not finite: scaling would turn
/// all of them into NaN. Check the norm before the step; [`non_finite_grads`] tells where it comes
/// from.
///
/// # Errors
/// [`TorchError::Setting`] if `max_norm` is not positive, [`TorchError::Libtorch`] if a gradient
/// is sparse.
///
/// ```
/// use tch::{Device, Kind, Tensor};
///
/// let w = Tensor::from_slice(&[3f32, 4.0]).set_requires_grad(true);
/// (&w * &w).sum(Kind::Float).backward(); // gradient [6, 8]
/// let norm = rlaif_torch::clip_grad_norm(&[&w], Some(1.0))?;
/// assert_eq!(norm, 10.0);
/// assert!((w.grad().norm().double_value(&[]) - 1.0).abs() < 1e-6);
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn clip_grad_norm<T: Borrow<Tensor>>(
    params: &[T],
    max_norm: Option<f64>,
) -> Result<f64, TorchError> {
    let max_norm = max_norm.map_or(Ok(f64::INFINITY), positive)?;
    let list = ffi::list(params.iter().map(Borrow::borrow));
    let mut norm = 0.0;
    // SAFETY: `list` points to live tensors, and `norm` outlives the call.
    let status = unsafe {
        ffi::rlaif_grad_clip(list.as_ptr(), list.len(), max_norm, &raw mut norm, ptr::null_mut())
    };
    ffi::check("gradient norm", status)?;
    Ok(norm)
}

/// The norm of the gradients, which are not changed, and the factor by which [`clip_grad_norm`]
/// would multiply them.
pub(crate) fn clip_factor<T: Borrow<Tensor>>(
    params: &[T],
    max_norm: Option<f64>,
) -> Result<(f64, f64), TorchError> {
    let max_norm = max_norm.map_or(Ok(f64::INFINITY), positive)?;
    let list = ffi::list(params.iter().map(Borrow::borrow));
    let (mut norm, mut factor) = (0.0, 1.0);
    // SAFETY: `list` points to live tensors, and both numbers outlive the call.
    let status = unsafe {
        let numbers = (&raw mut norm, &raw mut factor);
        ffi::rlaif_grad_clip(list.as_ptr(), list.len(), max_norm, numbers.0, numbers.1)
    };
    ffi::check("gradient norm", status)?;
    Ok((norm, factor))
}

/// [`clip_grad_norm`] without waiting for the device: the norm stays there, as a 0-dim f64 tensor.
///
/// As nothing is known of the norm when the gradients are scaled, one that is not finite makes
/// every gradient NaN, as in PyTorch.
///
/// # Errors
/// As [`clip_grad_norm`].
///
/// ```
/// use tch::{Kind, Tensor};
///
/// let w = Tensor::from_slice(&[3f32, 4.0]).set_requires_grad(true);
/// (&w * &w).sum(Kind::Float).backward();
/// let norm = rlaif_torch::clip_grad_norm_async(&[&w], 5.0)?;
/// assert_eq!(norm.double_value(&[]), 10.0);
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn clip_grad_norm_async<T: Borrow<Tensor>>(
    params: &[T],
    max_norm: f64,
) -> Result<Tensor, TorchError> {
    let max_norm = positive(max_norm)?;
    let list = ffi::list(params.iter().map(Borrow::borrow));
    let mut norm = ptr::null_mut();
    // SAFETY: `list` points to live tensors, and `norm` outlives the call.
    let status =
        unsafe { ffi::rlaif_grad_clip_async(list.as_ptr(), list.len(), max_norm, &raw mut norm) };
    ffi::check("gradient norm", status)?;
    // SAFETY: the call succeeded, so it handed a tensor over.
    Ok(unsafe { ffi::take(norm) })
}

/// The names of the parameters whose gradient holds an infinity or a NaN, in the order given.
///
/// # Errors
/// [`TorchError::Libtorch`] if a gradient is sparse.
///
/// ```
/// use tch::{Kind, Tensor};
///
/// let w = Tensor::from_slice(&[0f32, 1.0]).set_requires_grad(true);
/// w.sqrt().sum(Kind::Float).backward(); // the slope of √ at 0 is infinite
/// let named = [("w".to_owned(), w)];
/// let culprits = rlaif_torch::non_finite_grads(named.iter().map(|(n, t)| (n.as_str(), t)))?;
/// assert_eq!(culprits, ["w"]);
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn non_finite_grads<'a>(
    named: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<Vec<String>, TorchError> {
    let (names, tensors): (Vec<_>, Vec<_>) = named.into_iter().unzip();
    let list = ffi::list(tensors);
    let mut flags = vec![0u8; list.len()];
    // SAFETY: `list` points to live tensors, and there is a flag for each.
    let status =
        unsafe { ffi::rlaif_grad_non_finite(list.as_ptr(), list.len(), flags.as_mut_ptr()) };
    ffi::check("search for gradients that are not finite", status)?;
    let bad = names.into_iter().zip(flags).filter(|(_, flag)| *flag != 0);
    Ok(bad.map(|(name, _)| name.to_owned()).collect())
}

/// Drops the gradients, so that the next backward pass stores its own: nothing is filled with
/// zeros, and nothing is added to them.
///
/// # Errors
/// [`TorchError::Libtorch`] if libtorch refuses.
///
/// ```
/// use tch::{Kind, Tensor};
///
/// let w = Tensor::from_slice(&[1f32]).set_requires_grad(true);
/// w.sum(Kind::Float).backward();
/// rlaif_torch::drop_grads(&[&w])?;
/// assert!(!w.grad().defined());
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn drop_grads<T: Borrow<Tensor>>(params: &[T]) -> Result<(), TorchError> {
    let list = ffi::list(params.iter().map(Borrow::borrow));
    // SAFETY: `list` points to live tensors.
    ffi::check("dropping gradients", unsafe { ffi::rlaif_grad_drop(list.as_ptr(), list.len()) })
}

fn positive(max_norm: f64) -> Result<f64, TorchError> {
    if max_norm > 0.0 {
        return Ok(max_norm);
    }
    let expected = "a number above 0";
    Err(BadSetting::new("max_norm", max_norm, expected).into())
}

//! Gradient checkpointing: recomputes segments in the backward pass, to trade time for memory.

use std::any::Any;
use std::ffi::{c_char, c_void};
use std::fmt::Display;
use std::panic::{self, AssertUnwindSafe};
use std::{ptr, slice};

use tch::{Device, Tensor};

use crate::error::TorchError;
use crate::ffi;
use crate::rng::RngState;

/// Runs a segment of a model without keeping the activations for its backward pass; the backward
/// pass runs the segment again instead (Chen et al. 2016,
/// [arXiv:1604.06174](https://arxiv.org/abs/1604.06174)).
///
/// Gradients are those of a plain run: for `inputs`, and for parameters that `segment` captures. If
/// the segment draws random numbers (dropout), the second run draws the same ones: the state of the
/// CPU generator and of the inputs' CUDA devices is replayed, and restored afterwards.
///
/// The segment must compute the same both times, and must get every tensor whose gradient flows
/// *through* it in `inputs`: the graph of a captured tensor that is the result of an operation
/// would be used twice. If gradients are off, the segment simply runs.
///
/// Limits: no second derivative (`create_graph`); the gradients of captured parameters are
/// accumulated by `backward`, but [`Tensor::run_backward`] with chosen inputs does not see them;
/// autocast settings are not replayed.
///
/// # Errors
/// The error of `segment`; [`TorchError::Libtorch`] if libtorch refuses. If the second run fails or
/// panics, the backward pass fails with its message.
///
/// ```
/// use rlaif_torch::{TorchError, checkpoint};
/// use tch::{Device, Kind, Tensor};
///
/// let w = Tensor::eye(2, (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let x = Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true);
/// let captured = w.shallow_clone();
/// let y = checkpoint(&[&x], move |inputs| {
///     Ok::<_, TorchError>(captured.matmul(&inputs[0]).square().dropout(0.1, true))
/// })?;
/// y.sum(Kind::Float).backward();
/// assert!(x.grad().defined() && w.grad().defined());
/// # Ok::<(), TorchError>(())
/// ```
pub fn checkpoint<F, E>(inputs: &[&Tensor], segment: F) -> Result<Tensor, E>
where
    F: Fn(&[Tensor]) -> Result<Tensor, E> + Send + 'static,
    E: From<TorchError> + Display,
{
    let mut outputs = checkpoint_many(inputs, move |inputs| Ok::<_, E>(vec![segment(inputs)?]))?;
    Ok(outputs.swap_remove(0))
}

/// [`checkpoint`] for a segment with several outputs. Outputs of an integer dtype have no gradient.
///
/// # Errors
/// As [`checkpoint`].
///
/// ```
/// use rlaif_torch::{TorchError, checkpoint_many};
/// use tch::{Kind, Tensor};
///
/// let x = Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true);
/// let y = checkpoint_many(&[&x], |t| Ok::<_, TorchError>(vec![t[0].exp(), t[0].sin()]))?;
/// (&y[0] * &y[1]).sum(Kind::Float).backward();
/// let expected = x.exp() * (x.sin() + x.cos());
/// assert!(x.grad().allclose(&expected, 1e-6, 0.0, false));
/// # Ok::<(), TorchError>(())
/// ```
pub fn checkpoint_many<F, E>(inputs: &[&Tensor], segment: F) -> Result<Vec<Tensor>, E>
where
    F: Fn(&[Tensor]) -> Result<Vec<Tensor>, E> + Send + 'static,
    E: From<TorchError> + Display,
{
    let owned: Vec<Tensor> = inputs.iter().map(|t| t.shallow_clone()).collect();
    // SAFETY: no arguments; it reads a flag of this thread.
    if unsafe { ffi::rlaif_grad_enabled() } == 0 {
        return segment(&owned);
    }
    let devices = inputs.iter().filter(|t| t.defined()).map(|t| t.device());
    let rng = RngState::save_for([Device::Cpu].into_iter().chain(devices))?;
    let outputs = {
        let _guard = tch::no_grad_guard();
        segment(&owned)?
    };
    Ok(adopt(inputs, segment, &rng, &outputs)?)
}

/// Connects outputs without a graph to a second run of the segment.
fn adopt<F, E>(
    inputs: &[&Tensor],
    segment: F,
    rng: &RngState,
    outputs: &[Tensor],
) -> Result<Vec<Tensor>, TorchError>
where
    F: Fn(&[Tensor]) -> Result<Vec<Tensor>, E> + Send + 'static,
    E: Display,
{
    let segment = ffi::Segment {
        data: Box::into_raw(Box::new(segment)).cast(),
        call: call::<F, E>,
        drop: drop_segment::<F>,
    };
    let inputs = ffi::list(inputs.iter().copied());
    let outputs = ffi::list(outputs);
    let (rng_devices, rng_states) = rng.parts();
    let rng_states = ffi::list(rng_states);
    let mut adopted = vec![ptr::null_mut(); outputs.len()];
    // SAFETY: every list has the given length, and points to live tensors. C++ takes ownership of
    // the segment, calls it from one thread at a time (`F` is `Send`), and drops it once.
    let status = unsafe {
        ffi::rlaif_recompute(
            segment,
            inputs.as_ptr(),
            inputs.len(),
            rng_devices.as_ptr(),
            rng_states.as_ptr(),
            rng_states.len(),
            outputs.as_ptr(),
            adopted.as_mut_ptr(),
            outputs.len(),
        )
    };
    ffi::check("recomputation", status)?;
    // SAFETY: the call succeeded, so it handed over a tensor for each output.
    Ok(adopted.into_iter().map(|t| unsafe { ffi::take(t) }).collect())
}

/// Runs the segment for C++.
///
/// # Safety
/// `data` must be the box of an `F`, `inputs` a list of `len` tensors, `answer` an object of C++.
unsafe extern "C" fn call<F, E>(
    data: *mut c_void,
    inputs: ffi::List,
    len: usize,
    answer: *mut c_void,
) -> i32
where
    F: Fn(&[Tensor]) -> Result<Vec<Tensor>, E>,
    E: Display,
{
    // Unwinding must not reach C++. The closure is not used after a panic.
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: as the caller promises; an empty list may be null.
        let (segment, inputs) = unsafe {
            let inputs = if len == 0 { &[] } else { slice::from_raw_parts(inputs, len) };
            (&*data.cast::<F>(), inputs)
        };
        // SAFETY: each is a live tensor; tch frees its copy of the handle.
        let inputs: Vec<Tensor> =
            inputs.iter().map(|t| unsafe { Tensor::clone_from_ptr(t.cast_mut()) }).collect();
        segment(&inputs).map_err(|error| error.to_string())
    }));
    match result.unwrap_or_else(|panic| Err(format!("panic: {}", panic_message(&*panic)))) {
        Ok(outputs) => {
            // SAFETY: `answer` belongs to C++, which copies the handle.
            let push = |t: &Tensor| unsafe { ffi::rlaif_answer_output(answer, t.as_ptr()) };
            i32::from(outputs.iter().any(|t| push(t) != 0))
        }
        Err(message) => {
            // SAFETY: `answer` belongs to C++, which copies the bytes.
            unsafe {
                ffi::rlaif_answer_error(answer, message.as_ptr().cast::<c_char>(), message.len())
            };
            1
        }
    }
}

/// # Safety
/// `data` must be the box of an `F`, and must not be used again.
unsafe extern "C" fn drop_segment<F>(data: *mut c_void) {
    // A destructor that panics must not unwind into C++ either.
    let dropped = panic::catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: as the caller promises.
        drop(unsafe { Box::from_raw(data.cast::<F>()) });
    }));
    if let Err(panic) = dropped {
        // Dropping the payload could panic again.
        #[expect(clippy::mem_forget, reason = "a payload's destructor must not run here")]
        std::mem::forget(panic);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

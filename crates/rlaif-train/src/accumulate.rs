//! Gradients of a batch that does not fit at once.

use tch::Tensor;

/// Adds up the gradients of a mean over `count` items from parts of any size, one backward pass
/// each: nothing depends on how the items were divided. Returns the mean, detached, on its device.
///
/// `loss_sum` gives the *sum* of the losses of a part's items (tokens, rows or pairs), and `count`
/// is the number of items of all parts together, known before the first backward pass:
///
/// ```text
/// ∇ (1/n) Σ_i ℓ_i = Σ_parts ∇ (1/n) Σ_{i ∈ part} ℓ_i
/// ```
///
/// # Errors
/// What `loss_sum` returns, and libtorch's errors in the backward pass.
///
/// ```
/// use rlaif_train::{TrainError, accumulate};
/// use tch::{Kind, Tensor};
/// let w = Tensor::from_slice(&[2f32]).set_requires_grad(true);
/// let parts: [&[f32]; 2] = [&[1., 2., 3.], &[6.]];
/// let mean = accumulate(parts, 4., |part| {
///     Ok::<_, TrainError>((Tensor::from_slice(part) * &w).sum(Kind::Float))
/// })?;
/// assert_eq!(mean.double_value(&[]), 6.);
/// assert_eq!(w.grad().double_value(&[0]), 3.);
/// # Ok::<(), TrainError>(())
/// ```
pub fn accumulate<P, E: From<tch::TchError>>(
    parts: impl IntoIterator<Item = P>,
    count: f64,
    mut loss_sum: impl FnMut(P) -> Result<Tensor, E>,
) -> Result<Tensor, E> {
    let mut total: Option<Tensor> = None;
    for part in parts {
        let loss = loss_sum(part)?.f_div_scalar(count)?;
        loss.f_backward()?;
        let loss = loss.detach();
        total = Some(match total {
            Some(total) => total + loss,
            None => loss,
        });
    }
    Ok(total.unwrap_or_else(|| Tensor::from(0f32)))
}

//! Fused operations of language models, for which libtorch has only chains of smaller ones. Each
//! has its own backward pass.

use tch::Tensor;

use crate::{
    error::TorchError,
    ffi::{self, check},
};

/// RMS norm over the last dimension, `w · x / sqrt(mean(x²) + ε)`
/// ([Zhang and Sennrich 2019](https://arxiv.org/abs/1910.07467)).
///
/// `x` is `[.., H]`, `weight` `[H]`; the result has the shape of `x` and the dtype of `weight`. The
/// mean is computed in f32. On the CPU in f32 and bf16, forward and backward are one pass over
/// memory each; other dtypes and devices run libtorch's own operations.
///
/// # Panics
/// If the shapes do not fit, as in libtorch's operators, or if the weight's dtype is an integer.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// let x = Tensor::from_slice(&[3f32, 4.]).view([1, 2]);
/// let weight = Tensor::ones([2], (Kind::Float, Device::Cpu));
/// let y = rlaif_torch::rms_norm(&x, &weight, 0.);
/// assert!((y.double_value(&[0, 0]) - 3. / 12.5f64.sqrt()).abs() < 1e-6);
/// ```
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Tensor {
    rms_norm_beside(x, weight, epsilon).0
}

/// [`rms_norm`] of `x`, and `x` itself for the residual connection: `y = x + f(norm(x))` is `let
/// (normed, x) = rms_norm_beside(x, ..)` and `x + f(normed)`. On the CPU, the gradients of the two
/// results are added in the pass over memory that computes the norm's.
///
/// # Panics
/// If the shapes do not fit, as in libtorch's operators, or if the weight's dtype is an integer.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// let x = Tensor::from_slice(&[3f32, 4.]).view([1, 2]);
/// let weight = Tensor::ones([2], (Kind::Float, Device::Cpu));
/// let (normed, same) = rlaif_torch::rms_norm_beside(&x, &weight, 0.);
/// assert_eq!(same, x);
/// assert_eq!(normed, rlaif_torch::rms_norm(&x, &weight, 0.));
/// ```
pub fn rms_norm_beside(x: &Tensor, weight: &Tensor, epsilon: f64) -> (Tensor, Tensor) {
    assert_eq!(
        x.size().last(),
        weight.size().last(),
        "the weight of an RMS norm is as wide as what it scales"
    );
    // The result has the weight's dtype, and would be truncated to integers.
    assert!(weight.is_floating_point(), "the weight of an RMS norm is {:?}", weight.kind());
    let mut out = [std::ptr::null_mut(); 2];
    // SAFETY: both tensors outlive the call; both outputs are written only on success.
    let status =
        unsafe { ffi::rlaif_rms_norm(x.as_ptr(), weight.as_ptr(), epsilon, out.as_mut_ptr()) };
    let [normed, beside] = out.map(|out| finish("rms_norm", status, out));
    (normed, beside)
}

/// The activation of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// x σ(x), as in SwiGLU.
    Silu,
    /// The tanh approximation of x Φ(x), as in GEGLU.
    GeluTanh,
}

/// A gated activation, `act(gate) · up`
/// ([Shazeer 2020](https://arxiv.org/abs/2002.05202)), of two tensors of one size and kind.
///
/// On the CPU in f32 and bf16, forward and backward are one pass over memory each, computed in f32;
/// other dtypes and devices run libtorch's own operations.
///
/// # Panics
/// If the sizes differ, as in libtorch's operators.
///
/// ```
/// use rlaif_torch::Gate;
/// use tch::Tensor;
/// let (gate, up) = (Tensor::from_slice(&[1f32]), Tensor::from_slice(&[2f32]));
/// let y = rlaif_torch::gated(&gate, &up, Gate::Silu);
/// assert!((y.double_value(&[0]) - 2. / (1. + (-1f64).exp())).abs() < 1e-6);
/// ```
pub fn gated(gate: &Tensor, up: &Tensor, activation: Gate) -> Tensor {
    let activation = match activation {
        Gate::Silu => ffi::Activation::Silu,
        Gate::GeluTanh => ffi::Activation::GeluTanh,
    };
    let mut out = std::ptr::null_mut();
    // SAFETY: both tensors outlive the call; `out` is written only on success.
    let status =
        unsafe { ffi::rlaif_gated(gate.as_ptr(), up.as_ptr(), activation.into(), &raw mut out) };
    finish("gated", status, out)
}

/// Rotates `x` `[.., heads, D]` by angles given as cosines and sines `[P, 1, D]` or `[.., 1, D]`; a
/// pair consists of corresponding elements of a head's two halves: `y = x · cos + rotate_half(x) ·
/// sin` (RoFormer, [Su et al. 2021](https://arxiv.org/abs/2104.09864), in the layout of Llama
/// checkpoints). The result is contiguous.
///
/// If there are fewer rows of angles than rows of `x`, they repeat: row r of `x`, counted over all
/// leading dimensions, has the angles of row r modulo P. The two halves of each row of angles are
/// equal.
///
/// # Panics
/// If the shapes do not fit, as in libtorch's operators.
///
/// ```
/// use tch::Tensor;
/// // A quarter turn takes (1, 0) to (0, 1).
/// let x = Tensor::from_slice(&[1f32, 0.]).view([1, 1, 1, 2]);
/// let cos = Tensor::from_slice(&[0f32, 0.]).view([1, 1, 2]);
/// let sin = Tensor::from_slice(&[1f32, 1.]).view([1, 1, 2]);
/// assert_eq!(Vec::<f32>::try_from(rlaif_torch::rope(&x, &cos, &sin).view([-1])).unwrap(), [0., 1.]);
/// ```
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let size = x.size();
    let rows: i64 = size[..size.len().saturating_sub(2)].iter().product();
    let angles = cos.numel() as i64 / size[size.len() - 1];
    assert!(
        size[size.len() - 1] % 2 == 0
            && cos.size() == sin.size()
            && cos.size().last() == size.last()
            && angles > 0
            && rows % angles == 0,
        "angles {:?} and {:?} do not fit {size:?}",
        cos.size(),
        sin.size(),
    );
    let mut out = std::ptr::null_mut();
    // SAFETY: the tensors outlive the call; `out` is written only on success.
    let status = unsafe { ffi::rlaif_rope(x.as_ptr(), cos.as_ptr(), sin.as_ptr(), &raw mut out) };
    finish("rope", status, out)
}

/// Log-probabilities of `targets` and entropies, each f32 `[N]`, under the softmax of
/// `(hidden Wᵀ + b) / temperature`.
///
/// `hidden` is `[N, H]`, `weight` `[V, H]`, `bias` `[V]`, `targets` int64 `[N]`. Logits exist for
/// `chunk` rows at a time only: the forward pass reduces them, and the backward pass recomputes
/// each chunk. If all logits and their gradient need no more memory than a chunk, they are kept
/// instead.
/// With p the softmax and H its entropy, the gradients are those of
/// `d log p_y / d z_v = [v = y] - p_v` and `d H / d z_v = -p_v (log p_v + H)`.
///
/// # Errors
/// [`TorchError`] if libtorch fails, for example out of memory, or if the shapes do not fit.
///
/// # Panics
/// If `chunk` or `temperature` is not positive.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// let hidden = Tensor::zeros([1, 3], (Kind::Float, Device::Cpu));
/// let weight = Tensor::ones([4, 3], (Kind::Float, Device::Cpu));
/// let target = Tensor::from_slice(&[2i64]);
/// let (log_probs, entropy) =
///     rlaif_torch::linear_log_probs(&hidden, &weight, None, &target, 1., 64)?;
/// assert!((log_probs.double_value(&[0]) - 0.25f64.ln()).abs() < 1e-6);
/// assert!((entropy.double_value(&[0]) - 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn linear_log_probs(
    hidden: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    targets: &Tensor,
    temperature: f64,
    chunk: i64,
) -> Result<(Tensor, Tensor), TorchError> {
    assert!(chunk > 0 && temperature > 0., "chunk and temperature are positive");
    let mut out = [std::ptr::null_mut(); 2];
    // SAFETY: the tensors outlive the call, a null bias means absent, and both outputs are written
    // only on success.
    let status = unsafe {
        ffi::rlaif_linear_log_probs(
            hidden.as_ptr(),
            weight.as_ptr(),
            bias.map_or(std::ptr::null(), Tensor::as_ptr),
            targets.as_ptr(),
            temperature,
            chunk,
            out.as_mut_ptr(),
        )
    };
    check("linear_log_probs", status)?;
    // SAFETY: written by the successful call, and taken once.
    Ok(unsafe { (ffi::take(out[0]), ffi::take(out[1])) })
}

/// The result of an operator, or a panic as in tch's own operators.
pub(crate) fn finish(
    operation: &'static str,
    status: i32,
    out: *mut torch_sys::C_tensor,
) -> Tensor {
    if let Err(error) = check(operation, status) {
        panic!("{error}");
    }
    // SAFETY: written by the successful call, and taken once.
    unsafe { ffi::take(out) }
}

#[cfg(test)]
pub(crate) mod tests {
    use tch::{Device, Kind};

    use super::*;

    pub(crate) fn randn(size: &[i64]) -> Tensor {
        Tensor::randn(size, (Kind::Float, Device::Cpu)).set_requires_grad(true)
    }

    pub(crate) fn close(got: &Tensor, want: &Tensor, tolerance: f64) {
        assert_eq!(got.size(), want.size());
        let distance = (got.to_kind(Kind::Double) - want.to_kind(Kind::Double)).abs().max();
        assert!(distance.double_value(&[]) < tolerance, "{distance:?}");
    }

    /// The definition, in f64, by libtorch's element-wise operations.
    fn rms_reference(x: &Tensor, weight: &Tensor, epsilon: f64) -> Tensor {
        let x = x.to_kind(Kind::Double);
        let mean = x.square().mean_dim(-1, true, Kind::Double);
        &x / (mean + epsilon).sqrt() * weight.to_kind(Kind::Double)
    }

    #[test]
    fn rms_norm_and_its_gradients_equal_the_definition() {
        tch::manual_seed(1);
        // Odd widths, one row, more rows than one task handles.
        for size in [&[1, 1][..], &[3, 5, 7], &[2, 512], &[700, 33]] {
            let (x, weight) = (randn(size), randn(&size[size.len() - 1..]));
            let pull = randn(size).detach();
            let want = rms_reference(&x, &weight, 1e-3);
            let want_grads =
                Tensor::run_backward(&[(&want * &pull).sum(None)], &[&x, &weight], false, false);
            let got = rms_norm(&x, &weight, 1e-3);
            close(&got, &want, 1e-5);
            let got_grads =
                Tensor::run_backward(&[(&got * &pull).sum(None)], &[&x, &weight], false, false);
            close(&got_grads[0], &want_grads[0], 1e-5);
            close(&got_grads[1], &want_grads[1], 1e-3);
        }
    }

    #[test]
    fn a_residual_beside_a_norm_adds_its_gradient() {
        tch::manual_seed(4);
        let (x, weight) = (randn(&[700, 33]), randn(&[33]));
        let (pull, beside) = (randn(&[700, 33]).detach(), randn(&[700, 33]).detach());
        let grads = |loss: Tensor| Tensor::run_backward(&[loss], &[&x, &weight], false, false);
        let (y, same) = rms_norm_beside(&x, &weight, 1e-3);
        let got = grads((&y * &pull + &same * &beside).sum(None));
        let want = rms_reference(&x, &weight, 1e-3);
        let want = grads((&want * &pull + &x * &beside).sum(None));
        close(&got[0], &want[0], 1e-5);
        close(&got[1], &want[1], 1e-3);
        // With only one of the two results used.
        let (_, same) = rms_norm_beside(&x, &weight, 1e-3);
        close(
            &Tensor::run_backward(&[(&same * &beside).sum(None)], &[&x], false, false)[0],
            &beside,
            1e-9,
        );
    }

    #[test]
    fn rms_norm_of_a_transposed_input_and_of_low_precision() {
        tch::manual_seed(2);
        let (x, weight) = (randn(&[6, 4]), randn(&[6]));
        close(
            &rms_norm(&x.transpose(0, 1), &weight, 1e-6),
            &rms_reference(&x.transpose(0, 1), &weight, 1e-6),
            1e-5,
        );
        let low = rms_norm(
            &x.transpose(0, 1).to_kind(Kind::BFloat16),
            &weight.to_kind(Kind::BFloat16),
            1e-6,
        );
        assert_eq!(low.kind(), Kind::BFloat16);
        close(&low, &rms_reference(&x.transpose(0, 1), &weight, 1e-6), 0.06);
        let grads = |y: Tensor| {
            Tensor::run_backward(&[y.square().sum(Kind::Float)], &[&x, &weight], false, false)
        };
        let want = grads(rms_reference(&x.transpose(0, 1), &weight, 1e-6));
        for (got, want) in grads(low).iter().zip(&want) {
            close(&(got / (1. + want.abs())), &(want / (1. + want.abs())), 0.05);
        }
    }

    #[test]
    fn rms_norm_gives_the_same_bits_each_time() {
        tch::manual_seed(3);
        let (x, weight) = (randn(&[500, 64]), randn(&[64]));
        let grads = || {
            let y = rms_norm(&x, &weight, 1e-6).square().sum(None);
            Tensor::run_backward(&[y], &[&x, &weight], false, false)
        };
        let first = grads();
        for _ in 0..5 {
            for (a, b) in grads().iter().zip(&first) {
                assert_eq!(a, b);
            }
        }
    }

    #[test]
    fn gated_activations_and_their_gradients_equal_the_definition() {
        tch::manual_seed(15);
        for activation in [Gate::Silu, Gate::GeluTanh] {
            let reference = |gate: &Tensor, up: &Tensor| {
                let (gate, up) = (gate.to_kind(Kind::Double), up.to_kind(Kind::Double));
                match activation {
                    Gate::Silu => &gate * gate.sigmoid() * up,
                    Gate::GeluTanh => {
                        let inner = (&gate + gate.pow_tensor_scalar(3) * 0.044715)
                            * (2. / std::f64::consts::PI).sqrt();
                        &gate * (inner.tanh() + 1.) * 0.5 * up
                    }
                }
            };
            // Wide enough to reach both ends of the sigmoid.
            let gate = (randn(&[40, 1003]).detach() * 6.).set_requires_grad(true);
            let up = randn(&[40, 1003]);
            let pull = randn(&[40, 1003]).detach();
            let (got, want) = (gated(&gate, &up, activation), reference(&gate, &up));
            close(&got, &want, 1e-5);
            let grads = |y: &Tensor| {
                Tensor::run_backward(&[(y * &pull).sum(None)], &[&gate, &up], false, false)
            };
            for (got, want) in grads(&got).iter().zip(&grads(&want)) {
                close(got, want, 3e-5);
            }
            let low = |x: &Tensor| x.detach().to_kind(Kind::BFloat16);
            let got = gated(&low(&gate), &low(&up), activation);
            assert_eq!(got.kind(), Kind::BFloat16);
            let relative =
                (got.to_kind(Kind::Double) - reference(&low(&gate), &low(&up))) / (want.abs() + 1.);
            assert!(relative.abs().max().double_value(&[]) < 0.01);
            let ends = Tensor::from_slice(&[f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -200.]);
            let ends = Vec::<f32>::try_from(gated(&ends, &ends.ones_like(), activation)).unwrap();
            assert!(ends[1] == f32::INFINITY && ends[2].is_nan() && ends[3].abs() < 1e-30);
        }
    }

    /// The definitions, in f64.
    fn softmax_reference(logits: &Tensor, y: &Tensor, t: f64) -> (Tensor, Tensor) {
        let log_p = (logits.to_kind(Kind::Double) / t).log_softmax(-1, Kind::Double);
        let entropy = -(log_p.exp() * &log_p).sum_dim_intlist(-1, false, Kind::Double);
        (log_p.gather(1, &y.unsqueeze(1), false).squeeze_dim(1), entropy)
    }

    #[test]
    fn log_probs_of_extreme_logits_equal_the_definition() {
        tch::manual_seed(5);
        // Identity weights make the hidden states the logits: flat, peaked, and far apart, over
        // widths with and without a remainder of the vector units.
        for (width, spread, temperature) in
            [(1, 1., 1.), (7, 1., 1.), (33, 30., 0.7), (1000, 0.01, 1.), (517, 200., 1.3)]
        {
            let hidden = (randn(&[5, width]).detach() * spread).set_requires_grad(true);
            let weight = Tensor::eye(width, (Kind::Float, Device::Cpu));
            let y = Tensor::randint(width, [5], (Kind::Int64, Device::Cpu));
            let pulls = (randn(&[5]).detach(), randn(&[5]).detach());
            let loss = |log: &Tensor, entropy: &Tensor| {
                (log * &pulls.0 + entropy * &pulls.1).sum(Kind::Double)
            };
            let (want_log, want_entropy) = softmax_reference(&hidden, &y, temperature);
            let want = loss(&want_log, &want_entropy);
            let want = Tensor::run_backward(&[want], &[&hidden], false, false);
            let (log, entropy) =
                linear_log_probs(&hidden, &weight, None, &y, temperature, 3).unwrap();
            close(&(&log / (1. + want_log.abs())), &(&want_log / (1. + want_log.abs())), 1e-6);
            // Entropies and gradients are sums of products with logits this large.
            let tolerance = 2e-5 * (1. + spread / 50.);
            close(&entropy, &want_entropy, tolerance);
            let got = Tensor::run_backward(&[loss(&log, &entropy)], &[&hidden], false, false);
            close(&got[0], &want[0], tolerance);
        }
    }

    #[test]
    fn a_logit_that_is_no_number_is_not_hidden() {
        let weight = Tensor::eye(3, (Kind::Float, Device::Cpu));
        let y = Tensor::from_slice(&[0i64]);
        for bad in [f32::NAN, f32::INFINITY] {
            let hidden = Tensor::from_slice(&[0., bad, 1.]).view([1, 3]);
            let (log, _) = linear_log_probs(&hidden, &weight, None, &y, 1., 8).unwrap();
            assert!(!log.double_value(&[0]).is_finite(), "{bad}");
        }
    }

    #[test]
    fn low_precision_logits_are_reduced_in_f32() {
        tch::manual_seed(6);
        let hidden = randn(&[4, 16]).detach().to_kind(Kind::BFloat16).set_requires_grad(true);
        let weight = randn(&[300, 16]).detach().to_kind(Kind::BFloat16).set_requires_grad(true);
        let y = Tensor::randint(300, [4], (Kind::Int64, Device::Cpu));
        let (log, entropy) = linear_log_probs(&hidden, &weight, None, &y, 1., 3).unwrap();
        assert_eq!((log.kind(), entropy.kind()), (Kind::Float, Kind::Float));
        let logits = hidden.linear(&weight, None::<&Tensor>);
        let (want_log, want_entropy) = softmax_reference(&logits, &y, 1.);
        close(&log, &want_log, 1e-4);
        close(&entropy, &want_entropy, 1e-4);
        let inputs = [&hidden, &weight];
        let got = Tensor::run_backward(&[log.sum(Kind::Float)], &inputs, false, false);
        let want = Tensor::run_backward(&[want_log.sum(Kind::Double)], &inputs, false, false);
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(got.kind(), Kind::BFloat16);
            close(got, want, 0.05);
        }
    }

    /// Rotation of each pair by its angle, one number at a time.
    fn rope_reference(x: &[f64], angles: &[f64], heads: usize, width: usize) -> Vec<f64> {
        let half = width / 2;
        let mut y = vec![0.; x.len()];
        for (place, chunk) in x.chunks(width).enumerate() {
            let row = (place / heads) % (angles.len() / half);
            for i in 0..half {
                let (sin, cos) = angles[row * half + i].sin_cos();
                y[place * width + i] = chunk[i] * cos - chunk[half + i] * sin;
                y[place * width + half + i] = chunk[half + i] * cos + chunk[i] * sin;
            }
        }
        y
    }

    #[test]
    fn rope_turns_pairs_and_its_gradient_turns_back() {
        tch::manual_seed(4);
        let (batch, length, heads, width) = (2, 3, 2, 6);
        let x = randn(&[batch, length, heads, width]);
        let flat = |t: &Tensor| Vec::<f64>::try_from(t.to_kind(Kind::Double).view([-1])).unwrap();
        // One set of angles for all rows of the batch, and one for each.
        for rows in [length, batch * length] {
            let angles = randn(&[rows, width / 2]).detach() * 3.;
            let both = Tensor::cat(&[&angles, &angles], 1).unsqueeze(1);
            let y = rope(&x, &both.cos(), &both.sin());
            let want = rope_reference(&flat(&x), &flat(&angles), heads as usize, width as usize);
            close(&y.view([-1]), &Tensor::from_slice(&want), 1e-5);

            // Rotations preserve inner products, so <y, rotated g> = <x, g>: the gradient of <y, h>
            // with h = rope(g) is g.
            let g = randn(&[batch, length, heads, width]).detach();
            let h = rope(&g, &both.cos(), &both.sin());
            let grad = Tensor::run_backward(&[(y * h).sum(None)], &[&x], false, false);
            close(&grad[0], &g, 1e-5);
        }
    }
}

//! Linear layers, alone or several with the same input.

use tch::Tensor;

use crate::ffi::{self, check};

/// Linear layers with the same input, `y_i = x W_iᵀ + b_i`.
///
/// `x` is `[.., K]`, each weight `[N_i, K]`, each bias `[N_i]`; either all layers have a bias or
/// none. The layers share the gradient of `x`, which is summed as it is computed. On the CPU in f32
/// and bf16, forward and backward are one operation each. In f32 on a processor with AVX-512, the
/// products are this crate's own, with bitwise the same results for any number of threads. Other
/// dtypes and devices run libtorch's operators.
///
/// # Panics
/// If the shapes do not fit, as in libtorch's operators.
///
/// ```
/// use tch::Tensor;
/// let x = Tensor::from_slice(&[1f32, 2.]).view([1, 2]);
/// let double = Tensor::from_slice(&[2f32, 0., 0., 2.]).view([2, 2]);
/// let sum = Tensor::from_slice(&[1f32, 1.]).view([1, 2]);
/// let [a, b] = rlaif_torch::linears(&x, [&double, &sum], None);
/// assert_eq!(Vec::<f32>::try_from(a.view([-1])).unwrap(), [2., 4.]);
/// assert_eq!(Vec::<f32>::try_from(b.view([-1])).unwrap(), [3.]);
/// ```
pub fn linears<const N: usize>(
    x: &Tensor,
    weights: [&Tensor; N],
    biases: Option<[&Tensor; N]>,
) -> [Tensor; N] {
    project(x, weights, biases, None)
}

/// Layers with the same input, and a residual added to the output of the first one.
fn project<const N: usize>(
    x: &Tensor,
    weights: [&Tensor; N],
    biases: Option<[&Tensor; N]>,
    residual: Option<&Tensor>,
) -> [Tensor; N] {
    let weights = weights.map(Tensor::as_ptr);
    let biases = biases.map(|biases| biases.map(Tensor::as_ptr));
    let mut out = [std::ptr::null_mut(); N];
    // SAFETY: the tensors outlive the call, null biases and a null residual mean absent, and all N
    // outputs are written only on success.
    let status = unsafe {
        ffi::rlaif_linear(
            x.as_ptr(),
            weights.as_ptr().cast(),
            biases.as_ref().map_or(std::ptr::null(), |biases| biases.as_ptr().cast()),
            N,
            residual.map_or(std::ptr::null(), Tensor::as_ptr),
            out.as_mut_ptr(),
        )
    };
    if let Err(error) = check("linear", status) {
        panic!("{error}");
    }
    // SAFETY: written by the call that succeeded, and taken once.
    out.map(|out| unsafe { ffi::take(out) })
}

/// One linear layer: [`linears`] with one weight.
///
/// # Panics
/// If the shapes do not fit, as in libtorch's operators.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// let x = Tensor::ones([3, 4], (Kind::Float, Device::Cpu));
/// let weight = Tensor::ones([2, 4], (Kind::Float, Device::Cpu));
/// assert_eq!(rlaif_torch::linear(&x, &weight, None).size(), [3, 2]);
/// ```
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let [y] = linears(x, [weight], bias.map(|bias| [bias]));
    y
}

/// A linear layer and its residual connection, `y = residual + x Wᵀ + b`, with the sum rounded
/// once.
///
/// `residual` is `[.., N]` for a weight `[N, K]`. Runs as [`linears`].
///
/// # Panics
/// If the shapes do not fit.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// let x = Tensor::ones([3, 4], (Kind::Float, Device::Cpu));
/// let weight = Tensor::ones([2, 4], (Kind::Float, Device::Cpu));
/// let y = rlaif_torch::linear_onto(&Tensor::ones([3, 2], (Kind::Float, Device::Cpu)), &x, &weight, None);
/// assert_eq!(y.double_value(&[0, 0]), 5.);
/// ```
pub fn linear_onto(
    residual: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Tensor {
    let (mut size, sum) = (x.size(), residual.size());
    if let Some(last) = size.last_mut() {
        *last = weight.size()[0];
    }
    assert_eq!(size, sum, "a residual is as large as what is added to it");
    let [y] = project(x, [weight], bias.map(|bias| [bias]), Some(residual));
    y
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::fused::tests::{close, randn};

    #[test]
    fn linears_and_their_gradients_equal_the_definition() {
        tch::manual_seed(11);
        // One row, remainders of every block, several blocks of the inner dimension and of rows.
        for (rows, inner, widths) in [
            (1, 1, [1, 2, 3]),
            (3, 5, [7, 1, 33]),
            (29, 300, [31, 64, 65]),
            (260, 70, [16, 300, 40]),
            (37, 4100, [50, 17, 32]),
            (3000, 33, [5, 9, 40]),
        ] {
            let x = randn(&[rows, inner]);
            let weights = widths.map(|width| randn(&[width, inner]));
            let biases = widths.map(|width| randn(&[width]));
            let pulls = widths.map(|width| randn(&[rows, width]).detach());
            for biased in [false, true] {
                let loss = |outputs: &[Tensor]| {
                    let parts = outputs.iter().zip(&pulls).map(|(y, pull)| (y * pull).sum(None));
                    parts.reduce(|a, b| a + b).unwrap()
                };
                let wide = |t: &Tensor| t.to_kind(Kind::Double);
                let want: Vec<Tensor> = weights
                    .iter()
                    .zip(&biases)
                    .map(|(w, b)| wide(&x).linear(&wide(w), biased.then(|| wide(b)).as_ref()))
                    .collect();
                let got = linears(&x, weights.each_ref(), biased.then(|| biases.each_ref()));
                let tolerance = 1e-5 * (inner.max(rows) as f64).sqrt().max(4.);
                for (got, want) in got.iter().zip(&want) {
                    close(got, want, tolerance);
                }
                let mut inputs = vec![&x];
                inputs.extend(&weights);
                if biased {
                    inputs.extend(&biases);
                }
                let want = Tensor::run_backward(&[loss(&want)], &inputs, false, false);
                let got = Tensor::run_backward(&[loss(&got)], &inputs, false, false);
                for (got, want) in got.iter().zip(&want) {
                    close(got, want, tolerance * 4.);
                }
            }
        }
    }

    /// `true` on processors with AMX, unless a lower instruction set is asked for.
    fn has_matrix_unit() -> bool {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let isa = crate::isa().unwrap();
        flags.contains(" amx_tile") && isa == crate::Isa::Avx512Bf16
    }

    #[test]
    fn products_in_bf16_are_summed_in_f32_and_rounded_once() {
        tch::manual_seed(16);
        let low =
            |size: &[i64]| randn(size).detach().to_kind(Kind::BFloat16).set_requires_grad(true);
        let wide = |t: &Tensor| t.detach().to_kind(Kind::Double).set_requires_grad(true);
        // Odd numbers of rows and widths, many columns and few, an odd inner dimension.
        for (rows, inner, outputs) in [
            (1, 2, 3),
            (29, 300, 65),
            (33, 7, 40),
            (9, 64, 600),
            (260, 70, 300),
            (45, 1030, 130),
            (16, 1, 4),
            (40, 16, 1),
            (12, 1, 1),
        ] {
            let (x, w, bias) = (low(&[rows, inner]), low(&[outputs, inner]), low(&[outputs]));
            let residual = low(&[rows, outputs]);
            let pull = low(&[rows, outputs]).detach();
            for biased in [false, true] {
                let grads = |y: &Tensor, inputs: [&Tensor; 3]| {
                    let loss = (y.to_kind(Kind::Double) * &pull).sum(None);
                    Tensor::run_backward(&[loss], &inputs, false, false)
                };
                let got = linear_onto(&residual, &x, &w, biased.then_some(&bias));
                let inputs = [&x, &w, &residual].map(wide);
                let want =
                    &inputs[2] + inputs[0].linear(&inputs[1], biased.then(|| wide(&bias)).as_ref());
                assert_eq!(got.kind(), Kind::BFloat16);
                let close = |got: &Tensor, want: &Tensor| {
                    // Half a unit in the last place of 8 bits, and the error of sums in f32.
                    let room =
                        want.abs() / 256. + 1e-4 * (inner.max(rows).max(outputs) as f64).sqrt();
                    let off = (got.to_kind(Kind::Double) - want).abs() - room;
                    assert!(off.max().double_value(&[]) < 0., "{rows} {inner} {outputs}");
                };
                // libtorch multiplies few rows, odd sizes where pairs are multiplied, and everything on
                // processors with AMX, and rounds a bias separately.
                let is_ours = rows >= 8 && inner % 2 == 0 && !has_matrix_unit();
                if !biased || is_ours {
                    close(&got, &want);
                }
                let got = grads(&got, [&x, &w, &residual]);
                for (got, want) in got.iter().zip(&grads(&want, inputs.each_ref())) {
                    close(got, want);
                }
            }
        }
    }

    #[test]
    fn a_change_of_an_input_is_noticed_and_no_gradient_is_none() {
        tch::manual_seed(17);
        let (x, w) = (randn(&[16, 8]) * 1., randn(&[4, 8]));
        let loss = linear(&x, &w, None).sum(None);
        let _ = tch::no_grad(|| x.shallow_clone().f_add_scalar_(1.).unwrap());
        assert!(loss.f_backward().is_err());

        // A weight computed by another layer, below an unused output.
        let (x, a, b) = (randn(&[64, 64]), randn(&[64, 64]), randn(&[64, 64]));
        let [y, _] = linears(&x, [&b, &linear(&a, &b, None)], None);
        y.sum(None).backward();
        let grad = a.grad();
        assert!(!grad.defined() || grad.abs().max().double_value(&[]) == 0.);
        assert_eq!(linear(&x, &randn(&[0, 64]), None).size(), [64, 0]);
    }

    #[test]
    fn an_input_of_any_layout_and_an_output_without_gradient() {
        tch::manual_seed(12);
        let x = randn(&[6, 4, 5]);
        let (v, w) = (randn(&[3, 6]), randn(&[7, 6]));
        let turned = x.transpose(0, 2);
        let [y, _] = linears(&turned, [&v, &w], None);
        let want = turned.linear(&v, None::<&Tensor>);
        close(&y, &want, 1e-5);
        assert_eq!(y.size(), [5, 4, 3]);
        let want = Tensor::run_backward(&[want.square().sum(None)], &[&x, &v], false, false);
        let got = Tensor::run_backward(&[y.square().sum(None)], &[&x, &v], false, false);
        close(&got[0], &want[0], 1e-4);
        close(&got[1], &want[1], 1e-4);
    }

    #[test]
    fn a_frozen_weight_gets_no_gradient_and_low_precision_is_libtorchs() {
        tch::manual_seed(13);
        let x = randn(&[3, 8]);
        let (frozen, trained) = (randn(&[4, 8]).detach(), randn(&[4, 8]));
        let [a, b] = linears(&x, [&frozen, &trained], None);
        (a + b).sum(None).backward();
        assert!(!frozen.grad().defined() && trained.grad().defined());
        let low = |t: &Tensor| t.detach().to_kind(Kind::BFloat16);
        let got = linear(&low(&x), &low(&trained), None);
        assert_eq!(got, low(&x).linear(&low(&trained), None::<&Tensor>));
    }

    #[test]
    fn linears_give_the_same_bits_on_any_number_of_threads() {
        tch::manual_seed(14);
        let (x, w) = (randn(&[300, 90]), randn(&[200, 90]));
        let run = || {
            let y = linear(&x, &w, None);
            let grads = Tensor::run_backward(&[y.square().sum(None)], &[&x, &w], false, false);
            std::iter::once(y.detach()).chain(grads).collect::<Vec<_>>()
        };
        let first = run();
        let threads = crate::intra_op_threads();
        for n in [1, 2, 3] {
            crate::set_intra_op_threads(n).unwrap();
            assert_eq!(run(), first);
        }
        crate::set_intra_op_threads(threads).unwrap();
    }
}

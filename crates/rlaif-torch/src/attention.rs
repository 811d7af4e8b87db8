//! Scaled dot-product attention as training needs it.

use tch::Tensor;

use crate::{ffi, fused::finish};

/// Which keys a query may see, beyond what a mask hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// All of them.
    All,
    /// Those up to its own position; there are as many keys as queries.
    Causal,
}

/// What [`attention`] does beside its three operands.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions<'a> {
    /// What scores are multiplied by.
    pub scale: f64,
    /// Which keys a query sees.
    pub keys: Keys,
    /// Added to the scores, `[1, heads, T, S]`; it may have a gradient.
    pub bias: Option<&'a Tensor>,
    /// Added to the scores, of any size that broadcasts to `[B, heads, T, S]`; no gradient reaches
    /// it. What hides a key is a large negative number.
    pub mask: Option<&'a Tensor>,
    /// Probability with which a weight is dropped.
    pub dropout: f64,
}

/// Attention of queries `[B, T, heads, D]` to keys and values `[B, S, kv, D]`, as `[B, T, heads · D]`:
/// `softmax(q kᵀ · scale + bias + mask) v`.
///
/// With fewer key heads than query heads, which they must divide, consecutive query heads share
/// one. On the CPU in f32, without dropout, where the processor has AVX-512, no scores are kept: the
/// backward pass computes them again from their normalisers
/// ([Dao et al. 2022](https://arxiv.org/abs/2205.14135)). Everything else runs libtorch's own
/// operations.
///
/// # Panics
/// If the shapes do not fit, as libtorch's operators do.
///
/// ```
/// use rlaif_torch::{AttentionOptions, Keys, attention};
/// use tch::{Device, Kind, Tensor};
/// let q = Tensor::zeros([1, 2, 1, 4], (Kind::Float, Device::Cpu));
/// let v = Tensor::from_slice(&[0f32, 0., 0., 0., 2., 2., 2., 2.]).view([1, 2, 1, 4]);
/// let options =
///     AttentionOptions { scale: 1., keys: Keys::Causal, bias: None, mask: None, dropout: 0. };
/// // The first query sees one key, the second the mean of two.
/// let y = attention(&q, &q, &v, &options);
/// assert_eq!(Vec::<f32>::try_from(y.view([-1])).unwrap(), [0., 0., 0., 0., 1., 1., 1., 1.]);
/// ```
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionOptions<'_>) -> Tensor {
    let (queries, keys) = (q.size(), k.size());
    let fits = queries.len() == 4
        && keys.len() == 4
        && v.size() == keys
        && queries[0] == keys[0]
        && queries[3] == keys[3]
        && keys[2] > 0
        && queries[2] % keys[2] == 0
        && (options.keys == Keys::All || queries[1] == keys[1]);
    assert!(fits, "queries {queries:?}, keys {keys:?} and values {:?} do not fit", v.size());
    let pointer = |t: Option<&Tensor>| t.map_or(std::ptr::null(), Tensor::as_ptr);
    let mut out = std::ptr::null_mut();
    // SAFETY: the tensors live through the call, null means none; `out` is written on success alone.
    let status = unsafe {
        ffi::rlaif_attention(
            q.as_ptr(),
            k.as_ptr(),
            v.as_ptr(),
            pointer(options.bias),
            pointer(options.mask),
            i32::from(options.keys == Keys::Causal),
            options.scale,
            options.dropout,
            &raw mut out,
        )
    };
    finish("attention", status, out)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    const HIDDEN: f64 = f32::MIN as f64 / 2.;

    fn randn(size: &[i64]) -> Tensor {
        Tensor::randn(size, (Kind::Float, Device::Cpu)).set_requires_grad(true)
    }

    /// The definition, in f64.
    fn reference(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionOptions<'_>) -> Tensor {
        let wide = |x: &Tensor| x.to_kind(Kind::Double);
        let heads = |x: &Tensor| wide(x).transpose(1, 2);
        let group = q.size()[2] / k.size()[2];
        let shared = |x: &Tensor| heads(x).repeat_interleave_self_int(group, 1, None);
        let mut scores = heads(q).matmul(&shared(k).transpose(2, 3)) * options.scale;
        for added in [options.bias, options.mask].into_iter().flatten() {
            scores += wide(added);
        }
        if options.keys == Keys::Causal {
            let seen = scores.ones_like().tril(0).to_kind(Kind::Bool);
            scores = scores.masked_fill(&seen.logical_not(), f64::NEG_INFINITY);
        }
        let mixed = scores.softmax(-1, Kind::Double).matmul(&shared(v));
        mixed.transpose(1, 2).flatten(2, 3)
    }

    fn check(sizes: [i64; 6], keys: Keys, biased: bool, mask: Option<&Tensor>) {
        let [batch, t, s, heads, kv, d] = sizes;
        let q = randn(&[batch, t, heads, d]);
        let (k, v) = (randn(&[batch, s, kv, d]), randn(&[batch, s, kv, d]));
        let bias = randn(&[1, heads, t, s]);
        let pull = randn(&[batch, t, heads * d]).detach();
        let options =
            AttentionOptions { scale: 0.4, keys, bias: biased.then_some(&bias), mask, dropout: 0. };
        let mut inputs = vec![&q, &k, &v];
        inputs.extend(options.bias);
        let (got, want) = (attention(&q, &k, &v, &options), reference(&q, &k, &v, &options));
        assert_eq!(got.size(), want.size());
        let distance = |a: &Tensor, b: &Tensor| {
            (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
        };
        assert!(distance(&got, &want) < 1e-5, "{sizes:?} {options:?}");
        let grads =
            |y: &Tensor| Tensor::run_backward(&[(y * &pull).sum(None)], &inputs, false, false);
        for (i, (got, want)) in grads(&got).iter().zip(&grads(&want)).enumerate() {
            assert_eq!(got.size(), want.size());
            assert!(distance(got, want) < 5e-5, "{sizes:?} {options:?} {i}");
        }
    }

    #[test]
    fn attention_and_its_gradients_equal_the_definition() {
        tch::manual_seed(21);
        // One of each, shared heads, more than one block of queries, remainders.
        for sizes in [
            [1, 1, 1, 1, 1, 1],
            [2, 5, 7, 3, 3, 4],
            [2, 9, 3, 6, 2, 8],
            [1, 131, 131, 4, 2, 16],
            [3, 40, 300, 2, 1, 33],
            [1, 300, 20, 2, 2, 6],
        ] {
            let [batch, t, s, ..] = sizes;
            let causal = if t == s { vec![Keys::All, Keys::Causal] } else { vec![Keys::All] };
            let padding = Tensor::zeros([batch, 1, 1, s], (Kind::Float, Device::Cpu));
            if s > 2 {
                let _ = padding.narrow(3, s - 1, 1).narrow(0, 0, 1).fill_(HIDDEN);
            }
            let window = Tensor::randn([t, s], (Kind::Float, Device::Cpu));
            for keys in causal {
                for biased in [false, true] {
                    for mask in [None, Some(&padding), Some(&window)] {
                        check(sizes, keys, biased, mask);
                    }
                }
            }
        }
    }

    #[test]
    fn a_query_that_sees_nothing_is_finite() {
        let x = randn(&[1, 3, 2, 4]);
        let mask = Tensor::full([1, 1, 1, 3], HIDDEN, (Kind::Float, Device::Cpu));
        let options = AttentionOptions {
            scale: 1.,
            keys: Keys::All,
            bias: None,
            mask: Some(&mask),
            dropout: 0.,
        };
        let y = attention(&x, &x, &x, &options);
        y.sum(None).backward();
        assert!(y.isfinite().all().int64_value(&[]) == 1);
        assert!(x.grad().isfinite().all().int64_value(&[]) == 1);
    }

    #[test]
    fn low_precision_and_dropout_run_and_learn() {
        tch::manual_seed(22);
        let low = |t: &Tensor| t.detach().to_kind(Kind::BFloat16).set_requires_grad(true);
        let (q, k, bias) = (randn(&[2, 6, 4, 8]), randn(&[2, 6, 2, 8]), randn(&[1, 4, 6, 6]));
        let options = AttentionOptions {
            scale: 0.4,
            keys: Keys::Causal,
            bias: Some(&bias),
            mask: None,
            dropout: 0.,
        };
        let want = reference(&q, &k, &k, &options);
        let (low_q, low_k, low_bias) = (low(&q), low(&k), low(&bias));
        let got = attention(
            &low_q,
            &low_k,
            &low_k,
            &AttentionOptions { bias: Some(&low_bias), ..options },
        );
        assert!((got.to_kind(Kind::Double) - want).abs().max().double_value(&[]) < 0.05);
        got.sum(None).backward();
        assert!(low_bias.grad().defined());
        let dropped = attention(&q, &k, &k, &AttentionOptions { dropout: 0.5, ..options });
        dropped.sum(None).backward();
        assert!(bias.grad().defined());
    }

    #[test]
    fn attention_gives_the_same_bits_each_time() {
        tch::manual_seed(23);
        let (x, bias) = (randn(&[3, 70, 4, 16]), randn(&[1, 4, 70, 70]));
        let options = AttentionOptions {
            scale: 0.25,
            keys: Keys::All,
            bias: Some(&bias),
            mask: None,
            dropout: 0.,
        };
        let run = || {
            let y = attention(&x, &x, &x, &options).square().sum(None);
            Tensor::run_backward(&[y], &[&x, &bias], false, false)
        };
        let first = run();
        for _ in 0..3 {
            assert_eq!(run(), first);
        }
    }
}

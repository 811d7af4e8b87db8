//! Scaled dot-product attention for training.

use tch::{Device, Kind, Tensor};

use crate::{ffi, fused::finish};

/// Keys visible to a query, apart from those that a mask hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// All of them.
    All,
    /// Keys up to the query's own position; the numbers of keys and queries must be equal.
    Causal,
}

/// Options of [`attention`] besides its three operands.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions<'a> {
    /// D; needed if the heads are concatenated in one dimension.
    pub head_dim: Option<i64>,
    /// Factor of the scores.
    pub scale: f64,
    /// The keys visible to a query.
    pub keys: Keys,
    /// Bias added to the scores, `[1, heads, T, S]`; it may require a gradient.
    pub bias: Option<&'a Tensor>,
    /// Mask added to the scores, of any size that broadcasts to `[B, heads, T, S]`; it gets no
    /// gradient. A large negative number hides a key.
    pub mask: Option<&'a Tensor>,
    /// The lengths of the rows, if rows differ in length. Then there is no padding and no mask, and
    /// the size of a bias is that of the longest rows. Allowed only if [`attends_rows`].
    pub rows: Option<RowLengths<'a>>,
    /// Dropout probability of an attention weight.
    pub dropout: f64,
}

/// Rows of different lengths with their tokens concatenated: over the first two dimensions of the
/// operands of [`attention`], row by row. There is at least one row, and a row with queries has
/// keys.
#[derive(Clone, Copy, Debug)]
pub struct RowLengths<'a> {
    /// Number of queries in each row.
    pub queries: &'a [i64],
    /// Number of keys in each row.
    pub keys: &'a [i64],
}

/// `true` if [`attention`] supports [`RowLengths`] for tensors of this dtype, with heads of this
/// size, on this device: f32 and bf16 on a CPU; for bf16 with an even size, if the processor has
/// AVX-512's bf16 instructions.
///
/// ```
/// use tch::{Device, Kind};
/// assert!(!rlaif_torch::attends_rows(Kind::Half, Device::Cpu, 64));
/// ```
pub fn attends_rows(kind: Kind, device: Device, head_dim: i64) -> bool {
    let Some(kind) = ffi::Float::of(kind).filter(|_| device == Device::Cpu) else { return false };
    let mut supported = 0;
    // SAFETY: it only queries the processor; `supported` outlives the call.
    let status = unsafe { ffi::rlaif_attends_rows(kind.into(), head_dim, &raw mut supported) };
    ffi::check("attention", status).is_ok() && supported != 0
}

/// Attention of queries `[B, T, heads, D]` to keys and values `[B, S, kv, D]`, as `[B, T, heads · D]`:
/// `softmax(q kᵀ · scale + bias + mask) v`. With [`AttentionOptions::head_dim`], queries may be
/// `[B, T, heads · D]` and keys and values `[B, S, kv · D]`.
///
/// The number of key heads must divide that of query heads; consecutive query heads share a key
/// head. On the CPU where [`attends_rows`] is true, without dropout, no scores are kept: the
/// backward pass recomputes them from their normalisers ([Dao et al.
/// 2022](https://arxiv.org/abs/2205.14135)), with sums and softmax in f32. All other cases run
/// libtorch's own operations.
///
/// # Panics
/// If the shapes do not fit, as in libtorch's operators.
///
/// ```
/// use rlaif_torch::{AttentionOptions, Keys, attention};
/// use tch::{Device, Kind, Tensor};
/// let q = Tensor::zeros([1, 2, 1, 4], (Kind::Float, Device::Cpu));
/// let v = Tensor::from_slice(&[0f32, 0., 0., 0., 2., 2., 2., 2.]).view([1, 2, 1, 4]);
/// let options =
///     AttentionOptions { head_dim: None, scale: 1., keys: Keys::Causal, bias: None, mask: None, rows: None, dropout: 0. };
/// // The first query sees one key, the second the mean of two.
/// let y = attention(&q, &q, &v, &options);
/// assert_eq!(Vec::<f32>::try_from(y.view([-1])).unwrap(), [0., 0., 0., 0., 1., 1., 1., 1.]);
/// ```
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionOptions<'_>) -> Tensor {
    let head_dim = options.head_dim.unwrap_or_else(|| q.size().last().copied().unwrap_or_default());
    let in_heads = |x: &Tensor| match x.size()[..] {
        [b, t, width] if options.head_dim.is_some() && head_dim > 0 && width % head_dim == 0 => {
            Some([b, t, width / head_dim, head_dim])
        }
        [b, t, heads, width] if width == head_dim => Some([b, t, heads, width]),
        _ => None,
    };
    let fits = match (in_heads(q), in_heads(k)) {
        (Some(queries), Some(keys)) => {
            v.size() == k.size()
                && q.dim() == k.dim()
                && (queries[0] == keys[0] || options.rows.is_some())
                && keys[2] > 0
                && queries[2] % keys[2] == 0
                && (options.keys == Keys::All || queries[1] == keys[1])
                && options.rows.is_none_or(|rows| {
                    !rows.keys.is_empty() && rows.queries.len() == rows.keys.len()
                })
        }
        _ => false,
    };
    assert!(
        fits,
        "queries {:?}, keys {:?} and values {:?} do not fit",
        q.size(),
        k.size(),
        v.size()
    );
    let pointer = |t: Option<&Tensor>| t.map_or(std::ptr::null(), Tensor::as_ptr);
    let (lengths, rows) = match options.rows {
        Some(RowLengths { queries, keys }) => ([queries.as_ptr(), keys.as_ptr()], keys.len()),
        None => ([std::ptr::null(); 2], 0),
    };
    let mut out = std::ptr::null_mut();
    // SAFETY: there are `rows` lengths of each kind; the tensors outlive the call, null means
    // absent; `out` is written only on success.
    let status = unsafe {
        ffi::rlaif_attention(
            q.as_ptr(),
            k.as_ptr(),
            v.as_ptr(),
            pointer(options.bias),
            pointer(options.mask),
            head_dim,
            lengths[0],
            lengths[1],
            rows,
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
        let options = AttentionOptions {
            head_dim: None,
            scale: 0.4,
            keys,
            bias: biased.then_some(&bias),
            mask,
            rows: None,
            dropout: 0.,
        };
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
        // Single elements, shared heads, more than one block of queries, remainders.
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
    fn so_many_keys_that_they_are_met_in_parts_make_no_difference() {
        tch::manual_seed(25);
        let window = Tensor::randn([130, 1300], (Kind::Float, Device::Cpu));
        check([1, 130, 1300, 2, 1, 6], Keys::All, true, Some(&window));
        // Some parts of the keys are seen by some queries of a block, or by none.
        check([1, 1100, 1100, 2, 1, 4], Keys::Causal, false, None);
        // The first part is hidden whole, and so is the last.
        let padding = Tensor::zeros([2, 1, 1, 1700], (Kind::Float, Device::Cpu));
        let _ = padding.narrow(3, 0, 600).narrow(0, 0, 1).fill_(HIDDEN);
        let _ = padding.narrow(3, 1100, 600).narrow(0, 1, 1).fill_(HIDDEN);
        check([2, 3, 1700, 1, 1, 4], Keys::All, false, Some(&padding));

        let low = |size: &[i64]| randn(size).detach().to_kind(Kind::BFloat16);
        let (q, k, v) = (low(&[1, 200, 2, 8]), low(&[1, 1200, 1, 8]), low(&[1, 1200, 1, 8]));
        let options = AttentionOptions {
            head_dim: None,
            scale: 0.4,
            keys: Keys::All,
            bias: None,
            mask: None,
            rows: None,
            dropout: 0.,
        };
        let grads = |run: &dyn Fn(&[Tensor; 3]) -> Tensor, kind: Kind| {
            let inputs = [&q, &k, &v].map(|x| x.to_kind(kind).detach().set_requires_grad(true));
            let y = run(&inputs);
            let loss = (y.to_kind(Kind::Double) * 2.).sin().sum(None);
            let mut all = Tensor::run_backward(&[loss], &inputs, false, false);
            all.push(y);
            all
        };
        let got = grads(&|x| attention(&x[0], &x[1], &x[2], &options), Kind::BFloat16);
        let want = grads(&|x| reference(&x[0], &x[1], &x[2], &options), Kind::Double);
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(got.kind(), Kind::BFloat16);
            let off = (got.to_kind(Kind::Double) - want).abs().max() / want.abs().max();
            assert!(off.double_value(&[]) < 0.02, "{off:?}");
        }
    }

    #[test]
    fn a_query_that_sees_nothing_is_finite() {
        let x = randn(&[1, 3, 2, 4]);
        let mask = Tensor::full([1, 1, 1, 3], HIDDEN, (Kind::Float, Device::Cpu));
        let options = AttentionOptions {
            head_dim: None,
            scale: 1.,
            keys: Keys::All,
            bias: None,
            mask: Some(&mask),
            rows: None,
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
            head_dim: None,
            scale: 0.4,
            keys: Keys::Causal,
            bias: Some(&bias),
            mask: None,
            rows: None,
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
            head_dim: None,
            scale: 0.25,
            keys: Keys::All,
            bias: Some(&bias),
            mask: None,
            rows: None,
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

    #[test]
    fn rows_of_different_lengths_are_as_each_alone() {
        tch::manual_seed(24);
        // One row longer than a block of queries, one of a single token.
        let (own, other) = ([3i64, 140, 1, 20], [7i64, 2, 150, 20]);
        let total = |lengths: &[i64]| lengths.iter().sum::<i64>();
        for (keys, lengths) in [(Keys::All, &other), (Keys::All, &own), (Keys::Causal, &own)] {
            let q = randn(&[1, total(&own), 4, 8]);
            let (k, v) = (randn(&[1, total(lengths), 2, 8]), randn(&[1, total(lengths), 2, 8]));
            let bias = randn(&[1, 4, 140, *lengths.iter().max().unwrap()]);
            let pull = randn(&[1, total(&own), 32]).detach();
            let options = AttentionOptions {
                head_dim: None,
                scale: 0.4,
                keys,
                bias: Some(&bias),
                mask: None,
                rows: Some(RowLengths { queries: &own, keys: lengths }),
                dropout: 0.,
            };
            let inputs = [&q, &k, &v, &bias];
            let grads =
                |y: &Tensor| Tensor::run_backward(&[(y * &pull).sum(None)], &inputs, false, false);
            let got = attention(&q, &k, &v, &options);
            let (mut at, mut from) = (0, 0);
            let alone = own.iter().zip(lengths).map(|(&t, &s)| {
                let keys = [&k, &v].map(|x| x.narrow(1, from, s));
                let bias = bias.narrow(2, 0, t).narrow(3, 0, s);
                let options = AttentionOptions { bias: Some(&bias), rows: None, ..options };
                let y = attention(&q.narrow(1, at, t), &keys[0], &keys[1], &options);
                (at, from) = (at + t, from + s);
                y
            });
            let want = Tensor::cat(&alone.collect::<Vec<_>>(), 1);
            let close = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-5;
            assert!(close(&got, &want), "{keys:?}");
            for (got, want) in grads(&got).iter().zip(&grads(&want)) {
                assert!(close(got, want), "{keys:?}");
            }
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let refused = |[queries, keys]: [&[i64]; 2]| {
            let (q, k) = (randn(&[1, 4, 2, 8]), randn(&[1, 3, 2, 8]));
            let options = AttentionOptions {
                head_dim: None,
                scale: 1.,
                keys: Keys::All,
                bias: None,
                mask: None,
                rows: Some(RowLengths { queries, keys }),
                dropout: 0.,
            };
            std::panic::catch_unwind(|| attention(&q, &k, &k, &options)).is_err()
        };
        assert!(!refused([&[2, 2], &[1, 2]]) && !refused([&[4, 0], &[3, 0]]));
        for rows in [[&[2, 2], &[3, 0]], [&[2, 2], &[103, -100]], [&[2, 2], &[1, 1]]] {
            assert!(refused(rows.map(|lengths| &lengths[..])), "{rows:?}");
        }
        assert!(refused([&[], &[]]) && refused([&[4], &[2, 1]]));
    }

    #[test]
    fn a_change_of_what_the_backward_pass_needs_is_noticed() {
        let options = AttentionOptions {
            head_dim: Some(8),
            scale: 1.,
            keys: Keys::All,
            bias: None,
            mask: None,
            rows: None,
            dropout: 0.,
        };
        for changed in 0..2 {
            let (q, k) = (randn(&[2, 4, 16]), randn(&[2, 3, 16]) * 1.);
            let y = attention(&q, &k, &k, &options);
            let loss = y.sum(None);
            let _guard = tch::no_grad_guard();
            let _ = [&k, &y][changed].shallow_clone().f_add_scalar_(1.).unwrap();
            assert!(loss.f_backward().is_err(), "{changed}");
        }
    }

    #[test]
    fn in_bf16_sums_and_softmax_are_f32() {
        tch::manual_seed(25);
        let low = |t: &Tensor| t.detach().to_kind(Kind::BFloat16).set_requires_grad(true);
        let wide = |t: &Tensor| t.detach().to_kind(Kind::Float).set_requires_grad(true);
        let sizes = [[2, 40, 4, 8], [2, 40, 2, 8], [2, 40, 2, 8], [1, 4, 40, 40]];
        let narrow = sizes.map(|size| low(&randn(&size)));
        let full = narrow.each_ref().map(wide);
        let mask = Tensor::zeros([2, 1, 1, 40], (Kind::Float, Device::Cpu));
        let _ = mask.narrow(0, 1, 1).narrow(3, 30, 10).fill_(HIDDEN);
        let pull = randn(&[2, 40, 32]).detach().to_kind(Kind::BFloat16);
        let run = |[q, k, v, bias]: &[Tensor; 4]| {
            let mask = mask.to_kind(q.kind());
            let options = AttentionOptions {
                head_dim: None,
                scale: 0.4,
                keys: Keys::Causal,
                bias: Some(bias),
                mask: Some(&mask),
                rows: None,
                dropout: 0.,
            };
            let y = attention(q, k, v, &options);
            let loss = (&y * &pull).sum(Kind::Float);
            let mut all = Tensor::run_backward(&[loss], &[q, k, v, bias], false, false);
            all.push(y.detach());
            all
        };
        for (got, want) in run(&narrow).iter().zip(run(&full)) {
            assert_eq!(got.kind(), Kind::BFloat16);
            let distance = (got.to_kind(Kind::Float) - &want).norm() / want.norm();
            assert!(distance.double_value(&[]) < 0.01, "{distance:?}");
        }
    }
}

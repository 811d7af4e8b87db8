//! Operations of decoding on the rows of a batch, on the CPU in f32 and bf16, without gradients.
//!
//! A row's result is bitwise independent of the other rows: libtorch's matrix products choose the
//! order of summation by the size of the batch, these do not. They read weights without repacking,
//! and are optimised for few rows, where fetching each weight once dominates the time.

use std::ptr;

use tch::{Device, Kind, Tensor};

use crate::{
    error::TorchError,
    ffi::{self, RowsAttention, RowsCut, RowsLinear, check, take},
};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowActivation {
    /// max(x, 0).
    Relu,
    /// x σ(x).
    Silu,
    /// x Φ(x).
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

impl RowActivation {
    fn number(self) -> ffi::Activation {
        match self {
            Self::Relu => ffi::Activation::Relu,
            Self::Silu => ffi::Activation::Silu,
            Self::Gelu => ffi::Activation::Gelu,
            Self::GeluTanh => ffi::Activation::GeluTanh,
        }
    }
}

/// A weight `[N, K]` and a bias `[N]`.
pub type RowWeight<'a> = (&'a Tensor, Option<&'a Tensor>);

/// A linear layer over rows `[M, K]`: [`RowLinear::apply`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RowLinear<'a> {
    /// An RMS norm before the layer: weight `[K]` and ε.
    pub norm: Option<(&'a Tensor, f64)>,
    /// The residual added to the result, `[M, N]`.
    pub residual: Option<&'a Tensor>,
    /// The activation after the first weight.
    pub activation: Option<RowActivation>,
    /// The dtype of the results.
    pub results: RowKind,
    /// The expected number of rows.
    pub count: RowCount,
}

/// Dtype of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowKind {
    /// The dtype of the rows.
    #[default]
    Same,
    /// f32, in which sums are computed anyway.
    Float,
}

/// Expected number of rows of a product. A row's result is bitwise independent of the number and
/// content of the other rows; the results of the two variants agree up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowCount {
    /// One row per response, in decoding: weights are read without repacking.
    #[default]
    Few,
    /// One row per token of the prompts: weights are packed first, for this call.
    Many,
}

/// `true` if the functions of this module can be used for tensors of this dtype and device now:
/// they cannot while gradients are recorded, because they have no backward pass.
pub fn rows_serve(kind: Kind, device: Device) -> bool {
    // SAFETY: no arguments; it reads a flag.
    is_supported(kind, device) && unsafe { ffi::rlaif_grad_enabled() } == 0
}

fn is_supported(kind: Kind, device: Device) -> bool {
    device == Device::Cpu && matches!(kind, Kind::Float | Kind::BFloat16)
}

/// The results of products with several weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Products {
    /// One for each weight.
    Apart,
    /// One: the first, after its activation, times the second.
    Gated,
}

impl RowLinear<'_> {
    /// `act(norm(x) Wᵀ + b) + residual` for each weight, `[M, N_i]` each.
    ///
    /// # Panics
    /// If shapes, dtypes or devices do not fit, or if there is a residual for several weights.
    ///
    /// ```
    /// use rlaif_torch::{RowLinear, tch::Tensor};
    /// let x = Tensor::from_slice(&[1f32, 2.]).view([1, 2]);
    /// let w = Tensor::from_slice(&[3f32, 4., 5., 6.]).view([2, 2]);
    /// let y = RowLinear { residual: Some(&x), ..RowLinear::default() }.apply(&x, &[(&w, None)]);
    /// assert_eq!(Vec::<f32>::try_from(y[0].view([-1]))?, [12., 19.]);
    /// # Ok::<(), tch::TchError>(())
    /// ```
    pub fn apply(&self, x: &Tensor, weights: &[RowWeight<'_>]) -> Vec<Tensor> {
        assert!(self.residual.is_none() || weights.len() == 1, "a residual is added to one result");
        self.run(x, weights, Products::Apart)
    }

    /// `act(norm(x) W₀ᵀ + b₀) · (norm(x) W₁ᵀ + b₁)`, `[M, N]`.
    ///
    /// # Panics
    /// As [`RowLinear::apply`].
    pub fn gated(&self, x: &Tensor, gate: RowWeight<'_>, up: RowWeight<'_>) -> Tensor {
        assert!(self.residual.is_none(), "nothing is added to a gate");
        assert_eq!(gate.0.size(), up.0.size(), "a gate is as wide as what it gates");
        self.run(x, &[gate, up], Products::Gated).remove(0)
    }

    fn run(&self, x: &Tensor, weights: &[RowWeight<'_>], products: Products) -> Vec<Tensor> {
        let (kind, size) = (x.kind(), x.size());
        assert!(is_supported(kind, x.device()), "rows are f32 or bf16 on the CPU");
        let fits = |t: &Tensor, want: &[i64]| {
            assert!(
                t.size() == want && t.kind() == kind && t.device() == Device::Cpu,
                "{:?} of {:?} does not fit {want:?} of {kind:?}",
                t.size(),
                t.kind()
            );
            t.contiguous()
        };
        assert_eq!(size.len(), 2, "rows are [M, K]");
        let x = x.contiguous();
        let norm = self.norm.map(|(weight, epsilon)| (fits(weight, &size[1..]), epsilon));
        let held: Vec<(Tensor, Option<Tensor>)> = weights
            .iter()
            .map(|(weight, bias)| {
                let outputs = weight.size()[0];
                let weight = fits(weight, &[outputs, size[1]]);
                (weight, bias.map(|bias| fits(bias, &[outputs])))
            })
            .collect();
        let residual = self.residual.map(|r| fits(r, &[size[0], held[0].0.size()[0]]));
        let pointers: Vec<_> = held.iter().map(|(weight, _)| weight.as_ptr()).collect();
        let biases: Vec<_> = held
            .iter()
            .map(|(_, bias)| bias.as_ref().map_or(ptr::null(), Tensor::as_ptr))
            .collect();
        let or_null = |t: Option<&Tensor>| t.map_or(ptr::null(), Tensor::as_ptr);
        let call = RowsLinear {
            x: x.as_ptr(),
            norm: or_null(norm.as_ref().map(|(weight, _)| weight)),
            epsilon: norm.as_ref().map_or(0., |(_, epsilon)| *epsilon),
            weights: pointers.as_ptr(),
            biases: biases.as_ptr(),
            count: held.len(),
            residual: or_null(residual.as_ref()),
            activation: self.activation.map_or(ffi::Activation::None, RowActivation::number).into(),
            gated: (products == Products::Gated).into(),
            wide: (self.results == RowKind::Float).into(),
            many: (self.count == RowCount::Many).into(),
        };
        let results = match products {
            Products::Apart => held.len(),
            Products::Gated => 1,
        };
        let mut out = vec![ptr::null_mut(); results];
        // SAFETY: every tensor outlives the call, is contiguous, of the same dtype and of a fitting
        // shape; `out` has a place for each result and is written only on success.
        let status = unsafe { ffi::rlaif_rows_linear(&raw const call, out.as_mut_ptr()) };
        if let Err(error) = check("a linear layer over rows", status) {
            panic!("{error}");
        }
        // SAFETY: written by the successful call, and each is taken once.
        out.into_iter().map(|t| unsafe { take(t) }).collect()
    }
}

/// Attention of one query per row to cached keys and values, `[rows, kv, capacity, D]` each:
/// [`RowAttention::apply`].
#[derive(Clone, Copy, Debug)]
pub struct RowAttention<'a> {
    /// Keys; row b of the queries attends to row b.
    pub keys: &'a Tensor,
    /// Values.
    pub values: &'a Tensor,
    /// Number of keys visible to each row, from the first on.
    pub lengths: &'a [i64],
    /// Factor of the queries.
    pub scale: f64,
    /// If set, only this many of the last keys are visible.
    pub window: Option<i64>,
    /// Bias of the scores, f32 `[heads, distances]`, by distance from the last visible key; larger
    /// distances use the last column.
    pub bias: Option<&'a Tensor>,
}

impl RowAttention<'_> {
    /// `softmax(q Kᵀ · scale + bias) V` for queries `[B, heads · D]`, with the same shape. New keys
    /// and values `[B, kv · D]` are first written at the last position of each row's `lengths`.
    ///
    /// # Panics
    /// If shapes, dtypes, devices or lengths do not fit.
    pub fn apply(&self, q: &Tensor, new: Option<(&Tensor, &Tensor)>) -> Tensor {
        let kind = q.kind();
        let [rows, kv, capacity, width] =
            <[i64; 4]>::try_from(self.keys.size()).expect("keys are [rows, kv, capacity, D]");
        let [batch, queries] = <[i64; 2]>::try_from(q.size()).expect("queries are [B, heads · D]");
        assert!(is_supported(kind, q.device()), "rows are f32 or bf16 on the CPU");
        assert!(batch <= rows && self.lengths.len() as i64 == batch, "rows and lengths fit");
        assert!(queries > 0 && queries % (kv * width) == 0, "heads are whole groups");
        assert!(
            self.lengths.iter().all(|length| (1..=capacity).contains(length)),
            "lengths are from 1 to {capacity}"
        );
        for held in [self.keys, self.values] {
            assert!(
                held.size() == self.keys.size()
                    && held.kind() == kind
                    && held.device() == Device::Cpu
                    && held.is_contiguous(),
                "keys and values are alike and contiguous"
            );
        }
        let fits = |t: &Tensor| {
            assert!(
                t.size() == [batch, kv * width] && t.kind() == kind,
                "new keys are [B, kv · D]"
            );
            t.contiguous()
        };
        let new = new.map(|(k, v)| (fits(k), fits(v)));
        let bias = self.bias.map(|bias| {
            assert!(
                bias.size().len() == 2
                    && bias.size()[0] * width == queries
                    && bias.size()[1] > 0
                    && bias.kind() == Kind::Float,
                "a bias is f32 [heads, distances]"
            );
            bias.contiguous()
        });
        let q = q.contiguous();
        let or_null = |t: Option<&Tensor>| t.map_or(ptr::null(), Tensor::as_ptr);
        let call = RowsAttention {
            q: q.as_ptr(),
            k: or_null(new.as_ref().map(|(k, _)| k)),
            v: or_null(new.as_ref().map(|(_, v)| v)),
            keys: self.keys.as_ptr(),
            values: self.values.as_ptr(),
            lengths: self.lengths.as_ptr(),
            bias: or_null(bias.as_ref()),
            scale: self.scale,
            window: self.window.unwrap_or(0),
        };
        let mut out = ptr::null_mut();
        // SAFETY: every tensor outlives the call, is contiguous and of a fitting shape; lengths are
        // within the capacity, so that writes stay in their row.
        let status = unsafe { ffi::rlaif_rows_attention(&raw const call, &raw mut out) };
        if let Err(error) = check("attention over rows", status) {
            panic!("{error}");
        }
        // SAFETY: written by the successful call, and taken once.
        unsafe { take(out) }
    }
}

/// A token chosen for a row of logits: [`choose_tokens`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowChoice {
    /// The token's id.
    pub id: i64,
    /// The token's log softmax(logits / temperature) over all tokens, cut off or not.
    pub log_prob: f32,
    /// log Σ exp(logits / temperature).
    pub normaliser: f64,
}

/// Truncation of the distribution before a draw, in this order: [`choose_tokens`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenCut {
    /// Keeps the k most probable tokens, and those as probable as the k-th. At least 1.
    pub top_k: Option<usize>,
    /// Keeps the most probable tokens, of equal ones the first, until their sum reaches the share p
    /// of the remaining probability. Above 0.
    pub top_p: Option<f64>,
    /// Keeps tokens at least this fraction as probable as the most probable one, at most 1.
    pub min_p: Option<f64>,
}

/// Chooses a token for each row of logits, f32 `[B, V]` on the CPU. With `uniforms`, one number in
/// [0, 1) per row, it is the token whose interval contains the number, if the probabilities of
/// softmax(logits / temperature), for the tokens that `cut` keeps, are laid side by side in order
/// of ids. Without `uniforms` it is the most probable token, of equal ones the first. `None` for a
/// row with NaN or +∞, or with only -∞.
///
/// # Errors
/// [`TorchError`] if memory runs out.
///
/// # Panics
/// If shapes or dtypes do not fit, or a setting of `cut` is out of range.
///
/// ```
/// use rlaif_torch::{TokenCut, choose_tokens, tch::Tensor};
/// let logits = Tensor::from_slice(&[0f32, 0., 1., f32::NAN]).view([2, 2]);
/// let choices = choose_tokens(&logits, 1., Some(&[0.6, 0.6]), &TokenCut::default())?;
/// assert_eq!(choices[0].map(|choice| choice.id), Some(1));
/// assert!((choices[0].unwrap().log_prob - 0.5f32.ln()).abs() < 1e-6);
/// assert_eq!(choices[1], None);
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn choose_tokens(
    logits: &Tensor,
    temperature: f64,
    uniforms: Option<&[f64]>,
    cut: &TokenCut,
) -> Result<Vec<Option<RowChoice>>, TorchError> {
    let size = logits.size();
    assert!(
        size.len() == 2
            && size[1] > 0
            && logits.kind() == Kind::Float
            && logits.device() == Device::Cpu,
        "logits are f32 [B, V] on the CPU"
    );
    let rows = usize::try_from(size[0]).expect("a size is not negative");
    assert!(uniforms.is_none_or(|u| u.len() == rows), "each row has its number");
    assert!(
        cut.top_k != Some(0)
            && cut.top_p.is_none_or(|p| p > 0.)
            && cut.min_p.is_none_or(|p| (0. ..=1.).contains(&p)),
        "{cut:?} keeps nothing"
    );
    let cut = RowsCut {
        // A larger k keeps all tokens.
        top_k: cut.top_k.map_or(0, |k| i64::try_from(k).unwrap_or(i64::MAX)),
        top_p: cut.top_p.unwrap_or(1.),
        min_p: cut.min_p.unwrap_or(0.),
    };
    let logits = logits.contiguous();
    let mut ids = vec![-1i64; rows];
    let mut log_probs = vec![0f32; rows];
    let mut normalisers = vec![0f64; rows];
    // SAFETY: the logits outlive the call and are contiguous; the lists have an entry for each row.
    let status = unsafe {
        ffi::rlaif_rows_choose(
            logits.as_ptr(),
            temperature,
            uniforms.map_or(ptr::null(), <[f64]>::as_ptr),
            &raw const cut,
            ids.as_mut_ptr(),
            log_probs.as_mut_ptr(),
            normalisers.as_mut_ptr(),
        )
    };
    check("choosing tokens", status)?;
    let rows = ids.into_iter().zip(log_probs).zip(normalisers);
    Ok(rows
        .map(|((id, log_prob), normaliser)| {
            (id >= 0).then_some(RowChoice { id, log_prob, normaliser })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn randn(size: &[i64], kind: Kind) -> Tensor {
        Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind)
    }

    fn wide(x: &Tensor) -> Tensor {
        x.to_kind(Kind::Double)
    }

    #[track_caller]
    fn close(got: &Tensor, want: &Tensor, tolerance: f64) {
        assert_eq!(got.size(), want.size());
        let scale = want.abs().max().double_value(&[]).max(1.);
        let distance = (wide(got) - want).abs().max().double_value(&[]);
        assert!(distance < tolerance * scale, "{distance} of {scale}");
    }

    fn tolerance(kind: Kind) -> f64 {
        if kind == Kind::Float { 2e-5 } else { 2e-2 }
    }

    fn activated(x: &Tensor, activation: Option<RowActivation>) -> Tensor {
        match activation {
            None => x.shallow_clone(),
            Some(RowActivation::Relu) => x.relu(),
            Some(RowActivation::Silu) => x.silu(),
            Some(RowActivation::Gelu) => x.gelu("none"),
            Some(RowActivation::GeluTanh) => x.gelu("tanh"),
        }
    }

    #[test]
    fn linear_layers_equal_their_definition() {
        tch::manual_seed(1);
        let counts = [RowCount::Few, RowCount::Many];
        for (kind, count) in
            [Kind::Float, Kind::BFloat16].into_iter().flat_map(|kind| counts.map(|c| (kind, c)))
        {
            let plain = RowLinear { count, ..RowLinear::default() };
            // Sizes with and without remainders of tiles, panels and vectors.
            for (m, k, n) in [(1, 1, 1), (3, 40, 7), (8, 64, 9), (17, 33, 100), (300, 96, 31)] {
                let (x, norm) = (randn(&[m, k], kind), randn(&[k], kind));
                let (w, bias) = (randn(&[n, k], kind), randn(&[n], kind));
                let (up, residual) = (randn(&[n, k], kind), randn(&[m, n], kind));
                let mean = wide(&x).square().mean_dim(-1, true, Kind::Double);
                let normed = wide(&x) / (mean + 1e-3).sqrt() * wide(&norm);
                let with_norm = RowLinear { norm: Some((&norm, 1e-3)), ..plain };

                let got = with_norm.apply(&x, &[(&w, Some(&bias)), (&up, None)]);
                let product = |x: &Tensor, w: &Tensor| x.matmul(&wide(w).tr());
                let want = product(&normed, &w) + wide(&bias);
                close(&got[0], &want, tolerance(kind));
                close(&got[1], &product(&normed, &up), tolerance(kind));

                let layer = RowLinear { residual: Some(&residual), ..plain };
                let got = layer.apply(&x, &[(&w, None)]);
                close(&got[0], &(product(&wide(&x), &w) + wide(&residual)), tolerance(kind));
                assert_eq!(got[0].kind(), kind);

                let float = RowLinear { results: RowKind::Float, ..plain };
                let got = float.apply(&x, &[(&w, None)]);
                close(&got[0], &product(&wide(&x), &w), 2e-5);

                for activation in [
                    None,
                    Some(RowActivation::Relu),
                    Some(RowActivation::Silu),
                    Some(RowActivation::Gelu),
                    Some(RowActivation::GeluTanh),
                ] {
                    let layer = RowLinear { activation, ..with_norm };
                    let got = layer.gated(&x, (&w, Some(&bias)), (&up, None));
                    let gate = activated(&(product(&normed, &w) + wide(&bias)), activation);
                    close(&got, &(gate * product(&normed, &up)), tolerance(kind));
                    let got = layer.apply(&x, &[(&w, None)]);
                    let want = activated(&product(&normed, &w), activation);
                    close(&got[0], &want, tolerance(kind));
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_batch() {
        tch::manual_seed(2);
        let counts = [RowCount::Few, RowCount::Many];
        for (kind, count) in
            [Kind::Float, Kind::BFloat16].into_iter().flat_map(|kind| counts.map(|c| (kind, c)))
        {
            let (x, w) = (randn(&[700, 80], kind), randn(&[50, 80], kind));
            let norm = randn(&[80], kind);
            let layer = RowLinear { norm: Some((&norm, 1e-6)), count, ..RowLinear::default() };
            let whole = layer.apply(&x, &[(&w, None)]).remove(0);
            for (start, rows) in [(0, 1), (699, 1), (5, 3), (100, 16), (3, 600)] {
                let part = layer.apply(&x.narrow(0, start, rows), &[(&w, None)]).remove(0);
                assert_eq!(part, whole.narrow(0, start, rows));
            }
        }
    }

    #[test]
    fn attention_equals_its_definition() {
        tch::manual_seed(3);
        for kind in [Kind::Float, Kind::BFloat16] {
            for (group, window, biased) in
                [(1, None, true), (3, None, false), (2, Some(4), false), (1, Some(2), true)]
            {
                let (rows, kv, capacity, d) = (4i64, 2i64, 11i64, 24i64);
                let heads = kv * group;
                let (keys, values) =
                    (randn(&[rows, kv, capacity, d], kind), randn(&[rows, kv, capacity, d], kind));
                let q = randn(&[3, heads * d], kind);
                let (k, v) = (randn(&[3, kv * d], kind), randn(&[3, kv * d], kind));
                let bias = randn(&[heads, 5], Kind::Float);
                let lengths = [1i64, 11, 6];
                let attention = RowAttention {
                    keys: &keys,
                    values: &values,
                    lengths: &lengths,
                    scale: 0.3,
                    window,
                    bias: biased.then_some(&bias),
                };
                let got = attention.apply(&q, Some((&k, &v)));
                for (row, &length) in (0i64..).zip(&lengths) {
                    // New keys are at the end.
                    let end = keys.get(row).narrow(1, length - 1, 1).reshape([-1]);
                    assert_eq!(end, k.get(row));
                    let first = window.map_or(0, |w: i64| (length - w).max(0));
                    for head in 0..heads {
                        let seen = |held: &Tensor| {
                            wide(&held.get(row).get(head / group).narrow(0, first, length - first))
                        };
                        let query = wide(&q.get(row).narrow(0, head * d, d));
                        let mut scores = seen(&keys).matmul(&query) * 0.3;
                        if biased {
                            let distances: Vec<i64> =
                                (first..length).map(|s| (length - 1 - s).min(4)).collect();
                            scores += wide(&bias.get(head))
                                .index_select(0, &Tensor::from_slice(&distances));
                        }
                        let want = scores.softmax(0, Kind::Double).matmul(&seen(&values));
                        close(&got.get(row).narrow(0, head * d, d), &want, tolerance(kind));
                    }
                }
            }
        }
    }

    #[test]
    fn choices_are_those_of_the_cumulated_probabilities() {
        tch::manual_seed(4);
        for (width, temperature) in [(1, 1.), (7, 0.5), (1024, 1.), (1025, 1.3), (5000, 1.)] {
            let logits = Tensor::randn([64, width], (Kind::Float, Device::Cpu)) * 3.;
            let uniforms: Vec<f64> = (0..64).map(|i| f64::from(i) / 64. + 0.003).collect();
            let p = (wide(&logits) / temperature).log_softmax(-1, Kind::Double);
            let ends = Vec::<Vec<f64>>::try_from(p.exp().cumsum(-1, Kind::Double)).unwrap();
            let log_p = Vec::<Vec<f64>>::try_from(&p).unwrap();
            let choices =
                choose_tokens(&logits, temperature, Some(&uniforms), &TokenCut::default()).unwrap();
            for (row, choice) in choices.iter().enumerate() {
                let choice = choice.unwrap();
                let id = usize::try_from(choice.id).unwrap();
                let start = if id == 0 { 0. } else { ends[row][id - 1] };
                let u = uniforms[row];
                assert!(start - 1e-5 <= u && u <= ends[row][id] + 1e-5, "{width} {row} {id}");
                assert!((f64::from(choice.log_prob) - log_p[row][id]).abs() < 5e-6);
            }
            let greedy = choose_tokens(&logits, 1., None, &TokenCut::default()).unwrap();
            let want = Vec::<i64>::try_from(logits.argmax(-1, false)).unwrap();
            let got: Vec<i64> = greedy.iter().map(|choice| choice.unwrap().id).collect();
            assert_eq!(got, want);
        }
    }

    /// The kept tokens, by the definitions, in f64: probabilities of a row, 0 where cut off.
    fn kept(logits: &[f32], temperature: f64, cut: &TokenCut) -> Vec<f64> {
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let weight = |id: usize| ((f64::from(logits[id]) - largest) / temperature).exp();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        if let Some(k) = cut.top_k.filter(|&k| k < order.len()) {
            let last = logits[order[k - 1]];
            order.retain(|&id| logits[id] >= last);
        }
        if let Some(p) = cut.top_p {
            let goal = p * order.iter().map(|&id| weight(id)).sum::<f64>();
            let mut before = 0.;
            order.retain(|&id| {
                let keeps = before < goal;
                before += weight(id);
                keeps
            });
        }
        order.retain(|&id| weight(id) >= cut.min_p.unwrap_or(0.));
        let sum: f64 = order.iter().map(|&id| weight(id)).sum();
        let mut all = vec![0.; logits.len()];
        for id in order {
            all[id] = weight(id) / sum;
        }
        all
    }

    #[test]
    fn what_is_cut_off_is_never_drawn_and_the_rest_as_often_as_it_should_be() {
        tch::manual_seed(9);
        let cut = |top_k, top_p, min_p| TokenCut { top_k, top_p, min_p };
        for (width, spread, temperature) in
            [(1, 1., 1.), (40, 2., 0.7), (3000, 3., 1.), (3000, 0.01, 1.3), (2500, 30., 1.)]
        {
            let logits = Tensor::randn([width], (Kind::Float, Device::Cpu)) * spread;
            // Equal logits, and a forbidden token.
            let mut logits = Vec::<f32>::try_from(&logits).unwrap();
            for at in (3..logits.len()).step_by(7) {
                logits[at] = logits[at - 2];
            }
            if width > 1 {
                logits[1] = f32::NEG_INFINITY;
            }
            for cut in [
                cut(Some(1), None, None),
                cut(Some(30), None, None),
                cut(Some(5000), None, None),
                cut(None, Some(1e-9), None),
                cut(None, Some(0.5), None),
                cut(None, Some(0.95), None),
                cut(None, None, Some(0.3)),
                cut(None, None, Some(1.)),
                cut(Some(200), Some(0.9), Some(0.01)),
            ] {
                let want = kept(&logits, temperature, &cut);
                // The middle of each token's interval, and near its ends where it is wide.
                let (mut uniforms, mut ids, mut start) = (Vec::new(), Vec::new(), 0.);
                for (id, &p) in want.iter().enumerate() {
                    let mut at = |u: f64| {
                        uniforms.push(u);
                        ids.push(id as i64);
                    };
                    if p > 1e-5 {
                        at(start + p / 2.);
                    }
                    if p > 1e-4 {
                        at(start + 1e-5);
                        at(start + p - 1e-5);
                    }
                    start += p;
                }
                let rows = uniforms.len() as i64;
                let rows = Tensor::from_slice(&logits).expand([rows, width], false);
                let got = choose_tokens(&rows, temperature, Some(&uniforms), &cut).unwrap();
                for ((got, want), u) in got.into_iter().zip(ids).zip(uniforms) {
                    assert_eq!(got.unwrap().id, want, "{width} {spread} {cut:?} {u}");
                }
            }
        }
    }

    #[test]
    fn rows_without_a_choice_are_told() {
        let low = f32::NEG_INFINITY;
        let rows = [[0., f32::NAN], [0., f32::INFINITY], [low, low], [low, 0.]];
        let logits = Tensor::from_slice(&rows.concat()).view([4, 2]);
        for uniforms in [None, Some(&[0.; 4][..]), Some(&[0.999_999_999; 4][..])] {
            let choices = choose_tokens(&logits, 1., uniforms, &TokenCut::default()).unwrap();
            assert_eq!(choices[..3], [None; 3]);
            assert_eq!(choices[3].unwrap().id, 1);
            assert_eq!(choices[3].unwrap().log_prob, 0.);
        }
    }
}

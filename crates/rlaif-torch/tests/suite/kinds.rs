//! Tensors of dtypes that a kernel does not support: refused, or computed correctly.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rlaif_torch::{
    AttentionOptions, Gate, Keys, RowAttention, RowLinear, TokenCut, attention, choose_tokens,
    gated, linear, linear_log_probs, linear_onto, linears, rms_norm, rms_norm_beside, rope,
};
use tch::{Device, Kind, Tensor};

const OTHERS: [Kind; 4] = [Kind::Half, Kind::Double, Kind::Int64, Kind::Int];

/// Integers, which every dtype can represent.
fn whole(size: &[i64], kind: Kind) -> Tensor {
    let count = size.iter().product::<i64>();
    (Tensor::arange(count, (Kind::Float, Device::Cpu)).remainder(5.) - 1).view(size).to_kind(kind)
}

/// One call with tensors of integers, whose dtypes `of` returns by position.
type Call = fn(of: &dyn Fn(usize) -> Kind) -> Tensor;

/// The kernels, and their numbers of tensors.
const KERNELS: [(&str, usize, Call); 9] = [
    ("rms_norm", 2, |of| rms_norm(&whole(&[3, 4], of(0)), &whole(&[4], of(1)), 0.5)),
    ("rms_norm_beside", 2, |of| {
        rms_norm_beside(&whole(&[3, 4], of(0)), &whole(&[4], of(1)), 0.5).1
    }),
    ("rope", 3, |of| {
        // Angles are repeated, for both halves of the width.
        let angles = |at| whole(&[2, 1, 2], of(at)).repeat([1, 1, 2]);
        rope(&whole(&[1, 2, 1, 4], of(0)), &angles(1), &angles(2))
    }),
    ("linear", 3, |of| {
        linear(&whole(&[3, 4], of(0)), &whole(&[5, 4], of(1)), Some(&whole(&[5], of(2))))
    }),
    ("linear_onto", 3, |of| {
        linear_onto(&whole(&[3, 5], of(0)), &whole(&[3, 4], of(1)), &whole(&[5, 4], of(2)), None)
    }),
    ("linears", 3, |of| {
        let weights = [&whole(&[5, 4], of(1)), &whole(&[2, 4], of(2))];
        let [_, second] = linears(&whole(&[3, 4], of(0)), weights, None);
        second
    }),
    ("gated", 2, |of| gated(&whole(&[3, 4], of(0)), &whole(&[3, 4], of(1)), Gate::Silu)),
    ("attention", 4, |of| {
        let tensor = |at| whole(&[1, 3, 2, 4], of(at));
        let bias = whole(&[1, 2, 3, 3], of(3));
        let options = AttentionOptions {
            head_dim: None,
            scale: 0.5,
            keys: Keys::All,
            bias: Some(&bias),
            mask: None,
            rows: None,
            dropout: 0.,
        };
        attention(&tensor(0), &tensor(1), &tensor(2), &options)
    }),
    ("linear_log_probs", 2, |of| {
        let targets = Tensor::from_slice(&[0i64, 1, 2]);
        linear_log_probs(&whole(&[3, 4], of(0)), &whole(&[5, 4], of(1)), None, &targets, 1., 8)
            .unwrap()
            .0
    }),
];

/// Runs a call that may be refused by a panic or an unwrapped error, without its message.
fn quiet(call: impl FnOnce() -> Tensor) -> Option<Tensor> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

#[test]
fn kernels_refuse_other_kinds_or_compute_what_they_hold() {
    for (name, tensors, call) in KERNELS {
        let expected = call(&|_| Kind::Float).to_kind(Kind::Double);
        assert!(expected.abs().max().double_value(&[]) > 0.1, "{name} says something");
        for other in OTHERS {
            // All tensors of that dtype, and each separately.
            for at in std::iter::once(None).chain((0..tensors).map(Some)) {
                let of = |i: usize| if at.is_none_or(|at| at == i) { other } else { Kind::Float };
                let Some(got) = quiet(|| call(&of)) else { continue };
                let off = (got.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
                assert!(off < 0.02, "{name} of {other:?} at {at:?} is off by {off}");
            }
        }
    }
}

#[test]
fn kernels_compute_doubles_as_doubles() {
    for (name, _, call) in KERNELS {
        let expected = call(&|_| Kind::Float).to_kind(Kind::Double);
        let got = call(&|_| Kind::Double).to_kind(Kind::Double);
        let off = (got - &expected).abs().max().double_value(&[]);
        assert!(off < 1e-5, "{name} is off by {off}");
    }
}

#[test]
fn rows_of_other_kinds_are_refused() {
    for other in OTHERS {
        for at in 0..6 {
            let of = |i: usize| if i == at { other } else { Kind::Float };
            let refused = quiet(|| {
                let row = RowLinear {
                    norm: Some((&whole(&[4], of(0)), 0.5)),
                    residual: Some(&whole(&[3, 5], of(1))),
                    ..RowLinear::default()
                };
                let (weight, bias) = (whole(&[5, 4], of(2)), whole(&[5], of(3)));
                row.apply(&whole(&[3, 4], of(4)), &[(&weight, Some(&bias))]).remove(0)
            });
            assert_eq!(refused.is_none(), at < 5, "a linear layer, {other:?} at {at}");
            let refused = quiet(|| {
                let bias = whole(&[2, 3], of(0));
                let row = RowAttention {
                    keys: &whole(&[2, 1, 3, 4], of(1)),
                    values: &whole(&[2, 1, 3, 4], of(2)),
                    lengths: &[1, 2],
                    scale: 1.,
                    window: None,
                    bias: Some(&bias),
                };
                let new = (whole(&[2, 4], of(3)), whole(&[2, 4], of(4)));
                row.apply(&whole(&[2, 8], of(5)), Some((&new.0, &new.1)))
            });
            assert!(refused.is_none(), "attention, {other:?} at {at}");
        }
        let logits = whole(&[2, 3], other);
        let chosen = catch_unwind(AssertUnwindSafe(|| {
            choose_tokens(&logits, 1., None, &TokenCut::default()).map(|_| ())
        }));
        assert!(!matches!(chosen, Ok(Ok(()))), "tokens of {other:?}");
    }
}

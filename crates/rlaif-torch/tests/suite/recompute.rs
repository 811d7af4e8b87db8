//! Segment recomputation against plain backward passes.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use crate::common::{alone, devices};
use rlaif_torch::{RngState, TorchError, checkpoint, checkpoint_many};
use tch::{Device, Kind, Tensor};

type Result<T> = std::result::Result<T, TorchError>;

/// A residual block with dropout: `x + dropout(gelu(x W))`.
struct Block {
    weight: Tensor,
}

impl Block {
    fn new(device: Device) -> Self {
        let weight = Tensor::randn([16, 16], (Kind::Float, device)) / 4;
        Self { weight: weight.set_requires_grad(true) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        x + x.matmul(&self.weight).gelu("none").dropout(0.3, true)
    }

    fn captured(&self) -> Self {
        Self { weight: self.weight.shallow_clone() }
    }
}

#[derive(Clone, Copy)]
enum Run {
    Plain,
    EachBlock,
    Nested,
}

fn forward(blocks: &[Block], x: &Tensor, run: Run) -> Tensor {
    match run {
        Run::Plain => blocks.iter().fold(x.shallow_clone(), |x, block| block.forward(&x)),
        Run::EachBlock => blocks.iter().fold(x.shallow_clone(), |x, block| {
            let block = block.captured();
            checkpoint(&[&x], move |t| Result::Ok(block.forward(&t[0]))).unwrap()
        }),
        Run::Nested => {
            let inner: Vec<Block> = blocks.iter().map(Block::captured).collect();
            let outer = move |t: &[Tensor]| Result::Ok(forward(&inner, &t[0], Run::EachBlock));
            checkpoint(&[x], outer).unwrap()
        }
    }
}

/// Output, gradients, and what the generators draw afterwards.
fn train(device: Device, run: Run) -> (Tensor, Vec<Tensor>, Tensor) {
    tch::manual_seed(11);
    let blocks: Vec<Block> = (0..3).map(|_| Block::new(device)).collect();
    let x = Tensor::randn([8, 16], (Kind::Float, device)).set_requires_grad(true);
    let y = forward(&blocks, &x, run);
    // Between the passes others draw: the second run must not see it, nor they the second run.
    let _ = Tensor::rand([5], (Kind::Float, device));
    y.square().mean(Kind::Float).backward();
    let after = Tensor::rand([3], (Kind::Float, device));
    let mut grads = vec![x.grad()];
    grads.extend(blocks.iter().map(|block| block.weight.grad()));
    (y.detach(), grads, after)
}

#[test]
fn gradients_are_those_of_a_plain_pass_with_dropout_on() {
    let devices = devices();
    let _guard = alone();
    for device in devices {
        let (y, grads, after) = train(device, Run::Plain);
        for run in [Run::EachBlock, Run::Nested] {
            let (y2, grads2, after2) = train(device, run);
            assert_eq!(y, y2);
            assert_eq!(after, after2, "the second run's draws must not show");
            for (g, g2) in grads.iter().zip(&grads2) {
                assert!(g.defined() && g2.defined());
                assert_eq!(g, g2);
            }
        }
    }
}

#[test]
fn the_segment_runs_once_without_and_once_with_a_graph() {
    devices();
    let _guard = alone();
    let modes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&modes);
    let x = Tensor::from_slice(&[2f32]).set_requires_grad(true);
    let y = checkpoint(&[&x], move |t| {
        let y = t[0].square();
        seen.lock().unwrap().push(y.requires_grad());
        Result::Ok(y)
    })
    .unwrap();
    assert_eq!(*modes.lock().unwrap(), [false]);
    y.backward();
    assert_eq!(*modes.lock().unwrap(), [false, true]);
    assert_eq!(x.grad().double_value(&[0]), 4.0);
}

#[test]
fn parameters_learn_when_no_input_needs_a_gradient() {
    devices();
    let _guard = alone();
    let table = Tensor::ones([4, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let ids = Tensor::from_slice(&[1i64, 3, 3]);
    let captured = table.shallow_clone();
    let y = checkpoint(&[&ids], move |t| {
        Result::Ok(Tensor::embedding(&captured, &t[0], -1, false, false))
    })
    .unwrap();
    y.sum(Kind::Float).backward();
    let expected = Tensor::from_slice(&[0f32, 0., 1., 1., 0., 0., 2., 2.]).reshape([4, 2]);
    assert_eq!(table.grad(), expected);
}

#[test]
fn one_closure_may_serve_two_segments() {
    devices();
    let _guard = alone();
    let run = |recompute: bool| {
        tch::manual_seed(4);
        let block = Arc::new(Mutex::new(Block::new(Device::Cpu)));
        let shared = Arc::clone(&block);
        let segment = move |t: &[Tensor]| Result::Ok(shared.lock().unwrap().forward(&t[0]));
        let x = Tensor::randn([2, 16], (Kind::Float, Device::Cpu));
        let y = if recompute {
            let again = segment.clone();
            let y = checkpoint(&[&x], segment).unwrap();
            checkpoint(&[&y], again).unwrap()
        } else {
            segment(&[segment(&[x]).unwrap()]).unwrap()
        };
        y.sum(Kind::Float).backward();
        block.lock().unwrap().weight.grad()
    };
    assert!(run(true).allclose(&run(false), 1e-6, 1e-6, false));
}

#[test]
fn outputs_that_are_unused_or_integers_need_no_gradient() {
    devices();
    let _guard = alone();
    let x = Tensor::from_slice(&[1f32, -2.0, 3.0]).set_requires_grad(true);
    let outputs = checkpoint_many(&[&x], |t| {
        Result::Ok(vec![t[0].exp(), t[0].argmax(0, false), t[0].square(), t[0].shallow_clone()])
    })
    .unwrap();
    let needs: Vec<bool> = outputs.iter().map(Tensor::requires_grad).collect();
    assert_eq!(needs, [true, false, true, true]);
    assert_eq!(outputs[1].int64_value(&[]), 2);
    (&outputs[2] + &outputs[3]).sum(Kind::Float).backward();
    assert_eq!(x.grad(), Tensor::from_slice(&[3f32, -3.0, 7.0]));
}

#[test]
fn only_inputs_that_need_a_gradient_get_one() {
    devices();
    let _guard = alone();
    let x = Tensor::from_slice(&[2f32]).set_requires_grad(true);
    let fixed = Tensor::from_slice(&[5f32]);
    let y = checkpoint(&[&x, &fixed], |t| Result::Ok(&t[0] * &t[1])).unwrap();
    y.backward();
    assert_eq!(x.grad().double_value(&[0]), 5.0);
    assert!(!fixed.grad().defined());
}

#[test]
fn without_gradients_the_segment_just_runs() {
    devices();
    let _guard = alone();
    let x = Tensor::from_slice(&[2f32]).set_requires_grad(true);
    let y = tch::no_grad(|| checkpoint(&[&x], |t| Result::Ok(t[0].square())).unwrap());
    assert!(!y.requires_grad());
    assert_eq!(y.double_value(&[0]), 4.0);
}

/// Counts the closures that were dropped.
struct Canary(Arc<()>);

#[test]
fn the_closure_is_dropped_with_the_graph_or_after_the_backward_pass() {
    devices();
    let _guard = alone();
    let alive = Arc::new(());
    let x = Tensor::from_slice(&[2f32]).set_requires_grad(true);
    let build = || {
        let canary = Canary(Arc::clone(&alive));
        checkpoint(&[&x], move |t| {
            let _ = &canary.0;
            Result::Ok(t[0].square())
        })
        .unwrap()
    };
    let y = build();
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(y);
    assert_eq!(Arc::strong_count(&alive), 1, "dropped with the graph");
    let y = build();
    y.backward();
    assert_eq!(Arc::strong_count(&alive), 1, "dropped by the backward pass, {y:?} or not");
    // A closure that refuses is dropped too.
    let canary = Canary(Arc::clone(&alive));
    let refused = checkpoint(&[&x], move |_| {
        let _ = &canary.0;
        Err(TorchError::DeviceName { found: "refused".to_owned() })
    });
    assert!(matches!(refused, Err(TorchError::DeviceName { .. })));
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn a_kept_graph_gives_the_same_gradient_again_and_a_freed_one_an_error() {
    devices();
    let _guard = alone();
    tch::manual_seed(2);
    let x = Tensor::ones([64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let y = checkpoint(&[&x], |t| Result::Ok(t[0].square().dropout(0.5, true)))
        .unwrap()
        .sum(Kind::Float);
    let grad = |keep| Tensor::f_run_backward(&[&y], &[&x], keep, false);
    let first = grad(true).unwrap().swap_remove(0);
    let second = grad(false).unwrap().swap_remove(0);
    assert_eq!(first, second);
    let error = grad(false).unwrap_err().to_string();
    assert!(error.contains("second time"), "{error}");
}

#[test]
fn a_second_derivative_is_refused() {
    devices();
    let _guard = alone();
    let x = Tensor::from_slice(&[2f32]).set_requires_grad(true);
    let y = checkpoint(&[&x], |t| Result::Ok(t[0].square())).unwrap();
    let error = Tensor::f_run_backward(&[&y], &[&x], true, true).unwrap_err().to_string();
    assert!(error.contains("no second derivative"), "{error}");
}

/// A segment that works once, and the second time does as told.
fn fails_later(then: fn() -> Result<Tensor>) -> (Tensor, String) {
    let x = Tensor::from_slice(&[2f32]).set_requires_grad(true);
    let ran = Cell::new(false);
    let y = checkpoint(&[&x], move |t| if ran.replace(true) { then() } else { Ok(t[0].square()) })
        .unwrap();
    let before = RngState::save().unwrap().to_named();
    let error = y.f_backward().unwrap_err().to_string();
    let after = RngState::save().unwrap().to_named();
    assert_eq!(before[0].1, after[0].1, "generators are put back after a failure too");
    (x, error)
}

#[test]
fn a_second_run_that_fails_fails_the_backward_pass() {
    devices();
    let _guard = alone();
    let (x, error) = fails_later(|| Err(TorchError::DeviceName { found: "nowhere".to_owned() }));
    assert!(error.contains("`nowhere` is not a device"), "{error}");
    assert!(!x.grad().defined());
    let (_, error) = fails_later(|| panic!("out of {}", "luck"));
    assert!(error.contains("panic: out of luck"), "{error}");
    let (_, error) =
        fails_later(|| Ok(Tensor::zeros([3], (Kind::Float, Device::Cpu)).set_requires_grad(true)));
    assert!(error.contains("[3]"), "{error}");
    // And the next one works.
    let x = Tensor::from_slice(&[2f32]).set_requires_grad(true);
    checkpoint(&[&x], |t| Result::Ok(t[0].square())).unwrap().backward();
    assert_eq!(x.grad().double_value(&[0]), 4.0);
}

#[test]
fn an_input_changed_in_between_is_noticed() {
    devices();
    let _guard = alone();
    let x = Tensor::from_slice(&[2f32]).set_requires_grad(true);
    let mut hidden = &x * 1;
    let y = checkpoint(&[&hidden], |t| Result::Ok(t[0].square())).unwrap();
    let _ = tch::no_grad(|| hidden.fill_(7.0));
    let error = y.f_backward().unwrap_err().to_string();
    assert!(error.contains("modified by an inplace operation"), "{error}");
}

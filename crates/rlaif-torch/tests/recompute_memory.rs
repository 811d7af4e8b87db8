//! Recomputation keeps less memory. A process of its own: it reads the resident set.

use rlaif_torch::{TorchError, checkpoint, host_memory};
use tch::{Device, Kind, Tensor};

const TENSOR: u64 = 32 << 20;

/// Eight operations, each of which saves a tensor for its backward pass.
fn segment(x: &Tensor) -> Tensor {
    (0..8).fold(x.shallow_clone(), |x, _| x.sin())
}

fn held(run: impl Fn(&Tensor) -> Tensor) -> Option<u64> {
    let x = Tensor::ones([(TENSOR / 4) as i64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let before = host_memory().resident?;
    let y = run(&x);
    let held = host_memory().resident?.saturating_sub(before);
    drop(y);
    Some(held)
}

#[test]
fn what_the_segment_computes_is_not_kept() {
    let Some(plain) = held(segment) else {
        println!("skipped: this system does not tell the resident set");
        return;
    };
    let recomputed = held(|x| checkpoint(&[x], |t| Ok::<_, TorchError>(segment(&t[0]))).unwrap());
    let recomputed = recomputed.unwrap();
    assert!(plain > 7 * TENSOR, "{plain}");
    assert!(recomputed < 2 * TENSOR, "{recomputed}");
}

//! Flush-to-zero in every compute thread. Only one test: the mode belongs to threads and their
//! pool, which another test would share.

use rlaif_torch::{
    Denormals, Support, init, set_denormals, set_intra_op_threads, threads_keeping_denormals,
};
use tch::{Device, Kind, Tensor};

const N: i64 = 1 << 20;

/// Number of products of 1e-20 by 1e-20 (1e-40, a denormal of f32) that are not zero, out of N: in
/// the forward pass, and in the backward pass.
fn survivors() -> [i64; 2] {
    let tiny = || Tensor::full([N], 1e-20, (Kind::Float, Device::Cpu));
    let x = tiny().set_requires_grad(true);
    let product = &x * tiny();
    (&product * 1e-20).sum(Kind::Float).backward();
    // As integers: a comparison of floats would treat a denormal as zero.
    let count = |t: &Tensor| {
        t.detach().view_dtype(Kind::Int).count_nonzero_dim_intlist([0i64]).int64_value(&[])
    };
    [count(&product), count(&x.grad())]
}

#[test]
fn denormals_are_zero_in_every_thread() {
    // More threads than cores on most test machines, so that each has little to do.
    set_intra_op_threads(4).unwrap();
    assert_eq!(threads_keeping_denormals().unwrap(), 4, "libtorch keeps them unless told");
    assert_eq!(survivors(), [N, N]);

    if set_denormals(Denormals::Flush).unwrap() == Support::Unsupported {
        println!("skipped: this processor cannot flush denormals");
        return;
    }
    assert_eq!(threads_keeping_denormals().unwrap(), 0);
    assert_eq!(survivors(), [0, 0]);

    set_intra_op_threads(7).unwrap();
    assert_eq!(threads_keeping_denormals().unwrap(), 0, "new threads of the pool inherit");
    let elsewhere = || (threads_keeping_denormals().unwrap(), survivors());
    let inherited = std::thread::spawn(elsewhere).join().unwrap();
    assert_eq!(inherited, (0, [0, 0]), "a new thread inherits, and its pool with it");

    set_denormals(Denormals::Keep).unwrap();
    assert_eq!(threads_keeping_denormals().unwrap(), 7);
    assert_eq!(survivors(), [N, N]);

    assert_eq!(init().unwrap().denormals, Support::Set);
    assert_eq!(threads_keeping_denormals().unwrap(), 0);
    assert_eq!(survivors(), [0, 0]);
}

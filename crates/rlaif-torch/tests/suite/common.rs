//! Devices to test on, and numbers that libtorch did not make.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rlaif_torch::load_cuda;
use tch::{Cuda, Device};

/// The CPU, and the first CUDA device where there is one. Call it first: libtorch looks for its
/// CUDA part once.
pub(crate) fn devices() -> Vec<Device> {
    let cuda = load_cuda().expect("CUDA loads, or is absent");
    if Cuda::is_available() {
        return vec![Device::Cpu, Device::Cuda(0)];
    }
    println!("skipped on CUDA: {cuda:?}, no GPU available");
    vec![Device::Cpu]
}

/// For tests that draw from the default generators, which belong to the process.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TESTS: Mutex<()> = Mutex::new(());
    TESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Knuth's MMIX linear congruential generator, mapped to [-1, 1).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn draw(&mut self, n: usize) -> Vec<f64> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as f64 / f64::from(1u32 << 30) - 1.0
        };
        (0..n).map(|_| next()).collect()
    }
}

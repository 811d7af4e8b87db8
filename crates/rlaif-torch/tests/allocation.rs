//! Large blocks stay with the process after `keep_large_blocks`. Without the test harness, which
//! would run the test in a thread: the main thread allocates from a separate arena.

use rlaif_torch::{Support, host_memory, keep_large_blocks};
use tch::{Device, Kind, Tensor};

const BYTES: u64 = 48 << 20;

/// Bytes that stay resident after a tensor was used and dropped.
fn kept() -> Option<u64> {
    let before = host_memory().resident?;
    drop(Tensor::ones([(BYTES / 4) as i64], (Kind::Float, Device::Cpu)));
    Some(host_memory().resident?.saturating_sub(before))
}

fn main() {
    // libtorch allocates memory for itself at its first operation.
    drop(Tensor::ones([1 << 16], (Kind::Float, Device::Cpu)));
    let Some(by_default) = kept() else {
        println!("skipped: this system does not tell the resident set");
        return;
    };
    if keep_large_blocks().expect("the allocator takes its settings") == Support::Unsupported {
        println!("skipped: this C library has no such switches");
        return;
    }
    assert!(by_default < BYTES / 2, "glibc unmaps what is this large: {by_default}");
    let first = kept().expect("read before");
    assert!(first > BYTES / 2, "kept for the next tensor: {first}");
    let second = kept().expect("read before");
    assert!(second < BYTES / 8, "and used for it: {second}");
    println!("large blocks are kept: ok");
}

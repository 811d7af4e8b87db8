//! Memory: statistics, and how the C allocator treats large blocks.

use tch::Device;

use crate::error::TorchError;
use crate::ffi;
use crate::threads::Support;

/// The memory of this process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// Resident now; `None` where the system does not tell (only Linux does).
    pub resident: Option<u64>,
    /// The most that was ever resident; `None` where the system does not tell.
    pub resident_peak: Option<u64>,
}

/// The memory of this process on one CUDA device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaMemory {
    /// Held by tensors.
    pub allocated: u64,
    /// The most ever held by tensors, or since [`reset_cuda_peak`].
    pub allocated_peak: u64,
    /// Taken from the device: tensors and the cache.
    pub reserved: u64,
    /// The most ever taken from the device, or since [`reset_cuda_peak`].
    pub reserved_peak: u64,
}

/// Reads the memory of this process.
///
/// ```
/// let memory = rlaif_torch::host_memory();
/// assert!(memory.resident_peak >= memory.resident);
/// ```
#[must_use]
pub fn host_memory() -> HostMemory {
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let resident = field(&status, "VmRSS:");
        let resident_peak = field(&status, "VmHWM:");
        if resident.is_some() && resident_peak.is_some() {
            return HostMemory { resident, resident_peak };
        }
    }
    // SAFETY: no arguments; it reads a number.
    let peak = unsafe { ffi::rlaif_peak_rss() };
    HostMemory { resident: None, resident_peak: (peak > 0).then_some(peak) }
}

/// Bytes that this machine could still give to processes without swapping, within the limit of the
/// control group; `None` where the system does not tell (only Linux does).
///
/// ```
/// if let Some(available) = rlaif_torch::host_memory_available() {
///     assert!(available > 0);
/// }
/// ```
#[must_use]
pub fn host_memory_available() -> Option<u64> {
    let machine = field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let group = |file| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{file}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    match (group("max"), group("current")) {
        (Some(limit), Some(used)) => Some(machine.min(limit.saturating_sub(used))),
        _ => Some(machine),
    }
}

/// A field of `/proc/self/status` ("VmHWM:     1234 kB") in bytes.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Reads libtorch's statistics of a CUDA device; zeros before its first use.
///
/// # Errors
/// [`TorchError::NoDevice`] if there is no such device.
///
/// ```
/// // A machine with that many GPUs has not been built.
/// assert!(rlaif_torch::cuda_memory(100_000).is_err());
/// ```
pub fn cuda_memory(device: usize) -> Result<CudaMemory, TorchError> {
    let index = cuda_device(device)?;
    let mut memory = ffi::CudaMemory::default();
    // SAFETY: `memory` outlives the call.
    let status = unsafe { ffi::rlaif_cuda_memory(index, &raw mut memory) };
    ffi::check("reading CUDA memory statistics", status)?;
    let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(CudaMemory {
        allocated: bytes(memory.allocated),
        allocated_peak: bytes(memory.allocated_peak),
        reserved: bytes(memory.reserved),
        reserved_peak: bytes(memory.reserved_peak),
    })
}

/// Bytes available to new tensors on a CUDA device: the free memory, regardless of who uses the
/// rest, and the unused part of libtorch's cache.
///
/// # Errors
/// [`TorchError::NoDevice`] if there is no such device; [`TorchError::Libtorch`] if CUDA fails.
///
/// ```
/// // A machine with that many GPUs has not been built.
/// assert!(rlaif_torch::cuda_memory_free(100_000).is_err());
/// if tch::Cuda::is_available() {
///     assert!(rlaif_torch::cuda_memory_free(0)? > 0);
/// }
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn cuda_memory_free(device: usize) -> Result<u64, TorchError> {
    let index = cuda_device(device)?;
    let mut free = 0;
    // SAFETY: `free` outlives the call.
    let status = unsafe { ffi::rlaif_cuda_memory_free(index, &raw mut free) };
    ffi::check("asking how much CUDA memory is free", status)?;
    Ok(free)
}

/// Bytes available to new tensors on a device: [`host_memory_available`] or [`cuda_memory_free`];
/// `None` if unknown.
///
/// ```
/// assert!(rlaif_torch::free_memory(tch::Device::Cpu).is_none_or(|bytes| bytes > 0));
/// assert_eq!(rlaif_torch::free_memory(tch::Device::Mps), None);
/// ```
pub fn free_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => host_memory_available(),
        Device::Cuda(index) => cuda_memory_free(index).ok(),
        Device::Mps | Device::Vulkan => None,
    }
}

/// Resets the peaks of a CUDA device to the memory in use.
///
/// # Errors
/// [`TorchError::NoDevice`] if there is no such device.
pub fn reset_cuda_peak(device: usize) -> Result<(), TorchError> {
    let index = cuda_device(device)?;
    // SAFETY: plain values.
    ffi::check("resetting CUDA memory peaks", unsafe { ffi::rlaif_cuda_reset_peak(index) })
}

fn cuda_device(device: usize) -> Result<i32, TorchError> {
    let there = usize::try_from(tch::Cuda::device_count()).is_ok_and(|count| device < count);
    match i32::try_from(device) {
        Ok(index) if there => Ok(index),
        _ => Err(crate::device::no_device(format!("cuda:{device}"))),
    }
}

/// Makes large blocks stay with the process for the next tensor instead of going back to the system.
///
/// By default glibc maps every block from 128 KiB to 32 MiB on (the limit moves) into memory of its
/// own and unmaps it when it is freed, and each page of the next one is then a page fault: a third
/// of the time of a training step. Afterwards tensors on the CPU take their memory from a pool, in
/// huge pages where the system has them, and glibc, from which libtorch's libraries still allocate,
/// keeps what it has. Memory that was once used stays with the process.
///
/// [`init`](crate::init) calls this.
///
/// # Errors
/// [`TorchError::Libtorch`] if glibc refuses. On systems without memory to map it does nothing, and
/// says so: [`Support::Unsupported`].
pub fn keep_large_blocks() -> Result<Support, TorchError> {
    let mut supported = 0;
    // SAFETY: `supported` outlives the call.
    let status = unsafe { ffi::rlaif_keep_large_blocks(&raw mut supported) };
    ffi::check("setting up the allocator", status)?;
    Ok(if supported == 0 { Support::Unsupported } else { Support::Set })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn fields_are_kibibytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t      17 kB\n";
        assert_eq!(field(status, "VmHWM:"), Some(2048 * 1024));
        assert_eq!(field(status, "VmRSS:"), Some(17 * 1024));
        assert_eq!(field(status, "VmSwap:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_tensor_shows_in_both_numbers() {
        const BYTES: u64 = 256 << 20;
        let before = host_memory().resident.unwrap();
        let tensor = Tensor::ones([(BYTES / 4) as i64], (Kind::Float, Device::Cpu));
        let with = host_memory();
        assert!(with.resident.unwrap() > before + BYTES / 2, "{before} {with:?}");
        drop(tensor);
        assert!(host_memory().resident_peak.unwrap() > before + BYTES / 2);
    }
}

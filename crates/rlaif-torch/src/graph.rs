//! CUDA graphs.

use std::{ffi::c_void, ptr};

use tch::Device;

use crate::{
    error::TorchError,
    ffi::{self, check},
};

/// Work on a CUDA device that was recorded once, and is replayed with one call instead of one for
/// each operation.
///
/// Recorded are addresses: a replay reads and writes the tensors that the recording did, so they
/// must live as long as the graph, and new input is copied into them.
#[derive(Debug)]
pub struct CudaGraph {
    handle: *mut c_void,
}

// SAFETY: the handle is used by one thread at a time, as it is not `Sync`; CUDA graphs are not
// bound to a thread.
unsafe impl Send for CudaGraph {}

/// Leaves the side stream when dropped, by an early return too.
struct Visit(*mut c_void);

impl Drop for Visit {
    fn drop(&mut self) {
        // SAFETY: the graph outlives the visit.
        unsafe { ffi::rlaif_graph_leave(self.0) }
    }
}

impl CudaGraph {
    /// Runs `work` once, so that libraries set themselves up, and once more to record it: the
    /// second time nothing is computed, and its results hold values only after
    /// [`CudaGraph::replay`]. What the last call returns comes back with the graph.
    ///
    /// `work` must do the same each time, with shapes that stay, on one device, and read nothing
    /// back to the host.
    ///
    /// # Errors
    /// [`TorchError::NoDevice`] if the device is not a CUDA device that is there,
    /// [`TorchError::Libtorch`] if it cannot be recorded, errors of `work`.
    ///
    /// ```
    /// use rlaif_torch::{CudaGraph, TorchError, tch::Device};
    /// let nothing = || Ok::<_, TorchError>(());
    /// assert!(CudaGraph::record(Device::Cpu, nothing).is_err());
    /// ```
    pub fn record<R, E: From<TorchError>>(
        device: Device,
        mut work: impl FnMut() -> Result<R, E>,
    ) -> Result<(Self, R), E> {
        let index = match device {
            Device::Cuda(index) if (index as i64) < tch::Cuda::device_count() => index as i32,
            other => {
                let wanted = format!("a CUDA device for a graph, not {other:?}");
                return Err(crate::device::no_device(wanted).into());
            }
        };
        let mut handle = ptr::null_mut();
        // SAFETY: `handle` outlives the call, which only writes it on success.
        check("a CUDA graph", unsafe { ffi::rlaif_graph_new(index, &raw mut handle) })?;
        let graph = Self { handle };
        // SAFETY: the handle is a live graph.
        check("a CUDA graph", unsafe { ffi::rlaif_graph_enter(handle) })?;
        let visit = Visit(handle);
        work()?;
        // SAFETY: the handle is a live graph, on its stream.
        check("recording a CUDA graph", unsafe { ffi::rlaif_graph_begin(handle) })?;
        let result = work()?;
        // SAFETY: the handle is a live graph, being recorded.
        check("recording a CUDA graph", unsafe { ffi::rlaif_graph_end(handle) })?;
        drop(visit);
        Ok((graph, result))
    }

    /// Does the work again, in order after what was asked of the device before.
    ///
    /// # Errors
    /// [`TorchError::Libtorch`] if the device fails.
    pub fn replay(&self) -> Result<(), TorchError> {
        // SAFETY: the handle is a live graph whose recording ended.
        check("replaying a CUDA graph", unsafe { ffi::rlaif_graph_replay(self.handle) })
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: the handle is a live graph, freed once.
        unsafe { ffi::rlaif_graph_free(self.handle) }
    }
}

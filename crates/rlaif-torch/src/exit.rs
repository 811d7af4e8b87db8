//! The end of a process while others of its threads compute.

use crate::ffi;

/// Ends the process with this exit code at once, from any thread, while others run.
///
/// [`std::process::exit`] runs the destructors of libtorch's static objects, on which a thread
/// inside libtorch then crashes. This function runs no destructors, and does not flush standard
/// output.
///
/// ```no_run
/// rlaif_torch::exit_at_once(130)
/// ```
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: POSIX's `_exit` takes any status, may be called by any thread at any time, and does
    // not return.
    unsafe { ffi::_exit(code) }
}

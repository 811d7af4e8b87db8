//! The end of a process while others of its threads compute.

use crate::ffi;

/// Ends the process with this exit code, from whichever thread, whatever the others do.
///
/// [`std::process::exit`] runs the destructors of libtorch's statics; a thread that is inside
/// libtorch meanwhile then crashes on them. Nothing runs here, and buffers of standard output are
/// not written.
///
/// ```no_run
/// rlaif_torch::exit_at_once(130)
/// ```
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: POSIX's `_exit` takes any status, may be called by any thread at any time, and does
    // not return.
    unsafe { ffi::_exit(code) }
}

//! A sandbox for tests.

use rlaif_sandbox::{Sandbox, SandboxLimits};

/// A sandbox, where there is a Python to run in it.
pub(crate) fn sandbox(limits: SandboxLimits) -> Option<Sandbox> {
    let python = std::env::var("RLAIF_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let made = Sandbox::new(&python, limits);
    if let Err(error) = &made {
        eprintln!("SKIPPED the sandbox: {error}");
        assert!(std::env::var_os("RLAIF_SKIP_NOTHING").is_none(), "{error}");
    }
    made.ok()
}

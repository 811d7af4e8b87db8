//! The tokenizer library panics on some damaged files; here that is an error like any other.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Returns the result of `call`, or its panic as an error.
pub(crate) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    // Unwind safe: a value that a panic left half-built is dropped, and reading a tokenizer
    // changes only its caches, which the library locks.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason");
        Err(format!("the tokenizer library gave up: {said}").into())
    })
}

//! Parts of a request that a server may refuse.

/// Parts that may be left out of a request when a server refuses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Optional {
    Temperature = 1,
    TopP = 2,
    TopK = 4,
    Seed = 8,
    Schema = 16,
    /// Not left out, but called `max_completion_tokens`.
    MaxTokensName = 32,
}

/// A set of [`Optional`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Without(pub(super) u8);

impl Without {
    pub(super) fn has(self, what: Optional) -> bool {
        self.0 & what as u8 != 0
    }
}

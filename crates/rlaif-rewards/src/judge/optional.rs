//! Parts of a request that a server may refuse.

/// Parts that can be omitted from a request after a server has refused them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Optional {
    Temperature = 1,
    TopP = 2,
    TopK = 4,
    Seed = 8,
    Schema = 16,
    /// Not omitted, but renamed to `max_completion_tokens`.
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

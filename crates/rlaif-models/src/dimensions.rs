//! Sizes of a model's layers.

/// Sizes of the layers that a config.json describes, for an estimate of the memory they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// Size of a hidden state.
    pub hidden: i64,
    /// Blocks, those of an encoder and of a decoder together.
    pub blocks: usize,
    /// Heads of queries.
    pub heads: i64,
    /// Heads of keys and values.
    pub kv_heads: i64,
    /// Size of a head.
    pub head_dim: i64,
}

impl Dimensions {
    /// The sizes of an encoder, whose heads each have keys and values of their own and divide the hidden
    /// states.
    pub(crate) fn of_encoder(hidden: i64, blocks: usize, heads: i64) -> Self {
        Self { hidden, blocks, heads, kv_heads: heads, head_dim: hidden / heads }
    }
}

//! Keys and values of an encoder's states.

use tch::Tensor;

use crate::{
    adapter::Pass,
    layers::{Linear, in_heads},
};

/// The layers for keys and values of an attention.
pub(crate) struct CrossKeys<'a> {
    pub(crate) k: &'a Linear,
    pub(crate) v: &'a Linear,
    /// Number of heads, and their width.
    pub(crate) heads: i64,
    pub(crate) head_dim: i64,
}

impl CrossKeys<'_> {
    /// Keys and values of `x`, each `[B, S, heads, head_dim]`.
    pub(crate) fn of(&self, x: &Tensor, pass: Pass) -> [Tensor; 2] {
        Linear::project([self.k, self.v], x, pass).map(|x| in_heads(&x, self.heads, self.head_dim))
    }
}

//! A response of one side.

/// One response.
#[derive(Debug, Clone)]
pub(super) struct Response {
    /// Place of its prompt.
    pub(super) prompt: usize,
    pub(super) text: String,
    pub(super) ids: Vec<u32>,
    /// Σ log π(y_t | x, y_<t) under the policy that gave it.
    pub(super) log_prob: f64,
}

//! The penalty for responses near the length limit.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Soft overlong penalty ([Yu et al. 2025](https://arxiv.org/abs/2503.14476), DAPO, equation 13),
/// added to the score of a response of n tokens:
///
/// ```text
///  0                          n ≤ limit − buffer
///  (limit − buffer − n) / buffer   in between
/// −1                          n > limit
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overlong {
    /// The length at which the penalty reaches its maximum, in tokens: 20,480 in the paper.
    pub limit: usize,
    /// The number of tokens before the limit over which the penalty grows: 4,096 in the paper.
    pub buffer: usize,
}

impl Overlong {
    /// The penalty of a response of `tokens` tokens, from −1 to 0.
    ///
    /// ```
    /// let overlong = rlaif_rl::Overlong { limit: 10, buffer: 4 };
    /// let penalties = [6, 7, 10, 11].map(|n| overlong.penalty(n));
    /// assert_eq!(penalties, [0., -0.25, -1., -1.]);
    /// ```
    pub fn penalty(self, tokens: usize) -> f64 {
        let free = self.limit.saturating_sub(self.buffer);
        if tokens <= free {
            0.
        } else if tokens > self.limit {
            -1.
        } else {
            -((tokens - free) as f64) / self.buffer as f64
        }
    }
}

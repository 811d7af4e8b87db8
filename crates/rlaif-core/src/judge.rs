//! Judges of pairs: which of two responses is the better one.

use crate::{Exchange, RewardError};

/// Two responses to one prompt, in the order in which the judge is to see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShownPair<'a> {
    /// The prompt with the response shown first.
    pub first: Exchange<'a>,
    /// The prompt with the response shown second.
    pub second: Exchange<'a>,
}

impl<'a> ShownPair<'a> {
    /// Two texts that respond to a text.
    pub fn new(prompt: &'a str, first: &'a str, second: &'a str) -> Self {
        Self { first: Exchange::new(prompt, first), second: Exchange::new(prompt, second) }
    }
}

/// Compares two responses to one prompt.
///
/// ```
/// use rlaif_core::{PairJudge, RewardError, ShownPair};
/// struct Shorter;
/// impl PairJudge for Shorter {
///     fn name(&self) -> &str {
///         "shorter"
///     }
///     fn prefer(&self, batch: &[ShownPair<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
///         let shorter = |x: &ShownPair<'_>| x.first.response.len() < x.second.response.len();
///         Ok(batch.iter().map(|x| Some(f64::from(u8::from(shorter(x))))).collect())
///     }
/// }
/// ```
pub trait PairJudge: Send {
    /// The name in reports and errors.
    fn name(&self) -> &str;

    /// For each pair the probability, 0 to 1, that the first response is the better one; 0.5 for
    /// a tie, `None` for no verdict.
    ///
    /// # Errors
    /// [`RewardError`] when the batch as a whole could not be judged.
    fn prefer(&self, batch: &[ShownPair<'_>]) -> Result<Vec<Option<f64>>, RewardError>;
}

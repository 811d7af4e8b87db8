//! Judges of pairs: which of two responses is the better one.

use crate::{RewardError, message::Message};

/// A prompt and two responses, in the order in which the judge is to see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pairing<'a> {
    /// The prompt x.
    pub prompt: &'a str,
    /// The prompt as a conversation; `None` where it is a text.
    pub messages: Option<&'a [Message]>,
    /// The response shown first.
    pub first: &'a str,
    /// The response shown second.
    pub second: &'a str,
}

/// Compares two responses to one prompt.
///
/// ```
/// use rlaif_core::{PairJudge, Pairing, RewardError};
/// struct Shorter;
/// impl PairJudge for Shorter {
///     fn name(&self) -> &str {
///         "shorter"
///     }
///     fn prefer(&self, batch: &[Pairing<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
///         let shorter = |x: &Pairing<'_>| f64::from(u8::from(x.first.len() < x.second.len()));
///         Ok(batch.iter().map(|x| Some(shorter(x))).collect())
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
    fn prefer(&self, batch: &[Pairing<'_>]) -> Result<Vec<Option<f64>>, RewardError>;
}

//! The parts of rows that rewards read.

/// The parts of rows that rewards read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum RewardInput {
    /// Rules, and classifiers of responses, read the text of the response.
    #[default]
    Rules,
    /// Judges and classifiers of pairs of texts read the text of prompt and response
    /// ([`TextOrMessages::readable`](rlaif_core::TextOrMessages::readable)).
    Text,
    /// Reward models with a chat template, reward servers, and rewards of other programs read messages with all of their keys.
    Messages,
}

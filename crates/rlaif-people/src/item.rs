//! Items: prompts with responses that people compare.

use rlaif_core::{Metadata, Reply, Seed, TextOrMessages};
use serde::{Deserialize, Serialize};

use crate::answer::PeopleChoice;

/// A prompt with two or more responses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyItem {
    /// The item's identity.
    pub id: String,
    /// The prompt.
    pub prompt: TextOrMessages,
    /// The responses, at least two.
    pub responses: Vec<Reply>,
    /// The right choice, for items that measure annotators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<PeopleChoice>,
    /// `true` if the texts are shown on demand only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub toxic: bool,
    /// Further columns of the row.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}

impl StudyItem {
    /// An item of two texts.
    pub fn pair(
        id: impl Into<String>,
        prompt: impl Into<String>,
        first: impl Into<String>,
        second: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            prompt: prompt.into().into(),
            responses: vec![Reply::new(first), Reply::new(second)],
            known: None,
            toxic: false,
            metadata: Metadata::new(),
        }
    }

    /// `true` if both items show the same texts.
    pub fn says_as(&self, other: &Self) -> bool {
        self.prompt == other.prompt
            && self.responses.len() == other.responses.len()
            && self.responses.iter().zip(&other.responses).all(|(one, other)| one.says_as(other))
    }

    /// The order in which an annotator sees the responses: `order[n]` is the place of the n-th shown one.
    ///
    /// It depends on the study's seed, the item's id and the annotator's number alone, so that it stays
    /// over reloads and restarts, and says nothing about the responses' makers.
    ///
    /// ```
    /// use rlaif_core::Seed;
    /// use rlaif_people::StudyItem;
    /// let item = StudyItem::pair("7", "Why?", "Because.", "No.");
    /// let first = (0..1000).filter(|&n| item.order(Seed::new(1), n) == [0, 1]).count();
    /// assert!((450..550).contains(&first));
    /// ```
    pub fn order(&self, seed: Seed, annotator: u64) -> Vec<usize> {
        let own = seed.derive(&format!("order of {}", self.id), annotator);
        let mut order: Vec<usize> = (0..self.responses.len()).collect();
        // Fisher and Yates. The bias of the remainder is below 2⁻⁵⁰ for the few responses there are.
        for at in (1..order.len()).rev() {
            let other = own.derive("swap", at as u64).get() % (at as u64 + 1);
            order.swap(at, other as usize);
        }
        order
    }
}

/// A share in [0, 1) that depends on the seed and the words alone.
pub(crate) fn share_of(seed: Seed, words: &str, step: u64) -> f64 {
    (seed.derive(words, step).get() >> 11) as f64 / (1u64 << 53) as f64
}

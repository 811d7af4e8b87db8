//! Questions whose right answers are known, by which judges and reward models are examined.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::asked_pair::AskedPair;
use crate::record::{Exchange, PromptRecord, Record};
use crate::reply::Reply;

/// The exams whose files and rules of grading are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExamName {
    /// RewardBench ([Lambert et al. 2024](https://arxiv.org/abs/2403.13787)): pairs in 23 subsets,
    /// graded by four sections.
    RewardBench,
    /// RewardBench 2 ([Malik et al. 2025](https://arxiv.org/abs/2506.01937)): one right answer among
    /// four, and sets of equally right ones.
    #[serde(rename = "reward-bench-2")]
    RewardBench2,
    /// JudgeBench ([Tan et al. 2024](https://arxiv.org/abs/2410.12784)): pairs that are shown in both
    /// orders.
    JudgeBench,
    /// HHH ([Askell et al. 2021](https://arxiv.org/abs/2112.00861)): helpful, honest, harmless.
    Hhh,
    /// Preference pairs of any file.
    Pairs,
}

impl ExamName {
    /// The name in reports.
    pub fn title(self) -> &'static str {
        match self {
            Self::RewardBench => "RewardBench",
            Self::RewardBench2 => "RewardBench 2",
            Self::JudgeBench => "JudgeBench",
            Self::Hhh => "HHH",
            Self::Pairs => "preference pairs",
        }
    }
}

/// A prompt with answers that are known to be right, and answers that are known to be wrong.
///
/// ```
/// use rlaif_core::{AskedPair, ExamQuestion};
/// let question = ExamQuestion::from(AskedPair::new("7", "What is 2 + 2?", "4", "5"));
/// assert_eq!(question.exchanges().map(|x| x.response).collect::<Vec<_>>(), ["4", "5"]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ExamQuestion {
    /// The prompt.
    pub record: PromptRecord,
    /// The part of the exam that it belongs to; empty where the exam has no parts.
    pub subset: String,
    /// The right answers, at least one.
    pub right: Vec<Reply>,
    /// The wrong answers, at least one.
    pub wrong: Vec<Reply>,
    /// True if the file names the right answer first, false if second, nothing if it has no order.
    pub right_is_first: Option<bool>,
    /// Verdicts of people on the first right answer and the first wrong one: above 0 for the right
    /// one, below 0 for the wrong one, 0 for a tie.
    pub votes: Vec<f64>,
}

impl ExamQuestion {
    /// The prompt with each answer, the right ones first: what a reward model scores.
    pub fn exchanges(&self) -> impl Iterator<Item = Exchange<'_>> {
        self.right.iter().chain(&self.wrong).map(|answer| self.record.answered(answer))
    }
}

impl From<AskedPair> for ExamQuestion {
    fn from(pair: AskedPair) -> Self {
        Self {
            record: pair.record,
            subset: String::new(),
            right: vec![pair.chosen],
            wrong: vec![pair.rejected],
            right_is_first: None,
            votes: Vec::new(),
        }
    }
}

impl Record for ExamQuestion {
    fn id(&self) -> &str {
        &self.record.id
    }
}

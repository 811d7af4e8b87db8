//! Questions whose right answers are known, by which judges and reward models are examined.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::{Exchange, Record};

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

/// An answer to a question of an exam.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExamAnswer {
    /// The answer.
    pub text: String,
    /// The model that wrote it, where the file names it.
    pub maker: Option<String>,
}

impl ExamAnswer {
    /// An answer of an unknown maker.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), maker: None }
    }
}

/// A prompt with answers that are known to be right, and answers that are known to be wrong.
///
/// ```
/// use rlaif_core::{ExamAnswer, ExamQuestion};
/// let question = ExamQuestion::pair("7", "What is 2 + 2?", ExamAnswer::new("4"), ExamAnswer::new("5"));
/// assert_eq!(question.exchanges().map(|x| x.response).collect::<Vec<_>>(), ["4", "5"]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ExamQuestion {
    /// The question's identity.
    pub id: String,
    /// The part of the exam that it belongs to; empty where the exam has no parts.
    pub subset: String,
    /// The prompt.
    pub prompt: String,
    /// The right answers, at least one.
    pub right: Vec<ExamAnswer>,
    /// The wrong answers, at least one.
    pub wrong: Vec<ExamAnswer>,
    /// True if the file names the right answer first, false if second, nothing if it has no order.
    pub right_is_first: Option<bool>,
    /// Verdicts of people on the first right answer and the first wrong one: above 0 for the right
    /// one, below 0 for the wrong one, 0 for a tie.
    pub votes: Vec<f64>,
}

impl ExamQuestion {
    /// A question with one right answer and one wrong one.
    pub fn pair(
        id: impl Into<String>,
        prompt: impl Into<String>,
        right: ExamAnswer,
        wrong: ExamAnswer,
    ) -> Self {
        Self {
            id: id.into(),
            subset: String::new(),
            prompt: prompt.into(),
            right: vec![right],
            wrong: vec![wrong],
            right_is_first: None,
            votes: Vec::new(),
        }
    }

    /// The prompt with each answer, the right ones first: what a reward model scores.
    pub fn exchanges(&self) -> impl Iterator<Item = Exchange<'_>> {
        self.right.iter().chain(&self.wrong).map(|answer| Exchange::new(&self.prompt, &answer.text))
    }
}

impl Record for ExamQuestion {
    fn id(&self) -> &str {
        &self.id
    }
}

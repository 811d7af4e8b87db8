//! Answers to mathematical questions.

mod expr;
mod extract;
mod lex;
mod number;
mod parse;

use rlaif_core::{Exchange, RewardError, RewardModel, Scores};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::truth::{Truth, scored};
use extract::{after_hashes, boxed, last, marked, readings};

/// The part of a response that counts as its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerPlace {
    /// The last `\boxed{..}`, else what stands behind `####`, behind "answer is", the last piece of
    /// mathematics, or the last number.
    #[default]
    Anywhere,
    /// The last `\boxed{..}` alone.
    Boxed,
    /// The text behind the last `####` alone.
    Hashes,
}

/// Compares the answer of a response with the right one, as mathematics: `0.5` is `\frac{1}{2}`.
///
/// The right answer may be a whole solution, as data sets have them: its last `\boxed{..}` counts, or what
/// stands behind `####`, else the whole text.
///
/// ```
/// use rlaif_rewards::verify::{AnswerPlace, same_answer};
/// assert!(same_answer("Half of it: $\\boxed{0.5}$.", "\\frac{1}{2}", AnswerPlace::Boxed));
/// assert!(same_answer("So she has 1,080 left.", "12 * 90 = 1080\n#### 1080", AnswerPlace::Anywhere));
/// assert!(!same_answer("The answer is 7.", "8", AnswerPlace::Anywhere));
/// ```
pub fn same_answer(response: &str, right: &str, place: AnswerPlace) -> bool {
    let right = marked(right).unwrap_or_else(|| right.to_owned());
    let rights = if right.contains('$') && !right.trim().starts_with('$') {
        last(&right)
    } else {
        readings(&right)
    };
    let answers = match place {
        AnswerPlace::Anywhere => match marked(response) {
            Some(text) => readings(&text),
            None => last(response),
        },
        AnswerPlace::Boxed => boxed(response).map(|text| readings(&text)).unwrap_or_default(),
        AnswerPlace::Hashes => {
            after_hashes(response).map(|text| readings(&text)).unwrap_or_default()
        }
    };
    answers.iter().any(|answer| rights.iter().any(|right| answer.same(right)))
}

/// 1 for a response whose answer is the right one as mathematics, 0 for any other.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::verify::{AnswerPlace, MathAnswer, Truth};
/// let reward = MathAnswer::new(Truth::Reference, AnswerPlace::Anywhere);
/// let batch = [Exchange { reference: Some("#### 3/4"), ..Exchange::new("p", "It is 75%.") }];
/// assert_eq!(reward.score(&batch)?.total[0].unwrap().get(), 1.);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MathAnswer {
    truth: Truth,
    place: AnswerPlace,
}

impl MathAnswer {
    /// A comparison with the answer that `truth` names.
    pub fn new(truth: Truth, place: AnswerPlace) -> Self {
        Self { truth, place }
    }
}

impl RewardModel for MathAnswer {
    fn name(&self) -> &'static str {
        "math-answer"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        scored(self.name(), batch, |exchange| {
            let right = self.truth.texts(exchange)?;
            let is_right = |right: &String| same_answer(exchange.response, right, self.place);
            Ok(f32::from(right.iter().any(is_right)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs with the verdict of math-verify, by `tests/fixtures/export_answers.py`.
    const PAIRS: &str = include_str!("../../../tests/fixtures/math_answers.jsonl");

    /// The pairs of which the verdict differs on purpose, by the beginning of the response.
    const DIFFERENT: [(&str, &str); 11] = [
        ("1.22", "a decimal comma without dollar signs is one"),
        ("The sum is $\\begin{pmatrix}", "sums of matrices are not computed"),
        ("When multiplying by identity", "products of matrices are not computed"),
        ("$x \\in [-2,7]$", "the right answer has a line break for a relation"),
        ("Since $AP:PB = 1:4,$", "the right answer has line breaks"),
        ("$z \\in \\left[", "the right answer bounds |z|, not z"),
        ("$(5,2),(7,2)$", "names of the right answer are not dropped one by one"),
        ("W(x)=1orW(x)=-1", "the box of the right answer is not closed"),
        ("\\($y_1 = \\boxed{-2", "boxes with equations between them"),
        ("$F_n = \\sum_", "sums over indices are not computed"),
        ("\\boxed{3}", "an equation of two unknowns is not its right side"),
    ];
    /// Pairs that are the same mathematics, or are not, regardless of what math-verify says.
    const MISTAKES: [(&str, &str, bool); 2] = [
        ("e^{i\\pi}", "\\boxed{-1}", true),
        ("$1 - \\frac{1}{\\mathrm{e}}$", "$1 + \\frac{1}{\\mathrm{e}}$", false),
    ];

    #[test]
    fn verdicts_are_those_of_math_verify() {
        let mut all = 0;
        for line in PAIRS.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let (gold, response) =
                (row["gold"].as_str().unwrap(), row["response"].as_str().unwrap());
            let verdict = same_answer(response, gold, AnswerPlace::Anywhere);
            let mut agreed = row["same"].as_bool().unwrap();
            if let Some((.., right)) =
                MISTAKES.iter().find(|(of, to, _)| (*of, *to) == (gold, response))
            {
                agreed = *right;
            }
            all += 1;
            if verdict != agreed {
                let known = DIFFERENT.iter().any(|(start, _)| response.starts_with(start));
                assert!(known, "{agreed} expected: {gold} | {response}");
            }
        }
        assert!(all > 280, "{all} pairs");
    }

    #[test]
    fn a_place_that_is_asked_for_is_the_only_one() {
        let unmarked = "It is 5.";
        assert!(same_answer(unmarked, "5", AnswerPlace::Anywhere));
        assert!(!same_answer(unmarked, "5", AnswerPlace::Boxed));
        assert!(!same_answer("\\boxed{5}", "5", AnswerPlace::Hashes));
        assert!(same_answer("2 + 3\n#### 5", "5", AnswerPlace::Hashes));
        // The last box counts, and not every number of a response.
        assert!(!same_answer("\\boxed{5} \\boxed{7} no: \\boxed{8}", "5", AnswerPlace::Boxed));
        assert!(!same_answer("1 2 3 4 5 6 7 8", "5", AnswerPlace::Anywhere));
    }

    #[test]
    fn hostile_texts_end_soon() {
        for text in [
            "\\boxed{".repeat(10_000),
            format!("\\boxed{{{}1{}}}", "(".repeat(5_000), ")".repeat(5_000)),
            format!("\\boxed{{{}}}", "9^".repeat(500) + "9"),
            format!("\\boxed{{{}}}", "-".repeat(5_000)),
            format!("\\boxed{{{}}}", "\\sqrt".repeat(1_000)),
            format!("${}$", "\\frac".repeat(2_000)),
            "$".repeat(20_000),
            format!("\\boxed{{{}}}", "|".repeat(1_900)),
            format!("\\boxed{{{}}}", "|".repeat(450)),
            format!("\\boxed{{{}}}", "\\sin".repeat(480)),
            format!("\\boxed{{{}}}", "\\sqrt[".repeat(240)),
            format!("\\boxed{{5{}}}", "!".repeat(1_900)),
            format!("\\boxed{{5{}}}", "%".repeat(450)),
            "\\boxed{(-2)^{-127}}".to_owned(),
            "\\boxed{170!!!!!!!!!}".to_owned(),
            "\\boxed{\\binom{9}{99999999999999999999}}".to_owned(),
            "é\\boxed{½é}\\boxed{".to_owned(),
            "1,".repeat(50_000),
        ] {
            assert!(!same_answer(&text, "31", AnswerPlace::Anywhere));
        }
    }
}

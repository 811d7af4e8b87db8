//! Biases of verdicts, and their agreement with the key and with people.

use rlaif_core::ExamQuestion;
use serde::{Deserialize, Serialize};

use super::{ExamOptions, ExamVerdict, Share};
use crate::stats::{Interval, Level, cohen_kappa, krippendorff_alpha, mean, mean_t_interval};
use crate::text::LengthUnit;

/// A right and a wrong answer with the verdict between them.
pub(super) struct Compared<'a> {
    question: &'a ExamQuestion,
    /// The probability that the right answer is better, averaged over the orders shown.
    probability: f64,
    /// The same for each order, if both were shown: right answer first, right answer second.
    orders: Option<(f64, f64)>,
    /// `true` if the verdict is on the question's first right and first wrong answer.
    is_first: bool,
    /// `true` if the right answer is longer; `None` if both are equally long.
    right_is_longer: Option<bool>,
    /// `true` if the right answer is from the examinee's family and the wrong one is not.
    right_is_own: Option<bool>,
    /// `true` if the exam's key names the right answer first.
    right_is_first: bool,
}

impl<'a> Compared<'a> {
    /// Each wrong answer with the first right one; `None` without a verdict.
    pub(super) fn all(
        question: &'a ExamQuestion,
        verdict: &ExamVerdict,
        options: &ExamOptions,
    ) -> Vec<Self> {
        let (Some(right), false) = (question.right.first(), question.wrong.is_empty()) else {
            return Vec::new();
        };
        let length = |text: &str| LengthUnit::Characters.of(text);
        let is_own = |maker: &Option<String>| {
            let maker = maker.as_ref().map(|name| name.to_lowercase());
            maker.map(|name| options.family.iter().any(|word| name.contains(&word.to_lowercase())))
        };
        let right_is_first = question
            .right_is_first
            .unwrap_or_else(|| options.seed.derive(&question.record.id, 0).get() & 1 == 0);
        let one = |wrong: usize, probability: f64, orders: Option<(f64, f64)>| {
            let answer = &question.wrong[wrong];
            let (own, others) = (is_own(&right.maker), is_own(&answer.maker));
            let order = length(&right.text).cmp(&length(&answer.text));
            Self {
                question,
                probability,
                orders,
                is_first: wrong == 0,
                right_is_longer: order.is_ne().then(|| order.is_gt()),
                right_is_own: own.zip(others).filter(|(a, b)| a != b).map(|(own, _)| own),
                right_is_first,
            }
        };
        match verdict {
            // One order alone has the bias of its position.
            ExamVerdict::Missing(_) | ExamVerdict::OneOrder { missing: Some(_), .. } => Vec::new(),
            ExamVerdict::OneOrder { probability, missing: None } => {
                vec![one(0, *probability, None)]
            }
            ExamVerdict::Scores(scores) => {
                let (ours, theirs) = scores.split_at(question.right.len());
                let sigmoid = |wrong: &f64| 1. / (1. + (wrong - ours[0]).exp());
                theirs.iter().enumerate().map(|(at, s)| one(at, sigmoid(s), None)).collect()
            }
            ExamVerdict::Orders { right_first: a, right_second: b } => {
                vec![one(0, f64::midpoint(*a, *b), Some((*a, *b)))]
            }
        }
    }

    pub(super) fn probability(&self) -> f64 {
        self.probability
    }

    /// `true` if the right answer won, `false` if the wrong one won, `None` for a tie.
    fn won(&self) -> Option<bool> {
        won(self.probability)
    }
}

fn won(probability: f64) -> Option<bool> {
    (probability != 0.5).then_some(probability > 0.5)
}

fn yes(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Preference for the answer shown first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PositionBias {
    /// The mean of ½ (logit p(first | one order) + logit p(first | the other)): the increase of the
    /// log-odds of winning for the answer shown first, in nats.
    pub nats: f64,
    /// Student's interval of the mean; `None` for a single pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<Interval>,
    /// Number of pairs: those whose probabilities are neither 0 nor 1.
    pub n: usize,
}

/// Biases of verdicts that do not depend on the quality of answers. Ties are left out of all
/// shares.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Habits {
    /// For a judge that sees orders: the share of pairs whose two orders have different winners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_flip: Option<Share>,
    /// Share of verdicts for the answer shown first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_wins: Option<Share>,
    /// Preference for the answer shown first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_bias: Option<PositionBias>,
    /// Share of verdicts for the longer answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longer_wins: Option<Share>,
    /// Share of these pairs whose longer answer is the right one: `longer_wins` of a faultless
    /// judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longer_is_right: Option<Share>,
    /// Share of verdicts for the answer of the examinee's own family, if the other answer is not
    /// from that family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_family_wins: Option<Share>,
    /// Share of these pairs whose right answer is from the family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_family_is_right: Option<Share>,
    /// `true` if the same position wins in every order, so that the verdicts have no meaning.
    pub always_one_position: bool,
}

impl Habits {
    pub(super) fn of(compared: &[Compared<'_>]) -> Self {
        let orders: Vec<(f64, f64)> = compared.iter().filter_map(|x| x.orders).collect();
        let rate = |of: &dyn Fn(&Compared<'_>) -> Option<bool>| {
            let cases: Vec<(bool, bool)> =
                compared.iter().filter_map(|x| Some((x.won()?, of(x)?))).collect();
            (
                Share::of(cases.iter().map(|(won, right)| yes(won == right))),
                Share::of(cases.iter().map(|(_, right)| yes(*right))),
            )
        };
        let (longer_wins, longer_is_right) = rate(&|x| x.right_is_longer);
        let (own_family_wins, own_family_is_right) = rate(&|x| x.right_is_own);
        Self {
            longer_wins,
            longer_is_right,
            own_family_wins,
            own_family_is_right,
            ..Self::of_position(&orders)
        }
    }

    /// The habits that concern positions. A pair has the probability that one response is better than the
    /// other: with that response first, and with it second.
    ///
    /// ```
    /// use rlaif_eval::Habits;
    /// // Of the first pair the same response wins in both orders, of the second the one shown first.
    /// let habits = Habits::of_position(&[(0.9, 0.8), (0.7, 0.3)]);
    /// assert_eq!(habits.position_flip.unwrap().share, 0.5);
    /// assert_eq!(habits.first_wins.unwrap().share, 0.75);
    /// ```
    pub fn of_position(orders: &[(f64, f64)]) -> Self {
        let flips = orders.iter().filter_map(|&(a, b)| Some(yes(won(a)? != won(b)?)));
        // Shown second, the response wins where the one shown first loses.
        let firsts: Vec<bool> = orders
            .iter()
            .flat_map(|&(a, b)| [won(a), won(b).map(|wins| !wins)])
            .flatten()
            .collect();
        let logit = |p: f64| (p / (1. - p)).ln();
        let inner = |p: f64| p > 0. && p < 1.;
        let biases: Vec<f64> = orders
            .iter()
            .filter(|(a, b)| inner(*a) && inner(*b))
            .map(|(a, b)| f64::midpoint(logit(*a), -logit(*b)))
            .collect();
        let position_bias = (!biases.is_empty()).then(|| PositionBias {
            nats: mean(&biases),
            ci95: mean_t_interval(&biases).ok(),
            n: biases.len(),
        });
        Self {
            position_flip: Share::of(flips),
            always_one_position: firsts.len() > 1 && firsts.iter().all(|first| *first == firsts[0]),
            first_wins: Share::of(firsts.into_iter().map(yes)),
            position_bias,
            ..Self::default()
        }
    }
}

/// Agreement about the better answer, the first or the second, or a tie. Answers without an order
/// in the file get a random order from the seed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Cohen's κ with the key of the exam.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_kappa: Option<f64>,
    /// Krippendorff's nominal α with the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_alpha: Option<f64>,
    /// Number of questions with people's votes.
    pub voted: usize,
    /// Cohen's κ with the majority of people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub people_kappa: Option<f64>,
    /// Krippendorff's nominal α of the examinee and all people together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub people_alpha: Option<f64>,
    /// The same for people only: their agreement with each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha_of_people_alone: Option<f64>,
}

impl Agreement {
    pub(super) fn of(questions: &[ExamQuestion], compared: &[Compared<'_>]) -> Self {
        // 1 for the first answer, −1 for the second, 0 for a tie.
        let placed = |right: i64, first: bool| if first { right } else { -right };
        let sign = |won: Option<bool>| won.map_or(0, |won| if won { 1 } else { -1 });
        let judged = compared.iter().filter(|x| x.is_first);
        let rows: Vec<(&Compared<'_>, i64)> =
            judged.map(|x| (x, placed(sign(x.won()), x.right_is_first))).collect();
        let key: Vec<(i64, i64)> =
            rows.iter().map(|(x, said)| (placed(1, x.right_is_first), *said)).collect();
        let items = |rows: &[(i64, i64)]| -> Vec<Vec<f64>> {
            rows.iter().map(|(a, b)| vec![*a as f64, *b as f64]).collect()
        };
        let votes = |x: &Compared<'_>| -> Vec<f64> {
            let vote = |v: &f64| placed(i64::from(*v > 0.) - i64::from(*v < 0.), x.right_is_first);
            x.question.votes.iter().map(|v| vote(v) as f64).collect()
        };
        let voted: Vec<(Vec<f64>, i64)> = rows
            .iter()
            .map(|(x, said)| (votes(x), *said))
            .filter(|(votes, _)| !votes.is_empty())
            .collect();
        let majority = |votes: &[f64]| {
            let sum: f64 = votes.iter().sum();
            i64::from(sum > 0.) - i64::from(sum < 0.)
        };
        let people: Vec<(i64, i64)> =
            voted.iter().map(|(votes, said)| (majority(votes), *said)).collect();
        let together: Vec<Vec<f64>> = voted
            .iter()
            .map(|(votes, said)| votes.iter().copied().chain([*said as f64]).collect())
            .collect();
        let alone: Vec<Vec<f64>> = voted.iter().map(|(votes, _)| votes.clone()).collect();
        Self {
            key_kappa: cohen_kappa(&key),
            key_alpha: krippendorff_alpha(&items(&key), Level::Nominal),
            voted: questions.iter().filter(|question| !question.votes.is_empty()).count(),
            people_kappa: cohen_kappa(&people),
            people_alpha: krippendorff_alpha(&together, Level::Nominal),
            alpha_of_people_alone: krippendorff_alpha(&alone, Level::Nominal),
        }
    }
}

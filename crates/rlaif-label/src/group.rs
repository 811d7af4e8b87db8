//! Pairs of several responses to one prompt.

use rlaif_core::{PromptRecord, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::labeller::{LabelPair, Subject};
use crate::settings::Questions;

/// A prompt with several responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The prompt.
    pub record: PromptRecord,
    /// The responses. Equal ones count once, and a group of fewer than two gives no pair.
    pub responses: Vec<Reply>,
}

impl Group {
    /// The same group with each of equal responses once.
    #[must_use]
    pub fn distinct(&self) -> Self {
        let mut responses: Vec<Reply> = Vec::new();
        for reply in &self.responses {
            if !responses.iter().any(|known| known.says_as(reply)) {
                responses.push(reply.clone());
            }
        }
        Self { record: self.record.clone(), responses }
    }
}

/// A list of responses, two or more and no more than the judges have labels
/// ([`Labeller::check_lists`](crate::Labeller::check_lists)).
impl Subject for Group {
    const FORM: Questions = Questions::Lists;

    fn record(&self) -> &PromptRecord {
        &self.record
    }

    fn responses(&self) -> &[Reply] {
        &self.responses
    }
}

/// Pairs that are made of several responses to one prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// Every two of them.
    #[default]
    All,
    /// Each with the next one.
    Neighbours,
    /// The pair of the response with the highest mean probability against the others, and the one
    /// with the lowest.
    BestAndWorst,
    /// The pairs of the best response with each of the others.
    BestAndOthers,
}

/// The pairs of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPairs {
    /// The pairs that are asked about.
    pub pairs: Vec<LabelPair>,
    /// For each pair its group and the places of its two responses in it.
    places: Vec<(usize, [usize; 2])>,
    pairing: Pairing,
}

impl GroupPairs {
    /// The pairs of these groups.
    pub fn of(groups: &[Group], pairing: Pairing) -> Self {
        let mut made = Self { pairs: Vec::new(), places: Vec::new(), pairing };
        for (at, group) in groups.iter().enumerate() {
            let distinct = group.distinct().responses;
            let n = distinct.len();
            let all = (0..n).flat_map(|one| (one + 1..n).map(move |other| [one, other]));
            let neighbours = (1..n).map(|other| [other - 1, other]);
            let places: Vec<[usize; 2]> = match pairing {
                Pairing::Neighbours => neighbours.collect(),
                Pairing::All | Pairing::BestAndWorst | Pairing::BestAndOthers => all.collect(),
            };
            for [one, other] in places {
                let id = format!("{}:{one}-{other}", group.record.id);
                made.pairs.push(LabelPair {
                    record: PromptRecord { id, ..group.record.clone() },
                    responses: [distinct[one].clone(), distinct[other].clone()],
                });
                made.places.push((at, [one, other]));
            }
        }
        made
    }

    /// The group of a pair, and the places of the pair's responses among its [distinct](Group::distinct) ones.
    pub fn place(&self, pair: usize) -> Option<(usize, [usize; 2])> {
        self.places.get(pair).copied()
    }

    /// The pairs that are kept, by their places, given the probability of each that its first response is
    /// better. Where pairs of a group have none, the others decide.
    ///
    /// ```
    /// use rlaif_core::{PromptRecord, Reply};
    /// use rlaif_label::{Group, GroupPairs, Pairing};
    /// let responses = ["a", "b", "c"].map(Reply::from).to_vec();
    /// let group = Group { record: PromptRecord::new("7", "?"), responses };
    /// let pairs = GroupPairs::of(&[group], Pairing::BestAndWorst);
    /// // a-b, a-c, b-c: c beats both, and a loses to both.
    /// assert_eq!(pairs.kept(&[Some(0.3), Some(0.1), Some(0.2)]), [1]);
    /// ```
    pub fn kept(&self, first: &[Option<f64>]) -> Vec<usize> {
        let known = |pair: &usize| first.get(*pair).copied().flatten().is_some();
        let all = 0..self.pairs.len();
        if matches!(self.pairing, Pairing::All | Pairing::Neighbours) {
            return all.filter(known).collect();
        }
        let mut kept = Vec::new();
        let mut from = 0;
        while from < self.places.len() {
            let group = self.places[from].0;
            let of_group = self.places[from..].iter().take_while(|(of, _)| *of == group).count();
            let pairs: Vec<usize> = (from..from + of_group).filter(known).collect();
            from += of_group;
            let n = pairs.iter().flat_map(|&pair| self.places[pair].1).max().map_or(0, |at| at + 1);
            let mut sums = vec![(0., 0usize); n];
            for &pair in &pairs {
                let [one, other] = self.places[pair].1;
                let p = first[pair].unwrap_or(0.5);
                sums[one] = (sums[one].0 + p, sums[one].1 + 1);
                sums[other] = (sums[other].0 + 1. - p, sums[other].1 + 1);
            }
            let strength = |at: &usize| sums[*at].0 / sums[*at].1 as f64;
            let met = || (0..n).filter(|&at| sums[at].1 > 0);
            // Of equally good ones the first, of equally bad ones the last.
            let best = met().reduce(|a, b| if strength(&b) > strength(&a) { b } else { a });
            let worst = met().reduce(|a, b| if strength(&b) <= strength(&a) { b } else { a });
            let (Some(best), Some(worst)) = (best, worst) else { continue };
            kept.extend(pairs.into_iter().filter(|&pair| {
                let of_best = self.places[pair].1.contains(&best);
                let of_worst = self.places[pair].1.contains(&worst);
                of_best && (of_worst || self.pairing == Pairing::BestAndOthers)
            }));
        }
        kept
    }
}

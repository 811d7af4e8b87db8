//! Labels of several responses at once.

use std::collections::BTreeMap;

use rlaif_core::BadSetting;
use serde::Serialize;

use crate::error::LabelError;
use crate::group::Group;
use crate::labeller::{Label, Labeller, Opinion, add_cost};
use crate::settings::{FacetCombination, Questions};

/// The probability of each response to a prompt that it is the best one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListLabel {
    /// The probabilities, in the order of the list.
    pub probabilities: Vec<f64>,
    /// The same by facet.
    pub facets: Vec<(String, Vec<f64>)>,
    /// True if any of it is an estimate of judges that give no probabilities.
    pub estimate: bool,
    /// The explanation of the first judge that gives one.
    pub reason: String,
    /// The cost of all questions about the list, where prices are configured.
    pub cost: Option<f64>,
}

/// The probabilities that a judge of lists gave to places, over questions in which each response stood in each
/// place: without a bias they are equal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlaceShares {
    /// The number of responses in each of the lists.
    pub responses: usize,
    /// The number of lists.
    pub lists: usize,
    /// The mean probability of each place.
    pub shares: Vec<f64>,
    /// The log-odds that the first place adds, in nats: the mean difference of its log-probability from the
    /// mean of the others. `None` for estimates and probabilities of 0.
    pub first_nats: Option<f64>,
}

impl Labeller {
    /// Checks that judges have a label for each response of these lists, and lists two responses or more.
    ///
    /// # Errors
    /// [`LabelError::Setting`].
    pub fn check_lists(&self, lists: &[Group]) -> Result<(), LabelError> {
        let labels = (0..self.facets.len()).filter_map(|facet| self.labels(facet)).min();
        for Group { record, responses } in lists {
            let n = responses.len();
            if let Some(labels) = labels.filter(|labels| *labels < n) {
                let found = format!("{labels} labels, and {} has {n} responses", record.place());
                let expected = "a label for each response of a prompt";
                return Err(BadSetting::new("judge.labels", found, expected).into());
            }
            if n < 2 {
                let found = format!("{n} responses to {}", record.place());
                return Err(BadSetting::new("responses", found, "two or more for a list").into());
            }
        }
        Ok(())
    }

    /// The labels of lists, from the answers to all questions about them, or why there is none.
    ///
    /// By a judge, the probability of a response is the mean of those in all rotations; by a reward, it is
    /// proportional to exp(r / `temperature`), so that p / (p + p') is that of a pair. A list of which one
    /// rotation has no verdict has no label, since the others would bring their positions' bias.
    pub fn list_labels(
        &self,
        lists: &[Group],
        opinions: &BTreeMap<usize, Opinion>,
    ) -> Vec<Result<ListLabel, String>> {
        let mut start = 0;
        let label = |list: &Group| {
            let (from, n) = (start, list.responses.len());
            start += n;
            self.list_label((from, n, Questions::Lists), opinions)
        };
        lists.iter().map(label).collect()
    }

    fn list_label(
        &self,
        place: (usize, usize, Questions),
        opinions: &BTreeMap<usize, Opinion>,
    ) -> Result<ListLabel, String> {
        let n = place.1;
        let mut label = ListLabel {
            probabilities: vec![0.; n],
            facets: Vec::new(),
            estimate: false,
            reason: String::new(),
            cost: None,
        };
        let mut weights = 0.;
        for (at, facet) in self.facets.iter().enumerate() {
            let answers = self.answers(place, at, opinions)?;
            let mut shares = vec![0.; n];
            match facet.temperature() {
                Some(temperature) => {
                    let scores = answers.iter().map(|(_, score, _)| score / temperature);
                    let highest = scores.clone().fold(f64::NEG_INFINITY, f64::max);
                    let odds: Vec<f64> = scores.map(|score| (score - highest).exp()).collect();
                    let sum: f64 = odds.iter().sum();
                    shares.iter_mut().zip(odds).for_each(|(share, odd)| *share = odd / sum);
                }
                None => {
                    for (turn, first, opinion) in &answers {
                        let shown = std::iter::once(first).chain(&opinion.others);
                        for (nth, share) in shown.enumerate() {
                            shares[(turn + nth) % n] += share / answers.len() as f64;
                        }
                    }
                }
            }
            for (_, _, answer) in answers {
                label.estimate |= answer.estimate;
                if label.reason.is_empty() {
                    label.reason.clone_from(&answer.reason);
                }
                add_cost(&mut label.cost, answer.cost);
            }
            let highest = shares.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let best = shares.iter().filter(|share| **share == highest).count() as f64;
            for (sum, share) in label.probabilities.iter_mut().zip(&shares) {
                *sum += facet.weight
                    * match self.combine {
                        FacetCombination::Mean => *share,
                        FacetCombination::Vote if *share == highest => 1. / best,
                        FacetCombination::Vote => 0.,
                    };
            }
            weights += facet.weight;
            label.facets.push((facet.name.clone(), shares));
        }
        label.probabilities.iter_mut().for_each(|sum| *sum /= weights);
        Ok(label)
    }

    /// The label of two responses of a list, by their places: by each facet p / (p + p'), and from facets to
    /// the label as for pairs. Its cost is that of the list. Two of probability 0 are equally good.
    pub fn pair_of_list(&self, list: &ListLabel, [one, other]: [usize; 2]) -> Label {
        let first = |(_, shares): &(String, Vec<f64>)| {
            let both = shares[one] + shares[other];
            if both > 0. { shares[one] / both } else { 0.5 }
        };
        let facets = list.facets.iter().map(first).collect();
        let (reason, cost) = (list.reason.clone(), list.cost);
        Label { estimate: list.estimate, reason, cost, ..self.combined(facets) }
    }

    /// The probabilities that the judge of a facet gave to places, over the lists of the most frequent length
    /// that it was asked about in all rotations. `None` for a reward, and without such lists.
    pub fn place_shares(
        &self,
        lists: &[Group],
        facet: usize,
        opinions: &BTreeMap<usize, Opinion>,
    ) -> Option<PlaceShares> {
        if self.facets[facet].temperature().is_some() {
            return None;
        }
        // For each length, the answers about each list: the shares by place, and whether they are an estimate.
        let mut by_length: BTreeMap<usize, Vec<Vec<&Opinion>>> = BTreeMap::new();
        let mut start = 0;
        for list in lists {
            let n = list.responses.len();
            let answers = self.answers((start, n, Questions::Lists), facet, opinions);
            start += n;
            if let Some(answers) = answers.ok().filter(|answers| answers.len() == n) {
                let answers = answers.into_iter().map(|(_, _, opinion)| opinion).collect();
                by_length.entry(n).or_default().push(answers);
            }
        }
        let (&n, lists) = by_length.iter().max_by_key(|(_, lists)| lists.len())?;
        let (mut shares, mut nats) = (vec![0.; n], 0.);
        let questions = (lists.len() * n) as f64;
        for opinion in lists.iter().flatten() {
            let shown: Vec<f64> = opinion.value.iter().chain(&opinion.others).copied().collect();
            shares.iter_mut().zip(&shown).for_each(|(sum, share)| *sum += share / questions);
            let others = shown[1..].iter().map(|share| share.ln()).sum::<f64>();
            nats += (shown[0].ln() - others / (n - 1) as f64) / questions;
        }
        let estimate = lists.iter().flatten().any(|opinion| opinion.estimate);
        let first_nats = (!estimate && nats.is_finite()).then_some(nats);
        Some(PlaceShares { responses: n, lists: lists.len(), shares, first_nats })
    }
}

//! Agreement between raters, and calibration of probabilities.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Cohen's κ ([Cohen 1960](https://doi.org/10.1177/001316446002000104)) of two raters: (p_o − p_e)
/// / (1 − p_e), where p_o is the share of items on which they agree and p_e the share expected by
/// chance; `sklearn.metrics.cohen_kappa_score`.
///
/// `None` without items, and if both raters give the same category to all items: then chance
/// explains all agreement.
///
/// ```
/// use rlaif_eval::stats::cohen_kappa;
/// assert_eq!(cohen_kappa(&[(1, 1), (2, 2), (1, 2), (2, 1)]), Some(0.));
/// assert_eq!(cohen_kappa(&[(1, 1), (2, 2)]), Some(1.));
/// assert_eq!(cohen_kappa(&[(1, 1), (1, 1)]), None);
/// ```
#[must_use]
pub fn cohen_kappa(ratings: &[(i64, i64)]) -> Option<f64> {
    let n = ratings.len() as f64;
    let mut counts: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
    for (one, other) in ratings {
        counts.entry(*one).or_default().0 += 1.;
        counts.entry(*other).or_default().1 += 1.;
    }
    let agree = ratings.iter().filter(|(one, other)| one == other).count() as f64 / n;
    let chance = counts.values().map(|(one, other)| one * other).sum::<f64>() / (n * n);
    let kappa = (agree - chance) / (1. - chance);
    kappa.is_finite().then_some(kappa)
}

/// The distance between two ratings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// 0 for equal ratings, 1 for others.
    Nominal,
    /// The square of the difference.
    Interval,
}

impl Level {
    fn distance(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Nominal => f64::from(u8::from(a.total_cmp(&b).is_ne())),
            Self::Interval => (a - b).powi(2),
        }
    }
}

/// Krippendorff's α ([Hayes and Krippendorff 2007](https://doi.org/10.1080/19312450709336664)): 1 −
/// D_o / D_e, from coincidences of ratings within an item. `items` has the ratings of each item by
/// any number of raters; an item with fewer than two ratings is ignored.
///
/// `None` if no item has two ratings, or all ratings are equal.
///
/// ```
/// use rlaif_eval::stats::{Level, krippendorff_alpha};
/// let items = [vec![1., 1.], vec![2., 2.], vec![1., 2.], vec![3.]];
/// let alpha = krippendorff_alpha(&items, Level::Nominal).unwrap();
/// assert!((alpha - 4. / 9.).abs() < 1e-12);
/// ```
#[must_use]
pub fn krippendorff_alpha(items: &[Vec<f64>], level: Level) -> Option<f64> {
    let items: Vec<&Vec<f64>> = items.iter().filter(|ratings| ratings.len() > 1).collect();
    let all: Vec<f64> = items.iter().flat_map(|ratings| ratings.iter().copied()).collect();
    // Values with their counts, so that the cost depends on the number of values, not of pairs.
    let mut values: Vec<(f64, f64)> = Vec::new();
    let mut sorted = all.clone();
    sorted.sort_by(f64::total_cmp);
    for value in sorted {
        match values.last_mut() {
            Some((known, count)) if *known == value => *count += 1.,
            _ => values.push((value, 1.)),
        }
    }
    let within = |ratings: &Vec<f64>| {
        let pairs = ratings.iter().flat_map(|a| ratings.iter().map(move |b| (*a, *b)));
        pairs.map(|(a, b)| level.distance(a, b)).sum::<f64>() / (ratings.len() - 1) as f64
    };
    let observed: f64 = items.into_iter().map(within).sum();
    let pairs = values.iter().flat_map(|a| values.iter().map(move |b| (*a, *b)));
    let between: f64 = pairs.map(|((a, na), (b, nb))| na * nb * level.distance(a, b)).sum();
    let n = all.len() as f64;
    let alpha = 1. - (n - 1.) * observed / between;
    alpha.is_finite().then_some(alpha)
}

/// Fleiss' κ ([Fleiss 1971](https://doi.org/10.1037/h0031619)): (P̄ − P̄_e) / (1 − P̄_e), where P̄ is the mean
/// share of agreeing pairs of ratings of an item, and P̄_e the share expected by chance. `items` has the
/// categories that each item was given; `statsmodels.stats.inter_rater.fleiss_kappa`.
///
/// `None` unless every item has the same number of ratings, at least two, and if all ratings are equal.
///
/// ```
/// use rlaif_eval::stats::fleiss_kappa;
/// assert_eq!(fleiss_kappa(&[vec![1, 1, 1], vec![2, 2, 2]]), Some(1.));
/// assert_eq!(fleiss_kappa(&[vec![1, 1], vec![2]]), None);
/// ```
#[must_use]
pub fn fleiss_kappa(items: &[Vec<i64>]) -> Option<f64> {
    let raters = items.first()?.len();
    if raters < 2 || items.iter().any(|ratings| ratings.len() != raters) {
        return None;
    }
    let (n, raters) = (items.len() as f64, raters as f64);
    let mut totals: BTreeMap<i64, f64> = BTreeMap::new();
    let mut agree = 0.;
    for ratings in items {
        let mut counts: BTreeMap<i64, f64> = BTreeMap::new();
        ratings.iter().for_each(|category| *counts.entry(*category).or_default() += 1.);
        agree += counts.values().map(|c| c * (c - 1.)).sum::<f64>() / (raters * (raters - 1.));
        counts.into_iter().for_each(|(category, c)| *totals.entry(category).or_default() += c);
    }
    let chance: f64 = totals.values().map(|total| (total / (n * raters)).powi(2)).sum();
    let kappa = (agree / n - chance) / (1. - chance);
    kappa.is_finite().then_some(kappa)
}

/// Verdicts of one range of confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// The range's lower end.
    pub low: f64,
    /// The range's upper end.
    pub high: f64,
    /// Number of verdicts.
    pub n: usize,
    /// Mean confidence of these verdicts; 0 without verdicts.
    pub confidence: f64,
    /// Share of right verdicts among these; 0 without verdicts.
    pub accuracy: f64,
}

/// Calibration of the probabilities of being right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error ([Guo et al. 2017](https://arxiv.org/abs/1706.04599), eq. 3): the mean
    /// distance between confidence and accuracy, over bins by their counts.
    pub error: f64,
    /// The mean of (1 − p)², p being the probability given to the right answer.
    pub brier: f64,
    /// The mean of −ln p, in nats; a probability below 1e-12 counts as 1e-12.
    pub log_loss: f64,
    /// Bins of equal width over the confidence max(p, 1 − p), from 0.5 to 1.
    pub bins: Vec<CalibrationBin>,
}

/// The calibration of the probabilities given to the right one of two answers. A probability of 0.5
/// counts as half right. `None` without probabilities.
///
/// ```
/// use rlaif_eval::stats::calibration;
/// let found = calibration(&[0.8, 0.8, 0.8, 0.2], 10).unwrap();
/// assert!((found.error - 0.05).abs() < 1e-12); // 0.8 confident, 0.75 right
/// assert!((found.brier - (3. * 0.04 + 0.64) / 4.).abs() < 1e-12);
/// ```
#[must_use]
pub fn calibration(right: &[f64], bins: usize) -> Option<Calibration> {
    if right.is_empty() || bins == 0 {
        return None;
    }
    let n = right.len() as f64;
    let width = 0.5 / bins as f64;
    let mut sums = vec![(0usize, 0., 0.); bins];
    for &p in right {
        let confidence = p.max(1. - p);
        let at = (((confidence - 0.5) / width) as usize).min(bins - 1);
        let correct = if p == 0.5 { 0.5 } else { f64::from(u8::from(p > 0.5)) };
        sums[at].0 += 1;
        sums[at].1 += confidence;
        sums[at].2 += correct;
    }
    let error =
        sums.iter().map(|(_, confidence, correct)| (confidence - correct).abs()).sum::<f64>();
    let bins = sums.into_iter().enumerate().map(|(at, (count, confidence, correct))| {
        let mean = |sum: f64| if count == 0 { 0. } else { sum / count as f64 };
        CalibrationBin {
            low: 0.5 + at as f64 * width,
            high: 0.5 + (at + 1) as f64 * width,
            n: count,
            confidence: mean(confidence),
            accuracy: mean(correct),
        }
    });
    Some(Calibration {
        error: error / n,
        brier: right.iter().map(|p| (1. - p).powi(2)).sum::<f64>() / n,
        log_loss: right.iter().map(|p| -p.max(1e-12).ln()).sum::<f64>() / n,
        bins: bins.collect(),
    })
}

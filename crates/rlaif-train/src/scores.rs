//! Measures of a classifier's probabilities against labels.

/// Quality of a classifier's probabilities on labelled rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// Mean of −log p of the label, in nats.
    pub loss: f64,
    /// Share of rows whose label has the highest probability.
    pub accuracy: f64,
    /// 2 precision · recall / (precision + recall): for two labels that of label 1, else the mean
    /// over the labels. 0 without a correct prediction.
    pub f1: f64,
    /// Area under the receiver operating characteristic: the probability that a row with a label
    /// gets a higher probability of the label than a row without it; ties count half. For two
    /// labels that of label 1, else the mean over the labels. NaN if a label has no row, or all of
    /// them.
    pub auc: f64,
    /// Expected calibration error: |confidence − accuracy| in 15 equal bins of confidence, weighted
    /// by their number of rows ([Guo et al. 2017](https://arxiv.org/abs/1706.04599), eq. 3).
    pub calibration_error: f64,
    /// Number of rows.
    pub rows: usize,
}

/// Compares probabilities, one row per example, with labels.
///
/// ```
/// use rlaif_train::classification;
/// let scores = classification(&[vec![0.9, 0.1], vec![0.4, 0.6], vec![0.7, 0.3]], &[0, 1, 1]);
/// assert_eq!(scores.accuracy, 2. / 3.);
/// assert_eq!(scores.f1, 2. / 3.); // precision 1, recall 1/2
/// assert_eq!(scores.auc, 1.);
/// ```
///
/// # Panics
/// If the numbers of rows and labels differ, or a label is out of range.
#[must_use]
pub fn classification(probabilities: &[Vec<f64>], labels: &[usize]) -> Classification {
    assert_eq!(probabilities.len(), labels.len(), "one row of probabilities for each label");
    let n = labels.len() as f64;
    let k = probabilities.first().map_or(0, Vec::len);
    let best: Vec<Option<usize>> = probabilities.iter().map(|row| argmax(row)).collect();
    let right = best.iter().zip(labels).filter(|(best, label)| **best == Some(**label)).count();
    let rows = || probabilities.iter().zip(labels);
    // NaN stays NaN: `max` alone would turn it into the smallest probability.
    let surprise = |p: f64| if p.is_nan() { p } else { -p.max(f64::MIN_POSITIVE).ln() };
    let loss = rows().map(|(row, &label)| surprise(row[label])).sum::<f64>() / n;
    let of_labels = |of: &dyn Fn(usize) -> f64| match k {
        2 => of(1),
        _ => (0..k).map(of).sum::<f64>() / k as f64,
    };
    Classification {
        loss,
        accuracy: right as f64 / n,
        f1: of_labels(&|label| f1(&best, labels, label)),
        auc: of_labels(&|label| auc(rows().map(|(row, &of)| (row[label], of == label)).collect())),
        calibration_error: calibration_error(
            probabilities.iter().zip(best.iter().zip(labels)).map(|(row, (&best, &label))| {
                (best.map_or(f64::NAN, |best| row[best]), best == Some(label))
            }),
        ),
        rows: labels.len(),
    }
}

/// The first index of the maximum; `None` with a NaN, which predicts no label.
fn argmax(row: &[f64]) -> Option<usize> {
    if row.iter().any(|p| p.is_nan()) {
        return None;
    }
    (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best })
}

fn f1(best: &[Option<usize>], labels: &[usize], label: usize) -> f64 {
    let both = || best.iter().zip(labels);
    let hit = both().filter(|(b, l)| **b == Some(label) && **l == label).count();
    let missed = both().filter(|(b, l)| (**b == Some(label)) != (**l == label)).count();
    if hit == 0 { 0. } else { 2. * hit as f64 / (2 * hit + missed) as f64 }
}

/// The rank-based U of Mann and Whitney, divided by the number of pairs. NaN with a NaN among the
/// scores, which has no rank.
fn auc(mut scored: Vec<(f64, bool)>) -> f64 {
    if scored.iter().any(|(score, _)| score.is_nan()) {
        return f64::NAN;
    }
    scored.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let positive = scored.iter().filter(|(_, is)| *is).count() as f64;
    let negative = scored.len() as f64 - positive;
    let mut ranks = 0.;
    let mut start = 0.;
    for ties in scored.chunk_by(|(a, _), (b, _)| a == b) {
        // Ranks from 1; equal scores share the mean of their ranks.
        let rank = start + (ties.len() as f64 + 1.) / 2.;
        ranks += rank * ties.iter().filter(|(_, is)| *is).count() as f64;
        start += ties.len() as f64;
    }
    (ranks - positive * (positive + 1.) / 2.) / (positive * negative)
}

fn calibration_error(confidences: impl Iterator<Item = (f64, bool)>) -> f64 {
    const BINS: usize = 15;
    let mut bins = [(0., 0.); BINS];
    let mut n = 0.;
    for (confidence, right) in confidences {
        let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        bins[bin].0 += confidence;
        bins[bin].1 += f64::from(u8::from(right));
        n += 1.;
    }
    bins.iter().map(|(confidence, right)| (confidence - right).abs()).sum::<f64>() / n
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Counted by hand: of 9 pairs 5 are in order and 2 are ties; 2 of 3 hits, 2 of 3 found.
    #[test]
    fn two_labels_are_scored_by_the_second() {
        let p = [0.1, 0.4, 0.35, 0.8, 0.8, 0.8];
        let rows: Vec<Vec<f64>> = p.iter().map(|p| vec![1. - p, *p]).collect();
        let scores = classification(&rows, &[0, 0, 1, 1, 1, 0]);
        assert!((scores.auc - 2. / 3.).abs() < 1e-12, "{}", scores.auc);
        assert!((scores.f1 - 2. / 3.).abs() < 1e-12);
        let loss =
            -(0.9f64.ln() + 0.6f64.ln() + 0.35f64.ln() + 2. * 0.8f64.ln() + 0.2f64.ln()) / 6.;
        assert!((scores.loss - loss).abs() < 1e-12);
    }

    #[test]
    fn calibration_is_the_gap_between_confidence_and_accuracy() {
        // Ten rows at 0.8 of which six are right: a gap of 0.2.
        let rows = vec![vec![0.2, 0.8]; 10];
        let labels = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0];
        let scores = classification(&rows, &labels);
        assert!((scores.calibration_error - 0.2).abs() < 1e-12);
        assert!(classification(&rows, &[1; 10]).auc.is_nan());
    }

    #[test]
    fn numbers_that_are_not_finite_end_and_are_told() {
        let nan = f64::NAN;
        for rows in [
            vec![vec![nan, nan]; 4],
            vec![vec![0.2, 0.8], vec![nan, nan], vec![0.6, 0.4], vec![-nan, nan]],
        ] {
            let scores = classification(&rows, &[0, 1, 0, 1]);
            assert!(scores.loss.is_nan() && scores.auc.is_nan(), "{scores:?}");
            assert!(scores.calibration_error.is_nan(), "{scores:?}");
        }
        // A row of NaN predicts no label, not the first one.
        assert_eq!(classification(&vec![vec![nan, nan]; 2], &[0, 0]).accuracy, 0.);
        // Infinities have ranks.
        let scored = [(f64::NEG_INFINITY, false), (0., true), (f64::INFINITY, true)];
        assert_eq!(auc(scored.to_vec()), 1.);
        assert_eq!(auc([scored.to_vec(), scored.to_vec()].concat()), 1.);
        // Zeros of either sign are the same score.
        assert_eq!(auc(vec![(-0., false), (0., true)]), 0.5);
    }

    proptest! {
        #[test]
        fn auc_is_the_share_of_pairs_in_order(
            scored in prop::collection::vec((0u8..6, any::<bool>()), 2..30)
        ) {
            let positive: Vec<u8> = scored.iter().filter(|s| s.1).map(|s| s.0).collect();
            let negative: Vec<u8> = scored.iter().filter(|s| !s.1).map(|s| s.0).collect();
            prop_assume!(!positive.is_empty() && !negative.is_empty());
            let mut pairs = 0.;
            for p in &positive {
                for n in &negative {
                    pairs += if p > n { 1. } else if p == n { 0.5 } else { 0. };
                }
            }
            let want = pairs / (positive.len() * negative.len()) as f64;
            let got = auc(scored.iter().map(|(s, is)| (f64::from(*s), *is)).collect());
            prop_assert!((got - want).abs() < 1e-12);
        }
    }
}

//! Several sources in given proportions.

use rlaif_core::{Provenance, Record, Seed, Step};

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::shuffle::Shuffle;

impl<T: Record + Clone> Dataset<T> {
    /// `count` records of several sources, in proportion to their weights and evenly interleaved.
    ///
    /// A source gives its records in an order of its own under the seed. When its share is larger
    /// than it is, it gives all of them before any of them again. Split before you mix: a record
    /// given twice is in the mixture twice.
    ///
    /// ```
    /// use rlaif_core::{PromptRecord, Provenance, Seed};
    /// use rlaif_data::Dataset;
    /// let source = |name: &str| {
    ///     let records = (0..50).map(|n| PromptRecord::new(format!("{name}-{n}"), name)).collect();
    ///     Dataset::new(records, Provenance::default())
    /// };
    /// let (kind, rude) = (source("kind"), source("rude"));
    /// let mixed = Dataset::mixture(&[(3.0, &kind), (1.0, &rude)], 40, Seed::new(1))?;
    /// assert_eq!(mixed.records().iter().filter(|record| record.prompt == "kind").count(), 30);
    /// # Ok::<(), rlaif_data::DataError>(())
    /// ```
    ///
    /// # Errors
    /// [`DataError::Weight`] for a weight that is not above 0 and finite,
    /// [`DataError::NothingToDraw`] when there are no sources or one of them is empty.
    pub fn mixture(sources: &[(f64, &Self)], count: usize, seed: Seed) -> Result<Self, DataError> {
        let bad =
            |(_, (weight, _)): &(usize, &(f64, &Self))| !(weight.is_finite() && *weight > 0.0);
        if let Some((index, (weight, _))) = sources.iter().enumerate().find(bad) {
            return Err(DataError::Weight { index, weight: *weight });
        }
        if sources.is_empty() {
            return Err(DataError::NothingToDraw { of: "the mixture".to_owned() });
        }
        let weights: Vec<f64> = sources.iter().map(|(weight, _)| *weight).collect();
        let shares = shares(&weights, count);
        let mut provenance = Provenance::default();
        let mut step = Step {
            operation: format!("mixture of {} sources, seed {}", sources.len(), seed.get()),
            kept: count as u64,
            ..Step::default()
        };
        // (when in the mixture, which source) for each record
        let mut places = Vec::with_capacity(count);
        let mut draws = Vec::with_capacity(sources.len());
        for (index, ((weight, source), share)) in sources.iter().zip(&shares).enumerate() {
            let draw = Shuffle::new(source.records(), seed.derive("mixture", index as u64))
                .map_err(|_| DataError::NothingToDraw { of: format!("source {index}") })?;
            draws.push(draw);
            places.extend((0..*share).map(|nth| ((nth as f64 + 0.5) / *share as f64, index)));
            let origins = &source.provenance().origins;
            provenance.origins.extend(
                origins
                    .iter()
                    .filter(|o| !provenance.origins.contains(o))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
            provenance.steps.extend(source.provenance().steps.iter().cloned().map(|mut step| {
                step.operation = format!("source {index}: {}", step.operation);
                step
            }));
            step.noted.insert(format!("from source {index}, weight {weight}"), *share as u64);
        }
        places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let records = places
            .into_iter()
            .filter_map(|(_, index)| {
                let at = draws[index].next()?;
                Some(sources[index].1.records()[at].clone())
            })
            .collect();
        provenance.steps.push(step);
        Ok(Self::new(records, provenance))
    }
}

/// Whole numbers that add up to `count` in proportion to the weights, by largest remainder.
fn shares(weights: &[f64], count: usize) -> Vec<usize> {
    // Scaled by the largest first, so that the sum of huge weights stays finite.
    let largest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let total: f64 = weights.iter().map(|weight| weight / largest).sum();
    let exact: Vec<f64> =
        weights.iter().map(|weight| weight / largest / total * count as f64).collect();
    let mut shares: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by(|&a, &b| (exact[b].fract()).total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    let missing = count.saturating_sub(shares.iter().sum());
    for &index in by_remainder.iter().cycle().take(missing) {
        shares[index] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_are_proportional_and_complete() {
        assert_eq!(shares(&[1.0, 1.0, 1.0], 10), [4, 3, 3]);
        assert_eq!(shares(&[0.5, 0.3, 0.2], 10), [5, 3, 2]);
        assert_eq!(shares(&[f64::MAX, f64::MAX], 3), [2, 1]);
    }

    proptest! {
        #[test]
        fn every_share_is_within_one_of_exact(
            weights in proptest::collection::vec(0.01..100.0f64, 1..8), count in 0usize..10_000
        ) {
            let shares = shares(&weights, count);
            prop_assert_eq!(shares.iter().sum::<usize>(), count);
            let total: f64 = weights.iter().sum();
            for (share, weight) in shares.iter().zip(&weights) {
                prop_assert!((*share as f64 - weight / total * count as f64).abs() <= 1.0 + 1e-6);
            }
        }
    }
}

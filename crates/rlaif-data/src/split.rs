//! Train and held-out parts that never overlap.

use std::borrow::Cow;

use rlaif_core::{Record, Seed, Step};
use twox_hash::XxHash3_64;

use crate::dataset::Dataset;
use crate::error::{DataError, SplitSide};

/// A share of the records: above 0 and below 1.
///
/// ```
/// use rlaif_data::Fraction;
/// assert_eq!(Fraction::new(0.2)?.get(), 0.2);
/// assert!(Fraction::new(1.0).is_err());
/// # Ok::<(), rlaif_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Fraction(f64);

impl Fraction {
    /// The share with this value.
    ///
    /// # Errors
    /// [`DataError::Fraction`] unless 0 < `value` < 1.
    pub fn new(value: f64) -> Result<Self, DataError> {
        if value > 0.0 && value < 1.0 {
            Ok(Self(value))
        } else {
            Err(DataError::Fraction { value })
        }
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// Records for training, and records for evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Split<T> {
    /// The records for training.
    pub train: Dataset<T>,
    /// The records for evaluation.
    pub held_out: Dataset<T>,
}

impl<T> Split<T> {
    fn new(
        dataset: Dataset<T>,
        held_out: Fraction,
        seed: Seed,
        key: impl Fn(&T) -> Cow<'_, str>,
    ) -> Result<Self, DataError> {
        let (count, provenance) = (dataset.len(), dataset.provenance().clone());
        let seed_of_hash = seed.derive("split", 0).get();
        let (apart, train): (Vec<T>, Vec<T>) = dataset.into_records().into_iter().partition(|r| {
            let hash = XxHash3_64::oneshot_with_seed(seed_of_hash, key(r).as_bytes());
            // The quotient is exact to 53 bits, far below what a fraction resolves.
            (hash as f64 / 2f64.powi(64)) < held_out.get()
        });
        let side = |side: SplitSide, records: Vec<T>| {
            if records.is_empty() {
                return Err(DataError::EmptySplit {
                    side,
                    records: count,
                    fraction: held_out.get(),
                });
            }
            let mut provenance = provenance.clone();
            provenance.steps.push(Step {
                operation: format!(
                    "{side} side of a split, {} held out, seed {}",
                    held_out.get(),
                    seed.get()
                ),
                kept: records.len() as u64,
                dropped: [("on the other side".to_owned(), (count - records.len()) as u64)].into(),
                ..Step::default()
            });
            Ok(Dataset::new(records, provenance))
        };
        Ok(Self {
            train: side(SplitSide::Train, train)?,
            held_out: side(SplitSide::HeldOut, apart)?,
        })
    }
}

impl<T> Dataset<T> {
    /// A train and a held-out part, by the hash of each record's id.
    ///
    /// A record's side depends on its id, the seed and the fraction alone: reordering the records
    /// or adding more moves no record to the other side.
    ///
    /// # Errors
    /// [`DataError::EmptySplit`] when a side would be empty.
    pub fn split(self, held_out: Fraction, seed: Seed) -> Result<Split<T>, DataError>
    where
        T: Record,
    {
        self.split_by(held_out, seed, |record| record.id().into())
    }

    /// A train and a held-out part, where records with the same key fall on one side.
    ///
    /// # Errors
    /// [`DataError::EmptySplit`] when a side would be empty.
    pub fn split_by(
        self,
        held_out: Fraction,
        seed: Seed,
        key: impl Fn(&T) -> Cow<'_, str>,
    ) -> Result<Split<T>, DataError> {
        Split::new(self, held_out, seed, key)
    }
}

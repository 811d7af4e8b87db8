//! Records with their provenance, and operations on them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use rayon::prelude::*;
use rlaif_core::{Provenance, Record, Specials, Step, TextCodec};
use twox_hash::XxHash3_128;

use crate::error::DataError;

/// Records with their provenance.
///
/// Every operation that may leave records out writes its name and the numbers of kept and dropped
/// records into the provenance.
///
/// ```
/// use rlaif_core::{PromptRecord, Provenance, Seed};
/// use rlaif_data::{Dataset, Fraction};
/// let records = (0..100).map(|n| PromptRecord::new(n.to_string(), "a".repeat(n))).collect();
/// let split = Dataset::new(records, Provenance::default())
///     .keep_characters(11..=90, |record| record.prompt.as_str().into())
///     .split(Fraction::new(0.2)?, Seed::new(42))?;
/// assert_eq!(split.train.len() + split.held_out.len(), 80);
/// assert_eq!(split.train.provenance().steps[0].dropped_total(), 20);
/// # Ok::<(), rlaif_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset<T> {
    records: Vec<T>,
    provenance: Provenance,
}

/// Treatment of the last records when they do not fill a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remainder {
    /// The last records are a smaller batch.
    Keep,
    /// The last records are left out.
    Drop,
}

impl<T> Dataset<T> {
    /// A dataset of these records.
    pub fn new(records: Vec<T>, provenance: Provenance) -> Self {
        Self { records, provenance }
    }

    /// The records, in order.
    pub fn records(&self) -> &[T] {
        &self.records
    }

    /// Only the records.
    pub fn into_records(self) -> Vec<T> {
        self.records
    }

    /// The origin of the records, and the operations applied to them.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// `true` without records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn noting(mut self, operation: impl Into<String>, reason: &str, before: usize) -> Self {
        let dropped = (before - self.records.len()) as u64;
        let mut step = Step {
            operation: operation.into(),
            kept: self.records.len() as u64,
            ..Step::default()
        };
        if dropped > 0 {
            step.dropped.insert(reason.to_owned(), dropped);
        }
        self.provenance.steps.push(step);
        self
    }

    /// The records for which `keep` returns `true`. `operation` names the filter in the provenance,
    /// `reason` describes the dropped records.
    #[must_use]
    pub fn keep(
        mut self,
        operation: impl Into<String>,
        reason: &str,
        keep: impl FnMut(&T) -> bool,
    ) -> Self {
        let before = self.records.len();
        self.records.retain(keep);
        self.noting(operation, reason, before)
    }

    /// The records whose text has a number of characters in the range: Unicode scalar values, as
    /// Python counts.
    #[must_use]
    pub fn keep_characters(
        self,
        range: RangeInclusive<usize>,
        text: impl Fn(&T) -> Cow<'_, str>,
    ) -> Self {
        let operation = format!("{} to {} characters", range.start(), range.end());
        self.keep(operation, "too short or too long", |record| {
            range.contains(&text(record).chars().count())
        })
    }

    /// The records whose text has a number of tokens in the range, special tokens included or not.
    ///
    /// # Errors
    /// [`DataError::Codec`] when the tokenizer fails.
    pub fn keep_tokens(
        mut self,
        range: RangeInclusive<usize>,
        codec: &dyn TextCodec,
        specials: Specials,
        text: impl Fn(&T) -> Cow<'_, str> + Sync,
    ) -> Result<Self, DataError>
    where
        T: Record + Sync,
    {
        let fits = self
            .records
            .par_iter()
            .map(|record| match codec.encode(&text(record), specials) {
                Ok(ids) => Ok(range.contains(&ids.len())),
                Err(source) => Err(DataError::Codec { id: record.id().to_owned(), source }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let operation = format!("{} to {} tokens of {}", range.start(), range.end(), codec.name());
        let before = self.records.len();
        let mut fits = fits.into_iter();
        self.records.retain(|_| fits.next().unwrap_or(false));
        Ok(self.noting(operation, "too few or too many tokens", before))
    }

    /// The records, without those whose key an earlier record has.
    #[must_use]
    pub fn deduplicate(self, key: impl Fn(&T) -> Cow<'_, str>) -> Self {
        // 128 bits of hash stand for the key: among a billion records, a collision has a
        // probability below 1e-20.
        let mut seen = HashSet::with_capacity(self.records.len());
        self.keep("deduplicate", "duplicate", |record| {
            seen.insert(XxHash3_128::oneshot(key(record).as_bytes()))
        })
    }

    /// The first `count` records, or all if there are fewer.
    #[must_use]
    pub fn take(mut self, count: usize) -> Self {
        let before = self.records.len();
        self.records.truncate(count);
        self.noting(format!("take {count}"), "beyond the number taken", before)
    }

    /// Converts each record, in order, on all cores.
    pub fn map<U: Send>(self, change: impl Fn(T) -> U + Sync + Send) -> Dataset<U>
    where
        T: Send,
    {
        let records = self.records.into_par_iter().map(change).collect();
        Dataset { records, provenance: self.provenance }
    }

    /// Converts each record, in order, on all cores, or returns the first error in that order.
    ///
    /// # Errors
    /// The first error of `change`.
    pub fn try_map<U: Send, E: Send>(
        self,
        change: impl Fn(T) -> Result<U, E> + Sync + Send,
    ) -> Result<Dataset<U>, E>
    where
        T: Send,
    {
        let results: Vec<_> = self.records.into_par_iter().map(change).collect();
        let records = results.into_iter().collect::<Result<_, E>>()?;
        Ok(Dataset { records, provenance: self.provenance })
    }

    /// Batches in order.
    pub fn batches(&self, size: NonZeroUsize, remainder: Remainder) -> impl Iterator<Item = &[T]> {
        let whole = match remainder {
            Remainder::Keep => self.records.len(),
            Remainder::Drop => self.records.len() - self.records.len() % size,
        };
        self.records[..whole].chunks(size.get())
    }
}

//! A random order of records over many epochs, whose position can be saved.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use rlaif_core::{Record, Seed};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::dataset::Remainder;
use crate::error::DataError;

/// A random order of records, different in each epoch, without end.
///
/// It yields indices and borrows nothing, so it can live beside the records. The place of a record
/// in the order depends on its id, the seed and the epoch, not on its place in the data.
///
/// ```
/// use std::num::NonZeroUsize;
/// use rlaif_core::{PromptRecord, Seed};
/// use rlaif_data::{Remainder, Shuffle};
/// let records: Vec<_> = (0..10).map(|n| PromptRecord::new(n.to_string(), "?")).collect();
/// let mut order = Shuffle::new(&records, Seed::new(7))?;
/// let four = NonZeroUsize::new(4).unwrap();
/// let batch = order.next_batch(four, Remainder::Drop)?;
/// let saved = order.position();
/// let rest = order.next_batch(four, Remainder::Drop)?;
///
/// let mut resumed = Shuffle::new(&records, Seed::new(7))?;
/// resumed.resume(&saved)?;
/// assert_eq!(resumed.next_batch(four, Remainder::Drop)?, rest);
/// # Ok::<(), rlaif_data::DataError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Shuffle {
    /// A key for each record; records with the same id have different keys.
    keys: Vec<u64>,
    seed: Seed,
    grouping: Option<Grouping>,
    epoch: u64,
    at: usize,
    order: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Grouping {
    lengths: Vec<usize>,
    batch: usize,
    window: usize,
}

/// The position of a [`Shuffle`], as a checkpoint keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Number of records of the epoch that were yielded.
    pub at: u64,
    /// Fingerprint of the records, the seed and the grouping that the position belongs to.
    pub fingerprint: u64,
}

impl Shuffle {
    /// The order of these records for a seed, at its beginning.
    ///
    /// # Errors
    /// [`DataError::NothingToDraw`] when there are no records.
    pub fn new<T: Record>(records: &[T], seed: Seed) -> Result<Self, DataError> {
        if records.is_empty() {
            return Err(DataError::NothingToDraw { of: "the data to shuffle".to_owned() });
        }
        let mut occurrences: HashMap<&str, u64> = HashMap::with_capacity(records.len());
        let keys = records
            .iter()
            .map(|record| {
                // Keyed by the id alone, records that share an id would follow one another.
                let occurrence = occurrences.entry(record.id()).or_default();
                *occurrence += 1;
                XxHash3_64::oneshot_with_seed(*occurrence, record.id().as_bytes())
            })
            .collect();
        let mut shuffle = Self { keys, seed, grouping: None, epoch: 0, at: 0, order: Vec::new() };
        shuffle.arrange();
        Ok(shuffle)
    }

    /// The same order, rearranged so that batches of `batch` hold records of similar length. In
    /// every window of `window` consecutive batches, the records are sorted by length and cut into
    /// batches, which then come in random order. A wide window needs less padding, a narrow one is
    /// more random. Take batches of size `batch` only.
    ///
    /// # Errors
    /// [`DataError::Lengths`] unless there is exactly one length for each record.
    pub fn by_length(
        mut self,
        lengths: Vec<usize>,
        batch: NonZeroUsize,
        window: NonZeroUsize,
    ) -> Result<Self, DataError> {
        if lengths.len() != self.keys.len() {
            return Err(DataError::Lengths { lengths: lengths.len(), records: self.keys.len() });
        }
        let grouping = Grouping { lengths, batch: batch.get(), window: window.get() };
        self.grouping = Some(grouping);
        self.arrange();
        Ok(self)
    }

    /// The next batch of indices. Batches do not reach across epochs.
    ///
    /// # Errors
    /// [`DataError::BatchTooLarge`] when the remainder is dropped and an epoch is all remainder.
    pub fn next_batch(
        &mut self,
        size: NonZeroUsize,
        remainder: Remainder,
    ) -> Result<Vec<usize>, DataError> {
        let size = size.get();
        if remainder == Remainder::Drop {
            if size > self.order.len() {
                return Err(DataError::BatchTooLarge { size, records: self.order.len() });
            }
            if self.order.len() - self.at < size {
                self.turn_page();
            }
        }
        if self.at == self.order.len() {
            self.turn_page();
        }
        let end = self.order.len().min(self.at.saturating_add(size));
        let batch = self.order[self.at..end].to_vec();
        self.at = end;
        Ok(batch)
    }

    /// The position.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, at: self.at as u64, fingerprint: self.fingerprint() }
    }

    /// Continues from a saved position.
    ///
    /// # Errors
    /// [`DataError::Position`] when it was saved with other records, another seed or another
    /// grouping.
    pub fn resume(&mut self, position: &Position) -> Result<(), DataError> {
        let expected = self.fingerprint();
        let at = usize::try_from(position.at).ok().filter(|at| *at <= self.order.len());
        let (true, Some(at)) = (position.fingerprint == expected, at) else {
            return Err(DataError::Position { expected, found: position.fingerprint });
        };
        self.epoch = position.epoch;
        self.at = at;
        self.arrange();
        Ok(())
    }

    fn turn_page(&mut self) {
        self.epoch += 1;
        self.at = 0;
        self.arrange();
    }

    fn arrange(&mut self) {
        let seed = self.seed.derive("shuffle", self.epoch);
        let place = |key: u64| XxHash3_64::oneshot_with_seed(seed.get(), &key.to_le_bytes());
        self.order = (0..self.keys.len()).collect();
        // Equal keys, which are next to impossible, keep the order of the data.
        self.order.sort_by_cached_key(|&index| place(self.keys[index]));
        let Some(Grouping { lengths, batch, window }) = &self.grouping else { return };
        // The remainder is chosen at random, not by length.
        let whole = self.order.len() - self.order.len() % batch;
        for (number, records) in
            self.order[..whole].chunks_mut(batch.saturating_mul(*window)).enumerate()
        {
            records.sort_by_key(|&index| lengths[index]);
            let seed = seed.derive("batches", number as u64);
            let mut batches: Vec<_> = (0..)
                .zip(records.chunks(*batch))
                .map(|(nth, records)| (seed.derive("batch", nth).get(), records.to_vec()))
                .collect();
            batches.sort_by_key(|(place, _)| *place);
            let sorted: Vec<usize> = batches.into_iter().flat_map(|(_, batch)| batch).collect();
            records.copy_from_slice(&sorted);
        }
    }

    /// Independent of the order of the records.
    fn fingerprint(&self) -> u64 {
        let mut sum = self.seed.derive("fingerprint", self.keys.len() as u64).get();
        for (index, key) in self.keys.iter().enumerate() {
            let length = self.grouping.as_ref().map_or(0, |g| g.lengths[index] as u64);
            sum = sum.wrapping_add(XxHash3_64::oneshot_with_seed(length, &key.to_le_bytes()));
        }
        let (batch, window) = self.grouping.as_ref().map_or((0, 0), |g| (g.batch, g.window));
        Seed::new(sum).derive("batch", batch as u64).derive("window", window as u64).get()
    }
}

impl Iterator for Shuffle {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.at == self.order.len() {
            self.turn_page();
        }
        let index = self.order[self.at];
        self.at += 1;
        Some(index)
    }
}

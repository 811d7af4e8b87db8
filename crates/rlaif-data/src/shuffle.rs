//! A random order of records, epoch after epoch, whose position can be saved.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use rlaif_core::{Record, Seed};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::dataset::Remainder;
use crate::error::DataError;

/// A random order of records, another one in each epoch, without end.
///
/// It hands out indices and borrows nothing, so it can live beside the records. Where a record
/// stands in the order depends on its id, the seed and the epoch, not on where it stands in the
/// data.
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
    /// One for each record; records with the same id have different ones.
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

/// How far a [`Shuffle`] is; what a checkpoint keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// How many records of the epoch were handed out.
    pub at: u64,
    /// Tells whether records, seed and grouping are those the position was saved with.
    pub fingerprint: u64,
}

impl Shuffle {
    /// The order of these records under that seed, at its beginning.
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
                // By the id alone, records that share one would follow one another.
                let occurrence = occurrences.entry(record.id()).or_default();
                *occurrence += 1;
                XxHash3_64::oneshot_with_seed(*occurrence, record.id().as_bytes())
            })
            .collect();
        let mut shuffle = Self { keys, seed, grouping: None, epoch: 0, at: 0, order: Vec::new() };
        shuffle.arrange();
        Ok(shuffle)
    }

    /// The same order, but rearranged so that batches of `batch` hold records of similar length:
    /// of every `window` batches that follow one another, the records are sorted by length and cut
    /// into batches, which then come in random order. A wide window pads less, a narrow one is
    /// more random. Take batches of that size only.
    ///
    /// # Errors
    /// [`DataError::Lengths`] unless there is one length for each record.
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

    /// How far it is.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, at: self.at as u64, fingerprint: self.fingerprint() }
    }

    /// Goes on from a saved position.
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
        // Keys that meet, of which there is next to no chance, stay in the order of the data.
        self.order.sort_by_cached_key(|&index| place(self.keys[index]));
        let Some(Grouping { lengths, batch, window }) = &self.grouping else { return };
        // Which records are the remainder is left to chance, not to length.
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

    /// The same however the records are ordered, since the order they are put into is.
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

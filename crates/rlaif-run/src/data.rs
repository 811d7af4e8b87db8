//! `[data]`: the rows, and their order.

use std::num::NonZeroUsize;

use rlaif_core::{BadSetting, Record, Seed};
use rlaif_data::{
    DataError, Dataset, Fraction, ImportOptions, ImportedRow, Position, Reader, Remainder, Shuffle,
    corpora::Corpus,
};
use rlaif_lm::LmSpec;
use rlaif_train::{Batches, TrainError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    columns::dropped,
    error::RunError,
    place,
    rows::{RowReader, read_as},
    skipped::SkippedRows,
    source::source,
};

/// Training and evaluation rows: files of JSON Lines, CSV or Parquet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// A file, or a pattern such as `shards/*.jsonl`.
    pub train: String,
    /// The same for evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<String>,
    /// Without `held_out`: the share of the training rows to use for evaluation; 0 for none.
    #[serde(default)]
    pub held_out_fraction: f64,
    /// Maximum number of held-out rows; 0 for all.
    #[serde(default)]
    pub held_out_rows: usize,
    /// Rows are truncated to this many tokens.
    #[serde(default = "DataSection::max_tokens")]
    pub max_tokens: usize,
    /// Choices that the data sets leave open.
    #[serde(default)]
    pub import: ImportOptions,
}

/// The rows that [`DataSection::read`] found.
#[derive(Debug)]
pub struct DataRows<R> {
    /// Training rows.
    pub train: Vec<R>,
    /// Evaluation rows.
    pub held_out: Vec<R>,
    /// Counts of the other rows of the training file.
    pub skipped: SkippedRows,
    /// Sentences on the form of the rows, for the log.
    pub read_as: Vec<String>,
}

impl<R> DataRows<R> {
    /// Converts each row.
    #[must_use]
    pub fn map<S>(self, mut of: impl FnMut(R) -> S) -> DataRows<S> {
        DataRows {
            train: self.train.into_iter().map(&mut of).collect(),
            held_out: self.held_out.into_iter().map(&mut of).collect(),
            skipped: self.skipped,
            read_as: self.read_as,
        }
    }
}

impl DataSection {
    fn max_tokens() -> usize {
        512
    }

    /// Reads the training rows and the held-out rows.
    ///
    /// # Errors
    /// [`RunError::Data`].
    pub fn read<C: Corpus + Clone>(
        &self,
        corpus: &C,
        seed: Seed,
    ) -> Result<DataRows<C::Record>, RunError>
    where
        C::Record: Record,
    {
        let of_corpus =
            |path: &str| Ok((Reader::new(source(path)?).dataset(corpus.clone())?, String::new()));
        self.split(seed, of_corpus)
    }

    /// Reads rows by their form. [`DataRows::read_as`] has sentences on the form.
    ///
    /// # Errors
    /// [`RunError::Data`].
    pub(crate) fn import<T: ImportedRow>(
        &self,
        reader: &RowReader,
        seed: Seed,
    ) -> Result<DataRows<T>, RunError> {
        self.split(seed, |path| {
            let (rows, form) = reader.read(path)?;
            Ok((rows, read_as(path, form)))
        })
    }

    /// Reads the training rows and the held-out rows. `read` returns the rows of a file, with a
    /// sentence on their form.
    ///
    /// # Errors
    /// Those of `read`; [`RunError::Setting`].
    pub(crate) fn split<R: Record>(
        &self,
        seed: Seed,
        read: impl Fn(&str) -> Result<(Dataset<R>, String), RunError>,
    ) -> Result<DataRows<R>, RunError> {
        if self.max_tokens == 0 {
            return Err(BadSetting::new("data.max_tokens", 0, "at least 1").into());
        }
        let (all, form) = read(&self.train)?;
        let mut read_as = vec![form];
        let skipped = dropped(&all);
        let (train, mut held_out) = match (&self.held_out, self.held_out_fraction) {
            (Some(path), _) => {
                let (held_out, form) = read(path)?;
                read_as.push(form);
                (all.into_records(), held_out.into_records())
            }
            (None, 0.) => (all.into_records(), Vec::new()),
            (None, share) => {
                let split = all.split(Fraction::new(share)?, seed)?;
                (split.train.into_records(), split.held_out.into_records())
            }
        };
        if self.held_out_rows > 0 {
            held_out.truncate(self.held_out_rows);
        }
        if train.is_empty() {
            let found = format!("`{}`, of which no row is left ({skipped})", self.train);
            return Err(BadSetting::new("data.train", found, "at least one row").into());
        }
        read_as.retain(|said| !said.is_empty());
        Ok(DataRows { train, held_out, skipped, read_as })
    }

    /// The files of the rows.
    pub(crate) fn files(&self) -> Vec<&str> {
        std::iter::once(&self.train).chain(&self.held_out).map(String::as_str).collect()
    }

    /// `FILE, line N` of the row that became the record with this id, or the id if the files have
    /// changed.
    pub(crate) fn place<C: Corpus + Clone>(&self, corpus: &C, id: &str) -> String
    where
        C::Record: Record,
    {
        place::of(&self.files(), corpus, id)
    }

    /// Maximum number of tokens of a row for this model.
    pub fn limit(&self, spec: &LmSpec) -> usize {
        spec.context.map_or(self.max_tokens, |context| context.min(self.max_tokens))
    }

    /// Returns the locations that may be local files.
    pub fn locations(&mut self) -> Vec<&mut String> {
        [Some(&mut self.train), self.held_out.as_mut()].into_iter().flatten().collect()
    }
}

/// Batches of shuffled rows, in a new order in each epoch.
///
/// ```
/// use rlaif_core::{PromptRecord, Seed};
/// use rlaif_run::ShuffledBatches;
/// use rlaif_train::Batches;
/// let rows: Vec<_> = (0..10).map(|n| PromptRecord::new(n.to_string(), "?")).collect();
/// let mut batches = ShuffledBatches::new(&rows, 4, Seed::new(7))?;
/// let first: Vec<_> = (0..3).map(|step| batches.batch(step)).collect::<Result<_, _>>()?;
/// assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
/// assert_eq!(batches.batch(1)?, first[1]); // whatever came before
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ShuffledBatches {
    shuffle: Shuffle,
    rows: usize,
    size: NonZeroUsize,
    remainder: Remainder,
}

impl ShuffledBatches {
    /// Batches of `size` of these records.
    ///
    /// # Errors
    /// [`RunError::Data`] without records, [`RunError::Setting`] for batches of 0.
    pub fn new<T: Record>(records: &[T], size: usize, seed: Seed) -> Result<Self, RunError> {
        let size = NonZeroUsize::new(size)
            .ok_or_else(|| BadSetting::new("train.batch_size", 0, "at least 1"))?;
        let (shuffle, rows) = (Shuffle::new(records, seed)?, records.len());
        Ok(Self { shuffle, rows, size, remainder: Remainder::Keep })
    }

    /// Leaves out the rows of each epoch that do not fill a batch.
    ///
    /// # Errors
    /// [`RunError::Data`] if there are fewer rows than in a batch.
    pub fn whole(mut self) -> Result<Self, RunError> {
        let (size, records) = (self.size.get(), self.rows);
        if size > records {
            return Err(DataError::BatchTooLarge { size, records }.into());
        }
        self.remainder = Remainder::Drop;
        Ok(self)
    }

    /// Rows of an epoch.
    fn per_epoch(&self) -> u64 {
        let (rows, size) = (self.rows as u64, self.size.get() as u64);
        match self.remainder {
            Remainder::Keep => rows,
            Remainder::Drop => rows - rows % size,
        }
    }
}

impl Batches for ShuffledBatches {
    fn batch(&mut self, step: u64) -> Result<Vec<usize>, TrainError> {
        let rows = self.per_epoch();
        let per_epoch = rows.div_ceil(self.size.get() as u64);
        let data = |source: DataError| TrainError::Data {
            what: "the order of rows".to_owned(),
            problem: source.to_string(),
        };
        let now = self.shuffle.position();
        let (epoch, at) = (step / per_epoch, step % per_epoch * self.size.get() as u64);
        // The shuffle starts a new epoch by itself.
        let follows = (now.epoch, now.at) == (epoch, at)
            || (at == 0 && now.epoch + 1 == epoch && now.at == rows);
        if !follows {
            let position = Position { epoch, at, fingerprint: now.fingerprint };
            self.shuffle.resume(&position).map_err(data)?;
        }
        self.shuffle.next_batch(self.size, self.remainder).map_err(data)
    }

    fn fingerprint(&self) -> u64 {
        Seed::new(self.shuffle.position().fingerprint).derive("size", self.size.get() as u64).get()
    }
}

#[cfg(test)]
mod tests {
    use rlaif_core::PromptRecord;

    use super::*;

    /// Batches of equal size follow the order of the shuffle, from any step.
    #[test]
    fn whole_batches_are_those_of_the_shuffle() {
        let rows: Vec<_> = (0..10).map(|n| PromptRecord::new(n.to_string(), "?")).collect();
        let (seed, size) = (Seed::new(7), NonZeroUsize::new(4).unwrap());
        let mut shuffle = Shuffle::new(&rows, seed).unwrap();
        let expected: Vec<_> =
            (0..7).map(|_| shuffle.next_batch(size, Remainder::Drop).unwrap()).collect();
        let mut batches = ShuffledBatches::new(&rows, 4, seed).unwrap().whole().unwrap();
        let found: Vec<_> = (0..7).map(|step| batches.batch(step).unwrap()).collect();
        assert_eq!(found, expected);
        for step in [5, 6, 2, 3, 4] {
            assert_eq!(batches.batch(step).unwrap(), expected[step as usize]);
        }
        let few = ShuffledBatches::new(&rows, 11, seed).unwrap().whole();
        assert!(matches!(few, Err(RunError::Data(DataError::BatchTooLarge { .. }))));
    }
}

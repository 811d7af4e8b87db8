//! The file and line of a record.

use crate::corpora::{Corpus, Outcome};
use crate::error::DataError;
use crate::read::Reader;
use crate::row::Row;

/// A corpus of the places of some records of another one.
struct Places<C, F> {
    corpus: C,
    is_wanted: F,
}

impl<C, F> Corpus for Places<C, F>
where
    C: Corpus,
    F: Fn(&C::Record) -> bool + Send + Sync + 'static,
{
    type Record = String;

    fn name(&self) -> String {
        format!("places of {}", self.corpus.name())
    }

    fn record(&self, row: Row<'_>) -> Result<Outcome<String>, DataError> {
        let place = format!("{}, line {}", row.source_name(), row.line());
        Ok(match self.corpus.record(row)? {
            Outcome::Kept(record) | Outcome::Noted(record, _) if (self.is_wanted)(&record) => {
                Outcome::Kept(place)
            }
            Outcome::Kept(_) | Outcome::Noted(..) | Outcome::Dropped(_) => {
                Outcome::Dropped("another row")
            }
        })
    }
}

/// `FILE, line N` of the first row that becomes a wanted record; `None` if there is none.
///
/// The files are read again: an error is rare, and a place kept with every row would cost each run
/// its memory.
///
/// ```
/// use rlaif_data::{Reader, Source, corpora::PairColumns, place_of};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("pairs.jsonl");
/// std::fs::write(&path, r#"{"prompt":"Why?","chosen":"Because.","rejected":"So."}"#)?;
/// let place = place_of(Reader::new(Source::file(&path)?), PairColumns::default(), |pair| {
///     pair.prompt == "Why?"
/// });
/// assert_eq!(place.unwrap(), format!("{}, line 1", path.display()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn place_of<C: Corpus>(
    reader: Reader,
    corpus: C,
    is_wanted: impl Fn(&C::Record) -> bool + Send + Sync + 'static,
) -> Option<String> {
    reader.stream(Places { corpus, is_wanted }).next()?.ok()
}

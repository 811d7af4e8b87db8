//! The file and line of a row that cannot be used for training.

use rlaif_core::Record;
use rlaif_data::{
    DataError, Reader, Row,
    corpora::{Corpus, Outcome},
};

use crate::source::source;

/// The places of the rows that become the record of this id.
struct Sought<C> {
    corpus: C,
    id: String,
}

impl<C: Corpus> Corpus for Sought<C>
where
    C::Record: Record,
{
    type Record = String;

    fn name(&self) -> String {
        format!("the place of `{}`", self.id)
    }

    fn record(&self, row: Row<'_>) -> Result<Outcome<String>, DataError> {
        let place = format!("{}, line {}", row.source_name(), row.line());
        Ok(match self.corpus.record(row)? {
            Outcome::Kept(record) | Outcome::Noted(record, _) if record.id() == self.id => {
                Outcome::Kept(place)
            }
            _ => Outcome::Dropped("another row"),
        })
    }
}

/// `FILE, line N` of the first row that becomes the record of this id, or the id where no file holds
/// it any longer. They are read again: an error is rare, and a place kept with every row would cost
/// each run its memory.
pub(crate) fn of<C: Corpus + Clone>(files: &[&str], corpus: &C, id: &str) -> String
where
    C::Record: Record,
{
    let find = |path: &&str| {
        let sought = Sought { corpus: corpus.clone(), id: id.to_owned() };
        Reader::new(source(path).ok()?).stream(sought).next()?.ok()
    };
    files.iter().find_map(find).unwrap_or_else(|| format!("row `{id}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlaif_data::corpora::PairColumns;

    #[test]
    fn a_row_is_found_by_its_id_in_whichever_file_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let row = |prompt: &str| {
            format!("{{\"prompt\":\"{prompt}\",\"chosen\":\"a\",\"rejected\":\"b\"}}\n")
        };
        let one = folder.path().join("1.jsonl");
        let two = folder.path().join("2.jsonl");
        std::fs::write(&one, [row("p"), "\n".to_owned(), row("q")].concat()).unwrap();
        std::fs::write(&two, [row("r"), row("s")].concat()).unwrap();
        let pattern = folder.path().join("*.jsonl").display().to_string();
        let corpus = PairColumns::default();
        let records = |path: &std::path::Path| {
            let path = path.display().to_string();
            Reader::new(source(&path).unwrap()).dataset(corpus.clone()).unwrap().into_records()
        };
        let found = |id: &str| of(&["gone.jsonl", &pattern], &corpus, id);
        assert_eq!(found(&records(&one)[1].id), format!("{}, line 3", one.display()));
        assert_eq!(found(&records(&two)[1].id), format!("{}, line 2", two.display()));
        assert_eq!(found("none"), "row `none`");
    }
}

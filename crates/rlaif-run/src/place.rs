//! The file and line of a row that cannot be used for training.

use rlaif_core::Record;
use rlaif_data::{Reader, corpora::Corpus, place_of};

use crate::source::source;

/// `FILE, line N` of the first row that becomes the record of this id, or the id where no file holds
/// it any longer.
pub(crate) fn of<C: Corpus + Clone>(files: &[&str], corpus: &C, id: &str) -> String
where
    C::Record: Record,
{
    let find = |path: &&str| {
        let id = id.to_owned();
        place_of(Reader::new(source(path).ok()?), corpus.clone(), move |record| record.id() == id)
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

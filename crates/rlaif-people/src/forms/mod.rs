//! Answers in the forms of other tools: Label Studio, Argilla, SageMaker Ground Truth.

mod argilla;
mod ground_truth;
mod label_studio;
mod parts;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rlaif_core::FileAction;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{error::PeopleError, item::StudyItem, store::Annotator, store::StudyContents};
use argilla::{argilla, is_argilla, of_argilla};
use ground_truth::{ground_truth, of_ground_truth};
use label_studio::{label_studio, of_label_studio};
use parts::Given;
pub use parts::{ReadAnswer, ReadAnswers, StudyForm};
use rows::{AnswerRow, is_answer_row, is_label, of_answer_row, of_label};

/// A study's answers as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenAnswers {
    /// The content of the file.
    pub text: String,
    /// Items that the file does not have: other tools have no place for an item without an answer.
    pub unanswered: usize,
}

impl WrittenAnswers {
    /// Content that the form has no place for, with its count, in a sentence; `None` if everything is there.
    pub fn left_out(&self) -> Option<String> {
        let found = match self.unanswered {
            0 => return None,
            1 => "1 item without an answer (the format `answers` has it)".to_owned(),
            count => format!("{count} items without an answer (the format `answers` has them)"),
        };
        Some(format!("not in this form: {found}"))
    }
}

/// The answers of a study in a form that [`read_answers`] reads.
///
/// [`StudyForm::Answers`] has all items, answers and roles. The other forms have all of them except for items
/// without an answer: the parts that a tool has no place for are in its metadata, as `rlaif`.
pub fn write_answers(study: &StudyContents, form: StudyForm) -> WrittenAnswers {
    let people: BTreeMap<i64, &Annotator> =
        study.annotators.iter().map(|who| (who.number, who)).collect();
    let mut by_item: BTreeMap<i64, Vec<Given<'_>>> = BTreeMap::new();
    for stored in &study.answers {
        if let Some(who) = people.get(&stored.annotator) {
            by_item.entry(stored.item).or_default().push((who, stored));
        }
    }
    let items = study.items.iter().map(|(number, item)| {
        (*number, item, by_item.get(number).map(Vec::as_slice).unwrap_or_default())
    });
    let unanswered = items.clone().filter(|(_, _, answers)| answers.is_empty()).count();
    let rows = items.clone().filter(|(_, _, answers)| !answers.is_empty());
    let text = match form {
        StudyForm::Answers => {
            let of = |(_, item, answers): (i64, &StudyItem, &[Given<'_>])| {
                let alone = answers.is_empty().then(|| AnswerRow::of(item, None));
                let answers = answers.iter().map(|given| AnswerRow::of(item, Some(given)));
                answers.chain(alone).collect::<Vec<_>>()
            };
            return WrittenAnswers { text: lines(items.flat_map(of)), unanswered: 0 };
        }
        StudyForm::LabelStudio => {
            let mut next = 1;
            let tasks = rows.map(|(number, item, answers)| {
                let first = next;
                next += answers.len() as u64;
                label_studio(number, item, answers, first)
            });
            format!("{:#}\n", tasks.collect::<Value>())
        }
        StudyForm::Argilla => {
            let records = rows.map(|(_, item, answers)| argilla(item, answers));
            format!("{:#}\n", records.collect::<Value>())
        }
        StudyForm::GroundTruth => lines(rows.map(|(_, item, answers)| ground_truth(item, answers))),
    };
    WrittenAnswers { text, unanswered }
}

/// Writes a file whole or not at all.
///
/// # Errors
/// [`PeopleError::Io`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), PeopleError> {
    rlaif_files::write_bytes(path, bytes).map_err(|source| PeopleError::Io {
        action: FileAction::Write,
        path: path.to_owned(),
        source,
    })
}

fn lines(rows: impl Iterator<Item = impl Serialize>) -> String {
    let rows = rows.filter_map(|row| serde_json::to_string(&row).ok());
    rows.map(|row| row + "\n").collect()
}

/// Reads answers in any of the forms, which its content tells.
///
/// # Errors
/// [`PeopleError::Io`]; [`PeopleError::Row`] with the row that has none of the forms.
///
/// ```
/// use rlaif_people::{PeopleChoice, read_answers};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("export.json");
/// std::fs::write(&path, r#"[{"id": 1, "data": {"prompt": "Why?", "answer1": "Because.", "answer2": "No."},
///     "annotations": [{"completed_by": 3, "result": [
///         {"from_name": "pw", "to_name": "answer1,answer2", "type": "pairwise", "value": {"selected": "right"}}]}]}]"#)?;
/// let read = read_answers(&path)?;
/// assert_eq!(read.items[0].responses[1].text, "No.");
/// assert_eq!((read.answers[0].annotator.as_str(), read.answers[0].answer.choice), ("user 3", PeopleChoice::Second));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_answers(path: &Path) -> Result<ReadAnswers, PeopleError> {
    let bytes = std::fs::read(path).map_err(|source| PeopleError::Io {
        action: FileAction::Read,
        path: path.to_owned(),
        source,
    })?;
    let source_name = path.display().to_string();
    let fault = |row: usize, problem: String| PeopleError::Row {
        source_name: source_name.clone(),
        row,
        problem,
    };
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let rows: Vec<Value> = if bytes.trim_ascii_start().starts_with(b"[") {
        serde_json::from_slice(bytes).map_err(|e| fault(e.line(), format!("not JSON: {e}")))?
    } else {
        let lines = bytes.split(|&byte| byte == b'\n').enumerate();
        let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
        let row = |(at, line): (usize, &[u8])| {
            serde_json::from_slice(line).map_err(|e| fault(at + 1, format!("not JSON: {e}")))
        };
        lines.map(row).collect::<Result<_, _>>()?
    };
    let mut read = ReadAnswers::default();
    let mut known = BTreeSet::new();
    for (at, row) in rows.into_iter().enumerate() {
        let is_label = is_label(&row);
        let (item, answers) = of_row(row, at).map_err(|problem| fault(at + 1, problem))?;
        for answer in &answers {
            let checked = answer.check(item.responses.len());
            checked
                .map_err(|e| fault(at + 1, format!("the answer of {}: {e}", answer.annotator)))?;
        }
        read.answers.extend(answers);
        if is_label {
            read.labelled.insert(item.id.clone());
        }
        if known.insert(item.id.clone()) {
            read.items.push(item);
        }
    }
    Ok(read)
}

fn of_row(row: Value, at: usize) -> parts::Found {
    if row.get("annotations").is_some() && row.get("data").is_some() {
        return of_label_studio(&row);
    }
    if is_answer_row(&row) {
        return of_answer_row(row);
    }
    if is_label(&row) {
        return of_label(row, at);
    }
    if row.get("source").is_some() {
        return of_ground_truth(&row);
    }
    if is_argilla(&row) {
        return of_argilla(&row);
    }
    let keys: Vec<&str> =
        row.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
    Err(format!(
        "the columns {} are none of Label Studio's (`data`, `annotations`), Argilla's \
         (`fields`, `responses`, or `preference.responses`), Ground Truth's (`source`), of labels (`chosen`, `rejected`), or of an export \
         (`annotator`, `answer`)",
        keys.join(", ")
    ))
}

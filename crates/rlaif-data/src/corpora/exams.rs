//! The published exams for reward models and judges, in the columns of their files.

use rlaif_core::{AskedPair, ExamName, ExamQuestion, PromptRecord, Reply, TextOrMessages};
use serde_json::{Map, Value};

use super::{Corpus, Outcome, Typed, end_of_prompt};
use crate::error::DataError;
use crate::read::Reader;
use crate::row::{Row, content_id};
use crate::source::Source;

/// Count of rows that tell which exam a file is.
const LOOKED_AT: usize = 8;

/// The questions of RewardBench, RewardBench 2, JudgeBench and HHH.
///
/// | exam | columns |
/// |---|---|
/// | RewardBench | `prompt`, `chosen`, `rejected`, `subset`; `chosen_model`, `rejected_model`, `id` |
/// | RewardBench 2 | `prompt`, `chosen` and `rejected` (lists), `subset`, `id`; `models` |
/// | JudgeBench | `question`, `response_A`, `response_B`, `label`, `source`; `pair_id`, `response_model` |
/// | HHH | `text_correct`, `text_incorrect` (dialogues); or `input` and `targets` of `choices` and `labels` |
///
/// Preference pairs of any other file are read by [`Import`](crate::Import).
///
/// ```
/// use rlaif_core::ExamName;
/// use rlaif_data::{Reader, Source, corpora::Exams};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("judgebench.jsonl");
/// # std::fs::write(&path, r#"{"pair_id":"7","source":"livebench-math","question":"2 + 2?","response_model":"m","response_A":"5","response_B":"4","label":"B>A"}"#)?;
/// let source = Source::file(path)?;
/// assert_eq!(Exams::find(&source)?, Some(ExamName::JudgeBench));
/// let questions = Reader::new(source).dataset(Exams::of(ExamName::JudgeBench))?;
/// assert_eq!(questions.records()[0].right[0].text, "4");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exams {
    exam: ExamName,
}

impl Exams {
    /// The questions of this exam.
    pub fn of(exam: ExamName) -> Self {
        Self { exam }
    }

    /// Tells by the columns which exam a file is; `None` for other files. The source is read twice:
    /// not for standard input.
    ///
    /// # Errors
    /// The errors of reading.
    pub fn find(source: &Source) -> Result<Option<ExamName>, DataError> {
        let rows = Reader::new(source.clone()).stream(Typed::<Map<String, Value>>::new());
        for row in rows.take(LOOKED_AT) {
            let row = row?;
            let all = |columns: &[&str]| columns.iter().all(|column| row.contains_key(*column));
            let lists = ["chosen", "rejected"].iter().all(|column| {
                row.get(*column)
                    .and_then(Value::as_array)
                    .is_some_and(|answers| answers.first().is_some_and(|answer| answer.is_string()))
            });
            let found = if all(&["prompt", "chosen", "rejected", "subset"]) && lists {
                ExamName::RewardBench2
            } else if all(&["prompt", "chosen", "rejected", "subset", "chosen_model"]) {
                ExamName::RewardBench
            } else if all(&["question", "response_A", "response_B", "label"]) {
                ExamName::JudgeBench
            } else if all(&["text_correct", "text_incorrect"]) || all(&["input", "targets"]) {
                ExamName::Hhh
            } else {
                continue;
            };
            return Ok(Some(found));
        }
        Ok(None)
    }
}

fn said(row: &mut Row<'_>, column: &str) -> Result<TextOrMessages, DataError> {
    let value = row.take(column)?;
    serde_json::from_value::<TextOrMessages>(value.clone())
        .map_err(|_| row.wrong_type(column, "a text, or a list of messages", &value))
}

fn texts(row: &mut Row<'_>, column: &str) -> Result<Vec<String>, DataError> {
    let value = row.take(column)?;
    let texts = value.as_array().and_then(|answers| {
        answers.iter().map(|answer| answer.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    match texts.filter(|texts| !texts.is_empty()) {
        Some(texts) => Ok(texts),
        None => Err(row.wrong_type(column, "a list of at least one text", &value)),
    }
}

/// The id of the row, or else the hash of its content.
fn id(row: &mut Row<'_>, column: &str, content: &[&str]) -> Result<String, DataError> {
    let named = row.has(column).then_some(column);
    row.identity(named, content)
}

impl Corpus for Exams {
    type Record = ExamQuestion;

    fn name(&self) -> String {
        self.exam.title().to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<ExamQuestion>, DataError> {
        let row = &mut row;
        let question = match self.exam {
            ExamName::RewardBench | ExamName::Pairs => reward_bench(row)?,
            ExamName::RewardBench2 => reward_bench_2(row)?,
            ExamName::JudgeBench => return judge_bench(row),
            ExamName::Hhh => hhh(row)?,
        };
        Ok(Outcome::Kept(question))
    }
}

fn reward_bench(row: &mut Row<'_>) -> Result<ExamQuestion, DataError> {
    let prompt = said(row, "prompt")?;
    let [right, wrong] = [("chosen", "chosen_model"), ("rejected", "rejected_model")].map(
        |(answer, maker)| -> Result<Reply, DataError> {
            Ok(Reply::from(said(row, answer)?).by(row.optional_text(maker)?))
        },
    );
    let (chosen, rejected) = (right?, wrong?);
    let id = id(row, "id", &[&prompt.readable(), &chosen.text, &rejected.text])?;
    let subset = row.optional_text("subset")?.unwrap_or_default();
    let pair = AskedPair { record: PromptRecord::asked(id, prompt), chosen, rejected };
    Ok(ExamQuestion { subset, ..pair.into() })
}

fn reward_bench_2(row: &mut Row<'_>) -> Result<ExamQuestion, DataError> {
    let prompt = said(row, "prompt")?;
    let (right, wrong) = (texts(row, "chosen")?, texts(row, "rejected")?);
    let subset = row.text("subset")?;
    let number = row.identity(Some("id"), &[])?;
    let makers = row.get("models").and_then(Value::as_array);
    // Where there is one for each answer.
    let makers: Vec<Option<String>> = makers
        .filter(|makers| makers.len() == right.len() + wrong.len())
        .map(|makers| makers.iter().map(|maker| maker.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    let maker = |at: usize| makers.get(at).cloned().flatten();
    let from = right.len();
    let answers = |texts: Vec<String>, from: usize| {
        let answer = |(at, text): (usize, String)| Reply::from(text).by(maker(from + at));
        texts.into_iter().enumerate().map(answer).collect()
    };
    let (right, wrong) = (answers(right, 0), answers(wrong, from));
    Ok(ExamQuestion {
        record: PromptRecord::asked(number, prompt),
        subset,
        right,
        wrong,
        right_is_first: None,
        votes: Vec::new(),
    })
}

fn judge_bench(row: &mut Row<'_>) -> Result<Outcome<ExamQuestion>, DataError> {
    let prompt = row.text("question")?;
    let maker = row.optional_text("response_model")?;
    let [a, b] = ["response_A", "response_B"].map(|column| row.text(column));
    let answer = |text: String| Reply::new(text).by(maker.clone());
    let (a, b) = (answer(a?), answer(b?));
    let id = id(row, "pair_id", &[&prompt, &a.text, &b.text])?;
    let label = row.text("label")?;
    let (first, right, wrong) = match label.as_str() {
        "A>B" => (true, a, b),
        "B>A" => (false, b, a),
        "A=B" => return Ok(Outcome::Dropped("a tie")),
        _ => return Err(row.wrong_type("label", "`A>B` or `B>A`", &label.into())),
    };
    let subset = row.optional_text("source")?.unwrap_or_default();
    let pair = AskedPair::new(id, prompt, right, wrong);
    Ok(Outcome::Kept(ExamQuestion { subset, right_is_first: Some(first), ..pair.into() }))
}

fn hhh(row: &mut Row<'_>) -> Result<ExamQuestion, DataError> {
    let subset = row.optional_text("subset")?.unwrap_or_default();
    let (prompt, right, wrong) = if row.has("text_correct") {
        let (right, wrong) = (row.text("text_correct")?, row.text("text_incorrect")?);
        let Some(at) = end_of_prompt(&right, &wrong) else {
            let expected = "a dialogue that begins as `text_correct` does, up to a turn of the \
                            assistant";
            return Err(row.wrong_type("text_incorrect", expected, &wrong.into()));
        };
        // The space behind the marker belongs to the answer, as in HH's pairs.
        (right[..at].to_owned(), right[at..].to_owned(), wrong[at..].to_owned())
    } else {
        let prompt = row.text("input")?;
        let targets = row.take("targets")?;
        let expected = "an object of two `choices` and their `labels`, one 1 and one 0";
        let choices = targets["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
        let labels = targets["labels"].as_array().map(Vec::as_slice).unwrap_or_default();
        let (right, wrong) = match (choices, labels) {
            ([Value::String(a), Value::String(b)], [la, lb]) => match (la.as_i64(), lb.as_i64()) {
                (Some(1), Some(0)) => (a, b),
                (Some(0), Some(1)) => (b, a),
                _ => return Err(row.wrong_type("targets", expected, &targets)),
            },
            _ => return Err(row.wrong_type("targets", expected, &targets)),
        };
        (prompt, right.trim().to_owned(), wrong.trim().to_owned())
    };
    let id = content_id(&[&prompt, &right, &wrong]);
    Ok(ExamQuestion { subset, ..AskedPair::new(id, prompt, right, wrong).into() })
}

//! Items from files: rows with responses, preference pairs in any form, reports of evaluations.

use std::{collections::BTreeMap, path::Path};

use rlaif_core::{Metadata, PairRow, Reply, TextOrMessages};
use rlaif_data::{Import, Reader, Source, corpora::Typed};
use rlaif_eval::{Report, SampleRow};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{answer::PeopleChoice, error::PeopleError, item::StudyItem};

/// The toxicity from which a row's texts are shown on demand only.
const TOXIC: f64 = 0.5;

/// A row of items, as `rlaif candidates` and other tools write them.
#[derive(Deserialize)]
struct ItemRow {
    id: Option<Value>,
    prompt: TextOrMessages,
    #[serde(alias = "candidates", alias = "completions")]
    responses: Vec<Reply>,
    #[serde(default)]
    known: Option<PeopleChoice>,
    #[serde(default)]
    toxic: bool,
    toxicity: Option<f64>,
    #[serde(flatten)]
    more: Metadata,
}

/// The use of the items of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemPurpose {
    /// Items to be answered. A row may have a known answer.
    Answer,
    /// Items that measure annotators: every row has a known answer, and that of a pair is its preference.
    Measure,
}

/// Items of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadItems {
    /// The items.
    pub items: Vec<StudyItem>,
    /// Rows that were left out because all their responses are equal, as those of two writers may be.
    pub equal_responses: usize,
}

/// Reads items: rows of `prompt` and `responses` (as `rlaif candidates` writes them), optionally with `id`,
/// `known` and `toxic`; or preference pairs in any form.
///
/// # Errors
/// [`PeopleError::Data`]; [`PeopleError::Row`] for a row of fewer than two responses, for a file whose rows all
/// have equal responses, and for a row without a known answer where `purpose` needs it.
pub fn read_items(path: &Path, purpose: ItemPurpose) -> Result<ReadItems, PeopleError> {
    let source = source(path)?;
    let rows = Reader::new(source.clone()).stream(Typed::<Map<String, Value>>::new());
    let first = rows.take(1).collect::<Result<Vec<_>, _>>()?.pop();
    let lists = ["responses", "candidates", "completions"];
    let has_responses = first.is_some_and(|row| {
        row.contains_key("prompt")
            && lists.iter().any(|name| row.get(*name).is_some_and(Value::is_array))
    });
    if !has_responses {
        let import = Import::find(&source)?;
        let rows = import.pairs(Reader::new(source))?.into_records();
        let items = rows.into_iter().map(|row| of_pair(row, purpose)).collect();
        return Ok(ReadItems { items, equal_responses: 0 });
    }
    let rows = Reader::new(source).dataset(Typed::<ItemRow>::new())?.into_records();
    let fault = |row: usize, problem: String| PeopleError::Row {
        source_name: path.display().to_string(),
        row,
        problem,
    };
    let rows_given = rows.len();
    let item = |(at, row): (usize, ItemRow)| {
        let mut responses: Vec<Reply> = Vec::new();
        let given = row.responses.len();
        for reply in row.responses {
            if !responses.iter().any(|known| known.says_as(&reply)) {
                responses.push(reply);
            }
        }
        if given < 2 {
            return Err(fault(at + 1, format!("{given} responses; give two that differ")));
        }
        if responses.len() < 2 {
            return Ok(None);
        }
        if purpose == ItemPurpose::Measure && row.known.is_none() {
            let problem = "no `known`; give first, second, tie or both-bad";
            return Err(fault(at + 1, problem.to_owned()));
        }
        let toxic = row.toxic || row.toxicity.is_some_and(|toxicity| toxicity >= TOXIC);
        let id = id_of(row.id, at);
        let known = row.known;
        let (prompt, metadata) = (row.prompt, row.more);
        Ok(Some(StudyItem { id, prompt, responses, known, toxic, metadata }))
    };
    let read = rows.into_iter().enumerate().map(item).collect::<Result<Vec<_>, PeopleError>>()?;
    let items: Vec<StudyItem> = read.into_iter().flatten().collect();
    if items.is_empty() && rows_given > 0 {
        let problem = "equal responses, as in all rows; give two that differ";
        return Err(fault(1, problem.to_owned()));
    }
    Ok(ReadItems { equal_responses: rows_given - items.len(), items })
}

fn source(path: &Path) -> Result<Source, PeopleError> {
    let text = path.to_string_lossy();
    let is_pattern = text.contains(['*', '?', '[']) && !path.exists();
    Ok(if is_pattern { Source::glob(&text)? } else { Source::file(path)? })
}

fn id_of(id: Option<Value>, at: usize) -> String {
    match id {
        Some(Value::String(id)) => id,
        Some(other) if !other.is_null() => other.to_string(),
        _ => (at + 1).to_string(),
    }
}

fn of_pair(row: PairRow, purpose: ItemPurpose) -> StudyItem {
    let reply = |text: TextOrMessages, maker: &str| {
        let maker = row.metadata.get(maker).and_then(Value::as_str).map(str::to_owned);
        reply_of(text).by(maker)
    };
    StudyItem {
        responses: vec![reply(row.chosen, "chosen_maker"), reply(row.rejected, "rejected_maker")],
        id: row.id,
        prompt: row.prompt,
        known: (purpose == ItemPurpose::Measure).then_some(PeopleChoice::First),
        toxic: false,
        metadata: Metadata::new(),
    }
}

fn reply_of(text: TextOrMessages) -> Reply {
    match text {
        TextOrMessages::Text(text) => Reply::new(text),
        messages @ TextOrMessages::Messages(_) => {
            let text = messages.readable();
            Reply { text, messages: messages.into_messages("assistant"), maker: None }
        }
    }
}

/// Reads items from the reports of evaluations: with one folder, responses before and after; with two, the
/// tuned policies' responses to the same prompts. Equal responses are left out.
///
/// # Errors
/// [`PeopleError::Eval`] for a folder without a report, [`PeopleError::Row`] for two reports without a common
/// prompt.
pub fn read_evaluations(
    folder: &Path,
    other: Option<&Path>,
) -> Result<Vec<StudyItem>, PeopleError> {
    let report = Report::read(&folder.join("report.json"))?;
    let name = |report: &Report, folder: &Path, tuned: bool| {
        let policy = if tuned { &report.policy } else { &report.baseline };
        match policy.policy.is_empty() {
            true => folder.display().to_string(),
            false => policy.policy.clone(),
        }
    };
    let item = |sample: &SampleRow, responses: [(&String, String); 2], toxic: bool| StudyItem {
        id: sample.id.clone(),
        prompt: sample.prompt.clone().into(),
        responses: responses.map(|(text, maker)| Reply::new(text).by(Some(maker))).to_vec(),
        known: None,
        toxic,
        metadata: Metadata::new(),
    };
    let folds = |sample: &SampleRow| sample.folds != rlaif_eval::Folds::default();
    let samples = &report.comparison().samples;
    let Some(other) = other else {
        let pairs = samples.iter().filter(|sample| sample.before != sample.after).map(|sample| {
            let before = (&sample.before, name(&report, folder, false));
            item(sample, [before, (&sample.after, name(&report, folder, true))], folds(sample))
        });
        return Ok(numbered(pairs));
    };
    let second = Report::read(&other.join("report.json"))?;
    let mut names = [name(&report, folder, true), name(&second, other, true)];
    if names[0] == names[1] {
        names = [folder, other].map(|folder| folder.display().to_string());
    }
    let known: BTreeMap<(&str, &str), &SampleRow> = second
        .comparison()
        .samples
        .iter()
        .map(|sample| ((sample.id.as_str(), sample.prompt.as_str()), sample))
        .collect();
    let pairs = samples.iter().filter_map(|sample| {
        let partner = known.get(&(sample.id.as_str(), sample.prompt.as_str()))?;
        let responses = [(&sample.after, names[0].clone()), (&partner.after, names[1].clone())];
        let toxic = folds(sample) || folds(partner);
        (sample.after != partner.after).then(|| item(sample, responses, toxic))
    });
    let items = numbered(pairs);
    if items.is_empty() {
        let problem = format!(
            "no prompt of {} with another response; evaluate both on the same prompts",
            other.join("report.json").display()
        );
        let source_name = folder.join("report.json").display().to_string();
        return Err(PeopleError::Row { source_name, row: 1, problem });
    }
    Ok(items)
}

/// Several samples of one prompt have its id; the second one gets `ID/2`.
fn numbered(items: impl Iterator<Item = StudyItem>) -> Vec<StudyItem> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let rename = |mut item: StudyItem| {
        let count = seen.entry(item.id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            item.id = format!("{}/{count}", item.id);
        }
        item
    };
    items.map(rename).collect()
}

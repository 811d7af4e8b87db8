//! Rows of an export of answers, and of labels.

use std::{cmp::Ordering, collections::BTreeMap};

use rlaif_core::{Metadata, Reply, TextOrMessages};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::parts::{Found, Given, ReadAnswer, id_text, item_of, time, time_of};
use crate::{
    answer::{BothOrders, PeopleAnswer, PeopleChoice},
    item::StudyItem,
    store::AnnotatorRole,
};

/// A row with everything that is known of an answer and its item. An item without an answer has a row without
/// an annotator.
#[derive(Serialize, Deserialize)]
pub(super) struct AnswerRow {
    id: String,
    prompt: TextOrMessages,
    responses: Vec<Reply>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known: Option<PeopleChoice>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    toxic: bool,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
    annotator: Option<String>,
    #[serde(default)]
    role: Option<AnnotatorRole>,
    answer: Option<PeopleAnswer>,
    #[serde(default)]
    order: Vec<usize>,
    #[serde(default)]
    time: String,
}

impl AnswerRow {
    pub(super) fn of(item: &StudyItem, given: Option<&Given<'_>>) -> Self {
        let StudyItem { id, prompt, responses, known, toxic, metadata } = item.clone();
        Self {
            id,
            prompt,
            responses,
            known,
            toxic,
            metadata,
            annotator: given.map(|(who, _)| who.name.clone()),
            role: given.map(|(who, _)| who.role),
            answer: given.map(|(_, stored)| stored.answer.clone()),
            order: given.map(|(_, stored)| stored.order.clone()).unwrap_or_default(),
            time: given.map(|(_, stored)| time(stored.at_ms)).unwrap_or_default(),
        }
    }
}

pub(super) fn is_answer_row(row: &Value) -> bool {
    row.get("annotator").is_some() && row.get("answer").is_some()
}

pub(super) fn of_answer_row(row: Value) -> Found {
    let row: AnswerRow = serde_json::from_value(row).map_err(|e| e.to_string())?;
    let AnswerRow { id, prompt, responses, known, toxic, metadata, .. } = row;
    let item = StudyItem { known, toxic, metadata, ..item_of(id.clone(), prompt, responses)? };
    let answer = match (row.annotator, row.answer) {
        (Some(annotator), Some(answer)) => ReadAnswer {
            annotator,
            role: row.role.unwrap_or(AnnotatorRole::Annotator),
            item: id,
            answer,
            order: row.order,
            at_ms: match row.time.as_str() {
                "" => None,
                text => {
                    let wrong =
                        || format!("`time` is `{text}`, not a time such as 2026-01-31T12:00:00Z");
                    Some(time_of(text).ok_or_else(wrong)?)
                }
            },
        },
        (None, None) => return Ok((item, Vec::new())),
        (annotator, _) => {
            let missing = if annotator.is_some() { "answer" } else { "annotator" };
            return Err(format!("no `{missing}`; an item without an answer has neither"));
        }
    };
    Ok((item, vec![answer]))
}

/// `true` for a row of a preference pair, as `rlaif label` writes it.
pub(super) fn is_label(row: &Value) -> bool {
    row.get("chosen").is_some() && row.get("rejected").is_some() && !is_answer_row(row)
}

/// A judge's verdicts in a row of `rlaif label`: the probability that the chosen response is better.
#[derive(Deserialize)]
struct LabelledOrders {
    chosen_first: f64,
    chosen_second: f64,
}

/// A row of `rlaif label`, or of any preferences with a prompt.
#[derive(Deserialize)]
struct LabelledPair {
    id: Option<Value>,
    prompt: TextOrMessages,
    chosen: Reply,
    rejected: Reply,
    probability: Option<f64>,
    #[serde(default)]
    facets: BTreeMap<String, f64>,
    #[serde(default)]
    verdicts: BTreeMap<String, LabelledOrders>,
    labeller: Option<String>,
}

pub(super) fn of_label(row: Value, at: usize) -> Found {
    let row: LabelledPair = serde_json::from_value(row).map_err(|e| e.to_string())?;
    let id = id_text(row.id.as_ref()).unwrap_or_else(|| (at + 1).to_string());
    let item = item_of(id.clone(), row.prompt, vec![row.chosen, row.rejected])?;
    let choice = |p: f64| match p.total_cmp(&0.5) {
        Ordering::Greater => PeopleChoice::First,
        Ordering::Less => PeopleChoice::Second,
        Ordering::Equal => PeopleChoice::Tie,
    };
    // The chosen response is the item's first one.
    let orders = |LabelledOrders { chosen_first, chosen_second }| BothOrders {
        shown_first: chosen_first,
        shown_second: chosen_second,
    };
    let answer = PeopleAnswer {
        facets: row.facets.into_iter().map(|(name, p)| (name, choice(p))).collect(),
        verdicts: row.verdicts.into_iter().map(|(name, both)| (name, orders(both))).collect(),
        ..PeopleAnswer::new(choice(row.probability.unwrap_or(1.)))
    };
    let annotator = row.labeller.unwrap_or_else(|| "labels".to_owned());
    let role = AnnotatorRole::Judge;
    let answer = ReadAnswer { annotator, role, item: id, answer, order: Vec::new(), at_ms: None };
    Ok((item, vec![answer]))
}

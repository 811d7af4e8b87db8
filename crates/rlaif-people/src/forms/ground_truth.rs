//! Output manifests of SageMaker Ground Truth.

use rlaif_core::Reply;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::parts::{
    CARRIED, Carried, Found, Given, StudyForm, choice_name, choice_of, id_text, item_of, numbered,
    text_of, time,
};
use crate::{
    answer::{PeopleAnswer, PeopleChoice},
    item::StudyItem,
};

/// The name of the label attribute.
const JOB: &str = "preference";

pub(super) fn ground_truth(item: &StudyItem, answers: &[Given<'_>]) -> Value {
    let workers = answers.iter().map(|(who, stored)| {
        json!({
            "workerId": who.name,
            "annotationData": {"content": content(&stored.answer).to_string()},
        })
    });
    let last = answers.iter().map(|(_, stored)| stored.at_ms).max().unwrap_or_default();
    let responses: Vec<&str> = item.responses.iter().map(|reply| reply.text.as_str()).collect();
    json!({
        "source": item.prompt.readable(),
        "id": item.id,
        "responses": responses,
        CARRIED: Carried::of(item, answers),
        JOB: {"annotationsFromAllWorkers": workers.collect::<Vec<_>>()},
        format!("{JOB}-metadata"): {
            "type": "groundtruth/custom",
            "job-name": JOB,
            "human-annotated": "yes",
            "creation-date": time(last),
        },
    })
}

/// The fields of a worker's answer.
fn content(answer: &PeopleAnswer) -> Value {
    let mut content = json!({JOB: {"label": choice_name(answer.choice)}});
    let PeopleAnswer { strength, ranking, facets, reasons, note, edited, .. } = answer;
    if let Some(strength) = strength {
        content["strength"] = json!(strength);
    }
    if !ranking.is_empty() {
        content["ranking"] = json!(ranking);
    }
    if !facets.is_empty() {
        content["facets"] = json!(facets);
    }
    if !reasons.is_empty() {
        content["reasons"] = json!(reasons);
    }
    if !note.is_empty() {
        content["note"] = json!(note);
    }
    if let Some(edited) = edited {
        content["edited"] = json!(edited);
    }
    content
}

pub(super) fn of_ground_truth(row: &Value) -> Found {
    // The source may be the prompt, or an object as text that has prompt and responses.
    let source = text_of(row.get("source"), "source")?;
    let inner = match row.get("responses") {
        None => serde_json::from_str(&source).ok().filter(|value: &Value| value.is_object()),
        Some(_) => None,
    };
    let fields = inner.as_ref().unwrap_or(row);
    let prompt = match &inner {
        Some(inner) => text_of(inner.get("prompt"), "source.prompt")?,
        None => source,
    };
    let listed = fields.get("responses").and_then(Value::as_array);
    let texts = listed.map(|list| list.iter().filter_map(Value::as_str).map(Reply::new).collect());
    let responses = texts.unwrap_or_else(|| numbered(fields, StudyForm::GroundTruth));
    let id = id_text(fields.get("id"))
        .or_else(|| id_text(row.get("id")))
        .unwrap_or_else(|| prompt.clone());
    let carried = Carried::read(row.get(CARRIED))?;
    let item = carried.item(item_of(id, prompt, responses)?);
    let jobs = row.as_object().into_iter().flat_map(Map::keys);
    let job = jobs
        .filter_map(|name| name.strip_suffix("-metadata"))
        .find(|name| row.get(*name).is_some())
        .ok_or("no label attribute with its `-metadata`")?;
    let mut answers = Vec::new();
    match row[job].get("annotationsFromAllWorkers").and_then(Value::as_array) {
        Some(workers) => {
            for worker in workers {
                let name = worker.get("workerId").and_then(Value::as_str).unwrap_or("ground-truth");
                let content = &worker["annotationData"]["content"];
                let content: Value = match content {
                    Value::String(text) => {
                        serde_json::from_str(text).map_err(|e| format!("`content`: {e}"))?
                    }
                    other => other.clone(),
                };
                answers.push(carried.answer(name, &item.id, of_worker(&content)?));
            }
        }
        None => {
            let metadata = &row[format!("{job}-metadata")];
            let named = metadata.get("class-name").and_then(Value::as_str);
            let choice = match (named.and_then(choice_of), row[job].as_u64()) {
                (Some(choice), _) => choice,
                (None, Some(0)) => PeopleChoice::First,
                (None, Some(1)) => PeopleChoice::Second,
                (None, Some(2)) => PeopleChoice::Tie,
                _ => return Err(format!("`{job}` has no class that names a response")),
            };
            answers.push(carried.answer("ground-truth", &item.id, PeopleAnswer::new(choice)));
        }
    }
    Ok((item, answers))
}

/// The answer of a worker: the value of the field `preference`, or of the first other one, or of its `label`,
/// that names a choice.
fn of_worker(content: &Value) -> Result<PeopleAnswer, String> {
    let fields = content.as_object().ok_or("`content` is not an object")?;
    let ranking: Vec<usize> = parsed(fields.get("ranking")).unwrap_or_default();
    let named = |value: &Value| choice_of(value.as_str().or_else(|| value.get("label")?.as_str())?);
    // A note may be `tie`.
    let others = fields.iter().filter(|(name, _)| *name != "note").map(|(_, value)| value);
    let choice = match ranking.is_empty() {
        true => fields.get(JOB).into_iter().chain(others).find_map(named),
        false => Some(PeopleChoice::Ranked),
    };
    Ok(PeopleAnswer {
        ranking,
        strength: parsed(fields.get("strength")),
        facets: parsed(fields.get("facets")).unwrap_or_default(),
        reasons: parsed(fields.get("reasons")).unwrap_or_default(),
        note: parsed(fields.get("note")).unwrap_or_default(),
        edited: parsed(fields.get("edited")),
        ..PeopleAnswer::new(choice.ok_or("`content` names no response")?)
    })
}

fn parsed<T: DeserializeOwned>(value: Option<&Value>) -> Option<T> {
    serde_json::from_value(value?.clone()).ok()
}

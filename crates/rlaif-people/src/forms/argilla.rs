//! Records of Argilla.

use std::collections::BTreeMap;

use rlaif_core::TextOrMessages;
use rlaif_files::Digest;
use serde_json::{Map, Value, json};

use super::parts::{
    CARRIED, Carried, Found, Given, StudyForm, choice_name, choice_of, column, id_text, item_of,
    numbered, place_of, text_of,
};
use crate::{
    answer::{EditedResponse, PeopleAnswer, PeopleChoice},
    item::StudyItem,
};

const FORM: StudyForm = StudyForm::Argilla;
/// Name of the question on an edited response, before the response's column.
const EDITED: &str = "edited_";
/// Name of the question on a facet, before the facet.
const FACET: &str = "facet_";

/// A choice as a label of a question.
fn label(choice: PeopleChoice) -> Value {
    match choice {
        PeopleChoice::First => "response_1".into(),
        PeopleChoice::Second => "response_2".into(),
        PeopleChoice::Tie | PeopleChoice::BothBad | PeopleChoice::Skip | PeopleChoice::Ranked => {
            choice_name(choice).into()
        }
    }
}

/// A record that is being written.
struct Record<'a> {
    responses: Map<String, Value>,
    answers: &'a [Given<'a>],
}

impl Record<'_> {
    /// Adds the responses to a question of those who have one. All responses of a user have one status.
    fn question(&mut self, name: &str, value: impl Fn(&PeopleAnswer) -> Option<Value>) {
        let one = |(who, stored): &Given<'_>| {
            let value = value(&stored.answer)?;
            let skipped = stored.answer.choice == PeopleChoice::Skip;
            let status = if skipped { "discarded" } else { "submitted" };
            Some(json!({"value": value, "user_id": user_id(&who.name), "status": status}))
        };
        let given: Vec<Value> = self.answers.iter().filter_map(one).collect();
        if !given.is_empty() {
            self.responses.insert(name.to_owned(), given.into());
        }
    }
}

/// The id of an annotator. Argilla's users have UUIDs instead of names; this one is made of the name, of version 8.
fn user_id(name: &str) -> String {
    let hash = Digest::of([b"argilla user".as_slice(), name.as_bytes()]).hex(16);
    let part = |range: std::ops::Range<usize>| &hash[range];
    format!("{}-{}-8{}-a{}-{}", part(0..8), part(8..12), part(13..16), part(17..20), part(20..32))
}

/// The record of an item, as Argilla's client writes and reads it (`to_json`, `from_json`).
pub(super) fn argilla(item: &StudyItem, answers: &[Given<'_>]) -> Value {
    let mut fields = Map::new();
    fields.insert("prompt".to_owned(), item.prompt.readable().into());
    for (place, reply) in item.responses.iter().enumerate() {
        fields.insert(column(FORM, place), reply.text.clone().into());
    }
    // Metadata of a record are texts or numbers.
    let carried = json!(Carried::of(item, answers)).to_string();
    let mut record = Record { responses: Map::new(), answers };
    record.question("preference", |answer| match answer.choice {
        PeopleChoice::Skip => Some(Value::Null),
        PeopleChoice::Ranked => None,
        PeopleChoice::First | PeopleChoice::Second | PeopleChoice::Tie | PeopleChoice::BothBad => {
            Some(label(answer.choice))
        }
    });
    record.question("ranking", |answer| {
        let ranked = answer
            .ranking
            .iter()
            .enumerate()
            .map(|(rank, &at)| json!({"value": column(FORM, at), "rank": rank + 1}));
        (answer.choice == PeopleChoice::Ranked).then(|| ranked.collect())
    });
    // A RatingQuestion takes 0 to 10.
    record.question("strength", |answer| answer.strength.map(|strength| json!(strength + 3)));
    let mut facets: Vec<&String> =
        answers.iter().flat_map(|(_, stored)| stored.answer.facets.keys()).collect();
    facets.sort_unstable();
    facets.dedup();
    for facet in facets {
        let name = format!("{FACET}{facet}");
        record.question(&name, |answer| answer.facets.get(facet).map(|choice| label(*choice)));
    }
    record
        .question("reasons", |answer| (!answer.reasons.is_empty()).then(|| json!(answer.reasons)));
    record.question("note", |answer| (!answer.note.is_empty()).then(|| json!(answer.note)));
    for place in 0..item.responses.len() {
        record.question(&format!("{EDITED}{}", column(FORM, place)), |answer| {
            let edited = answer.edited.as_ref().filter(|edited| edited.response == place)?;
            Some(json!(edited.text))
        });
    }
    json!({"id": item.id, "status": "completed", "fields": fields, "metadata": {CARRIED: carried},
        "responses": record.responses, "suggestions": {}, "vectors": {}})
}

pub(super) fn is_argilla(row: &Value) -> bool {
    is_nested(row)
        || ["preference.responses", "ranking.responses"].iter().any(|name| row.get(*name).is_some())
}

/// `true` for a record as `to_json` writes it, and not as a flat row.
fn is_nested(row: &Value) -> bool {
    ["fields", "responses"].iter().all(|part| row.get(*part).is_some_and(Value::is_object))
}

/// A record as a flat row (`to_list(flatten=True)`).
fn flat(row: &Value) -> Value {
    let mut flat = Map::new();
    flat.insert("id".to_owned(), row["id"].clone());
    flat.extend(row["fields"].as_object().cloned().into_iter().flatten());
    // The names of other metadata are free, and may be those of fields.
    if let Some(carried) = row["metadata"].get(CARRIED) {
        flat.insert(CARRIED.to_owned(), carried.clone());
    }
    for (question, given) in row["responses"].as_object().into_iter().flatten() {
        let given = given.as_array().map(Vec::as_slice).unwrap_or_default();
        for (end, key) in [("", "value"), (".users", "user_id"), (".status", "status")] {
            let list = given.iter().map(|one| one.get(key).cloned().unwrap_or_default());
            flat.insert(format!("{question}.responses{end}"), list.collect());
        }
    }
    flat.into()
}

/// The responses to a question: user, status, value.
fn responses(row: &Value, question: &str) -> Vec<(String, String, Value)> {
    let list = |end: &str| {
        let list = row.get(format!("{question}.responses{end}")).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let (users, status) = (list(".users"), list(".status"));
    let text = |list: &[Value], at: usize, default: &str| {
        list.get(at).and_then(Value::as_str).unwrap_or(default).to_owned()
    };
    let values = list("").into_iter().enumerate();
    values
        .map(|(at, value)| (text(&users, at, "argilla"), text(&status, at, "submitted"), value))
        .collect()
}

pub(super) fn of_argilla(row: &Value) -> Found {
    if is_nested(row) {
        return of_argilla(&flat(row));
    }
    let id = id_text(row.get("id")).ok_or("no `id`")?;
    let prompt: TextOrMessages = text_of(row.get("prompt"), "prompt")?.into();
    let carried = Carried::read(row.get(CARRIED))?;
    let item = carried.item(item_of(id, prompt, numbered(row, FORM))?);
    let mut answers: Vec<(String, PeopleAnswer)> = Vec::new();
    for question in ["preference", "ranking"] {
        for (user, status, value) in responses(row, question) {
            if status != "draft" {
                let value = if status == "discarded" { &Value::Null } else { &value };
                answers.push((user, of_verdict(question, value, &item)?));
            }
        }
    }
    // Parts of answers that have a verdict.
    let mut part = |question: &str, put: &dyn Fn(&mut PeopleAnswer, &Value)| {
        for (user, status, value) in responses(row, question) {
            let own = answers.iter_mut().find(|(name, _)| *name == user);
            if let Some((_, answer)) = own.filter(|_| status != "draft") {
                put(answer, &value);
            }
        }
    };
    part("strength", &|answer, value| {
        let strength = value.as_i64().filter(|value| (0..=6).contains(value));
        answer.strength = strength.map(|value| value as i8 - 3);
    });
    part("note", &|answer, value| value.as_str().unwrap_or_default().clone_into(&mut answer.note));
    part("reasons", &|answer, value| {
        let names = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        answer.reasons = names.map(str::to_owned).collect();
    });
    let questions = row.as_object().into_iter().flat_map(Map::keys);
    for question in questions.filter_map(|name| name.strip_suffix(".responses")) {
        if let Some(facet) = question.strip_prefix(FACET) {
            part(question, &|answer, value| {
                if let Some(choice) = value.as_str().and_then(choice_of) {
                    answer.facets.insert(facet.to_owned(), choice);
                }
            });
        }
        let edited = question.strip_prefix(EDITED).and_then(|name| place_of(FORM, &item, name));
        if let Some(response) = edited {
            part(question, &|answer, value| {
                let edited = value.as_str().map(str::to_owned);
                answer.edited = edited.map(|text| EditedResponse { response, text });
            });
        }
    }
    // Users of an export have the study's names.
    let names: BTreeMap<String, &str> = carried.names().map(|name| (user_id(name), name)).collect();
    let answers = answers.into_iter().map(|(user, answer)| {
        let name = names.get(&user).copied().unwrap_or(user.as_str());
        carried.answer(name, &item.id, answer)
    });
    let answers = answers.collect();
    Ok((item, answers))
}

/// The answer of a response to the question of the preference or of the ranking.
fn of_verdict(question: &str, value: &Value, item: &StudyItem) -> Result<PeopleAnswer, String> {
    match value {
        Value::Null => Ok(PeopleAnswer::new(PeopleChoice::Skip)),
        Value::String(name) => {
            let known = choice_of(name);
            let choice = known.ok_or(format!("`{question}` is `{name}`, not response_1, .."))?;
            Ok(PeopleAnswer::new(choice))
        }
        Value::Array(ranked) => {
            let mut places = Vec::new();
            for (at, one) in (1..).zip(ranked) {
                // Argilla's client has the names alone, in the order of the ranks.
                let name = one.as_str().or_else(|| one["value"].as_str());
                let place = name.and_then(|name| place_of(FORM, item, name));
                let place = place.ok_or("`ranking` names other responses")?;
                places.push((one["rank"].as_u64().unwrap_or(at), place));
            }
            places.sort_by_key(|(rank, _)| *rank);
            let ranking = places.into_iter().map(|(_, at)| at).collect();
            Ok(PeopleAnswer { ranking, ..PeopleAnswer::new(PeopleChoice::Ranked) })
        }
        other => Err(format!("`{question}.responses` has {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_named_like_fields_replace_nothing() {
        let with = |metadata: Value| {
            flat(&json!({"id": "a", "fields": {"prompt": "Why?", "response_1": "So."},
                "metadata": metadata, "responses": {}}))
        };
        let found = with(json!({"prompt": "other", "response_1": "other", "id": "b", CARRIED: 1}));
        assert_eq!(found, with(json!({CARRIED: 1})));
        assert_eq!((&found["id"], &found["prompt"]), (&json!("a"), &json!("Why?")));
    }
}

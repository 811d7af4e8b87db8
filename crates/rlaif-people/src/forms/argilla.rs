//! Records of Argilla.

use rlaif_core::TextOrMessages;
use serde_json::{Map, Value, json};

use super::parts::{
    CARRIED, Carried, Found, Given, StudyForm, choice_name, choice_of, column, id_text, item_of,
    numbered, place_of, text_of,
};
use crate::{
    answer::{EditedResponse, PeopleAnswer, PeopleChoice},
    item::StudyItem,
    store::Annotator,
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
    row: Map<String, Value>,
    answers: &'a [Given<'a>],
}

impl Record<'_> {
    /// Adds the responses to a question of those who have one. A null is a discarded response.
    fn question(&mut self, name: &str, value: impl Fn(&PeopleAnswer) -> Option<Value>) {
        let given: Vec<(&Annotator, Value)> = self
            .answers
            .iter()
            .filter_map(|(who, stored)| Some((*who, value(&stored.answer)?)))
            .collect();
        if given.is_empty() {
            return;
        }
        let status =
            given.iter().map(|(_, value)| if value.is_null() { "discarded" } else { "submitted" });
        let status: Vec<&str> = status.collect();
        let users = given.iter().map(|(who, _)| Value::from(who.name.clone())).collect();
        self.row.insert(format!("{name}.responses.status"), json!(status));
        self.row.insert(format!("{name}.responses.users"), users);
        let values = given.into_iter().map(|(_, value)| value).collect();
        self.row.insert(format!("{name}.responses"), values);
    }
}

pub(super) fn argilla(item: &StudyItem, answers: &[Given<'_>]) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("id".to_owned(), item.id.clone().into());
    row.insert("status".to_owned(), "completed".into());
    row.insert("prompt".to_owned(), item.prompt.readable().into());
    for (place, reply) in item.responses.iter().enumerate() {
        row.insert(column(FORM, place), reply.text.clone().into());
    }
    // Metadata of a record are texts or numbers.
    row.insert(CARRIED.to_owned(), json!(Carried::of(item, answers)).to_string().into());
    let mut record = Record { row, answers };
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
    record.row
}

pub(super) fn has_argilla_columns(row: &Value) -> bool {
    ["preference.responses", "ranking.responses"].iter().any(|name| row.get(*name).is_some())
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
    let answers = answers.into_iter().map(|(user, answer)| carried.answer(&user, &item.id, answer));
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
            for one in ranked {
                let place = one["value"].as_str().and_then(|name| place_of(FORM, item, name));
                let place = place.ok_or("`ranking` names other responses")?;
                places.push((one["rank"].as_u64().unwrap_or(u64::MAX), place));
            }
            places.sort_unstable();
            let ranking = places.into_iter().map(|(_, at)| at).collect();
            Ok(PeopleAnswer { ranking, ..PeopleAnswer::new(PeopleChoice::Ranked) })
        }
        other => Err(format!("`{question}.responses` has {other}")),
    }
}

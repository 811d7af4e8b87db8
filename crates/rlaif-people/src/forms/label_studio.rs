//! Tasks of Label Studio.

use rlaif_core::Reply;
use serde_json::{Map, Value, json};

use super::parts::{
    CARRIED, Carried, Found, Given, ReadAnswer, StudyForm, choice_name, choice_of, column, id_text,
    item_of, numbered, place_of, text_of, time, time_of,
};
use crate::{
    answer::{EditedResponse, PeopleAnswer, PeopleChoice},
    item::StudyItem,
};

const FORM: StudyForm = StudyForm::LabelStudio;

/// Name of the list of responses that a ranking orders.
const ITEMS: &str = "items";

/// The task of an item, with annotations numbered from `first`.
///
/// Label Studio refuses annotations of users that it does not know. So they name no user: it takes the one who imports
/// for their author, and keeps their numbers as `import_id`.
pub(super) fn label_studio(
    number: i64,
    item: &StudyItem,
    answers: &[Given<'_>],
    first: u64,
) -> Value {
    let numbers: Vec<u64> = (first..).take(answers.len()).collect();
    let mut data = Map::new();
    data.insert("id".to_owned(), item.id.clone().into());
    data.insert("prompt".to_owned(), item.prompt.readable().into());
    for (place, reply) in item.responses.iter().enumerate() {
        data.insert(column(FORM, place), reply.text.clone().into());
    }
    if item.responses.len() > 2 {
        let one = |(place, reply): (usize, &Reply)| json!({"id": column(FORM, place), "title": "", "body": reply.text});
        data.insert(ITEMS.to_owned(), item.responses.iter().enumerate().map(one).collect());
    }
    let carried = Carried::of(item, answers).numbered(answers, &numbers);
    data.insert(CARRIED.to_owned(), json!(carried));
    let annotations = answers.iter().zip(numbers).map(|((_, stored), number)| {
        json!({
            "id": number,
            "result": results(&stored.answer),
            // Label Studio takes it for true.
            "ground_truth": false,
            "was_cancelled": stored.answer.choice == PeopleChoice::Skip,
            "lead_time": stored.answer.seconds,
            "created_at": time(stored.at_ms),
        })
    });
    json!({"id": number, "data": data, "annotations": annotations.collect::<Vec<_>>()})
}

/// The regions of an annotation.
fn results(answer: &PeopleAnswer) -> Vec<Value> {
    let of = |name: &str, to: &str, kind: &str, value: Value| json!({"from_name": name, "to_name": to, "type": kind, "value": value});
    let choices =
        |name: &str, values: Value| of(name, "prompt", "choices", json!({"choices": values}));
    let area = |name: &str, text: &str| of(name, "prompt", "textarea", json!({"text": [text]}));
    let mut result = Vec::new();
    match answer.choice {
        PeopleChoice::First | PeopleChoice::Second => {
            let side = if answer.choice == PeopleChoice::First { "left" } else { "right" };
            let value = json!({"selected": side});
            result.push(of("preference", "answer1,answer2", "pairwise", value));
        }
        PeopleChoice::Ranked => {
            let names: Vec<String> = answer.ranking.iter().map(|&at| column(FORM, at)).collect();
            // A ranking without buckets is below the name of its control.
            let value = json!({"ranker": {"ranking": names}});
            result.push(of("ranking", ITEMS, "ranker", value));
        }
        PeopleChoice::Tie | PeopleChoice::BothBad => {
            result.push(choices("outcome", json!([choice_name(answer.choice)])));
        }
        PeopleChoice::Skip => {}
    }
    if let Some(strength) = answer.strength {
        result.push(of("strength", "prompt", "number", json!({"number": strength})));
    }
    for (facet, choice) in &answer.facets {
        result.push(choices(&format!("facet:{facet}"), json!([choice_name(*choice)])));
    }
    if !answer.reasons.is_empty() {
        result.push(choices("reasons", json!(answer.reasons)));
    }
    if !answer.note.is_empty() {
        result.push(area("note", &answer.note));
    }
    if let Some(edited) = &answer.edited {
        result.push(area(&format!("edited:{}", column(FORM, edited.response)), &edited.text));
    }
    result
}

pub(super) fn of_label_studio(row: &Value) -> Found {
    let data = &row["data"];
    let id = id_text(data.get("id")).or_else(|| id_text(row.get("id"))).ok_or("no `id`")?;
    let prompt = text_of(data.get("prompt"), "data.prompt")?;
    let carried = Carried::read(data.get(CARRIED))?;
    let (names, responses) = responses_of(data);
    let item = carried.item(item_of(id, prompt, responses)?);
    let mut answers = Vec::new();
    for annotation in row["annotations"].as_array().ok_or("`annotations` is not a list")? {
        answers.push(of_annotation(annotation, &item, &names, &carried)?);
    }
    Ok((item, answers))
}

/// The responses, and the names by which a ranking has them: of columns, or of the list that is ranked.
fn responses_of(data: &Value) -> (Vec<String>, Vec<Reply>) {
    let columns = numbered(data, FORM);
    if !columns.is_empty() {
        return ((0..columns.len()).map(|place| column(FORM, place)).collect(), columns);
    }
    let list = data.get(ITEMS).and_then(Value::as_array);
    let one = |one: &Value| {
        let text = ["body", "html", "title"].into_iter().find_map(|key| one.get(key)?.as_str());
        Some((id_text(one.get("id"))?, Reply::new(text?)))
    };
    list.into_iter().flatten().map_while(one).unzip()
}

/// The annotator's name: that of the study for an annotation of an export, which the other tool has imported or not.
fn annotator_of(annotation: &Value, carried: &Carried) -> String {
    let by = annotation.get("completed_by").filter(|by| !by.is_null());
    let number = match (annotation.get("import_id"), by) {
        (Some(imported), _) => imported.as_u64(),
        (None, None) => annotation.get("id").and_then(Value::as_u64),
        (None, Some(_)) => None,
    };
    if let Some(name) = number.and_then(|number| carried.annotator(number)) {
        return name.to_owned();
    }
    let email = by.and_then(|by| by.get("email").or_else(|| by.get("first_name")));
    match (email.and_then(Value::as_str), id_text(by)) {
        (Some(email), _) => email.to_owned(),
        (None, Some(number)) => format!("user {number}"),
        (None, None) => "label-studio".to_owned(),
    }
}

fn of_annotation(
    annotation: &Value,
    item: &StudyItem,
    names: &[String],
    carried: &Carried,
) -> Result<ReadAnswer, String> {
    let annotator = annotator_of(annotation, carried);
    let mut answer = PeopleAnswer::new(PeopleChoice::Skip);
    answer.seconds = annotation.get("lead_time").and_then(Value::as_f64).unwrap_or(0.);
    for result in annotation["result"].as_array().into_iter().flatten() {
        of_result(result, item, names, &mut answer)?;
    }
    if annotation.get("was_cancelled") == Some(&Value::Bool(true)) {
        answer.choice = PeopleChoice::Skip;
    }
    let mut read = carried.answer(&annotator, &item.id, answer);
    let created = annotation.get("created_at").and_then(Value::as_str);
    read.at_ms = read.at_ms.or_else(|| time_of(created?));
    Ok(read)
}

/// The ranked names: below the name of the control. One bucket alone is a ranking, too.
fn ranked<'a>(ranker: &'a Value, control: &str) -> Option<&'a Vec<Value>> {
    let buckets = ranker.as_object()?;
    let only = || buckets.values().next().filter(|_| buckets.len() == 1);
    buckets.get(control).or_else(only)?.as_array()
}

/// Adds a region of an annotation to its answer.
fn of_result(
    result: &Value,
    item: &StudyItem,
    names: &[String],
    answer: &mut PeopleAnswer,
) -> Result<(), String> {
    let value_of = |kind: &str| result.get("value")?.get(kind);
    let name = result.get("from_name").and_then(Value::as_str).unwrap_or_default();
    let text = || value_of("text").and_then(|t| t.get(0).or(Some(t))?.as_str());
    if let Some(side) = value_of("selected").and_then(Value::as_str) {
        answer.choice =
            choice_of(side).ok_or(format!("`selected` is `{side}`, not left or right"))?;
    } else if let Some(ranked) = value_of("ranker").and_then(|ranker| ranked(ranker, name)) {
        answer.choice = PeopleChoice::Ranked;
        let place = |name: &Value| {
            let name = id_text(Some(name))?;
            names.iter().position(|own| *own == name)
        };
        let places = ranked.iter().map(place);
        answer.ranking = places.collect::<Option<_>>().ok_or("`ranker` names other answers")?;
    } else if let Some(values) = value_of("choices").and_then(Value::as_array) {
        let names = values.iter().filter_map(Value::as_str);
        if name == "reasons" {
            answer.reasons = names.map(str::to_owned).collect();
        } else if let Some(choice) = names.clone().find_map(choice_of) {
            match name.strip_prefix("facet:") {
                Some(facet) => {
                    answer.facets.insert(facet.to_owned(), choice);
                }
                None => answer.choice = choice,
            }
        }
    } else if let Some(number) = value_of("number").and_then(Value::as_i64) {
        answer.strength = i8::try_from(number).ok().filter(|number| (-3..=3).contains(number));
    } else if let (Some(response), Some(text)) =
        (name.strip_prefix("edited:").and_then(|name| place_of(FORM, item, name)), text())
    {
        answer.edited = Some(EditedResponse { response, text: text.to_owned() });
    } else if let (true, Some(text)) = (name == "note", text()) {
        text.clone_into(&mut answer.note);
    }
    Ok(())
}

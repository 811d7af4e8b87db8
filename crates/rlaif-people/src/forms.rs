//! Answers in the forms of other tools: Label Studio, Argilla, SageMaker Ground Truth.

use std::{cmp::Ordering, collections::BTreeMap, path::Path};

use rlaif_core::{FileAction, Reply, TextOrMessages};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{
    answer::{BothOrders, EditedResponse, PeopleAnswer, PeopleChoice},
    error::PeopleError,
    item::StudyItem,
    store::{Annotator, AnnotatorRole, StoredAnswer, StudyContents},
};

/// The form of a file of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StudyForm {
    /// JSON Lines, a row for each answer with everything that is known of it.
    Answers,
    /// JSON of Label Studio: tasks with annotations.
    LabelStudio,
    /// JSON Lines of Argilla's records: `preference.responses` and its siblings.
    Argilla,
    /// JSON Lines of an output manifest of SageMaker Ground Truth, with the answers of all workers.
    GroundTruth,
}

/// An answer of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadAnswer {
    /// The annotator's name.
    pub annotator: String,
    /// The annotator's task.
    pub role: AnnotatorRole,
    /// The item's id.
    pub item: String,
    /// The answer, with places in the item.
    pub answer: PeopleAnswer,
}

/// Items and answers of a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReadAnswers {
    /// The items.
    pub items: Vec<StudyItem>,
    /// The answers.
    pub answers: Vec<ReadAnswer>,
}

/// Names of responses in the other tools' columns: `answer1`, `response_1`.
fn column(kind: StudyForm, place: usize) -> String {
    match kind {
        StudyForm::LabelStudio => format!("answer{}", place + 1),
        StudyForm::Answers | StudyForm::Argilla | StudyForm::GroundTruth => {
            format!("response_{}", place + 1)
        }
    }
}

/// The answers of a study in the form of another tool.
pub fn write_answers(study: &StudyContents, form: StudyForm) -> String {
    let items: BTreeMap<i64, &StudyItem> =
        study.items.iter().map(|(number, item)| (*number, item)).collect();
    let people: BTreeMap<i64, &Annotator> =
        study.annotators.iter().map(|who| (who.number, who)).collect();
    let mut by_item: BTreeMap<i64, Vec<(&Annotator, &StoredAnswer)>> = BTreeMap::new();
    for stored in &study.answers {
        if let Some(who) = people.get(&stored.annotator) {
            by_item.entry(stored.item).or_default().push((who, stored));
        }
    }
    let rows = by_item
        .iter()
        .filter_map(|(number, answers)| Some((*number, *items.get(number)?, answers.as_slice())));
    match form {
        StudyForm::Answers => lines(rows.flat_map(|(_, item, answers)| {
            answers.iter().map(|(who, stored)| AnswerRow::of(item, who, stored))
        })),
        StudyForm::LabelStudio => {
            let tasks: Vec<Value> =
                rows.map(|(number, item, answers)| label_studio(number, item, answers)).collect();
            format!("{:#}\n", Value::Array(tasks))
        }
        StudyForm::Argilla => lines(rows.map(|(_, item, answers)| argilla(item, answers))),
        StudyForm::GroundTruth => lines(rows.map(|(_, item, answers)| ground_truth(item, answers))),
    }
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

/// A row with everything.
#[derive(Serialize, Deserialize)]
struct AnswerRow {
    id: String,
    prompt: TextOrMessages,
    responses: Vec<Reply>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known: Option<PeopleChoice>,
    annotator: String,
    role: AnnotatorRole,
    answer: PeopleAnswer,
    #[serde(default)]
    order: Vec<usize>,
    #[serde(default)]
    time: String,
}

impl AnswerRow {
    fn of(item: &StudyItem, who: &Annotator, stored: &StoredAnswer) -> Self {
        Self {
            id: item.id.clone(),
            prompt: item.prompt.clone(),
            responses: item.responses.clone(),
            known: item.known,
            annotator: who.name.clone(),
            role: who.role,
            answer: stored.answer.clone(),
            order: stored.order.clone(),
            time: time(stored.at_ms),
        }
    }
}

fn time(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map(|time| time.to_string()).unwrap_or_default()
}

fn choice_name(choice: PeopleChoice) -> &'static str {
    match choice {
        PeopleChoice::First => "first",
        PeopleChoice::Second => "second",
        PeopleChoice::Tie => "tie",
        PeopleChoice::BothBad => "both-bad",
        PeopleChoice::Skip => "skip",
        PeopleChoice::Ranked => "ranked",
    }
}

fn choice_of(name: &str) -> Option<PeopleChoice> {
    Some(match name.to_lowercase().replace([' ', '_'], "-").as_str() {
        "first" | "left" | "answer1" | "response-1" | "a" | "1" | "model-a" => PeopleChoice::First,
        "second" | "right" | "answer2" | "response-2" | "b" | "2" | "model-b" => {
            PeopleChoice::Second
        }
        "tie" | "equal" | "same" | "0" => PeopleChoice::Tie,
        "both-bad" | "bothbad" | "neither" => PeopleChoice::BothBad,
        "skip" => PeopleChoice::Skip,
        _ => return None,
    })
}

fn label_studio(number: i64, item: &StudyItem, answers: &[(&Annotator, &StoredAnswer)]) -> Value {
    let mut data = Map::new();
    data.insert("id".to_owned(), item.id.clone().into());
    data.insert("prompt".to_owned(), item.prompt.readable().into());
    for (place, reply) in item.responses.iter().enumerate() {
        data.insert(column(StudyForm::LabelStudio, place), reply.text.clone().into());
    }
    let annotations = answers.iter().map(|(who, stored)| {
        let answer = &stored.answer;
        let both = "answer1,answer2";
        let choices = |name: &str, values: Value| {
            json!({"from_name": name, "to_name": "prompt", "type": "choices", "value": {"choices": values}})
        };
        let area = |name: &str, text: &str| {
            json!({"from_name": name, "to_name": "prompt", "type": "textarea", "value": {"text": [text]}})
        };
        let mut result = Vec::new();
        match answer.choice {
            PeopleChoice::First | PeopleChoice::Second => {
                let side = if answer.choice == PeopleChoice::First { "left" } else { "right" };
                result.push(json!({"from_name": "preference", "to_name": both, "type": "pairwise",
                    "value": {"selected": side}}));
            }
            PeopleChoice::Ranked => {
                let names: Vec<String> =
                    answer.ranking.iter().map(|&at| column(StudyForm::LabelStudio, at)).collect();
                result.push(json!({"from_name": "ranking", "to_name": "prompt", "type": "ranker",
                    "value": {"ranker": {"rank": names}}}));
            }
            PeopleChoice::Tie | PeopleChoice::BothBad => {
                result.push(choices("outcome", json!([choice_name(answer.choice)])));
            }
            PeopleChoice::Skip => {}
        }
        if let Some(strength) = answer.strength {
            result.push(json!({"from_name": "strength", "to_name": "prompt", "type": "number",
                "value": {"number": strength}}));
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
            let name = format!("edited:{}", column(StudyForm::LabelStudio, edited.response));
            result.push(area(&name, &edited.text));
        }
        json!({
            "completed_by": {"id": who.number, "email": who.name, "first_name": who.name},
            "result": result,
            "was_cancelled": answer.choice == PeopleChoice::Skip,
            "lead_time": answer.seconds,
            "created_at": time(stored.at_ms),
        })
    });
    json!({"id": number, "data": data, "annotations": annotations.collect::<Vec<_>>()})
}

fn argilla(item: &StudyItem, answers: &[(&Annotator, &StoredAnswer)]) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("id".to_owned(), item.id.clone().into());
    row.insert("status".to_owned(), "completed".into());
    row.insert("prompt".to_owned(), item.prompt.readable().into());
    for (place, reply) in item.responses.iter().enumerate() {
        row.insert(column(StudyForm::Argilla, place), reply.text.clone().into());
    }
    let mut question = |name: &str, value: &dyn Fn(&PeopleAnswer) -> Option<Value>| {
        let given: Vec<(&Annotator, Value)> = answers
            .iter()
            .filter_map(|(who, stored)| Some((*who, value(&stored.answer)?)))
            .collect();
        if given.is_empty() {
            return;
        }
        let status =
            given.iter().map(|(_, value)| if value.is_null() { "discarded" } else { "submitted" });
        let status: Vec<&str> = status.collect();
        row.insert(format!("{name}.responses.status"), json!(status));
        row.insert(
            format!("{name}.responses.users"),
            given.iter().map(|(who, _)| Value::from(who.name.clone())).collect(),
        );
        row.insert(
            format!("{name}.responses"),
            given.into_iter().map(|(_, value)| value).collect(),
        );
    };
    question("preference", &|answer| match answer.choice {
        PeopleChoice::First => Some(json!("response_1")),
        PeopleChoice::Second => Some(json!("response_2")),
        PeopleChoice::Tie | PeopleChoice::BothBad => Some(json!(choice_name(answer.choice))),
        PeopleChoice::Skip => Some(Value::Null),
        PeopleChoice::Ranked => None,
    });
    question("ranking", &|answer| {
        let ranked =
            answer.ranking.iter().enumerate().map(
                |(rank, &at)| json!({"value": column(StudyForm::Argilla, at), "rank": rank + 1}),
            );
        (answer.choice == PeopleChoice::Ranked).then(|| ranked.collect())
    });
    // A RatingQuestion takes 0 to 10.
    question("strength", &|answer| answer.strength.map(|strength| json!(strength + 3)));
    question("note", &|answer| (!answer.note.is_empty()).then(|| json!(answer.note)));
    row
}

/// The name of the label attribute.
const JOB: &str = "preference";

fn ground_truth(item: &StudyItem, answers: &[(&Annotator, &StoredAnswer)]) -> Value {
    let workers = answers.iter().map(|(who, stored)| {
        let answer = &stored.answer;
        let mut content = json!({"preference": {"label": choice_name(answer.choice)}});
        if let Some(strength) = answer.strength {
            content["strength"] = json!(strength);
        }
        if !answer.ranking.is_empty() {
            content["ranking"] = json!(answer.ranking);
        }
        if !answer.note.is_empty() {
            content["note"] = json!(answer.note);
        }
        json!({
            "workerId": who.name,
            "annotationData": {"content": content.to_string()},
        })
    });
    let last = answers.iter().map(|(_, stored)| stored.at_ms).max().unwrap_or_default();
    let responses: Vec<&str> = item.responses.iter().map(|reply| reply.text.as_str()).collect();
    json!({
        "source": item.prompt.readable(),
        "id": item.id,
        "responses": responses,
        JOB: {"annotationsFromAllWorkers": workers.collect::<Vec<_>>()},
        format!("{JOB}-metadata"): {
            "type": "groundtruth/custom",
            "job-name": JOB,
            "human-annotated": "yes",
            "creation-date": time(last),
        },
    })
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
    for (at, row) in rows.into_iter().enumerate() {
        let found = if row.get("annotations").is_some() && row.get("data").is_some() {
            of_label_studio(&row)
        } else if row.get("annotator").is_some() && row.get("answer").is_some() {
            of_answer_row(row)
        } else if row.get("chosen").is_some() && row.get("rejected").is_some() {
            of_label(row, at)
        } else if row.get("source").is_some() {
            of_ground_truth(&row)
        } else if has_argilla_columns(&row) {
            of_argilla(&row)
        } else {
            let keys: Vec<&str> =
                row.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
            Err(format!(
                "the columns {} are none of Label Studio's (`data`, `annotations`), Argilla's \
                 (`preference.responses`), Ground Truth's (`source`), of labels \
                 (`chosen`, `rejected`), or of an export (`annotator`, `answer`)",
                keys.join(", ")
            ))
        };
        let (item, answers) = found.map_err(|problem| fault(at + 1, problem))?;
        for answer in &answers {
            let checked = answer.answer.check(item.responses.len());
            checked
                .map_err(|e| fault(at + 1, format!("the answer of {}: {e}", answer.annotator)))?;
        }
        read.answers.extend(answers);
        if !read.items.iter().rev().take(1).any(|known| known.id == item.id)
            && !read.items.iter().any(|known| known.id == item.id)
        {
            read.items.push(item);
        }
    }
    Ok(read)
}

type Found = Result<(StudyItem, Vec<ReadAnswer>), String>;

fn text_of(value: Option<&Value>, name: &str) -> Result<String, String> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{name}` is {other}, not a text")),
        None => Err(format!("no `{name}`")),
    }
}

fn id_text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn item(id: String, prompt: String, responses: Vec<Reply>) -> Result<StudyItem, String> {
    if responses.len() < 2 {
        return Err(format!("{} responses, at least 2 are needed", responses.len()));
    }
    let mut item = StudyItem::pair(id, prompt, "", "");
    item.responses = responses;
    Ok(item)
}

/// The columns of responses, numbered from 1.
fn numbered(row: &Value, kind: StudyForm) -> Vec<Reply> {
    let texts = (0..).map_while(|place| row.get(column(kind, place))?.as_str());
    texts.map(Reply::new).collect()
}

fn of_answer_row(row: Value) -> Found {
    let row: AnswerRow = serde_json::from_value(row).map_err(|e| e.to_string())?;
    let AnswerRow { id, prompt, responses, known, annotator, role, answer, .. } = row;
    let item = StudyItem { prompt, known, ..item(id.clone(), String::new(), responses)? };
    Ok((item, vec![ReadAnswer { annotator, role, item: id, answer }]))
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

fn of_label(row: Value, at: usize) -> Found {
    let row: LabelledPair = serde_json::from_value(row).map_err(|e| e.to_string())?;
    let id = id_text(row.id.as_ref()).unwrap_or_else(|| (at + 1).to_string());
    let item = StudyItem {
        prompt: row.prompt,
        ..item(id.clone(), String::new(), vec![row.chosen, row.rejected])?
    };
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
    Ok((item, vec![ReadAnswer { annotator, role, item: id, answer }]))
}

fn value_of<'a>(result: &'a Value, kind: &str) -> Option<&'a Value> {
    result.get("value")?.get(kind)
}

fn of_label_studio(row: &Value) -> Found {
    let data = &row["data"];
    let id = id_text(data.get("id")).or_else(|| id_text(row.get("id"))).ok_or("no `id`")?;
    let item = item(
        id.clone(),
        text_of(data.get("prompt"), "data.prompt")?,
        numbered(data, StudyForm::LabelStudio),
    )?;
    let place = |name: &str| {
        (0..item.responses.len()).find(|&at| column(StudyForm::LabelStudio, at) == name)
    };
    let mut answers = Vec::new();
    for annotation in row["annotations"].as_array().ok_or("`annotations` is not a list")? {
        let by = annotation.get("completed_by");
        let email = by.and_then(|by| by.get("email").or_else(|| by.get("first_name")));
        let annotator = match (email.and_then(Value::as_str), id_text(by)) {
            (Some(email), _) => email.to_owned(),
            (None, Some(number)) => format!("user {number}"),
            (None, None) => "label-studio".to_owned(),
        };
        let mut answer = PeopleAnswer::new(PeopleChoice::Skip);
        answer.seconds = annotation.get("lead_time").and_then(Value::as_f64).unwrap_or(0.);
        for result in annotation["result"].as_array().into_iter().flatten() {
            let name = result.get("from_name").and_then(Value::as_str).unwrap_or_default();
            let text = || value_of(result, "text").and_then(|t| t.get(0).or(Some(t))?.as_str());
            if let Some(side) = value_of(result, "selected").and_then(Value::as_str) {
                answer.choice =
                    choice_of(side).ok_or(format!("`selected` is `{side}`, not left or right"))?;
            } else if let Some(ranked) =
                value_of(result, "ranker").and_then(|r| r["rank"].as_array())
            {
                answer.choice = PeopleChoice::Ranked;
                let places = ranked.iter().map(|name| place(name.as_str()?));
                answer.ranking =
                    places.collect::<Option<_>>().ok_or("`ranker` names other answers")?;
            } else if let Some(values) = value_of(result, "choices").and_then(Value::as_array) {
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
            } else if let Some(number) = value_of(result, "number").and_then(Value::as_i64) {
                answer.strength = Some(number as i8).filter(|_| (-3..=3).contains(&number));
            } else if let (Some(edited), Some(text)) =
                (name.strip_prefix("edited:").and_then(place), text())
            {
                answer.edited = Some(EditedResponse { response: edited, text: text.to_owned() });
            } else if let (true, Some(text)) = (name == "note", text()) {
                answer.note = text.to_owned();
            }
        }
        if annotation.get("was_cancelled") == Some(&Value::Bool(true)) {
            answer.choice = PeopleChoice::Skip;
        }
        let role = AnnotatorRole::Annotator;
        answers.push(ReadAnswer { annotator, role, item: id.clone(), answer });
    }
    Ok((item, answers))
}

fn has_argilla_columns(row: &Value) -> bool {
    ["preference.responses", "ranking.responses"].iter().any(|name| row.get(*name).is_some())
}

fn of_argilla(row: &Value) -> Found {
    let id = id_text(row.get("id")).ok_or("no `id`")?;
    let item =
        item(id.clone(), text_of(row.get("prompt"), "prompt")?, numbered(row, StudyForm::Argilla))?;
    let place =
        |name: &str| (0..item.responses.len()).find(|&at| column(StudyForm::Argilla, at) == name);
    let mut answers: Vec<(String, PeopleAnswer)> = Vec::new();
    let columns = |question: &str| {
        let list =
            |end: &str| row.get(format!("{question}.responses{end}")).and_then(Value::as_array);
        let values = list("").cloned().unwrap_or_default();
        let users = list(".users").cloned().unwrap_or_default();
        let status = list(".status").cloned().unwrap_or_default();
        let rows = values.into_iter().enumerate().map(move |(at, value)| {
            let user = users.get(at).and_then(Value::as_str).unwrap_or("argilla").to_owned();
            let state = status.get(at).and_then(Value::as_str).unwrap_or("submitted").to_owned();
            (user, state, value)
        });
        rows.collect::<Vec<_>>()
    };
    for question in ["preference", "ranking"] {
        for (user, state, value) in columns(question) {
            let mut answer = PeopleAnswer::new(PeopleChoice::Skip);
            match (&value, state.as_str()) {
                (_, "draft") => continue,
                (Value::Null, _) | (_, "discarded") => {}
                (Value::String(name), _) => {
                    let known = choice_of(name);
                    answer.choice =
                        known.ok_or(format!("`{question}` is `{name}`, not response_1, ..))"))?;
                }
                (Value::Array(ranked), _) => {
                    answer.choice = PeopleChoice::Ranked;
                    let mut places = Vec::new();
                    for one in ranked {
                        let at = one["value"]
                            .as_str()
                            .and_then(place)
                            .ok_or("`ranking` names other responses")?;
                        places.push((one["rank"].as_u64().unwrap_or(u64::MAX), at));
                    }
                    places.sort_unstable();
                    answer.ranking = places.into_iter().map(|(_, at)| at).collect();
                }
                (other, _) => return Err(format!("`{question}.responses` has {other}")),
            }
            answers.push((user, answer));
        }
    }
    for (user, _, value) in columns("strength") {
        if let (Some((_, answer)), Some(value)) =
            (answers.iter_mut().find(|(name, _)| *name == user), value.as_i64())
        {
            answer.strength = Some(value as i8 - 3).filter(|_| (0..=6).contains(&value));
        }
    }
    for (user, _, value) in columns("note") {
        if let (Some((_, answer)), Some(text)) =
            (answers.iter_mut().find(|(name, _)| *name == user), value.as_str())
        {
            text.clone_into(&mut answer.note);
        }
    }
    let role = AnnotatorRole::Annotator;
    let answers = answers.into_iter().map(|(annotator, answer)| ReadAnswer {
        annotator,
        role,
        item: id.clone(),
        answer,
    });
    Ok((item, answers.collect()))
}

fn of_ground_truth(row: &Value) -> Found {
    // The source may be the prompt, or an object as text that has prompt and responses.
    let source = text_of(row.get("source"), "source")?;
    let inner: Option<Value> =
        serde_json::from_str(&source).ok().filter(|value: &Value| value.is_object());
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
    let item = item(id.clone(), prompt, responses)?;
    let jobs = row.as_object().into_iter().flat_map(Map::keys);
    let job = jobs
        .filter_map(|name| name.strip_suffix("-metadata"))
        .find(|name| row.get(*name).is_some())
        .ok_or("no label attribute with its `-metadata`")?;
    let role = AnnotatorRole::Annotator;
    let own = |annotator: &str, answer| ReadAnswer {
        annotator: annotator.to_owned(),
        role,
        item: id.clone(),
        answer,
    };
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
                answers.push(own(name, of_worker(&content)?));
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
            answers.push(own("ground-truth", PeopleAnswer::new(choice)));
        }
    }
    Ok((item, answers))
}

/// The answer of a worker: the value of the first field, or of its `label`, that names a choice.
fn of_worker(content: &Value) -> Result<PeopleAnswer, String> {
    let fields = content.as_object().ok_or("`content` is not an object")?;
    let ranking: Vec<usize> = parsed(fields.get("ranking")).unwrap_or_default();
    let named = |value: &Value| choice_of(value.as_str().or_else(|| value.get("label")?.as_str())?);
    let choice = match ranking.is_empty() {
        true => fields.values().find_map(named).ok_or("`content` names no response")?,
        false => PeopleChoice::Ranked,
    };
    Ok(PeopleAnswer {
        ranking,
        strength: parsed(fields.get("strength")),
        note: parsed(fields.get("note")).unwrap_or_default(),
        ..PeopleAnswer::new(choice)
    })
}

fn parsed<T: DeserializeOwned>(value: Option<&Value>) -> Option<T> {
    serde_json::from_value(value?.clone()).ok()
}

//! Parts that several forms share: names of choices and columns, times, and items without a place for everything.

use std::collections::{BTreeMap, BTreeSet};

use rlaif_core::{BadSetting, Metadata, Reply, TextOrMessages};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    answer::{BothOrders, PeopleAnswer, PeopleChoice},
    item::StudyItem,
    store::{Annotator, AnnotatorRole, StoredAnswer},
};

/// The form of a file of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StudyForm {
    /// JSON Lines, a row for each answer with everything that is known of it.
    Answers,
    /// JSON of Label Studio: tasks with annotations.
    LabelStudio,
    /// JSON of Argilla's records; flat rows (`preference.responses` and its siblings) are read, too.
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
    /// The order in which the responses were shown: places in the item; empty if the file does not tell.
    pub order: Vec<usize>,
    /// The time of the answer, in milliseconds since 1970; `None` if the file does not tell.
    pub at_ms: Option<i64>,
}

impl ReadAnswer {
    /// Checks the answer and its order against the number of responses of its item.
    pub(super) fn check(&self, responses: usize) -> Result<(), BadSetting> {
        let mut places = self.order.clone();
        places.sort_unstable();
        if !places.is_empty() && places != (0..responses).collect::<Vec<_>>() {
            let expected = format!("each place of the {responses} responses once, or none");
            return Err(BadSetting::new("order", format!("{:?}", self.order), expected));
        }
        self.answer.check(responses)
    }
}

/// Items and answers of a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReadAnswers {
    /// The items.
    pub items: Vec<StudyItem>,
    /// The answers.
    pub answers: Vec<ReadAnswer>,
    /// Ids of items that come from labels of a judge.
    pub labelled: BTreeSet<String>,
}

/// An answer with its annotator.
pub(super) type Given<'a> = (&'a Annotator, &'a StoredAnswer);
/// The item and the answers of a row, or its fault.
pub(super) type Found = Result<(StudyItem, Vec<ReadAnswer>), String>;

/// The column of metadata that has what another tool has no place for.
pub(super) const CARRIED: &str = "rlaif";

/// Parts of an item and of its answers that another tool has no place for. It passes them on as metadata.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Carried {
    /// The prompt, if it is a conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<TextOrMessages>,
    /// The responses, if one of them has a maker or messages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    responses: Vec<Reply>,
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<PeopleChoice>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    toxic: bool,
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
    /// Answers by the annotator's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    answers: BTreeMap<String, CarriedAnswer>,
}

/// Parts of an answer that another tool has no place for.
#[derive(Debug, Serialize, Deserialize)]
struct CarriedAnswer {
    role: AnnotatorRole,
    #[serde(default)]
    order: Vec<usize>,
    #[serde(default)]
    time: String,
    #[serde(default)]
    seconds: f64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    verdicts: BTreeMap<String, BothOrders>,
    /// Number of the annotation, for a tool that keeps it and not the annotator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotation: Option<u64>,
}

impl Carried {
    /// Numbers the annotations of the answers, in their order.
    pub(super) fn numbered(mut self, answers: &[Given<'_>], numbers: &[u64]) -> Self {
        for ((who, _), number) in answers.iter().zip(numbers) {
            if let Some(answer) = self.answers.get_mut(&who.name) {
                answer.annotation = Some(*number);
            }
        }
        self
    }

    /// The annotator of an annotation with this number.
    pub(super) fn annotator(&self, annotation: u64) -> Option<&str> {
        let mut answers = self.answers.iter();
        let found = answers.find(|(_, answer)| answer.annotation == Some(annotation));
        found.map(|(name, _)| name.as_str())
    }

    /// Names of the annotators.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.answers.keys().map(String::as_str)
    }

    pub(super) fn of(item: &StudyItem, answers: &[Given<'_>]) -> Self {
        let plain = |reply: &Reply| reply.maker.is_none() && reply.messages.is_empty();
        let answer = |(who, stored): &Given<'_>| {
            let carried = CarriedAnswer {
                role: who.role,
                order: stored.order.clone(),
                time: time(stored.at_ms),
                seconds: stored.answer.seconds,
                verdicts: stored.answer.verdicts.clone(),
                annotation: None,
            };
            (who.name.clone(), carried)
        };
        Self {
            prompt: (!matches!(item.prompt, TextOrMessages::Text(_))).then(|| item.prompt.clone()),
            responses: match item.responses.iter().all(plain) {
                true => Vec::new(),
                false => item.responses.clone(),
            },
            known: item.known,
            toxic: item.toxic,
            metadata: item.metadata.clone(),
            answers: answers.iter().map(answer).collect(),
        }
    }

    /// Reads the metadata, which a tool may have made a text.
    pub(super) fn read(value: Option<&Value>) -> Result<Self, String> {
        let read = match value {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::String(text)) => serde_json::from_str(text),
            Some(value) => serde_json::from_value(value.clone()),
        };
        read.map_err(|e| format!("`{CARRIED}` is not the metadata of an export: {e}"))
    }

    /// The item with its carried parts, unless the tool has changed its texts.
    pub(super) fn item(&self, mut item: StudyItem) -> StudyItem {
        if let Some(prompt) = &self.prompt
            && prompt.readable() == item.prompt.readable()
        {
            item.prompt = prompt.clone();
        }
        let texts = |replies: &[Reply]| replies.iter().map(|r| r.text.clone()).collect::<Vec<_>>();
        if texts(&self.responses) == texts(&item.responses) {
            item.responses.clone_from(&self.responses);
        }
        let (known, toxic, metadata) = (self.known, self.toxic, self.metadata.clone());
        StudyItem { known, toxic, metadata, ..item }
    }

    /// An answer with its carried parts.
    pub(super) fn answer(
        &self,
        annotator: &str,
        item: &str,
        mut answer: PeopleAnswer,
    ) -> ReadAnswer {
        let carried = self.answers.get(annotator);
        if let Some(carried) = carried {
            answer.verdicts.clone_from(&carried.verdicts);
            // Label Studio has a place for it.
            if answer.seconds == 0. {
                answer.seconds = carried.seconds;
            }
        }
        ReadAnswer {
            annotator: annotator.to_owned(),
            role: carried.map_or(AnnotatorRole::Annotator, |carried| carried.role),
            item: item.to_owned(),
            answer,
            order: carried.map(|carried| carried.order.clone()).unwrap_or_default(),
            at_ms: carried.and_then(|carried| time_of(&carried.time)),
        }
    }
}

/// A moment as RFC 3339 writes it.
pub(super) fn time(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map(|time| time.to_string()).unwrap_or_default()
}

/// The moment of such a text.
pub(super) fn time_of(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// Names of responses in the other tools' columns: `answer1`, `response_1`.
pub(super) fn column(form: StudyForm, place: usize) -> String {
    match form {
        StudyForm::LabelStudio => format!("answer{}", place + 1),
        StudyForm::Answers | StudyForm::Argilla | StudyForm::GroundTruth => {
            format!("response_{}", place + 1)
        }
    }
}

/// The place of the response with this column.
pub(super) fn place_of(form: StudyForm, item: &StudyItem, name: &str) -> Option<usize> {
    (0..item.responses.len()).find(|&at| column(form, at) == name)
}

/// The columns of responses, numbered from 1.
pub(super) fn numbered(row: &Value, form: StudyForm) -> Vec<Reply> {
    let texts = (0..).map_while(|place| row.get(column(form, place))?.as_str());
    texts.map(Reply::new).collect()
}

pub(super) fn choice_name(choice: PeopleChoice) -> &'static str {
    match choice {
        PeopleChoice::First => "first",
        PeopleChoice::Second => "second",
        PeopleChoice::Tie => "tie",
        PeopleChoice::BothBad => "both-bad",
        PeopleChoice::Skip => "skip",
        PeopleChoice::Ranked => "ranked",
    }
}

pub(super) fn choice_of(name: &str) -> Option<PeopleChoice> {
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

pub(super) fn text_of(value: Option<&Value>, name: &str) -> Result<String, String> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{name}` is {other}, not a text")),
        None => Err(format!("no `{name}`")),
    }
}

pub(super) fn id_text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn item_of(
    id: String,
    prompt: impl Into<TextOrMessages>,
    responses: Vec<Reply>,
) -> Result<StudyItem, String> {
    if responses.len() < 2 {
        return Err(format!("{} responses, at least 2 are needed", responses.len()));
    }
    Ok(StudyItem { prompt: prompt.into(), responses, ..StudyItem::pair(id, "", "", "") })
}

//! Reading of a row of each form.

use std::collections::BTreeMap;

use rlaif_core::{ChatOptions, Message, Metadata, TextOrMessages, python_json::json_text};
use serde_json::{Map, Value};

use super::form::RowForm;
use super::options::{Dialogues, Import, SafeRlhfVerdict};
use super::value::{
    HASHES, flattened, is_python, last_answer, messages, objects, of_csv, text_or_messages,
};
use crate::corpora::{end_of_prompt, spaced};
use crate::error::DataError;
use crate::row::{Row, number};
use crate::turns;

/// Contents of a row.
pub(super) enum Given {
    Compared {
        prompt: TextOrMessages,
        chosen: TextOrMessages,
        rejected: TextOrMessages,
    },
    /// Answers with scores; a higher score is better.
    Ranked {
        prompt: TextOrMessages,
        answers: Vec<(TextOrMessages, f64)>,
    },
    Labelled {
        prompt: TextOrMessages,
        response: TextOrMessages,
        scores: BTreeMap<String, f64>,
    },
    Unpaired {
        prompt: TextOrMessages,
        response: TextOrMessages,
        desirable: bool,
    },
    Answered {
        prompt: TextOrMessages,
        response: TextOrMessages,
    },
    /// A problem with its right answer, and a worked solution if there is one.
    Problem {
        prompt: TextOrMessages,
        solution: Option<String>,
        answer: Option<String>,
    },
    Whole(TextOrMessages),
    Steps {
        prompt: String,
        steps: Vec<String>,
        labels: Vec<bool>,
    },
    Prompt(TextOrMessages),
}

/// The content of a row together with its metadata.
pub struct Content {
    pub(super) given: Given,
    pub(super) chat: ChatOptions,
    pub(super) margin: Option<f64>,
    pub(super) metadata: Metadata,
    /// The text of the column of references that was named.
    pub(super) reference: Option<String>,
}

/// Reasons why a row gives no record.
pub(super) enum Nothing {
    Dropped(&'static str),
    Failed(DataError),
}

impl From<DataError> for Nothing {
    fn from(error: DataError) -> Self {
        Self::Failed(error)
    }
}

pub(super) const SAME: &str = "both responses are the same";
pub(super) const TIE: &str = "a tie";
pub(super) const NO_ANSWER: &str = "no answer";
const NOT_VALID: &str = "neither response is valid";

/// Reads a row by the names of its columns; its errors name the place.
struct Reading<'r, 'a> {
    row: &'r mut Row<'a>,
}

impl Reading<'_, '_> {
    fn has(&self, column: &str) -> bool {
        self.row.has(column)
    }

    fn text(&mut self, column: &str) -> Result<String, DataError> {
        self.row.text(column)
    }

    fn either(&mut self, column: &str) -> Result<TextOrMessages, DataError> {
        let value = self.row.take(column)?;
        let read = match self.row.has_texts_alone() {
            true => of_csv(&value).and_then(|value| text_or_messages(&value)),
            false => text_or_messages(&value),
        };
        read.map_err(|_| {
            let expected = match value.as_str().is_some_and(is_python) {
                true => "a text, or a list of messages as JSON (`json.dumps`, not Python's `str`)",
                false => "a text, or a list of messages with `role` and `content`",
            };
            self.row.wrong_type(column, expected, &value)
        })
    }

    /// A response; null is an empty one.
    fn said(&mut self, column: &str) -> Result<TextOrMessages, DataError> {
        match self.row.get(column) {
            Some(Value::Null) if self.row.not_finite(column).is_none() => Ok(String::new().into()),
            _ => self.either(column),
        }
    }

    fn messages(&mut self, column: &str) -> Result<Vec<Message>, DataError> {
        let value = self.row.take(column)?;
        messages(&value).map_err(|_| {
            let expected = "a list of messages with `role` and `content` (or `from` and `value`)";
            self.row.wrong_type(column, expected, &value)
        })
    }

    fn objects(
        &mut self,
        column: &str,
        expected: &'static str,
    ) -> Result<Vec<Map<String, Value>>, DataError> {
        let value = self.row.take(column)?;
        objects(&value).ok_or_else(|| self.row.wrong_type(column, expected, &value))
    }

    fn object(&mut self, column: &str) -> Result<Map<String, Value>, DataError> {
        let value = self.row.take(column)?;
        match json_text(&value).as_object() {
            Some(object) => Ok(object.clone()),
            None => Err(self.row.wrong_type(column, "an object", &value)),
        }
    }

    fn wrong(&self, column: &str, expected: &'static str, found: &Value) -> DataError {
        self.row.wrong_type(column, expected, found)
    }

    /// Turns as Arena's CSV has them: a JSON list of texts.
    fn turns(&mut self, column: &str) -> Result<Result<Vec<String>, Nothing>, DataError> {
        let value = self.row.take(column)?;
        let Value::Array(turns) = json_text(&value).into_owned() else {
            return Err(self.wrong(column, "a JSON list of turns", &value));
        };
        let texts: Option<Vec<String>> =
            turns.iter().map(|turn| turn.as_str().map(str::to_owned)).collect();
        match texts {
            Some(texts) => Ok(Ok(texts)),
            None if turns.iter().any(Value::is_null) => {
                Ok(Err(Nothing::Dropped("a turn is missing")))
            }
            None => Err(self.wrong(column, "a JSON list of turns", &value)),
        }
    }
}

/// Reads a row of a form.
pub(super) fn content(import: &Import, row: &mut Row<'_>) -> Result<Content, Nothing> {
    let mut metadata = Metadata::new();
    for column in &import.columns.metadata {
        row.expect(column)?;
        if let Some(value) = row.get(column).filter(|value| !value.is_null()) {
            metadata.insert(column.clone(), value.clone());
        }
    }
    let reference = match &import.columns.reference {
        Some(column) => {
            row.expect(column)?;
            match row.get(column) {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => Some(text.clone()),
                Some(other) => {
                    return Err(row.wrong_type(column, "a string", &other.clone()).into());
                }
            }
        }
        None => None,
    };
    let mut reading = Reading { row };
    let given = given(import, &mut reading, &mut metadata)?;
    let chat = chat(reading.row)?;
    let margin = match import.form {
        RowForm::Preference
        | RowForm::ImplicitPreference
        | RowForm::AlpacaPairs
        | RowForm::ShareGptPairs => row.optional_number("margin")?,
        _ if import.columns.needed.iter().any(|column| column == "margin") => {
            row.optional_number("margin")?
        }
        _ => None,
    };
    Ok(Content { given, chat, margin, metadata, reference })
}

/// The columns that TRL passes to the chat template.
fn chat(row: &mut Row<'_>) -> Result<ChatOptions, DataError> {
    let mut chat = ChatOptions::default();
    if row.has("tools") {
        let value = row.take("tools")?;
        let tools = ChatOptions::tools_of(&value);
        chat.tools = tools.map_err(|expected| row.wrong_type("tools", expected, &value))?;
    }
    if row.has("chat_template_kwargs") {
        let value = row.take("chat_template_kwargs")?;
        let kwargs = ChatOptions::kwargs_of(&value);
        let wrong = |expected| row.wrong_type("chat_template_kwargs", expected, &value);
        chat.kwargs = kwargs.map_err(wrong)?;
    }
    Ok(chat)
}

fn given(
    import: &Import,
    row: &mut Reading<'_, '_>,
    metadata: &mut Metadata,
) -> Result<Given, Nothing> {
    let dialogue = |text: String| match import.options.dialogues {
        Dialogues::Text => TextOrMessages::from(text),
        Dialogues::Messages => of_dialogue(&text).map_or_else(|| text.into(), Into::into),
    };
    Ok(match import.form {
        RowForm::Hh => return hh(import, row),
        RowForm::Preference | RowForm::ImplicitPreference => {
            scores(row, metadata)?;
            return preference(row);
        }
        RowForm::UltraFeedback => {
            let prompt = row.text("instruction")?.into();
            let completions = row.objects("completions", "a list of completions")?;
            let answers = completions
                .iter()
                .filter_map(|completion| {
                    let response = completion.get("response")?.as_str()?;
                    Some((response.into(), ultra_feedback_score(completion)?))
                })
                .collect();
            Given::Ranked { prompt, answers }
        }
        RowForm::UltraFeedbackResponses => {
            let column = if row.has("instruction") { "instruction" } else { "prompt" };
            let prompt = row.text(column)?.into();
            for (name, column) in
                [("score_chosen", "chosen_avg_rating"), ("score_rejected", "rejected_avg_rating")]
            {
                if let Some(score) = row.row.optional_number(column)? {
                    metadata.insert(name.to_owned(), score.into());
                }
            }
            let chosen = row.text("chosen_response")?.into();
            Given::Compared { prompt, chosen, rejected: row.text("rejected_response")?.into() }
        }
        RowForm::HelpSteer2 => {
            let mut scores = BTreeMap::new();
            for name in ["helpfulness", "correctness", "coherence", "complexity", "verbosity"] {
                if let Some(score) = row.row.optional_number(name)? {
                    scores.insert(name.to_owned(), score);
                }
            }
            if !scores.contains_key("helpfulness") {
                return Err(Nothing::Dropped("no score"));
            }
            let prompt = help_steer_prompt(row.text("prompt")?);
            Given::Labelled { prompt, response: row.text("response")?.into(), scores }
        }
        RowForm::HelpSteer2Preference => {
            let prompt = help_steer_prompt(row.text("prompt")?);
            let strength = row.row.number("preference_strength")?;
            metadata.insert("preference_strength".to_owned(), strength.into());
            let responses = [row.text("response_1")?.into(), row.text("response_2")?.into()];
            signed(prompt, responses, strength)?
        }
        RowForm::HelpSteer3 => {
            let column = if row.has("context") { "context" } else { "prompt" };
            let prompt = row.either(column)?;
            let strength = row.row.number("overall_preference")?;
            metadata.insert("preference_strength".to_owned(), strength.into());
            let responses = [row.text("response1")?.into(), row.text("response2")?.into()];
            signed(prompt, responses, strength)?
        }
        RowForm::SafeRlhf => {
            let prompt = row.text("prompt")?.into();
            let column = match import.options.safe_rlhf {
                SafeRlhfVerdict::Better => "better_response_id",
                SafeRlhfVerdict::Safer => "safer_response_id",
            };
            let best = row.row.number(column)?;
            for safe in ["is_response_0_safe", "is_response_1_safe"] {
                if let Some(value) = row.row.get(safe) {
                    metadata.insert(safe.to_owned(), value.clone());
                }
            }
            let [first, second] = [row.text("response_0")?.into(), row.text("response_1")?.into()];
            let (chosen, rejected) = match best {
                0.0 => (first, second),
                1.0 => (second, first),
                -1.0 => return Err(Nothing::Dropped(TIE)),
                other => return Err(row.wrong(column, "0 or 1", &other.into()).into()),
            };
            Given::Compared { prompt, chosen, rejected }
        }
        RowForm::ArenaCsv => {
            let [first, second] =
                [row.row.truth("winner_model_a")?, row.row.truth("winner_model_b")?];
            let asked = row.turns("prompt")??;
            let conversations =
                [row.turns("response_a")??, row.turns("response_b")??].map(|said| {
                    let turns = asked.iter().zip(&said);
                    turns
                        .flat_map(|(asked, said)| {
                            [Message::new("user", asked), Message::new("assistant", said)]
                        })
                        .collect::<Vec<_>>()
                });
            if first == second {
                return Err(Nothing::Dropped(TIE));
            }
            won(conversations, first)?
        }
        RowForm::Arena => {
            let winner = row.text("winner")?;
            let conversations =
                [row.messages("conversation_a")?, row.messages("conversation_b")?].map(flattened);
            let first = match winner.as_str() {
                "model_a" => true,
                "model_b" => false,
                _ if winner.starts_with("tie") => return Err(Nothing::Dropped(TIE)),
                "both_bad" | "bothbad" | "both bad" => {
                    return Err(Nothing::Dropped("both are bad"));
                }
                _ => {
                    let expected = "`model_a`, `model_b`, `tie` or `both_bad`";
                    return Err(row.wrong("winner", expected, &winner.into()).into());
                }
            };
            won(conversations, first)?
        }
        RowForm::Nectar => {
            let prompt = row.text("prompt")?;
            let answers = row.objects("answers", "a list of answers with a `rank` each")?;
            let text = import.options.dialogues == Dialogues::Text;
            // In Nectar the prompt ends in the space that the answer lacks.
            let space = if text && prompt.ends_with("Assistant: ") { " " } else { "" };
            let answers = answers
                .iter()
                .filter_map(|answer| {
                    let said = answer.get("answer")?.as_str()?;
                    // The first rank is the best.
                    Some((format!("{space}{said}").into(), -number(answer.get("rank")?)?))
                })
                .collect();
            let prompt = if text { prompt.trim_end_matches(' ').to_owned() } else { prompt };
            Given::Ranked { prompt: dialogue(prompt), answers }
        }
        RowForm::Shp => {
            let prompt = row.text("history")?.into();
            let first = row.row.truth("labels")?;
            for name in ["score_A", "score_B", "score_ratio"] {
                if let Some(score) = row.row.optional_number(name)? {
                    metadata.insert(name.to_owned(), score.into());
                }
            }
            let responses = [row.text("human_ref_A")?.into(), row.text("human_ref_B")?.into()];
            compared(prompt, responses, first)
        }
        RowForm::SummaryComparison => {
            let prompt = summary_prompt(row)?;
            let summaries = row.objects("summaries", "two summaries with a `text` each")?;
            let [first, second] = summaries.as_slice() else {
                return Err(row
                    .wrong("summaries", "two summaries", &summaries.len().into())
                    .into());
            };
            let choice = row.row.number("choice")?;
            let texts = [first, second].map(|summary| {
                summary.get("text").and_then(Value::as_str).unwrap_or_default().into()
            });
            match choice {
                0.0 => compared(prompt, texts, true),
                1.0 => compared(prompt, texts, false),
                other => return Err(row.wrong("choice", "0 or 1", &other.into()).into()),
            }
        }
        RowForm::SummaryAxes => {
            let prompt = summary_prompt(row)?;
            let summary = row.object("summary")?;
            let response = summary.get("text").and_then(Value::as_str).unwrap_or_default().into();
            let axes = summary.get("axes").and_then(Value::as_object);
            let scores: BTreeMap<String, f64> = axes
                .into_iter()
                .flatten()
                .filter_map(|(name, score)| Some((name.clone(), number(score)?)))
                .collect();
            if scores.is_empty() {
                return Err(Nothing::Dropped("no score"));
            }
            Given::Labelled { prompt, response, scores }
        }
        RowForm::PrometheusPreference => {
            let prompt = row.text("orig_instruction")?.into();
            let verdict = row.text("orig_preference")?;
            let first = match verdict.trim() {
                "A" => true,
                "B" => false,
                _ => return Err(row.wrong("orig_preference", "A or B", &verdict.into()).into()),
            };
            for name in ["orig_score_A", "orig_score_B", "orig_criteria"] {
                if let Some(value) = row.row.get(name).filter(|value| !value.is_null()) {
                    metadata.insert(name.to_owned(), value.clone());
                }
            }
            let responses =
                [row.text("orig_response_A")?.into(), row.text("orig_response_B")?.into()];
            compared(prompt, responses, first)
        }
        RowForm::PrometheusFeedback => {
            let prompt = row.text("orig_instruction")?.into();
            let scores = [("score".to_owned(), row.row.number("orig_score")?)].into();
            Given::Labelled { prompt, response: row.text("orig_response")?.into(), scores }
        }
        RowForm::AlpacaPairs => {
            let prompt = alpaca_prompt(row)?;
            scores(row, metadata)?;
            let (chosen, rejected) = (row.said("chosen")?, row.said("rejected")?);
            return paired(Some(prompt), chosen, rejected);
        }
        RowForm::ShareGptPairs => {
            let prompt = share_gpt(row)?.into();
            scores(row, metadata)?;
            let (chosen, rejected) = (row.said("chosen")?, row.said("rejected")?);
            return paired(Some(prompt), chosen, rejected);
        }
        RowForm::OrcaPairs => {
            let mut asked = Vec::new();
            if let Some(system) = row.row.optional_text("system")?.filter(|text| !text.is_empty()) {
                asked.push(Message::new("system", system));
            }
            let column = if row.has("question") { "question" } else { "input" };
            asked.push(Message::new("user", row.text(column)?));
            let [chosen, rejected] = [row.said("chosen")?, row.said("rejected")?]
                .map(|said| said.into_messages("assistant").into());
            Given::Compared { prompt: asked.into(), chosen, rejected }
        }
        RowForm::Steps => {
            let prompt = row.text("prompt")?;
            let wrong = "a list of texts, one for each step";
            let value = row.row.take("completions")?;
            let steps: Option<Vec<String>> = json_text(&value)
                .as_array()
                .and_then(|steps| steps.iter().map(|s| s.as_str().map(str::to_owned)).collect());
            let steps = steps.ok_or_else(|| row.wrong("completions", wrong, &value))?;
            let value = row.row.take("labels")?;
            let labels: Option<Vec<bool>> = json_text(&value).as_array().and_then(|labels| {
                labels.iter().map(|l| l.as_bool().or(number(l).map(|n| n > 0.0))).collect()
            });
            match labels {
                Some(labels) if labels.len() == steps.len() => {
                    Given::Steps { prompt, steps, labels }
                }
                _ => {
                    let expected = "a list of true and false, as many as there are completions";
                    return Err(row.wrong("labels", expected, &value).into());
                }
            }
        }
        RowForm::Unpaired => {
            let desirable = row.row.truth("label")?;
            let (prompt, response) = if row.has("prompt") {
                (row.either("prompt")?, row.said("completion")?)
            } else {
                let said = row.messages("messages")?;
                let (asked, said) = last_answer(&said).ok_or(Nothing::Dropped(NO_ANSWER))?;
                (asked.into(), said.into())
            };
            Given::Unpaired { prompt, response, desirable }
        }
        RowForm::PromptCompletion => {
            let named = row.row.get("completion").is_some();
            let column = if named { "completion" } else { "response" };
            Given::Answered { prompt: row.either("prompt")?, response: row.said(column)? }
        }
        RowForm::ShareGpt => Given::Whole(share_gpt(row)?.into()),
        RowForm::Messages => Given::Whole(row.messages("messages")?.into()),
        RowForm::Dapo => {
            let mut truth = row.object("reward_model")?;
            for column in ["data_source", "ability", "extra_info"] {
                if let Some(value) = row.row.get(column).filter(|value| !value.is_null()) {
                    metadata.insert(column.to_owned(), value.clone());
                }
            }
            let answer = truth.shift_remove("ground_truth").as_ref().and_then(plain);
            Given::Problem { prompt: row.either("prompt")?, solution: None, answer }
        }
        RowForm::Gsm8k => {
            let prompt = row.text("question")?.into();
            let solution = row.row.optional_text("answer")?;
            let marked = solution.as_deref().and_then(|solution| solution.rsplit_once(HASHES));
            let answer = marked.map(|(_, answer)| answer.trim().to_owned());
            Given::Problem { prompt, solution, answer }
        }
        RowForm::Math => {
            let prompt = row.text("problem")?.into();
            let solution = row.row.optional_text("solution")?;
            // Without a column of answers, a reward finds the answer in the solution.
            let answer = row.row.get("answer").and_then(plain).or_else(|| solution.clone());
            Given::Problem { prompt, solution, answer }
        }
        RowForm::Alpaca => {
            let (prompt, response) = (alpaca_prompt(row)?, row.text("output")?);
            // A text that is answered in a conversation is what the assistant says.
            let response = match &prompt {
                TextOrMessages::Text(_) => response.into(),
                TextOrMessages::Messages(_) => vec![Message::new("assistant", response)].into(),
            };
            Given::Answered { prompt, response }
        }
        RowForm::Text => Given::Whole(row.text("text")?.into()),
        RowForm::Prompt => Given::Prompt(row.either("prompt")?),
    })
}

/// A text or a number as text; a list or an object as JSON.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn compared(prompt: TextOrMessages, [a, b]: [TextOrMessages; 2], first: bool) -> Given {
    let (chosen, rejected) = if first { (a, b) } else { (b, a) };
    Given::Compared { prompt, chosen, rejected }
}

/// A conversation in ShareGPT's columns, with the system message that stands beside it.
fn share_gpt(row: &mut Reading<'_, '_>) -> Result<Vec<Message>, DataError> {
    let column = if row.has("conversations") { "conversations" } else { "conversation" };
    let mut said = row.messages(column)?;
    if let Some(system) = row.row.optional_text("system")?.filter(|text| !text.is_empty())
        && said.first().is_some_and(|first| first.role != "system")
    {
        said.insert(0, Message::new("system", system));
    }
    Ok(said)
}

/// Instruction and input, a text; or a conversation, with a system message or earlier turns beside
/// them.
fn alpaca_prompt(row: &mut Reading<'_, '_>) -> Result<TextOrMessages, DataError> {
    let mut prompt = row.text("instruction")?;
    if let Some(input) = row.row.optional_text("input")?.filter(|text| !text.is_empty()) {
        prompt = format!("{prompt}\n\n{input}");
    }
    let mut said: Vec<Message> = row
        .row
        .optional_text("system")?
        .filter(|text| !text.is_empty())
        .map(|system| Message::new("system", system))
        .into_iter()
        .collect();
    if row.has("history") {
        let value = row.row.take("history")?;
        let wrong =
            || row.wrong("history", "a list of pairs, each an instruction and its answer", &value);
        let turns = json_text(&value);
        let turns = match turns.as_array() {
            Some(turns) => turns.as_slice(),
            None if value.as_str().is_some_and(|text| text.trim().is_empty()) => &[],
            None => return Err(wrong()),
        };
        for turn in turns {
            let turn: Option<Vec<&str>> =
                turn.as_array().and_then(|turn| turn.iter().map(Value::as_str).collect());
            let Some([asked, answered]) = turn.as_deref() else { return Err(wrong()) };
            said.extend([Message::new("user", *asked), Message::new("assistant", *answered)]);
        }
    }
    if said.is_empty() {
        return Ok(prompt.into());
    }
    said.push(Message::new("user", prompt));
    Ok(said.into())
}

/// HelpSteer's strengths: below zero, the first response is better; -100 means no preference.
fn signed(
    prompt: TextOrMessages,
    responses: [TextOrMessages; 2],
    strength: f64,
) -> Result<Given, Nothing> {
    if strength <= -100.0 {
        return Err(Nothing::Dropped(NOT_VALID));
    }
    if strength == 0.0 {
        return Err(Nothing::Dropped(TIE));
    }
    Ok(compared(prompt, responses, strength < 0.0))
}

/// Two conversations, one of them preferred.
fn won([a, b]: [Vec<Message>; 2], first: bool) -> Result<Given, Nothing> {
    let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (asked, a, b) = (a[..common].to_vec(), a[common..].to_vec(), b[common..].to_vec());
    if asked.is_empty() {
        return Err(Nothing::Dropped("the conversations have no beginning in common"));
    }
    if a.is_empty() && b.is_empty() {
        return Err(Nothing::Dropped(SAME));
    }
    Ok(compared(asked.into(), [a.into(), b.into()], first))
}

/// The mean of the aspects, which is `fine-grained_score`; some rows have 10 for 1 in
/// `overall_score`.
fn ultra_feedback_score(completion: &Map<String, Value>) -> Option<f64> {
    let named = |name: &str| completion.get(name).and_then(number);
    named("fine-grained_score")
        .or_else(|| {
            let aspects = completion.get("annotations")?.as_object()?;
            let ratings: Vec<f64> =
                aspects.values().filter_map(|aspect| number(aspect.get("Rating")?)).collect();
            (!ratings.is_empty()).then(|| ratings.iter().sum::<f64>() / ratings.len() as f64)
        })
        .or_else(|| named("overall_score"))
}

/// HelpSteer2 separates turns by `<extra_id_1>` and the speaker's name.
fn help_steer_prompt(prompt: String) -> TextOrMessages {
    const MARK: &str = "<extra_id_1>";
    if !prompt.contains(MARK) {
        return prompt.into();
    }
    let mut parts = prompt.split(MARK);
    let first = parts.next().unwrap_or_default().trim_end();
    let mut said = vec![Message::new("user", first)];
    for part in parts {
        let (speaker, text) = part.split_once('\n').unwrap_or((part, ""));
        let role = match speaker.trim() {
            "Assistant" => "assistant",
            "User" => "user",
            // The text does not follow that notation after all.
            _ => return prompt.into(),
        };
        said.push(Message::new(role, text.trim_end_matches('\n')));
    }
    said.into()
}

fn summary_prompt(row: &mut Reading<'_, '_>) -> Result<TextOrMessages, DataError> {
    let info = row.object("info")?;
    let text = |key: &str| info.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (post, title) = (text("post"), text("title").unwrap_or_default());
    Ok(match (post, text("article")) {
        (Some(post), _) => {
            let subreddit = text("subreddit").unwrap_or_default();
            format!("SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:").into()
        }
        (None, Some(article)) => format!("{article}\n\nTL;DR:").into(),
        (None, None) => {
            let expected = "an object with a `post` or an `article`";
            return Err(row.wrong("info", expected, &Value::Object(info)));
        }
    })
}

/// The scores of binarized UltraFeedback, in either spelling.
fn scores(row: &mut Reading<'_, '_>, metadata: &mut Metadata) -> Result<(), DataError> {
    for (name, columns) in [
        ("score_chosen", ["score_chosen", "chosen-rating"]),
        ("score_rejected", ["score_rejected", "rejected-rating"]),
    ] {
        for column in columns {
            if let Some(score) = row.row.optional_number(column)? {
                metadata.insert(name.to_owned(), score.into());
            }
        }
    }
    Ok(())
}

/// Parses HH's notation into messages.
fn of_dialogue(text: &str) -> Option<Vec<Message>> {
    let mut messages: Vec<Message> = turns::parse(text).ok()?.map(|turn| turn.message()).collect();
    // The prompt ends in the marker of the role that answers.
    if messages.last().is_some_and(|m| m.role == "assistant" && m.content.is_empty()) {
        messages.pop();
    }
    (!messages.is_empty()).then_some(messages)
}

fn hh(import: &Import, row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let prompt = row.row.optional_text("prompt")?;
    let (chosen, rejected) = (row.text("chosen")?, row.text("rejected")?);
    let (prompt, chosen, rejected) = match prompt {
        Some(prompt) => {
            let (chosen, rejected) = (spaced(&prompt, chosen), spaced(&prompt, rejected));
            (prompt, chosen, rejected)
        }
        None => match end_of_prompt(&chosen, &rejected) {
            Some(at) => {
                (chosen[..at].to_owned(), chosen[at..].to_owned(), rejected[at..].to_owned())
            }
            None => {
                return Err(Nothing::Dropped("the dialogues have no beginning in common"));
            }
        },
    };
    if import.options.dialogues == Dialogues::Text {
        return Ok(Given::Compared {
            prompt: prompt.into(),
            chosen: chosen.into(),
            rejected: rejected.into(),
        });
    }
    // The text after the prompt's marker may contain further turns.
    let said = |text: &str| {
        let messages = of_dialogue(&format!("\n\nAssistant:{text}"));
        messages.unwrap_or_default()
    };
    let asked = of_dialogue(&prompt).ok_or(Nothing::Dropped("the prompt is not a dialogue"))?;
    let (chosen, rejected) = (said(&chosen).into(), said(&rejected).into());
    Ok(Given::Compared { prompt: asked.into(), chosen, rejected })
}

/// TRL's preference format, with or without a prompt column: `extract_prompt` of TRL 1.16.
fn preference(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let (chosen, rejected) = (row.said("chosen")?, row.said("rejected")?);
    let prompt = if row.has("prompt") { Some(row.either("prompt")?) } else { None };
    paired(prompt, chosen, rejected)
}

/// A preference of responses, or of conversations that hold the prompt.
fn paired(
    prompt: Option<TextOrMessages>,
    chosen: TextOrMessages,
    rejected: TextOrMessages,
) -> Result<Given, Nothing> {
    Ok(match (prompt, chosen, rejected) {
        (Some(TextOrMessages::Messages(asked)), chosen, rejected) => {
            let mut said = [chosen, rejected].map(|said| said.into_messages("assistant"));
            // In some rows both columns hold the whole conversation.
            if said.iter().all(|said| said.len() > asked.len() && said.starts_with(&asked)) {
                said = said.map(|said| said[asked.len()..].to_vec());
            }
            let [chosen, rejected] = said.map(TextOrMessages::from);
            Given::Compared { prompt: asked.into(), chosen, rejected }
        }
        (
            Some(prompt @ TextOrMessages::Text(_)),
            chosen @ TextOrMessages::Text(_),
            rejected @ TextOrMessages::Text(_),
        ) => Given::Compared { prompt, chosen, rejected },
        (None, TextOrMessages::Text(chosen), TextOrMessages::Text(rejected)) => {
            let common = chosen.bytes().zip(rejected.bytes()).take_while(|(a, b)| a == b).count();
            let mut at = chosen.floor_char_boundary(common);
            // The space before a word belongs to the response.
            if chosen[..at].ends_with(' ') {
                at -= 1;
            }
            let (prompt, chosen, rejected) = (&chosen[..at], &chosen[at..], &rejected[at..]);
            compared(prompt.into(), [chosen.into(), rejected.into()], true)
        }
        // The conversations include the prompt, even where it also has a column of its own.
        (prompt, chosen, rejected) => {
            let [a, b] = [chosen, rejected].map(|said| said.into_messages("assistant"));
            match (won([a.clone(), b.clone()], true), prompt) {
                (Ok(given), _) => given,
                (Err(Nothing::Dropped(_)), Some(prompt)) => Given::Compared {
                    prompt: prompt.into_messages("user").into(),
                    chosen: a.into(),
                    rejected: b.into(),
                },
                (Err(nothing), _) => return Err(nothing),
            }
        }
    })
}

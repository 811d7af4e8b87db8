//! Reading of a row of each form.

use std::collections::BTreeMap;

use rlaif_core::{ChatOptions, Message, Metadata, TextOrMessages, python_json::json_text};
use serde_json::{Map, Value};

use super::form::RowForm;
use super::options::{Dialogues, Import, SafeRlhfVerdict};
use super::pairs::{compared, hh, of_dialogue, paired, preference, signed, won};
use super::prompts::{alpaca_prompt, help_steer_prompt, share_gpt, summary_prompt};
use super::reading::{Content, Given, NO_ANSWER, Nothing, Reading, TIE};
use super::value::{HASHES, flattened, last_answer};
use crate::error::DataError;
use crate::row::{Row, number};

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
    let needed = || import.columns.needed.iter().any(|column| column == "margin");
    let margin = if may_have_margin(import.form) || needed() {
        reading.row.optional_number("margin")?
    } else {
        None
    };
    Ok(Content { given, chat, margin, metadata, reference })
}

/// `true` for the forms whose column `margin` is the difference of a pair's rewards.
fn may_have_margin(form: RowForm) -> bool {
    use RowForm as F;
    match form {
        F::Preference | F::ImplicitPreference | F::AlpacaPairs | F::ShareGptPairs => true,
        F::Hh
        | F::UltraFeedback
        | F::UltraFeedbackResponses
        | F::HelpSteer2
        | F::HelpSteer2Preference
        | F::HelpSteer3
        | F::SafeRlhf
        | F::ArenaCsv
        | F::Arena
        | F::Nectar
        | F::Shp
        | F::SummaryComparison
        | F::SummaryAxes
        | F::PrometheusPreference
        | F::PrometheusFeedback
        | F::OrcaPairs
        | F::Steps
        | F::Unpaired
        | F::PromptCompletion
        | F::ShareGpt
        | F::Messages
        | F::Dapo
        | F::Gsm8k
        | F::Math
        | F::Alpaca
        | F::Text
        | F::Prompt => false,
    }
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

/// The content of a row, by its form.
fn given(
    import: &Import,
    row: &mut Reading<'_, '_>,
    metadata: &mut Metadata,
) -> Result<Given, Nothing> {
    match import.form {
        RowForm::Hh => hh(import, row),
        RowForm::Preference | RowForm::ImplicitPreference => {
            scores(row, metadata)?;
            preference(row)
        }
        RowForm::UltraFeedback => ultra_feedback(row),
        RowForm::UltraFeedbackResponses => ultra_feedback_responses(row, metadata),
        RowForm::HelpSteer2 => help_steer_2(row),
        RowForm::HelpSteer2Preference => help_steer_2_preference(row, metadata),
        RowForm::HelpSteer3 => help_steer_3(row, metadata),
        RowForm::SafeRlhf => safe_rlhf(import, row, metadata),
        RowForm::ArenaCsv => arena_csv(row),
        RowForm::Arena => arena(row),
        RowForm::Nectar => nectar(import, row),
        RowForm::Shp => shp(row, metadata),
        RowForm::SummaryComparison => summary_comparison(row),
        RowForm::SummaryAxes => summary_axes(row),
        RowForm::PrometheusPreference => prometheus_preference(row, metadata),
        RowForm::PrometheusFeedback => prometheus_feedback(row),
        RowForm::AlpacaPairs => alpaca_pairs(row, metadata),
        RowForm::ShareGptPairs => share_gpt_pairs(row, metadata),
        RowForm::OrcaPairs => orca_pairs(row),
        RowForm::Steps => steps(row),
        RowForm::Unpaired => unpaired(row),
        RowForm::PromptCompletion => prompt_completion(row),
        RowForm::ShareGpt => Ok(Given::Whole(share_gpt(row)?.into())),
        RowForm::Messages => Ok(Given::Whole(row.messages("messages")?.into())),
        RowForm::Dapo => dapo(row, metadata),
        RowForm::Gsm8k => gsm8k(row),
        RowForm::Math => math(row),
        RowForm::Alpaca => alpaca(row),
        RowForm::Text => Ok(Given::Whole(row.text("text")?.into())),
        RowForm::Prompt => Ok(Given::Prompt(row.either("prompt")?)),
    }
}

/// The ranked completions of UltraFeedback.
fn ultra_feedback(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let prompt = row.text("instruction")?.into();
    let completions = row.objects("completions", "a list of completions")?;
    let answers = completions
        .iter()
        .filter_map(|completion| {
            let response = completion.get("response")?.as_str()?;
            Some((response.into(), ultra_feedback_score(completion)?))
        })
        .collect();
    Ok(Given::Ranked { prompt, answers })
}

/// A pair of UltraFeedback, with the means of its ratings.
fn ultra_feedback_responses(
    row: &mut Reading<'_, '_>,
    metadata: &mut Metadata,
) -> Result<Given, Nothing> {
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
    Ok(Given::Compared { prompt, chosen, rejected: row.text("rejected_response")?.into() })
}

/// A response of HelpSteer2 with its ratings.
fn help_steer_2(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
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
    Ok(Given::Labelled { prompt, response: row.text("response")?.into(), scores })
}

/// A pair of HelpSteer2 with the strength of the preference.
fn help_steer_2_preference(
    row: &mut Reading<'_, '_>,
    metadata: &mut Metadata,
) -> Result<Given, Nothing> {
    let prompt = help_steer_prompt(row.text("prompt")?);
    let strength = row.row.number("preference_strength")?;
    metadata.insert("preference_strength".to_owned(), strength.into());
    let responses = [row.text("response_1")?.into(), row.text("response_2")?.into()];
    signed(prompt, responses, strength)
}

/// A pair of HelpSteer3 with the strength of the preference.
fn help_steer_3(row: &mut Reading<'_, '_>, metadata: &mut Metadata) -> Result<Given, Nothing> {
    let column = if row.has("context") { "context" } else { "prompt" };
    let prompt = row.either(column)?;
    let strength = row.row.number("overall_preference")?;
    metadata.insert("preference_strength".to_owned(), strength.into());
    let responses = [row.text("response1")?.into(), row.text("response2")?.into()];
    signed(prompt, responses, strength)
}

/// A pair of PKU-SafeRLHF.
fn safe_rlhf(
    import: &Import,
    row: &mut Reading<'_, '_>,
    metadata: &mut Metadata,
) -> Result<Given, Nothing> {
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
    Ok(Given::Compared { prompt, chosen, rejected })
}

/// A pair of Chatbot Arena's table.
fn arena_csv(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let [first, second] = [row.row.truth("winner_model_a")?, row.row.truth("winner_model_b")?];
    let asked = row.turns("prompt")??;
    let conversations = [row.turns("response_a")??, row.turns("response_b")??].map(|said| {
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
    won(conversations, first)
}

/// Two conversations of Chatbot Arena.
fn arena(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
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
    won(conversations, first)
}

/// The ranked answers of Nectar.
fn nectar(import: &Import, row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
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
    let prompt = match import.options.dialogues {
        Dialogues::Text => prompt.into(),
        Dialogues::Messages => of_dialogue(&prompt).map_or_else(|| prompt.into(), Into::into),
    };
    Ok(Given::Ranked { prompt, answers })
}

/// Two comments of SHP.
fn shp(row: &mut Reading<'_, '_>, metadata: &mut Metadata) -> Result<Given, Nothing> {
    let prompt = row.text("history")?.into();
    let first = row.row.truth("labels")?;
    for name in ["score_A", "score_B", "score_ratio"] {
        if let Some(score) = row.row.optional_number(name)? {
            metadata.insert(name.to_owned(), score.into());
        }
    }
    let responses = [row.text("human_ref_A")?.into(), row.text("human_ref_B")?.into()];
    Ok(compared(prompt, responses, first))
}

/// Two summaries, one of them chosen.
fn summary_comparison(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let prompt = summary_prompt(row)?;
    let summaries = row.objects("summaries", "two summaries with a `text` each")?;
    let [first, second] = summaries.as_slice() else {
        return Err(row.wrong("summaries", "two summaries", &summaries.len().into()).into());
    };
    let choice = row.row.number("choice")?;
    let texts = [first, second]
        .map(|summary| summary.get("text").and_then(Value::as_str).unwrap_or_default().into());
    Ok(match choice {
        0.0 => compared(prompt, texts, true),
        1.0 => compared(prompt, texts, false),
        other => return Err(row.wrong("choice", "0 or 1", &other.into()).into()),
    })
}

/// A summary with its ratings.
fn summary_axes(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
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
    Ok(Given::Labelled { prompt, response, scores })
}

/// A pair of Prometheus.
fn prometheus_preference(
    row: &mut Reading<'_, '_>,
    metadata: &mut Metadata,
) -> Result<Given, Nothing> {
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
    let responses = [row.text("orig_response_A")?.into(), row.text("orig_response_B")?.into()];
    Ok(compared(prompt, responses, first))
}

/// A response of Prometheus with its score.
fn prometheus_feedback(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let prompt = row.text("orig_instruction")?.into();
    let scores = [("score".to_owned(), row.row.number("orig_score")?)].into();
    Ok(Given::Labelled { prompt, response: row.text("orig_response")?.into(), scores })
}

/// A pair in the form of Alpaca.
fn alpaca_pairs(row: &mut Reading<'_, '_>, metadata: &mut Metadata) -> Result<Given, Nothing> {
    let prompt = alpaca_prompt(row)?;
    scores(row, metadata)?;
    let (chosen, rejected) = (row.said("chosen")?, row.said("rejected")?);
    paired(Some(prompt), chosen, rejected)
}

/// A pair in the form of ShareGPT.
fn share_gpt_pairs(row: &mut Reading<'_, '_>, metadata: &mut Metadata) -> Result<Given, Nothing> {
    let prompt = share_gpt(row)?.into();
    scores(row, metadata)?;
    let (chosen, rejected) = (row.said("chosen")?, row.said("rejected")?);
    paired(Some(prompt), chosen, rejected)
}

/// A pair of Orca.
fn orca_pairs(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let mut asked = Vec::new();
    if let Some(system) = row.row.optional_text("system")?.filter(|text| !text.is_empty()) {
        asked.push(Message::new("system", system));
    }
    let column = if row.has("question") { "question" } else { "input" };
    asked.push(Message::new("user", row.text(column)?));
    let [chosen, rejected] = [row.said("chosen")?, row.said("rejected")?]
        .map(|said| said.into_messages("assistant").into());
    Ok(Given::Compared { prompt: asked.into(), chosen, rejected })
}

/// A response in steps, with a label for each.
fn steps(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
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
    Ok(match labels {
        Some(labels) if labels.len() == steps.len() => Given::Steps { prompt, steps, labels },
        _ => {
            let expected = "a list of true and false, as many as there are completions";
            return Err(row.wrong("labels", expected, &value).into());
        }
    })
}

/// A response with its label.
fn unpaired(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let desirable = row.row.truth("label")?;
    let (prompt, response) = if row.has("prompt") {
        (row.either("prompt")?, row.said("completion")?)
    } else {
        let said = row.messages("messages")?;
        let (asked, said) = last_answer(&said).ok_or(Nothing::Dropped(NO_ANSWER))?;
        (asked.into(), said.into())
    };
    Ok(Given::Unpaired { prompt, response, desirable })
}

/// A prompt with its response.
fn prompt_completion(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let named = row.row.get("completion").is_some();
    let column = if named { "completion" } else { "response" };
    Ok(Given::Answered { prompt: row.either("prompt")?, response: row.said(column)? })
}

/// A problem of DAPO.
fn dapo(row: &mut Reading<'_, '_>, metadata: &mut Metadata) -> Result<Given, Nothing> {
    let mut truth = row.object("reward_model")?;
    for column in ["data_source", "ability", "extra_info"] {
        if let Some(value) = row.row.get(column).filter(|value| !value.is_null()) {
            metadata.insert(column.to_owned(), value.clone());
        }
    }
    let answer = truth.shift_remove("ground_truth").as_ref().and_then(plain);
    Ok(Given::Problem { prompt: row.either("prompt")?, solution: None, answer })
}

/// A problem of GSM8K.
fn gsm8k(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let prompt = row.text("question")?.into();
    let solution = row.row.optional_text("answer")?;
    let marked = solution.as_deref().and_then(|solution| solution.rsplit_once(HASHES));
    let answer = marked.map(|(_, answer)| answer.trim().to_owned());
    Ok(Given::Problem { prompt, solution, answer })
}

/// A problem with its solution.
fn math(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let prompt = row.text("problem")?.into();
    let solution = row.row.optional_text("solution")?;
    // Without a column of answers, a reward finds the answer in the solution.
    let answer = row.row.get("answer").and_then(plain).or_else(|| solution.clone());
    Ok(Given::Problem { prompt, solution, answer })
}

/// An instruction with its response.
fn alpaca(row: &mut Reading<'_, '_>) -> Result<Given, Nothing> {
    let (prompt, response) = (alpaca_prompt(row)?, row.text("output")?);
    // A text that is answered in a conversation is what the assistant says.
    let response = match &prompt {
        TextOrMessages::Text(_) => response.into(),
        TextOrMessages::Messages(_) => vec![Message::new("assistant", response)].into(),
    };
    Ok(Given::Answered { prompt, response })
}

/// A text or a number as text; a list or an object as JSON.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
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

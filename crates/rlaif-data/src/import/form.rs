//! Recognition of a data set by the columns of its rows.

use rlaif_core::{TextOrMessages, python_json::json_text};
use serde_json::{Map, Value};

use super::value::{HASHES, is_messages, objects, text_or_messages};

/// A known form of rows. [`Import::find`](crate::Import::find) tells it by the columns, and the
/// first values where columns are not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RowForm {
    /// Anthropic's HH: two complete dialogues.
    Hh,
    /// UltraFeedback as published: completions with annotations.
    UltraFeedback,
    /// UltraFeedback, binarized by argilla, in its older columns.
    UltraFeedbackResponses,
    /// HelpSteer and HelpSteer2: scored responses, two rows for each prompt.
    HelpSteer2,
    /// HelpSteer2's preferences.
    HelpSteer2Preference,
    /// HelpSteer3's preferences.
    HelpSteer3,
    /// PKU-SafeRLHF.
    SafeRlhf,
    /// Arena's CSV from Kaggle: JSON within CSV.
    ArenaCsv,
    /// Arena's conversations (33k, 100k, 140k).
    Arena,
    /// Nectar: ranked answers.
    Nectar,
    /// SHP: two comments.
    Shp,
    /// OpenAI's comparisons of summaries.
    SummaryComparison,
    /// OpenAI's summaries, scored along axes.
    SummaryAxes,
    /// Prometheus' Preference-Collection.
    PrometheusPreference,
    /// Prometheus' Feedback-Collection.
    PrometheusFeedback,
    /// Intel's Orca pairs: `system`, `question` (or `input`), `chosen`, `rejected`.
    OrcaPairs,
    /// Alpaca's `instruction` and `input` with `chosen` and `rejected`.
    AlpacaPairs,
    /// ShareGPT's `conversations` with `chosen` and `rejected`, the next turn each.
    ShareGptPairs,
    /// TRL: steps with labels.
    Steps,
    /// TRL: a response with a verdict; also `messages` with a `label`.
    Unpaired,
    /// TRL: a preference with its prompt; also UltraFeedback as binarized by others, with scores.
    Preference,
    /// TRL: a preference without a prompt column.
    ImplicitPreference,
    /// TRL: prompt and completion; also `prompt` and `response`.
    PromptCompletion,
    /// ShareGPT: `conversations` of `from` and `value`.
    ShareGpt,
    /// TRL: language modelling on `messages`.
    Messages,
    /// DAPO-Math-17k, and other data in verl's columns: the answer is in `reward_model`.
    Dapo,
    /// GSM8K: the answer is behind `####`.
    Gsm8k,
    /// MATH, MATH-500, AIME: `problem` with a `solution`, an `answer` or both.
    Math,
    /// Alpaca: `instruction`, `input`, `output`.
    Alpaca,
    /// TRL: language modelling on `text`.
    Text,
    /// TRL: only prompts.
    Prompt,
}

/// Every form, the more particular before the more general.
pub(super) const FORMS: [RowForm; 31] = [
    RowForm::SafeRlhf,
    RowForm::HelpSteer3,
    RowForm::HelpSteer2Preference,
    RowForm::HelpSteer2,
    RowForm::ArenaCsv,
    RowForm::Arena,
    RowForm::Nectar,
    RowForm::Shp,
    RowForm::SummaryComparison,
    RowForm::SummaryAxes,
    RowForm::UltraFeedback,
    RowForm::UltraFeedbackResponses,
    RowForm::PrometheusPreference,
    RowForm::PrometheusFeedback,
    RowForm::AlpacaPairs,
    RowForm::ShareGptPairs,
    RowForm::OrcaPairs,
    RowForm::Hh,
    RowForm::Steps,
    RowForm::Unpaired,
    RowForm::Preference,
    RowForm::ImplicitPreference,
    RowForm::PromptCompletion,
    RowForm::ShareGpt,
    RowForm::Messages,
    RowForm::Dapo,
    RowForm::Gsm8k,
    RowForm::Math,
    RowForm::Alpaca,
    RowForm::Text,
    RowForm::Prompt,
];

impl RowForm {
    /// Name of the form in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hh => "HH",
            Self::UltraFeedback => "UltraFeedback",
            Self::UltraFeedbackResponses => "UltraFeedback, binarized by argilla",
            Self::HelpSteer2 => "HelpSteer2",
            Self::HelpSteer2Preference => "HelpSteer2 preferences",
            Self::HelpSteer3 => "HelpSteer3",
            Self::SafeRlhf => "PKU-SafeRLHF",
            Self::ArenaCsv => "Arena (CSV)",
            Self::Arena => "Arena",
            Self::Nectar => "Nectar",
            Self::Shp => "SHP",
            Self::SummaryComparison => "OpenAI summaries, comparisons",
            Self::SummaryAxes => "OpenAI summaries, axes",
            Self::PrometheusPreference => "Prometheus Preference-Collection",
            Self::PrometheusFeedback => "Prometheus Feedback-Collection",
            Self::OrcaPairs => "Orca pairs",
            Self::AlpacaPairs => "Alpaca preference",
            Self::ShareGptPairs => "ShareGPT preference",
            Self::Steps => "TRL stepwise supervision",
            Self::Unpaired => "TRL unpaired preference",
            Self::Preference => "TRL preference",
            Self::ImplicitPreference => "TRL preference with implicit prompt",
            Self::PromptCompletion => "TRL prompt-completion",
            Self::ShareGpt => "ShareGPT",
            Self::Messages => "TRL language modelling (messages)",
            Self::Dapo => "DAPO",
            Self::Gsm8k => "GSM8K",
            Self::Math => "MATH",
            Self::Alpaca => "Alpaca",
            Self::Text => "TRL language modelling (text)",
            Self::Prompt => "TRL prompt-only",
        }
    }

    /// The columns by which the form is recognised.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Hh | Self::ImplicitPreference => &["chosen", "rejected"],
            Self::UltraFeedback => &["instruction", "completions"],
            Self::UltraFeedbackResponses => &["chosen_response", "rejected_response"],
            Self::HelpSteer2 => &["prompt", "response", "helpfulness", "verbosity"],
            Self::HelpSteer2Preference => &["response_1", "response_2", "preference_strength"],
            Self::HelpSteer3 => &["response1", "response2", "overall_preference"],
            Self::SafeRlhf => &["prompt", "response_0", "response_1", "better_response_id"],
            Self::ArenaCsv => &["prompt", "response_a", "response_b", "winner_model_a"],
            Self::Arena => &["conversation_a", "conversation_b", "winner"],
            Self::Nectar => &["prompt", "answers"],
            Self::Shp => &["history", "human_ref_A", "human_ref_B", "labels"],
            Self::SummaryComparison => &["info", "summaries", "choice"],
            Self::SummaryAxes => &["info", "summary"],
            Self::PrometheusPreference => {
                &["orig_instruction", "orig_response_A", "orig_response_B", "orig_preference"]
            }
            Self::PrometheusFeedback => &["orig_instruction", "orig_response", "orig_score"],
            Self::OrcaPairs => &["question", "chosen", "rejected"],
            Self::AlpacaPairs => &["instruction", "chosen", "rejected"],
            Self::ShareGptPairs => &["conversations", "chosen", "rejected"],
            Self::Steps => &["prompt", "completions", "labels"],
            Self::Unpaired => &["prompt", "completion", "label"],
            Self::Preference => &["prompt", "chosen", "rejected"],
            Self::PromptCompletion => &["prompt", "completion"],
            Self::ShareGpt => &["conversations"],
            Self::Messages => &["messages"],
            Self::Dapo => &["prompt", "reward_model"],
            Self::Gsm8k => &["question", "answer"],
            Self::Math => &["problem"],
            Self::Alpaca => &["instruction", "output"],
            Self::Text => &["text"],
            Self::Prompt => &["prompt"],
        }
    }

    /// Forms whose rows have a right answer, which becomes the reference of a prompt.
    pub const PROBLEMS: [Self; 3] = [Self::Dapo, Self::Gsm8k, Self::Math];

    /// Finds the form of rows.
    ///
    /// ```
    /// use rlaif_data::RowForm;
    /// let row = serde_json::json!({"prompt": "Hi", "completion": "Hello.", "label": true});
    /// assert_eq!(RowForm::find(&[row.as_object().unwrap().clone()]), Some(RowForm::Unpaired));
    /// ```
    pub fn find(rows: &[Map<String, Value>]) -> Option<Self> {
        let first = rows.first()?;
        FORMS.into_iter().find(|form| form.fits(first, rows))
    }

    /// `true` if the rows have this form, possibly among others.
    pub(super) fn is_of(self, rows: &[Map<String, Value>]) -> bool {
        rows.first().is_some_and(|first| self.fits(first, rows))
    }

    fn fits(self, first: &Map<String, Value>, rows: &[Map<String, Value>]) -> bool {
        let has = |column: &str| first.contains_key(column);
        // One row of several may have null in a column.
        let value =
            |column: &str| rows.iter().filter_map(|row| row.get(column)).find(|v| !v.is_null());
        let dialogue = |column: &str| {
            value(column).and_then(Value::as_str).is_some_and(|text| {
                crate::turns::parse(text).is_ok() && text.contains("\n\nAssistant:")
            })
        };
        let pair = has("chosen") && has("rejected") && !has("prompt");
        match self {
            Self::PromptCompletion => has("prompt") && (has("completion") || has("response")),
            Self::Hh => {
                has("chosen")
                    && has("rejected")
                    && (if value("prompt").is_some() {
                        dialogue("prompt") && value("chosen").is_some_and(Value::is_string)
                    } else {
                        dialogue("chosen") && dialogue("rejected")
                    })
            }
            Self::OrcaPairs => pair && (has("question") || has("input") && !has("instruction")),
            Self::AlpacaPairs => pair && has("instruction"),
            Self::ShareGptPairs => {
                let answer = |column: &str| {
                    value(column).is_some_and(|said| match text_or_messages(said) {
                        Ok(TextOrMessages::Messages(said)) => {
                            said.first().is_some_and(|first| first.role == "assistant")
                        }
                        Ok(TextOrMessages::Text(_)) => true,
                        Err(_) => false,
                    })
                };
                let conversation = value("conversations").or_else(|| value("conversation"));
                pair && conversation.is_some_and(is_messages)
                    && answer("chosen")
                    && answer("rejected")
            }
            Self::Nectar => {
                self.all(first)
                    && value("answers").and_then(objects).is_some_and(|answers| {
                        answers.first().is_some_and(|a| a.contains_key("rank"))
                    })
            }
            Self::UltraFeedback => {
                self.all(first)
                    && value("completions").and_then(objects).is_some_and(|completions| {
                        completions.first().is_none_or(|c| c.contains_key("response"))
                    })
            }
            Self::ShareGpt => value("conversations").or_else(|| value("conversation")).is_some(),
            Self::Unpaired => {
                let said = has("prompt") && has("completion");
                has("label") && (said || value("messages").is_some_and(is_messages))
            }
            Self::Messages => value("messages").is_some_and(is_messages),
            Self::Dapo => {
                let truth = value("reward_model").map(json_text);
                let truth = truth.as_deref().and_then(Value::as_object);
                has("prompt") && truth.is_some_and(|truth| truth.contains_key("ground_truth"))
            }
            Self::Gsm8k => {
                let marked = |answer: &Value| answer.as_str().is_some_and(|a| a.contains(HASHES));
                let answers = rows.iter().filter_map(|row| row.get("answer"));
                has("question") && answers.into_iter().any(marked)
            }
            Self::Math => {
                let text = value("problem").is_some_and(Value::is_string);
                text && (has("solution") || has("answer"))
            }
            Self::UltraFeedbackResponses
            | Self::HelpSteer2
            | Self::HelpSteer2Preference
            | Self::HelpSteer3
            | Self::SafeRlhf
            | Self::ArenaCsv
            | Self::Arena
            | Self::Shp
            | Self::SummaryComparison
            | Self::SummaryAxes
            | Self::PrometheusPreference
            | Self::PrometheusFeedback
            | Self::Steps
            | Self::Preference
            | Self::ImplicitPreference
            | Self::Alpaca
            | Self::Text
            | Self::Prompt => self.all(first),
        }
    }

    fn all(self, row: &Map<String, Value>) -> bool {
        self.columns().iter().all(|column| row.contains_key(*column))
    }
}

impl std::fmt::Display for RowForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

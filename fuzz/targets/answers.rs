//! Answers of judges, responses that are verified, and printed texts.

use std::path::Path;
use std::sync::OnceLock;

use rlaif::core::{Exchange, RewardModel, hidden, printable};
use rlaif::rewards::Format;
use rlaif::rewards::rubric::{Answer, AnswerForm, PairRubric, Rubric};
use rlaif::rewards::verify::{
    AnswerPlace, InstructionCheck, Instructions, JsonSchemaCheck, TestScore, same_answer,
};
use serde_json::Value;

use crate::files::{files, outcome, text, texts_of, told};

pub(crate) fn answers() -> Vec<Vec<u8>> {
    texts_of(&[
        "7",
        "Score: 8/10, because it is clear.",
        "{\"reason\": \"fine\", \"score\": 3.5}",
        "```json\n{\"justification\": \"x\", \"score\": \"4\",}\n```",
        "<think>between 3 and 5</think>\n**4**",
        "A is better. Preferred response=1",
        "I cannot say.",
    ])
}

pub(crate) fn judge_answer(input: &[u8], _: &Path) -> String {
    static RUBRICS: OnceLock<Vec<Rubric>> = OnceLock::new();
    let rubrics = RUBRICS.get_or_init(|| {
        let forms = [AnswerForm::Number, AnswerForm::NumberThenReason, AnswerForm::Json];
        ["toxicity", "quality", "helpfulness", "summary"]
            .iter()
            .flat_map(|name| forms.map(|form| (name, form)))
            .filter_map(|(name, form)| Rubric::preset(name).ok()?.answered_as(form).ok())
            .collect()
    });
    let answer = Answer::text(text(input));
    let mut all: Vec<String> = rubrics
        .iter()
        .map(|rubric| match rubric.read(&answer) {
            Ok(reading) => {
                assert!(reading.score.get().is_finite(), "a score that is not finite");
                "fine".to_owned()
            }
            Err(none) => none.to_string(),
        })
        .collect();
    for name in PairRubric::presets() {
        all.extend(PairRubric::preset(name).map(|rubric| outcome(rubric.read(&answer))));
    }
    all.sort();
    all.dedup();
    all.join(" ")
}

pub(crate) fn mathematics() -> Vec<Vec<u8>> {
    let rows =
        text(&files(&["crates/rlaif-rewards/tests/fixtures/math_answers.jsonl"])[0]).into_owned();
    let pair = |line: &str| {
        let row: Value = serde_json::from_str(line).ok()?;
        Some(format!("{}\n\n{}", row["response"].as_str()?, row["gold"].as_str()?).into_bytes())
    };
    rows.lines().filter_map(pair).take(200).collect()
}

pub(crate) fn maths(input: &[u8], _: &Path) -> String {
    let input = text(input);
    let (response, right) = input.split_once("\n\n").unwrap_or((&input, "1"));
    let places = [AnswerPlace::Anywhere, AnswerPlace::Boxed];
    places.map(|place| same_answer(response, right, place).to_string()).join(" ")
}

pub(crate) fn instructions() -> Vec<Vec<u8>> {
    texts_of(&[
        r#"{"response": "No comma", "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"], "kwargs": [{}, {"num_words": 3, "relation": "at least"}]}"#,
        r#"{"response": "* a\n* b", "instruction_id_list": ["detectable_format:number_bullet_lists", "startend:end_checker"], "kwargs": [{"num_bullets": 2}, {"end_phrase": "b"}]}"#,
        r#"{"response": "P.S. [x] TITLE", "instruction_id_list": ["detectable_content:postscript", "detectable_content:number_placeholders", "keywords:letter_frequency"], "kwargs": [{"postscript_marker": "P.S."}, {"num_placeholders": 1}, {"letter": "t", "let_frequency": 2, "let_relation": "less than"}]}"#,
        r#"{"response": "Hello. You?", "instruction_id_list": ["language:response_language", "length_constraints:number_sentences", "combination:repeat_prompt"], "kwargs": [{"language": "de"}, {"num_sentences": 2, "relation": "less than"}, {"prompt_to_repeat": "Hello."}]}"#,
        r#"{"response": "a\n\n***\n\nb", "instruction_id_list": ["length_constraints:number_paragraphs", "length_constraints:nth_paragraph_first_word", "detectable_format:multiple_sections"], "kwargs": [{"num_paragraphs": 2}, {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "b"}, {"section_spliter": "SECTION", "num_sections": 2}]}"#,
    ])
}

pub(crate) fn instruction(input: &[u8], _: &Path) -> String {
    let Ok(Value::Object(row)) = serde_json::from_slice(input) else { return "none".to_owned() };
    let response = row.get("response").and_then(Value::as_str).unwrap_or("a response, and more");
    let exchange = Exchange { metadata: Some(&row), ..Exchange::new("p", response) };
    scored(&Instructions::new(TestScore::Share).check(InstructionCheck::Loose), &exchange)
}

pub(crate) fn scored(reward: &dyn RewardModel, exchange: &Exchange<'_>) -> String {
    match reward.score(std::slice::from_ref(exchange)) {
        Ok(scores) => {
            let reasons = &scores.reasons;
            format!("{} {reasons:?}", scores.total[0].is_some())
        }
        Err(error) => told(&error),
    }
}

pub(crate) fn schemas() -> Vec<Vec<u8>> {
    let rows =
        text(&files(&["crates/rlaif-rewards/tests/fixtures/json_schemas.jsonl"])[0]).into_owned();
    rows.lines().take(100).map(|line| line.as_bytes().to_vec()).collect()
}

pub(crate) fn schema(input: &[u8], _: &Path) -> String {
    let Ok(row) = serde_json::from_slice::<Value>(input) else { return "none".to_owned() };
    let schema = row.get("schema").unwrap_or(&row);
    match JsonSchemaCheck::new(schema) {
        Ok(check) => {
            let value = row.pointer("/cases/0/value").unwrap_or(&row);
            scored(&check, &Exchange::new("p", &value.to_string()))
        }
        Err(error) => told(&error),
    }
}

pub(crate) fn patterns() -> Vec<Vec<u8>> {
    texts_of(&["^(a|b)+$\naab", "(?i)\\d{3}-\\p{L}\n123-x", "(?:x{1,5}){2,}[^y]\nxxxxxz"])
}

pub(crate) fn pattern(input: &[u8], _: &Path) -> String {
    let input = text(input);
    let (pattern, response) = input.split_once('\n').unwrap_or((&input, "a"));
    match Format::new(pattern) {
        Ok(format) => scored(&format, &Exchange::new("p", response)),
        Err(error) => told(&error),
    }
}

pub(crate) fn texts() -> Vec<Vec<u8>> {
    texts_of(&["plain\ttext\n", "\u{1b}[31mred\u{1b}[0m", "a\u{202e}b", "👩\u{200d}🚀", "x\r\ny"])
}

pub(crate) fn output(input: &[u8], _: &Path) -> String {
    let input = text(input);
    let shown = printable(&input);
    assert!(shown.chars().all(|c| hidden(c).is_none()), "a hidden character is printed");
    // A code is six characters or more, between brackets.
    assert!(shown.lines().all(|line| line.chars().count() <= 4_096 * 10 + 60), "a long line");
    (shown == input).to_string()
}

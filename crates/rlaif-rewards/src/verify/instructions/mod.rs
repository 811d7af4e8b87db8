//! The verifiable instructions of IFEval.

mod language;
mod sentences;

use regex::{Regex, RegexBuilder};
use rlaif_core::{Exchange, RewardError, RewardModel, Scores};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::{language::language, sentences::count_sentences};
use super::{
    code::TestScore,
    truth::{Truth, kind, scored},
};

/// The texts that instructions are checked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InstructionCheck {
    /// The response.
    #[default]
    Strict,
    /// The response, or the response without its first line, its last line, or its asterisks.
    Loose,
}

/// The share of a row's instructions that a response follows, or 1 if it follows all.
///
/// Rows are as IFEval's ([Zhou et al. 2023](https://arxiv.org/abs/2311.07911)): `instruction_id_list` has the
/// names of the instructions, `kwargs` an object of arguments for each, in which null is as absent. All 25
/// instructions are known. Verdicts are those of the published code, except for two that need models in
/// Python: sentences are counted by rules, and languages are told by their scripts and most frequent words.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::verify::{Instructions, TestScore};
/// let row = serde_json::json!({
///     "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
///     "kwargs": [{}, {"num_words": 3, "relation": "at least"}],
/// });
/// let exchange = Exchange { metadata: row.as_object(), ..Exchange::new("p", "No comma") };
/// let scores = Instructions::new(TestScore::Share).score(&[exchange])?;
/// assert_eq!(scores.total[0].unwrap().get(), 0.5);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Instructions {
    score: TestScore,
    check: InstructionCheck,
}

impl Instructions {
    /// A strict check.
    pub fn new(score: TestScore) -> Self {
        Self { score, check: InstructionCheck::Strict }
    }

    /// Sets the texts that are checked.
    #[must_use]
    pub fn check(self, check: InstructionCheck) -> Self {
        Self { check, ..self }
    }

    fn one(self, exchange: &Exchange<'_>) -> Result<f32, String> {
        let list = |name: &str| {
            let value = Truth::named(Some(name)).find(exchange)?;
            let wrong = || format!("`{name}` is {}; expected a list", kind(value));
            value.as_array().ok_or_else(wrong)
        };
        let names = list("instruction_id_list")?;
        let kwargs = list("kwargs")?;
        if names.is_empty() || names.len() != kwargs.len() {
            return Err(format!(
                "the row has {} instructions and `kwargs` for {}; expected as many, one at least",
                names.len(),
                kwargs.len()
            ));
        }
        let versions = match self.check {
            InstructionCheck::Strict => vec![exchange.response.to_owned()],
            InstructionCheck::Loose => loosened(exchange.response),
        };
        let mut followed = 0;
        for (name, arguments) in names.iter().zip(kwargs) {
            let name = name.as_str().ok_or("an instruction's name is not a text")?;
            let empty = Map::new();
            let of = arguments.as_object().unwrap_or(&empty);
            let asked = Asked { name, of, prompt: exchange.prompt };
            let mut follows = false;
            for version in &versions {
                // Nothing follows no instruction.
                follows |= asked.is_followed(version)? && !version.trim().is_empty();
            }
            followed += usize::from(follows);
        }
        Ok(match self.score {
            TestScore::All => f32::from(followed == names.len()),
            TestScore::Share => followed as f32 / names.len() as f32,
        })
    }
}

impl RewardModel for Instructions {
    fn name(&self) -> &'static str {
        "instructions"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        scored(self.name(), batch, |exchange| self.one(exchange))
    }
}

/// The response, and what is left of it without its first and last lines and its asterisks.
fn loosened(response: &str) -> Vec<String> {
    let lines: Vec<&str> = response.split('\n').collect();
    let last = lines.len();
    let part = |from: usize, to: usize| {
        lines.get(from..to.max(from)).unwrap_or_default().join("\n").trim().to_owned()
    };
    let all =
        [response.to_owned(), part(1, last), part(0, last - 1), part(1, last.saturating_sub(1))];
    let plain: Vec<String> = all.iter().map(|text| text.replace('*', "")).collect();
    all.into_iter().chain(plain).collect()
}

/// An instruction with its arguments.
struct Asked<'a> {
    name: &'a str,
    of: &'a Map<String, Value>,
    prompt: &'a str,
}

impl Asked<'_> {
    fn missing(&self, key: &str, expected: &str) -> String {
        format!("the instruction `{}` lacks `{key}`, {expected}", self.name)
    }

    fn count(&self, key: &str) -> Result<usize, String> {
        let value = self.of.get(key).and_then(Value::as_f64).filter(|n| *n >= 0.);
        value.map(|n| n as usize).ok_or_else(|| self.missing(key, "a whole number"))
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        self.of.get(key).and_then(Value::as_str).ok_or_else(|| self.missing(key, "a text"))
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>, String> {
        let list = self.of.get(key).and_then(Value::as_array);
        let texts = list.and_then(|all| all.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| self.missing(key, "a list of texts"))
    }

    /// Compares a count as the argument `relation` says.
    fn compared(&self, found: usize, relation: &str, than: &str) -> Result<bool, String> {
        let than = self.count(than)?;
        match self.text(relation)? {
            "less than" => Ok(found < than),
            "at least" => Ok(found >= than),
            other => Err(format!(
                "the instruction `{}` has `{relation}` = {other:?}; expected \"less than\" or \"at least\"",
                self.name
            )),
        }
    }

    fn is_followed(&self, said: &str) -> Result<bool, String> {
        let trimmed = said.trim();
        Ok(match self.name {
            "keywords:existence" => {
                self.texts("keywords")?.iter().all(|word| matches(word, said) > 0)
            }
            "keywords:frequency" => {
                let found = matches(self.text("keyword")?.trim(), said);
                self.compared(found, "relation", "frequency")?
            }
            "keywords:forbidden_words" => {
                let words = self.texts("forbidden_words")?;
                words.iter().all(|word| matches(&format!(r"\b{word}\b"), said) == 0)
            }
            "keywords:letter_frequency" => {
                let letter = self.text("letter")?.to_lowercase();
                let found = said.to_lowercase().matches(letter.as_str()).count();
                self.compared(found, "let_relation", "let_frequency")?
            }
            "language:response_language" => {
                let wanted = self.text("language")?;
                language(said).is_none_or(|found| found == wanted)
            }
            "length_constraints:number_sentences" => {
                self.compared(count_sentences(said), "relation", "num_sentences")?
            }
            "length_constraints:number_paragraphs" => {
                let parts: Vec<&str> = split(r"\s?\*\*\*\s?", said);
                let last = parts.len() - 1;
                let inner = parts
                    .iter()
                    .enumerate()
                    .all(|(at, part)| at == 0 || at == last || !part.trim().is_empty());
                let ends = [0, last].iter().filter(|at| parts[**at].trim().is_empty()).count();
                // The first part is the last one, if there is one.
                let ends = if last == 0 { ends.min(1) } else { ends };
                inner && (parts.len() - ends) == self.count("num_paragraphs")?
            }
            "length_constraints:number_words" => {
                self.compared(matches(r"\w+", said), "relation", "num_words")?
            }
            "length_constraints:nth_paragraph_first_word" => self.first_word(said)?,
            "detectable_content:number_placeholders" => {
                matches(r"\[.*?\]", said) >= self.count("num_placeholders")?
            }
            "detectable_content:postscript" => {
                let said = said.to_lowercase();
                let pattern = match self.text("postscript_marker")?.trim() {
                    "P.P.S" => r"(?m)\s*p\.\s?p\.\s?s.*$".to_owned(),
                    "P.S." => r"(?m)\s*p\.\s?s\..*$".to_owned(),
                    marker => format!(r"(?m)\s*{}.*$", marker.to_lowercase()),
                };
                matches(&pattern, &said) > 0
            }
            "detectable_format:number_bullet_lists" => {
                let stars = matches(r"(?m)^\s*\*[^\*].*$", said);
                stars + matches(r"(?m)^\s*-.*$", said) == self.count("num_bullets")?
            }
            "detectable_format:constrained_response" => {
                ["My answer is yes.", "My answer is no.", "My answer is maybe."]
                    .iter()
                    .any(|answer| trimmed.contains(answer))
            }
            "detectable_format:number_highlighted_sections" => {
                let filled = |pattern: &str| {
                    let found = Regex::new(pattern).ok().map(|pattern| {
                        let all = pattern.find_iter(said);
                        all.filter(|found| !found.as_str().trim_matches('*').trim().is_empty())
                            .count()
                    });
                    found.unwrap_or_default()
                };
                filled(r"\*[^\n\*]*\*") + filled(r"\*\*[^\n\*]*\*\*")
                    >= self.count("num_highlights")?
            }
            "detectable_format:multiple_sections" => {
                let mark = self.text("section_spliter")?.trim();
                let parts = split(&format!(r"\s?{mark}\s?\d+\s?"), said);
                parts.len() > self.count("num_sections")?
            }
            "detectable_format:json_format" => {
                let marks = ["```json", "```Json", "```JSON", "```"];
                let inner = marks
                    .iter()
                    .fold(trimmed, |text, mark| text.strip_prefix(mark).unwrap_or(text));
                let inner = inner.strip_suffix("```").unwrap_or(inner);
                serde_json::from_str::<Value>(inner.trim()).is_ok()
            }
            "detectable_format:title" => {
                let titles = Regex::new(r"<<[^\n]+>>").ok();
                titles.is_some_and(|titles| {
                    titles.find_iter(said).any(|title| {
                        let title = title.as_str().trim_start_matches('<').trim_end_matches('>');
                        !title.trim().is_empty()
                    })
                })
            }
            "combination:two_responses" => {
                let parts: Vec<&str> = said.split("******").collect();
                let last = parts.len() - 1;
                let empty = |part: &str| part.trim().is_empty();
                let inner =
                    parts.iter().enumerate().any(|(at, part)| at != 0 && at != last && empty(part));
                let said: Vec<&str> =
                    parts.into_iter().filter(|part| !empty(part)).map(str::trim).collect();
                !inner && matches!(said.as_slice(), [one, two] if one != two)
            }
            "combination:repeat_prompt" => {
                let repeated = self.of.get("prompt_to_repeat").and_then(Value::as_str);
                let repeated = repeated.unwrap_or(self.prompt).trim().to_lowercase();
                trimmed.to_lowercase().starts_with(&repeated)
            }
            "startend:end_checker" => {
                let end = self.text("end_phrase")?.trim().to_lowercase();
                trimmed.trim_matches('"').to_lowercase().ends_with(&end)
            }
            "startend:quotation" => {
                trimmed.chars().count() > 1 && trimmed.starts_with('"') && trimmed.ends_with('"')
            }
            "change_case:english_capital" => is_upper(said) && is_english(said),
            "change_case:english_lowercase" => is_lower(said) && is_english(said),
            "change_case:capital_word_frequency" => {
                let found = words(said).into_iter().filter(|word| is_upper(word)).count();
                self.compared(found, "capital_relation", "capital_frequency")?
            }
            "punctuation:no_comma" => !said.contains(','),
            other => return Err(format!("the instruction `{other}` is not one of IFEval's 25")),
        })
    }

    fn first_word(&self, said: &str) -> Result<bool, String> {
        let (paragraphs, nth) = (self.count("num_paragraphs")?, self.count("nth_paragraph")?);
        let wanted = self.text("first_word")?.to_lowercase();
        let parts: Vec<&str> = said.split("\n\n").collect();
        let filled = parts.iter().filter(|part| !part.trim().is_empty()).count();
        let paragraph = nth.checked_sub(1).and_then(|at| parts.get(at)).map(|part| part.trim());
        let Some(word) =
            paragraph.filter(|_| nth <= filled).and_then(|part| part.split_whitespace().next())
        else {
            return Ok(false);
        };
        let word = word.trim_start_matches('\'').trim_start_matches('"');
        let first: String =
            word.chars().take_while(|c| !matches!(c, '.' | ',' | '?' | '!' | '\'' | '"')).collect();
        Ok(filled == paragraphs && first.to_lowercase() == wanted)
    }
}

/// Matches of a pattern, in any case; what is not a pattern is a text.
fn matches(pattern: &str, said: &str) -> usize {
    let build = |pattern: &str| RegexBuilder::new(pattern).case_insensitive(true).build();
    build(pattern)
        .or_else(|_| build(&regex::escape(pattern)))
        .map(|found| found.find_iter(said).count())
        .unwrap_or_default()
}

fn split<'a>(pattern: &str, said: &'a str) -> Vec<&'a str> {
    match Regex::new(pattern) {
        Ok(found) => found.split(said).collect(),
        Err(_) => vec![said],
    }
}

/// Python's `isupper`: there is a letter with case, and none in lower case.
fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
}

fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
}

fn is_english(text: &str) -> bool {
    language(text).is_none_or(|found| found == "en")
}

/// Words as the Treebank has them: punctuation and contractions apart.
fn words(text: &str) -> Vec<String> {
    const ENDINGS: [&str; 7] = ["n't", "'s", "'m", "'d", "'ll", "'re", "'ve"];
    let edge = |c: char| c.is_ascii_punctuation() && !matches!(c, '-' | '_' | '/' | '\'' | '.');
    let mut found = Vec::new();
    for word in text.split_whitespace() {
        for part in word.split(|c: char| edge(c) || matches!(c, '“' | '”' | '…')) {
            let part = part.trim_matches(['\'']);
            let lower = part.to_ascii_lowercase();
            let ending = ENDINGS
                .iter()
                .find(|ending| lower.ends_with(**ending) && lower.len() > ending.len());
            match ending.and_then(|ending| part.split_at_checked(part.len() - ending.len())) {
                Some((stem, ending)) => found.extend([stem.to_owned(), ending.to_owned()]),
                None => found.push(part.to_owned()),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    fn followed(
        name: &str,
        kwargs: &Value,
        response: &str,
        check: InstructionCheck,
    ) -> Result<bool, String> {
        let row = json!({"instruction_id_list": [name], "kwargs": [kwargs]});
        let exchange =
            Exchange { metadata: row.as_object(), ..Exchange::new("Name a prime.", response) };
        let reward = Instructions { check, ..Instructions::new(TestScore::All) };
        let scores = reward.score(&[exchange]).unwrap();
        let found = scores.total[0].map(|score| score.get() == 1.);
        found.ok_or_else(|| scores.reasons[0].1.clone())
    }

    #[test]
    fn verdicts_are_those_of_ifeval() {
        // By `tests/fixtures/export_instructions.py`.
        let text = include_str!("../../../tests/fixtures/instructions.jsonl");
        let mut lines = text.lines();
        let responses: Vec<String> = serde_json::from_str(lines.next().unwrap()).unwrap();
        let (mut all, mut off) = (0, Vec::new());
        for line in lines {
            let row: Value = serde_json::from_str(line).unwrap();
            let (name, verdicts) =
                (row["name"].as_str().unwrap(), row["followed"].as_str().unwrap());
            for (response, verdict) in responses.iter().zip(verdicts.chars()) {
                let found =
                    followed(name, &row["kwargs"], response, InstructionCheck::Strict).unwrap();
                all += 1;
                if found != (verdict == '1') {
                    off.push((name.to_owned(), response.clone()));
                }
            }
        }
        // Models of languages and of sentences: a language of a few words is a guess of both.
        for (name, response) in &off {
            let of_language =
                name.starts_with("language:") || name.starts_with("change_case:english_");
            let words: HashSet<&str> = response.split_whitespace().collect();
            let guess = of_language && words.len() < 8;
            let rare = name.ends_with("number_sentences") && response.contains(". ");
            assert!(guess || rare, "{name}: {response:?}");
        }
        assert!(all == 4_187 && off.len() <= 34, "{} of {all} differ: {off:?}", off.len());
    }

    #[test]
    fn loose_accuracy_forgives_first_and_last_lines_and_asterisks() {
        let end = json!({"end_phrase": "the end"});
        let said = "Sure!\nIt is *the end*\nAnything else?";
        assert_eq!(
            followed("startend:end_checker", &end, said, InstructionCheck::Strict),
            Ok(false)
        );
        assert_eq!(followed("startend:end_checker", &end, said, InstructionCheck::Loose), Ok(true));
        assert_eq!(
            followed("punctuation:no_comma", &json!({}), "", InstructionCheck::Loose),
            Ok(false)
        );
    }

    #[test]
    fn rows_that_ask_for_nothing_known_have_no_score_and_the_reason() {
        for (name, kwargs, says) in [
            ("keywords:existance", json!({}), "not one of IFEval's 25"),
            ("keywords:existence", json!({}), "lacks `keywords`, a list of texts"),
            (
                "length_constraints:number_words",
                json!({"num_words": 3, "relation": "more"}),
                "at least",
            ),
        ] {
            let error = followed(name, &kwargs, "text", InstructionCheck::Strict).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let none = Instructions::default().score(&[Exchange::new("p", "r")]).unwrap();
        assert_eq!(none.reasons[0].1, "the row has no `instruction_id_list`");
    }
}

//! Constitutions: principles by which a model criticises, revises and compares responses.

use std::path::Path;

use rlaif_core::{BadSetting, Seed};
use rlaif_rewards::{ProviderError, read_toml};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::LabelError;

/// The most bytes of a file of principles.
const LONGEST: u64 = 1 << 26;

/// A principle of a constitution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Principle {
    /// Name in rows and reports.
    pub name: String,
    /// The request for a critique of a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critique_request: Option<String>,
    /// The request for a revision of a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_request: Option<String>,
    /// The description of the better one of two responses, for labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<String>,
}

/// A step of critique and revision, as an example for the writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevisionExample {
    /// The prompt.
    pub prompt: String,
    /// The response that is revised.
    pub response: String,
    /// The request for a critique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critique_request: Option<String>,
    /// The critique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critique: Option<String>,
    /// The request for a revision.
    pub revision_request: String,
    /// The revision.
    pub revision: String,
}

/// Principles, and examples of revisions.
///
/// A file of a constitution is TOML, or one of the JSON files that [Bai et al. 2022](https://arxiv.org/abs/2212.08073)
/// published: `CritiqueRevisionInstructions.json` (requests), `CritiqueRevisionFewShotPrompts.json`
/// (examples), `RLMadisonInstructions.json` (comparisons).
///
/// ```
/// use rlaif_core::Seed;
/// use rlaif_label::Constitution;
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("constitution.toml");
/// std::fs::write(&path, r#"
///     [[principles]]
///     name = "kind"
///     critique_request = "Say where the response is unkind."
///     revision_request = "Rewrite the response without what is unkind in it."
///     compare = "The better response is the kinder one."
/// "#)?;
/// let constitution = Constitution::from_files([&path])?;
/// let drawn = constitution.drawn_revision(Seed::new(1), "row 7", 0);
/// assert_eq!(drawn.unwrap().name, "kind");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Constitution {
    /// The principles.
    #[serde(default)]
    pub principles: Vec<Principle>,
    /// Examples of revisions.
    #[serde(default)]
    pub examples: Vec<RevisionExample>,
}

impl Constitution {
    /// The principles and examples of these files together.
    ///
    /// # Errors
    /// [`LabelError::Constitution`] names the file; unknown keys are refused with the nearest known one.
    pub fn from_files<P: AsRef<Path>>(
        files: impl IntoIterator<Item = P>,
    ) -> Result<Self, LabelError> {
        let mut all = Self::default();
        for file in files {
            let path = file.as_ref();
            let refuse = |problem: String| LabelError::Constitution { path: path.into(), problem };
            let read = match path.extension().is_some_and(|end| end == "json") {
                true => Self::from_published(path)?,
                false => read_toml::<Self>(path).map_err(|source| match source {
                    ProviderError::Config { line, problem, .. } => {
                        let line = line.map_or_else(String::new, |line| format!("line {line}: "));
                        refuse(line + &problem)
                    }
                    other => refuse(other.to_string()),
                })?,
            };
            read.check().map_err(|problem| refuse(problem.to_string()))?;
            if read.principles.is_empty() && read.examples.is_empty() {
                return Err(refuse(
                    "has no principle; add a table [[principles]] with `name` and with `revision_request` \
                     (for `rlaif revise`) or `compare` (for `rlaif label`)"
                        .to_owned(),
                ));
            }
            for principle in read.principles {
                if all.principles.iter().any(|known| known.name == principle.name) {
                    return Err(refuse(format!(
                        "the principle `{}` is there twice",
                        principle.name
                    )));
                }
                all.principles.push(principle);
            }
            all.examples.extend(read.examples);
        }
        Ok(all)
    }

    /// Checks that each principle has a name and a request.
    ///
    /// # Errors
    /// The setting at fault.
    pub fn check(&self) -> Result<(), BadSetting> {
        for (at, principle) in self.principles.iter().enumerate() {
            let Principle { name, critique_request, revision_request, compare } = principle;
            let key = |name: &str| format!("principles[{at}].{name}");
            if name.trim().is_empty() {
                return Err(BadSetting::new(key("name"), "empty", "a name"));
            }
            for (key_name, text) in [
                ("critique_request", critique_request),
                ("revision_request", revision_request),
                ("compare", compare),
            ] {
                if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
                    return Err(BadSetting::new(key(key_name), "empty", "a request, or no key"));
                }
            }
            if revision_request.is_none() && compare.is_none() {
                let expected = "`revision_request` for revisions, `compare` for labels, or both";
                let found = format!("`{name}` without a request");
                return Err(BadSetting::new(format!("principles[{at}]"), found, expected));
            }
        }
        Ok(())
    }

    /// The principles for revisions.
    pub fn for_revisions(&self) -> Vec<&Principle> {
        self.principles.iter().filter(|principle| principle.revision_request.is_some()).collect()
    }

    /// The principles for labels.
    pub fn for_labels(&self) -> Vec<&Principle> {
        self.principles.iter().filter(|principle| principle.compare.is_some()).collect()
    }

    /// The principle of a round of a row: drawn from those for revisions, by the seed, the row and the round
    /// alone. `None` if there are none.
    pub fn drawn_revision(&self, seed: Seed, row: &str, round: u64) -> Option<&Principle> {
        let all = self.for_revisions();
        draw(seed, row, round, all.len()).map(|at| all[at])
    }

    /// The principles and examples of one of the published JSON files.
    fn from_published(path: &Path) -> Result<Self, LabelError> {
        let refuse = |problem: String| LabelError::Constitution { path: path.into(), problem };
        let text =
            rlaif_files::read_text(path, LONGEST).map_err(|error| refuse(error.to_string()))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|error| refuse(format!("is not JSON: {error}")))?;
        let unknown = || {
            refuse(
                "has none of the forms of published constitutions: an object of \
                 {\"prompt\": [..], \"edit_request\": ..}, a list of examples with `CritiqueRequest:`, \
                 or a list of comparisons"
                    .to_owned(),
            )
        };
        match value {
            Value::Object(all) => {
                let mut principles = Vec::new();
                for (name, value) in all {
                    let request: Requests = serde_json::from_value(value).map_err(|_| unknown())?;
                    let critique = match request.prompt {
                        OneOrMany::One(text) => text,
                        OneOrMany::Many(texts) => texts.concat(),
                    };
                    principles.push(Principle {
                        name,
                        critique_request: Some(between(&critique, "CritiqueRequest:", "Critique:")),
                        revision_request: Some(between(
                            &request.edit_request,
                            "RevisionRequest:",
                            "Revision:",
                        )),
                        compare: None,
                    });
                }
                Ok(Self { principles, examples: Vec::new() })
            }
            Value::Array(all) => {
                let texts: Vec<String> =
                    serde_json::from_value(Value::Array(all)).map_err(|_| unknown())?;
                if texts.iter().any(|text| text.contains("CritiqueRequest:")) {
                    let examples = texts.iter().map(|text| example(text).ok_or_else(unknown));
                    let examples = examples.collect::<Result<_, _>>()?;
                    return Ok(Self { principles: Vec::new(), examples });
                }
                let name = path
                    .file_stem()
                    .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
                let principle = |(at, text): (usize, &String)| Principle {
                    name: format!("{name}-{at}"),
                    critique_request: None,
                    revision_request: None,
                    compare: Some(text.trim().trim_end_matches("Options:").trim_end().to_owned()),
                };
                let principles = texts.iter().enumerate().map(principle).collect();
                Ok(Self { principles, examples: Vec::new() })
            }
            _ => Err(unknown()),
        }
    }
}

/// A number below `n`, by the seed, a name and a number alone; `None` if `n` is 0.
pub(crate) fn draw(seed: Seed, name: &str, number: u64, n: usize) -> Option<usize> {
    let drawn = seed.derive(name, number).get();
    // The upper bits of a product: no modulo bias that could be measured.
    (n > 0).then(|| ((u128::from(drawn) * n as u128) >> 64) as usize)
}

/// The requests of a published principle.
#[derive(Deserialize)]
struct Requests {
    prompt: OneOrMany,
    edit_request: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// The text behind one word and before another; a word that is missing is the text's beginning or end.
fn between(text: &str, from: &str, to: &str) -> String {
    let text = text.split_once(from).map_or(text, |(_, rest)| rest);
    text.rsplit_once(to).map_or(text, |(before, _)| before).trim().to_owned()
}

/// A published example.
fn example(text: &str) -> Option<RevisionExample> {
    let (exchange, rest) = text.split_once("CritiqueRequest:")?;
    let (critique_request, rest) = rest.split_once("Critique:")?;
    let (critique, rest) = rest.split_once("RevisionRequest:")?;
    let (revision_request, revision) = rest.split_once("Revision:")?;
    let (prompt, response) = exchange.rsplit_once("Assistant:")?;
    let prompt = prompt.trim();
    let part = |text: &str| text.trim().to_owned();
    Some(RevisionExample {
        prompt: part(prompt.strip_prefix("Human:").unwrap_or(prompt)),
        response: part(response),
        critique_request: Some(part(critique_request)),
        critique: Some(part(critique)),
        revision_request: part(revision_request),
        revision: part(revision),
    })
}

/// Prompts for the writer of critiques and revisions, in the form of the paper: examples, the exchange, a
/// request, and the name of the text that follows.
///
/// ```
/// use rlaif_label::RevisionPrompts;
/// let prompts = RevisionPrompts::new(&[], "Greet me.", "Go away.");
/// let asked = prompts.critique("What is unkind in it?");
/// assert!(asked.ends_with("Assistant: Go away.\n\nCritiqueRequest: What is unkind in it?\n\nCritique:"));
/// let asked = prompts.revision(None, "Rewrite it kindly.");
/// assert!(asked.ends_with("Go away.\n\nRevisionRequest: Rewrite it kindly.\n\nRevision:"));
/// ```
#[derive(Debug, Clone)]
pub struct RevisionPrompts<'a> {
    examples: &'a [RevisionExample],
    prompt: &'a str,
    response: &'a str,
}

impl<'a> RevisionPrompts<'a> {
    /// The prompts about one response.
    pub fn new(examples: &'a [RevisionExample], prompt: &'a str, response: &'a str) -> Self {
        Self { examples, prompt, response }
    }

    /// The prompt for a critique.
    pub fn critique(&self, request: &str) -> String {
        // An example without a critique shows nothing about critiques.
        let shown = |example: &&RevisionExample| example.critique.is_some();
        let mut text = self.shown(self.examples.iter().filter(shown), true);
        text.push_str(&format!("CritiqueRequest: {}\n\nCritique:", request.trim()));
        text
    }

    /// The prompt for a revision; a critique comes with its request.
    pub fn revision(&self, critique: Option<(&str, &str)>, request: &str) -> String {
        let mut text = self.shown(self.examples.iter(), critique.is_some());
        if let Some((request, critique)) = critique {
            text.push_str(&criticised(request, critique));
        }
        text.push_str(&format!("RevisionRequest: {}\n\nRevision:", request.trim()));
        text
    }

    /// The examples, and the exchange.
    fn shown<'e>(
        &self,
        examples: impl Iterator<Item = &'e RevisionExample>,
        critiques: bool,
    ) -> String {
        let mut text = String::new();
        for example in examples {
            text.push_str(&exchange(&example.prompt, &example.response));
            if let (true, Some(critique)) = (critiques, &example.critique) {
                let request = example.critique_request.as_deref().unwrap_or_default();
                text.push_str(&criticised(request, critique));
            }
            let RevisionExample { revision_request, revision, .. } = example;
            text.push_str(&format!(
                "RevisionRequest: {}\n\nRevision: {}\n\n",
                revision_request.trim(),
                revision.trim()
            ));
        }
        text.push_str(&exchange(self.prompt, self.response));
        text
    }

    /// A writer's text without the further turns that models write after it.
    pub fn answer(text: &str) -> &str {
        let text = text.trim();
        let ends = ["CritiqueRequest:", "RevisionRequest:", "Critique:", "Revision:", "Human:"];
        let end = ends.iter().filter_map(|end| text.find(&format!("\n\n{end}"))).min();
        text[..end.unwrap_or(text.len())].trim_end()
    }
}

/// Prompt and response as turns; a prompt that ends with the assistant's name has them already.
fn exchange(prompt: &str, response: &str) -> String {
    let (prompt, response) = (prompt.trim(), response.trim());
    match prompt.ends_with("Assistant:") {
        true => format!("{prompt} {response}\n\n"),
        false => format!("Human: {prompt}\n\nAssistant: {response}\n\n"),
    }
}

fn criticised(request: &str, critique: &str) -> String {
    let (request, critique) = (request.trim(), critique.trim());
    let asked =
        if request.is_empty() { String::new() } else { format!("CritiqueRequest: {request}\n\n") };
    format!("{asked}Critique: {critique}\n\n")
}

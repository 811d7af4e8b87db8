//! `rlaif red-team`: prompts that a model writes after examples, beside imported ones.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use rlaif_core::{BadSetting, Exchange, PromptRow, Seed};
use rlaif_data::{Import, Reader};
use rlaif_rewards::{
    ProviderError, RewardConfig,
    judge::{Commission, WriterConfig},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    candidates::{Came, prompt_text, write_open, writer},
    error::RunError,
    file::RunFile,
    journal::{Header, Journal},
    model::Placement,
    results::ResultFile,
    rewards::rewards_from_config,
    source::source,
    work::Work,
};

/// The file of `rlaif red-team`. `docs/feedback.md` describes every key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedTeamFile {
    /// The seed of the examples that are drawn.
    #[serde(default)]
    pub seed: Seed,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The examples, and prompts that are there already.
    pub data: RedTeamData,
    /// Number of prompts to write.
    pub new_prompts: usize,
    /// Number of examples that the writer is shown for each of them.
    #[serde(default = "RedTeamFile::shown_examples")]
    pub shown_examples: usize,
    /// The model that writes.
    pub writer: WriterConfig,
    /// The prompts that are kept; all of them by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<PromptFilter>,
}

/// The examples, and prompts that are there already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedTeamData {
    /// A file, or a pattern, with examples: prompts in any form.
    pub file: String,
    /// The first so many examples.
    pub take: Option<usize>,
    /// Files of prompts that are added to the written ones, and filtered as they are.
    #[serde(default)]
    pub include: Vec<String>,
}

/// A condition for prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptFilter {
    /// A reward that scores the prompt as if it were a response, such as a classifier.
    pub reward: RewardConfig,
    /// The least score.
    pub at_least: f64,
}

/// Counts of prompts, by outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RedTeamSummary {
    /// Prompts in the file.
    pub prompts: usize,
    /// Number of these that were written; the others were imported.
    pub written: usize,
    /// Prompts equal to another one or to an example, except for case, spaces and signs.
    pub equal: usize,
    /// Prompts below the least score of the filter, or without a score.
    pub filtered: usize,
    /// Prompts that did not come; `OUT.missing` has their reasons.
    pub missing: usize,
    /// The reason of the first of them.
    pub first_missing: Option<String>,
    /// The cost of all texts, those of earlier runs included, where prices are configured.
    pub cost: Option<f64>,
}

/// Everything except for the examples that the written prompts depend on.
#[derive(Serialize)]
struct RedTeaming<'a> {
    seed: Seed,
    examples: usize,
    writer: &'a WriterConfig,
}

/// A row of the file of prompts.
#[derive(Serialize)]
struct RedTeamRow {
    id: String,
    prompt: String,
    /// The model that wrote it, or the file that it was imported from.
    maker: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
}

impl RunFile for RedTeamFile {
    const COMMAND: &'static str = "red-team";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = vec![&mut self.data.file];
        all.extend(&mut self.data.include);
        all.extend(self.writer.locations());
        all.extend(self.filter.iter_mut().flat_map(|filter| filter.reward.locations()));
        all
    }
}

impl Work for RedTeamFile {
    const OUT: &'static str = "the file of prompts";
    const KEEPS: &'static str = "texts";
    type Out = PathBuf;
    type Summary = RedTeamSummary;
    type Error = RunError;

    /// Has prompts written into the file `out`. Paths of caches are relative to `base`.
    ///
    /// Until the last text has come, texts are in `OUT.unordered`, each as soon as it is there. The same
    /// call after an interruption requests only the missing ones.
    fn work(&self, base: &Path, out: &PathBuf) -> Result<RedTeamSummary, RunError> {
        let out = ResultFile::new(out)?;
        let refuse = |key: &'static str, found: usize, expected: String| {
            Err(BadSetting::new(key, found, expected).into())
        };
        if self.new_prompts == 0 && self.data.include.is_empty() {
            return refuse("new_prompts", 0, "at least 1, or files in `data.include`".to_owned());
        }
        let mut examples = prompts_of(&self.data.file)?;
        examples.truncate(self.data.take.unwrap_or(usize::MAX));
        if self.shown_examples == 0 || self.shown_examples > examples.len() {
            let expected = format!("a number from 1 to the {} of the file", examples.len());
            return refuse("shown_examples", self.shown_examples, expected);
        }
        if self.writer.responses != 1 {
            let expected = "1: `new_prompts` is the number of texts".to_owned();
            return refuse("writer.responses", self.writer.responses as usize, expected);
        }
        let device = self.placement.device()?;
        let filter = self.filter.iter().flat_map(|filter| filter.reward.local_models());
        self.placement.check_models(device, self.writer.local_model(), filter)?;
        let model = writer(&self.writer, base, device)?;
        let reward = self.filter.as_ref();
        let reward = reward.map(|f| rewards_from_config(&f.reward, base, device)).transpose()?;
        let mut imported = Vec::new();
        for file in &self.data.include {
            imported.extend(prompts_of(file)?.into_iter().map(|text| (text, file.clone())));
        }
        let settings =
            RedTeaming { seed: self.seed, examples: self.shown_examples, writer: &self.writer };
        let texts = examples.iter().map(String::as_str);
        let header = Header::new("red-team", &settings, self.new_prompts, texts)?;
        let journal = out.journal();
        let came = Journal::kept(
            Some(&journal),
            &header,
            Came::is_kept,
            |known: &BTreeMap<usize, Came>, tell| {
                let open: Vec<(usize, Commission)> = (0..self.new_prompts)
                    .filter(|number| known.get(number).is_none_or(|came| came.text.is_none()))
                    .map(|number| {
                        let prompt = self.question(&examples, number);
                        // Equal questions are answered differently.
                        let sample = u32::try_from(number).unwrap_or(u32::MAX);
                        (number, Commission { prompt, sample })
                    })
                    .collect();
                write_open(&model, &open, tell)?;
                Ok::<(), ProviderError>(())
            },
        )?;
        let mut missing = Vec::new();
        let mut all: Vec<(String, String, bool)> = Vec::new();
        for (number, came) in &came.results {
            match &came.text {
                Some(text) => all.push((request(text).to_owned(), model.name().to_owned(), true)),
                None => missing.push(json!({"id": number, "reason": came.reason})),
            }
        }
        all.extend(imported.into_iter().map(|(text, file)| (text, file, false)));
        let mut seen: HashSet<String> = examples.iter().map(|text| plain(text)).collect();
        let before = all.len();
        all.retain(|(text, ..)| !plain(text).is_empty() && seen.insert(plain(text)));
        let equal = before - all.len();
        let scores: Vec<Option<f64>> = match &reward {
            Some(reward) => {
                let batch: Vec<Exchange<'_>> =
                    all.iter().map(|(text, ..)| Exchange::new("", text)).collect();
                let scores = reward.score(&batch).map_err(ProviderError::from)?.total;
                scores.into_iter().map(|score| score.map(|score| f64::from(score.get()))).collect()
            }
            None => vec![None; all.len()],
        };
        let least = self.filter.as_ref().map(|filter| filter.at_least);
        let is_kept = |score: Option<f64>| {
            least.is_none_or(|least| score.is_some_and(|score| score >= least))
        };
        let (mut rows, mut written) = (Vec::new(), 0);
        for (at, ((prompt, maker, is_written), score)) in all.into_iter().zip(scores).enumerate() {
            if is_kept(score) {
                written += usize::from(is_written);
                rows.push(RedTeamRow { id: format!("r{at}"), prompt, maker, score });
            }
        }
        let filtered = before - equal - rows.len();
        let first_missing = missing.first().and_then(|row: &Value| row["reason"].as_str());
        let first_missing = first_missing.map(str::to_owned);
        if let (0, Some(why)) = (before, &first_missing) {
            return Err(RunError::NothingWritten { texts: missing.len(), why: why.clone() });
        }
        if rows.is_empty() {
            let why = first_missing.unwrap_or_else(|| {
                format!("{equal} are equal to others, and {filtered} are below `filter.at_least`")
            });
            return Err(RunError::NoPrompts { prompts: before + missing.len(), why });
        }
        out.write(&rows, &missing)?;
        let (prompts, missing, cost) = (rows.len(), missing.len(), came.cost);
        Ok(RedTeamSummary { prompts, written, equal, filtered, missing, first_missing, cost })
    }
}

impl RedTeamFile {
    fn shown_examples() -> usize {
        3
    }

    /// The question for a prompt: examples that are drawn for it, without repetition.
    fn question(&self, examples: &[String], number: usize) -> String {
        let mut left: Vec<&String> = examples.iter().collect();
        let mut text = "These are requests that people have sent to an assistant:\n\n".to_owned();
        for at in 0..self.shown_examples {
            let step = (number * self.shown_examples + at) as u64;
            let drawn = self.seed.derive("red-team", step).get() % left.len() as u64;
            text.push_str(&format!("{}. {}\n", at + 1, left.remove(drawn as usize).trim()));
        }
        let next = self.shown_examples + 1;
        text.push_str(&format!(
            "\nWrite one more request of this kind, which differs from all of them. Answer with the request \
             alone.\n\n{next}."
        ));
        text
    }
}

/// The texts of the prompts of a file.
fn prompts_of(file: &str) -> Result<Vec<String>, RunError> {
    let source = source(file)?;
    let rows = Import::find(&source)?.prompts(Reader::new(source))?.into_records();
    rows.iter().map(|PromptRow { id, prompt, .. }| prompt_text(file, id, prompt)).collect()
}

/// The first paragraph of an answer, without its number and quotation marks.
fn request(answer: &str) -> &str {
    let first = answer.trim().split("\n\n").next().unwrap_or_default().trim();
    let numbered = first.split_once(". ").filter(|(number, _)| number.parse::<u32>().is_ok());
    numbered.map_or(first, |(_, rest)| rest).trim_matches(['"', '“', '”', ' '])
}

/// A text by which equal prompts are found.
fn plain(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

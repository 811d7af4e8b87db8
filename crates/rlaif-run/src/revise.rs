//! `rlaif revise`: responses that a model criticises and revises by the principles of a constitution.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use rlaif_core::{
    BadSetting, DemonstrationRow, Exchange, PromptRecord, PromptRow, Seed, TextOrMessages,
};
use rlaif_data::{Import, Reader};
use rlaif_eval::text::ReplyShares;
use rlaif_label::{Constitution, Group, Principle, RevisionExample, RevisionPrompts};
use rlaif_rewards::{
    ProviderError, RewardConfig,
    judge::{Commission, Writer, WriterConfig},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    candidates::{Came, prompt_text, write_open, writer},
    error::RunError,
    file::RunFile,
    groups::{Groups, as_written, groups},
    journal::{Header, Journal, Kept},
    model::Placement,
    results::ResultFile,
    rewards::rewards_from_config,
    source::source,
    work::Work,
};

/// The file of `rlaif revise`. `docs/feedback.md` describes every key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReviseFile {
    /// The seed of the principles that are drawn.
    #[serde(default)]
    pub seed: Seed,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The prompts, with or without responses.
    pub data: ReviseData,
    /// Files of the constitution: TOML, or published JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constitution: Vec<String>,
    /// Principles beside those of files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principles: Vec<Principle>,
    /// Examples of revisions beside those of files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<RevisionExample>,
    /// The number of revisions of each response, each by a principle that is drawn for it.
    #[serde(default = "ReviseFile::rounds")]
    pub rounds: u32,
    /// Critiques before revisions, for principles with a request for one.
    #[serde(default)]
    pub critique: Critiques,
    /// The revisions that become rows.
    #[serde(default)]
    pub revisions: RevisedRows,
    /// The model that writes critiques and revisions, and responses where the file has none.
    pub writer: WriterConfig,
    /// A reward, such as a classifier, whose mean is told for the responses of each round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harmlessness: Option<RewardConfig>,
}

/// Critiques before revisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Critiques {
    /// Each revision follows a critique.
    #[default]
    Written,
    /// Revisions are requested at once.
    Skipped,
}

/// The responses that are revised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReviseData {
    /// A file, or a pattern: prompts in any form, with or without a response, or rows of `prompt` and
    /// `responses`.
    pub file: String,
    /// The first so many rows.
    pub take: Option<usize>,
    /// The origin of the first response to each prompt: `given` in the file, or `written` by the writer; by
    /// default `given` if the file has responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_responses: Option<FirstResponse>,
}

/// The origin of the response that is revised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FirstResponse {
    /// The file has it.
    Given,
    /// The writer writes it.
    Written,
}

/// The revisions that become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RevisedRows {
    /// Every revision, as in Bai et al. 2022.
    #[default]
    All,
    /// The last one of each response.
    Last,
}

/// Counts of revisions, and what they changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReviseSummary {
    /// Responses that were to be revised.
    pub responses: usize,
    /// Revisions that came.
    pub revisions: usize,
    /// Revisions equal to the response that they revise.
    pub unchanged: usize,
    /// Responses without all their revisions; `OUT.missing` has the reasons.
    pub missing: usize,
    /// The reason of the first of them.
    pub first_missing: Option<String>,
    /// The cost of all texts, those of earlier runs included, where prices are configured.
    pub cost: Option<f64>,
    /// Measures of the first responses, and of the revisions of each round, over the responses that have
    /// all their revisions.
    pub rounds: Vec<RoundMeasures>,
}

/// Measures of the responses of one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundMeasures {
    /// Shares of refusals and evasions.
    #[serde(flatten)]
    pub replies: ReplyShares,
    /// Mean length in words.
    pub words: f64,
    /// Mean of `harmlessness`, over the responses that have a score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub harmlessness: Option<f64>,
}

/// Everything except for the rows that revisions depend on.
#[derive(Serialize)]
struct Revising<'a> {
    seed: Seed,
    rounds: u32,
    critique: Critiques,
    constitution: &'a Constitution,
    writer: &'a WriterConfig,
}

/// A response to be revised.
struct Revised {
    id: String,
    prompt: TextOrMessages,
    /// The prompt as the writer reads it.
    text: String,
    /// The response, if the file has it.
    given: Option<String>,
    maker: Option<String>,
    /// The number of the response among those written to its prompt.
    sample: u32,
}

/// A row of the file of revisions.
#[derive(Serialize)]
struct RevisedRow<'a> {
    id: String,
    prompt: &'a TextOrMessages,
    response: &'a str,
    round: usize,
    /// The response before the first revision.
    initial: &'a str,
    steps: Vec<Value>,
    maker: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    initial_maker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
}

/// The texts of all rows. The texts of a row are numbered: its first response, then critique and revision of
/// each round.
struct Plan<'a> {
    file: &'a ReviseFile,
    constitution: Constitution,
    rows: Vec<Revised>,
}

impl ReviseFile {
    fn rounds() -> u32 {
        4
    }

    fn constitution(&self) -> Result<Constitution, RunError> {
        let mut all = Constitution::from_files(&self.constitution)?;
        let own =
            Constitution { principles: self.principles.clone(), examples: self.examples.clone() };
        own.check()?;
        all.principles.extend(own.principles);
        all.examples.extend(own.examples);
        all.principles.retain(|principle| principle.revision_request.is_some());
        if all.principles.is_empty() {
            let found = "without a principle that has `revision_request`";
            let expected = "at least one request for a revision, in a file or in `principles`";
            return Err(BadSetting::new("constitution", found, expected).into());
        }
        Ok(all)
    }

    fn rows(&self) -> Result<Vec<Revised>, RunError> {
        let ReviseData { file, take, initial_responses } = &self.data;
        let most = take.unwrap_or(usize::MAX);
        let written = |id: String, prompt: TextOrMessages, text: String| {
            (0..self.writer.responses).map(move |sample| Revised {
                id: if sample == 0 { id.clone() } else { format!("{id}:{sample}") },
                prompt: prompt.clone(),
                text: text.clone(),
                given: None,
                maker: None,
                sample,
            })
        };
        let mut rows = Vec::new();
        if let Some(Groups { groups, .. }) = groups(file, None, &[], most)? {
            for Group { record, responses: replies } in groups {
                let prompt = as_written(&record);
                if *initial_responses == Some(FirstResponse::Written) {
                    rows.extend(written(record.id, prompt, record.prompt));
                    continue;
                }
                for (at, response) in replies.into_iter().enumerate() {
                    rows.push(Revised {
                        id: format!("{}-{at}", record.id),
                        prompt: prompt.clone(),
                        text: record.prompt.clone(),
                        given: Some(response.text),
                        maker: response.maker,
                        sample: 0,
                    });
                }
            }
        } else {
            let source = source(file)?;
            let import = Import::find(&source)?;
            let given = import.gives::<DemonstrationRow>();
            match initial_responses.unwrap_or(if given {
                FirstResponse::Given
            } else {
                FirstResponse::Written
            }) {
                FirstResponse::Given => {
                    let all = import.demonstrations(Reader::new(source))?.into_records();
                    for DemonstrationRow { id, prompt, response, .. } in all.into_iter().take(most)
                    {
                        rows.push(Revised {
                            text: prompt.readable(),
                            id,
                            prompt,
                            given: Some(response.readable()),
                            maker: None,
                            sample: 0,
                        });
                    }
                }
                FirstResponse::Written => {
                    let all = import.prompts(Reader::new(source))?.into_records();
                    for PromptRow { id, prompt, .. } in all.into_iter().take(most) {
                        let text = prompt_text(file, &id, &prompt)?;
                        rows.extend(written(id, prompt, text));
                    }
                }
            }
        }
        if rows.is_empty() {
            let found = format!("`{file}`, which has no row");
            return Err(BadSetting::new("data.file", found, "at least one row").into());
        }
        if self.writer.responses > 1 && rows.iter().any(|row| row.given.is_some()) {
            let expected =
                "1 where the file has the responses (`data.initial_responses = \"given\"`)";
            return Err(BadSetting::new("writer.responses", self.writer.responses, expected).into());
        }
        Ok(rows)
    }
}

impl RunFile for ReviseFile {
    const COMMAND: &'static str = "revise";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = vec![&mut self.data.file];
        all.extend(&mut self.constitution);
        all.extend(self.writer.locations());
        all.extend(self.harmlessness.iter_mut().flat_map(|reward| reward.locations()));
        all
    }
}

impl Work for ReviseFile {
    const OUT: &'static str = "the file of revisions";
    const KEEPS: &'static str = "texts";
    type Out = PathBuf;
    type Summary = ReviseSummary;
    type Error = RunError;

    /// Has responses revised into the file `out`. Paths of caches are relative to `base`.
    ///
    /// Until the last text has come, texts are in `OUT.unordered`, each as soon as it is there. The same
    /// call after an interruption requests only the missing ones.
    fn work(&self, base: &Path, out: &PathBuf) -> Result<ReviseSummary, RunError> {
        let out = ResultFile::new(out)?;
        if !(1..=64).contains(&self.rounds) {
            return Err(BadSetting::new("rounds", self.rounds, "a number from 1 to 64").into());
        }
        let constitution = self.constitution()?;
        let device = self.placement.device()?;
        let harmlessness = self.harmlessness.iter().flat_map(RewardConfig::local_models);
        self.placement.check_models(device, self.writer.local_model(), harmlessness)?;
        let rows = self.rows()?;
        let writer = &writer(&self.writer, base, device)?;
        let harmlessness = self.harmlessness.as_ref();
        let harmlessness =
            harmlessness.map(|config| rewards_from_config(config, base, device)).transpose()?;
        let settings = Revising {
            seed: self.seed,
            rounds: self.rounds,
            critique: self.critique,
            constitution: &constitution,
            writer: &self.writer,
        };
        let plan = Plan { file: self, constitution: constitution.clone(), rows };
        let texts =
            plan.rows.iter().flat_map(|row| [Some(row.text.as_str()), row.given.as_deref()]);
        let texts = texts.map(Option::unwrap_or_default);
        let header = Header::new("revise", &settings, plan.rows.len() * plan.steps(), texts)?;
        let journal = out.journal();
        let came = Journal::kept(Some(&journal), &header, Came::is_kept, |known, tell| {
            plan.write(writer, known, tell)
        })?;
        let written = plan.written(&came);
        let summary = plan.summary(&written, &came, harmlessness.as_deref())?;
        if summary.revisions == 0 {
            let why = summary.first_missing.unwrap_or_default();
            return Err(RunError::NothingWritten { texts: plan.rows.len(), why });
        }
        out.write(plan.results(&written, &came, writer), &plan.missing(&written, &came))?;
        Ok(summary)
    }
}

impl Plan<'_> {
    /// Number of texts of a row.
    fn steps(&self) -> usize {
        1 + 2 * self.file.rounds as usize
    }

    /// The principle of a round, which begins with 0, of a row.
    fn principle(&self, row: &Revised, round: usize) -> Option<&Principle> {
        self.constitution.drawn_revision(self.file.seed, &row.id, round as u64)
    }

    /// The request for a critique in a round of a row, if there is one.
    fn critique(&self, row: &Revised, round: usize) -> Option<&str> {
        let request = self.principle(row, round)?.critique_request.as_deref();
        request.filter(|_| self.file.critique == Critiques::Written)
    }

    /// The prompt for a text of a row, given the texts before it; `None` if one of them is missing, or if
    /// there is nothing to write.
    fn prompt(&self, at: usize, step: usize, texts: &BTreeMap<usize, String>) -> Option<String> {
        let row = &self.rows[at];
        let of = |step: usize| texts.get(&(at * self.steps() + step)).map(String::as_str);
        if step == 0 {
            return row.given.is_none().then(|| row.text.clone());
        }
        let round = (step - 1) / 2;
        let before = if round == 0 { row.given.as_deref().or(of(0)) } else { of(2 * round) }?;
        let prompts = RevisionPrompts::new(&self.constitution.examples, &row.text, before);
        let request = self.critique(row, round);
        if step % 2 == 1 {
            return Some(prompts.critique(request?));
        }
        let critique = match request {
            Some(request) => Some((request, of(step - 1)?)),
            None => None,
        };
        Some(prompts.revision(critique, self.principle(row, round)?.revision_request.as_deref()?))
    }

    /// Has the writer write what is missing among `known`, step by step.
    fn write(
        &self,
        writer: &Writer,
        known: &BTreeMap<usize, Came>,
        tell: &mut dyn FnMut(usize, Came) -> ControlFlow<()>,
    ) -> Result<(), ProviderError> {
        let text = |came: &Came| Some(RevisionPrompts::answer(came.text.as_ref()?).to_owned());
        let mut texts: BTreeMap<usize, String> =
            known.iter().filter_map(|(number, came)| Some((*number, text(came)?))).collect();
        for step in 0..self.steps() {
            let open: Vec<(usize, Commission)> = (0..self.rows.len())
                .filter_map(|at| {
                    let number = at * self.steps() + step;
                    if texts.contains_key(&number) {
                        return None;
                    }
                    let prompt = self.prompt(at, step, &texts)?;
                    Some((number, Commission { prompt, sample: self.rows[at].sample }))
                })
                .collect();
            let mut ended = false;
            write_open(writer, &open, &mut |number, came| {
                if let Some(text) = text(&came) {
                    texts.insert(number, text);
                }
                let flow = tell(number, came);
                ended = flow.is_break();
                flow
            })?;
            if ended {
                break;
            }
        }
        Ok(())
    }

    /// The texts that came, by their numbers.
    fn written(&self, came: &Kept<Came>) -> BTreeMap<usize, String> {
        let mut texts = BTreeMap::new();
        for (at, row) in self.rows.iter().enumerate() {
            if let Some(given) = &row.given {
                texts.insert(at * self.steps(), given.clone());
            }
        }
        texts.extend(came.results.iter().filter_map(|(number, came)| {
            Some((*number, RevisionPrompts::answer(came.text.as_ref()?).to_owned()))
        }));
        texts
    }

    /// The response of a row before the first round, and after each.
    fn responses<'t>(&self, at: usize, texts: &'t BTreeMap<usize, String>) -> Vec<&'t str> {
        let of = |round: usize| texts.get(&(at * self.steps() + 2 * round)).map(String::as_str);
        (0..=self.file.rounds as usize).map_while(of).collect()
    }

    /// The rows of the file of revisions.
    fn results<'p>(
        &'p self,
        texts: &'p BTreeMap<usize, String>,
        came: &'p Kept<Came>,
        writer: &'p Writer,
    ) -> impl Iterator<Item = RevisedRow<'p>> {
        self.rows.iter().enumerate().flat_map(move |(at, row)| {
            let responses = self.responses(at, texts);
            let last = responses.len().saturating_sub(1);
            let first = match self.file.revisions {
                RevisedRows::All => 1,
                RevisedRows::Last => last.max(1),
            };
            let numbers = at * self.steps()..(at + 1) * self.steps();
            let costs = came.results.range(numbers).filter_map(|(_, came)| came.cost);
            let cost = costs.reduce(|a, b| a + b);
            let steps: Vec<Value> = (0..last)
                .map(|round| {
                    let number = at * self.steps() + 2 * round + 1;
                    let principle = self.principle(row, round).map(|known| known.name.as_str());
                    let mut step = json!({"principle": principle});
                    if let Some(critique) = texts.get(&number) {
                        step["critique"] = critique.as_str().into();
                    }
                    step["revision"] = responses[round + 1].into();
                    step
                })
                .collect();
            (first..=last).map(move |round| RevisedRow {
                id: format!("{}:{round}", row.id),
                prompt: &row.prompt,
                response: responses[round],
                round,
                initial: responses[0],
                steps: steps[..round].to_vec(),
                maker: writer.name(),
                initial_maker: row.maker.as_deref(),
                cost,
            })
        })
    }

    /// For each row without all its revisions the first text that did not come, with the reason.
    fn missing(&self, texts: &BTreeMap<usize, String>, came: &Kept<Came>) -> Vec<Value> {
        let parts = |step: usize| match step {
            0 => "response",
            step if step % 2 == 1 => "critique",
            _ => "revision",
        };
        let of_row = |(at, row): (usize, &Revised)| {
            if self.responses(at, texts).len() > self.file.rounds as usize {
                return None;
            }
            let numbers = at * self.steps()..(at + 1) * self.steps();
            let failed = came.results.range(numbers).find(|(_, came)| came.text.is_none());
            let (step, reason) = failed.map_or((0, "it was not asked for"), |(number, came)| {
                (number % self.steps(), came.reason.as_str())
            });
            let round = step.div_ceil(2);
            Some(json!({"id": row.id, "round": round, "part": parts(step), "reason": reason}))
        };
        self.rows.iter().enumerate().filter_map(of_row).collect()
    }

    fn summary(
        &self,
        texts: &BTreeMap<usize, String>,
        came: &Kept<Came>,
        harmlessness: Option<&dyn rlaif_core::RewardModel>,
    ) -> Result<ReviseSummary, RunError> {
        let all: Vec<Vec<&str>> =
            (0..self.rows.len()).map(|at| self.responses(at, texts)).collect();
        let pairs = || all.iter().flat_map(|responses| responses.windows(2));
        let missing = self.missing(texts, came);
        let first_missing = missing.first().and_then(|row| row["reason"].as_str());
        let rounds = self.file.rounds as usize;
        let whole: Vec<usize> = (0..all.len()).filter(|&at| all[at].len() > rounds).collect();
        let of_round = |round| -> Vec<&str> { whole.iter().map(|&at| all[at][round]).collect() };
        let mut measures = Vec::new();
        for texts in (0..=rounds).map(of_round) {
            let Some(replies) = ReplyShares::of(texts.iter().copied()) else { break };
            let words: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let harmlessness = match harmlessness {
                Some(reward) => {
                    let record = |&at: &usize| {
                        let Revised { id, prompt, .. } = &self.rows[at];
                        PromptRecord::asked(id, prompt.clone())
                    };
                    let records: Vec<PromptRecord> = whole.iter().map(record).collect();
                    let batch: Vec<Exchange<'_>> = records
                        .iter()
                        .zip(&texts)
                        .map(|(record, text)| record.exchange(text))
                        .collect();
                    let scores = reward.score(&batch).map_err(ProviderError::from)?;
                    let scores: Vec<f64> =
                        scores.total.iter().flatten().map(|s| f64::from(s.get())).collect();
                    (!scores.is_empty()).then(|| mean(&scores))
                }
                None => None,
            };
            let words = words as f64 / texts.len() as f64;
            measures.push(RoundMeasures { replies, words, harmlessness });
        }
        Ok(ReviseSummary {
            responses: self.rows.len(),
            revisions: pairs().count(),
            unchanged: pairs().filter(|pair| pair[0] == pair[1]).count(),
            missing: missing.len(),
            first_missing: first_missing.map(str::to_owned),
            cost: came.cost,
            rounds: measures,
        })
    }
}

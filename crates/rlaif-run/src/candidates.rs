//! `rlaif candidates`: several responses to each prompt, from policies, APIs and files.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use rlaif_core::{BadSetting, DemonstrationRow, PromptRow, Reply, TextOrMessages, Unread, say};
use rlaif_data::{Import, Reader};
use rlaif_rewards::{
    ProviderError,
    judge::{Commission, Unanswered, Writer, WriterConfig, WrittenText},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::Device;

use crate::{
    error::RunError,
    file::RunFile,
    journal::{Costed, Header, Journal, Kept},
    model::Placement,
    results::ResultFile,
    rewards::surroundings,
    source::source,
    work::Work,
};

/// The file of `rlaif candidates`. `docs/feedback.md` describes every key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CandidatesFile {
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The prompts.
    pub data: CandidateData,
    /// The models that write.
    #[serde(default)]
    pub writers: Vec<WriterConfig>,
}

/// The prompts, and responses that are there already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CandidateData {
    /// A file, or a pattern, with prompts in any form.
    pub file: String,
    /// The first so many prompts.
    pub take: Option<usize>,
    /// Files of responses to the same prompts.
    #[serde(default)]
    pub response_files: Vec<ResponseFile>,
}

/// A file of responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseFile {
    /// A file, or a pattern, of prompts with responses in any form.
    pub file: String,
    /// The model that wrote the responses.
    pub maker: Option<String>,
}

/// Everything except for the prompts that the responses of a file of candidates depend on.
#[derive(Serialize)]
struct Writers<'a> {
    writers: &'a [WriterConfig],
}

/// Counts of prompts and responses, by outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CandidatesSummary {
    /// Prompts in the file of candidates.
    pub prompts: usize,
    /// Responses to these prompts; equal responses to a prompt count once.
    pub responses: usize,
    /// Responses that were equal to another one to their prompt.
    pub equal: usize,
    /// Responses that the limit on their length ended.
    pub cut: usize,
    /// Responses that did not come; `OUT.missing` has their reasons.
    pub missing: usize,
    /// The reason of the first of them.
    pub first_missing: Option<String>,
    /// The cost of all responses, those of earlier runs included, where prices are configured.
    pub cost: Option<f64>,
}

/// A text that came, or why it did not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Came {
    pub(crate) text: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) cut: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cost: Option<f64>,
}

impl From<Result<WrittenText, Unanswered>> for Came {
    fn from(written: Result<WrittenText, Unanswered>) -> Self {
        match written {
            Ok(WrittenText { text, is_cut, cost }) => {
                Self { text: Some(text), cut: is_cut, reason: String::new(), cost }
            }
            Err(Unanswered { reason, cost }) => Self { text: None, cut: false, reason, cost },
        }
    }
}

impl Costed for Came {
    fn cost(&self) -> Option<f64> {
        self.cost
    }
}

impl Came {
    /// True for a line of a journal that need not be asked for again.
    pub(crate) fn is_kept(line: &Map<String, Value>) -> bool {
        line.get("text").is_some_and(Value::is_string)
    }
}

/// Makes a writer.
pub(crate) fn writer(
    config: &WriterConfig,
    base: &Path,
    device: Device,
) -> Result<Writer, ProviderError> {
    surroundings(base, device, None, |around| config.build(around))
}

/// Has a writer write what is open, and tells each text by its number.
pub(crate) fn write_open(
    writer: &Writer,
    open: &[(usize, Commission)],
    tell: &mut dyn FnMut(usize, Came) -> ControlFlow<()>,
) -> Result<(), ProviderError> {
    let commissions: Vec<Commission> = open.iter().map(|(_, asked)| asked.clone()).collect();
    writer.write_each(&commissions, &mut |at, written| tell(open[at].0, written.into()))
}

/// The text of a prompt for a model that writes: of a conversation, its only message.
pub(crate) fn prompt_text(
    file: &str,
    id: &str,
    prompt: &TextOrMessages,
) -> Result<String, RunError> {
    match prompt {
        TextOrMessages::Text(text) => Ok(text.clone()),
        TextOrMessages::Messages(messages) => match messages.as_slice() {
            [only] => Ok(only.content.clone()),
            _ => {
                let found = format!("{file}, whose row `{id}` has {} messages", messages.len());
                let expected = "prompts of one message, or texts, for models that write";
                Err(BadSetting::new("data.file", found, expected).into())
            }
        },
    }
}

impl RunFile for CandidatesFile {
    const COMMAND: &'static str = "candidates";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = vec![&mut self.data.file];
        all.extend(self.data.response_files.iter_mut().map(|responses| &mut responses.file));
        all.extend(self.writers.iter_mut().flat_map(|writer| writer.locations()));
        all
    }
}

impl Work for CandidatesFile {
    const OUT: &'static str = "the file of prompts with their responses";
    const KEEPS: &'static str = "responses";
    type Out = PathBuf;
    type Summary = CandidatesSummary;
    type Error = RunError;

    /// Has responses written into the file `out`. Paths of caches are relative to `base`.
    ///
    /// Until the last response has come, responses are in `OUT.unordered`, each as soon as it is there. The
    /// same call after an interruption takes up what is there, and asks for the others alone.
    fn work(&self, base: &Path, out: &PathBuf) -> Result<CandidatesSummary, RunError> {
        let out = ResultFile::new(out)?;
        if self.writers.is_empty() && self.data.response_files.is_empty() {
            let found = "empty, and so is `data.response_files`";
            return Err(BadSetting::new("writers", found, "at least one that responds").into());
        }
        let source = source(&self.data.file)?;
        let mut prompts = Import::find(&source)?.prompts(Reader::new(source))?.into_records();
        prompts.truncate(self.data.take.unwrap_or(usize::MAX));
        let texts: Vec<String> = prompts
            .iter()
            .map(|row| prompt_text(&self.data.file, &row.id, &row.prompt))
            .collect::<Result<_, _>>()?;
        let given = self.data.given()?;
        let mut unread = Unread::default();
        prompts.iter().for_each(|row| unread.add([&row.prompt]));
        unread.sentences("writers").iter().for_each(say);
        let device = self.placement.device()?;
        let models = self.writers.iter().filter_map(WriterConfig::local_model);
        self.placement.check_models(device, models, [])?;
        let made: Result<_, _> =
            self.writers.iter().map(|config| writer(config, base, device)).collect();
        let writers: Vec<Writer> = made?;
        // For each number below the samples of all writers, whose and which.
        let slots: Vec<(usize, u32)> = self
            .writers
            .iter()
            .enumerate()
            .flat_map(|(writer, config)| (0..config.responses).map(move |sample| (writer, sample)))
            .collect();
        let settings = Writers { writers: &self.writers };
        let rows = texts.len() * slots.len();
        let header = Header::new("candidates", &settings, rows, texts.iter().map(String::as_str))?;
        let journal = out.journal();
        let came: Kept<Came> =
            Journal::kept(Some(&journal), &header, Came::is_kept, |known, tell| {
                for (at, writer) in writers.iter().enumerate() {
                    let is_open = |number: &usize| {
                        slots[number % slots.len()].0 == at
                            && known.get(number).is_none_or(|came: &Came| came.text.is_none())
                    };
                    let open: Vec<(usize, Commission)> = (0..rows)
                        .filter(is_open)
                        .map(|number| {
                            let prompt = texts[number / slots.len()].clone();
                            let (_, sample) = slots[number % slots.len()];
                            (number, Commission { prompt, sample })
                        })
                        .collect();
                    write_open(writer, &open, tell)?;
                }
                Ok::<(), ProviderError>(())
            })?;
        write(&prompts, &texts, &given, &writers, &slots, &came, &out)
    }
}

/// Writes the candidates of each prompt, and the reasons of those that did not come.
fn write(
    prompts: &[PromptRow],
    texts: &[String],
    given: &HashMap<String, Vec<Reply>>,
    writers: &[Writer],
    slots: &[(usize, u32)],
    came: &Kept<Came>,
    out: &ResultFile<'_>,
) -> Result<CandidatesSummary, RunError> {
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    let (mut count, mut equal, mut cut) = (0, 0, 0);
    for (at, (row, text)) in prompts.iter().zip(texts).enumerate() {
        let mut all: Vec<Reply> = given.get(text).cloned().unwrap_or_default();
        for (slot, (writer, _)) in slots.iter().enumerate() {
            let Some(came) = came.results.get(&(at * slots.len() + slot)) else { continue };
            let maker = writers[*writer].name().to_owned();
            match &came.text {
                Some(text) => {
                    cut += usize::from(came.cut);
                    all.push(Reply::new(text).by(Some(maker)));
                }
                None => {
                    missing.push(json!({"id": row.id, "maker": maker, "reason": came.reason}));
                }
            }
        }
        let mut distinct: Vec<Reply> = Vec::new();
        for candidate in all {
            if distinct.iter().any(|known| known.says_as(&candidate)) {
                equal += 1;
            } else {
                distinct.push(candidate);
            }
        }
        count += distinct.len();
        if !distinct.is_empty() {
            rows.push(json!({"id": row.id, "prompt": row.prompt, "responses": distinct}));
        }
    }
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("").to_owned();
    let told = |row| format!("`{}`: {}", text(row, "maker"), text(row, "reason"));
    let first_missing = missing.first().map(told);
    if rows.is_empty() {
        return Err(match first_missing {
            Some(why) => RunError::NothingWritten { texts: missing.len(), why },
            None => {
                let why = "no response is to one of its prompts".to_owned();
                RunError::NoResponses { prompts: prompts.len(), why }
            }
        });
    }
    out.write(&rows, &missing)?;
    Ok(CandidatesSummary {
        prompts: rows.len(),
        responses: count,
        equal,
        cut,
        missing: missing.len(),
        first_missing,
        cost: came.cost,
    })
}

impl CandidateData {
    /// Responses of files, by the text of their prompt.
    fn given(&self) -> Result<HashMap<String, Vec<Reply>>, RunError> {
        let mut given: HashMap<String, Vec<Reply>> = HashMap::new();
        for ResponseFile { file, maker } in &self.response_files {
            let source = source(file)?;
            let rows = Import::find(&source)?.demonstrations(Reader::new(source))?.into_records();
            for DemonstrationRow { id, prompt, response, .. } in rows {
                let prompt = prompt_text(file, &id, &prompt)?;
                let candidate = Reply::from(response).by(maker.clone());
                given.entry(prompt).or_default().push(candidate);
            }
        }
        Ok(given)
    }
}

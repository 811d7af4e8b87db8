//! The prompts of an evaluation.

use std::num::NonZeroUsize;

use rlaif_core::{BadSetting, ChatOptions, PromptRecord, PromptRow, Rendering};
use rlaif_data::builtin::{self, Part};
use rlaif_data::corpora::{Corpus, DialogSum, DialogSumRecord, Hh, HhRecord, RealToxicityPrompts};
use rlaif_data::{
    Dataset, HubDataset, Import, ImportColumns, PromptBuilder, PromptForm, PromptTemplate, Reader,
};
use rlaif_hub::Hub;
use rlaif_text::HfTokenizer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{error::RunError, source::source};

/// Held-out prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalData {
    /// `prompts`: rows of `file` in any form that has prompts, texts or messages. `hh`,
    /// `dialogsum`, `real-toxicity-prompts`: these corpora, from `file` or else the hub's test
    /// split. `builtin`: the held-out part of the built-in corpus.
    pub corpus: CorpusName,
    /// A file, or a pattern such as `shards/*.parquet`.
    pub file: Option<String>,
    /// The split of the hub's dataset; `test` by default.
    pub split: Option<String>,
    /// The column of reference responses, of `prompts`.
    pub reference_column: Option<String>,
    /// The column of ids, of `prompts`; by default, the hash of the prompt.
    pub id: Option<String>,
    /// Columns that `slices` and `prompt_toxicity` name, of `prompts`.
    #[serde(default)]
    pub metadata: Vec<String>,
    /// The instruction around a dialogue, with `{dialogue}`; by default, to summarise it. By
    /// default, prompts of `prompts` and `real-toxicity-prompts` are unchanged.
    pub instruction: Option<String>,
    /// Maximum length of a prompt, in tokens.
    pub max_tokens: Option<NonZeroUsize>,
    /// Minimum and maximum length of a dialogue, in characters.
    pub characters: Option<(usize, usize)>,
    /// Maximum number of prompts, from the beginning.
    pub take: Option<usize>,
}

/// Source of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CorpusName {
    /// Columns of a file.
    Prompts,
    /// Anthropic's HH.
    Hh,
    /// DialogSum.
    Dialogsum,
    /// RealToxicityPrompts.
    RealToxicityPrompts,
    /// The built-in corpus.
    Builtin,
}

impl EvalData {
    /// Converts these rows to prompts for the policy of this tokenizer.
    pub(super) fn prompts(
        &self,
        rows: &Dataset<PromptRow>,
        codec: &HfTokenizer,
        how: Rendering,
    ) -> Result<Dataset<PromptRecord>, RunError> {
        let plain = matches!(self.corpus, CorpusName::Prompts | CorpusName::RealToxicityPrompts);
        let template = match &self.instruction {
            Some(template) => PromptTemplate::new(template)?,
            None if plain => PromptTemplate::new("{dialogue}")?,
            None => PromptTemplate::summarise(),
        };
        let mut builder = PromptBuilder::new(template).form(PromptForm::Rendered(how));
        if let Some(tokens) = self.max_tokens {
            builder = builder.limit(tokens);
        }
        Ok(builder.build_rows(codec, rows)?)
    }

    /// The rows behind the prompts.
    pub(super) fn rows(&self) -> Result<Dataset<PromptRow>, RunError> {
        let rows = match self.corpus {
            CorpusName::Prompts => self.named()?,
            CorpusName::Hh
            | CorpusName::Dialogsum
            | CorpusName::RealToxicityPrompts
            | CorpusName::Builtin => self.of_corpus()?.map(as_row),
        };
        let rows = rows.deduplicate(|row| row.id.as_str().into());
        let rows = match self.characters {
            Some((least, most)) => {
                rows.keep_characters(least..=most, |row| row.prompt.readable().into())
            }
            None => rows,
        };
        Ok(match self.take {
            Some(count) => rows.take(count),
            None => rows,
        })
    }

    /// Rows of a file with prompts.
    fn named(&self) -> Result<Dataset<PromptRow>, RunError> {
        let Some(file) = &self.file else { return Err(no_file()) };
        let columns = ImportColumns {
            id: self.id.clone(),
            reference: self.reference_column.clone(),
            metadata: self.metadata.clone(),
            ..ImportColumns::default()
        };
        let source = source(file)?;
        let import = Import::find_named(&source, columns)?;
        Ok(import.prompts(Reader::new(source))?)
    }

    fn of_corpus(&self) -> Result<Dataset<PromptRecord>, RunError> {
        Ok(match self.corpus {
            CorpusName::Prompts => return Err(no_file()),
            CorpusName::Hh => {
                self.read(Some(HubDataset::hh()), Hh::default())?.map(|record: HhRecord| {
                    let mut prompt = PromptRecord::new(record.pair.id.clone(), record.dialogue());
                    if let Some(subset) = record.subset {
                        prompt.metadata.insert("subset".to_owned(), Value::from(subset));
                    }
                    prompt
                })
            }
            CorpusName::Dialogsum => self.read(Some(HubDataset::dialogsum()), DialogSum)?.map(
                |record: DialogSumRecord| {
                    PromptRecord::new(record.id, record.dialogue).with_reference(record.summary)
                },
            ),
            CorpusName::RealToxicityPrompts => self
                .read(Some(HubDataset::real_toxicity_prompts()), RealToxicityPrompts)?
                .map(|record| {
                    let mut prompt = record.prompt_record();
                    if let Some(toxicity) = record.prompt.scores.toxicity {
                        prompt.metadata.insert("prompt_toxicity".to_owned(), Value::from(toxicity));
                    }
                    prompt
                }),
            CorpusName::Builtin => builtin::dialogues(Part::HeldOut).map(|record| {
                let mut prompt =
                    PromptRecord::new(record.id, record.dialogue).with_reference(record.summary);
                prompt.metadata.insert("topic".to_owned(), Value::from(record.topic));
                prompt
            }),
        })
    }

    fn read<C: Corpus>(
        &self,
        dataset: Option<HubDataset>,
        corpus: C,
    ) -> Result<Dataset<C::Record>, RunError> {
        let source = match (&self.file, dataset) {
            (Some(file), _) => source(file)?,
            (None, Some(dataset)) => {
                let hub = Hub::from_env().map_err(crate::FetchError::from)?;
                dataset.split(self.split.as_deref().unwrap_or("test")).source(&hub)?
            }
            (None, None) => return Err(no_file()),
        };
        Ok(Reader::new(source).dataset(corpus)?)
    }
}

fn no_file() -> RunError {
    RunError::Setting(BadSetting::new("data.file", "nothing", "a file, for the corpus `prompts`"))
}

fn as_row(record: PromptRecord) -> PromptRow {
    PromptRow {
        id: record.id,
        prompt: record.prompt.into(),
        reference: record.reference,
        chat: ChatOptions::default(),
        metadata: record.metadata,
    }
}

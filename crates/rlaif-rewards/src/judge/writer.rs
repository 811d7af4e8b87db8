//! Language models that write: responses, critiques, revisions.

use std::ops::ControlFlow;

#[cfg(feature = "neural")]
use rlaif_core::PromptRecord;
use rlaif_core::{BadSetting, Interrupted};
#[cfg(feature = "neural")]
use rlaif_lm::{Draw, RowIds, generate::Ask};

use super::client::{LlmAsk, LlmClient, Unanswered};
use super::config::ApiConfig;
use super::keys::{at_least_one, with_service_keys};
#[cfg(feature = "neural")]
use super::local::LocalLlm;
use super::spending::Usage;
use crate::rubric::{Answer, AnswerShape, Finish, NoVerdict, Question};
use crate::{ProviderError, Surroundings};
#[cfg(feature = "neural")]
use crate::{build::sampling_of, neural::LocalModel};

/// The longest text, in tokens, by default.
const MAX_TOKENS: u32 = 512;

with_service_keys! {
/// A language model that writes: a policy of this library, or one behind an API.
pub struct WriterConfig {
    /// Name of the maker in rows; the model's by default.
    pub name: Option<String>,
    /// A system message for it.
    pub system: Option<String>,
    /// Texts for each prompt; several need a temperature.
    #[serde(default = "one")]
    pub responses: u32,
    /// Number of times that an empty answer is asked for again; 1 by default.
    pub reasks: Option<u32>,
}
/// The model; not a reward server, which writes nothing.
api: ApiConfig
}

fn one() -> u32 {
    1
}

impl WriterConfig {
    /// The policy that writes, if it is one.
    #[cfg(feature = "neural")]
    pub fn local_model(&self) -> Option<LocalModel<'_>> {
        self.api.local_model(Some(self.sampling.max_new_tokens.unwrap_or(MAX_TOKENS)))
    }

    /// Every setting that may name a folder on this disk.
    pub fn locations(&mut self) -> Vec<&mut String> {
        self.api.locations()
    }

    /// The writer that this describes.
    ///
    /// # Errors
    /// [`ProviderError`] for an unavailable model, and for settings without effect on it.
    pub fn build(&self, around: &Surroundings<'_>) -> Result<Writer, ProviderError> {
        let service = self.service(around.folder());
        service.check()?;
        at_least_one("responses", self.responses as usize, 1_000)?;
        let refused = |setting: &'static str, expected: &'static str, found: String| {
            Err(ProviderError::Setting(BadSetting::new(setting, found, expected)))
        };
        let greedy = self.sampling.temperature == Some(0.);
        let (backend, model) = match &self.api {
            ApiConfig::Llm(api) => {
                if self.responses > 1 && greedy {
                    let expected = "above 0 for several texts to a prompt";
                    return refused("sampling.temperature", expected, "0".to_owned());
                }
                let client = LlmClient::of(&service, api, false, around.keys())?;
                let model = client.model().to_owned();
                (Backend::Llm(Box::new(client)), model)
            }
            ApiConfig::RewardServer(_) => {
                return refused(
                    "api.kind",
                    "a language model, which writes",
                    "`reward-server`".to_owned(),
                );
            }
            #[cfg(feature = "neural")]
            ApiConfig::Policy(api) => {
                if self.responses > 1 && sampling_of(&self.sampling)?.is_none() {
                    let expected = "above 0 for several texts to a prompt";
                    return refused("sampling.temperature", expected, "nothing".to_owned());
                }
                let local = LocalLlm::build(&service, api, MAX_TOKENS, around)?;
                (Backend::Policy(Box::new(local)), api.model.clone())
            }
        };
        Ok(Writer {
            name: self.name.clone().unwrap_or(model),
            system: self.system.clone().unwrap_or_default(),
            backend,
        })
    }
}

/// Something to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commission {
    /// The prompt, or instructions.
    pub prompt: String,
    /// Number of the sample: equal prompts of different samples are written to each.
    pub sample: u32,
}

/// A text that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenText {
    /// The text.
    pub text: String,
    /// True if the limit on its length ended it.
    pub is_cut: bool,
    /// The cost, where prices are configured.
    pub cost: Option<f64>,
}

/// Takes the text of a commission, by its place.
pub type TellText<'a> = dyn FnMut(usize, Result<WrittenText, Unanswered>) -> ControlFlow<()> + 'a;

/// A language model that writes.
#[derive(Debug)]
pub struct Writer {
    name: String,
    system: String,
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    Llm(Box<LlmClient>),
    #[cfg(feature = "neural")]
    Policy(Box<LocalLlm>),
}

impl Writer {
    /// The name of the maker in rows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Usage so far, of a model behind an API.
    pub fn usage(&self) -> Option<Usage> {
        match &self.backend {
            Backend::Llm(client) => Some(client.usage()),
            #[cfg(feature = "neural")]
            Backend::Policy(_) => None,
        }
    }

    /// Writes what is commissioned, and tells each text as soon as it is there. A `Break` ends the work.
    ///
    /// # Errors
    /// [`ProviderError::Writer`] when nothing can be written; what was told before it holds.
    pub fn write_each(
        &self,
        commissions: &[Commission],
        tell: &mut TellText<'_>,
    ) -> Result<(), ProviderError> {
        let question =
            |prompt: &String| Question { system: self.system.clone(), user: prompt.clone() };
        match &self.backend {
            Backend::Llm(client) => {
                let shape = AnswerShape { max_tokens: MAX_TOKENS, log_probs: false, schema: false };
                let asks: Vec<LlmAsk> = commissions
                    .iter()
                    .map(|Commission { prompt, sample }| LlmAsk {
                        question: question(prompt),
                        shape,
                        sample: *sample,
                    })
                    .collect();
                client
                    .ask_each(&asks, &read, &mut |at, told| {
                        let text = told.map(|told| WrittenText {
                            text: told.value.0,
                            is_cut: told.value.1,
                            cost: told.cost,
                        });
                        tell(at, text)
                    })
                    .map_err(failed(&self.name))?;
            }
            #[cfg(feature = "neural")]
            Backend::Policy(local) => {
                let questions: Vec<(Question, u32)> =
                    commissions.iter().map(|c| (question(&c.prompt), c.sample)).collect();
                local.write_each(&self.name, &questions, tell)?;
            }
        }
        Interrupted::check().map_err(failed(&self.name))
    }
}

/// Converts an error of the writer of this name.
fn failed<E>(name: &str) -> impl Fn(E) -> ProviderError
where
    E: std::error::Error + Send + Sync + 'static,
{
    let writer = name.to_owned();
    move |source| ProviderError::Writer { writer: writer.clone(), source: Box::new(source) }
}

/// A text, and true if the limit on its length ended it.
fn read(answer: &Answer) -> Result<(String, bool), NoVerdict> {
    let text = answer.text.trim();
    match answer.finish {
        Finish::Refused => Err(NoVerdict::Refused),
        Finish::Complete | Finish::Length if text.is_empty() => Err(NoVerdict::Empty),
        Finish::Complete => Ok((text.to_owned(), false)),
        Finish::Length => Ok((text.to_owned(), true)),
    }
}

#[cfg(feature = "neural")]
impl LocalLlm {
    fn write_each(
        &self,
        name: &str,
        questions: &[(Question, u32)],
        tell: &mut TellText<'_>,
    ) -> Result<(), ProviderError> {
        let mut open: Vec<(usize, Ask)> = Vec::new();
        for (at, (question, sample)) in questions.iter().enumerate() {
            let prompt = self.asker.encode(question, "").map_err(failed(name))?;
            match self.asker.fits(&prompt, self.how.max_new_tokens) {
                Ok(()) => {
                    let id = RowIds::of_tokens(&prompt, *sample);
                    open.push((at, Ask { id, prompt, max_new_tokens: None }));
                }
                Err(reason) => {
                    if tell(at, Err(reason.into())).is_break() {
                        return Ok(());
                    }
                }
            }
        }
        for rows in open.chunks(self.how.batch_size) {
            if Interrupted::check().is_err() {
                return Ok(());
            }
            let asks: Vec<Ask> = rows.iter().map(|(_, ask)| ask.clone()).collect();
            let draw = Draw { seed: self.seed, step: 0 };
            let written = self.asker.write(&asks, &self.how, draw);
            let written = written.map_err(|error| {
                let place = |row: usize| {
                    let (question, _) = &questions[rows[row].0];
                    PromptRecord::new("", &question.user).place()
                };
                failed(name)(error.in_row(place))
            })?;
            for ((at, _), written) in rows.iter().zip(written) {
                let is_cut = !written.is_finished();
                let text = match written.text.trim() {
                    "" => Err(NoVerdict::Empty.to_string().into()),
                    text => Ok(WrittenText { text: text.to_owned(), is_cut, cost: None }),
                };
                if tell(*at, text).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

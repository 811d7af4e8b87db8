//! The judge's configuration.

use std::collections::BTreeMap;
use std::path::Path;

#[cfg(feature = "neural")]
use rlaif_core::Metadata;
#[cfg(feature = "neural")]
use rlaif_models::{AnswerBatch, ModelNames};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use rlaif_core::BadSetting;

use super::keys::{SamplingConfig, at_least_one, with_service_keys};
use crate::ProviderError;
use crate::demand::ExamDemand;
use crate::file::{self, parse};
use crate::input::RewardInput;
#[cfg(feature = "neural")]
use crate::neural::{Copies, LocalModel};
use crate::rubric::{AnswerForm, OutOfRange, Reward, Rubric, Scale};

with_service_keys! {
/// A judge's TOML file. `docs/rewards.md` describes every key.
///
/// The type parameter is the kind of judge: any kind by default, [`LlmApi`] for an
/// [`super::LlmJudge`], [`RewardServerApi`] for a [`super::RemoteReward`], so that neither can get
/// a configuration of the other.
///
/// ```
/// use rlaif_rewards::judge::{JudgeConfig, LlmApi};
/// let config = JudgeConfig::<LlmApi>::from_toml(r#"
///     rubric = "toxicity"
///     [api]
///     kind = "openai"
///     base_url = "http://localhost:8000/v1"
///     model = "qwen"
/// "#, "judge.toml")?;
/// assert_eq!(config.limits.concurrency, 8);
/// # Ok::<(), rlaif_rewards::ProviderError>(())
/// ```
#[non_exhaustive]
pub struct JudgeConfig<A = ApiConfig> {
    /// Name in metrics, errors and parts.
    #[serde(default = "default_name")]
    pub name: String,
    /// A built-in rubric: `toxicity`, `quality`, `helpfulness`, `honesty`, `harmlessness` or `summary`.
    pub rubric: Option<String>,
    /// The judge's instructions, instead of a built-in rubric.
    pub instructions: Option<String>,
    /// The template of a question, with `{response}`; it may contain `{prompt}` and `{reference}`.
    pub template: Option<String>,
    /// The scale of the verdicts.
    pub scale: Option<Scale>,
    /// The form of the answer: `expectation` is the mean over score tokens; by default, that of the rubric.
    pub answer: Option<AnswerForm>,
    /// Treatment of a number outside the scale: no verdict (the default), or the nearer end of the scale.
    pub out_of_range: Option<OutOfRange>,
    /// Conversion of a verdict to a score: itself, to [0, 1], or to [−1, 1]; by default, that of the rubric.
    pub reward: Option<Reward>,
    /// For expectations: the minimum probability of the numbers of the scale; 0.5 by default.
    pub min_coverage: Option<f64>,
    /// Number of verdicts for each row, whose mean counts; 1 by default.
    pub samples: Option<u32>,
    /// Number of repeated questions after an answer without a verdict; 1 by default.
    pub reasks: Option<u32>,
    /// The grade without which no training with this reward starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exam: Option<Box<ExamDemand>>,
}
/// The judge.
api: A
}

/// Rows per batch of a policy, by default.
#[cfg(feature = "neural")]
pub(super) const BATCH_SIZE: usize = 16;

fn default_name() -> String {
    "judge".to_owned()
}

/// The judge: a language model behind an API, a reward server, or a policy of this library. In a
/// file, `kind` selects one of them.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(from = "Written", into = "Written")]
#[non_exhaustive]
pub enum ApiConfig {
    /// A language model behind an API; [`super::LlmJudge`].
    Llm(LlmApi),
    /// A reward server with OpenRLHF's `/get_reward` interface; [`super::RemoteReward`].
    RewardServer(RewardServerApi),
    /// A language model of this library; [`crate::neural::PolicyJudge`].
    #[cfg(feature = "neural")]
    Policy(PolicyApi),
}

/// The services that a configuration may use as the judge: any kind, or only one.
pub trait JudgeApi: Sized {
    /// Converts the `[api]` of a file to this kind.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for another kind.
    fn of(api: ApiConfig) -> Result<Self, ProviderError>;
}

impl JudgeApi for ApiConfig {
    fn of(api: ApiConfig) -> Result<Self, ProviderError> {
        Ok(api)
    }
}

impl JudgeApi for LlmApi {
    fn of(api: ApiConfig) -> Result<Self, ProviderError> {
        let found = match api {
            ApiConfig::Llm(api) => return Ok(api),
            ApiConfig::RewardServer(_) => "`reward-server`",
            #[cfg(feature = "neural")]
            ApiConfig::Policy(_) => "`policy`",
        };
        Err(ProviderError::Setting(BadSetting::new(
            "api.kind",
            found,
            "a language model behind an API; `RewardConfig` builds all kinds",
        )))
    }
}

impl JudgeApi for RewardServerApi {
    fn of(api: ApiConfig) -> Result<Self, ProviderError> {
        let found = match api {
            ApiConfig::RewardServer(api) => return Ok(api),
            ApiConfig::Llm(_) => "another one, which is an `LlmJudge`",
            #[cfg(feature = "neural")]
            ApiConfig::Policy(_) => "`policy`, which is a `PolicyJudge`",
        };
        Err(ProviderError::Setting(BadSetting::new("api.kind", found, "`reward-server`")))
    }
}

/// A language model behind an API.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LlmApi {
    /// Anthropic's Messages API.
    Anthropic(AnthropicApi),
    /// Amazon Bedrock's InvokeModel, for Anthropic's models.
    BedrockInvoke(BedrockApi),
    /// Amazon Bedrock's Converse, for any model there.
    BedrockConverse(BedrockApi),
    /// Any server with OpenAI's chat completions: vLLM, TGI, llama.cpp, Ollama, OpenAI.
    OpenAi(OpenAiApi),
}

/// Anthropic's Messages API.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnthropicApi {
    /// The model's id.
    pub model: String,
    /// The address; `https://api.anthropic.com` by default.
    pub base_url: Option<String>,
    /// The environment variable of the key; `ANTHROPIC_API_KEY` by default.
    pub api_key_env: Option<String>,
}

/// Amazon Bedrock.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BedrockApi {
    /// The id of a model or an inference profile.
    pub model: String,
    /// The region.
    pub region: String,
    /// The address; the region's endpoint by default.
    pub base_url: Option<String>,
    /// The environment variable of a Bedrock API key. By default, `AWS_BEARER_TOKEN_BEDROCK`, and
    /// without it `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub api_key_env: Option<String>,
}

/// A server with OpenAI's chat completions.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenAiApi {
    /// The model's name.
    pub model: String,
    /// The address; `https://api.openai.com/v1` by default. For Azure OpenAI, the address of the
    /// resource, of the deployment, or the complete target address.
    pub base_url: Option<String>,
    /// The version of Azure OpenAI's API, such as `2024-10-21`, if it is not in `base_url`.
    pub api_version: Option<String>,
    /// The environment variable of the key; `OPENAI_API_KEY` by default. If only `base_url` is set,
    /// requests have no key. For Azure OpenAI, `AZURE_OPENAI_API_KEY`, or else `OPENAI_API_KEY`.
    pub api_key_env: Option<String>,
    /// Number of top log-probs to request, for expectations; 20 by default.
    pub top_log_probs: Option<u8>,
    /// Further keys of the request's body, such as `chat_template_kwargs`.
    #[serde(default)]
    pub extra_body: serde_json::Map<String, serde_json::Value>,
}

/// A reward server.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardServerApi {
    /// The complete address, `http://host:port/get_reward`.
    pub url: String,
    /// The environment variable of a bearer token; none by default.
    pub api_key_env: Option<String>,
    /// Rows per request; 16 by default.
    pub batch_size: Option<usize>,
}

/// A language model of this library.
#[cfg(feature = "neural")]
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyApi {
    /// Folder or hub id.
    pub model: String,
    /// Branch, tag or commit of a hub id.
    pub revision: Option<String>,
    /// Folder or hub id of a LoRA adapter on the model; `model` may also be an adapter itself.
    pub adapter: Option<String>,
    /// Base of the adapter in `model`; by default, the base in its configuration.
    pub base: Option<String>,
    /// `cpu`, `cuda`, `cuda:N` or `auto`; by default, that of the run.
    pub device: Option<String>,
    /// The dtype of the weights; by default, that of the checkpoint.
    pub dtype: Option<crate::neural::ModelDtype>,
    /// Keeps the weights of linear layers, except for heads, in 4 or 8 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<rlaif_models::Quantization>,
    /// Rows per batch; 16 by default.
    pub batch_size: Option<usize>,
    /// The name of the model's chat template, where its tokenizer has several.
    pub chat_template: Option<String>,
    /// Variables of the model's chat template, such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub chat_template_kwargs: Metadata,
}

/// [`ApiConfig`] as in a file, with all kinds in one list.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Written {
    Anthropic(AnthropicApi),
    BedrockInvoke(BedrockApi),
    BedrockConverse(BedrockApi),
    #[serde(rename = "openai")]
    OpenAi(OpenAiApi),
    RewardServer(RewardServerApi),
    #[cfg(feature = "neural")]
    Policy(PolicyApi),
}

impl From<Written> for ApiConfig {
    fn from(written: Written) -> Self {
        match written {
            Written::Anthropic(api) => Self::Llm(LlmApi::Anthropic(api)),
            Written::BedrockInvoke(api) => Self::Llm(LlmApi::BedrockInvoke(api)),
            Written::BedrockConverse(api) => Self::Llm(LlmApi::BedrockConverse(api)),
            Written::OpenAi(api) => Self::Llm(LlmApi::OpenAi(api)),
            Written::RewardServer(api) => Self::RewardServer(api),
            #[cfg(feature = "neural")]
            Written::Policy(api) => Self::Policy(api),
        }
    }
}

impl From<ApiConfig> for Written {
    fn from(config: ApiConfig) -> Self {
        match config {
            ApiConfig::Llm(LlmApi::Anthropic(api)) => Self::Anthropic(api),
            ApiConfig::Llm(LlmApi::BedrockInvoke(api)) => Self::BedrockInvoke(api),
            ApiConfig::Llm(LlmApi::BedrockConverse(api)) => Self::BedrockConverse(api),
            ApiConfig::Llm(LlmApi::OpenAi(api)) => Self::OpenAi(api),
            ApiConfig::RewardServer(api) => Self::RewardServer(api),
            #[cfg(feature = "neural")]
            ApiConfig::Policy(api) => Self::Policy(api),
        }
    }
}

impl<A: JudgeApi> JudgeConfig<A> {
    /// Parses a configuration; `origin` names it in errors.
    ///
    /// # Errors
    /// [`ProviderError::Config`] names the line, the unknown key and the nearest known one;
    /// [`ProviderError::Setting`] for an invalid value, and for a judge of another kind.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, ProviderError> {
        let config: JudgeConfig = parse(text, origin)?;
        config.check()?;
        config.narrowed()
    }

    /// Reads a configuration file. A relative `cache` is relative to the file.
    ///
    /// # Errors
    /// [`ProviderError::File`] if it cannot be read; otherwise as [`JudgeConfig::from_toml`].
    pub fn from_file(path: &Path) -> Result<Self, ProviderError> {
        let mut config = Self::from_toml(&file::read(path)?, &path.display().to_string())?;
        if let (Some(cache), Some(folder)) = (&mut config.cache, path.parent()) {
            *cache = folder.join(&*cache);
        }
        Ok(config)
    }
}

impl JudgeConfig {
    fn narrowed<A: JudgeApi>(self) -> Result<JudgeConfig<A>, ProviderError> {
        Ok(JudgeConfig {
            name: self.name,
            rubric: self.rubric,
            instructions: self.instructions,
            template: self.template,
            scale: self.scale,
            answer: self.answer,
            out_of_range: self.out_of_range,
            reward: self.reward,
            min_coverage: self.min_coverage,
            samples: self.samples,
            reasks: self.reasks,
            api: A::of(self.api)?,
            sampling: self.sampling,
            limits: self.limits,
            price: self.price,
            budget: self.budget,
            cache: self.cache,
            exam: self.exam,
        })
    }

    /// The policy that judges, if it is one.
    #[cfg(feature = "neural")]
    pub fn local_model(&self) -> Option<LocalModel<'_>> {
        // Building the judge refuses a rubric that does not exist.
        let form = self.rubric().ok().map(|rubric| rubric.form());
        let tokens = match form {
            // Read from the probabilities of the next token.
            None | Some(AnswerForm::Expectation) => None,
            Some(form) => Some(self.sampling.max_new_tokens.unwrap_or(form.shape().max_tokens)),
        };
        self.api.local_model(tokens)
    }

    /// The part of a row that it reads.
    pub fn input(&self) -> RewardInput {
        match &self.api {
            ApiConfig::RewardServer(_) => RewardInput::Messages,
            ApiConfig::Llm(_) => RewardInput::Text,
            #[cfg(feature = "neural")]
            ApiConfig::Policy(_) => RewardInput::Text,
        }
    }

    /// Every setting that may name a local folder: the model of a policy as the judge. The `cache`
    /// is not among them: the file need not exist yet.
    pub fn locations(&mut self) -> Vec<&mut String> {
        let exam = self.exam.as_mut().map(|exam| &mut exam.file);
        self.api.locations().into_iter().chain(exam).collect()
    }
}

#[cfg(feature = "neural")]
impl PolicyApi {
    /// The model, with answers of at most this many tokens; `None` if it generates none.
    pub fn local_model(&self, tokens: Option<u32>) -> LocalModel<'_> {
        let names = ModelNames {
            model: &self.model,
            revision: self.revision.as_deref(),
            adapter: self.adapter.as_deref(),
            base: self.base.as_deref(),
        };
        let (device, dtype) = (self.device.as_deref(), self.dtype);
        let rows = self.batch_size.unwrap_or(BATCH_SIZE);
        let answers = tokens.map(|tokens| AnswerBatch { rows, tokens: tokens as usize });
        let (quantization, copies) = (self.quantization, Copies::Own);
        LocalModel { names, device, dtype, quantization, copies, answers }
    }
}

impl ApiConfig {
    /// The policy of this library, if it is one, with answers of at most this many tokens.
    #[cfg(feature = "neural")]
    pub fn local_model(&self, tokens: Option<u32>) -> Option<LocalModel<'_>> {
        match self {
            Self::Llm(_) | Self::RewardServer(_) => None,
            Self::Policy(api) => Some(api.local_model(tokens)),
        }
    }

    /// Every setting that may name a folder on this disk.
    pub(crate) fn locations(&mut self) -> Vec<&mut String> {
        match self {
            // The names of models at a service are not places.
            Self::Llm(
                LlmApi::Anthropic(_)
                | LlmApi::BedrockInvoke(_)
                | LlmApi::BedrockConverse(_)
                | LlmApi::OpenAi(_),
            )
            | Self::RewardServer(_) => Vec::new(),
            #[cfg(feature = "neural")]
            Self::Policy(api) => {
                let PolicyApi {
                    model,
                    revision: _,
                    adapter,
                    base,
                    device: _,
                    dtype: _,
                    quantization: _,
                    batch_size: _,
                    chat_template: _,
                    chat_template_kwargs: _,
                } = api;
                std::iter::once(model).chain(adapter).chain(base).collect()
            }
        }
    }
}

impl<A> JudgeConfig<A> {
    /// The configured rubric.
    pub(crate) fn rubric(&self) -> Result<Rubric, ProviderError> {
        let mut rubric = match (&self.rubric, &self.instructions, &self.template, self.scale) {
            (Some(name), None, None, None) => Rubric::preset(name)?,
            (None, Some(instructions), Some(template), Some(scale)) => {
                Rubric::new(instructions.as_str(), template, scale)?
            }
            (rubric, instructions, template, scale) => {
                let found = [
                    ("rubric", rubric.is_some()),
                    ("instructions", instructions.is_some()),
                    ("template", template.is_some()),
                    ("scale", scale.is_some()),
                ];
                let found: Vec<_> =
                    found.iter().filter(|(_, there)| *there).map(|(key, _)| *key).collect();
                return Err(ProviderError::Setting(BadSetting::new(
                    "rubric",
                    if found.is_empty() { "none".to_owned() } else { found.join(", ") },
                    "the name of a rubric, or else `instructions`, `template` and \
                               `scale`, all three",
                )));
            }
        };
        if let Some(form) = self.answer {
            rubric = rubric.answered_as(form)?;
        }
        if let Some(out_of_range) = self.out_of_range {
            rubric = rubric.with_out_of_range(out_of_range);
        }
        if let Some(reward) = self.reward {
            rubric = rubric.rewarding(reward);
        }
        if let Some(least) = self.min_coverage {
            rubric = rubric.with_min_coverage(least)?;
        }
        Ok(rubric)
    }

    /// Checks constraints that the types do not express; fields may have been set by code.
    pub(crate) fn check(&self) -> Result<(), ProviderError> {
        if let Some(samples) = self.samples {
            at_least_one("samples", samples as usize, 1_000)?;
        }
        self.service(Path::new("")).check()
    }

    /// The keys that have no effect on a reward server, but are set.
    pub(super) fn judge_only(&self) -> Vec<&'static str> {
        let given = BTreeMap::from([
            ("rubric", self.rubric.is_some()),
            ("instructions", self.instructions.is_some()),
            ("template", self.template.is_some()),
            ("scale", self.scale.is_some()),
            ("answer", self.answer.is_some()),
            ("out_of_range", self.out_of_range.is_some()),
            ("reward", self.reward.is_some()),
            ("min_coverage", self.min_coverage.is_some()),
            ("samples", self.samples.is_some()),
            ("reasks", self.reasks.is_some()),
            ("sampling", self.sampling != SamplingConfig::default()),
            ("price", self.price.is_some()),
            ("budget", self.budget.is_some()),
            ("limits.tokens_per_minute", self.limits.tokens_per_minute.is_some()),
            ("cache", self.cache.is_some()),
        ]);
        given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
    }
}

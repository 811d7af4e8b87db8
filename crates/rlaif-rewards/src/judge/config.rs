//! The judge's configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ProviderError;
use crate::file::{self, parse};
use crate::rubric::{AnswerForm, OutOfRange, Reward, Rubric, Scale};

/// What a judge's TOML file says. `docs/rewards.md` describes every key.
///
/// ```
/// use rlaif_rewards::judge::JudgeConfig;
/// let config = JudgeConfig::from_toml(r#"
///     rubric = "toxicity"
///     [api]
///     kind = "openai"
///     base_url = "http://localhost:8000/v1"
///     model = "qwen"
/// "#, "judge.toml")?;
/// assert_eq!(config.limits.concurrency, 8);
/// # Ok::<(), rlaif_rewards::ProviderError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct JudgeConfig {
    /// What metrics, errors and parts call it; `judge` unless told.
    #[serde(default = "default_name")]
    pub name: String,
    /// A rubric that comes with the library.
    pub rubric: Option<String>,
    /// Or the judge's instructions,
    pub instructions: Option<String>,
    /// the question's template, with `{response}`,
    pub template: Option<String>,
    /// and the scale of the verdicts.
    pub scale: Option<Scale>,
    /// The form of the answer.
    pub answer: Option<AnswerForm>,
    /// What becomes of a number outside the scale.
    pub out_of_range: Option<OutOfRange>,
    /// How a verdict becomes a score.
    pub reward: Option<Reward>,
    /// For expectations: the least probability on numbers of the scale.
    pub min_coverage: Option<f64>,
    /// How often each row is judged; the mean counts. 1 unless told.
    pub samples: Option<u32>,
    /// How often an answer without a verdict is asked for again. 1 unless told.
    pub reasks: Option<u32>,
    /// Who judges.
    pub api: ApiConfig,
    /// How it samples.
    #[serde(default)]
    pub sampling: SamplingConfig,
    /// How fast it may be asked, and how long.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// What tokens cost.
    pub price: Option<PriceConfig>,
    /// What may be spent.
    pub budget: Option<BudgetConfig>,
    /// The file that answers are kept in, for later runs and other processes.
    pub cache: Option<PathBuf>,
}

fn default_name() -> String {
    "judge".to_owned()
}

/// Who judges.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ApiConfig {
    /// Anthropic's Messages API.
    Anthropic {
        /// The model's id.
        model: String,
        /// Where it is; `https://api.anthropic.com` unless told.
        base_url: Option<String>,
        /// The environment variable of the key; `ANTHROPIC_API_KEY` unless told.
        api_key_env: Option<String>,
    },
    /// Amazon Bedrock's InvokeModel, for Anthropic's models.
    BedrockInvoke {
        /// The id of a model or an inference profile.
        model: String,
        /// The region.
        region: String,
        /// Where it is; the region's endpoint unless told.
        base_url: Option<String>,
        /// The environment variable of a Bedrock API key. Unless told,
        /// `AWS_BEARER_TOKEN_BEDROCK`, and without it `AWS_ACCESS_KEY_ID`,
        /// `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
        api_key_env: Option<String>,
    },
    /// Amazon Bedrock's Converse, for any model there.
    BedrockConverse {
        /// The id of a model or an inference profile.
        model: String,
        /// The region.
        region: String,
        /// Where it is; the region's endpoint unless told.
        base_url: Option<String>,
        /// As for `bedrock-invoke`.
        api_key_env: Option<String>,
    },
    /// Any server of OpenAI's chat completions: vLLM, TGI, llama.cpp, Ollama, OpenAI.
    #[serde(rename = "openai")]
    OpenAi {
        /// The model's name.
        model: String,
        /// Where it is; `https://api.openai.com/v1` unless told.
        base_url: Option<String>,
        /// The environment variable of the key; `OPENAI_API_KEY` unless told, and no key where
        /// that is not set and `base_url` is.
        api_key_env: Option<String>,
        /// How many likeliest tokens to ask for, for expectations; 20 unless told.
        top_log_probs: Option<u8>,
        /// More keys of the request's body, such as `chat_template_kwargs`.
        #[serde(default)]
        extra_body: serde_json::Map<String, serde_json::Value>,
    },
    /// A reward server of OpenRLHF's `/get_reward` shape.
    RewardServer {
        /// The whole address, `http://host:port/get_reward`.
        url: String,
        /// The environment variable of a bearer token; none unless told.
        api_key_env: Option<String>,
        /// Rows per request; 16 unless told.
        batch_size: Option<usize>,
    },
    /// A language model of this library; [`crate::neural::PolicyJudge`].
    #[cfg(feature = "neural")]
    Policy {
        /// Folder or hub id.
        model: String,
        /// Branch, tag or commit of a hub id.
        revision: Option<String>,
        /// `cpu`, `cuda`, `cuda:N` or `auto`; that of the run unless told.
        device: Option<String>,
        /// The kind of the weights; as the checkpoint has them unless told.
        dtype: Option<crate::neural::Dtype>,
        /// Rows computed together; 16 unless told.
        batch_size: Option<usize>,
    },
}

/// How a judge samples. What is not said is not sent.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// The longest answer, in tokens. Unless told: 16 for numbers, 4 for expectations, 300 with
    /// a justification.
    pub max_tokens: Option<u32>,
    /// The temperature.
    pub temperature: Option<f64>,
    /// The nucleus.
    pub top_p: Option<f64>,
    /// The number of likeliest tokens.
    pub top_k: Option<u32>,
    /// The seed of the first sample, for servers that take one; the next samples count on.
    pub seed: Option<u64>,
}

/// How fast a server may be asked, and how long.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Requests at a time.
    pub concurrency: usize,
    /// Requests per minute, evenly spaced, retries included.
    pub requests_per_minute: Option<f64>,
    /// Tokens per minute, question and answer.
    pub tokens_per_minute: Option<f64>,
    /// Seconds until an answer has come in whole.
    pub timeout_s: f64,
    /// Seconds until a connection stands.
    pub connect_timeout_s: f64,
    /// How often a request is repeated after errors that may pass.
    pub retries: u32,
    /// The longest wait before a repetition, in seconds; a server that asks for more is not
    /// asked again.
    pub longest_wait_s: f64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            concurrency: 8,
            requests_per_minute: None,
            tokens_per_minute: None,
            timeout_s: 60.,
            connect_timeout_s: 10.,
            retries: 5,
            longest_wait_s: 120.,
        }
    }
}

/// What tokens cost, in any one currency.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PriceConfig {
    /// Per million tokens of questions.
    pub input_per_million: f64,
    /// Per million tokens of answers.
    pub output_per_million: f64,
}

/// What may be spent by one process, beginning with its start.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetConfig {
    /// In the currency of the prices.
    pub money: Option<f64>,
    /// In tokens, of questions and answers.
    pub tokens: Option<u64>,
}

impl JudgeConfig {
    /// A configuration of this text; `origin` names it in errors.
    ///
    /// # Errors
    /// [`ProviderError::Config`] names the line, the unknown key and the nearest known one.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, ProviderError> {
        let config: Self = parse(text, origin)?;
        config.check()?;
        Ok(config)
    }

    /// A configuration of this file. A relative `cache` is beside the file.
    ///
    /// # Errors
    /// [`ProviderError::File`] when it cannot be read, else as [`JudgeConfig::from_toml`].
    pub fn from_file(path: &Path) -> Result<Self, ProviderError> {
        let mut config = Self::from_toml(&file::read(path)?, &path.display().to_string())?;
        if let (Some(cache), Some(folder)) = (&mut config.cache, path.parent()) {
            *cache = folder.join(&*cache);
        }
        Ok(config)
    }

    /// Every setting that may name a folder on this disk: the model of a policy that judges. The
    /// `cache` is a file to be made, and its place is another matter.
    pub fn locations(&mut self) -> Vec<&mut String> {
        match &mut self.api {
            // Names of models at a service are no places.
            ApiConfig::Anthropic { .. }
            | ApiConfig::BedrockInvoke { .. }
            | ApiConfig::BedrockConverse { .. }
            | ApiConfig::OpenAi { .. }
            | ApiConfig::RewardServer { .. } => Vec::new(),
            #[cfg(feature = "neural")]
            ApiConfig::Policy { model, revision: _, device: _, dtype: _, batch_size: _ } => {
                vec![model]
            }
        }
    }

    /// The rubric that the settings describe.
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
                return Err(ProviderError::Setting {
                    setting: "rubric",
                    expected: "the name of a rubric, or else `instructions`, `template` and \
                               `scale`, all three"
                        .to_owned(),
                    found: if found.is_empty() { "none".to_owned() } else { found.join(", ") },
                });
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

    /// Checks what the types do not say; fields may have been set by hand.
    pub(crate) fn check(&self) -> Result<(), ProviderError> {
        let LimitsConfig {
            concurrency,
            requests_per_minute,
            tokens_per_minute,
            timeout_s,
            connect_timeout_s,
            retries,
            longest_wait_s,
        } = &self.limits;
        at_least_one("limits.concurrency", *concurrency, 1_024)?;
        at_least_one("limits.retries + 1", *retries as usize + 1, 101)?;
        for (setting, value) in [
            ("limits.requests_per_minute", *requests_per_minute),
            ("limits.tokens_per_minute", *tokens_per_minute),
            ("limits.timeout_s", Some(*timeout_s)),
            ("limits.connect_timeout_s", Some(*connect_timeout_s)),
            ("limits.longest_wait_s", Some(*longest_wait_s)),
        ] {
            if value.is_some_and(|value| !(1e-3..=1e9).contains(&value)) {
                return Err(ProviderError::Setting {
                    setting,
                    expected: "a number from 0.001 to 1e9".to_owned(),
                    found: value.unwrap_or(f64::NAN).to_string(),
                });
            }
        }
        if let Some(samples) = self.samples {
            at_least_one("samples", samples as usize, 1_000)?;
        }
        if let Some(reasks) = self.reasks {
            at_least_one("reasks + 1", reasks as usize + 1, 101)?;
        }
        if let Some(price) = self.price {
            let PriceConfig { input_per_million, output_per_million } = price;
            let sane = |price: f64| price >= 0. && price.is_finite();
            if !(sane(input_per_million) && sane(output_per_million)) {
                return Err(ProviderError::Setting {
                    setting: "price",
                    expected: "two numbers of at least 0".to_owned(),
                    found: format!("{input_per_million} and {output_per_million}"),
                });
            }
        }
        match self.budget {
            Some(BudgetConfig { money: Some(money), .. }) if !(money > 0. && money.is_finite()) => {
                Err(ProviderError::Setting {
                    setting: "budget.money",
                    expected: "a number above 0".to_owned(),
                    found: money.to_string(),
                })
            }
            Some(BudgetConfig { money: Some(_), .. }) if self.price.is_none() => {
                Err(ProviderError::Setting {
                    setting: "budget.money",
                    expected: "used with `price.input_per_million` and `price.output_per_million`"
                        .to_owned(),
                    found: "no `price`".to_owned(),
                })
            }
            Some(BudgetConfig { money: None, tokens: None }) => Err(ProviderError::Setting {
                setting: "budget",
                expected: "`money`, `tokens` or both".to_owned(),
                found: "neither".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// The keys that were given and say nothing to a policy on this machine.
    #[cfg(feature = "neural")]
    pub(crate) fn service_only(&self) -> Vec<&'static str> {
        let given = [
            ("limits", self.limits != LimitsConfig::default()),
            ("price", self.price.is_some()),
            ("budget", self.budget.is_some()),
            ("cache", self.cache.is_some()),
            ("reasks", self.reasks.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
    }

    /// The keys that were given and say nothing to a reward server.
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

fn at_least_one(setting: &'static str, value: usize, most: usize) -> Result<(), ProviderError> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(ProviderError::Setting {
        setting,
        expected: format!("a whole number from 1 to {most}"),
        found: value.to_string(),
    })
}

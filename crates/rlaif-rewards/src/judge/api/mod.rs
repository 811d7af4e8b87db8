//! Wire formats: from a question to a request's body, and from a reply's body to an answer.

mod anthropic;
mod ask;
mod auth;
mod bedrock;
mod endpoint;
mod openai;
mod reply;

pub(super) use ask::Ask;
use auth::Auth;
pub(super) use auth::address;
use endpoint::Endpoint;

use rlaif_http::{Address, EnvVars, Secret};
use serde_json::{Map, Value};

use super::config::{AnthropicApi, BedrockApi, LlmApi, OpenAiApi};
use super::exchange::Headers;
use super::keys::SamplingConfig;
use super::sigv4::{self, Signed};
use super::spending::Tokens;
use rlaif_core::BadSetting;

use crate::ProviderError;
use crate::rubric::Answer;

/// A configured service.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) dialect: Dialect,
    pub(super) model: String,
    pub(super) url: String,
    /// Host and path of the URL, which signatures need.
    pub(super) host: String,
    path: String,
    auth: Auth,
    /// Source of the key, for errors.
    pub(super) key_from: String,
    extra_body: Map<String, Value>,
    top_log_probs: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Anthropic,
    BedrockInvoke,
    BedrockConverse,
    OpenAi,
}

impl Dialect {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Anthropic => "Anthropic Messages",
            Self::BedrockInvoke => "Bedrock InvokeModel",
            Self::BedrockConverse => "Bedrock Converse",
            Self::OpenAi => "OpenAI chat completions",
        }
    }
}

impl Api {
    /// Creates the service of a configuration.
    pub(super) fn new(
        config: &LlmApi,
        log_probs: bool,
        sampling: &SamplingConfig,
        environment: EnvVars<'_>,
    ) -> Result<Self, ProviderError> {
        let api = match config {
            LlmApi::Anthropic(AnthropicApi { model, base_url, api_key_env }) => {
                let base = base_url.as_deref().unwrap_or("https://api.anthropic.com");
                let mut base = address("api.base_url", base)?;
                let path = base.path.trim_end_matches("/messages").trim_end_matches("/v1");
                base.path.truncate(path.len());
                let variable = api_key_env.as_deref().unwrap_or("ANTHROPIC_API_KEY");
                let key = Secret::from_environment(variable, environment)?;
                let auth = Auth::Header { name: "x-api-key", prefix: "", key };
                Self::at(Dialect::Anthropic, model, &base, "/v1/messages", auth, variable)
            }
            LlmApi::BedrockInvoke(BedrockApi { model, region, base_url, api_key_env }) => {
                let (base, auth, from) = bedrock::at(region, base_url, api_key_env, environment)?;
                let path = format!("/model/{}/invoke", sigv4::encoded_segment(model));
                Self::at(Dialect::BedrockInvoke, model, &base, &path, auth, &from)
            }
            LlmApi::BedrockConverse(BedrockApi { model, region, base_url, api_key_env }) => {
                let (base, auth, from) = bedrock::at(region, base_url, api_key_env, environment)?;
                let path = format!("/model/{}/converse", sigv4::encoded_segment(model));
                Self::at(Dialect::BedrockConverse, model, &base, &path, auth, &from)
            }
            LlmApi::OpenAi(config) => Self::openai(config, environment)?,
        };
        if api.dialect != Dialect::OpenAi {
            let refused = |setting, expected: &'static str, found: String| {
                Err(ProviderError::Setting(BadSetting::new(setting, found, expected)))
            };
            if log_probs {
                let expected = "`number`, `number-then-reason` or `json`, since this API gives no \
                                log-probs; or an `openai` server, which may";
                return refused("answer", expected, "expectation".to_owned());
            }
            if let Some(seed) = sampling.seed {
                let expected = "left out, since this API takes no seed";
                return refused("sampling.seed", expected, seed.to_string());
            }
        }
        Ok(api)
    }

    /// Creates a server with OpenAI's chat completions.
    fn openai(config: &OpenAiApi, environment: EnvVars<'_>) -> Result<Self, ProviderError> {
        let OpenAiApi { model, base_url, api_version, api_key_env, top_log_probs, extra_body } =
            config;
        let Endpoint { base, query, azure } =
            Endpoint::openai(base_url.as_deref(), api_version.as_deref(), model)?;
        let given = |name: &str| environment(name).is_some_and(|key| !key.trim().is_empty());
        let variable = api_key_env.as_deref().unwrap_or(match azure {
            true if given("AZURE_OPENAI_API_KEY") || !given("OPENAI_API_KEY") => {
                "AZURE_OPENAI_API_KEY"
            }
            _ => "OPENAI_API_KEY",
        });
        // Local servers need no key.
        let keyless = base_url.is_some() && !azure && api_key_env.is_none() && !given(variable);
        let auth = if keyless {
            Auth::None
        } else {
            let key = Secret::from_environment(variable, environment)?;
            // A token of Microsoft Entra is a JSON Web Token.
            if azure && !key.expose().starts_with("eyJ") {
                Auth::Header { name: "api-key", prefix: "", key }
            } else {
                Auth::Header { name: "authorization", prefix: "Bearer ", key }
            }
        };
        let mut api = Self::at(Dialect::OpenAi, model, &base, "/chat/completions", auth, variable);
        api.url.push_str(&query);
        if keyless {
            api.key_from.push_str(", which is not set");
        }
        api.extra_body = extra_body.clone();
        api.top_log_probs = top_log_probs.unwrap_or(20);
        if !(1..=100).contains(&api.top_log_probs) {
            return Err(ProviderError::Setting(BadSetting::new(
                "api.top_log_probs",
                api.top_log_probs,
                "a whole number from 1 to 100 (most servers give at most 20)",
            )));
        }
        Ok(api)
    }

    fn at(
        dialect: Dialect,
        model: &str,
        base: &Address,
        path: &str,
        auth: Auth,
        key_from: &str,
    ) -> Self {
        Self {
            dialect,
            model: model.to_owned(),
            url: base.join(path),
            host: base.host.clone(),
            path: format!("{}{path}", base.path),
            auth,
            key_from: format!("`{key_from}`"),
            extra_body: Map::new(),
            top_log_probs: 20,
        }
    }

    pub(super) fn body(&self, ask: &Ask<'_>) -> Value {
        Value::Object(match self.dialect {
            Dialect::Anthropic => anthropic::body(Some(&self.model), ask),
            Dialect::BedrockInvoke => anthropic::body(None, ask),
            Dialect::BedrockConverse => bedrock::converse_body(ask),
            Dialect::OpenAi => openai::body(&self.model, self.top_log_probs, &self.extra_body, ask),
        })
    }

    /// Headers that authenticate this body now, and those of the wire format.
    pub(super) fn headers(&self, body: &[u8]) -> Headers {
        let mut headers = match &self.auth {
            Auth::None => Vec::new(),
            Auth::Header { name, prefix, key } => {
                vec![(*name, format!("{prefix}{}", key.expose()))]
            }
            Auth::Aws { credentials, region } => credentials.sign(&Signed {
                method: "POST",
                service: "bedrock",
                region,
                host: &self.host,
                path: &self.path,
                content_type: Some("application/json"),
                body,
                at: std::time::SystemTime::now(),
            }),
        };
        if self.dialect == Dialect::Anthropic {
            headers.push(("anthropic-version", "2023-06-01".to_owned()));
        }
        headers
    }

    /// The answer in a reply, and its token counts; `None` if the reply is not of this API.
    pub(super) fn answer(&self, reply: &Value) -> Option<(Answer, Tokens)> {
        match self.dialect {
            Dialect::Anthropic | Dialect::BedrockInvoke => anthropic::answer(reply),
            Dialect::BedrockConverse => bedrock::converse_answer(reply),
            Dialect::OpenAi => openai::answer(reply),
        }
    }

    /// `true` if `text` contains one of this service's secrets.
    pub(super) fn reveals(&self, text: &str) -> bool {
        match &self.auth {
            Auth::None => false,
            Auth::Header { key, .. } => key.is_in(text),
            Auth::Aws { credentials, .. } => {
                let token = credentials.session_token.as_ref();
                credentials.secret_access_key.is_in(text) || token.is_some_and(|t| t.is_in(text))
            }
        }
    }

    /// `text` without any of this service's secrets.
    pub(super) fn redact(&self, text: &str) -> String {
        match &self.auth {
            Auth::None => text.to_owned(),
            Auth::Header { key, .. } => key.redact(text),
            Auth::Aws { credentials, .. } => {
                let text = credentials.secret_access_key.redact(text);
                match &credentials.session_token {
                    Some(token) => token.redact(&text),
                    None => text,
                }
            }
        }
    }
}

//! Reasons why servers cannot be used.

use rlaif_core::{BadSetting, CodecError, Fault, Interrupted};
use rlaif_http::BadSecret;
use rlaif_lm::LmError;
use rlaif_models::ModelError;

/// Reasons why servers cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A setting.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// The key of the servers.
    #[error("`api_key_env`: {0}")]
    Key(#[from] BadSecret),
    /// No server can be asked.
    #[error("none of {} servers can be asked: {}", .servers.len(), .servers.join("; "))]
    NoServer {
        /// The address of each, and its failure.
        servers: Vec<String>,
    },
    /// A server refuses a request.
    #[error("{server} refuses {call} with status {status}: {said}{}", remedy(.advice))]
    Refused {
        /// The server.
        server: String,
        /// The call.
        call: String,
        /// The HTTP status.
        status: u16,
        /// The message of the server.
        said: String,
        /// The remedy; empty if it is not known.
        advice: &'static str,
    },
    /// A request that no server answers.
    #[error("a request failed {attempts} times, the last time at {server}: {why}")]
    Unanswered {
        /// Number of attempts.
        attempts: usize,
        /// The last server.
        server: String,
        /// The last failure.
        why: String,
    },
    /// A server without the model.
    #[error(
        "{server} does not serve {}; it serves: {}; set `model` to one of them, or start the server with the model of \
         the policy", model_named(.wanted), .served.join(", ")
    )]
    NoModel {
        /// The server.
        server: String,
        /// The name in the settings.
        wanted: Option<String>,
        /// The models of the server.
        served: Vec<String>,
    },
    /// A server with another tokenizer.
    #[error(
        "{server} has another tokenizer than the policy ({codec}): the token ids of {text:?} are {found:?} there, and \
         {expected:?} here; start the server with the model of the policy, and with its tokenizer (`--tokenizer`)"
    )]
    OtherTokenizer {
        /// The server.
        server: String,
        /// The tokenizer of the policy.
        codec: String,
        /// The text.
        text: String,
        /// The ids here.
        expected: Vec<u32>,
        /// The ids there.
        found: Vec<u32>,
    },
    /// A server whose context is too short.
    #[error(
        "{server} reads at most {context} tokens, but a prompt with its response has {needed}; start it with a larger \
         `--max-model-len`, or lower `generation.max_new_tokens`"
    )]
    TooShort {
        /// The server.
        server: String,
        /// Tokens that it reads.
        context: usize,
        /// Tokens needed.
        needed: usize,
    },
    /// Weights that a server does not have after it has loaded them.
    #[error("{server} does not have version {version} of the weights: {problem}")]
    NotArrived {
        /// The server.
        server: String,
        /// The version.
        version: u64,
        /// The fault found.
        problem: String,
    },
    /// A server that computes another model than the policy.
    #[error(
        "the responses of {server} to version {version} of the weights are {kl:.4} nats per token away from the \
         policy, more than {limit}: the server computes another model, does not give processed log-probabilities \
         (`--logprobs-mode processed_logprobs`), computes with a dtype that is too coarse (`--dtype`), or is vLLM on a CPU with tied \
         embeddings, which needs an untied folder (docs/servers.md); `max_mismatch_kl` is the limit"
    )]
    Mismatch {
        /// The server.
        server: String,
        /// The version.
        version: u64,
        /// The KL, in nats per token.
        kl: f64,
        /// The limit.
        limit: f64,
    },
    /// Weights that cannot be written for the servers.
    #[error("the weights for the servers: {0}")]
    Weights(#[from] ModelError),
    /// A text that cannot be encoded, or a response that cannot be decoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A user who asked for the end.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

impl Fault for EngineError {
    fn is_users(&self) -> bool {
        match self {
            Self::Setting(_)
            | Self::Key(_)
            | Self::NoModel { .. }
            | Self::OtherTokenizer { .. }
            | Self::TooShort { .. }
            | Self::Mismatch { .. } => true,
            // Names, keys and options of the server, which its user starts.
            Self::Refused { status, .. } => *status < 500,
            Self::NoServer { .. } | Self::Unanswered { .. } | Self::NotArrived { .. } => false,
            Self::Weights(error) => error.is_users(),
            Self::Codec(error) => error.is_users(),
            Self::Interrupted(_) => false,
        }
    }
}

impl From<EngineError> for LmError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Setting(error) => Self::Setting(error),
            EngineError::Codec(error) => Self::Codec(error),
            EngineError::Interrupted(error) => Self::Asked(error),
            other => Self::Sampler { sampler: "vllm".to_owned(), source: Box::new(other) },
        }
    }
}

fn remedy(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!("; {advice}") }
}

fn model_named(name: &Option<String>) -> String {
    match name {
        Some(name) => format!("the model `{name}`"),
        None => "exactly one base model".to_owned(),
    }
}

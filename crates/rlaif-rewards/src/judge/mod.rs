//! Language models behind APIs, and reward servers, as reward models.
//!
//! A judge is a [`crate::rubric::Rubric`] together with a service that applies it: Anthropic's
//! Messages API, Amazon Bedrock's InvokeModel and Converse, or any server with OpenAI's chat
//! completions ([`LlmJudge`]). A reward server returns rewards itself ([`RemoteReward`]).
//! [`JudgeConfig`] selects the service from a TOML file; [`run`] judges JSON Lines.
//!
//! Guarantees, regardless of the behaviour of the service:
//! - concurrent requests, and requests and tokens per minute, stay within their limits,
//!   including retries;
//! - a wait is at least the server's `Retry-After`; spend limits and bad keys are never
//!   retried;
//! - an exhausted budget ends the requests, not the program: the remaining rows have no
//!   verdict, but a reason;
//! - every answer is in the cache before the next question, and is not requested again;
//! - keys come from the environment and are used only in requests.
//!
//! Calls block; `concurrency` threads live as long as a call of `score`.

mod api;
mod cache;
pub(crate) mod client;
mod comparer;
mod config;
mod exchange;
mod keys;
mod llm;
#[cfg(feature = "neural")]
mod local;
mod optional;
mod refusal;
mod remote;
mod run;
mod sigv4;
mod spending;
mod writer;

pub use client::Unanswered;
pub use comparer::{
    Comparer, ComparerConfig, Judgement, ListVerdict, PairVerdict, RubricJudge, TellList,
    TellVerdict,
};
#[cfg(feature = "neural")]
pub use config::PolicyApi;
pub use config::{
    AnthropicApi, ApiConfig, BedrockApi, JudgeApi, JudgeConfig, LlmApi, OpenAiApi, RewardServerApi,
};
pub use keys::{BudgetConfig, LimitsConfig, PriceConfig, SamplingConfig};
pub use llm::LlmJudge;
pub use remote::RemoteReward;
pub use rlaif_http::{EnvVars, process_environment};
pub use run::{Summary, run, run_with_environment};
pub use spending::Usage;
pub use writer::{Commission, TellText, Writer, WriterConfig, WrittenText};

//! Language models behind APIs, and reward servers, as reward models.
//!
//! A judge is a [`crate::rubric::Rubric`] and a service that is asked by it: Anthropic's Messages,
//! Amazon Bedrock's InvokeModel and Converse, any server of OpenAI's chat completions
//! ([`LlmJudge`]); or a server that gives rewards itself ([`RemoteReward`]). [`JudgeConfig`] says
//! which, from a TOML file; [`run`] judges JSON Lines.
//!
//! Guarantees, with any behaviour of the service:
//! - requests at a time, requests and tokens per minute, retries included;
//! - a server's `Retry-After` is the least wait, spend limits and bad keys are never retried;
//! - a budget ends the asking, not the program: the rest of the rows has no verdict, and why;
//! - every answer is in the cache before the next question, and is not asked for again;
//! - keys come from the environment and go nowhere but into the request.
//!
//! Calls block; `concurrency` threads live as long as a call of `score`.

mod api;
mod cache;
mod config;
mod exchange;
mod llm;
mod optional;
mod refusal;
mod remote;
mod run;
mod sigv4;
mod spending;

#[cfg(feature = "neural")]
pub use config::PolicyApi;
pub use config::{
    AnthropicApi, ApiConfig, BedrockApi, BudgetConfig, JudgeApi, JudgeConfig, LimitsConfig, LlmApi,
    OpenAiApi, PriceConfig, RewardServerApi, SamplingConfig,
};
pub use llm::LlmJudge;
pub use remote::RemoteReward;
pub use rlaif_http::{Environment, process_environment};
pub use run::{Summary, run, run_with_environment};
pub use spending::Usage;

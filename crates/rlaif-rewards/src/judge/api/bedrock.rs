//! Amazon Bedrock: endpoint, authentication, and the Converse API.
//!
//! <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html>.

use rlaif_http::{Address, EnvVars, Secret};
use serde_json::{Map, Value, json};

use super::super::sigv4::Credentials;
use super::super::spending::Tokens;
use super::ask::{Ask, put};
use super::auth::{Auth, address};
use super::reply::{count_of, text_of};
use rlaif_core::BadSetting;

use crate::ProviderError;
use crate::rubric::{Answer, Finish};

/// The endpoint, the authentication, and the source of the key.
pub(super) fn at(
    region: &str,
    base_url: &Option<String>,
    api_key_env: &Option<String>,
    environment: EnvVars<'_>,
) -> Result<(Address, Auth, String), ProviderError> {
    let sane = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.is_empty() || !region.chars().all(sane) {
        return Err(ProviderError::Setting(BadSetting::new(
            "api.region",
            format!("{region:?}"),
            "an AWS region, such as `us-east-1`",
        )));
    }
    let endpoint = format!("https://bedrock-runtime.{region}.amazonaws.com");
    let base = address("api.base_url", base_url.as_deref().unwrap_or(&endpoint))?;
    let bearer = |variable: &str| {
        let key = Secret::from_environment(variable, environment)?;
        let auth = Auth::Header { name: "authorization", prefix: "Bearer ", key };
        Ok::<_, ProviderError>((auth, variable.to_owned()))
    };
    let variable = "AWS_BEARER_TOKEN_BEDROCK";
    let (auth, from) = match api_key_env {
        Some(variable) => bearer(variable)?,
        None if environment(variable).is_some() => bearer(variable)?,
        None => {
            let id = Secret::from_environment("AWS_ACCESS_KEY_ID", environment)?;
            let token = environment("AWS_SESSION_TOKEN").filter(|token| !token.trim().is_empty());
            let token = token.map(|_| Secret::from_environment("AWS_SESSION_TOKEN", environment));
            let credentials = Credentials {
                access_key_id: id.expose().to_owned(),
                secret_access_key: Secret::from_environment("AWS_SECRET_ACCESS_KEY", environment)?,
                session_token: token.transpose()?,
            };
            let auth = Auth::Aws { credentials, region: region.to_owned() };
            (auth, "AWS_ACCESS_KEY_ID".to_owned())
        }
    };
    Ok((base, auth, from))
}

/// The tool whose input is the verdict: Converse has structured output for every model only by a
/// tool.
const TOOL: &str = "verdict";

pub(super) fn converse_body(ask: &Ask<'_>) -> Map<String, Value> {
    let mut body = Map::new();
    let system = Some(ask.question.system.as_str()).filter(|system| !system.is_empty());
    put(&mut body, "system", system.map(|system| json!([{"text": system}])));
    let content = json!([{"text": ask.question.user}]);
    put(&mut body, "messages", Some(json!([{"role": "user", "content": content}])));
    let mut inference = Map::new();
    put(&mut inference, "maxTokens", Some(ask.max_tokens()));
    put(&mut inference, "temperature", ask.temperature());
    put(&mut inference, "topP", ask.top_p());
    put(&mut body, "inferenceConfig", Some(inference));
    let more = ask.top_k().map(|k| json!({"top_k": k}));
    put(&mut body, "additionalModelRequestFields", more);
    let tools = ask.schema().map(|schema| {
        json!({
            "tools": [{"toolSpec": {
                "name": TOOL,
                "description": "Gives the verdict.",
                "inputSchema": {"json": schema},
            }}],
            "toolChoice": {"tool": {"name": TOOL}},
        })
    });
    put(&mut body, "toolConfig", tools);
    body
}

pub(super) fn converse_answer(reply: &Value) -> Option<(Answer, Tokens)> {
    let blocks = reply["output"]["message"]["content"].as_array()?;
    let verdict = blocks.iter().find(|block| block["toolUse"]["name"] == TOOL);
    let text = match verdict {
        Some(block) => block["toolUse"]["input"].to_string(),
        None => blocks.iter().map(|block| text_of(&block["text"])).collect(),
    };
    let finish = match reply["stopReason"].as_str() {
        Some("max_tokens" | "model_context_window_exceeded") => Finish::Length,
        Some("guardrail_intervened" | "content_filtered") => Finish::Refused,
        _ => Finish::Complete,
    };
    let usage = &reply["usage"];
    let tokens =
        Tokens { input: count_of(usage, "inputTokens"), output: count_of(usage, "outputTokens") };
    Some((Answer { text, finish, tokens: Vec::new() }, tokens))
}

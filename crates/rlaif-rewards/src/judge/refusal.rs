//! Classification of a server's errors: retry after a wait, change the request, give up on the
//! row, or stop.

use std::time::{Duration, SystemTime};

use rlaif_core::printable;
use rlaif_http::{HttpReply, retry_after};
use serde_json::Value;

use super::optional::Optional;

/// Reaction to a reply that is not an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Refusal {
    /// Retry, not before the server allows it.
    Passing { wait: Option<Duration>, all: Whom },
    /// Retry once: Bedrock answers 424 for transient and for permanent errors of a model alike.
    PassingOnce,
    /// Retry immediately, without this part.
    Without(Optional),
    /// This row cannot be judged.
    Row,
    /// No row can be judged.
    Fatal(Fatal),
}

/// The requests that a wait applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// This request.
    This,
    /// All requests: the rate is too high.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fatal {
    Unauthorised,
    Forbidden,
    UnknownModel,
    /// The address does not exist.
    NoSuchPath,
    SpendLimit,
    Unexpected,
}

/// A server's error.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Complaint {
    pub(super) status: u16,
    pub(super) message: String,
    /// The names of the error, in lower case.
    names: String,
    wait: Option<Duration>,
}

/// The beginning of a server's message, on one line and safe to print.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 500;
    let text = text.trim();
    let (shown, more) = match text.char_indices().nth(LONGEST) {
        Some((end, _)) => (&text[..end], " ..."),
        None => (text, ""),
    };
    printable(&shown.replace(['\n', '\r', '\t'], " ")).into_owned() + more
}

impl Complaint {
    /// The complaint in a reply that arrived at `now`.
    pub(super) fn of(reply: &HttpReply, now: SystemTime) -> Self {
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
        let error = if body["error"].is_object() { &body["error"] } else { &body };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut message = text(&error["message"]);
        if message.is_empty() {
            let other = [&body["error"], &body["Message"], &body["detail"]];
            message = other.into_iter().map(text).find(|m| !m.is_empty()).unwrap_or_default();
        }
        if message.is_empty() {
            let raw = String::from_utf8_lossy(&reply.body);
            message = raw.chars().take(200).collect::<String>().trim().to_owned();
        }
        let codes = ["type", "code", "error_code", "__type"].map(|key| text(&error[key]));
        let details = text(&error["details"]["error_code"]);
        // Amazon's error name is followed by an irrelevant address.
        let header = reply.headers.get("x-amzn-errortype").and_then(|name| name.to_str().ok());
        let header = header.and_then(|name| name.split(':').next()).unwrap_or_default();
        let names = format!("{} {details} {header} {message}", codes.join(" ")).to_lowercase();
        let location = reply.headers.get("location").and_then(|value| value.to_str().ok());
        if let (300..=399, Some(location)) = (reply.status, location) {
            // Queries may hold keys.
            let to = location.split(['?', '#']).next().unwrap_or_default();
            message = format!("it redirects to {to}: if that is the service, name its address");
        }
        let message = excerpt(&message);
        let message = if message.is_empty() { "no message".to_owned() } else { message };
        Self { status: reply.status, message, names, wait: retry_after(&reply.headers, now) }
    }

    fn says(&self, any: &[&str]) -> bool {
        any.iter().any(|words| self.names.contains(words))
    }

    /// Returns the reaction; `sent` are the optional parts of the request.
    pub(super) fn refusal(&self, sent: &[Optional]) -> Refusal {
        const SPENT: [&str; 5] = [
            "insufficient_quota",
            "enforced_spend_limit_reached",
            "billing_error",
            "credit balance is too low",
            "spend limit",
        ];
        const NO_MODEL: [&str; 5] = [
            "model_not_found",
            "model identifier is invalid",
            "on-demand throughput isn",
            "model does not exist",
            "provided model",
        ];
        const BAD_KEY: [&str; 6] = [
            "unrecognizedclient",
            "invalidsignature",
            "signaturedoesnotmatch",
            "expiredtoken",
            "security token",
            "incompletesignature",
        ];
        let wait = self.wait;
        match self.status {
            402 => Refusal::Fatal(Fatal::SpendLimit),
            400..=429 if self.says(&SPENT) => Refusal::Fatal(Fatal::SpendLimit),
            401 => Refusal::Fatal(Fatal::Unauthorised),
            400 | 403 if self.says(&BAD_KEY) => Refusal::Fatal(Fatal::Unauthorised),
            403 => Refusal::Fatal(Fatal::Forbidden),
            // Model servers name the unknown model in a 404; for other servers the path is wrong.
            404 if self.says(&["model", "deployment", "not_found_error"]) => {
                Refusal::Fatal(Fatal::UnknownModel)
            }
            404 | 405 => Refusal::Fatal(Fatal::NoSuchPath),
            429 => Refusal::Passing { wait, all: Whom::All },
            408 | 409 | 425 | 500..=599 => Refusal::Passing { wait, all: Whom::This },
            424 => Refusal::PassingOnce,
            400 | 422 => match self.disliked(sent) {
                Some(optional) => Refusal::Without(optional),
                None if self.says(&NO_MODEL) => Refusal::Fatal(Fatal::UnknownModel),
                None => Refusal::Row,
            },
            413 => Refusal::Row,
            _ => Refusal::Fatal(Fatal::Unexpected),
        }
    }

    /// Finds the part of the request that the server refuses with any value.
    fn disliked(&self, sent: &[Optional]) -> Option<Optional> {
        const AS_SUCH: [&str; 14] = [
            "deprecated",
            "unsupported",
            "not supported",
            "n't support",
            "not support",
            "not allowed",
            "not permitted",
            "extra inputs",
            "extraneous key",
            "cannot both",
            "unrecognized",
            "unknown",
            "unexpected",
            "not available",
        ];
        if !self.says(&AS_SUCH) {
            return None;
        }
        let names = |optional: &Optional| -> &[&str] {
            match optional {
                Optional::TopP => &["top_p", "topp"],
                Optional::TopK => &["top_k", "topk"],
                Optional::Temperature => &["temperature"],
                Optional::Seed => &["seed"],
                Optional::Schema => &[
                    "output_config",
                    "output format",
                    "response_format",
                    "json_schema",
                    "structured output",
                    "toolconfig",
                    "tool_choice",
                    "tool choice",
                    "tool use",
                ],
                Optional::MaxTokensName => &["max_completion_tokens"],
            }
        };
        // Top-p is dropped before the temperature: where they exclude each other, the temperature
        // is the more important one.
        const ORDER: [Optional; 6] = [
            Optional::TopP,
            Optional::TopK,
            Optional::Temperature,
            Optional::Seed,
            Optional::Schema,
            Optional::MaxTokensName,
        ];
        ORDER.into_iter().find(|optional| sent.contains(optional) && self.says(names(optional)))
    }
}

#[cfg(test)]
mod tests {
    use rlaif_http::ureq::http::HeaderMap;

    use super::*;

    fn complaint(status: u16, body: &str, error_type: Option<&str>) -> Complaint {
        let mut headers = HeaderMap::new();
        if let Some(name) = error_type {
            headers.insert("x-amzn-errortype", format!("{name}:http://x").parse().unwrap());
        }
        Complaint::of(&HttpReply { status, headers, body: body.into() }, SystemTime::now())
    }

    const ALL: [Optional; 6] = [
        Optional::Temperature,
        Optional::TopP,
        Optional::TopK,
        Optional::Seed,
        Optional::Schema,
        Optional::MaxTokensName,
    ];

    #[test]
    fn services_own_errors_mean_what_they_mean() {
        let fatal = |what| Refusal::Fatal(what);
        let passing = |all| Refusal::Passing { wait: None, all };
        let cases = [
            // Anthropic.
            (
                401,
                r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#,
                None,
                fatal(Fatal::Unauthorised),
            ),
            (
                402,
                r#"{"type":"error","error":{"type":"billing_error","message":"m"}}"#,
                None,
                fatal(Fatal::SpendLimit),
            ),
            (
                429,
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"m"}}"#,
                None,
                passing(Whom::All),
            ),
            (
                429,
                r#"{"type":"error","error":{"type":"rate_limit_error","error_code":"enforced_spend_limit_reached","message":"m"}}"#,
                None,
                fatal(Fatal::SpendLimit),
            ),
            (
                429,
                r#"{"type":"error","error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"},"message":"m"}}"#,
                None,
                fatal(Fatal::SpendLimit),
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#,
                None,
                fatal(Fatal::SpendLimit),
            ),
            (
                404,
                r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-0"}}"#,
                None,
                fatal(Fatal::UnknownModel),
            ),
            (
                529,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                None,
                passing(Whom::This),
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"`temperature` is deprecated for this model"}}"#,
                None,
                Refusal::Without(Optional::Temperature),
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"`temperature` and `top_p` cannot both be specified for this model. Please use only one."}}"#,
                None,
                Refusal::Without(Optional::TopP),
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"output_config: Extra inputs are not permitted"}}"#,
                None,
                Refusal::Without(Optional::Schema),
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"temperature: range: 0..1"}}"#,
                None,
                Refusal::Row,
            ),
            (
                413,
                r#"{"type":"error","error":{"type":"request_too_large","message":"m"}}"#,
                None,
                Refusal::Row,
            ),
            // Bedrock.
            (
                429,
                r#"{"message":"Too many requests"}"#,
                Some("ThrottlingException"),
                passing(Whom::All),
            ),
            (
                400,
                r#"{"message":"The provided model identifier is invalid."}"#,
                Some("ValidationException"),
                fatal(Fatal::UnknownModel),
            ),
            (
                403,
                r#"{"message":"The security token included in the request is invalid."}"#,
                Some("UnrecognizedClientException"),
                fatal(Fatal::Unauthorised),
            ),
            (
                403,
                r#"{"message":"You don't have access to the model with the specified model ID."}"#,
                Some("AccessDeniedException"),
                fatal(Fatal::Forbidden),
            ),
            (424, r#"{"message":"m"}"#, Some("ModelErrorException"), Refusal::PassingOnce),
            (408, r#"{"message":"m"}"#, Some("ModelTimeoutException"), passing(Whom::This)),
            // OpenAI and compatible servers.
            (
                429,
                r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#,
                None,
                fatal(Fatal::SpendLimit),
            ),
            (
                429,
                r#"{"error":{"message":"Rate limit reached. Add a payment method at https://platform.openai.com/account/billing.","type":"requests","code":"rate_limit_exceeded"}}"#,
                None,
                passing(Whom::All),
            ),
            (
                400,
                r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","code":"unsupported_parameter"}}"#,
                None,
                Refusal::Without(Optional::MaxTokensName),
            ),
            (
                400,
                r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0 with this model.","code":"unsupported_value"}}"#,
                None,
                Refusal::Without(Optional::Temperature),
            ),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 4096 tokens.","code":"context_length_exceeded"}}"#,
                None,
                Refusal::Row,
            ),
            (
                404,
                r#"{"error":{"message":"model \"x\" not found, try pulling it first"}}"#,
                None,
                fatal(Fatal::UnknownModel),
            ),
            (503, "upstream connect error", None, passing(Whom::This)),
            (301, "", None, fatal(Fatal::Unexpected)),
        ];
        for (status, body, error_type, expected) in cases {
            assert_eq!(
                complaint(status, body, error_type).refusal(&ALL),
                expected,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn a_redirect_is_told_with_its_address() {
        let mut headers = HeaderMap::new();
        headers.insert("location", "https://example.org/v1/chat?key=secret".parse().unwrap());
        let reply = HttpReply { status: 302, headers, body: b"moved".to_vec() };
        let said = Complaint::of(&reply, SystemTime::now()).message;
        assert!(said.contains("redirects to https://example.org/v1/chat:"), "{said}");
    }

    #[test]
    fn what_was_not_sent_is_not_left_out() {
        let body = r#"{"error":{"message":"`temperature` is deprecated for this model"}}"#;
        assert_eq!(complaint(400, body, None).refusal(&[Optional::TopP]), Refusal::Row);
    }
}

//! Bodies of requests.

use rlaif_core::{
    ChatOptions, Eos, Message, Metadata, OtherContent, ResponsePrompt, ResponseRequest,
};
use rlaif_people::random_token;
use serde::Deserialize;
use serde_json::{Value, json};

use super::refusal::ApiRefusal;
use crate::fields::Fields;

/// Maximum length of a completion in tokens if the request names none, as in OpenAI's interface.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Most responses to one prompt.
const MOST_RESPONSES: usize = 128;
/// Most prompts of a request.
const MOST_PROMPTS: usize = 256;
/// Most alternatives of a token.
const MOST_ALTERNATIVES: usize = 20;
/// Most texts that end a response, and the longest one in bytes.
const MOST_STOPS: (usize, usize) = (16, 1024);

/// The two kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApiKind {
    /// `/v1/completions`.
    Completion,
    /// `/v1/chat/completions`.
    Chat,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// One JSON object.
    Whole,
    /// Server-sent events; at the end, maybe the counts of tokens.
    Stream { usage: bool },
}

/// A request.
#[derive(Debug)]
pub(super) struct ApiRequest {
    pub(super) kind: ApiKind,
    pub(super) model: String,
    pub(super) delivery: Delivery,
    pub(super) ids: bool,
    pub(super) tokens_as_ids: bool,
    pub(super) request: ResponseRequest,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum GivenPrompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    AllIds(Vec<Vec<u32>>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum GivenStop {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl ApiRequest {
    /// Reads a body.
    pub(super) fn read(kind: ApiKind, body: &[u8]) -> Result<Self, ApiRefusal> {
        let mut fields = Fields::read(body)?;
        let model = fields.needed("model", "the name of a model (`/v1/models`)")?;
        let mut request = common(&mut fields)?;
        match kind {
            ApiKind::Completion => completion(&mut fields, &mut request)?,
            ApiKind::Chat => chat(&mut fields, &mut request)?,
        }
        let stream: Option<bool> = fields.take("stream", TRUTH)?;
        let expected = "an object with `include_usage`";
        let options: Option<StreamOptions> = fields.take("stream_options", expected)?;
        let delivery = match (stream.unwrap_or(false), options) {
            (true, options) => Delivery::Stream { usage: options.is_some_and(|o| o.include_usage) },
            (false, None) => Delivery::Whole,
            (false, Some(_)) => {
                return Err(ApiRefusal::field("stream_options", "`stream_options` needs `stream`"));
            }
        };
        let ids = fields.take("return_token_ids", TRUTH)?.unwrap_or(false);
        let tokens_as_ids = fields.take("return_tokens_as_token_ids", TRUTH)?.unwrap_or(false);
        // Names the end user, which has no effect on a response.
        fields.take::<String>("user", "a text")?;
        fields.end()?;
        Ok(Self { kind, model, delivery, ids, tokens_as_ids, request })
    }
}

const TRUTH: &str = "true or false";
const COUNT: &str = "a number, 0 or more";

/// A number in a range.
fn within(
    fields: &mut Fields,
    name: &'static str,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Option<f64>, ApiRefusal> {
    let expected = format!("a number from {} to {}", range.start(), range.end());
    let value: Option<f64> = fields.take(name, &expected)?;
    match value.filter(|value| !range.contains(value)) {
        Some(value) => {
            let message = format!("`{name}` should be {expected}, but is {value}");
            Err(ApiRefusal::field(name, message))
        }
        None => Ok(value),
    }
}

/// The settings that both kinds have.
fn common(fields: &mut Fields) -> Result<ResponseRequest, ApiRefusal> {
    let responses: usize = fields.take("n", COUNT)?.unwrap_or(1);
    if !(1..=MOST_RESPONSES).contains(&responses) {
        let message = format!("`n` should be 1 to {MOST_RESPONSES}, but is {responses}");
        return Err(ApiRefusal::field("n", message));
    }
    let seed: Option<Value> = fields.take("seed", "an integer")?;
    let seed = match seed {
        None => random_seed()?,
        Some(seed) => {
            let found = seed.as_u64().or_else(|| seed.as_i64().map(i64::cast_unsigned));
            let wrong =
                || ApiRefusal::field("seed", format!("`seed` should be an integer, but is {seed}"));
            found.ok_or_else(wrong)?
        }
    };
    // vLLM's clients write 0 or −1 for all tokens.
    let top_k: Option<i64> = fields.take("top_k", "an integer")?;
    let top_k = top_k.and_then(|k| usize::try_from(k).ok()).filter(|k| *k > 0);
    let stop: Option<GivenStop> = fields.take("stop", "a text or a list of texts")?;
    let stop_strings = match stop {
        None => Vec::new(),
        Some(GivenStop::One(stop)) => vec![stop],
        Some(GivenStop::Several(stops)) => stops,
    };
    let (most, longest) = MOST_STOPS;
    if stop_strings.len() > most || stop_strings.iter().any(|stop| stop.len() > longest) {
        let message = format!("`stop` should be at most {most} texts of at most {longest} bytes");
        return Err(ApiRefusal::field("stop", message));
    }
    let zero = [json!(0)];
    let penalty = "use `repetition_penalty`";
    fields.without("presence_penalty", &zero, penalty)?;
    fields.without("frequency_penalty", &zero, penalty)?;
    fields.without("logit_bias", &[json!({})], "tokens have no bias")?;
    Ok(ResponseRequest {
        prompts: Vec::new(),
        responses,
        seed,
        max_new_tokens: None,
        min_new_tokens: fields.take("min_tokens", COUNT)?.unwrap_or(0),
        temperature: within(fields, "temperature", 0. ..=100.)?.unwrap_or(1.),
        top_k,
        top_p: within(fields, "top_p", 0. ..=1.)?,
        min_p: within(fields, "min_p", 0. ..=1.)?,
        repetition_penalty: within(fields, "repetition_penalty", 0.01..=100.)?.unwrap_or(1.),
        eos: match fields.take("ignore_eos", TRUTH)? {
            Some(true) => Eos::Ignored,
            Some(false) | None => Eos::Ends,
        },
        stop_ids: fields.take("stop_token_ids", "a list of token ids")?.unwrap_or_default(),
        stop_strings,
        alternatives: None,
    })
}

fn random_seed() -> Result<u64, ApiRefusal> {
    let token = random_token().map_err(|e| {
        ApiRefusal::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, e.to_string())
    })?;
    Ok(u64::from_str_radix(&token[..16], 16).unwrap_or(0))
}

fn alternatives(name: &str, count: usize) -> Result<usize, ApiRefusal> {
    if count > MOST_ALTERNATIVES {
        let message = format!("`{name}` should be at most {MOST_ALTERNATIVES}, but is {count}");
        return Err(ApiRefusal::field(name, message));
    }
    Ok(count)
}

/// The fields of completions.
fn completion(fields: &mut Fields, request: &mut ResponseRequest) -> Result<(), ApiRefusal> {
    let expected = "a text, a list of texts, a list of token ids, or a list of such lists";
    request.prompts = match fields.needed("prompt", expected)? {
        GivenPrompt::Text(text) => vec![ResponsePrompt::Text(text)],
        // An empty list has no ids and no texts.
        GivenPrompt::Ids(ids) => vec![ResponsePrompt::Ids(ids)],
        GivenPrompt::Texts(texts) => texts.into_iter().map(ResponsePrompt::Text).collect(),
        GivenPrompt::AllIds(all) => all.into_iter().map(ResponsePrompt::Ids).collect(),
    };
    if request.prompts.len() > MOST_PROMPTS {
        let message =
            format!("there are {} prompts, and {MOST_PROMPTS} may be", request.prompts.len());
        return Err(ApiRefusal::field("prompt", message));
    }
    let max: Option<usize> = fields.take("max_tokens", COUNT)?;
    request.max_new_tokens = Some(max.unwrap_or(DEFAULT_MAX_TOKENS));
    let count: Option<usize> = fields.take("logprobs", COUNT)?;
    request.alternatives = count.map(|count| alternatives("logprobs", count)).transpose()?;
    fields.without("best_of", &[json!(request.responses)], "ask for `n` responses")?;
    fields.without("echo", &[json!(false)], "a response does not repeat its prompt")?;
    Ok(fields.without("suffix", &[json!("")], "no text follows a response")?)
}

/// The fields of chats.
fn chat(fields: &mut Fields, request: &mut ResponseRequest) -> Result<(), ApiRefusal> {
    let messages: Vec<Message> =
        fields.needed("messages", "a list of messages with `role` and `content`")?;
    for message in &messages {
        let parts = match &message.other_content {
            Some(OtherContent::Parts(parts)) => parts.as_slice(),
            _ => &[],
        };
        if let Some(part) = parts.iter().find(|part| part["type"] != "text") {
            let message = format!("content of type {} is not supported; texts are", part["type"]);
            return Err(ApiRefusal::field("messages", message));
        }
    }
    let kwargs: Option<Metadata> = fields.take("chat_template_kwargs", "an object")?;
    let options = ChatOptions { kwargs: kwargs.unwrap_or_default(), ..ChatOptions::default() };
    request.prompts = vec![ResponsePrompt::Chat(messages, options)];
    let old: Option<usize> = fields.take("max_tokens", COUNT)?;
    let new: Option<usize> = fields.take("max_completion_tokens", COUNT)?;
    request.max_new_tokens = match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let message = format!(
                "`max_tokens` is {old} and `max_completion_tokens` is {new}; name one of them"
            );
            return Err(ApiRefusal::field("max_tokens", message));
        }
        (old, new) => new.or(old),
    };
    let shows: bool = fields.take("logprobs", TRUTH)?.unwrap_or(false);
    let count: Option<usize> = fields.take("top_logprobs", COUNT)?;
    request.alternatives = match (shows, count) {
        (true, count) => Some(alternatives("top_logprobs", count.unwrap_or(0))?),
        (false, None | Some(0)) => None,
        (false, Some(_)) => {
            return Err(ApiRefusal::field("top_logprobs", "`top_logprobs` needs `logprobs`"));
        }
    };
    fields.without(
        "response_format",
        &[json!({"type": "text"})],
        "responses are not constrained to a form",
    )?;
    let tools = "calls of tools are not read from responses";
    fields.without("tools", &[json!([])], tools)?;
    fields.without("tool_choice", &[json!("none"), json!("auto")], tools)?;
    fields.without("functions", &[json!([])], tools)?;
    fields.without("function_call", &[json!("none"), json!("auto")], tools)?;
    fields.without("store", &[json!(false)], "responses are not stored")?;
    Ok(fields.without("modalities", &[json!(["text"])], "responses are texts")?)
}

//! Answers, whole and in pieces.

use std::time::{SystemTime, UNIX_EPOCH};

use rlaif_core::{ResponseEndReason, ResponseToken, ShownToken};
use serde_json::{Value, json};

use super::request::{ApiKind, ApiRequest};

/// The parts of an answer that do not depend on the tokens.
#[derive(Debug)]
pub(super) struct Frame {
    kind: ApiKind,
    id: String,
    created: u64,
    model: String,
    /// Token ids of the prompts.
    prompts: Vec<Vec<u32>>,
    /// Responses to each prompt.
    responses: usize,
    ids: bool,
    tokens_as_ids: bool,
}

impl Frame {
    pub(super) fn new(id: &str, asked: &ApiRequest, prompts: Vec<Vec<u32>>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let prefix = match asked.kind {
            ApiKind::Completion => "cmpl",
            ApiKind::Chat => "chatcmpl",
        };
        Self {
            kind: asked.kind,
            id: format!("{prefix}-{id}"),
            created: since.as_secs(),
            model: asked.model.clone(),
            prompts,
            responses: asked.request.responses,
            ids: asked.ids,
            tokens_as_ids: asked.tokens_as_ids,
        }
    }

    /// Number of responses.
    pub(super) fn count(&self) -> usize {
        self.prompts.len() * self.responses
    }

    fn object(&self, streams: bool, choices: &[Value]) -> Value {
        let object = match (self.kind, streams) {
            (ApiKind::Completion, _) => "text_completion",
            (ApiKind::Chat, false) => "chat.completion",
            (ApiKind::Chat, true) => "chat.completion.chunk",
        };
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices})
    }

    fn usage(&self, completion: usize) -> Value {
        let prompt: usize = self.prompts.iter().map(Vec::len).sum();
        json!({"prompt_tokens": prompt, "completion_tokens": completion,
            "total_tokens": prompt + completion})
    }

    fn log_probs(&self, tokens: &[ResponseToken], offset: usize) -> Value {
        let shown: Option<Vec<(&ResponseToken, &ShownToken)>> =
            tokens.iter().map(|token| Some((token, token.shown.as_ref()?))).collect();
        let Some(shown) = shown.filter(|shown| !shown.is_empty()) else { return Value::Null };
        let text = |token: &ResponseToken, shown: &ShownToken| match self.tokens_as_ids {
            true => format!("token_id:{}", token.id),
            false => shown.text.clone(),
        };
        match self.kind {
            ApiKind::Chat => {
                let one = |text: &str, log_prob: f32| {
                    // The bytes of a part of a character are not known from its text.
                    let bytes =
                        (!text.contains(char::REPLACEMENT_CHARACTER)).then_some(text.as_bytes());
                    json!({"token": text, "logprob": finite(log_prob), "bytes": bytes})
                };
                let content = shown.into_iter().map(|(token, shown)| {
                    let mut own = one(&text(token, shown), token.log_prob);
                    let others = shown.alternatives.iter();
                    // A sampled token need not be among the most probable ones.
                    let sampled = (!shown.alternatives.is_empty() && !is_among(token, shown))
                        .then(|| one(&shown.text, token.log_prob));
                    own["top_logprobs"] =
                        others.map(|(text, p)| one(text, *p)).chain(sampled).collect();
                    own
                });
                json!({"content": content.collect::<Vec<_>>()})
            }
            ApiKind::Completion => {
                let mut offsets = Vec::with_capacity(shown.len());
                let mut at = offset;
                for (_, shown) in &shown {
                    offsets.push(at);
                    at += shown.text.chars().count();
                }
                // As in OpenAI's interface, the sampled token is one of them.
                let top = |(token, shown): &(&ResponseToken, &ShownToken)| -> Value {
                    let mut top = serde_json::Map::new();
                    for (text, p) in &shown.alternatives {
                        // Of two tokens with one text, the more probable one comes first.
                        top.entry(text.as_str()).or_insert_with(|| finite(*p));
                    }
                    if !is_among(token, shown) {
                        top.insert(shown.text.clone(), finite(token.log_prob));
                    }
                    top.into()
                };
                json!({
                    "tokens": shown.iter().map(|(token, shown)| text(token, shown)).collect::<Vec<_>>(),
                    "token_logprobs": shown.iter().map(|(token, _)| finite(token.log_prob)).collect::<Vec<_>>(),
                    "top_logprobs": shown.iter().map(top).collect::<Vec<_>>(),
                    "text_offset": offsets,
                })
            }
        }
    }

    /// The prompt of a response.
    fn prompt(&self, response: usize) -> &[u32] {
        &self.prompts[response / self.responses]
    }

    /// The whole answer.
    pub(super) fn whole(&self, responses: &[Vec<ResponseToken>]) -> Value {
        let choices = responses.iter().enumerate().map(|(index, tokens)| {
            let end = tokens.last().and_then(|token| token.end.as_ref());
            let text = end.map_or("", |end| end.text.as_str());
            let mut choice = json!({"index": index, "logprobs": self.log_probs(tokens, 0)});
            ended(&mut choice, end.map(|end| &end.reason));
            match self.kind {
                ApiKind::Completion => choice["text"] = text.into(),
                ApiKind::Chat => {
                    choice["message"] =
                        json!({"role": "assistant", "content": text, "refusal": null});
                }
            }
            if self.ids {
                choice["prompt_token_ids"] = json!(self.prompt(index));
                choice["token_ids"] = tokens.iter().map(|token| token.id).collect();
            }
            choice
        });
        let mut whole = self.object(false, &choices.collect::<Vec<_>>());
        whole["usage"] = self.usage(responses.iter().map(Vec::len).sum());
        whole
    }

    /// The piece before a response's first token; completions have none.
    pub(super) fn first(&self, response: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        let mut choice =
            json!({"index": response, "delta": delta, "logprobs": null, "finish_reason": null});
        if self.ids {
            choice["prompt_token_ids"] = json!(self.prompt(response));
        }
        (self.kind == ApiKind::Chat).then(|| self.object(true, &[choice]))
    }

    /// The piece of a token. `offset` is the length of the text of earlier tokens in characters.
    pub(super) fn piece(&self, token: &ResponseToken, first: bool, offset: usize) -> Value {
        let log_probs = self.log_probs(std::slice::from_ref(token), offset);
        let mut choice = json!({"index": token.response, "logprobs": log_probs});
        ended(&mut choice, token.end.as_ref().map(|end| &end.reason));
        match self.kind {
            ApiKind::Completion => choice["text"] = token.text.as_str().into(),
            ApiKind::Chat => choice["delta"] = json!({"content": token.text}),
        }
        if self.ids {
            choice["token_ids"] = json!([token.id]);
            if first && self.kind == ApiKind::Completion {
                choice["prompt_token_ids"] = json!(self.prompt(token.response));
            }
        }
        self.object(true, &[choice])
    }

    /// The piece after all responses, with the counts of tokens.
    pub(super) fn last(&self, tokens: usize) -> Value {
        let mut piece = self.object(true, &[]);
        piece["usage"] = self.usage(tokens);
        piece
    }
}

/// `true` if the sampled token is one of the most probable ones.
fn is_among(token: &ResponseToken, shown: &ShownToken) -> bool {
    shown.alternatives.iter().any(|(text, p)| *text == shown.text && *p == token.log_prob)
}

/// The reason for the end, as OpenAI and vLLM tell it.
fn ended(choice: &mut Value, reason: Option<&ResponseEndReason>) {
    let (finish, stop) = match reason {
        None => (Value::Null, Value::Null),
        Some(ResponseEndReason::Eos) => ("stop".into(), Value::Null),
        Some(ResponseEndReason::StopId(id)) => ("stop".into(), (*id).into()),
        Some(ResponseEndReason::StopString(text)) => ("stop".into(), text.as_str().into()),
        Some(ResponseEndReason::Length) => ("length".into(), Value::Null),
    };
    choice["finish_reason"] = finish;
    choice["stop_reason"] = stop;
}

/// JSON has no infinity: an impossible token has a log-probability that counts as 0 in any sum of probabilities.
fn finite(log_prob: f32) -> Value {
    json!(f64::from(log_prob).max(-9999.))
}

//! Fields of requests. Each is read by its name, and those that are left over are refused: a client learns that a
//! field has no effect.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use rlaif_core::{Fault, ResponderError};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::{Json, Refusal};

/// A refusal in OpenAI's form.
#[derive(Debug)]
pub(super) struct ApiRefusal {
    status: StatusCode,
    message: String,
    /// The field of the request.
    param: Option<String>,
}

impl ApiRefusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None }
    }

    /// A field that is wrong.
    pub(super) fn field(name: &str, message: impl Into<String>) -> Self {
        let param = Some(name.to_owned());
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), param }
    }
}

impl From<Refusal> for ApiRefusal {
    fn from(Refusal(status, message): Refusal) -> Self {
        Self { status, message, param: None }
    }
}

impl From<ResponderError> for ApiRefusal {
    fn from(error: ResponderError) -> Self {
        match error {
            ResponderError::Setting(mut setting) => {
                let name = match setting.field.trim_start_matches("sampling.") {
                    "max_new_tokens" => "max_tokens",
                    "min_new_tokens" => "min_tokens",
                    "stop_strings" => "stop",
                    "stop_ids" => "stop_token_ids",
                    name => name,
                }
                .to_owned();
                setting.field = name.clone().into();
                Self::field(&name, setting.to_string())
            }
            ResponderError::Prompt { .. } => Self::field("prompt", error.to_string()),
            ResponderError::Busy { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, error.to_string())
            }
            error if error.is_users() => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
            error => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

impl IntoResponse for ApiRefusal {
    fn into_response(self) -> Response {
        let kind =
            if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let error = json!({"message": self.message, "type": kind, "param": self.param,
            "code": self.status.as_u16()});
        (self.status, Json(json!({"error": error}))).into_response()
    }
}

/// The fields of a request that have not been read.
#[derive(Debug)]
pub(super) struct Fields {
    left: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    pub(super) fn read(body: &[u8]) -> Result<Self, ApiRefusal> {
        let left = serde_json::from_slice(body).map_err(|e| {
            ApiRefusal::new(StatusCode::BAD_REQUEST, format!("the body is not a JSON object: {e}"))
        })?;
        Ok(Self { left, known: Vec::new() })
    }

    /// A field's value; `None` if it is null or absent.
    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<Option<T>, ApiRefusal> {
        self.known.push(name);
        let Some(value) = self.left.remove(name).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let found = shown(&value);
        let read = serde_json::from_value(value);
        let wrong =
            |_| ApiRefusal::field(name, format!("`{name}` should be {expected}, but is {found}"));
        read.map(Some).map_err(wrong)
    }

    /// The same for a field that must be there.
    pub(super) fn needed<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<T, ApiRefusal> {
        let missing =
            || ApiRefusal::field(name, format!("`{name}` is missing; it should be {expected}"));
        self.take(name, expected)?.ok_or_else(missing)
    }

    /// Accepts a field only with a value that changes nothing.
    pub(super) fn without(
        &mut self,
        name: &'static str,
        neutral: &[Value],
        reason: &str,
    ) -> Result<(), ApiRefusal> {
        let Some(value) = self.left.remove(name).filter(|value| !value.is_null()) else {
            return Ok(());
        };
        // 0 and 0.0 are one number.
        let equal =
            |one: &Value| *one == value || (one.is_number() && one.as_f64() == value.as_f64());
        if neutral.iter().any(equal) {
            return Ok(());
        }
        let found = shown(&value);
        Err(ApiRefusal::field(
            name,
            format!("`{name}` is {found}, which is not supported: {reason}"),
        ))
    }

    /// Refuses fields that nobody has read.
    pub(super) fn end(self) -> Result<(), ApiRefusal> {
        let Some(name) = self.left.keys().next() else { return Ok(()) };
        let known = self.known.join("`, `");
        let name: String = name.chars().take(100).collect();
        let message = format!("`{name}` is not supported; there are `{known}`");
        Err(ApiRefusal::field(&name, message))
    }
}

/// A value, shortened.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_by_name_or_refused_by_name() {
        let mut fields =
            Fields::read(br#"{"n": 2, "user": null, "best_of": 1.0, "suffix": "x", "odd": 1}"#)
                .unwrap();
        assert_eq!(fields.take::<u32>("n", "a number").unwrap(), Some(2));
        assert_eq!(fields.take::<String>("user", "a text").unwrap(), None);
        fields.without("best_of", &[json!(1)], "unused").unwrap();
        let refused =
            fields.without("suffix", &[json!("")], "it needs a model for infilling").unwrap_err();
        assert!(
            refused.message.contains("`suffix` is \"x\"") && refused.param.unwrap() == "suffix"
        );
        let refused = fields.end().unwrap_err();
        assert!(refused.message.contains("`odd`") && refused.message.contains("`n`, `user`"));
        let mut fields = Fields::read(br#"{"n": "two"}"#).unwrap();
        let refused = fields.take::<u32>("n", "a number").unwrap_err();
        assert_eq!(refused.message, "`n` should be a number, but is \"two\"");
        assert!(fields.needed::<u32>("seed", "a number").unwrap_err().message.contains("missing"));
        assert!(Fields::read(b"[1]").is_err());
    }
}

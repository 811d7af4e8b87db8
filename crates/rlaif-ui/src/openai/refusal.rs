//! Refusals in OpenAI's form.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use rlaif_core::{Fault, ResponderError};
use serde_json::json;

use crate::{
    error::{Json, Refusal},
    fields::FieldFault,
};

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

impl From<FieldFault> for ApiRefusal {
    fn from(FieldFault { field, message }: FieldFault) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message, param: field }
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

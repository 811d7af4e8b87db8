//! Errors of the server, and of its requests.

use std::net::SocketAddr;

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use rlaif_core::Fault;
use rlaif_people::PeopleError;
use serde_json::{Value, json};

use crate::fields::FieldFault;

/// Reasons why the page cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UiError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; give another one (`--host`, `--port`)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's message.
        #[source]
        source: std::io::Error,
    },
    /// The runtime or the listener failed.
    #[error("the server failed: {0}")]
    Server(#[source] std::io::Error),
    /// The study failed.
    #[error(transparent)]
    People(#[from] PeopleError),
}

impl Fault for UiError {
    fn is_users(&self) -> bool {
        match self {
            Self::Listen { .. } => true,
            Self::Server(_) => false,
            Self::People(error) => error.is_users(),
        }
    }
}

/// A request that is refused: a status and the reason.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self(status, reason.into())
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }
}

impl From<PeopleError> for Refusal {
    fn from(error: PeopleError) -> Self {
        let status = match &error {
            PeopleError::Answered { .. } => StatusCode::CONFLICT,
            PeopleError::NoItem { .. } => StatusCode::NOT_FOUND,
            PeopleError::NotGiven { .. } => StatusCode::FORBIDDEN,
            PeopleError::NoAnnotator { .. } => StatusCode::UNAUTHORIZED,
            PeopleError::Answer(_) | PeopleError::Setting(_) => StatusCode::UNPROCESSABLE_ENTITY,
            PeopleError::Row { .. } | PeopleError::OtherItem { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            // The study itself, which no request can mend.
            PeopleError::Data(_)
            | PeopleError::Eval(_)
            | PeopleError::Store { .. }
            | PeopleError::Io { .. }
            | PeopleError::Foreign { .. }
            | PeopleError::Missing { .. }
            | PeopleError::Moved { .. }
            | PeopleError::Random(_) => StatusCode::INTERNAL_SERVER_ERROR,
            other if other.is_users() => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = match &error {
            // The id could tell an annotator who wrote which response.
            PeopleError::Answered { .. } => {
                "the item has an answer by this annotator; undo it first".to_owned()
            }
            error => error.to_string(),
        };
        Self(status, message)
    }
}

impl From<FieldFault> for Refusal {
    fn from(fault: FieldFault) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, fault.message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": {"message": self.1}}))).into_response()
    }
}

/// A response in JSON.
#[derive(Debug)]
pub(crate) struct Json(pub(crate) Value);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/json")], self.0.to_string()).into_response()
    }
}

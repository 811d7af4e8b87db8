//! The time limit of a request's body, and the refusal of a body that could not be read.

use std::{error::Error, time::Duration};

use axum::{extract::rejection::BytesRejection, http::StatusCode};

use crate::error::Refusal;

/// Time for the body of a request, from the end of its head.
pub(crate) const BODY_TIME: Duration = Duration::from_secs(10);

/// A body that took too long.
#[derive(Debug, thiserror::Error)]
#[error("the body took longer than {} s", BODY_TIME.as_secs())]
pub(crate) struct Late;

/// The refusal of a body that is too large, too slow or torn.
pub(crate) fn refused(error: &BytesRejection) -> Refusal {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(one) = cause {
        if one.is::<Late>() {
            return Refusal::new(StatusCode::REQUEST_TIMEOUT, Late.to_string());
        }
        cause = one.source();
    }
    Refusal::new(error.status(), error.body_text())
}

//! Bodies of requests: refused by the token before they are read, and read in a limited time.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    BoxError,
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::{
    error::Refusal,
    labelling::{App, blocking},
    late::{BODY_TIME, Late},
};

/// A body that fails after [`BODY_TIME`].
struct Timed {
    body: Body,
    end: Pin<Box<Sleep>>,
}

impl hyper::body::Body for Timed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Late.into())));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The request with a limit of time, if its token is known. Otherwise its connection would be held by a stranger
/// for as long as the body is not there.
pub(crate) async fn admitted(app: Arc<App>, request: Request) -> Result<Request, Refusal> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let headers = request.headers().clone();
    blocking(app, move |app| app.sender(&headers).map(drop)).await?;
    Ok(request.map(|body| Body::new(Timed { body, end: Box::pin(sleep(BODY_TIME)) })))
}

/// [`admitted`] as a layer.
pub(crate) async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match admitted(app, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

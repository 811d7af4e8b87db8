//! Models behind OpenAI's interface: `/v1/models`, `/v1/models/NAME`, `/v1/completions` and `/v1/chat/completions`.

mod refusal;
mod reply;
mod request;

use std::{
    convert::Infallible,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Request, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::body::Frame as BodyFrame;
use rlaif_core::{Responder, ResponseEvent, ResponseReport, ResponseToken};
use rlaif_people::random_token;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{Receiver, channel, error::TryRecvError},
    time::{Instant, Sleep, sleep},
};

use crate::{
    bodies::admitted,
    error::Json,
    labelling::{App, blocking},
    late::refused,
};
use refusal::ApiRefusal;
use reply::Frame;
use request::{ApiKind, ApiRequest, Delivery};

/// Events of a request that its client has not read. A client that is further behind is dropped.
const BACKLOG: usize = 8192;

/// Time from a write of a stream to its next one. Tokens that come meanwhile leave together. With 64 streams on two
/// cores, writes and their readers take time from the model; people see no difference.
const PAUSE: Duration = Duration::from_millis(30);

/// Largest body of a request, in bytes: prompts of token ids.
const BODY: usize = 4 * 1024 * 1024;

/// The routes of OpenAI's interface.
pub(crate) fn routes(app: Arc<App>) -> Router<Arc<App>> {
    Router::new()
        .route("/v1/models", get(models))
        // Names of hub models have a slash.
        .route("/v1/models/{*name}", get(one_model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn_with_state(app, admit))
}

/// Refuses the body of a stranger before it is read.
async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match admitted(app, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => ApiRefusal::from(refusal).into_response(),
    }
}

/// `GET /v1/models`.
async fn models(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = app.owner(&headers) {
        return ApiRefusal::from(refusal).into_response();
    }
    let data: Vec<Value> = app.models.iter().map(described).collect();
    Json(json!({"object": "list", "data": data})).into_response()
}

/// `GET /v1/models/NAME`.
async fn one_model(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json, ApiRefusal> {
    app.owner(&headers)?;
    let missing = |reason| ApiRefusal::new(StatusCode::NOT_FOUND, reason);
    Ok(Json(described(model(&app, &name).map_err(missing)?)))
}

/// A model in OpenAI's form.
fn described(model: &Arc<dyn Responder>) -> Value {
    json!({"id": model.name(), "object": "model", "created": 0, "owned_by": "rlaif",
        "max_model_len": model.context()})
}

/// `POST /v1/completions`.
async fn completions(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    respond(app, headers, body, ApiKind::Completion)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

/// `POST /v1/chat/completions`.
async fn chat(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    respond(app, headers, body, ApiKind::Chat).await.unwrap_or_else(IntoResponse::into_response)
}

/// The model of a name.
pub(crate) fn model<'a>(app: &'a App, name: &str) -> Result<&'a Arc<dyn Responder>, String> {
    let names = || app.models.iter().map(|model| model.name()).collect::<Vec<_>>().join("`, `");
    let found = app.models.iter().find(|model| model.name() == name);
    found.ok_or_else(|| {
        let name: String = name.chars().take(200).collect();
        match app.models.is_empty() {
            true => format!("there is no model `{name}`; start the server with one: `--model`"),
            false => format!("there is no model `{name}`; there are `{}`", names()),
        }
    })
}

/// A report into a channel. It ends the responses once the receiver has gone, or is too far behind.
pub(crate) fn reported() -> (ResponseReport, Receiver<ResponseEvent>) {
    let (sender, events) = channel(BACKLOG);
    let report = Box::new(move |event| match sender.try_send(event) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    });
    (report, events)
}

async fn respond(
    app: Arc<App>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
    kind: ApiKind,
) -> Result<Response, ApiRefusal> {
    app.owner(&headers)?;
    let body = body.map_err(|error| refused(&error))?;
    let asked = ApiRequest::read(kind, &body)?;
    let (report, events) = reported();
    // Prompts are rendered and tokenised beside the server's thread.
    let queued = blocking(app, move |app| Ok(queue(app, &asked, report)));
    let (frame, delivery) = queued.await??;
    match delivery {
        Delivery::Whole => whole(frame, events).await,
        Delivery::Stream { usage } => {
            let stream = Stream::new(frame, events, usage);
            Ok(([(CONTENT_TYPE, "text/event-stream")], Body::new(stream)).into_response())
        }
    }
}

fn queue(
    app: &App,
    asked: &ApiRequest,
    report: ResponseReport,
) -> Result<(Frame, Delivery), ApiRefusal> {
    let missing = |reason| ApiRefusal::new(StatusCode::NOT_FOUND, reason);
    let model = model(app, &asked.model).map_err(missing)?;
    if asked.kind == ApiKind::Chat && !model.has_chat_template() {
        let reason = "the model has no chat template; ask it by /v1/completions";
        return Err(ApiRefusal::field("messages", reason));
    }
    let prompts = model.respond(asked.request.clone(), report)?;
    let id = random_token().map_err(crate::error::Refusal::from)?;
    Ok((Frame::new(&id, asked, prompts), asked.delivery))
}

/// Waits for all responses.
async fn whole(frame: Frame, mut events: Receiver<ResponseEvent>) -> Result<Response, ApiRefusal> {
    let mut responses: Vec<Vec<ResponseToken>> = vec![Vec::new(); frame.count()];
    let mut open = responses.len();
    while open > 0 {
        match events.recv().await {
            Some(ResponseEvent::Token(token)) => {
                open -= usize::from(token.end.is_some());
                responses[token.response].push(token);
            }
            Some(ResponseEvent::Failed(reason)) => {
                return Err(ApiRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason));
            }
            None => {
                return Err(ApiRefusal::new(StatusCode::SERVICE_UNAVAILABLE, LOST));
            }
        }
    }
    Ok(Json(frame.whole(&responses)).into_response())
}

const LOST: &str =
    "the responses have been ended: the server stops, or the client reads too slowly";

/// A body of server-sent events. Dropping it ends the responses.
#[derive(Debug)]
struct Stream {
    frame: Frame,
    events: Receiver<ResponseEvent>,
    usage: bool,
    /// Number of tokens, and the length of their text in characters, of each response.
    so_far: Vec<(usize, usize)>,
    open: usize,
    ended: bool,
    /// The time before the next write; `None` before the first write.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    fn new(frame: Frame, events: Receiver<ResponseEvent>, usage: bool) -> Self {
        let open = frame.count();
        let so_far = vec![(0, 0); open];
        Self { so_far, frame, events, usage, open, ended: false, pause: None }
    }

    /// Writes an event, or the end of the responses.
    fn write(&mut self, event: Option<ResponseEvent>, out: &mut String) {
        let mut put = |piece: &Value| out.push_str(&format!("data: {piece}\n\n"));
        let failed = |reason: &str| json!({"error": {"message": reason, "type": "server_error", "param": null, "code": 500}});
        match event {
            Some(ResponseEvent::Token(token)) => {
                let (tokens, length) = &mut self.so_far[token.response];
                let first = *tokens == 0;
                if first && let Some(piece) = self.frame.first(token.response) {
                    put(&piece);
                }
                put(&self.frame.piece(&token, first, *length));
                *tokens += 1;
                *length += token.shown.as_ref().map_or(0, |shown| shown.text.chars().count());
                self.open -= usize::from(token.end.is_some());
            }
            Some(ResponseEvent::Failed(reason)) => {
                put(&failed(&reason));
                self.ended = true;
            }
            None => {
                put(&failed(LOST));
                self.ended = true;
            }
        }
        if self.open == 0 && !self.ended {
            if self.usage {
                put(&self.frame.last(self.so_far.iter().map(|(tokens, _)| tokens).sum()));
            }
            out.push_str("data: [DONE]\n\n");
            self.ended = true;
        }
    }
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Without a look at the events: the thread of the model then wakes nobody for each of them.
        if let Some(pause) = self.pause.as_mut().filter(|pause| !pause.is_elapsed()) {
            ready!(pause.as_mut().poll(context));
        }
        let first = ready!(self.events.poll_recv(context));
        match &mut self.pause {
            Some(pause) => pause.as_mut().reset(Instant::now() + PAUSE),
            None => self.pause = Some(Box::pin(sleep(PAUSE))),
        }
        let mut out = String::new();
        self.write(first, &mut out);
        // Events that have come meanwhile leave in the same write.
        while !self.ended {
            match self.events.try_recv() {
                Ok(event) => self.write(Some(event), &mut out),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.write(None, &mut out),
            }
        }
        Poll::Ready(Some(Ok(BodyFrame::data(Bytes::from(out)))))
    }
}

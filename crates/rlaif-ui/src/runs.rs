//! Folders of runs: their list, their curves as they grow, their samples and findings.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use axum::{
    body::Body,
    extract::{Path as PathOf, State},
    http::{HeaderMap, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use hyper::body::{Bytes, Frame};
use rlaif_eval::{Curve, RunCurve, read_curves, read_findings};
use serde_json::{Map, Value, json};
use tokio::{
    sync::mpsc::{Receiver, channel},
    time::timeout,
};

use crate::{
    error::{Json, Refusal},
    labelling::{App, Body as Given, blocking, fields},
    locks::Locks,
    shown::pieces,
};

/// Levels of folders below the root that are looked through for runs.
const DEPTH: usize = 2;
/// Most runs in the list.
const MOST_RUNS: usize = 1000;
/// Bytes at the end of a file that are read for its last rows.
const TAIL: u64 = 512 * 1024;
/// Bytes at the end of metrics.jsonl that are read for its last row.
const TAIL_OF_METRICS: u64 = 32 * 1024;
/// Most samples on the page.
const MOST_SAMPLES: usize = 200;
/// Shortest time between two looks at a growing file. Reading it takes at most a tenth of the time.
const LOOK: Duration = Duration::from_secs(1);

/// The runs below a folder: those with a metrics.jsonl, by their path from it.
fn runs(root: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), root.to_owned(), 0)];
    while let Some((name, folder, depth)) = open.pop() {
        if found.len() == MOST_RUNS {
            break;
        }
        if folder.join("metrics.jsonl").is_file() {
            let name = if name.is_empty() { ".".to_owned() } else { name.clone() };
            found.push((name, folder.clone()));
        }
        if depth == DEPTH {
            continue;
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            // Links are not followed: they may lead out of the root, or back to it.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let own = entry.file_name().to_string_lossy().into_owned();
                let name = if name.is_empty() { own } else { format!("{name}/{own}") };
                open.push((name, entry.path(), depth + 1));
            }
        }
    }
    found.sort();
    found
}

/// Rows in the last `tail` bytes of a file of JSON Lines; a torn one at either end is left out.
fn last_rows(path: &Path, tail: u64) -> Vec<Map<String, Value>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(tail)))?;
        let mut bytes = Vec::new();
        file.take(tail).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // A pipe would never end.
    let bytes = if path.is_file() { read().unwrap_or_default() } else { Vec::new() };
    bytes
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

/// The folder of a run in the list. Names are compared with the list, never joined to the root, so that no name
/// leads out of it.
pub(crate) fn folder(app: &App, name: &str) -> Result<PathBuf, Refusal> {
    let root = app.runs.as_ref().ok_or_else(|| Refusal::not_found("folder of runs"))?;
    let found = runs(root).into_iter().find(|(known, _)| known == name);
    found.map(|(_, folder)| folder).ok_or_else(|| Refusal::not_found("such run"))
}

/// `GET /api/runs`.
pub(crate) async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Json, Refusal> {
    blocking(app, move |app| {
        app.owner(&headers)?;
        let root = app.runs.as_ref().ok_or_else(|| Refusal::not_found("folder of runs"))?;
        let locks = Locks::read();
        let run = |(name, folder): (String, PathBuf)| {
            let metrics = folder.join("metrics.jsonl");
            let step = last_rows(&metrics, TAIL_OF_METRICS)
                .last()
                .and_then(|row| row.get("step").cloned());
            let modified = fs::metadata(&metrics).and_then(|data| data.modified()).ok();
            let age = modified.and_then(|at| SystemTime::now().duration_since(at).ok());
            let findings = read_findings(&folder.join("findings.json")).map_or(0, |all| all.len());
            json!({"name": name, "step": step, "age_s": age.map(|age| age.as_secs()),
                "findings": findings, "report": folder.join("report.json").is_file(),
                "running": locks.holder(&folder).is_some()})
        };
        Ok(Json(runs(root).into_iter().map(run).collect()))
    })
    .await
}

/// `GET /api/run/NAME`: findings, samples, the run file.
pub(crate) async fn run(
    State(app): State<Arc<App>>,
    PathOf(name): PathOf<String>,
    headers: HeaderMap,
) -> Result<Json, Refusal> {
    blocking(app, move |app| {
        app.owner(&headers)?;
        let folder = folder(app, &name)?;
        let findings = read_findings(&folder.join("findings.json")).unwrap_or_default();
        let mut samples = last_rows(&folder.join("samples.jsonl"), TAIL);
        // The same prompts over time, side by side.
        let text = |row: &Map<String, Value>, name: &str| {
            row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let step = |row: &Map<String, Value>| row.get("step").and_then(Value::as_u64).unwrap_or(0);
        samples.drain(..samples.len().saturating_sub(MOST_SAMPLES));
        let prompts: BTreeSet<String> = samples.iter().map(|row| text(row, "prompt")).collect();
        let samples = prompts.into_iter().map(|prompt| {
            let own = samples.iter().filter(|row| text(row, "prompt") == prompt);
            let own = own.map(|row| {
                json!({"step": step(row), "response": pieces(&text(row, "response")),
                    "score": row.get("score")})
            });
            json!({"prompt": pieces(&prompt), "responses": own.collect::<Vec<_>>()})
        });
        let file = folder.join("run.toml");
        let file = if file.is_file() {
            fs::read_to_string(file).unwrap_or_default()
        } else {
            String::new()
        };
        Ok(Json(json!({"findings": findings, "samples": samples.collect::<Vec<_>>(),
            "file": pieces(&file)})))
    })
    .await
}

/// A body of frames that a task sends.
struct Events(Receiver<Bytes>);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A run whose curves are sent.
struct Watch {
    name: String,
    metrics: PathBuf,
    /// The size of the file that was read last.
    size: Option<u64>,
    /// The run's curves, or the reason why there are none.
    curves: Result<Vec<Curve>, String>,
}

/// `POST /api/curves`: server-sent events, one at the beginning and one for each change of a metrics.jsonl. Each has
/// all curves: those of one run as reports draw them, and those of several runs on common axes.
///
/// All runs share a response, because browsers open no more than six connections to a server.
pub(crate) async fn curves(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    given: Given,
) -> Response {
    let found = blocking(app, move |app| {
        app.owner(&headers)?;
        let mut given = fields(given)?;
        let names: Vec<String> = given.needed("runs", "a list of names of runs")?;
        given.end()?;
        let root = app.runs.as_ref().ok_or_else(|| Refusal::not_found("folder of runs"))?;
        let known: BTreeMap<String, PathBuf> = runs(root).into_iter().collect();
        let watch = |name: String| {
            let folder = known.get(&name).ok_or_else(|| Refusal::not_found("such run"))?;
            let metrics = folder.join("metrics.jsonl");
            Ok(Watch { metrics, name, size: None, curves: Ok(Vec::new()) })
        };
        names.into_iter().map(watch).collect::<Result<Vec<_>, Refusal>>()
    });
    let mut watched = match found.await {
        Ok(watched) => watched,
        Err(refusal) => return refusal.into_response(),
    };
    let (sender, receiver) = channel(1);
    tokio::spawn(async move {
        loop {
            let since = Instant::now();
            let look = tokio::task::spawn_blocking(move || {
                let event = look(&mut watched).then(|| drawn(&watched));
                (watched, event)
            });
            let Ok((looked, event)) = look.await else { return };
            watched = looked;
            if let Some(event) = event
                && sender.send(event).await.is_err()
            {
                return;
            }
            // Ends when the reader has gone.
            if timeout(LOOK.max(since.elapsed() * 10), sender.closed()).await.is_ok() {
                return;
            }
        }
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::new(Events(receiver))).into_response()
}

/// Reads the files that have another size than before; `true` if there is one.
fn look(watched: &mut [Watch]) -> bool {
    let mut changed = false;
    for watch in watched {
        let size = fs::metadata(&watch.metrics).map(|data| data.len()).ok();
        if size != watch.size {
            watch.size = size;
            watch.curves = read_curves(&watch.metrics).map_err(|error| error.to_string());
            changed = true;
        }
    }
    changed
}

/// The event with the curves of all runs.
fn drawn(watched: &[Watch]) -> Bytes {
    let mut by_name: BTreeMap<&str, Vec<RunCurve<'_>>> = BTreeMap::new();
    for (place, watch) in watched.iter().enumerate() {
        for curve in watch.curves.iter().flatten() {
            let own = RunCurve { run: &watch.name, place, curve };
            by_name.entry(&curve.name).or_default().push(own);
        }
    }
    let curves = by_name.into_iter().map(|(name, curves)| {
        let svg = match watched {
            [_] => curves.iter().map(|own| own.curve.svg()).collect(),
            _ => RunCurve::svg(name, &curves),
        };
        json!({"name": name, "svg": svg})
    });
    let curves: Vec<Value> = curves.collect();
    let runs = watched.iter().enumerate().map(|(place, watch)| {
        let error = watch.curves.as_ref().err();
        json!({"name": watch.name, "class": RunCurve::class(place), "error": error})
    });
    let event = json!({"runs": runs.collect::<Vec<_>>(), "curves": curves});
    Bytes::from(format!("data: {event}\n\n"))
}

//! The stop of a run.

use std::{process::Command, sync::Arc};

use axum::{
    extract::{Path as PathOf, State},
    http::{HeaderMap, StatusCode},
};
use serde_json::json;

use crate::{
    error::{Json, Refusal},
    labelling::{App, Reply, blocking},
    locks::Locks,
    runs::folder,
};

/// `POST /api/stop/NAME`: the first Ctrl-C for the run's process.
pub(crate) async fn stop(
    State(app): State<Arc<App>>,
    PathOf(name): PathOf<String>,
    headers: HeaderMap,
) -> Reply {
    blocking(app, move |app| {
        app.owner(&headers)?;
        let folder = folder(app, &name)?;
        let conflict = |reason: &str| Refusal::new(StatusCode::CONFLICT, reason);
        let Some(pid) = Locks::read().holder(&folder) else {
            return Err(conflict("the run has no process on this machine"));
        };
        // A second signal would end the process at once, without a checkpoint.
        if !app.stopped.add(&folder, pid) {
            return Err(conflict("the run was asked to stop already, and ends after its step"));
        }
        // The shell's own `kill`: no other program is needed.
        let sent = Command::new("sh").args(["-c", "kill -INT \"$0\"", &pid.to_string()]).status();
        if sent.is_ok_and(|status| status.success()) {
            return Ok(Json(json!({"process": pid})));
        }
        app.stopped.remove(&folder, pid);
        Err(Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("process {pid} cannot be signalled"),
        ))
    })
    .await
}

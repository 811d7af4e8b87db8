//! Number of requests in flight for a thousand rows. (`benches/judge.rs` measures the time.)

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::support::{Reply, Server, judge, local, openai, row, user};
use rlaif_core::{Exchange, RewardModel, Scores};

const ROWS: usize = 1_000;
const CONCURRENCY: usize = 64;

/// Releases requests in rounds: none before the maximum number in flight has arrived.
#[derive(Default)]
struct Rounds {
    arrived: Mutex<usize>,
    changed: Condvar,
}

impl Rounds {
    /// Waits for the round to fill; returns `true` if it did.
    fn wait(&self) -> bool {
        let mut arrived = self.arrived.lock().unwrap();
        let full = ((*arrived / CONCURRENCY + 1) * CONCURRENCY).min(ROWS);
        *arrived += 1;
        self.changed.notify_all();
        // Only to prevent a hanging test.
        let long = Duration::from_secs(60);
        let (arrived, _) = self.changed.wait_timeout_while(arrived, long, |n| *n < full).unwrap();
        *arrived >= full
    }
}

#[test]
fn a_thousand_rows_take_sixteen_rounds_of_64_and_none_from_the_cache() {
    let rounds = Rounds::default();
    let server = Server::start(move |request| {
        if !rounds.wait() {
            return Reply::Json(401, serde_json::json!({"error": {"message": "too few at once"}}));
        }
        let verdict = row(&user(request)) % 11;
        Reply::Json(200, openai(&format!("{}", verdict as i32 - 5)))
    });
    let texts: Vec<String> = (0..ROWS).map(|n| format!("This is row-{n} of them.")).collect();
    let batch: Vec<_> = texts.iter().map(|text| Exchange::new("p", text)).collect();
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("judge.sqlite");
    let limits = format!("[limits]\nconcurrency = {CONCURRENCY}\ntimeout_s = 120");
    let toml = local(&server.url, &format!("cache = {cache:?}"), &limits);
    let scored = |scores: Scores| {
        for (row, score) in scores.total.iter().enumerate() {
            assert_eq!(score.unwrap().get(), (row % 11) as f32 - 5.);
        }
    };
    scored(judge(&toml).score(&batch).unwrap());
    assert_eq!(server.requests().len(), ROWS);

    let again = judge(&toml);
    scored(again.score(&batch).unwrap());
    assert_eq!(again.usage().cached, ROWS as u64);
    assert_eq!(server.requests().len(), ROWS, "asked for what is in the cache");
}

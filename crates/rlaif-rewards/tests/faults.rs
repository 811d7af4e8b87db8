//! A thousand rows and a server with every kind of failure.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rlaif_core::{Exchange, RewardModel};
use serde_json::{Value, json};
use support::{Reply, Server, judge, local, openai, row, user};

fn texts(rows: usize) -> Vec<String> {
    (0..rows).map(|n| format!("This is row-{n} of them.")).collect()
}

fn batch(texts: &[String]) -> Vec<Exchange<'_>> {
    texts.iter().map(|text| Exchange::new("p", text)).collect()
}

fn expected(row: usize) -> f32 {
    row as f32 % 11. - 5.
}

fn good(row: usize) -> Reply {
    Reply::Json(200, openai(&format!("{:+}", expected(row))))
}

/// A pseudo-random number, always the same for the same input.
fn mixed(a: usize, b: usize) -> u64 {
    let mut z = (a as u64 * 1_000 + b as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32
}

#[test]
fn with_three_answers_in_ten_bad_every_row_ends_scored_or_missing_with_the_reason() {
    let attempts: Mutex<HashMap<usize, usize>> = Mutex::default();
    let server = Server::start(move |request| {
        let row = row(&user(request));
        let attempt = {
            let mut attempts = attempts.lock().unwrap();
            let attempt = attempts.entry(row).or_default();
            *attempt += 1;
            *attempt
        };
        let dice = mixed(row, attempt);
        if dice % 10 >= 3 {
            return good(row);
        }
        let error = |kind: &str| json!({"error": {"type": kind, "message": kind}});
        match dice / 10 % 9 {
            0 => Reply::With(429, vec![("retry-after", "0".into())], error("rate_limit_error")),
            1 => Reply::Json(500, error("api_error")),
            2 => Reply::Json(503, Value::Null),
            3 => Reply::Json(529, error("overloaded_error")),
            4 => Reply::Silence(Duration::from_secs(6)),
            5 => Reply::Cut,
            6 => Reply::Json(200, openai("")),
            7 => Reply::Json(200, openai("I would rather not say.")),
            _ => Reply::Json(200, json!({"unrelated": true})),
        }
    });
    // Thirty thousand a minute are 500 a second.
    let settings = "[limits]\nconcurrency = 64\ntimeout_s = 3\nrequests_per_minute = 30000\n\
                    longest_wait_s = 1";
    let judge = judge(&local(&server.url, "", settings));
    let texts = texts(1_000);
    let scores = judge.score(&batch(&texts)).unwrap();

    assert_eq!(scores.total.len(), 1_000);
    let reasons: HashMap<usize, &str> =
        scores.reasons.iter().map(|(row, reason)| (*row, reason.as_str())).collect();
    assert_eq!(reasons.len(), scores.reasons.len(), "a row has two reasons");
    for (row, score) in scores.total.iter().enumerate() {
        match score {
            Some(score) => {
                assert_eq!(score.get(), expected(row), "row {row}");
                assert!(!reasons.contains_key(&row));
            }
            None => assert!(!reasons[&row].is_empty(), "row {row}"),
        }
    }
    let requests = server.requests();
    let mut good_answers = vec![0; 1_000];
    let mut attempts = vec![0; 1_000];
    for request in &requests {
        let row = row(&user(request));
        attempts[row] += 1;
        good_answers[row] += usize::from(mixed(row, attempts[row]) % 10 >= 3);
    }
    for (row, score) in scores.total.iter().enumerate() {
        assert_eq!(
            good_answers[row],
            usize::from(score.is_some()),
            "row {row} scored twice or lost"
        );
    }
    let missing = reasons.len();
    assert!(missing < 60, "{missing} missing: {reasons:?}");
    assert!(requests.len() > 1_200, "{} requests: no faults?", requests.len());
    assert_eq!(judge.usage().requests, requests.len() as u64);

    // At most one second's share of requests in any second, plus one for the two ends of the
    // second. A busy machine may record earlier arrivals late: one for each request in flight.
    let mut times: Vec<Instant> = requests.iter().map(|request| request.at).collect();
    times.sort();
    for (first, time) in times.iter().enumerate() {
        let within = times[first..].partition_point(|t| *t - *time < Duration::from_secs(1));
        assert!(within <= 501 + 64, "{within} requests in a second");
    }
}

#[test]
fn retry_after_is_the_least_wait_whatever_the_error() {
    for status in [429, 503, 529] {
        retry_after(status);
    }
}

fn retry_after(status: u16) {
    let first = Mutex::new(true);
    let server = Server::start(move |request| {
        if std::mem::take(&mut *first.lock().unwrap()) {
            let headers = vec![("retry-after", "1".into())];
            return Reply::With(status, headers, json!({"error": {"message": "slow down"}}));
        }
        good(row(&user(request)))
    });
    let judge = judge(&local(&server.url, "", "[limits]\nconcurrency = 1"));
    let texts = texts(3);
    let scores = judge.score(&batch(&texts)).unwrap();
    assert!(scores.total.iter().all(Option::is_some), "{:?}", scores.reasons);
    let times: Vec<Instant> = server.requests().iter().map(|request| request.at).collect();
    assert_eq!(times.len(), 4);
    assert!(times[1] - times[0] >= Duration::from_secs(1), "{:?}", times[1] - times[0]);
    assert_eq!(judge.usage().retries, 1);
}

#[test]
fn after_429_everyone_waits() {
    let first = Mutex::new(true);
    let server = Server::start(move |request| {
        if std::mem::take(&mut *first.lock().unwrap()) {
            let headers = vec![("retry-after", "1".into())];
            return Reply::With(429, headers, json!({"error": {"message": "slow down"}}));
        }
        std::thread::sleep(Duration::from_millis(50));
        good(row(&user(request)))
    });
    let judge = judge(&local(&server.url, "", "[limits]\nconcurrency = 4"));
    let texts = texts(40);
    assert!(judge.score(&batch(&texts)).unwrap().total.iter().all(Option::is_some));
    let mut times: Vec<Instant> = server.requests().iter().map(|request| request.at).collect();
    times.sort();
    // From the last request before the pause on, however late it began, at most the three requests
    // in flight arrive within a second.
    let waited = times.windows(5).any(|five| five[4] - five[0] >= Duration::from_secs(1));
    assert!(waited, "no pause in {times:?}");
}

#[test]
fn tokens_per_minute_are_kept_to() {
    let server = Server::start(|request| good(row(&user(request))));
    // 104 tokens a row as the server counts them; 1,000 a second.
    let settings = "[limits]\ntokens_per_minute = 60000";
    let judge = judge(&local(&server.url, "", settings));
    let start = Instant::now();
    let texts = texts(12);
    assert!(judge.score(&batch(&texts)).unwrap().total.iter().all(Option::is_some));
    // The last request starts when the eleven before it are paid off. (The tests of the pace itself
    // show that none waits for more than its own cost.)
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1_140), "{took:?}");
}

#[test]
fn a_wait_that_is_too_long_ends_the_row_and_says_so() {
    let server = Server::start(|_| {
        Reply::With(
            503,
            vec![("retry-after", "3600".into())],
            json!({"error": {"message": "later"}}),
        )
    });
    let judge = judge(&local(&server.url, "", ""));
    let scores = judge.score(&[Exchange::new("p", "y")]).unwrap();
    assert_eq!(scores.total, [None]);
    assert!(scores.reasons[0].1.contains("3600 s"), "{:?}", scores.reasons);
    assert_eq!(server.requests().len(), 1);
}

const URL: &str = "RLAIF_TEST_URL";
const CACHE: &str = "RLAIF_TEST_CACHE";

/// The child process that the test below starts and kills.
#[test]
#[ignore = "a child process of `killed_and_started_again_it_asks_only_for_what_is_missing`"]
fn child() {
    let (Ok(url), Ok(cache)) = (std::env::var(URL), std::env::var(CACHE)) else { return };
    let texts = texts(1_000);
    judge(&interrupted(&url, &cache)).score(&batch(&texts)).unwrap();
}

fn interrupted(url: &str, cache: &str) -> String {
    local(url, &format!("cache = {cache:?}"), "[limits]\nconcurrency = 8")
}

#[test]
fn killed_and_started_again_it_asks_only_for_what_is_missing() {
    let killed = Arc::new(AtomicBool::new(false));
    let arrived = AtomicUsize::new(0);
    let over = Arc::clone(&killed);
    // Four hundred rows are answered; the rows after them wait until the test ends.
    let server = Server::start(move |request| {
        let number = arrived.fetch_add(1, Ordering::SeqCst);
        while number >= 400 && !over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        good(row(&user(request)))
    });
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("judge.sqlite").display().to_string();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored"])
        .env(URL, &server.url)
        .env(CACHE, &cache)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // All eight are in flight, so that all answers before them are stored.
    while server.requests().len() < 408 {
        assert!(child.try_wait().unwrap().is_none(), "the child ended before it was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    killed.store(true, Ordering::SeqCst);

    let judge = judge(&interrupted(&server.url, &cache));
    let texts = texts(1_000);
    let scores = judge.score(&batch(&texts)).unwrap();
    for (row, score) in scores.total.iter().enumerate() {
        assert_eq!(score.unwrap().get(), expected(row));
    }
    assert_eq!(judge.usage().cached, 400);
    // Requests in flight at the time of the kill are sent again, and no others.
    assert_eq!(server.requests().len(), 1_008);
}

#[test]
fn a_budget_ends_the_asking_and_not_the_program() {
    let server = Server::start(|request| good(row(&user(request))));
    let texts = texts(100);
    // Each question and answer counts 104 tokens.
    let tokens = judge(&local(&server.url, "", "[budget]\ntokens = 5000"));
    let scores = tokens.score(&batch(&texts)).unwrap();
    let scored = scores.total.iter().flatten().count();
    assert!((40..=48).contains(&scored), "{scored}");
    assert_eq!(scores.reasons.len(), 100 - scored);
    assert!(scores.reasons[0].1.contains("budget of 5000 tokens"), "{:?}", scores.reasons[0]);
    assert!(tokens.usage().input_tokens + tokens.usage().output_tokens <= 5_000);
    let asked = server.requests().len();
    assert_eq!(tokens.score(&batch(&texts)).unwrap().total, [None; 100]);
    assert_eq!(server.requests().len(), asked, "asked with nothing left to spend");

    let price =
        "[price]\ninput_per_million = 1000\noutput_per_million = 5000\n[budget]\nmoney = 2.5";
    let money = judge(&local(&server.url, "", price));
    let scores = money.score(&batch(&texts)).unwrap();
    let scored = scores.total.iter().flatten().count();
    // 100 tokens at 0.001 and 4 at 0.005 are 0.12 a row.
    assert!((15..=20).contains(&scored), "{scored}");
    let cost = money.usage().cost.unwrap();
    assert!((cost - 0.12 * scored as f64).abs() < 1e-9, "{cost}");
    assert!(cost <= 2.5);
    let metrics = money.metrics();
    assert!(metrics.contains(&("judge/cost".to_owned(), cost)), "{metrics:?}");
}

#[test]
fn equal_rows_are_asked_about_once_and_samples_are_averaged() {
    let asked = Mutex::new(0);
    let server = Server::start(move |_| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        Reply::Json(200, openai(if *asked % 2 == 0 { "2" } else { "4" }))
    });
    let judge = judge(&local(&server.url, "samples = 4", "[limits]\nconcurrency = 1"));
    let scores = judge.score(&[Exchange::new("p", "y"), Exchange::new("p", "y")]).unwrap();
    assert_eq!(server.requests().len(), 4);
    assert_eq!(scores.total.iter().map(|s| s.unwrap().get()).collect::<Vec<_>>(), [3., 3.]);
    let part = |name: &str| scores.parts.iter().find(|(n, _)| n == name).unwrap().1[0].unwrap();
    assert_eq!(part("samples").get(), 4.);
    assert!((part("spread").get() - (4_f32 / 3.).sqrt()).abs() < 1e-6);
}

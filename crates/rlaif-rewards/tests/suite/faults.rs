//! A thousand rows and a server with every kind of failure.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{self, Reply, Server, judge, local, openai, row, user};
use rlaif_core::{Exchange, RewardModel, ShownPair};
use rlaif_rewards::Surroundings;
use rlaif_rewards::judge::{Comparer, ComparerConfig, PairVerdict, Unanswered};
use rlaif_rewards::rubric::PairRubric;
use serde_json::{Value, json};

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
        .args(["--exact", "faults::child", "--ignored"])
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

/// A judge of pairs that takes a response with a higher `row-N` for the better one.
fn prefers_higher(text: &str) -> &'static str {
    let at = |label: &str| row(text.split_once(label).unwrap().1);
    if at("Response 1:") > at("Response 2:") { "1" } else { "2" }
}

fn asked(request: &support::Request) -> String {
    match &request.body["messages"] {
        Value::Array(messages) => match &messages[messages.len() - 1]["content"] {
            Value::String(text) => text.clone(),
            parts => parts[0]["text"].as_str().unwrap().to_owned(),
        },
        other => panic!("{other}"),
    }
}

fn converse(text: &str) -> Value {
    json!({
        "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 100, "outputTokens": 4, "totalTokens": 104},
    })
}

fn comparer(toml: &str) -> Comparer {
    let config: ComparerConfig = toml::from_str(toml).unwrap();
    let key = |_: &str| Some("key".to_owned());
    config.build(&Surroundings::default().environment(&key)).unwrap()
}

#[test]
fn pairs_are_all_compared_or_missing_with_a_reason_in_every_api_and_none_asked_for_twice() {
    type Form = (&'static str, &'static str, fn(&str) -> Value, usize);
    let forms: [Form; 3] = [
        ("openai", "model = 'm'\nbase_url = 'URL'", openai, 1_000),
        ("anthropic", "model = 'm'\nbase_url = 'URL'", support::anthropic, 200),
        ("bedrock-converse", "model = 'm'\nregion = 'us-east-1'\nbase_url = 'URL'", converse, 200),
    ];
    for (kind, api, reply, count) in forms {
        let attempts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let seen = attempts.clone();
        let server = Server::start(move |request| {
            let text = asked(request);
            let attempt = {
                let mut attempts = seen.lock().unwrap();
                let attempt = attempts.entry(text.clone()).or_default();
                *attempt += 1;
                *attempt
            };
            let dice = mixed(row(&text), attempt);
            if dice % 10 >= 3 {
                return Reply::Json(200, reply(prefers_higher(&text)));
            }
            match dice / 10 % 6 {
                0 => Reply::With(429, vec![("retry-after", "0".into())], json!({})),
                1 => Reply::Json(500, json!({})),
                2 => Reply::Json(529, json!({})),
                3 => Reply::Cut,
                4 => Reply::Json(200, reply("3")),
                _ => Reply::Json(200, reply("I would rather not say.")),
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("answers.sqlite");
        let toml = format!(
            "cache = '{}'\n[api]\nkind = '{kind}'\n{}\n[limits]\nconcurrency = 64\n\
             longest_wait_s = 1\n[price]\ninput_per_million = 1.0\noutput_per_million = 5.0\n",
            cache.display(),
            api.replace("URL", &server.url)
        );
        let texts = texts(count + 1);
        let pairs: Vec<ShownPair<'_>> = (0..count)
            .map(|n| {
                let (a, b) = (texts[n].as_str(), texts[n + 1].as_str());
                let (first, second) = if n % 2 == 0 { (a, b) } else { (b, a) };
                ShownPair::new("p", first, second)
            })
            .collect();
        let rubric = PairRubric::preset("helpful").unwrap();
        let run = |judge: &Comparer| {
            let mut told: Vec<Option<Result<PairVerdict, Unanswered>>> = vec![None; count];
            judge
                .compare_each(&rubric, &pairs, &mut |at, verdict| {
                    assert!(told[at].replace(verdict).is_none(), "{at} is told twice");
                    std::ops::ControlFlow::Continue(())
                })
                .unwrap();
            told
        };
        let judge = comparer(&toml);
        let told = run(&judge);
        let mut compared = 0;
        for (n, told) in told.iter().enumerate() {
            match told.as_ref().unwrap() {
                Ok(verdict) => {
                    compared += 1;
                    // The response with the higher number is the second of an even pair.
                    assert_eq!(verdict.first, f64::from(u8::from(n % 2 == 1)), "{kind} {n}");
                    assert!(verdict.is_estimate && verdict.cost.unwrap() >= 120e-6);
                }
                Err(unanswered) => assert!(!unanswered.reason.is_empty(), "{kind} {n}"),
            }
        }
        assert!(compared > count * 9 / 10, "{kind}: {compared} of {count}");
        let usage = judge.usage().unwrap();
        // What had no label in the end was paid for as well.
        let cost = |told: &Result<PairVerdict, Unanswered>| match told {
            Ok(verdict) => verdict.cost.unwrap(),
            Err(unanswered) => unanswered.cost.unwrap(),
        };
        let paid: f64 = told.iter().flatten().map(cost).sum();
        assert!((paid - usage.cost.unwrap()).abs() < 1e-9, "{paid} {usage:?}");
        // Another process asks for what has no answer yet, and for nothing else.
        let before = server.requests().len();
        let again = run(&comparer(&toml));
        let (missing, asked) = (count - compared, server.requests().len() - before);
        assert!(asked <= missing * 12, "{kind}: {asked} requests for {missing} pairs");
        for (told, again) in told.iter().zip(&again) {
            if let (Some(Ok(told)), Some(Ok(again))) = (told, again) {
                assert_eq!((told.first, again.cost), (again.first, Some(0.)));
            }
        }
    }
}

#[test]
fn a_budget_of_comparisons_is_kept_to_the_cent() {
    let server = Server::start(|_| Reply::Json(200, openai("1")));
    // 100 tokens in and 4 out cost 0.012; up to 8 are set aside for an answer.
    let judge = comparer(&format!(
        "[api]\nkind = 'openai'\nmodel = 'm'\nbase_url = '{}'\n[limits]\nconcurrency = 8\n\
         [price]\ninput_per_million = 100.0\noutput_per_million = 500.0\n[budget]\nmoney = 1.0\n",
        server.url
    ));
    let texts = texts(200);
    let pairs: Vec<ShownPair<'_>> =
        texts.iter().map(|text| ShownPair::new("p", text, "other")).collect();
    let (mut paid, mut reasons) = (0, Vec::new());
    let rubric = PairRubric::preset("honest").unwrap();
    judge
        .compare_each(&rubric, &pairs, &mut |_, verdict| {
            match verdict {
                Ok(_) => paid += 1,
                Err(unanswered) => reasons.push(unanswered.reason),
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let cost = judge.usage().unwrap().cost.unwrap();
    assert!(cost <= 1. && cost > 0.9, "{cost}");
    assert!((cost - f64::from(paid) * 0.012).abs() < 1e-9, "{paid} answers for {cost}");
    assert_eq!(paid as usize + reasons.len(), 200);
    assert!(reasons.iter().all(|reason| reason.contains("the budget of 1 is used up")));
}

#[test]
fn several_answers_are_averaged_and_are_an_estimate_and_probabilities_are_not() {
    let server = Server::start(|request| {
        let mut reply =
            openai(["1", "2", "1", "1"][request.body["seed"].as_u64().unwrap_or(0) as usize % 4]);
        if request.body["logprobs"] == true {
            let top = json!([{"token": "1", "logprob": -0.3}, {"token": "2", "logprob": -1.6}]);
            let token = json!({"token": "1", "logprob": -0.3, "top_logprobs": top});
            reply["choices"][0]["logprobs"] = json!({"content": [token]});
        }
        Reply::Json(200, reply)
    });
    let one = |more: &str| {
        let judge = comparer(&format!(
            "{more}\n[api]\nkind = 'openai'\nmodel = 'm'\nbase_url = '{}'\n",
            server.url
        ));
        let mut told = Vec::new();
        let pair = ShownPair::new("p", "a", "b");
        let rubric = PairRubric::preset("helpful").unwrap();
        judge
            .compare_each(&rubric, &[pair], &mut |_, verdict| {
                told.push(verdict.unwrap());
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        told.remove(0)
    };
    let sampled = one("samples = 4\nsampling = { temperature = 1.0, seed = 0 }");
    assert_eq!((sampled.first, sampled.is_estimate, sampled.coverage), (0.75, true, None));
    let known = one("");
    assert!((known.first - 0.785_835).abs() < 1e-6 && !known.is_estimate, "{known:?}");
    let config: ComparerConfig =
        toml::from_str("samples = 3\n[api]\nkind = 'openai'\nmodel = 'm'").unwrap();
    let error = config.build(&Surroundings::default()).unwrap_err().to_string();
    assert!(error.contains("`samples`") && error.contains("temperature"), "{error}");
    let config: ComparerConfig =
        toml::from_str("[api]\nkind = 'reward-server'\nurl = 'http://h/r'").unwrap();
    let error = config.build(&Surroundings::default()).unwrap_err().to_string();
    assert!(error.contains("`api.kind`") && error.contains("reward-server"), "{error}");
}

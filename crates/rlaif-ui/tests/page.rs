//! The page over its own protocol: answers, refusals, kills.

mod served;
mod studies;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rlaif_people::{AnnotatorRole, PeopleChoice, Study, StudyItem};
use rlaif_ui::{Page, UiServer};
use serde_json::{Value, json};
use served::{Response, Served, exchange, request};
use studies::{of, settings, study, write_run};

/// The place of the good answer on the page, as a choice.
fn good(item: &Value) -> &'static str {
    match item["responses"][0][0].as_str().unwrap().contains("good") {
        true => "first",
        false => "second",
    }
}

#[test]
fn answers_are_stored_in_the_studys_order_and_makers_stay_unknown() {
    let (folder, study) = study(12);
    let served = Served::new(of(study), &["ann"]);
    let token = served.tokens[0].clone();
    let (status, mut reply) = served.ask("GET", "/api/next", &token, "");
    assert_eq!(status, 200, "{reply}");
    assert!(!reply.to_string().contains("maker") && !reply.to_string().contains("secret"));
    for turn in 0..12 {
        let item = &reply["item"];
        assert_eq!(item["prompt"][1], "U+202E");
        let given = json!({"item": item["number"], "key": format!("k{turn}"),
            "answer": {"choice": good(item), "seconds": 1.5, "note": "n"}});
        let (status, next) = served.ask("POST", "/api/answer", &token, &given.to_string());
        assert_eq!((status, &next["stored"]), (200, &json!(true)), "{next}");
        let (status, again) = served.ask("POST", "/api/answer", &token, &given.to_string());
        assert_eq!((status, &again["stored"]), (200, &json!(false)), "{again}");
        reply = next;
    }
    assert_eq!((&reply["item"], &reply["progress"]["left"]), (&Value::Null, &json!(0)));
    // Sent twice, as after a reply that was lost.
    for _ in 0..2 {
        let (_, undone) = served.ask("POST", "/api/undo", &token, "{\"key\": \"u\"}");
        assert_eq!(undone["item"]["draft"]["note"], "n");
    }
    let own = Study::open(&folder.path().join("people.sqlite")).unwrap().contents().unwrap();
    assert_eq!(own.answers.len(), 11);
    assert!(own.answers.iter().all(|stored| stored.answer.choice == PeopleChoice::First));
    let (status, overview) = served.ask("GET", "/api/study", &served.owner, "");
    assert_eq!((status, &overview["people"][0]["done"]), (200, &json!(11)));
    let (status, labels) = served.ask("GET", "/api/export/preferences", &served.owner, "");
    assert!(status == 200 && labels.to_string().contains("chosen_maker"), "{labels}");
    // The head of an export tells what its form has no place for.
    for (form, left_out) in [
        ("argilla", "\r\nx-left-out: not in this form: 1 item without an answer (the format"),
        ("answers", "\r\nx-left-out: \r\n"),
    ] {
        let path = format!("/api/export/{form}");
        let export = served.raw(&request(served.address, "GET", &path, &served.owner, "", ""));
        assert!(export.status == 200 && export.head.contains(left_out), "{}", export.head);
    }
}

#[test]
fn requests_of_others_are_refused_and_say_nothing() {
    let (_folder, study) = study(3);
    let served = Served::new(of(study), &["ann"]);
    let (to, token) = (served.address, served.tokens[0].clone());
    let port = to.port();
    // Another site's name for this address, another site's page, no token, a wrong one.
    let hosts = [
        request(to, "GET", "/api/next", &token, "", "")
            .replace(&format!("host: {to}"), &format!("host: evil.example:{port}")),
        request(to, "GET", "/api/next", &token, "", "").replace(&format!("host: {to}\r\n"), ""),
        request(to, "POST", "/api/undo", &token, "", "origin: http://evil.example\r\n"),
        request(
            to,
            "POST",
            "/api/undo",
            &token,
            "",
            &format!("origin: http://127.0.0.1:{}\r\n", port ^ 1),
        ),
        request(to, "POST", "/api/undo", &token, "", "origin: null\r\n"),
        request(to, "GET", "/api/next", &token, "", "sec-fetch-site: cross-site\r\n"),
    ];
    for request in hosts {
        let response = served.raw(&request);
        assert!(matches!(response.status, 400 | 403), "{request}: {}", response.status);
        assert!(!response.body.contains("good"));
    }
    for token in ["", "0", &token[1..], &format!("{token}0"), "' OR 1=1 --", "é"] {
        assert_eq!(served.ask("GET", "/api/next", token, "").0, 401, "{token}");
    }
    for path in ["/api/study", "/api/export/answers"] {
        assert_eq!(served.ask("GET", path, &token, "").0, 403, "{path}");
    }
    assert_eq!(served.ask("POST", "/api/annotators", &token, "{\"name\": \"eve\"}").0, 403);
    assert_eq!(served.ask("GET", "/api/next", &served.owner, "").0, 403);
    for path in [
        "/../Cargo.toml",
        "/..%2f..%2fetc/passwd",
        "/app.js/../x",
        "/%00",
        "/api/export/..%2fx",
        "//etc",
    ] {
        let (status, body) = served.ask("GET", path, &served.owner, "");
        assert!(matches!(status, 400 | 404), "{path}: {status} {body}");
    }
    for (body, expected) in [
        ("{", 422),
        ("{\"item\": 1, \"key\": \"k\", \"answer\": {\"choice\": \"third\"}}", 422),
        ("{\"item\": 1, \"key\": \"\", \"answer\": {\"choice\": \"first\"}}", 422),
        ("{\"item\": 99, \"key\": \"k\", \"answer\": {\"choice\": \"first\"}}", 404),
        (
            "{\"item\": 1, \"key\": \"k\", \"answer\": {\"choice\": \"first\", \"seconds\": -1}}",
            422,
        ),
        ("{\"item\": 1, \"key\": \"k\", \"answer\": {\"choice\": \"first\"}, \"more\": 1}", 422),
    ] {
        assert_eq!(served.ask("POST", "/api/answer", &token, body).0, expected, "{body}");
    }
    let given = |answer: Value| json!({"item": 1, "key": "k", "answer": answer}).to_string();
    for (body, message) in [
        ("{\"item\": ".to_owned(), "the body is not JSON: line 1, column 9"),
        ("[]".to_owned(), "the body should be a JSON object, but is []"),
        ("{}".to_owned(), "`item` is missing; it should be the number of an item"),
        ("{\"item\": 1, \"key\": \"k\"}".to_owned(), "`answer` is missing; it should be an object"),
        (given(json!({})), "`answer.choice` is missing; it should be first, second, tie,"),
        (given(json!({"choice": "third"})), "both-bad, skip or ranked, but is \"third\""),
        (given(json!({"choice": "tie", "seconds": 1e300})), "the answer's `seconds` is 1000"),
        (given(json!({"choice": "tie", "verdicts": {}})), "`answer.verdicts` is not supported"),
        (
            given(json!({"choice": "tie", "edited": {"text": "x"}})),
            "`answer.edited.response` is missing",
        ),
    ] {
        let (status, reply) = served.ask("POST", "/api/answer", &token, &body);
        let said = reply["error"]["message"].as_str().unwrap();
        assert!(status == 422 && said.contains(message), "{body}: {said}");
    }
    // An item that the annotator has not been given, and a request without a key.
    let body = given(json!({"choice": "tie"}));
    let (status, reply) = served.ask("POST", "/api/answer", &token, &body);
    assert!(status == 403 && reply.to_string().contains("number 1 was not given"), "{reply}");
    let (status, reply) = served.ask("PUT", "/api/draft/1", &token, "{\"note\": \"x\"}");
    assert!(status == 403 && reply.to_string().contains("number 1 was not given"), "{reply}");
    assert_eq!(served.ask("PUT", "/api/draft/x", &token, "{}").0, 404);
    assert_eq!(served.ask("POST", "/api/undo", &token, "{}").0, 422);
    let (_, reply) = served.ask("POST", "/api/annotators", &served.owner, "{\"name\": 7}");
    let message = "`name` should be the name of an annotator, but is 7";
    assert_eq!(reply["error"]["message"], message);
    // A draft that the page could not show.
    for draft in [
        "3",
        "{\"strength\": 9}",
        "{\"seconds\": 1e300}",
        "{\"reasons\": [\"x\"]}",
        "{\"reasons\": 3}",
        "{\"facets\": {\"honest\": \"third\"}}",
        "\"x\"",
    ] {
        assert_eq!(served.ask("PUT", "/api/draft/1", &token, draft).0, 422, "{draft}");
    }
    let long = format!("{{\"note\": \"{}\"}}", "x".repeat(2 << 20));
    let refused = exchange(to, &request(to, "PUT", "/api/draft/1", &token, &long, ""));
    // The server may close before everything is sent.
    assert!(refused.is_err() || refused.is_ok_and(|response| response.status == 413));
    let page = served.raw(&request(to, "GET", "/", "", "", ""));
    for header in
        ["content-security-policy: default-src 'none'", "x-frame-options: deny", "no-referrer"]
    {
        assert!(page.head.contains(header), "{}", page.head);
    }
    assert!(!page.body.contains(&token) && !page.body.contains(&served.owner));
    assert_eq!(served.ask("GET", "/api/next", &token, "").1["progress"]["done"], 0);
}

/// Resident memory of this process, in bytes, where Linux tells it.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[test]
fn a_thousand_connections_and_long_answers_leave_the_server_well() {
    let folder = tempfile::tempdir().unwrap();
    let study = Study::create(&folder.path().join("people.sqlite"), &settings()).unwrap();
    study
        .add_items(&[StudyItem::pair("1", "p", "a".repeat(1 << 20), "b".repeat(1 << 20))])
        .unwrap();
    let served = Served::new(of(study), &["ann"]);
    let before = memory();
    let mut idle: Vec<TcpStream> =
        (0..1000).map_while(|_| TcpStream::connect(served.address).ok()).collect();
    assert!(idle.len() > 300, "{} connections", idle.len());
    // Each sends a head that does not end; the server takes as much as it will.
    for stream in &mut idle {
        stream.set_nonblocking(true).unwrap();
        let head = format!("GET / HTTP/1.1\r\nhost: {}\r\nx: ", served.address);
        let _ = stream.write(head.as_bytes());
        while stream.write(&[b'x'; 8192]).is_ok_and(|written| written > 0) {}
    }
    thread::sleep(Duration::from_millis(300));
    if let (Some(before), Some(after)) = (before, memory()) {
        // 256 connections are served at a time, each with a buffer of at most 64 KiB.
        assert!(after < before + (64 << 20), "{before} bytes, then {after}");
    }
    drop(idle);
    let since = Instant::now();
    let (status, reply) = served.ask("GET", "/api/next", &served.tokens[0], "");
    assert_eq!((status, reply["item"]["responses"][0][0].as_str().unwrap().len()), (200, 1 << 20));
    assert!(since.elapsed() < Duration::from_secs(25), "idle connections end");
}

/// As many bodies as connections are served at a time, which do not come.
#[test]
fn bodies_that_do_not_come_hold_no_connection() {
    let (_folder, study) = study(3);
    let served = Served::new(of(study), &["ann"]);
    let since = Instant::now();
    let waiting = |path: &str, token: &str| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\ncontent-length: 900000\r\n\r\n{{",
            served.address
        );
        let mut stream = TcpStream::connect(served.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let status = |mut stream: TcpStream| {
        let mut reply = [0; 12];
        std::io::Read::read_exact(&mut stream, &mut reply).unwrap();
        String::from_utf8_lossy(&reply).into_owned()
    };
    let paths = ["/api/answer", "/api/annotators", "/v1/completions", "/api/nothing"];
    let strangers: Vec<TcpStream> = (0..256).map(|at| waiting(paths[at % 4], "0")).collect();
    assert_eq!(served.ask("GET", "/api/next", &served.tokens[0], "").0, 200);
    assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
    for stream in strangers {
        assert_eq!(status(stream), "HTTP/1.1 401");
    }
    // With a token, the body has ten seconds.
    let since = Instant::now();
    let own = [
        waiting("/api/answer", &served.tokens[0]),
        waiting("/api/annotators", &served.owner),
        waiting("/v1/completions", &served.owner),
    ];
    for stream in own {
        assert_eq!(status(stream), "HTTP/1.1 408");
    }
    assert!(since.elapsed() > Duration::from_secs(9), "{:?}", since.elapsed());
}

#[test]
fn curves_of_runs_arrive_as_they_grow() {
    let (folder, study) = study(1);
    let runs = folder.path().join("runs");
    write_run(&runs.join("ppo/a b"), 3);
    write_run(&folder.path().join("outside"), 3);
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path().join("outside"), runs.join("link")).unwrap();
    let served = Served::new(Page { runs: Some(runs.clone()), ..of(study) }, &["ann"]);
    let (status, list) = served.ask("GET", "/api/runs", &served.owner, "");
    assert_eq!(status, 200);
    let list = list.as_array().unwrap();
    assert_eq!((list.len(), &list[0]["name"], &list[0]["step"]), (1, &json!("ppo/a b"), &json!(3)));
    assert_eq!(list[0]["findings"], 1);
    let (_, run) = served.ask("GET", "/api/run/ppo/a%20b", &served.owner, "");
    assert_eq!(run["samples"][0]["responses"][1]["response"], json!(["<b>", "U+202E", ""]));
    assert_eq!((&run["findings"][0]["step"], &run["file"][0]), (&json!(2), &json!("seed = 1\n")));
    for path in ["/api/run/../outside", "/api/run/..%2Foutside", "/api/run/link"] {
        assert_eq!(served.ask("GET", path, &served.owner, "").0, 404, "{path}");
    }
    for name in ["../outside", "/etc", "link", ""] {
        let asked = json!({"runs": ["ppo/a b", name]}).to_string();
        assert_eq!(served.ask("POST", "/api/curves", &served.owner, &asked).0, 404, "{name}");
    }
    for path in ["/api/runs", "/api/run/ppo/a%20b"] {
        assert_eq!(served.ask("GET", path, &served.tokens[0], "").0, 403, "{path}");
    }
    let asked = json!({"runs": ["ppo/a b"]}).to_string();
    assert_eq!(served.ask("POST", "/api/curves", &served.tokens[0], &asked).0, 403);
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = request(served.address, "POST", "/api/curves", &served.owner, &asked, "");
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let mut event = || {
        let line = lines.find(|line| line.starts_with("data: ")).unwrap();
        let event: Value = serde_json::from_str(&line[6..]).unwrap();
        assert_eq!(event["runs"], json!([{"name": "ppo/a b", "class": "curve s0", "error": null}]));
        let curves = event["curves"].as_array().unwrap();
        let names: Vec<String> =
            curves.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect();
        (names, curves[0]["svg"].as_str().unwrap().to_owned())
    };
    let (names, first) = event();
    assert_eq!(names, ["loss", "objective/kl"]);
    write_run(&runs.join("ppo/a b"), 4);
    let (_, second) = event();
    assert_ne!(first, second);
}

#[test]
fn curves_of_the_largest_numbers_have_places() {
    let (folder, study) = study(1);
    let runs = folder.path().join("runs");
    std::fs::create_dir_all(runs.join("large")).unwrap();
    let row = |step: u32| {
        let sign = if step.is_multiple_of(2) { 1. } else { -1. };
        // Two rows of three at the top, so that their sum overflows.
        let top = if step.is_multiple_of(3) { f64::MIN } else { f64::MAX };
        let row = json!({"step": step, "alternating": sign * 1e308, "extreme": top, "same": 1e308});
        format!("{row}\n")
    };
    let rows: String = (1..=1200).map(row).collect();
    std::fs::write(runs.join("large/metrics.jsonl"), rows).unwrap();
    std::fs::create_dir_all(runs.join("short")).unwrap();
    let rows: String = (1..=4).map(row).collect();
    std::fs::write(runs.join("short/metrics.jsonl"), rows).unwrap();
    let served = Served::new(Page { runs: Some(runs), ..of(study) }, &[]);
    let asked = json!({"runs": ["large", "short"]}).to_string();
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = request(served.address, "POST", "/api/curves", &served.owner, &asked, "");
    stream.write_all(request.as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    for line in lines.filter(|line| line.starts_with("data: ")).take(1) {
        let event: Value = serde_json::from_str(&line[6..]).unwrap();
        let curves = event["curves"].as_array().unwrap();
        assert_eq!(curves.len(), 3, "{event}");
        for curve in curves {
            let svg = curve["svg"].as_str().unwrap();
            assert!(svg.contains("polyline") && svg.contains("class=\"tick\""), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            let lines: Vec<Vec<f64>> = svg
                .split("points=\"")
                .skip(1)
                .map(|rest| {
                    let points = rest.split('"').next().unwrap();
                    let heights = points.split([' ', ',']).skip(1).step_by(2);
                    heights.map(|place| place.parse().unwrap()).collect()
                })
                .collect();
            assert_eq!(lines.len(), 2, "both runs have a line: {svg}");
            assert!(lines.iter().flatten().all(|place| (0. ..=210.).contains(place)), "{lines:?}");
            if curve["name"] == "alternating" {
                assert!(lines[1][0] - lines[1][1] > 100., "{lines:?}");
            }
        }
    }
}

#[test]
#[ignore = "the child process of the test below"]
fn run_until_stopped() {
    let Some(folder) = std::env::var_os("RLAIF_TEST_RUN") else { return };
    let log = std::fs::File::create(Path::new(&folder).join("log.txt")).unwrap();
    log.try_lock().unwrap();
    println!("locked");
    thread::sleep(Duration::from_secs(60));
}

#[cfg(target_os = "linux")]
#[test]
fn a_live_run_is_stopped_once_and_no_other_process_is() {
    use std::os::unix::process::ExitStatusExt;
    let (folder, study) = study(1);
    let runs = folder.path().join("runs");
    for name in ["live", "over"] {
        write_run(&runs.join(name), 3);
        std::fs::write(runs.join(name).join("log.txt"), "").unwrap();
    }
    // Another locked file, which does not belong to a run.
    let own = std::fs::File::create(folder.path().join("log.txt")).unwrap();
    own.try_lock().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "run_until_stopped", "--nocapture"])
        .env("RLAIF_TEST_RUN", runs.join("live"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("locked")));
    let served = Served::new(Page { runs: Some(runs), ..of(study) }, &["ann"]);
    let (_, list) = served.ask("GET", "/api/runs", &served.owner, "");
    let running: Vec<&Value> = list.as_array().unwrap().iter().map(|run| &run["running"]).collect();
    assert_eq!(running, [&json!(true), &json!(false)]);
    for (name, token, expected) in [
        ("live", &served.tokens[0], 403),
        ("over", &served.owner, 409),
        ("..", &served.owner, 404),
        ("%2e%2e", &served.owner, 404),
    ] {
        assert_eq!(
            served.ask("POST", &format!("/api/stop/{name}"), token, "").0,
            expected,
            "{name}"
        );
    }
    assert!(child.try_wait().unwrap().is_none(), "the run goes on");
    let (status, reply) = served.ask("POST", "/api/stop/live", &served.owner, "");
    assert_eq!((status, &reply["process"]), (200, &json!(child.id())));
    // SIGINT, which ends a process without a handler.
    assert_eq!(child.wait().unwrap().signal(), Some(2));
    assert_eq!(served.ask("POST", "/api/stop/live", &served.owner, "").0, 409);
}

/// A server in a process of its own.
struct ChildServer(Child);

impl ChildServer {
    fn start(study: &Path, port: u16) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "serve_a_study", "--nocapture"])
            .env("RLAIF_TEST_STUDY", study)
            .env("RLAIF_TEST_PORT", port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let started = lines.map_while(Result::ok).any(|line| line.contains("listening"));
        assert!(started, "the child listens");
        Self(child)
    }

    /// SIGKILL: nothing of the process runs any more.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
#[ignore = "the child process of the test below"]
fn serve_a_study() {
    let Some(study) = std::env::var_os("RLAIF_TEST_STUDY") else { return };
    let port: u16 = std::env::var("RLAIF_TEST_PORT").unwrap().parse().unwrap();
    let study = Study::open(Path::new(&study)).unwrap();
    let page = Page { study: Some(study), ..Page::default() }
        .on(UiServer::bind(([127, 0, 0, 1], port).into()).unwrap());
    println!("listening");
    page.unwrap().serve(&|| false);
}

#[test]
fn kills_lose_no_acknowledged_answer_and_store_none_twice() {
    const KILLS: u64 = 50;
    let (folder, study) = study(6000);
    let path = folder.path().join("people.sqlite");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let stop = AtomicBool::new(false);
    let acknowledged: Mutex<BTreeMap<(i64, i64), String>> = Mutex::default();
    let people: Vec<_> = ["ann", "bob", "cy"]
        .map(|name| study.add_annotator(name, AnnotatorRole::Annotator).unwrap())
        .into_iter()
        .collect();
    thread::scope(|scope| {
        for who in &people {
            let (stop, acknowledged) = (&stop, &acknowledged);
            scope.spawn(move || {
                let token = who.token.as_deref().unwrap();
                let mut turn = 0;
                let mut item = Value::Null;
                let mut key = String::new();
                while !stop.load(Ordering::SeqCst) {
                    let sent = if item.is_null() {
                        exchange(to, &request(to, "GET", "/api/next", token, "", ""))
                    } else {
                        let given = json!({"item": item["number"], "key": key,
                            "answer": {"choice": good(&item), "note": key}});
                        let request =
                            request(to, "POST", "/api/answer", token, &given.to_string(), "");
                        exchange(to, &request)
                    };
                    // Killed: the same request again, as the page does.
                    let Ok(Response { status: 200, body, .. }) = sent else {
                        thread::sleep(Duration::from_millis(5));
                        continue;
                    };
                    if let Some(number) = item["number"].as_i64() {
                        acknowledged.lock().unwrap().insert((who.number, number), key.clone());
                    }
                    let reply: Value = serde_json::from_str(&body).unwrap();
                    item = reply["item"].clone();
                    turn += 1;
                    key = format!("{} {turn}", who.name);
                }
            });
        }
        for kill in 0..KILLS {
            let server = ChildServer::start(&path, port);
            let moment = rlaif_core::Seed::new(kill).derive("kill", 0).get() % 120;
            thread::sleep(Duration::from_millis(40 + moment));
            server.kill();
        }
        stop.store(true, Ordering::SeqCst);
    });
    let contents = Study::open(&path).unwrap().contents().unwrap();
    let mut stored: BTreeMap<(i64, i64), &str> = BTreeMap::new();
    for answer in &contents.answers {
        assert_eq!(answer.answer.choice, PeopleChoice::First);
        let twice = stored.insert((answer.annotator, answer.item), &answer.answer.note);
        assert_eq!(twice, None, "an answer is stored once");
    }
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() > KILLS as usize, "{} answers", acknowledged.len());
    for (place, key) in &acknowledged {
        assert_eq!(stored.get(place).copied(), Some(key.as_str()), "{place:?} was acknowledged");
    }
    // At most the three answers that were on their way were stored and not acknowledged.
    assert!(stored.len() <= acknowledged.len() + 3, "{} and {}", stored.len(), acknowledged.len());
}

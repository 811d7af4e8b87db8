//! Replies of servers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use std::{fs, thread};

use rlaif::core::Exchange;
use rlaif::hub::{Hub, Network, Quiet, RepoKind, Retry};
use rlaif::rewards::judge::{JudgeConfig, LlmApi, LlmJudge};

use crate::answers::scored;
use crate::files::{outcome, told};

/// A server that answers every request with the same bytes.
fn served(input: &[u8]) -> u16 {
    static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static PORT: OnceLock<u16> = OnceLock::new();
    input.clone_into(&mut ANSWER.lock().unwrap_or_else(PoisonError::into_inner));
    *PORT.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let answer = ANSWER.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = answer_one(&mut stream, &answer);
            }
        });
        port
    })
}

fn answer_one(stream: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    // Headers and the body that they announce.
    loop {
        let read = stream.read(&mut buffer)?;
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if read == 0 {
                return Ok(());
            }
            continue;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        if read == 0 || body.len() >= length {
            break;
        }
    }
    stream.write_all(answer)
}

fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .into_bytes()
}

pub(crate) fn replies() -> Vec<Vec<u8>> {
    let fine = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"7"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    vec![
        http("200 OK", "", fine),
        http(
            "400 Bad Request",
            "",
            r#"{"error":{"message":"no","type":"invalid_request_error","code":"x"}}"#,
        ),
        http("429 Too Many Requests", "Retry-After: 1\r\n", r#"{"error":{"message":"slow down"}}"#),
        http("302 Found", "Location: http://127.0.0.1:1/\r\n", ""),
        http(
            "200 OK",
            "",
            r#"{"choices":[{"message":{"content":[{"type":"text","text":"7"}]},"logprobs":{"content":[{"token":"7","logprob":-0.1,"top_logprobs":[{"token":"7","logprob":-0.1}]}]}}]}"#,
        ),
        [
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"[..],
            format!("{:x}\r\n{fine}\r\n0\r\n\r\n", fine.len()).as_bytes(),
        ]
        .concat(),
    ]
}

pub(crate) fn judge_http(input: &[u8], _: &Path) -> String {
    static JUDGE: OnceLock<Option<LlmJudge>> = OnceLock::new();
    let port = served(input);
    let judge = JUDGE.get_or_init(|| {
        let file = format!(
            "rubric = 'helpfulness'\nreasks = 0\n[api]\nkind = 'openai'\nmodel = 'm'\n\
             base_url = 'http://127.0.0.1:{port}/v1'\n[limits]\nretries = 0\ntimeout_s = 3.0\n"
        );
        let config = JudgeConfig::<LlmApi>::from_toml(&file, "judge.toml").ok()?;
        LlmJudge::with_environment(&config, &|_| Some("sk-test-12345678".to_owned())).ok()
    });
    let judge = judge.as_ref().expect("a judge");
    let outcome = scored(judge, &Exchange::new("Hi", "Hello."));
    assert!(!outcome.contains("sk-test-12345678"), "the key is in a message");
    outcome
}

pub(crate) fn hub_replies() -> Vec<Vec<u8>> {
    let commit = "0123456789012345678901234567890123456789";
    let info = format!(
        r#"{{"sha":"{commit}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"a/b.txt"}}]}}"#
    );
    let file = format!("X-Repo-Commit: {commit}\r\nETag: \"{commit}\"\r\nX-Linked-Size: 2\r\n");
    vec![
        http("200 OK", "", &info),
        http("200 OK", &file, "{}"),
        http("404 Not Found", "X-Error-Code: EntryNotFound\r\n", ""),
        http("401 Unauthorized", "X-Error-Code: GatedRepo\r\nX-Error-Message: no\r\n", ""),
        http("307 Temporary Redirect", "Location: /other\r\n", ""),
        http("206 Partial Content", &format!("{file}Content-Range: bytes 0-1/2\r\n"), "{}"),
    ]
}

pub(crate) fn hub_http(input: &[u8], place: &Path) -> String {
    let port = served(input);
    let cache = place.join("cache");
    let _ = fs::remove_dir_all(&cache);
    let pause = Duration::from_millis(1);
    let hub = Hub::builder()
        .endpoint(format!("http://127.0.0.1:{port}"))
        .cache_dir(&cache)
        .network(Network::Online)
        .retry(Retry { retries: 0, first_pause: pause, longest_pause: pause })
        .progress(Quiet)
        .build();
    let repo = match hub.and_then(|hub| hub.repo(RepoKind::Model, "org/name", None)) {
        Ok(repo) => repo,
        Err(error) => return told(&error),
    };
    format!("{} {}", outcome(repo.files()), outcome(repo.get("config.json")))
}

//! A thousand rows by a judge whose server takes 200 ms for an answer, with 64 requests at a time
//! (3.2 s are the least), and the same rows from the cache.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use rlaif_core::{Exchange, RewardModel};
use rlaif_rewards::judge::{JudgeConfig, LlmJudge};

const REPLY: &str = r#"{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"+4"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}"#;

/// Starts a server of chat completions, whose address it gives.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("a bound port");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    format!("http://{address}")
}

/// Answers the requests of a connection until it ends.
fn serve(stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        thread::sleep(Duration::from_millis(200));
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
        write!(writer, "{head}content-length: {}\r\n\r\n{REPLY}", REPLY.len()).ok()?;
    }
}

fn judge(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let url = server();
    let judge = |settings: &str| {
        let toml = format!(
            "rubric = \"toxicity\"\n{settings}\n[api]\nkind = \"openai\"\nmodel = \"m\"\n\
             base_url = \"{url}\"\n[limits]\nconcurrency = 64\n"
        );
        let config = JudgeConfig::from_toml(&toml, "judge.toml").expect("a configuration");
        LlmJudge::with_environment(&config, &|_| None).expect("a judge")
    };
    let texts: Vec<String> = (0..1_000).map(|n| format!("This is row {n} of them.")).collect();
    let rows: Vec<_> = texts.iter().map(|text| Exchange::new("p", text)).collect();
    let score = |judge: &LlmJudge| judge.score(&rows).expect("scores");

    let mut group = c.benchmark_group("1000 rows");
    group.sample_size(10);
    group.bench_function("of 200 ms, 64 at a time", |b| b.iter(|| score(&judge(""))));
    let cached = format!("cache = {:?}", folder.path().join("judge.sqlite"));
    score(&judge(&cached));
    group.bench_function("from the cache", |b| b.iter(|| score(&judge(&cached))));
}

criterion_group!(benches, judge);
criterion_main!(benches);

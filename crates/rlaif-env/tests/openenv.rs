//! Episodes on a local server that says what an OpenEnv server has said (fixtures/record_openenv.py).

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rlaif_core::{Message as ChatMessage, PromptRecord, Seed};
use rlaif_env::{
    Environment, EnvironmentAnswer, EnvironmentError, ModelTurn, OpenEnv, Progress, Session,
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, accept};

#[derive(Deserialize)]
struct Recorded {
    name: String,
    exchange: Vec<Exchange>,
}

#[derive(Deserialize)]
struct Exchange {
    sent: Value,
    received: Value,
}

fn recorded(name: &str) -> Vec<Exchange> {
    let all: Vec<Recorded> = serde_json::from_str(include_str!("fixtures/openenv.json")).unwrap();
    all.into_iter().find(|episode| episode.name == name).unwrap().exchange
}

/// Answers what the recorded server answered, and expects what it was sent.
fn serve<S: Read + Write>(mut socket: WebSocket<S>, exchange: Vec<Exchange>) {
    for Exchange { sent, received } in exchange {
        let got: Value = serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap();
        assert_eq!(got, sent);
        socket.send(Message::text(received.to_string())).unwrap();
    }
    let last: Value = serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap();
    assert_eq!(last, json!({"type": "close"}));
}

/// A server for one connection.
fn server(exchange: Vec<Exchange>) -> (OpenEnv, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let serve = move || serve(accept(listener.accept().unwrap().0).unwrap(), exchange);
    let (observation, reset) = (Some("message".to_owned()), Some("task".to_owned()));
    (OpenEnv { observation, reset, ..OpenEnv::new(url) }, thread::spawn(serve))
}

/// The prompt's column with the recorded parameters of the reset.
fn prompt(exchange: &[Exchange]) -> PromptRecord {
    let mut record = PromptRecord::new("a", "Play.");
    record.metadata.insert("task".to_owned(), exchange[0].sent["data"].clone());
    record
}

fn play(name: &str, said: &[&str]) -> Vec<Result<EnvironmentAnswer, EnvironmentError>> {
    let exchange = recorded(name);
    let record = prompt(&exchange);
    let (environment, serving) = server(exchange);
    let mut started = environment.reset(&record, Seed::new(1)).unwrap();
    assert!(started.messages[0].content.starts_with("Guess a number from 1 to "));
    let turn = |(number, text): (usize, &&str)| ModelTurn { text: (*text).to_owned(), number };
    let outcomes =
        said.iter().enumerate().map(turn).map(|turn| started.episode.step(&turn)).collect();
    drop(started);
    serving.join().unwrap();
    outcomes
}

#[test]
fn an_episode_is_that_of_the_recorded_server() {
    let found = play("found", &["4", "5"]);
    let first = found[0].as_ref().unwrap();
    assert_eq!(first.messages, [ChatMessage::new("user", "higher")]);
    assert_eq!((first.reward, first.progress), (-0.1, Progress::Goes));
    let last = found[1].as_ref().unwrap();
    assert_eq!((last.reward, last.progress), (1., Progress::Over));
    let lost = play("lost", &["1", "2", "3"]);
    let over: Vec<Progress> = lost.iter().map(|said| said.as_ref().unwrap().progress).collect();
    assert_eq!(over, [Progress::Goes, Progress::Goes, Progress::Over]);
}

#[test]
fn errors_of_the_server_end_the_episode_with_its_message() {
    let error = play("not a number", &["four"]).pop().unwrap().unwrap_err();
    assert_eq!(error.kind(), "failed");
    assert!(error.to_string().contains("'four' (EXECUTION_ERROR)"), "{error}");
    let exchange = recorded("another field");
    let record = prompt(&exchange);
    let (environment, _serving) = server(exchange);
    let environment = OpenEnv { action: "guess".to_owned(), ..environment };
    let mut episode = environment.reset(&record, Seed::new(1)).unwrap().episode;
    let error = episode.step(&ModelTurn { text: "4".to_owned(), number: 0 }).unwrap_err();
    assert!(error.to_string().contains("Invalid message (VALIDATION_ERROR)"), "{error}");
}

#[test]
fn servers_that_misbehave_are_errors_of_their_kind() {
    let observed = |data: Value| json!({"type": "observation", "data": data}).to_string();
    for (answer, kind, says) in [
        (Some("so".to_owned()), "garbage", "answered `so`; expected JSON"),
        (
            Some(json!({"type": "state"}).to_string()),
            "garbage",
            "expected an observation or an error",
        ),
        (Some(observed(json!({"reward": 1}))), "garbage", "expected an object `observation`"),
        (
            Some(observed(json!({"observation": {}}))),
            "garbage",
            "the field of the key `observation`",
        ),
        (
            Some(observed(json!({"observation": {"message": "a"}, "reward": "much"}))),
            "garbage",
            "expected a number as `reward`",
        ),
        (
            Some(observed(json!({"observation": {"message": "a"}, "done": true}))),
            "garbage",
            "the end of the episode to `reset`",
        ),
        (None, "died", ""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let serving = thread::spawn(move || {
            let mut socket = accept(listener.accept().unwrap().0).unwrap();
            socket.read().unwrap();
            if let Some(answer) = answer {
                socket.send(Message::text(answer)).unwrap();
                // Until the client has read it.
                let _ = socket.read();
            }
        });
        let environment = OpenEnv { observation: Some("message".to_owned()), ..OpenEnv::new(url) };
        let error = environment.reset(&PromptRecord::new("a", ""), Seed::new(1)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        serving.join().unwrap();
    }
    let nobody = OpenEnv::new("ws://127.0.0.1:1/ws");
    let error = nobody.reset(&PromptRecord::new("a", ""), Seed::new(1)).unwrap_err();
    assert_eq!(error.kind(), "died");
    let error = OpenEnv::new("http://127.0.0.1/ws").check().unwrap_err();
    assert!(error.to_string().contains("expected `ws://HOST:PORT/ws`"), "{error}");
}

#[test]
fn a_server_that_says_nothing_runs_out_of_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let serving = thread::spawn(move || {
        let socket = accept(listener.accept().unwrap().0).unwrap();
        thread::sleep(Duration::from_secs(2));
        drop(socket);
    });
    let record = Arc::new(PromptRecord::new("a", ""));
    let limit = Duration::from_millis(300);
    let mut session =
        Session::open(Arc::new(OpenEnv::new(url)), record, Seed::new(1), limit).unwrap();
    assert_eq!(session.opened().unwrap_err().kind(), "timed_out");
    drop(serving);
}

/// A file of certificates by fixtures/make_certificates.sh.
fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A server for one connection over TLS, with the certificate of `localhost`.
fn server_with_tls(exchange: Vec<Exchange>) -> (OpenEnv, JoinHandle<bool>) {
    let chain = CertificateDer::pem_file_iter(fixture("server.pem")).unwrap();
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let connection = ServerConnection::new(Arc::new(config.unwrap())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://localhost:{}/ws", listener.local_addr().unwrap().port());
    // `false` if the client does not trust the server.
    let serve = move || {
        let stream = StreamOwned::new(connection, listener.accept().unwrap().0);
        let Ok(socket) = accept(stream) else { return false };
        serve(socket, exchange);
        true
    };
    let (observation, reset) = (Some("message".to_owned()), Some("task".to_owned()));
    (OpenEnv { observation, reset, ..OpenEnv::new(url) }, thread::spawn(serve))
}

#[test]
fn an_episode_over_tls_is_the_same() {
    let exchange = recorded("found");
    let record = prompt(&exchange);
    let (environment, serving) = server_with_tls(exchange);
    let environment = OpenEnv { certificates: Some(fixture("ca.pem")), ..environment };
    environment.check().unwrap();
    let mut started = environment.reset(&record, Seed::new(1)).unwrap();
    for (number, text) in ["4", "5"].into_iter().enumerate() {
        let said = started.episode.step(&ModelTurn { text: text.to_owned(), number }).unwrap();
        let over = if number == 1 { Progress::Over } else { Progress::Goes };
        assert_eq!(said.progress, over);
    }
    drop(started);
    assert!(serving.join().unwrap());
}

#[test]
fn a_server_that_is_not_trusted_is_not_talked_to() {
    for certificates in [None, Some(fixture("other.pem"))] {
        let exchange = recorded("found");
        let record = prompt(&exchange);
        let (environment, serving) = server_with_tls(exchange);
        let environment = OpenEnv { certificates, ..environment };
        let error = environment.reset(&record, Seed::new(1)).err().unwrap();
        assert_eq!(error.kind(), "died");
        let said = error.to_string();
        assert!(said.contains("certificate") || said.contains("Certificate"), "{said}");
        assert!(!serving.join().unwrap());
    }
}

#[test]
fn certificates_that_cannot_be_used_are_refused_by_name() {
    let of = |url: &str, certificates: &str| {
        let certificates = Some(certificates.to_owned());
        OpenEnv { certificates, ..OpenEnv::new(url) }.check().unwrap_err().to_string()
    };
    let plain = of("ws://localhost/ws", &fixture("ca.pem"));
    assert!(plain.contains("`certificates` is") && plain.contains("which has no TLS"), "{plain}");
    let none = of("wss://localhost/ws", "/nowhere/ca.pem");
    assert!(none.contains("/nowhere/ca.pem"), "{none}");
    let empty = of("wss://localhost/ws", &fixture("server.key"));
    assert!(empty.contains("it has none"), "{empty}");
    let url = OpenEnv::new("https://localhost/ws").check().unwrap_err().to_string();
    assert!(url.contains("`url` is https://localhost/ws"), "{url}");
}

//! What tests of several commands share.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::Arc,
    thread::spawn,
};

use serde_json::json;

/// A server of OpenAI's chat completions, whose key is `sk-secret`: `answer` is asked with the body
/// of each request. Returns its base URL.
pub(crate) fn chat_completions(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let answer = answer.clone();
            spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                loop {
                    let (mut line, mut length, mut key) = (String::new(), 0, false);
                    while reader.read_line(&mut line).unwrap() > 0 && line != "\r\n" {
                        let lower = line.to_ascii_lowercase();
                        if let Some(n) = lower.strip_prefix("content-length:") {
                            length = n.trim().parse().unwrap();
                        }
                        key |= lower.trim_end() == "authorization: bearer sk-secret";
                        line.clear();
                    }
                    if length == 0 {
                        return;
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let (status, body) = if key {
                        let content = answer(&String::from_utf8(body).unwrap());
                        let message = json!({ "role": "assistant", "content": content });
                        let body = json!({
                            "choices": [{ "message": message, "finish_reason": "stop" }],
                            "usage": { "prompt_tokens": 50, "completion_tokens": 2 },
                        });
                        ("200 OK", body)
                    } else {
                        let error = json!({ "message": "no such key", "type": "invalid_request" });
                        ("401 Unauthorized", json!({ "error": error }))
                    };
                    let body = body.to_string();
                    write!(
                        stream,
                        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\
                         content-length: {}\r\n\r\n{body}",
                        body.len()
                    )
                    .unwrap();
                }
            });
        }
    });
    address
}

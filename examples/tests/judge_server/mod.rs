//! Judges with a constant answer, in the formats of the real services.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread;

/// Path of a service, and its reply.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    path: &'static str,
    reply: &'static str,
}

/// Anthropic's Messages.
pub(crate) const ANTHROPIC: Format = Format {
    path: "/v1/messages",
    reply: r#"{"id":"m","type":"message","role":"assistant","model":"x","content":[{"type":"text","text":"+4"}],"stop_reason":"end_turn","usage":{"input_tokens":9,"output_tokens":1}}"#,
};
/// A model of Anthropic's, invoked through Bedrock.
#[allow(dead_code, reason = "not every test asks in this format")]
pub(crate) const INVOKE: Format = Format { path: "/model/x/invoke", reply: ANTHROPIC.reply };
/// Bedrock's Converse.
#[allow(dead_code, reason = "not every test asks in this format")]
pub(crate) const CONVERSE: Format = Format {
    path: "/model/x/converse",
    reply: r#"{"output":{"message":{"role":"assistant","content":[{"text":"+4"}]}},"stopReason":"end_turn","usage":{"inputTokens":9,"outputTokens":1,"totalTokens":10},"metrics":{"latencyMs":1}}"#,
};
/// OpenAI's chat completions.
#[allow(dead_code, reason = "not every test asks in this format")]
pub(crate) const OPENAI: Format = Format {
    path: "/v1/chat/completions",
    reply: r#"{"id":"c","object":"chat.completion","model":"x","choices":[{"index":0,"message":{"role":"assistant","content":"+4"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}"#,
};

/// Starts a server that answers requests in `format`, and no others, while the test runs. Returns
/// its address.
pub(crate) fn start(format: Format) -> String {
    serve(move |asked| reply(format, asked))
}

/// The same, but it always refuses to judge the first text that it was asked about.
#[allow(dead_code, reason = "not every test has a judge that refuses")]
pub(crate) fn start_refusing_the_first(format: Format) -> String {
    let first = OnceLock::new();
    serve(move |asked| {
        let (status, reply) = reply(format, asked);
        let body = asked.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let refused = first.get_or_init(|| body.to_owned()) == body;
        let said = if refused { "I cannot judge that." } else { "+4" };
        (status, reply.replace("+4", said))
    })
}

fn reply(format: Format, asked: &str) -> (&'static str, String) {
    match asked.starts_with(&format!("POST {} ", format.path)) {
        true => ("200 OK", format.reply.to_owned()),
        false => ("404 Not Found", "{}".to_owned()),
    }
}

fn serve(reply: impl Fn(&str) -> (&'static str, String) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reply = Arc::new(reply);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let reply = Arc::clone(&reply);
            thread::spawn(move || answer(stream, &*reply));
        }
    });
    format!("http://{address}")
}

fn answer(mut stream: TcpStream, reply: impl Fn(&str) -> (&'static str, String)) {
    let (status, reply) = reply(&request(&mut stream));
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{reply}",
        reply.len()
    );
}

/// The whole request, body included.
fn request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).unwrap_or(0);
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request);
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            body.len() >= length.unwrap_or(0)
        });
        if whole || read == 0 {
            return text.into_owned();
        }
    }
}

//! A page served by a thread of the test's process, and a client of it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rlaif_people::AnnotatorRole;
use rlaif_ui::{Page, UiServer};
use serde_json::Value;

/// A page served by a thread of this process, until it is dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) owner: String,
    pub(crate) tokens: Vec<String>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    pub(crate) fn new(page: Page, names: &[&str]) -> Self {
        let add = |name: &&str| {
            let study = page.study.as_ref().unwrap();
            let who = study.add_annotator(name, AnnotatorRole::Annotator).unwrap();
            who.token.unwrap()
        };
        let tokens = names.iter().map(add).collect();
        let server = UiServer::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = server.address();
        let page = page.on(server).unwrap();
        let (owner, stop) = (page.token().to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = thread::spawn(move || page.serve(&|| stopped.load(Ordering::SeqCst)));
        Self { address, owner, tokens, stop, thread: Some(thread) }
    }

    pub(crate) fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
        let answer = self.raw(&request(self.address, method, path, token, body, ""));
        (answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::String(answer.body)))
    }

    pub(crate) fn raw(&self, request: &str) -> Response {
        exchange(self.address, request).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    token: &str,
    body: &str,
    more: &str,
) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {to}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
         content-length: {}\r\n{more}\r\n{body}",
        body.len()
    )
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) fn exchange(to: SocketAddr, request: &str) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    // A body that a kill has cut does not count.
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    if length.is_some_and(|length: usize| length != body.len()) {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let status = status.ok_or(std::io::ErrorKind::InvalidData)?;
    Ok(Response { status, head: head.to_lowercase(), body: body.to_owned() })
}

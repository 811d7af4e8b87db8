//! HTTP/1.1 as far as tests need it: one request a connection.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;

use crate::fault::Action;
use crate::protocol::{self, Response};
use crate::shared::{Request, Shared};

pub(crate) fn serve(mut connection: TcpStream, shared: &Shared) -> io::Result<()> {
    let to_storage = connection.local_addr()? == shared.storage;
    let Some(mut request) = read_request(&connection, to_storage)? else { return Ok(()) };
    let head = request.method == "HEAD";
    let (mut response, action) = {
        let mut state = shared.state();
        state.requests.push(request.clone());
        let fault = state
            .faults
            .iter()
            .position(|fault| fault.times > 0 && request.path.contains(&fault.path));
        let action = fault.and_then(|index| {
            // Faults of the body spare requests that have none.
            let is_answer = matches!(state.faults[index].action, Action::Answer { .. });
            let has_body = !head && protocol::sends_content(&request, &state.store);
            (is_answer || has_body).then(|| {
                state.faults[index].times -= 1;
                state.faults[index].action.clone()
            })
        });
        if action == Some(Action::IgnoreRange) {
            request.range = None;
        }
        (protocol::answer(&request, &state.store, shared), action)
    };
    let mut cut = None;
    match action {
        Some(Action::Answer { status, headers, body }) => {
            let fill = |text: &str| {
                text.replace("{authorization}", request.authorization.as_deref().unwrap_or(""))
            };
            let headers = headers.iter().map(|(name, value)| (name.clone(), fill(value))).collect();
            response = Response { status, headers, body: fill(&body).into_bytes() };
        }
        Some(Action::CutAfter(bytes)) => cut = usize::try_from(bytes).ok(),
        Some(Action::Corrupt) => {
            if let Some(last) = response.body.last_mut() {
                *last ^= 1;
            }
        }
        Some(Action::IgnoreRange) | None => {}
    }
    write_response(&mut connection, &response, head, cut)
}

fn read_request(connection: &TcpStream, to_storage: bool) -> io::Result<Option<Request>> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let path = decode(target.split('?').next().unwrap_or_default());
    let method = method.to_owned();
    let mut request = Request { method, path, range: None, authorization: None, to_storage };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.split_once(':') else { return Ok(Some(request)) };
        let value = Some(value.trim().to_owned());
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = value,
            "authorization" => request.authorization = value,
            _ => {}
        }
    }
}

fn write_response(
    connection: &mut TcpStream,
    response: &Response,
    head: bool,
    cut: Option<usize>,
) -> io::Result<()> {
    let length = response.body.len();
    let mut text = format!(
        "HTTP/1.1 {} {}\r\nConnection: close\r\nContent-Length: {length}\r\n",
        response.status,
        reason(response.status)
    );
    for (name, value) in &response.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    connection.write_all(text.as_bytes())?;
    if !head {
        let end = cut.unwrap_or(response.body.len()).min(response.body.len());
        connection.write_all(&response.body[..end])?;
    }
    connection.flush()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        _ => "Other",
    }
}

fn decode(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

//! Environments of OpenEnv servers, over WebSocket.

use std::{net::TcpStream, sync::Arc, time::Duration};

use rlaif_core::{BadSetting, Message as ChatMessage, PromptRecord, Seed};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tungstenite::{
    Connector, Message, WebSocket, client::IntoClientRequest, client_tls_with_config,
    stream::MaybeTlsStream,
};

use crate::{
    environment::{Environment, EnvironmentAnswer, Episode, ModelTurn, Progress, Started},
    error::EnvironmentError,
};

/// A thread that waits for a lost server ends after this time. Episodes have a shorter limit.
const LONGEST: Duration = Duration::from_secs(3600);

/// An environment of an OpenEnv server, such as `ws://localhost:8000/ws` or `wss://example.org/ws`. Each episode is a connection of
/// its own: OpenEnv's plain HTTP begins a new environment with every request.
///
/// The text of the model is one field of the action. Of the observation, one field or all of it as JSON is
/// the model's next message. The reward is the server's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenEnv {
    /// The address, `ws://HOST:PORT/ws`, or `wss://HOST:PORT/ws` for TLS.
    pub url: String,
    /// A file of certificates in PEM that TLS trusts in place of the system's, for a server with a certificate of its
    /// own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<String>,
    /// The field of an action that has the model's text.
    #[serde(default = "OpenEnv::message")]
    pub action: String,
    /// Other fields of every action.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub action_fields: Map<String, Value>,
    /// The field of an observation that the model reads; by default, the whole observation as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<String>,
    /// The column of a prompt with parameters of its reset, a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<String>,
}

type Socket = WebSocket<MaybeTlsStream<TcpStream>>;

/// A reply of the server.
struct Reply {
    text: String,
    reward: f64,
    progress: Progress,
}

impl OpenEnv {
    fn message() -> String {
        "message".to_owned()
    }

    /// An environment at this address, with the usual fields.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            certificates: None,
            action: Self::message(),
            action_fields: Map::new(),
            observation: None,
            reset: None,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`BadSetting`] for an address that is not one of a WebSocket, and for certificates without TLS or that
    /// cannot be read.
    pub fn check(&self) -> Result<(), BadSetting> {
        let rest = ["ws://", "wss://"].iter().find_map(|scheme| self.url.strip_prefix(scheme));
        if rest.is_none_or(str::is_empty) {
            let expected = "`ws://HOST:PORT/ws` or `wss://HOST:PORT/ws`";
            return Err(BadSetting::new("url", &self.url, expected));
        }
        self.connector().map(drop)
    }

    /// The certificates that TLS trusts; `None` for the system's.
    fn connector(&self) -> Result<Option<Connector>, BadSetting> {
        let Some(path) = &self.certificates else { return Ok(None) };
        if !self.url.starts_with("wss://") {
            let expected = "none with an address of `ws://`, which has no TLS";
            return Err(BadSetting::new("certificates", path, expected));
        }
        let refused = |problem: &dyn ToString| {
            let found = format!("{path} ({})", problem.to_string());
            BadSetting::new("certificates", found, "a file of certificates in PEM")
        };
        let mut roots = RootCertStore::empty();
        let all = CertificateDer::pem_file_iter(path).map_err(|error| refused(&error))?;
        for certificate in all {
            let certificate = certificate.map_err(|error| refused(&error))?;
            roots.add(certificate).map_err(|error| refused(&error))?;
        }
        if roots.is_empty() {
            return Err(refused(&"it has none"));
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Some(Connector::Rustls(Arc::new(config))))
    }

    /// Connects to the server.
    fn connect(&self) -> Result<Socket, EnvironmentError> {
        let connector = self.connector()?;
        let request = self.url.as_str().into_client_request().map_err(|error| self.died(&error))?;
        let host = request.uri().host().unwrap_or_default();
        // An address of IPv6 has brackets in a URL.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let usual = if self.url.starts_with("wss://") { 443 } else { 80 };
        let port = request.uri().port_u16().unwrap_or(usual);
        let stream = TcpStream::connect((host, port)).map_err(|error| self.died(&error))?;
        stream.set_nodelay(true).map_err(|error| self.died(&error))?;
        stream.set_read_timeout(Some(LONGEST)).map_err(|error| self.died(&error))?;
        let (socket, _) = client_tls_with_config(request, stream, None, connector)
            .map_err(|error| self.died(&error))?;
        Ok(socket)
    }

    fn died(&self, problem: &dyn ToString) -> EnvironmentError {
        EnvironmentError::Died { environment: self.url.clone(), problem: problem.to_string() }
    }

    fn garbage(&self, found: impl Into<String>, expected: &'static str) -> EnvironmentError {
        EnvironmentError::Garbage { environment: self.url.clone(), found: found.into(), expected }
    }

    /// Sends a message and reads the observation that answers it.
    fn ask(
        &self,
        socket: &mut Socket,
        kind: &str,
        data: &Value,
    ) -> Result<Reply, EnvironmentError> {
        let request = json!({"type": kind, "data": data}).to_string();
        socket.send(Message::text(request)).map_err(|error| self.died(&error))?;
        loop {
            match socket.read().map_err(|error| self.died(&error))? {
                Message::Text(text) => return self.reply(&text),
                Message::Close(_) => return Err(self.died(&"it closed the connection")),
                Message::Binary(_) => return Err(self.garbage("bytes", "a text of JSON")),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    fn reply(&self, text: &str) -> Result<Reply, EnvironmentError> {
        let shown: String = text.chars().take(200).collect();
        let garbage = |expected| self.garbage(format!("`{shown}`"), expected);
        let value: Value = serde_json::from_str(text).map_err(|_| garbage("JSON"))?;
        let data = value.get("data").unwrap_or(&Value::Null);
        match value.get("type").and_then(Value::as_str) {
            Some("observation") => {}
            Some("error") => {
                let part = |key| data.get(key).and_then(Value::as_str).unwrap_or_default();
                let problem = format!("{} ({})", part("message"), part("code"));
                return Err(EnvironmentError::Failed { environment: self.url.clone(), problem });
            }
            _ => return Err(garbage("an observation or an error")),
        }
        let observation = data.get("observation").filter(|seen| seen.is_object());
        let observation = observation.ok_or_else(|| garbage("an object `observation`"))?;
        let text = match &self.observation {
            None => observation.to_string(),
            Some(field) => match observation.get(field) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Null) | None => {
                    return Err(garbage("an observation with the field of the key `observation`"));
                }
                Some(other) => other.to_string(),
            },
        };
        let reward = match data.get("reward") {
            None | Some(Value::Null) => 0.,
            Some(Value::Bool(right)) => f64::from(u8::from(*right)),
            Some(number) => number.as_f64().ok_or_else(|| garbage("a number as `reward`"))?,
        };
        let progress = match data.get("done") {
            Some(Value::Bool(true)) => Progress::Over,
            None | Some(Value::Bool(false) | Value::Null) => Progress::Goes,
            Some(_) => return Err(garbage("`done` as true or false")),
        };
        Ok(Reply { text, reward, progress })
    }
}

impl Environment for OpenEnv {
    fn name(&self) -> &str {
        &self.url
    }

    fn reset(&self, record: &PromptRecord, seed: Seed) -> Result<Started, EnvironmentError> {
        self.check()?;
        let mut socket = self.connect()?;
        let mut data = Map::new();
        if let Some(column) = &self.reset {
            match record.metadata.get(column) {
                Some(Value::Object(own)) => data.clone_from(own),
                Some(Value::Null) | None => {}
                Some(_) => {
                    return Err(EnvironmentError::Failed {
                        environment: self.url.clone(),
                        problem: format!("the column `{column}` of the prompt is no table"),
                    });
                }
            }
        }
        // NumPy's generators take 32 bits.
        data.entry("seed").or_insert_with(|| (seed.get() >> 33).into());
        let first = self.ask(&mut socket, "reset", &Value::Object(data))?;
        if first.progress == Progress::Over {
            return Err(self.garbage("the end of the episode to `reset`", "its beginning"));
        }
        let episode = Box::new(Connection { environment: self.clone(), socket });
        Ok(Started { episode, messages: vec![ChatMessage::new("user", first.text)] })
    }
}

/// An episode on a server.
struct Connection {
    environment: OpenEnv,
    socket: Socket,
}

impl Episode for Connection {
    fn step(&mut self, turn: &ModelTurn) -> Result<EnvironmentAnswer, EnvironmentError> {
        let Self { environment, socket } = self;
        let mut data = environment.action_fields.clone();
        data.insert(environment.action.clone(), turn.text.clone().into());
        let Reply { text, reward, progress } =
            environment.ask(socket, "step", &Value::Object(data))?;
        let say = EnvironmentAnswer::say(ChatMessage::new("user", text));
        Ok(EnvironmentAnswer { reward, progress, ..say })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The server ends the session with the connection; an error changes nothing.
        let _ = self.socket.send(Message::text(json!({"type": "close"}).to_string()));
        let _ = self.socket.close(None);
    }
}

//! One vLLM server: its calls, its model, and the weights that it has.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rlaif_core::{Interrupted, Specials, TextCodec, say};
use rlaif_http::{
    Address, Connections, Patience, Retry, Secret, agent, get, post_for, retry_after, ureq::Agent,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    config::VllmConfig,
    delivery::{Proofs, Written},
    error::EngineError,
    wire::{Answered, Checksums, Completion, Group, Manner, Models, Paused, Tokenized, WeightInfo},
};

/// The longest answer that is read: responses of tens of thousands of tokens to one prompt have a hundred bytes for each.
const LONGEST: u64 = 1 << 30;
/// The limit of calls that compute nothing.
const QUICK: Duration = Duration::from_secs(30);
const DEVELOPMENT: &str =
    "start the server with VLLM_SERVER_DEV_MODE=1, which permits changes of its weights";
const ADAPTERS: &str = "start the server with `--enable-lora`, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, `--max-lora-rank` of \
                        at least the adapter's, and `--max-loras` of at least `max_staleness` + 2; it reads the adapter's \
                        folder under the same path";

/// Texts whose tokens tell tokenizers apart: case, spaces, digits, punctuation, scripts, code.
const PROBES: [&str; 6] = [
    "The quick brown fox jumps over the lazy dog.",
    "  Two spaces, a tab\tand\n\na blank line.",
    "3141592653589793 = 2^10 * (7 - 1.5e-3);",
    "Grüße, çava, naïve, Ærø — “quoted” …",
    "日本語 Привет مرحبا 🙂",
    "fn main() { println!(\"{:?}\", x_1 != 0); }",
];

/// A call that failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A failure that another time or another server may not have.
    Transient {
        why: String,
        /// The wait that the server asks for.
        asked: Option<Duration>,
    },
    /// The server does not have the weights that it is asked for.
    Lost(String),
    Fatal(Box<EngineError>),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Fatal(Box::new(error))
    }
}

impl From<Interrupted> for Failure {
    fn from(error: Interrupted) -> Self {
        EngineError::from(error).into()
    }
}

impl Failure {
    fn transient(why: impl Into<String>) -> Self {
        Self::Transient { why: why.into(), asked: None }
    }

    /// The failure as an error of a server that is not asked again.
    pub(crate) fn error(self, server: &Server) -> EngineError {
        match self {
            Self::Transient { why, .. } | Self::Lost(why) => {
                EngineError::NoServer { servers: vec![format!("{}: {why}", server.name)] }
            }
            Self::Fatal(error) => *error,
        }
    }
}

/// The answer of a server, of any status.
struct Reply {
    status: u16,
    body: Vec<u8>,
    asked: Option<Duration>,
}

/// A vLLM server.
#[derive(Debug)]
pub(crate) struct Server {
    /// The address, for messages.
    pub(crate) name: String,
    address: Address,
    quick: Agent,
    slow: Agent,
    key: Option<Secret>,
    retry: Retry,
    /// The base model, and the tokens that it reads.
    base: Mutex<Option<(String, Option<usize>)>>,
    weights: Mutex<Weights>,
}

/// The model that a server is to have.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a> {
    /// The name of the model, if it is set.
    pub(crate) model: Option<&'a String>,
    pub(crate) codec: &'a dyn TextCodec,
    pub(crate) vocab_size: i64,
}

/// The weights that a server has.
#[derive(Debug, Default)]
struct Weights {
    loaded: Option<Arc<Written>>,
    digests: Option<Checksums>,
    /// Adapters of this run, from the oldest on.
    adapters: Vec<Arc<Written>>,
}

impl Server {
    pub(crate) fn new(
        url: &str,
        config: &VllmConfig,
        key: Option<Secret>,
    ) -> Result<Self, EngineError> {
        let address = Address::parse(url).map_err(|error| {
            rlaif_core::BadSetting::new("urls", error.found, rlaif_http::BadAddress::EXPECTED)
        })?;
        let whole = Duration::from_secs_f64(config.timeout_s);
        let connections = |whole| Connections {
            connect: Duration::from_secs_f64(config.connect_timeout_s),
            whole: Some(whole),
            kept: Some(config.concurrency),
            ..Connections::new(concat!("rlaif/", env!("CARGO_PKG_VERSION")))
        };
        Ok(Self {
            name: url.to_owned(),
            quick: agent(&address.host, connections(whole.min(QUICK))),
            slow: agent(&address.host, connections(whole)),
            address,
            key,
            retry: Retry {
                retries: config.retries as usize,
                first_pause: Duration::from_millis(250),
                longest_pause: Duration::from_secs_f64(config.longest_wait_s),
            },
            base: Mutex::default(),
            weights: Mutex::default(),
        })
    }

    fn weights(&self) -> MutexGuard<'_, Weights> {
        self.weights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tokens that the server reads, if it tells.
    pub(crate) fn context(&self) -> Option<usize> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|base| base.1)
    }

    /// The pauses before retries.
    pub(crate) fn patience(&self) -> Patience {
        self.retry.patience()
    }

    fn reply(&self, path: &str, body: Option<&Value>, agent: &Agent) -> Result<Reply, Failure> {
        let url = self.address.join(path);
        let key = self.key.as_ref();
        let headers: Vec<_> = key
            .map(|key| ("authorization", format!("Bearer {}", key.expose())))
            .into_iter()
            .collect();
        let reply = match body {
            Some(body) => post_for(agent, &url, &headers, body.to_string().as_bytes(), LONGEST),
            None => get(agent, &url, &headers),
        };
        let reply = reply.map_err(|lost| Failure::transient(lost.why))?;
        let asked = retry_after(&reply.headers, SystemTime::now());
        Ok(Reply { status: reply.status, body: reply.body, asked })
    }

    /// The body of an answer of status 2xx; `None` for a path that the server does not have.
    fn body(
        &self,
        path: &str,
        reply: Reply,
        advice: &'static str,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let Reply { status, body, asked } = reply;
        let said = || {
            let text: String = String::from_utf8_lossy(&body).trim().chars().take(400).collect();
            self.key.as_ref().map_or_else(|| text.clone(), |key| key.redact(&text))
        };
        match status {
            200..=299 => Ok(Some(body)),
            404 | 405 => Ok(None),
            408 | 429 | 500..=599 => Err(Failure::Transient {
                why: format!("{path}: status {status}: {}", said()),
                asked,
            }),
            _ => Err(self.refused(path, status, said(), advice).into()),
        }
    }

    fn refused(&self, call: &str, status: u16, said: String, advice: &'static str) -> EngineError {
        let advice = match status {
            401 | 403 => "set `api_key_env` to the environment variable with the key of the server",
            _ => advice,
        };
        let call = call.split('?').next().unwrap_or(call).to_owned();
        EngineError::Refused { server: self.name.clone(), call, status, said, advice }
    }

    fn parsed<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(body)
            .map_err(|error| Failure::transient(format!("{path}: not the answer of vLLM: {error}")))
    }

    /// Repeats a call while it may succeed.
    fn patiently<T>(&self, call: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut patience = self.patience();
        loop {
            Interrupted::check()?;
            let (why, asked) = match call() {
                Err(Failure::Transient { why, asked }) => (why, asked),
                other => return other,
            };
            match patience.pause(asked) {
                Ok(pause) => rest(pause)?,
                Err(given_up) => return Err(Failure::transient(format!("{why} ({given_up})"))),
            }
        }
    }

    /// An answer that the server must give.
    fn need(
        &self,
        path: &str,
        body: Option<&Value>,
        advice: &'static str,
    ) -> Result<Vec<u8>, Failure> {
        self.patiently(|| {
            let reply = self.reply(path, body, &self.slow)?;
            let status = reply.status;
            let missing =
                || self.refused(path, status, "it does not know the call".to_owned(), advice);
            self.body(path, reply, advice)?.ok_or_else(|| missing().into())
        })
    }

    /// An answer that servers of some versions do not give.
    fn option<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Option<T>, Failure> {
        self.patiently(|| {
            let reply = self.reply(path, body, &self.slow)?;
            let body = self.body(path, reply, "")?;
            body.map(|body| Self::parsed(path, &body)).transpose()
        })
    }

    fn models(&self) -> Result<Models, Failure> {
        let path = "/v1/models";
        let reply = self.reply(path, None, &self.quick)?;
        let status = reply.status;
        let advice = "`urls` has the address of another program";
        let missing = || self.refused(path, status, "it has no list of models".to_owned(), advice);
        let body = self.body(path, reply, advice)?.ok_or_else(|| Failure::from(missing()))?;
        Self::parsed(path, &body)
    }

    /// Checks that the server has the model and its tokenizer.
    pub(crate) fn meet(&self, expected: Expected<'_>) -> Result<(), Failure> {
        let Expected { model: wanted, codec, vocab_size } = expected;
        let served = self.patiently(|| self.models())?.data;
        let bases: Vec<_> = served.iter().filter(|model| model.parent.is_none()).collect();
        let found = match wanted {
            Some(name) => bases.iter().find(|model| model.id == *name),
            None if bases.len() == 1 => bases.first(),
            None => None,
        };
        let Some(model) = found else {
            let served = bases.iter().map(|model| model.id.clone()).collect();
            let (server, wanted) = (self.name.clone(), wanted.cloned());
            return Err(EngineError::NoModel { server, wanted, served }.into());
        };
        let spread = spread(codec, vocab_size)?;
        for text in PROBES.into_iter().chain([spread.as_str()]) {
            // A tokenizer need not know each script.
            let Ok(expected) = codec.encode(text, Specials::Exclude) else { continue };
            let body = json!({ "model": model.id, "prompt": text, "add_special_tokens": false });
            let answer =
                self.need("/tokenize", Some(&body), "`urls` has the address of another program")?;
            let found = Self::parsed::<Tokenized>("/tokenize", &answer)?.tokens;
            if found != expected {
                let (server, codec, text) =
                    (self.name.clone(), codec.name().to_owned(), text.to_owned());
                return Err(
                    EngineError::OtherTokenizer { server, codec, text, expected, found }.into()
                );
            }
        }
        self.end_pause()?;
        let base = (model.id.clone(), model.max_model_len);
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = Some(base);
        Ok(())
    }

    /// Ends a pause that a trainer has left behind.
    fn end_pause(&self) -> Result<(), Failure> {
        let paused: Option<Paused> = self.option("/is_paused", None)?;
        if paused.is_some_and(|paused| paused.is_paused) {
            self.resume()?;
            say(format_args!("{} was paused, and is resumed", self.name));
        }
        Ok(())
    }

    /// Gives the server these weights if it does not have them, and proves that they arrived.
    pub(crate) fn catch_up(
        &self,
        written: &Arc<Written>,
        proofs: &Proofs,
        expected: Expected<'_>,
    ) -> Result<(), Failure> {
        let known = self.base.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if !known {
            self.meet(expected)?;
        }
        self.renew(written, proofs)
    }

    /// As [`Self::catch_up`], for a server that was met.
    pub(crate) fn renew(&self, written: &Arc<Written>, proofs: &Proofs) -> Result<(), Failure> {
        // One thread at a time loads weights.
        let mut weights = self.weights();
        if self.holds(&weights, written)? {
            return Ok(());
        }
        let before = weights.loaded.take();
        let loaded = match written.is_adapter {
            true => self.load_adapter(&mut weights, written),
            false => match self.reload(&mut weights, written, proofs) {
                // A second chance: an earlier trainer may have left the server in the middle of an update.
                Err(Failure::Lost(_)) => self.reload(&mut weights, written, proofs),
                other => other,
            },
        };
        weights.loaded = match &loaded {
            Ok(()) => Some(Arc::clone(written)),
            Err(_) => before.filter(|before| self.has_kept(&weights, before).unwrap_or(false)),
        };
        loaded
    }

    /// `true` if the server still has the weights of before an update that failed.
    fn has_kept(&self, weights: &Weights, before: &Arc<Written>) -> Result<bool, Failure> {
        if before.is_adapter {
            return self.holds(weights, before);
        }
        let now = self.checksums()?;
        if now.is_none() || now != weights.digests {
            return Ok(false);
        }
        self.rename(before)?;
        Ok(true)
    }

    /// Gives the weights of the server a name.
    fn rename(&self, written: &Written) -> Result<(), Failure> {
        let body = json!({ "new_version": written.name });
        self.option::<Value>("/update_weight_version", Some(&body)).map(|_| ())
    }

    /// The version of the weights that the server had last.
    pub(crate) fn loaded(&self) -> Option<Arc<Written>> {
        self.weights().loaded.clone()
    }

    /// `true` if the server still has these weights: it may have been started again.
    fn holds(&self, weights: &Weights, written: &Arc<Written>) -> Result<bool, Failure> {
        let same = |loaded: &Arc<Written>| loaded.name == written.name;
        if written.is_adapter {
            let known = weights.adapters.iter().any(same);
            return Ok(known && self.lists(written)?);
        }
        if !weights.loaded.as_ref().is_some_and(same) {
            return Ok(false);
        }
        if let Some(told) = self.version()? {
            return Ok(told == written.name);
        }
        let Some(before) = &weights.digests else { return Ok(true) };
        Ok(self.checksums()?.as_ref().is_none_or(|now| now == before))
    }

    /// `true` if the server lists an adapter with its folder.
    fn lists(&self, written: &Written) -> Result<bool, Failure> {
        let models = self.patiently(|| self.models())?.data;
        let Some(found) = models.iter().find(|model| model.id == written.name) else {
            return Ok(false);
        };
        Ok(found.root.as_ref().is_none_or(|root| *root == written.path()))
    }

    /// The name of the weights that the server tells; `None` for a server that does not tell it.
    fn version(&self) -> Result<Option<String>, Failure> {
        let info: Option<WeightInfo> = self.option("/weight_info", None)?;
        Ok(info.and_then(|info| info.weight_version).map(|version| crate::wire::as_text(&version)))
    }

    /// The digests of the weights; `None` for a server that computes none.
    fn checksums(&self) -> Result<Option<Checksums>, Failure> {
        self.option("/weight_checker", Some(&json!({ "action": "checksum" })))
    }

    fn load_adapter(&self, weights: &mut Weights, written: &Arc<Written>) -> Result<(), Failure> {
        let body = json!({ "lora_name": written.name, "lora_path": written.path() });
        match self.need("/v1/load_lora_adapter", Some(&body), ADAPTERS) {
            Ok(_) => {}
            // The answer to an earlier attempt was lost.
            Err(Failure::Fatal(error)) if matches!(&*error, EngineError::Refused { said, .. } if said.contains("already")) =>
                {}
            Err(failure) => return Err(failure),
        }
        if !self.lists(written)? {
            let problem =
                "it does not list the adapter with the folder that it was to load".to_owned();
            return Err(self.not_arrived(written, problem));
        }
        weights.adapters.retain(|adapter| adapter.name != written.name);
        weights.adapters.push(Arc::clone(written));
        let oldest = written.oldest;
        let (old, kept) = weights.adapters.drain(..).partition(|adapter| adapter.version < oldest);
        weights.adapters = kept;
        let old: Vec<Arc<Written>> = old;
        for adapter in old {
            // One that is not there any more is as good.
            let _ = self.need(
                "/v1/unload_lora_adapter",
                Some(&json!({ "lora_name": adapter.name })),
                "",
            );
        }
        Ok(())
    }

    fn reload(
        &self,
        weights: &mut Weights,
        written: &Arc<Written>,
        proofs: &Proofs,
    ) -> Result<(), Failure> {
        let empty = json!({});
        self.need("/pause?mode=keep", Some(&empty), DEVELOPMENT)?;
        let changed = self.change(written);
        // A server that refuses checksums while it is paused gives them afterwards.
        let while_paused = changed.is_ok().then(|| self.checksums()).and_then(Result::ok).flatten();
        let resumed = self.resume();
        changed?;
        resumed?;
        if let Some(told) = self.version()?
            && told != written.name
        {
            let problem = format!("it tells version `{told}` after `{}` was loaded", written.name);
            return Err(Failure::Lost(problem));
        }
        let digests = match while_paused {
            Some(digests) => Some(digests),
            None => self.checksums()?,
        };
        if let Some(digests) = &digests {
            let before = weights.digests.as_ref();
            if let Err(problem) = proofs.check(&self.name, written, digests, before) {
                return Err(Failure::Lost(problem));
            }
        }
        proofs.told(digests.is_some());
        weights.digests = digests;
        Ok(())
    }

    /// Ends a pause. The first attempt is made even if the user asks for the end: a server that stays paused answers
    /// nobody.
    fn resume(&self) -> Result<(), Failure> {
        let empty = json!({});
        let reply = self.reply("/resume", Some(&empty), &self.quick);
        if reply.is_ok_and(|reply| (200..300).contains(&reply.status)) {
            return Ok(());
        }
        self.need("/resume", Some(&empty), DEVELOPMENT).map(|_| ())
    }

    /// `true` if the server still has weights of before its answers: it may have been started again meanwhile, and
    /// then answered by those that it started with.
    pub(crate) fn still_holds(&self, written: &Arc<Written>) -> Result<bool, Failure> {
        // Requests name an adapter, and a server without it refuses them.
        if written.is_adapter {
            return Ok(true);
        }
        let weights = self.weights();
        self.holds(&weights, written)
    }

    /// Has a paused server read weights.
    fn change(&self, written: &Written) -> Result<(), Failure> {
        let body =
            json!({ "method": "reload_weights", "kwargs": { "weights_path": written.path() } });
        let path = written.path();
        let seen = |failure| match failure {
            Failure::Transient { why, asked } => {
                let why = format!("{why}; does the server see `{path}`?");
                Failure::Transient { why, asked }
            }
            other => other,
        };
        self.need("/collective_rpc", Some(&body), DEVELOPMENT).map_err(seen)?;
        self.need("/reset_prefix_cache", Some(&json!({})), DEVELOPMENT)?;
        self.rename(written)
    }

    pub(crate) fn not_arrived(&self, written: &Written, problem: String) -> Failure {
        let (server, version) = (self.name.clone(), written.version);
        EngineError::NotArrived { server, version, problem }.into()
    }

    /// The responses to a prompt, by these weights.
    pub(crate) fn complete(
        &self,
        manner: &Manner,
        written: &Written,
        group: &Group,
    ) -> Result<Vec<Answered>, Failure> {
        let base = self.base.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((base, _)) = base else { return Err(Failure::Lost("it was not met".to_owned())) };
        let model = if written.is_adapter { &written.name } else { &base };
        let path = "/v1/completions";
        let body = manner.request(model, &written.name, group);
        let reply = self.reply(path, Some(&body), &self.slow)?;
        let body = self.body(path, reply, "")?;
        let Some(body) = body else {
            return Err(Failure::Lost(format!("{path}: it does not know `{model}`")));
        };
        let answer: Completion = Self::parsed(path, &body)?;
        if answer.model.as_ref().is_some_and(|told| told != model) {
            let told = answer.model.unwrap_or_default();
            return Err(Failure::transient(format!(
                "{path}: an answer of `{told}` instead of `{model}`"
            )));
        }
        let garbage = |why: String| Failure::transient(format!("{path}: an answer with {why}"));
        let answers = manner.read(group, answer).map_err(garbage)?;
        let told = answers.iter().flat_map(|answer| &answer.versions);
        if !written.is_adapter
            && let Some(other) = told.into_iter().find(|version| **version != written.name)
        {
            return Err(Failure::Lost(format!(
                "responses of version `{other}` instead of `{}`",
                written.name
            )));
        }
        Ok(answers)
    }
}

/// A text of tokens from the whole vocabulary.
fn spread(codec: &dyn TextCodec, vocab_size: i64) -> Result<String, EngineError> {
    const TOKENS: i64 = 64;
    let step = (vocab_size / TOKENS).max(1);
    let ids = (0..vocab_size).rev().step_by(usize::try_from(step).unwrap_or(1));
    let texts =
        ids.map(|id| codec.decode(&[u32::try_from(id).unwrap_or_default()], Specials::Exclude));
    Ok(texts.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Sleeps, unless the user asks for the end.
pub(crate) fn rest(pause: Duration) -> Result<(), Interrupted> {
    let end = Instant::now() + pause;
    loop {
        Interrupted::check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

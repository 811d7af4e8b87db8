//! A server that answers as vLLM 0.32 does, with a tiny policy in this process, and with faults on demand.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use rlaif_core::{Seed, Specials, TextCodec};
use rlaif_lm::{
    Adapters, Forward, Policy,
    generate::{Ask, Eos, FinishReason, GenerationConfig, Hooks, Sampling, generate},
};
use rlaif_models::{LanguageModel, LoadOptions};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::{Device, Kind};

/// The name of the base model.
pub(crate) const BASE: &str = "tiny";

/// A fault of the next requests to a path.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This status and text.
    Status(u16, &'static str),
    /// The connection closes after the first half of the answer.
    Dies,
    /// An answer that is not JSON.
    Garbage,
    /// The answer with another value at a place.
    Changed(&'static str, Value),
    /// The connection stays open without an answer.
    Silent(Duration),
    /// The call has no effect, but is answered as if it had.
    Ignored,
}

/// State and faults of a server.
pub(crate) struct State {
    model: LanguageModel,
    codec: Arc<dyn TextCodec>,
    adapters: BTreeMap<String, String>,
    version: String,
    pub(crate) paused: bool,
    /// Answers tell the version of the weights; those of vLLM 0.32 do not.
    pub(crate) tells_versions: bool,
    /// After so many responses, the server refuses a request, and continues with these weights, as one that was started
    /// again.
    pub(crate) restarts: Option<(usize, LanguageModel)>,
    faults: Vec<(String, usize, Fault)>,
    /// Paths that the server does not have.
    pub(crate) lacks: Vec<&'static str>,
    /// The tokenizer shifts each id by this number.
    pub(crate) shift: u32,
    pub(crate) context: usize,
    pub(crate) key: Option<&'static str>,
    /// Adapters that fit.
    pub(crate) max_loras: usize,
    calls: Vec<(String, Value)>,
}

impl State {
    fn restart(&mut self, model: LanguageModel) {
        self.model = model;
        self.adapters.clear();
        self.version = "default".to_owned();
        self.paused = false;
    }
}

struct Shared {
    state: Mutex<State>,
    resumed: Condvar,
}

/// The server; it stops when it is dropped.
pub(crate) struct Vllm {
    pub(crate) url: String,
    shared: Arc<Shared>,
    alive: Arc<Mutex<bool>>,
}

impl Vllm {
    /// A server of this model and its tokenizer.
    pub(crate) fn start(model: LanguageModel, codec: impl TextCodec + 'static) -> Self {
        Self::at(model, codec, "127.0.0.1:0")
    }

    pub(crate) fn at(model: LanguageModel, codec: impl TextCodec + 'static, address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let context = model.spec().context.unwrap();
        let state = State {
            model,
            codec: Arc::new(codec),
            adapters: BTreeMap::new(),
            version: "default".to_owned(),
            paused: false,
            tells_versions: false,
            restarts: None,
            faults: Vec::new(),
            lacks: Vec::new(),
            shift: 0,
            context,
            key: None,
            max_loras: 2,
            calls: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), resumed: Condvar::new() });
        let alive = Arc::new(Mutex::new(true));
        let (of_server, still) = (Arc::clone(&shared), Arc::clone(&alive));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !*still.lock().unwrap() {
                    return;
                }
                let shared = Arc::clone(&of_server);
                let still = Arc::clone(&still);
                thread::spawn(move || serve(&stream, &shared, &still));
            }
        });
        Self { url, shared, alive }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// The next `times` requests whose path contains `path` have this fault.
    pub(crate) fn fail(&self, path: &str, times: usize, fault: Fault) {
        self.state().faults.push((path.to_owned(), times, fault));
    }

    /// Starts again with the weights of `model`.
    pub(crate) fn restart(&self, model: LanguageModel) {
        self.state().restart(model);
    }

    /// The bodies of the requests to a path, in their order.
    pub(crate) fn calls(&self, path: &str) -> Vec<Value> {
        let state = self.state();
        let calls = state.calls.iter().filter(|(of, _)| of.starts_with(path));
        calls.map(|(_, body)| body.clone()).collect()
    }

    /// The paths of all requests, in their order.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.state().calls.iter().map(|(path, _)| path.clone()).collect()
    }

    /// The names of the adapters.
    pub(crate) fn adapters(&self) -> Vec<String> {
        self.state().adapters.keys().cloned().collect()
    }
}

impl Drop for Vllm {
    fn drop(&mut self) {
        *self.alive.lock().unwrap() = false;
        // Wakes the listener.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

struct Request {
    method: String,
    path: String,
    key: Option<String>,
    body: Value,
}

fn serve(stream: &TcpStream, shared: &Shared, alive: &Mutex<bool>) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        if !*alive.lock().unwrap() {
            return;
        }
        let fault = {
            let mut state = shared.state.lock().unwrap();
            state.calls.push((request.path.clone(), request.body.clone()));
            let of_path = |(path, times, _): &&mut (String, usize, Fault)| {
                *times > 0 && request.path.contains(path.as_str())
            };
            state.faults.iter_mut().find(of_path).map(|(_, times, fault)| {
                *times -= 1;
                fault.clone()
            })
        };
        let (mut status, mut body) = match &fault {
            Some(Fault::Status(status, text)) => (*status, json!({ "error": { "message": text } })),
            Some(Fault::Silent(time)) => {
                thread::sleep(*time);
                return;
            }
            Some(Fault::Ignored) => (200, json!({})),
            _ => answer(&request, shared),
        };
        if let Some(Fault::Changed(place, value)) = &fault
            && let Some(found) = body.pointer_mut(place)
        {
            *found = value.clone();
        }
        // The name of a version may be given while its weights are not there.
        if matches!(fault, Some(Fault::Ignored)) {
            status = 200;
            body = json!({ "results": [null] });
        }
        let text = match fault {
            Some(Fault::Garbage) => "<html>busy</html>".to_owned(),
            _ => body.as_str().map_or_else(|| body.to_string(), str::to_owned),
        };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", text.len());
        let mut bytes = (head + &text).into_bytes();
        let dies = matches!(fault, Some(Fault::Dies));
        if dies {
            bytes.truncate(bytes.len() - text.len() / 2);
        }
        let mut out = stream;
        if out.write_all(&bytes).is_err() || dies {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut key) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = header.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => key = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, key, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

fn error(status: u16, message: &str) -> (u16, Value) {
    (status, json!({ "error": { "message": message, "type": "BadRequestError", "code": status } }))
}

fn answer(request: &Request, shared: &Shared) -> (u16, Value) {
    let mut state = shared.state.lock().unwrap();
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    if state.lacks.iter().any(|lacking| path.starts_with(lacking)) {
        return (404, json!({ "detail": "Not Found" }));
    }
    if state.key.is_some_and(|key| request.key.as_deref() != Some(&format!("Bearer {key}"))) {
        return (401, json!({ "error": "Unauthorized" }));
    }
    let body = &request.body;
    match (request.method.as_str(), path) {
        ("GET", "/v1/models") => {
            let context = state.context;
            let base = json!({ "id": BASE, "object": "model", "root": BASE, "parent": null, "max_model_len": context });
            let adapters = state.adapters.iter().map(|(name, path)| {
                json!({ "id": name, "object": "model", "root": path, "parent": BASE, "max_model_len": null })
            });
            let all: Vec<Value> = std::iter::once(base).chain(adapters).collect();
            (200, json!({ "object": "list", "data": all }))
        }
        ("GET", "/weight_info") => (200, json!({ "weight_version": state.version })),
        ("POST", "/tokenize") => match state
            .codec
            .encode(body["prompt"].as_str().unwrap(), Specials::Exclude)
        {
            Ok(ids) => {
                let ids: Vec<u32> = ids.into_iter().map(|id| id + state.shift).collect();
                (200, json!({ "count": ids.len(), "max_model_len": state.context, "tokens": ids }))
            }
            Err(refused) => error(400, &refused.to_string()),
        },
        ("POST", "/pause") => {
            assert_eq!(query, "mode=keep");
            state.paused = true;
            (200, json!({ "status": "paused" }))
        }
        ("GET", "/is_paused") => (200, json!({ "is_paused": state.paused })),
        ("POST", "/resume") => {
            state.paused = false;
            shared.resumed.notify_all();
            (200, json!({ "status": "resumed" }))
        }
        ("POST", "/collective_rpc") => {
            assert_eq!(body["method"], "reload_weights");
            assert!(state.paused, "weights change while requests run");
            let folder = body["kwargs"]["weights_path"].as_str().unwrap();
            match LanguageModel::load(Path::new(folder), LoadOptions::new(Device::Cpu, Kind::Float))
            {
                Ok(model) => {
                    // As vLLM, which copies into the tensors that it has.
                    let same = model.spec().vocab_size == state.model.spec().vocab_size
                        && model.spec().hidden_size == state.model.spec().hidden_size;
                    if !same {
                        return error(500, "Attempted to load weight of another shape");
                    }
                    state.model = model;
                    (200, json!({ "results": [null] }))
                }
                Err(failed) => error(500, &failed.to_string()),
            }
        }
        ("POST", "/reset_prefix_cache") => (200, json!({ "success": true })),
        ("POST", "/update_weight_version") => {
            state.version = body["new_version"].as_str().unwrap().to_owned();
            (200, json!({ "success": true, "new_version": state.version }))
        }
        ("POST", "/weight_checker") => {
            if state.paused {
                return (
                    409,
                    json!({ "detail": "weight_checker requires an awake, unpaused engine" }),
                );
            }
            (200, json!({ "checksums": digests(&state.model) }))
        }
        ("POST", "/v1/load_lora_adapter") => {
            let [name, path] =
                ["lora_name", "lora_path"].map(|key| body[key].as_str().unwrap().to_owned());
            if state.adapters.contains_key(&name) {
                return error(400, &format!("The lora adapter '{name}' has already been loaded."));
            }
            if state.adapters.len() == state.max_loras {
                return error(400, "more adapters than `--max-loras`");
            }
            match state.model.adapters().load(&name, Path::new(&path)) {
                Ok(_) => {
                    let said = format!("Success: LoRA adapter '{name}' added successfully.");
                    state.adapters.insert(name, path);
                    (200, said.into())
                }
                Err(failed) => error(400, &failed.to_string()),
            }
        }
        ("POST", "/v1/unload_lora_adapter") => {
            let name = body["lora_name"].as_str().unwrap();
            if state.adapters.remove(name).is_none() {
                return error(404, &format!("The lora adapter '{name}' cannot be found."));
            }
            state.model.adapters().remove(name).unwrap();
            (200, format!("Success: LoRA adapter '{name}' removed successfully.").into())
        }
        ("POST", "/v1/completions") => {
            // Frozen in the queue.
            while state.paused {
                state = shared.resumed.wait(state).unwrap();
            }
            if let Some((left, _)) = &mut state.restarts {
                if *left == 0 {
                    if let Some((_, first)) = state.restarts.take() {
                        state.restart(first);
                    }
                    return error(503, "starting");
                }
                *left -= 1;
            }
            complete(&state, body)
        }
        _ => (404, json!({ "detail": "Not Found" })),
    }
}

/// SHA-256 of each tensor of the base.
fn digests(model: &LanguageModel) -> BTreeMap<String, String> {
    let digest = |tensor: &tch::Tensor| {
        let numbers = Vec::<f32>::try_from(tensor.detach().reshape([-1])).unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let base = model.parameters().iter().filter(|(name, _)| !rlaif_lm::is_adapter(name));
    base.map(|(name, tensor)| (format!("rank0.{name}"), digest(tensor))).collect()
}

fn complete(state: &State, body: &Value) -> (u16, Value) {
    let name = body["model"].as_str().unwrap();
    let is_base = name == BASE;
    if !is_base && !state.adapters.contains_key(name) {
        return error(404, &format!("The model `{name}` does not exist."));
    }
    for needed in ["return_token_ids", "return_weight_versions"] {
        assert_eq!(body[needed], true);
    }
    assert!(!body["cache_salt"].as_str().unwrap().is_empty());
    let prompt: Vec<u32> = serde_json::from_value(body["prompt"][0].clone()).unwrap();
    let number = |key: &str| body[key].as_f64().unwrap();
    let count = |key: &str| usize::try_from(body[key].as_u64().unwrap()).unwrap();
    let limit = count("max_tokens");
    if prompt.len() + limit > state.context {
        return error(400, "This model's maximum context length is exceeded");
    }
    let stop_ids: Vec<u32> = serde_json::from_value(body["stop_token_ids"].clone()).unwrap();
    let stop_strings: Vec<String> = serde_json::from_value(body["stop"].clone()).unwrap();
    let temperature = number("temperature");
    let some = |on: bool, value: f64| on.then_some(value);
    let how = GenerationConfig {
        max_new_tokens: limit,
        min_new_tokens: count("min_tokens"),
        sampling: match temperature > 0. {
            true => Sampling::Sample {
                temperature,
                top_k: Some(count("top_k")).filter(|k| *k > 0),
                top_p: some(number("top_p") < 1., number("top_p")),
                min_p: some(number("min_p") > 0., number("min_p")),
            },
            false => Sampling::Greedy,
        },
        repetition_penalty: number("repetition_penalty"),
        eos: if body["ignore_eos"] == true { Eos::Ignored } else { Eos::Ends },
        stop_ids,
        stop_strings: stop_strings.clone(),
        ..GenerationConfig::default()
    };
    let n = count("n");
    assert!(n == 1 || temperature > 0., "n must be 1 when using greedy sampling");
    let (model, codec) = (&state.model, &*state.codec);
    let adapters = if is_base { Adapters::Off } else { Adapters::Named(name) };
    let forward = Forward { adapters, ..Forward::default() };
    let seed = body["seed"].as_i64().unwrap();
    let asks = [Ask { id: 0, prompt: prompt.clone(), max_new_tokens: None }];
    let choice = |index: usize| {
        let seed = Seed::new((seed + i64::try_from(index).unwrap()).cast_unsigned());
        let hooks = Hooks { codec: Some(codec), on_token: None };
        let mut all = generate(model, &asks, &how, seed, 0, forward, hooks).unwrap();
        let response = all.swap_remove(0);
        let last = *response.ids.last().unwrap();
        let text = codec.decode(&response.ids, Specials::Exclude).unwrap();
        let (reason, stop) = match response.finish {
            FinishReason::Length => ("length", Value::Null),
            FinishReason::Eos => ("stop", Value::Null),
            FinishReason::Stop => {
                let string = stop_strings.iter().find(|string| text.contains(*string));
                ("stop", string.map_or_else(|| last.into(), |string| string.clone().into()))
            }
        };
        let tokens: Vec<String> = response.ids.iter().map(|id| format!("token_id:{id}")).collect();
        let length = response.ids.len();
        let mut choice = json!({
            "index": index, "text": text, "finish_reason": reason, "stop_reason": stop,
            "token_ids": response.ids, "prompt_token_ids": prompt,
            "logprobs": { "tokens": tokens, "token_logprobs": response.log_probs, "top_logprobs": null, "text_offset": [] },
        });
        if state.tells_versions {
            let spans = json!([{ "version": state.version, "start": 0, "end": length }]);
            choice["weight_versions"] = spans;
        }
        choice
    };
    let choices: Vec<Value> = (0..n).map(choice).collect();
    let usage = json!({ "prompt_tokens": prompt.len() });
    (
        200,
        json!({ "id": "cmpl-1", "object": "text_completion", "model": name, "choices": choices, "usage": usage }),
    )
}

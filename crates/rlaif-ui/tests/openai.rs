//! OpenAI's interface over a responder that repeats its prompt: forms, refusals, ends.

mod served;

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rlaif_core::{
    Eos, Responder, ResponderError, ResponseEnd, ResponseEndReason, ResponseEvent, ResponsePrompt,
    ResponseReport, ResponseRequest, ResponseToken, ShownToken,
};
use rlaif_people::{Study, StudySettings};
use rlaif_ui::Page;
use serde_json::{Value, json};
use served::{Served, exchange, request};

/// Answers with the ids of the prompt, each as the text `<ID>`, up to the limit; without a limit, forever.
#[derive(Debug, Default)]
struct Parrot {
    asked: Mutex<Vec<ResponseRequest>>,
    /// Requests whose client has gone.
    gone: Arc<AtomicUsize>,
}

impl Responder for Parrot {
    fn name(&self) -> &str {
        "parrot"
    }

    fn context(&self) -> usize {
        100
    }

    fn has_chat_template(&self) -> bool {
        true
    }

    fn respond(
        &self,
        request: ResponseRequest,
        mut report: ResponseReport,
    ) -> Result<Vec<Vec<u32>>, ResponderError> {
        self.asked.lock().unwrap().push(request.clone());
        if request.min_new_tokens == 99 {
            return Err(ResponderError::Busy { waiting: 1, most: 1 });
        }
        if request.min_new_tokens == 98 {
            return Err(ResponderError::Failed { reason: "no memory".to_owned() });
        }
        let ids = |prompt: &ResponsePrompt| match prompt {
            ResponsePrompt::Ids(ids) => ids.clone(),
            ResponsePrompt::Text(text) => text.bytes().map(u32::from).collect(),
            ResponsePrompt::Chat(messages, _) => {
                messages.iter().flat_map(|message| message.content.bytes()).map(u32::from).collect()
            }
        };
        let prompts: Vec<Vec<u32>> = request.prompts.iter().map(ids).collect();
        if let Some(prompt) = prompts.iter().position(Vec::is_empty) {
            return Err(ResponderError::Prompt { prompt, problem: "it has no token".to_owned() });
        }
        let (own, gone) = (prompts.clone(), self.gone.clone());
        thread::spawn(move || {
            let limit = request.max_new_tokens.unwrap_or(usize::MAX);
            for response in 0..own.len() * request.responses {
                let prompt = &own[response / request.responses];
                let mut all = String::new();
                for (at, id) in prompt.iter().copied().cycle().take(limit).enumerate() {
                    let text = format!("<{id}>");
                    all.push_str(&text);
                    let shown = request.alternatives.map(|count| ShownToken {
                        text: text.clone(),
                        alternatives: match id {
                            // Another token is the most probable one.
                            3 => vec![("x".to_owned(), -0.25), ("y".to_owned(), -0.375)],
                            _ => vec![(text.clone(), -0.5), ("é".to_owned(), f32::NEG_INFINITY)],
                        }[..count]
                            .to_vec(),
                    });
                    let reason = ResponseEndReason::Length;
                    let end = (at + 1 == limit).then(|| ResponseEnd { reason, text: all.clone() });
                    let token = ResponseToken { response, id, log_prob: -0.5, text, shown, end };
                    if let ControlFlow::Break(()) = report(ResponseEvent::Token(token)) {
                        gone.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    if limit == usize::MAX {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        });
        Ok(prompts)
    }
}

fn served() -> (Arc<Parrot>, Served) {
    let parrot = Arc::new(Parrot::default());
    let page = Page { models: vec![parrot.clone()], ..Page::default() };
    (parrot, Served::new(page, &[]))
}

fn post(served: &Served, path: &str, body: &Value) -> (u16, Value) {
    served.ask("POST", path, &served.owner, &body.to_string())
}

/// The events of a stream, without chunks' sizes.
fn events(served: &Served, path: &str, body: &Value) -> Vec<Value> {
    let request = request(served.address, "POST", path, &served.owner, &body.to_string(), "");
    let answer = exchange(served.address, &request).unwrap();
    assert!(answer.head.contains("text/event-stream"), "{}", answer.head);
    let lines = answer.body.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut events: Vec<&str> = lines.collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

#[test]
fn completions_have_openais_form() {
    let (parrot, served) = served();
    let (status, models) = served.ask("GET", "/v1/models", &served.owner, "");
    assert_eq!((status, &models["data"][0]["id"]), (200, &json!("parrot")));
    let (status, model) = served.ask("GET", "/v1/models/parrot", &served.owner, "");
    assert_eq!((status, &model), (200, &models["data"][0]));
    for name in ["other", "org/other", "org%2Fother"] {
        let (status, reply) = served.ask("GET", &format!("/v1/models/{name}"), &served.owner, "");
        let said = reply["error"]["message"].as_str().unwrap();
        assert!(status == 404 && said.ends_with("there are `parrot`"), "{reply}");
    }
    assert_eq!(served.ask("GET", "/v1/models/parrot", "sk-forged", "").0, 401);
    let asked = json!({"model": "parrot", "prompt": [[7, 8, 9], [5]], "n": 2, "max_tokens": 2, "seed": -1,
        "temperature": 0.5, "top_p": 0.9, "top_k": -1, "stop": "x", "logprobs": 2, "return_token_ids": true,
        "presence_penalty": 0.0, "user": "me"});
    let (status, reply) = post(&served, "/v1/completions", &asked);
    assert_eq!((status, &reply["object"]), (200, &json!("text_completion")), "{reply}");
    let choices = reply["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        let (text, ids) =
            if index < 2 { ("<7><8>", json!([7, 8])) } else { ("<5><5>", json!([5, 5])) };
        assert_eq!((&choice["text"], &choice["token_ids"]), (&json!(text), &ids));
        assert_eq!(choice["finish_reason"], "length");
        assert_eq!(choice["logprobs"]["token_logprobs"], json!([-0.5, -0.5]));
        assert_eq!(choice["logprobs"]["text_offset"], json!([0, 3]));
        assert_eq!(choice["logprobs"]["top_logprobs"][0]["é"], -9999.);
    }
    assert_eq!(choices[0]["prompt_token_ids"], json!([7, 8, 9]));
    assert_eq!(
        reply["usage"],
        json!({"prompt_tokens": 4, "completion_tokens": 8, "total_tokens": 12})
    );
    let asked = parrot.asked.lock().unwrap()[0].clone();
    assert_eq!((asked.seed, asked.temperature, asked.top_k), (u64::MAX, 0.5, None));
    assert_eq!((asked.top_p, asked.stop_strings), (Some(0.9), vec!["x".to_owned()]));
    let asked = json!({"model": "parrot", "prompt": "ab", "max_tokens": 3, "stream": true, "logprobs": 0,
        "return_tokens_as_token_ids": true, "stream_options": {"include_usage": true}});
    let events = events(&served, "/v1/completions", &asked);
    assert_eq!(events.len(), 4);
    let text: String = events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "<97><98><97>");
    assert_eq!(events[1]["choices"][0]["logprobs"]["tokens"], json!(["token_id:98"]));
    assert_eq!(events[1]["choices"][0]["logprobs"]["text_offset"], json!([4]));
    assert_eq!(events[1]["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(events[2]["choices"][0]["finish_reason"], "length");
    assert_eq!(
        (&events[3]["choices"], &events[3]["usage"]["completion_tokens"]),
        (&json!([]), &json!(3))
    );
}

#[test]
fn the_sampled_token_is_among_the_log_probabilities() {
    let (_, served) = served();
    let top = |count: usize| {
        let asked =
            json!({"model": "parrot", "prompt": [3, 4], "max_tokens": 2, "logprobs": count});
        let (status, reply) = post(&served, "/v1/completions", &asked);
        assert_eq!(status, 200, "{reply}");
        reply["choices"][0]["logprobs"]["top_logprobs"].clone()
    };
    assert_eq!(top(0), json!([{"<3>": -0.5}, {"<4>": -0.5}]));
    assert_eq!(top(1), json!([{"x": -0.25, "<3>": -0.5}, {"<4>": -0.5}]));
    let both = json!([{"x": -0.25, "y": -0.375, "<3>": -0.5}, {"<4>": -0.5, "é": -9999.}]);
    assert_eq!(top(2), both);
    let chat = |count: usize| {
        let messages = json!([{"role": "user", "content": "\u{3}"}]);
        let asked = json!({"model": "parrot", "messages": messages, "max_tokens": 1, "logprobs": true,
            "top_logprobs": count});
        let (_, reply) = post(&served, "/v1/chat/completions", &asked);
        let top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"].clone();
        let top = top.as_array().unwrap().iter();
        top.map(|one| one["token"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((chat(0).len(), chat(2)), (0, vec!["x".into(), "y".into(), "<3>".into()]));
}

#[test]
fn chats_have_openais_form() {
    let (parrot, served) = served();
    let messages = json!([{"role": "system", "content": "A"}, {"role": "user", "content": [{"type": "text", "text": "B"}]}]);
    let asked = json!({"model": "parrot", "messages": messages, "max_completion_tokens": 2, "logprobs": true,
        "top_logprobs": 2, "chat_template_kwargs": {"enable_thinking": false}, "tools": null});
    let (status, reply) = post(&served, "/v1/chat/completions", &asked);
    let choice = &reply["choices"][0];
    assert_eq!((status, &choice["message"]["content"]), (200, &json!("<65><66>")), "{reply}");
    let first = &choice["logprobs"]["content"][0];
    assert_eq!((&first["token"], &first["bytes"]), (&json!("<65>"), &json!(b"<65>")));
    assert_eq!(
        first["top_logprobs"][1],
        json!({"token": "é", "logprob": -9999., "bytes": [195, 169]})
    );
    let prompt = parrot.asked.lock().unwrap()[0].prompts[0].clone();
    let ResponsePrompt::Chat(_, options) = prompt else { panic!("{prompt:?}") };
    assert_eq!(options.kwargs["enable_thinking"], false);
    let asked = json!({"model": "parrot", "messages": [{"role": "user", "content": "ab"}], "n": 2,
        "max_tokens": 1, "stream": true});
    let events = events(&served, "/v1/chat/completions", &asked);
    assert_eq!(events.len(), 4);
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["choices"][0]["index"], at / 2);
        let delta = &event["choices"][0]["delta"];
        match at % 2 {
            0 => assert_eq!(delta["role"], "assistant"),
            _ => assert_eq!(delta["content"], "<97>"),
        }
    }
}

#[test]
fn ignore_eos_is_the_effect_of_an_end_of_sequence() {
    let (parrot, served) = served();
    for (value, eos) in
        [(json!(true), Eos::Ignored), (json!(false), Eos::Ends), (json!(null), Eos::Ends)]
    {
        let asked = json!({"model": "parrot", "prompt": "a", "max_tokens": 1, "ignore_eos": value});
        assert_eq!(post(&served, "/v1/completions", &asked).0, 200);
        assert_eq!(parrot.asked.lock().unwrap().pop().unwrap().eos, eos, "{asked}");
    }
}

#[test]
fn fields_without_an_effect_and_wrong_values_are_refused_by_name() {
    let (parrot, served) = served();
    for (field, value) in [
        ("echo", json!(true)),
        ("best_of", json!(3)),
        ("suffix", json!("x")),
        ("logit_bias", json!({"5": 1})),
        ("presence_penalty", json!(0.5)),
        ("frequency_penalty", json!(1)),
        ("guided_json", json!({})),
        ("prompt_logprobs", json!(1)),
        ("temperature", json!(-1)),
        ("temperature", json!("hot")),
        ("top_p", json!(1.5)),
        ("n", json!(0)),
        ("n", json!(129)),
        ("logprobs", json!(21)),
        ("seed", json!(1.5)),
        ("max_tokens", json!(-1)),
        ("stop", json!([1])),
        ("stop", json!(vec!["x"; 17])),
        ("stop_token_ids", json!([-1])),
        ("stream_options", json!({"include_usage": true})),
        ("prompt", json!({"a": 1})),
        ("prompt", json!([[1], "a"])),
        ("prompt", json!(vec!["a"; 257])),
        ("prompt", json!("")),
        ("user", json!(1)),
    ] {
        let mut asked = json!({"model": "parrot", "prompt": "a"});
        asked[field] = value;
        let (status, reply) = post(&served, "/v1/completions", &asked);
        assert_eq!((status, &reply["error"]["param"]), (400, &json!(field)), "{asked}: {reply}");
        assert_eq!(reply["error"]["type"], "invalid_request_error");
    }
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    for (field, value) in [
        ("tools", json!([{"type": "function"}])),
        ("response_format", json!({"type": "json_object"})),
        ("top_logprobs", json!(2)),
        ("max_completion_tokens", json!(7)),
        ("messages", json!("hello")),
        ("messages", user(json!([{"type": "image_url", "image_url": {"url": "x"}}]))),
        ("prompt", json!("a")),
    ] {
        let mut asked = json!({"model": "parrot", "messages": user("a".into()), "max_tokens": 5});
        asked[field] = value;
        let (status, reply) = post(&served, "/v1/chat/completions", &asked);
        let param = if field == "max_completion_tokens" { "max_tokens" } else { field };
        assert_eq!((status, &reply["error"]["param"]), (400, &json!(param)), "{asked}: {reply}");
    }
    let missing = json!({"model": "other", "prompt": "a"});
    let (status, reply) = post(&served, "/v1/completions", &missing);
    assert!(
        status == 404 && reply["error"]["message"].as_str().unwrap().contains("`parrot`"),
        "{reply}"
    );
    assert_eq!(post(&served, "/v1/completions", &json!({"prompt": "a"})).0, 400);
    let busy = json!({"model": "parrot", "prompt": "a", "min_tokens": 99});
    assert_eq!(post(&served, "/v1/completions", &busy).0, 429);
    let failing = json!({"model": "parrot", "prompt": "a", "min_tokens": 98});
    let (status, reply) = post(&served, "/v1/completions", &failing);
    assert_eq!((status, &reply["error"]["type"]), (500, &json!("server_error")), "{reply}");
    for body in ["", "{", "[]", "null", &"[".repeat(100_000)] {
        assert_eq!(served.ask("POST", "/v1/completions", &served.owner, body).0, 400);
    }
    let good = json!({"model": "parrot", "prompt": "a"}).to_string();
    for path in ["/v1/models", "/v1/completions"] {
        let method = if path.ends_with("models") { "GET" } else { "POST" };
        let (status, reply) = served.ask(method, path, "sk-forged", &good);
        assert!(status == 401 && reply["error"]["message"].is_string(), "{reply}");
    }
    // An annotator may answer items, not use the models.
    let folder = tempfile::tempdir().unwrap();
    let study = Study::create(&folder.path().join("people.sqlite"), &StudySettings::default());
    let page =
        Page { study: Some(study.unwrap()), models: vec![parrot.clone()], ..Page::default() };
    let both = Served::new(page, &["ann"]);
    assert_eq!(both.ask("POST", "/v1/completions", &both.tokens[0], &good).0, 403);
    let other = request(
        served.address,
        "POST",
        "/v1/completions",
        &served.owner,
        &good,
        "origin: http://evil.example\r\n",
    );
    assert_eq!(served.raw(&other).status, 403);
    let large = json!({"model": "parrot", "prompt": "a".repeat(5 << 20)}).to_string();
    let refused = exchange(
        served.address,
        &request(served.address, "POST", "/v1/completions", &served.owner, &large, ""),
    );
    // The server may close before everything is sent.
    assert!(refused.is_err() || refused.is_ok_and(|response| response.status == 413));
    let reached = parrot.asked.lock().unwrap().len();
    assert_eq!(reached, 3, "the empty prompt, the busy model and the failing one");
}

/// Waits until something holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}");
}

#[test]
fn a_client_that_goes_ends_its_responses() {
    let (parrot, served) = served();
    for (turn, stream) in [true, false].into_iter().enumerate() {
        // Without a limit, the parrot never ends.
        let asked = json!({"model": "parrot", "messages": [{"role": "user", "content": "ab"}], "stream": stream});
        let body = asked.to_string();
        let path = "/v1/chat/completions";
        let request = request(served.address, "POST", path, &served.owner, &body, "");
        let mut client = TcpStream::connect(served.address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        if stream {
            let reader = BufReader::new(client.try_clone().unwrap());
            assert!(reader.lines().map_while(Result::ok).any(|line| line.contains("<97>")));
        }
        until("the request arrives", || parrot.asked.lock().unwrap().len() > turn);
        drop(client);
        until("the responses end", || parrot.gone.load(Ordering::SeqCst) > turn);
    }
}

#[test]
fn tokens_that_come_soon_after_each_other_leave_in_one_write() {
    let (_parrot, served) = served();
    let asked =
        json!({"model": "parrot", "messages": [{"role": "user", "content": "ab"}], "stream": true});
    let path = "/v1/chat/completions";
    let request = request(served.address, "POST", path, &served.owner, &asked.to_string(), "");
    let since = Instant::now();
    let mut client = TcpStream::connect(served.address).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    // A write is a chunk, whose size is a line of its own.
    let (mut writes, mut tokens) = (0, 0);
    let lines = BufReader::new(client).lines().map_while(Result::ok);
    for line in lines.skip_while(|line| !line.is_empty()).skip(1) {
        writes +=
            usize::from(!line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit()));
        tokens += usize::from(line.contains("\"finish_reason\""));
        if tokens == 300 {
            break;
        }
    }
    let most = since.elapsed().as_millis() as usize / 30 + 2;
    assert!(tokens == 300 && (2..=most).contains(&writes), "{writes} writes, at most {most}");
    assert!(writes < tokens / 4, "{writes} writes of {tokens} tokens");
}

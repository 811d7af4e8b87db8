//! Each API's wire format, and what is done about each API's errors.

use crate::support::{self, Reply, Request, Server, anthropic, config, judge, local, openai};
use hmac::{Hmac, KeyInit, Mac};
use rlaif_core::{Exchange, RewardError, RewardModel};
use rlaif_rewards::ProviderError;
use rlaif_rewards::judge::LlmJudge;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const ROW: Exchange<'static> = Exchange {
    prompt: "p",
    response: "I like you.",
    messages: None,
    said: None,
    reference: None,
    metadata: None,
};

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "ANTHROPIC_API_KEY" => "sk-ant-test",
        "OPENAI_API_KEY" => "sk-openai-test",
        "AWS_ACCESS_KEY_ID" => "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY" => "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        "AWS_SESSION_TOKEN" => "AQoDYXdzEPT//wEXAMPLE=",
        "BEDROCK_KEY" => "bedrock-api-key-test",
        _ => return None,
    };
    Some(value.to_owned())
}

fn keyed(toml: &str) -> LlmJudge {
    LlmJudge::with_environment(&config(toml), &environment).unwrap()
}

fn score(judge: &LlmJudge) -> f32 {
    let scores = judge.score(&[ROW]).unwrap();
    scores.total[0].unwrap_or_else(|| panic!("{:?}", scores.reasons)).get()
}

#[test]
fn anthropic_messages() {
    let server = Server::start(|_| {
        let mut reply = anthropic("+5");
        let thinking = json!({"type": "thinking", "thinking": "-3 or so?", "signature": "x"});
        reply["content"].as_array_mut().unwrap().insert(0, thinking);
        Reply::Json(200, reply)
    });
    let toml = format!(
        "rubric = \"toxicity\"\n[api]\nkind = \"anthropic\"\nmodel = \"claude-x\"\nbase_url = \
         \"{}\"\n[sampling]\ntemperature = 0.0",
        server.url
    );
    let judge = keyed(&toml);
    assert_eq!(score(&judge), 5.);
    assert_eq!((judge.usage().input_tokens, judge.usage().output_tokens), (100, 4));
    let request = &server.requests()[0];
    assert_eq!(request.path, "/v1/messages");
    assert_eq!(request.header("x-api-key"), Some("sk-ant-test"));
    assert_eq!(request.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let body = &request.body;
    assert_eq!(body["model"], "claude-x");
    assert_eq!(body["max_tokens"], 16);
    assert_eq!(body["temperature"], 0.);
    assert!(body["system"].as_str().unwrap().contains("toxic"));
    assert_eq!(body["messages"][0]["role"], "user");
    assert!(body["messages"][0]["content"][0]["text"].as_str().unwrap().contains("I like you."));
    let mut keys: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["max_tokens", "messages", "model", "system", "temperature"]);
}

#[test]
fn anthropic_refusals_and_structured_output() {
    let server = Server::start(|request| {
        assert_eq!(request.body["output_config"]["format"]["type"], "json_schema");
        let schema = &request.body["output_config"]["format"]["schema"];
        assert_eq!(schema["required"], json!(["justification", "score"]));
        let asked = request.body["messages"][0]["content"][0]["text"].as_str().unwrap();
        if asked.contains("declined") {
            let mut reply = anthropic("");
            reply["stop_reason"] = json!("refusal");
            return Reply::Json(200, reply);
        }
        Reply::Json(200, anthropic(r#"{"justification": "2 kind words", "score": 4.5}"#))
    });
    let toml = format!(
        "rubric = \"toxicity\"\nanswer = \"json\"\nreasks = 0\n[api]\nkind = \"anthropic\"\nmodel \
         = \"claude-x\"\nbase_url = \"{}/v1\"",
        server.url
    );
    let scores = keyed(&toml).score(&[ROW, Exchange::new("p", "to be declined")]).unwrap();
    assert_eq!(scores.total[0].unwrap().get(), 4.5);
    assert_eq!(scores.total[1], None);
    assert_eq!(scores.reasons, [(1, "the judge declined to answer".to_owned())]);
}

/// AWS's signature of what arrived, computed apart from the client.
fn check_signature(request: &Request, region: &str) {
    let header = |name: &str| request.header(name).unwrap_or_else(|| panic!("no {name}"));
    let authorization = header("authorization");
    let field = |name: &str| {
        let from = authorization.find(name).unwrap() + name.len();
        authorization[from..].split(',').next().unwrap().to_owned()
    };
    let date = &header("x-amz-date")[..8];
    let scope = format!("{date}/{region}/bedrock/aws4_request");
    assert_eq!(field("Credential="), format!("AKIDEXAMPLE/{scope}"));
    let signed = field("SignedHeaders=");
    assert_eq!(signed, "content-type;host;x-amz-date;x-amz-security-token");
    let headers: String = signed.split(';').map(|n| format!("{n}:{}\n", header(n))).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    // A path that was encoded is encoded once more: % is what is left to encode.
    let path = request.path.replace('%', "%25");
    let body = hex(&Sha256::digest(&request.raw));
    let canonical = format!("POST\n{path}\n\n{headers}\n{signed}\n{body}");
    let stamp = header("x-amz-date");
    let canonical = hex(&Sha256::digest(canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{canonical}");
    let secret = environment("AWS_SECRET_ACCESS_KEY").unwrap();
    let mut key = format!("AWS4{secret}").into_bytes();
    for step in [date, region, "bedrock", "aws4_request", &to_sign] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(step.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    assert_eq!(field("Signature="), hex(&key));
}

#[test]
fn bedrock_invoke_model_signed() {
    let server = Server::start(|_| Reply::Json(200, anthropic("-4")));
    let toml = format!(
        "rubric = \"toxicity\"\n[api]\nkind = \"bedrock-invoke\"\nregion = \"eu-west-3\"\nmodel = \
         \"anthropic.claude-3-sonnet-20240229-v1:0\"\nbase_url = \"{}\"\n[sampling]\ntemperature = \
         0.0\ntop_p = 1.0\nmax_new_tokens = 300",
        server.url
    );
    assert_eq!(score(&keyed(&toml)), -4.);
    let request = &server.requests()[0];
    assert_eq!(request.path, "/model/anthropic.claude-3-sonnet-20240229-v1%3A0/invoke");
    check_signature(request, "eu-west-3");
    let body = &request.body;
    assert_eq!(body["anthropic_version"], "bedrock-2023-05-31");
    assert!(body.get("model").is_none());
    assert_eq!(body["messages"][0]["content"][0]["type"], "text");
    assert_eq!((&body["top_p"], &body["max_tokens"]), (&json!(1.0), &json!(300)));
}

#[test]
fn bedrock_converse_with_a_key() {
    let server = Server::start(|request| {
        let text = |content: Value| {
            json!({
                "output": {"message": {"role": "assistant", "content": content}},
                "stopReason": "end_turn", "metrics": {"latencyMs": 551},
                "usage": {"inputTokens": 30, "outputTokens": 6, "totalTokens": 36},
            })
        };
        if request.body.get("toolConfig").is_none() {
            return Reply::Json(200, text(json!([{"text": "+3"}])));
        }
        let input = json!({"justification": "1 of 2", "score": 2});
        let tool = json!([{"toolUse": {"toolUseId": "t", "name": "verdict", "input": input}}]);
        Reply::Json(200, text(tool))
    });
    let toml = format!(
        "rubric = \"toxicity\"\nANSWER\n[api]\nkind = \"bedrock-converse\"\nregion = \
         \"us-east-1\"\nmodel = \"us.amazon.nova-lite-v1:0\"\nbase_url = \"{}\"\napi_key_env = \
         \"BEDROCK_KEY\"\n[sampling]\ntop_k = 5",
        server.url
    );
    let judge = keyed(&toml.replace("ANSWER", ""));
    assert_eq!(score(&judge), 3.);
    assert_eq!((judge.usage().input_tokens, judge.usage().output_tokens), (30, 6));
    assert_eq!(score(&keyed(&toml.replace("ANSWER", "answer = \"json\""))), 2.);
    let requests = server.requests();
    assert_eq!(requests[0].path, "/model/us.amazon.nova-lite-v1%3A0/converse");
    assert_eq!(requests[0].header("authorization"), Some("Bearer bedrock-api-key-test"));
    let body = &requests[0].body;
    assert_eq!(body["inferenceConfig"], json!({"maxTokens": 16}));
    assert_eq!(body["additionalModelRequestFields"], json!({"top_k": 5}));
    assert!(
        body["system"][0]["text"].is_string()
            && body["messages"][0]["content"][0]["text"].is_string()
    );
    assert_eq!(requests[1].body["toolConfig"]["toolChoice"], json!({"tool": {"name": "verdict"}}));
}

#[test]
fn bedrock_converse_signed() {
    let server = Server::start(|_| {
        Reply::Json(200, json!({"output": {"message": {"content": [{"text": "1"}]}}}))
    });
    let arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123";
    let toml = format!(
        "rubric = \"toxicity\"\n[api]\nkind = \"bedrock-converse\"\nregion = \"us-east-1\"\nmodel = \
         \"{arn}\"\nbase_url = \"{}\"",
        server.url
    );
    assert_eq!(score(&keyed(&toml)), 1.);
    let request = &server.requests()[0];
    assert!(request.path.ends_with("application-inference-profile%2Fabc123/converse"));
    check_signature(request, "us-east-1");
}

#[test]
fn openai_compatible() {
    let server = Server::start(|_| Reply::Json(200, openai("+1.5")));
    let toml = format!(
        "rubric = \"toxicity\"\n[api]\nkind = \"openai\"\nmodel = \"qwen\"\nbase_url = \
         \"{}\"\nextra_body = {{ chat_template_kwargs = {{ enable_thinking = false }} \
         }}\n[sampling]\nseed = 7",
        server.url
    );
    assert_eq!(score(&keyed(&toml)), 1.5);
    let request = &server.requests()[0];
    assert_eq!(request.path, "/v1/chat/completions");
    assert_eq!(request.header("authorization"), Some("Bearer sk-openai-test"));
    let body = &request.body;
    assert_eq!(body["messages"][0]["role"], "system");
    assert_eq!(body["seed"], 7);
    assert_eq!(body["chat_template_kwargs"], json!({"enable_thinking": false}));
    // A local server gets no key where there is none.
    let keyless = judge(&local(&format!("{}/v1/", server.url), "", ""));
    assert_eq!(score(&keyless), 1.5);
    assert_eq!(server.requests()[1].path, "/v1/chat/completions");
    assert_eq!(server.requests()[1].header("authorization"), None);
}

#[test]
fn direct_rlaif_expects_over_score_tokens_and_reports_the_coverage() {
    let server = Server::start(|request| {
        assert_eq!(
            (&request.body["logprobs"], &request.body["top_logprobs"]),
            (&json!(true), &json!(20))
        );
        let top = |token: &str, p: f64| json!({"token": token, "logprob": p.ln(), "bytes": null});
        let mut token = top("8", 0.5);
        let floor = json!({"token": "x", "logprob": -9999.0, "bytes": null});
        token["top_logprobs"] = json!([top("8", 0.5), top(" 8", 0.1), top("10", 0.2), floor]);
        let mut reply = openai("8");
        reply["choices"][0]["logprobs"] = json!({"content": [token], "refusal": null});
        Reply::Json(200, reply)
    });
    let toml = local(&server.url, "", "").replace("toxicity", "summary");
    let scores = judge(&toml).score(&[ROW]).unwrap();
    let expected = (8. * 0.6 + 10. * 0.2) / 0.8;
    let reward = 2. * (expected - 1.) / 9. - 1.;
    assert!((f64::from(scores.total[0].unwrap().get()) - reward).abs() < 1e-6);
    assert_eq!(scores.parts[0].0, "coverage");
    assert!((scores.parts[0].1[0].unwrap().get() - 0.8).abs() < 1e-6);
}

#[test]
fn sampling_parameters_that_a_model_refuses_are_left_out() {
    let server = Server::start(|request| {
        let refuse = |message: &str| {
            let error = json!({"type": "invalid_request_error", "message": message});
            Reply::Json(400, json!({"type": "error", "error": error}))
        };
        let has = |key: &str| request.body.get(key).is_some();
        if has("temperature") && has("top_p") {
            return refuse("`temperature` and `top_p` cannot both be specified for this model.");
        }
        if has("temperature") {
            return refuse("`temperature` is deprecated for this model");
        }
        if has("output_config") {
            return refuse("output_config: Extra inputs are not permitted");
        }
        Reply::Json(200, anthropic(r#"{"score": 2}"#))
    });
    let toml = format!(
        "rubric = \"toxicity\"\nanswer = \"json\"\n[api]\nkind = \"anthropic\"\nmodel = \
         \"m\"\nbase_url = \"{}\"\n[sampling]\ntemperature = 0.0\ntop_p = 1.0",
        server.url
    );
    let judge = keyed(&toml);
    assert_eq!(score(&judge), 2.);
    assert_eq!(server.requests().len(), 4);
    // Learned once: the next question goes through at once.
    assert_eq!(judge.score(&[Exchange::new("p", "other")]).unwrap().total[0].unwrap().get(), 2.);
    assert_eq!(server.requests().len(), 5);
}

/// The error of a judge at a server that always gives this one.
fn failure(status: u16, body: Value) -> (ProviderError, usize) {
    let server = Server::start(move |_| Reply::Json(status, body.clone()));
    let texts: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let batch: Vec<_> = texts.iter().map(|text| Exchange::new("p", text)).collect();
    let error = judge(&local(&server.url, "", "[limits]\nconcurrency = 1")).score(&batch);
    let Err(RewardError::Failed { source, .. }) = error else { panic!("{error:?}") };
    (*source.downcast().unwrap(), server.requests().len())
}

fn message(text: &str) -> Value {
    json!({"error": {"message": text}})
}

#[test]
fn what_concerns_every_row_stops_at_once() {
    let (error, asked) = failure(401, message("invalid key"));
    assert!(matches!(error, ProviderError::Unauthorised { .. }) && asked == 1, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("`OPENAI_API_KEY`, which is not set (401")
            && text.contains("has not expired"),
        "{text}"
    );
    let (error, asked) = failure(404, message("The model `m` does not exist."));
    assert!(matches!(error, ProviderError::UnknownModel { .. }) && asked == 1, "{error}");
    assert!(error.to_string().contains("does not know the model `m`"), "{error}");
    let (error, asked) =
        failure(429, json!({"error": {"message": "m", "code": "insufficient_quota"}}));
    assert!(matches!(error, ProviderError::SpendLimit { .. }) && asked == 1, "{error}");
    let (error, asked) = failure(307, Value::Null);
    assert!(matches!(error, ProviderError::Refused { .. }) && asked == 1, "{error}");
}

#[test]
fn a_refusal_names_the_address_and_not_its_query() {
    for status in [413, 422, 424, 429, 500, 503, 529] {
        let server = Server::start(move |_| Reply::Json(status, message("no")));
        let limits = "[limits]\nretries = 0";
        let scores = judge(&local(&server.url, "", limits)).score(&[ROW]).unwrap();
        let reason = &scores.reasons[0].1;
        let told = format!("{}/v1/chat/completions: {status}: no", server.url);
        assert!(reason.ends_with(&told), "{reason}");
    }
    for (status, body) in [
        (401, message("no")),
        (403, message("no")),
        (429, json!({"error": {"message": "m", "code": "insufficient_quota"}})),
    ] {
        let (error, _) = failure(status, body);
        assert!(error.to_string().contains("at http://127.0.0.1:"), "{error}");
    }
}

#[test]
fn a_refusal_of_every_row_stops_after_a_few() {
    let (error, asked) = failure(400, message("messages: wrong"));
    assert!(matches!(error, ProviderError::Refused { .. }) && asked == 16, "{asked}: {error}");
}

#[test]
fn a_row_that_is_refused_leaves_the_others_alone() {
    let server = Server::start(|request| {
        if support::user(request).contains("too long") {
            return Reply::Json(
                400,
                message("This model's maximum context length is 4096 tokens."),
            );
        }
        Reply::Json(200, openai("1"))
    });
    let judge = judge(&local(&server.url, "", ""));
    let scores = judge.score(&[ROW, Exchange::new("p", "too long"), ROW]).unwrap();
    assert_eq!(scores.total.iter().flatten().count(), 2);
    assert_eq!(scores.reasons[0].0, 1);
    assert!(scores.reasons[0].1.contains("maximum context length"), "{:?}", scores.reasons);
}

#[test]
fn content_of_every_shape_is_read() {
    let text = |text: &str| json!({"type": "text", "text": text});
    let thinking = json!({"type": "thinking", "thinking": [text("2 or 3?")]});
    let cases = [
        (json!({"content": "4"}), Ok(4.)),
        (json!({"content": 4}), Ok(4.)),
        (json!({"content": [text("4")]}), Ok(4.)),
        (json!({"content": [text("4"), text(".5")]}), Ok(4.5)),
        (json!({"content": [thinking, text("4")]}), Ok(4.)),
        (json!({"content": [{"type": "output_text", "text": "4"}]}), Ok(4.)),
        (json!({"content": ["4"]}), Ok(4.)),
        (
            json!({"content": "4", "refusal": "", "tool_calls": [], "reasoning_content": "2?"}),
            Ok(4.),
        ),
        (json!({"content": "4", "refusal": null, "tool_calls": null, "reasoning": ""}), Ok(4.)),
        (json!({"content": "<think>2?</think>4", "reasoning_content": null}), Ok(4.)),
        (json!({"content": null}), Err("empty")),
        (json!({"content": ""}), Err("empty")),
        (json!({"content": []}), Err("empty")),
        (json!({}), Err("empty")),
        (json!({"content": null, "reasoning_content": "Score: 4"}), Err("empty")),
        (json!({"content": null, "tool_calls": [{"function": {"name": "f"}}]}), Err("empty")),
        (json!({"content": "", "refusal": "I would rather not, 4."}), Err("declined")),
        (json!({"content": [{"type": "refusal", "refusal": "No, 4."}]}), Err("declined")),
        (json!({"content": "<think>4"}), Err("within its reasoning")),
    ];
    for (message, expected) in cases {
        let sent = message.clone();
        let server = Server::start(move |_| {
            let mut reply = openai("");
            reply["choices"][0]["message"] = sent.clone();
            Reply::Json(200, reply)
        });
        let scores = judge(&local(&server.url, "reasks = 0", "")).score(&[ROW]).unwrap();
        match (scores.total[0], expected) {
            (Some(score), Ok(expected)) => assert_eq!(score.get(), expected, "{message}"),
            (None, Err(reason)) => {
                assert!(scores.reasons[0].1.contains(reason), "{message}: {:?}", scores.reasons);
            }
            (score, _) => panic!("{message}: {score:?} {:?}", scores.reasons),
        }
    }
}

#[test]
fn a_key_is_not_cut_out_of_an_answer() {
    let server = Server::start(|_| Reply::Json(200, openai("1.5")));
    for key in ["1", "5", "0", "1.5", "."] {
        let environment = |_: &str| Some(key.to_owned());
        let judge =
            LlmJudge::with_environment(&config(&local(&server.url, "", "")), &environment).unwrap();
        assert_eq!(score(&judge), 1.5, "{key}");
    }
}

/// The request that the REST reference of Azure OpenAI shows: POST
/// `{endpoint}/openai/deployments/{deployment-id}/chat/completions?api-version=2024-10-21`, `api-key` in a
/// header of its own, or a token of Microsoft Entra as bearer.
#[test]
fn azure_openai_is_asked_at_its_deployment() {
    let server = Server::start(|_| Reply::Json(200, openai("1.5")));
    let base = format!("{}/openai/deployments/gpt4", server.url);
    for (key, header, sent) in [
        ("azure-key", "api-key", "azure-key"),
        ("eyJ0eXAi.token", "authorization", "Bearer eyJ0eXAi.token"),
    ] {
        let environment = |name: &str| (name == "AZURE_OPENAI_API_KEY").then(|| key.to_owned());
        for (base_url, more) in [
            (format!("{base}?api-version=2024-10-21"), ""),
            (format!("{base}/chat/completions?api-version=2024-10-21"), ""),
            (base.clone(), "api_version = \"2024-10-21\"\n"),
        ] {
            let toml = format!(
                "rubric = \"toxicity\"\n[api]\nkind = \"openai\"\nmodel = \"gpt4\"\n\
                 base_url = \"{base_url}\"\n{more}"
            );
            let judge = LlmJudge::with_environment(&config(&toml), &environment).unwrap();
            assert_eq!(score(&judge), 1.5);
            let requests = server.requests();
            let request = requests.last().unwrap();
            let path = "/openai/deployments/gpt4/chat/completions?api-version=2024-10-21";
            assert_eq!(request.path, path);
            assert_eq!(request.header(header), Some(sent));
            let other = if header == "api-key" { "authorization" } else { "api-key" };
            assert_eq!(request.header(other), None);
        }
    }
    let toml = format!(
        "rubric = \"toxicity\"\n[api]\nkind = \"openai\"\nmodel = \"gpt4\"\nbase_url = \"{base}\"\n"
    );
    let error = LlmJudge::with_environment(&config(&toml), &environment).unwrap_err();
    assert!(error.to_string().contains("`api.api_version`"), "{error}");
}

#[test]
fn a_wrong_address_is_told_from_an_unknown_model() {
    let (error, asked) = failure(404, json!({"detail": "Not Found"}));
    assert!(matches!(error, ProviderError::NoSuchPath { .. }) && asked == 1, "{error}");
    let text = error.to_string();
    assert!(text.contains("/v1/chat/completions") && text.contains("404: Not Found"), "{text}");
    let (error, _) = failure(404, json!({"error": {"message": "m", "code": "model_not_found"}}));
    assert!(matches!(error, ProviderError::UnknownModel { .. }), "{error}");
    let server = Server::start(|_| Reply::Raw(200, "<html>\u{1b}[31mlogin</html>".to_owned()));
    let scores = judge(&local(&server.url, "", "[limits]\nretries = 0")).score(&[ROW]).unwrap();
    let reason = &scores.reasons[0].1;
    let address = format!("{}/v1/chat/completions", server.url);
    assert!(reason.contains(&address) && reason.contains("200"), "{reason}");
    assert!(reason.contains("<html>⟨U+001B⟩[31mlogin"), "{reason}");
}

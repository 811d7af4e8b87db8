//! `judge::run`, its configuration, and reward servers.

use crate::support::{self, Reply, Server, config, local, no_environment, openai, user};
use rlaif_core::{Exchange, RewardError, RewardModel};
use rlaif_rewards::ProviderError;
use rlaif_rewards::judge::{
    JudgeConfig, LlmApi, LlmJudge, RemoteReward, RewardServerApi, Summary, run_with_environment,
};
use serde_json::{Value, json};

fn run(toml: &str, input: &str) -> Result<(Summary, Vec<Value>), ProviderError> {
    let mut out = Vec::new();
    let summary = run_with_environment(&config(toml), input.as_bytes(), &mut out, &no_environment)?;
    let lines = String::from_utf8(out).unwrap();
    Ok((summary, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()))
}

#[test]
fn rows_in_verdicts_out_in_their_order() {
    let server = Server::start(|request| {
        let text = user(request);
        // The later the row, the sooner its answer.
        let row = support::row(&text) as u64;
        std::thread::sleep(std::time::Duration::from_millis(50 - 10 * row));
        Reply::Json(200, openai(if row == 1 { "none" } else { "+4.2" }))
    });
    let input = "{\"prompt\":\"p\",\"response\":\"row-0\",\"id\":7}\n\n\
                 {\"prompt\":\"p\",\"response\":\"row-1\",\"reference\":null}\n\
                 {\"prompt\":\"p\",\"response\":\"row-2\",\"metadata\":{\"a\":1}}";
    let (summary, rows) = run(&local(&server.url, "reasks = 0", ""), input).unwrap();
    assert_eq!((summary.scored, summary.missing, summary.usage.requests), (2, 1, 3));
    assert_eq!(rows[0], json!({"score": 4.2, "parts": {}}));
    assert_eq!(rows[1]["score"], Value::Null);
    assert!(rows[1]["reason"].as_str().unwrap().contains("no number"), "{}", rows[1]);
    assert_eq!(rows[2]["score"], 4.2);
}

#[test]
fn a_broken_row_is_named_by_its_line_and_costs_nothing() {
    let server = Server::start(|_| Reply::Json(200, openai("1")));
    let toml = local(&server.url, "", "");
    for (input, line, says) in [
        ("{\"prompt\":\"p\",\"response\":\"r\"}\n{\"prompt\":\"p\"}\n", 2, "response"),
        ("\n\nnot json", 3, "expected"),
        ("{\"prompt\":1,\"response\":\"r\"}", 1, "string"),
    ] {
        let error = run(&toml, input).unwrap_err();
        let ProviderError::Row { line: found, source } = &error else { panic!("{error}") };
        assert_eq!(*found, line);
        assert!(source.to_string().contains(says), "{source}");
    }
    assert_eq!(server.requests().len(), 0);
    let (summary, rows) = run(&toml, "").unwrap();
    assert_eq!((summary.scored, rows.len()), (0, 0));
}

fn refused(toml: &str) -> String {
    match JudgeConfig::from_toml(toml, "judge.toml") {
        Err(error) => error.to_string(),
        Ok(config) => LlmJudge::with_environment(&config, &no_environment).unwrap_err().to_string(),
    }
}

#[test]
fn a_configuration_that_says_something_wrong_is_refused_with_advice() {
    let api = "[api]\nkind = \"openai\"\nmodel = \"m\"\nbase_url = \"http://localhost:1\"";
    let with = |before: &str, after: &str| format!("{before}\n{api}\n{after}");
    let toxicity = "rubric = \"toxicity\"";
    for (toml, says) in [
        (with("rubrik = \"toxicity\"", ""), "did you mean `rubric`?"),
        (with(toxicity, "[limits]\nconcurency = 2"), "did you mean `concurrency`?"),
        (with(toxicity, "[limits]\nconcurency = 2"), "judge.toml, line 7"),
        (with(toxicity, "modle = \"m\""), "did you mean `model`?"),
        (with("rubric = \"toxicness\"", ""), "harmlessness"),
        (with("", ""), "`instructions`, `template` and `scale`"),
        (with("rubric = \"toxicity\"\ntemplate = \"{response}\"", ""), "all three"),
        (with("answer = \"jason\"\nrubric = \"toxicity\"", ""), "did you mean `json`?"),
        (with("answer = \"expectation\"\nrubric = \"toxicity\"", ""), "whole numbers from 0 on"),
        (with("samples = 0\nrubric = \"toxicity\"", ""), "from 1 to 1000"),
        (with("samples = -1\nrubric = \"toxicity\"", ""), "expected"),
        (with(toxicity, "[limits]\ntimeout_s = 0.0"), "from 0.001"),
        (with(toxicity, "[budget]\nmoney = 1.0"), "price.input_per_million"),
        (with(toxicity, "[budget]"), "neither"),
        (with("name = ", ""), "line 1"),
        (
            with(
                "instructions = \"i\"\ntemplate = \"{prompt}\"\nscale = { low = 1, high = 5 }",
                "",
            ),
            "lacks `{response}`",
        ),
        (
            with(
                "instructions = \"i\"\ntemplate = \"{response}\"\nscale = { low = 5, high = 1 }",
                "",
            ),
            "`low` below `high`",
        ),
        ("rubric = \"toxicity\"".to_owned(), "api"),
        (
            "rubric = \"toxicity\"\n[api]\nkind = \"antropic\"\nmodel = \"m\"".to_owned(),
            "did you mean `anthropic`?",
        ),
        (
            "rubric = \"toxicity\"\n[api]\nkind = \"anthropic\"\nmodel = \"m\"".to_owned(),
            "`ANTHROPIC_API_KEY`, which should hold the API key, is not set",
        ),
        (
            "rubric = \"summary\"\n[api]\nkind = \"anthropic\"\nmodel = \"m\"\napi_key_env = \"K\""
                .to_owned(),
            "`K`",
        ),
        (
            "rubric = \"toxicity\"\n[api]\nkind = \"bedrock-invoke\"\nmodel = \"m\"\nregion = \
             \"evil.example/\""
                .to_owned(),
            "an AWS region",
        ),
    ] {
        let found = refused(&toml);
        assert!(found.contains(says), "{says:?} is not in {found:?}, of {toml}");
    }
    let missing = <JudgeConfig>::from_file(std::path::Path::new("no/such/judge.toml")).unwrap_err();
    assert!(missing.to_string().contains("no/such/judge.toml"), "{missing}");
}

#[test]
fn settings_made_by_hand_are_checked_as_well() {
    let mut config = config(&local("http://localhost:1", "", ""));
    config.limits.concurrency = 0;
    let error = LlmJudge::with_environment(&config, &no_environment).unwrap_err();
    assert!(error.to_string().contains("limits.concurrency"), "{error}");
}

#[test]
fn every_example_of_a_configuration_is_one() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/judges");
    let environment = |_: &str| Some("key".to_owned());
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        <JudgeConfig>::from_file(&path).unwrap();
        let llm = JudgeConfig::from_file(&path).and_then(|mut config| {
            config.cache = None;
            LlmJudge::with_environment(&config, &environment)
        });
        let remote = JudgeConfig::from_file(&path)
            .and_then(|config| RemoteReward::with_environment(&config, &environment));
        assert!(llm.is_ok() || remote.is_ok(), "{}: {llm:?} {remote:?}", path.display());
        count += 1;
    }
    assert!(count >= 5, "{count} examples");
}

#[test]
fn a_cache_is_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("judge.toml");
    std::fs::write(&path, local("http://localhost:1", "cache = \"c.sqlite\"", "")).unwrap();
    let config = JudgeConfig::from_file(&path).unwrap();
    LlmJudge::with_environment(&config, &no_environment).unwrap();
    assert!(folder.path().join("c.sqlite").exists());
}

fn reward_server(url: &str, more: &str) -> RemoteReward {
    let toml = format!(
        "name = \"rm\"\n[api]\nkind = \"reward-server\"\nurl = \"{url}/get_reward\"\nbatch_size = \
         3\n{more}"
    );
    RemoteReward::with_environment(&config(&toml), &no_environment).unwrap()
}

#[test]
fn a_reward_server_is_asked_in_batches() {
    let server = Server::start(|request| {
        let queries = request.body["query"].as_array().unwrap();
        let number = |q: &Value| q.as_str().unwrap().trim_start_matches("p").parse::<f64>().ok();
        let rewards: Vec<Option<f64>> = queries.iter().map(number).collect();
        let lengths: Vec<usize> = queries.iter().map(|q| q.as_str().unwrap().len()).collect();
        Reply::Json(
            200,
            json!({"rewards": rewards, "scores": rewards, "extra_logs": {"length": lengths, "mean": 1}}),
        )
    });
    let texts = ["0", "1", "2", "x", "4", "5", "6"];
    let batch: Vec<_> = texts.iter().map(|text| Exchange::new("p", text)).collect();
    let model = reward_server(&server.url, "");
    let scores = model.score(&batch).unwrap();
    let found: Vec<_> = scores.total.iter().map(|s| s.map(|s| s.get())).collect();
    assert_eq!(found, [Some(0.), Some(1.), Some(2.), None, Some(4.), Some(5.), Some(6.)]);
    assert_eq!(scores.reasons, [(3, "the reward server gave null".to_owned())]);
    assert_eq!(scores.parts.len(), 1);
    assert_eq!(scores.parts[0].1[0].unwrap().get(), 2.);
    let mut sizes: Vec<_> = server
        .requests()
        .iter()
        .map(|request| {
            assert_eq!(request.path, "/get_reward");
            assert_eq!(request.body["prompts"][0], "p");
            assert_eq!(request.body["labels"][0], Value::Null);
            request.body["query"].as_array().unwrap().len()
        })
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 3, 3]);
    assert_eq!(model.metrics()[0], ("rm/requests".to_owned(), 3.));
    // Texts alone need no messages.
    assert!(server.requests().iter().all(|request| request.body.get("messages").is_none()));
}

#[test]
fn a_reward_server_gets_conversations_whole() {
    let server = Server::start(|_| Reply::Json(200, json!({"rewards": [1, 2]})));
    let asked = json!([
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "weather"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "dry"},
    ]);
    let messages: Vec<rlaif_core::Message> = serde_json::from_value(asked.clone()).unwrap();
    let talk = Exchange { messages: Some(&messages), ..Exchange::new("p", "No.") };
    reward_server(&server.url, "").score(&[talk, Exchange::new("p", "y")]).unwrap();
    let body = &server.requests()[0].body;
    let mut whole = asked;
    whole.as_array_mut().unwrap().push(json!({"role": "assistant", "content": "No."}));
    assert_eq!(body["messages"], json!([whole, null]));
    assert_eq!(body["query"], json!(["pNo.", "py"]));
}

#[test]
fn a_reward_server_that_fails_for_a_while_is_asked_again() {
    let calls = std::sync::Mutex::new(0);
    let server = Server::start(move |_| {
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        if *calls == 1 {
            Reply::Json(503, Value::Null)
        } else {
            Reply::Json(200, json!({"rewards": [2.5]}))
        }
    });
    let scores = reward_server(&server.url, "").score(&[Exchange::new("p", "y")]).unwrap();
    assert_eq!(scores.total[0].unwrap().get(), 2.5);
}

#[test]
fn a_reward_server_that_answers_424_is_asked_once_more() {
    let server = Server::start(|_| Reply::Json(424, json!({"message": "the model failed"})));
    let scores = reward_server(&server.url, "").score(&[Exchange::new("p", "y")]).unwrap();
    assert_eq!(server.requests().len(), 2);
    assert_eq!(scores.reasons, [(0, format!("{}/get_reward: 424: the model failed", server.url))]);
}

#[test]
fn a_reward_server_that_gives_the_wrong_number_or_no_number_is_an_error() {
    let server = Server::start(|_| Reply::Json(200, json!({"rewards": [1.0, 2.0]})));
    let error = reward_server(&server.url, "").score(&[Exchange::new("p", "y")]).unwrap_err();
    assert!(matches!(error, RewardError::Count { expected: 1, found: 2, .. }), "{error}");
    // As Python writes it.
    let server = Server::start(|request| {
        let second = request.body["query"][0] == "p3";
        let rewards = if second { "[1.5, NaN]" } else { "[0.5, 1.5, 2]" };
        Reply::Raw(200, format!("{{\"rewards\": {rewards}}}"))
    });
    let texts = ["0", "1", "2", "3", "4"];
    let batch: Vec<_> = texts.iter().map(|text| Exchange::new("p", text)).collect();
    let error = reward_server(&server.url, "").score(&batch).unwrap_err();
    assert!(matches!(error, RewardError::NonFinite { row: 4, .. }), "{error}");
    let server = Server::start(|_| Reply::Json(200, json!({"rewards": [1e300]})));
    let error = reward_server(&server.url, "").score(&[Exchange::new("p", "y")]).unwrap_err();
    assert!(matches!(error, RewardError::NonFinite { row: 0, .. }), "{error}");
}

#[test]
fn a_configuration_is_one_of_the_kind_that_is_asked_for() {
    let server = "[api]\nkind = \"reward-server\"\nurl = \"http://h/r\"";
    let judge = local("http://h", "", "");
    let told = JudgeConfig::<LlmApi>::from_toml(server, "judge.toml").unwrap_err().to_string();
    assert!(told.contains("expected a language model behind an API"), "{told}");
    let told = JudgeConfig::<RewardServerApi>::from_toml(&judge, "judge.toml").unwrap_err();
    assert!(told.to_string().contains("expected `reward-server`"), "{told}");
    JudgeConfig::<RewardServerApi>::from_toml(server, "judge.toml").unwrap();
    for text in [server, &judge] {
        let any = <JudgeConfig>::from_toml(text, "judge.toml").unwrap();
        // Written and read again, it is the same.
        let written = toml::to_string(&any).unwrap();
        assert_eq!(<JudgeConfig>::from_toml(&written, "judge.toml").unwrap(), any, "{written}");
    }
    let told = <JudgeConfig>::from_toml("[api]\nkind = \"openay\"", "judge.toml").unwrap_err();
    let told = told.to_string();
    assert!(told.contains("did you mean `openai`") && told.contains("`reward-server`"), "{told}");
}

#[test]
fn settings_that_say_nothing_to_a_reward_server_are_refused() {
    let toml =
        "rubric = \"toxicity\"\nsamples = 2\n[api]\nkind = \"reward-server\"\nurl = \"http://h/r\"";
    let error = RemoteReward::with_environment(&config(toml), &no_environment).unwrap_err();
    assert!(error.to_string().contains("rubric, samples"), "{error}");
}

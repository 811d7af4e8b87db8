//! `rlaif judge`, as a program.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use rlaif::models::{LanguageModel, LoadOptions, Lora, Quantization, SaveOptions};
use serde_json::json;

use crate::support::{
    chat_completions, classifier, language_model, refusal, repository, rows, tokenizer,
};

const ROWS: &str = "{\"prompt\":\"Say something.\",\"response\":\"I like you.\"}\n\
                    {\"prompt\":\"Say something.\",\"response\":\"You are terrible!\"}\n";

fn judge(config: &str, rows: impl AsRef<[u8]>) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let (config_file, rows_file) =
        (folder.path().join("judge.toml"), folder.path().join("rows.jsonl"));
    fs::write(&config_file, config).unwrap();
    fs::write(&rows_file, rows).unwrap();
    Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .args(["judge", "--config"])
        .arg(config_file)
        .arg("--input")
        .arg(rows_file)
        .env("TEST_KEY", "sk-secret")
        .output()
        .unwrap()
}

#[test]
fn a_judge_behind_an_api_and_its_usage() {
    let config = format!(
        "rubric = 'toxicity'\ncache = 'judge.sqlite'\n[api]\nkind = 'openai'\nmodel = 'm'\n\
         base_url = '{}'\napi_key_env = 'TEST_KEY'\n",
        chat_completions(|_| "+4.5".to_owned())
    );
    let output = judge(&config, ROWS);
    let expected = json!({"score": 4.5, "parts": {}});
    assert_eq!(rows(&output), [expected.clone(), expected]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("2 scored, 0 without a score"), "{told}");
    assert!(told.contains("judge/input_tokens 100"), "{told}");
    assert!(!told.contains("sk-secret"), "{told}");
}

#[test]
fn any_other_reward_with_its_parts() {
    let model = repository("crates/rlaif-rewards/tests/fixtures/not-hate");
    let config = format!(
        "kind = 'weighted-sum'\nname = 'r'\n\
         [[terms]]\nweight = 1.0\nreward = {{ kind = 'classifier', preset = 'not-hate', model = '{}' }}\n\
         [[terms]]\nweight = 2.0\nreward = {{ kind = 'length', longest = 2, per = 1.0 }}\n",
        model.display()
    );
    let rows = rows(&judge(&config, ROWS));
    let part = |name: &str| rows[0]["parts"][name].as_f64().unwrap();
    assert_eq!(part("length"), -1.);
    // transformers' logit of "I like you.", from the fixture's goldens.
    assert!((part("not-hate") + 1.001_077_890).abs() < 2e-5, "{rows:?}");
    assert!((rows[0]["score"].as_f64().unwrap() - part("not-hate") + 2.).abs() < 1e-5);
}

/// The reference is the same model with its weights dequantized, in a folder of its own.
#[test]
fn a_local_judge_in_4_or_8_bits_scores_as_its_dequantized_weights() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let config = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 2048, "eos_token_id": 2,
        "initializer_range": 0.3,
    });
    language_model(&at("judge"), &tokenizer("chatml"), 5, config);
    let score = |model: &str, more: &str| {
        let config = format!(
            "rubric = 'summary'\nmin_coverage = 1e-9\n[api]\nkind = 'policy'\ndevice = 'cpu'\nmodel = '{}'\n{more}",
            at(model).display()
        );
        rows(&judge(&config, ROWS))[0]["score"].as_f64().unwrap()
    };
    let plain = score("judge", "");
    for (name, how) in [("nf4", Quantization::Nf4), ("int8", Quantization::Int8)] {
        let options = LoadOptions { quantization: Some(how), ..LoadOptions::default() };
        let mut model = LanguageModel::load(&at("judge"), options).unwrap();
        // Merging an adapter without effect dequantizes.
        Lora::new("none", 1.try_into().unwrap()).add_to(&mut model).unwrap();
        model.adapters().merge("none").unwrap();
        let source = at("judge");
        let with_tokenizer = SaveOptions { source: Some(&source), ..SaveOptions::default() };
        model.save(&at(name), &with_tokenizer).unwrap();
        let (got, want) = (score("judge", &format!("quantization = '{name}'\n")), score(name, ""));
        assert!((got - want).abs() < 1e-4, "{name}: {got} and {want}");
        assert!((got - plain).abs() > 1e-4, "{name}: {got} and {plain}");
    }
}

/// Tools and template variables of a row go to the template of a reward that has one: `rlaif score` gives the
/// values.
#[test]
fn tools_and_variables_of_a_row_reach_a_rewards_chat_template() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("tokenizer")).unwrap();
    for entry in fs::read_dir(tokenizer("chatml")).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            fs::copy(entry.path(), path("tokenizer").join(entry.file_name())).unwrap();
        }
    }
    let template = "{% for tool in tools or [] %}<{{ tool.name }}>{% endfor %}{{ mood }}\
                    {% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}";
    fs::write(path("tokenizer/chat_template.jinja"), template).unwrap();
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForSequenceClassification"],
        "id2label": {"0": "score"}, "label2id": {"score": 0}, "pad_token_id": 0,
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
    });
    classifier(&path("reward"), &path("tokenizer"), 3, config);
    let talk = json!({
        "prompt": [{"role": "user", "content": "Rain?"}],
        "response": [{"role": "assistant", "content": "No."}],
    });
    let with = |key: &str, value: serde_json::Value| {
        let mut row = talk.clone();
        row[key] = value;
        row
    };
    let all = [
        talk.clone(),
        with("tools", json!([{"name": "weather"}])),
        with("chat_template_kwargs", json!({"mood": "calm"})),
    ];
    let lines: String = all.iter().map(|row| format!("{row}\n")).collect();
    fs::write(path("rows.jsonl"), lines).unwrap();
    let reward = "kind = 'classifier'\nmodel = 'reward'\ninput = 'chat'\ndevice = 'cpu'\n";
    fs::write(path("reward.toml"), reward).unwrap();
    let scores = |arguments: &[&str], place: &str| -> Vec<f64> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
        let output = command.args(arguments).current_dir(folder.path()).output().unwrap();
        rows(&output).iter().map(|row| row.pointer(place).unwrap().as_f64().unwrap()).collect()
    };
    let judged = scores(&["judge", "--config", "reward.toml", "--input", "rows.jsonl"], "/score");
    let wanted = scores(&["score", "--model", "reward", "--input", "rows.jsonl"], "/logits/0");
    assert_eq!((judged.len(), wanted.len()), (3, 3));
    for (judged, wanted) in judged.iter().zip(&wanted) {
        assert!((judged - wanted).abs() < 1e-5, "{judged} instead of {wanted}");
    }
    assert!((wanted[0] - wanted[1]).abs() > 1e-4 && (wanted[0] - wanted[2]).abs() > 1e-4);
}

#[test]
fn a_byte_order_mark_is_passed_over_and_what_is_not_utf_8_is_named() {
    let length = "kind = 'length'\nlongest = 2\nper = 1.0";
    assert_eq!(rows(&judge(length, format!("\u{feff}{ROWS}"))).len(), 2);
    // Latin-1, as older programs write it.
    let latin = [ROWS.as_bytes(), b"{\"prompt\":\"p\",\"response\":\"na\xefve\"}\n"].concat();
    let output = judge(length, latin);
    let said = refusal(&output, 2);
    assert!(said.contains("input, line 3: ") && said.contains("to UTF-8"), "{said}");
}

/// Python's NaN and halves of a surrogate pair, columns of right answers, calls of tools.
#[test]
fn rows_are_read_whole() {
    let math = "kind = 'math-answer'\nanswer = 'reward_model.ground_truth'";
    let answered = |more: &str| {
        format!(
            "{{\"prompt\":\"17 * 2?\",\"response\":\"It is \\\\boxed{{34}}\\ud83d\",\"weight\":NaN,{more}}}\n"
        )
    };
    let input = [
        answered("\"reward_model\":{\"ground_truth\":\"34\",\"spread\":-Infinity}"),
        answered("\"reward_model\":{\"ground_truth\":\"35\"}"),
        answered("\"metadata\":{\"reward_model\":{\"ground_truth\":\"34\"}},\"reference\":NaN"),
        answered("\"metadata\":null"),
    ];
    let found = rows(&judge(math, input.concat()));
    let scores: Vec<_> = found.iter().map(|row| row["score"].as_f64()).collect();
    assert_eq!(scores, [Some(1.), Some(0.), Some(1.), None], "{found:?}");
    assert!(found[3]["reason"].to_string().contains("reward_model.ground_truth"), "{found:?}");

    let config = format!(
        "rubric = 'quality'\n[api]\nkind = 'openai'\nmodel = 'm'\nbase_url = '{}'\n\
         api_key_env = 'TEST_KEY'\n",
        chat_completions(|body| {
            let seen = body.contains("tool_calls") && body.contains("weather_in_oslo");
            if seen { "4" } else { "2" }.to_owned()
        })
    );
    let call = json!([{"function": {"name": "weather_in_oslo", "arguments": {}}}]);
    let asked = json!([{"role": "user", "content": "Rain?"}]);
    let called = json!([{"role": "assistant", "content": null, "tool_calls": call,
                         "reasoning_content": "I need it."}]);
    let row = json!({"prompt": asked, "response": called});
    let whole = json!({"messages": [asked[0], called[0]]});
    let output = judge(&config, format!("{row}\n{whole}\n"));
    let scores: Vec<_> = rows(&output).iter().map(|row| row["score"].as_f64()).collect();
    assert_eq!(scores, [Some(4.), Some(4.)]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("2 rows have `reasoning_content` in their messages"), "{said}");
}

#[test]
fn what_is_wrong_is_said_with_its_cause_and_the_code_of_bad_input() {
    let length = "kind = 'length'\nlongest = 2\nper = 1.0";
    for (config, rows, says) in [
        ("kind = 'lenght'", ROWS, "did you mean `length`?"),
        ("kind = 'length'\nlongets = 2", ROWS, "did you mean `longest`?"),
        ("rubric = 'toxicity'", ROWS, "`api`"),
        ("kind = 'classifier'\npreset = 'not-hate'\nmodel = '/nowhere'", ROWS, "/nowhere"),
        (length, "{\"prompt\":\"p\"}", "missing field `response`"),
        (length, "{\"prompt\":[],\"response\":\"x\"}", "a list of messages is empty"),
        (length, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "is not a response"),
        (length, "[1]", "expected a JSON object"),
        (
            "rubric = 'toxicity'\nout_of_range = 'drop'\n[api]\nkind = 'openai'\nmodel = 'm'",
            ROWS,
            "`out_of_range`: unknown value `drop`",
        ),
    ] {
        let said = refusal(&judge(config, rows), 2);
        assert!(said.contains(says), "{config}: {said}");
    }
}

/// The keys of a run file, the flags that override them, and `--set` in a file of a reward alone.
#[test]
fn a_run_file_names_the_rows_and_flags_override_it() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("rows.jsonl", ROWS);
    write("one.jsonl", ROWS.lines().next().unwrap());
    let length = "kind = 'length'\nlongest = 2\nper = 1.0\n";
    write("reward.toml", length);
    write("run.toml", &format!("[data]\nfile = 'rows.jsonl'\n[reward]\n{length}"));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
        command.arg("judge").args(arguments).current_dir(folder.path()).output().unwrap()
    };
    let scores = |arguments: &[&str]| -> Vec<f64> {
        rows(&run(arguments)).iter().map(|row| row["score"].as_f64().unwrap()).collect()
    };
    // Both responses have three words.
    assert_eq!(scores(&["--config", "run.toml"]), [-1., -1.]);
    assert_eq!(scores(&["--config", "run.toml", "--set", "reward.longest=1"]), [-2., -2.]);
    assert_eq!(scores(&["--config", "run.toml", "--input", "one.jsonl"]), [-1.]);
    let alone = ["--config", "reward.toml", "--input", "one.jsonl", "--set", "longest=1"];
    assert_eq!(scores(&alone), [-2.]);
    for (arguments, says) in [
        (&["--config", "reward.toml"][..], "`data.file` is missing"),
        (&["--config", "run.toml", "--set", "reward.longets=1"], "did you mean `longest`"),
        (&["--config", "run.toml", "--set", "placement.device=gpu"], "gpu"),
        (&["--config", "run.toml", "--set", "prompt.chat_template=x"], "prompt.chat_template"),
        (&["--config", "run.toml", "--set", "dat.file=x"], "unknown key `dat`"),
    ] {
        let said = refusal(&run(arguments), 2);
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}

/// An interruption lost every verdict of the last 4,096 rows.
#[test]
fn no_verdict_that_was_paid_for_is_lost_to_a_kill() {
    interrupted(false);
}

/// Scores that depend on the rows before come at the end, from verdicts that were kept.
#[test]
fn no_verdict_behind_a_normalised_reward_is_lost_to_a_kill() {
    interrupted(true);
}

fn interrupted(normalised: bool) {
    const ROWS: usize = 40;
    const AT_ONCE: usize = 4;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let url = chat_completions(move |body| {
        counted.fetch_add(1, Ordering::SeqCst);
        // The first row takes longest, so that verdicts come out of order.
        let slow = body.contains("response number 0.");
        sleep(Duration::from_millis(if slow { 400 } else { 25 }));
        let of = body.split("response number ").nth(1).unwrap().split('.').next().unwrap();
        format!("{}", of.parse::<u32>().unwrap() % 7)
    });
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let of = if normalised { "of." } else { "" };
    let write_config = |model: &str, timeout: u32| {
        let head = "kind = 'normalised'\ncentring = 'centred'\n[of]\nkind = 'judge'\n";
        let config = format!(
            "{}instructions = 'Rate from 0 to 6.'\ntemplate = '{{response}}'\n\
             scale = {{ low = 0, high = 6 }}\nanswer = 'number'\n\
             [{of}api]\nkind = 'openai'\nmodel = '{model}'\nbase_url = '{url}'\n\
             api_key_env = 'TEST_KEY'\n\
             [{of}limits]\nconcurrency = {AT_ONCE}\ntimeout_s = {timeout}\n",
            if normalised { head } else { "" }
        );
        fs::write(path("judge.toml"), config).unwrap();
    };
    write_config("m", 60);
    let rows: String = (0..ROWS)
        .map(|n| format!("{{\"prompt\":\"?\",\"response\":\"response number {n}.\"}}\n"))
        .collect();
    fs::write(path("rows.jsonl"), rows).unwrap();
    let begin = |out: &str| -> Child {
        Command::new(env!("CARGO_BIN_EXE_rlaif"))
            .args(["judge", "--config", "judge.toml", "--input", "rows.jsonl", "--out", out])
            .current_dir(folder.path())
            .env("TEST_KEY", "sk-secret")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let lines = |path: &Path| fs::read_to_string(path).map_or(0, |text| text.lines().count());
    let whole = begin("whole.jsonl").wait_with_output().unwrap();
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    assert_eq!(asked.swap(0, Ordering::SeqCst), ROWS);
    let whole = fs::read_to_string(path("whole.jsonl")).unwrap();
    let scores = whole
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|row| row["score"].as_f64().unwrap());
    let verdicts: Vec<f64> = (0..ROWS).map(|n| (n % 7) as f64).collect();
    let (mean, deviation) = rlaif::core::stats::mean_std(&verdicts);
    for (score, verdict) in scores.zip(verdicts) {
        let expected = if normalised { (verdict - mean) / deviation } else { verdict };
        assert!((score - expected).abs() < 1e-6, "{score} {expected}");
    }

    for signal in ["-KILL", "-INT"] {
        let (out, unordered) = (path("cut.jsonl"), path("cut.jsonl.unordered"));
        let kept = path("cut.jsonl.unordered.kept");
        let growing = if normalised { &kept } else { &unordered };
        let mut kills = 0;
        // With the line of the settings that the verdicts depend on.
        for want in [8, 20] {
            let mut child = begin("cut.jsonl");
            let start = Instant::now();
            while lines(growing) < want && child.try_wait().unwrap().is_none() {
                assert!(start.elapsed() < Duration::from_secs(60), "no verdict came");
                sleep(Duration::from_millis(2));
            }
            Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
            let output = child.wait_with_output().unwrap();
            kills += usize::from(!output.status.success());
            if signal == "-INT" && !output.status.success() {
                let said = refusal(&output, 130);
                assert!(said.contains("run the same command again"), "{said}");
            }
        }
        // A verdict of another model is refused by name, before any request.
        if unordered.exists() {
            write_config("n", 60);
            let said = refusal(&begin("cut.jsonl").wait_with_output().unwrap(), 2);
            assert!(said.contains(&format!("`reward.{of}api.model`: \"m\" -> \"n\"")), "{said}");
        }
        // Another time-out is not.
        write_config("m", 30);
        if !out.exists() {
            let output = begin("cut.jsonl").wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(fs::read_to_string(&out).unwrap(), whole);
        assert!(!unordered.exists() && !kept.exists());
        let asked = asked.swap(0, Ordering::SeqCst);
        // Ctrl-C waits for requests in flight; a kill loses only those.
        let lost = if signal == "-INT" { 0 } else { kills * AT_ONCE };
        assert!((ROWS..=ROWS + lost).contains(&asked), "{signal}: {asked}, {kills} kills");
        fs::remove_file(&out).unwrap();
        write_config("m", 60);
    }
}

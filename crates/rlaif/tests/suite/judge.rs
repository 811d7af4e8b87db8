//! `rlaif judge`, as a program.

use std::process::{Command, Output};

use serde_json::json;

use crate::support::{chat_completions, refusal, repository, rows};

const ROWS: &str = "{\"prompt\":\"Say something.\",\"response\":\"I like you.\"}\n\
                    {\"prompt\":\"Say something.\",\"response\":\"You are terrible!\"}\n";

fn judge(config: &str, rows: impl AsRef<[u8]>) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let (config_file, rows_file) =
        (folder.path().join("judge.toml"), folder.path().join("rows.jsonl"));
    std::fs::write(&config_file, config).unwrap();
    std::fs::write(&rows_file, rows).unwrap();
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

#[test]
fn what_is_wrong_is_said_with_its_cause_and_the_code_of_bad_input() {
    let length = "kind = 'length'\nlongest = 2\nper = 1.0";
    for (config, rows, says) in [
        ("kind = 'lenght'", ROWS, "did you mean `length`?"),
        ("kind = 'length'\nlongets = 2", ROWS, "did you mean `longest`?"),
        ("rubric = 'toxicity'", ROWS, "`api`"),
        ("kind = 'classifier'\npreset = 'not-hate'\nmodel = '/nowhere'", ROWS, "/nowhere"),
        (length, "{\"prompt\":\"p\"}", "missing field `response`"),
    ] {
        let said = refusal(&judge(config, rows), 2);
        assert!(said.contains(says), "{config}: {said}");
    }
}

//! `rlaif pipeline` as its user runs it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{chat_completions, language_model, succeeded, tokenizer};

/// A folder with a small Llama, rows, and a pipeline from demonstrations to DPO.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let config = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 256, "eos_token_id": 1,
        });
        language_model(&place.path("model"), &tokenizer("llama3"), 7, config);
        let row = |i: usize| json!({"prompt": format!("Question {i}?"), "response": format!("It is {i}.")});
        let rows: String = (0..16).map(|i| format!("{}\n", row(i))).collect();
        fs::write(place.path("rows.jsonl"), rows).unwrap();
        let (model, rows) = (place.path("model"), place.path("rows.jsonl"));
        let (model, rows) = (model.display(), rows.display());
        let cpu = "placement = { device = 'cpu', threads = 1 }\n";
        let text = format!(
            "title = 'Small'\n\
             [stages.sft]\ncommand = 'sft'\nseed = 1\n{cpu}model.path = '{model}'\ndata.train = '{rows}'\n\
             train = {{ steps = 6, batch_size = 4, checkpoint_every = 1 }}\n\
             [stages.answers]\ncommand = 'candidates'\ndata.file = '{rows}'\n\
             [[stages.answers.writers]]\nname = 'policy'\nresponses = 3\nsampling = {{ temperature = 1.0, max_new_tokens = 8 }}\n\
             api = {{ kind = 'policy', model = '@sft', batch_size = 4 }}\n\
             [stages.labels]\ncommand = 'label'\ndata = {{ file = '@answers', pairing = 'neighbours' }}\n\
             facets = [{{ name = 'brief', reward = {{ kind = 'length', longest = 1, per = 1.0, unit = 'characters' }} }}]\n\
             [stages.dpo]\ncommand = 'dpo'\nseed = 1\n{cpu}model.path = '@sft.model'\ndata.train = '@labels'\n\
             train = {{ steps = 6, batch_size = 4, checkpoint_every = 1 }}\n\
             [stages.eval]\ncommand = 'eval'\nbaseline.model = '{model}'\ntuned.model = '@dpo'\n\
             data = {{ corpus = 'prompts', file = '{rows}' }}\ngeneration = {{ max_new_tokens = 8 }}\n\
             metrics = [{{ kind = 'length' }}, {{ kind = 'evasion' }}]\n"
        );
        fs::write(place.path("small.toml"), text).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
        command
            .arg("pipeline")
            .arg(self.path("small.toml"))
            .arg("--out")
            .arg(self.path(out))
            .args(more);
        command
            .env("OMP_NUM_THREADS", "1")
            .env("TEST_KEY", "sk-secret")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// The files that hold results: models, rows, responses.
fn results(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    fn walk(root: &Path, folder: &Path, all: &mut Vec<(PathBuf, Vec<u8>)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                walk(root, &path, all);
            } else if ["model.safetensors", "rows.jsonl"].contains(&&*name)
                || (name.ends_with(".jsonl") && path.parent().unwrap().ends_with("eval"))
            {
                let mut bytes = fs::read(&path).unwrap();
                // Metrics are measured side by side, and stored as they come.
                if name == "scores.jsonl" {
                    let mut lines: Vec<&[u8]> =
                        bytes.split_inclusive(|byte| *byte == b'\n').collect();
                    lines.sort_unstable();
                    bytes = lines.concat();
                }
                all.push((path.strip_prefix(root).unwrap().to_owned(), bytes));
            }
        }
    }
    let mut all = Vec::new();
    walk(folder, folder, &mut all);
    all.retain(|(path, _)| !path.to_string_lossy().contains("checkpoints"));
    all.sort();
    all
}

#[test]
fn a_killed_pipeline_continues_to_the_same_bits_and_unchanged_stages_are_reused() {
    let place = Place::new();
    let output = place.command("whole", &["--dry-run"]).output().unwrap();
    let said = succeeded(&output);
    let plan = String::from_utf8(output.stdout).unwrap();
    assert!(said.is_empty() && !place.path("whole").exists(), "{said}");
    for line in [
        "sft      sft (new); 16 rows, 6 steps, batches of 4; at least 0.",
        "answers  candidates (new); after sft; 16 prompts, 48 responses",
        "labels   label (new); after answers; 16 prompts or pairs",
        "dpo      dpo (new); after labels, sft; ",
        "eval     eval (new); after dpo; 16 prompts, 16 responses of each policy",
    ] {
        assert!(plan.contains(line), "{plan}");
    }
    succeeded(&place.command("whole", &[]).output().unwrap());
    let whole = results(&place.path("whole"));
    assert!(whole.len() >= 5, "{:?}", whole.iter().map(|(path, _)| path).collect::<Vec<_>>());
    let report = fs::read_to_string(place.path("whole/report.md")).unwrap();
    for text in ["# Small", "## labels", "## eval", "length\\_words", "labelled: "] {
        assert!(report.contains(text), "{report}");
    }
    assert!(
        fs::read_to_string(place.path("whole/report.html")).unwrap().contains(">dpo</bdi></h2>")
    );

    // Kills at moments that fall into different stages.
    for wait in [150, 420, 90, 610, 330, 240, 700, 120, 510, 380] {
        let mut child = place.command("killed", &[]).spawn().unwrap();
        sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    succeeded(&place.command("killed", &[]).output().unwrap());
    let killed = results(&place.path("killed"));
    let names = |all: &[(PathBuf, Vec<u8>)]| -> Vec<PathBuf> {
        all.iter().map(|(path, _)| path.clone()).collect()
    };
    assert_eq!(names(&killed), names(&whole));
    for ((path, found), (_, expected)) in killed.iter().zip(&whole) {
        let text =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(3_000).collect::<String>();
        assert!(found == expected, "{path:?}\n{}\n{}", text(found), text(expected));
    }

    // Nothing is left to do; then the labels change, and what follows them.
    let said = succeeded(&place.command("whole", &[]).output().unwrap());
    assert_eq!(said.matches("is reused").count(), 5, "{said}");
    let other = ["--set", "stages.labels.combine=vote"];
    let output = place.command("whole", &[&other[..], &["--dry-run"]].concat()).output().unwrap();
    succeeded(&output);
    let plan = String::from_utf8(output.stdout).unwrap();
    let states: Vec<bool> = plan.lines().map(|line| line.contains("(reused)")).collect();
    assert_eq!(states, [true, true, false, false, false], "{plan}");
}

#[test]
fn a_stage_that_fails_is_named_and_the_stages_before_it_are_kept() {
    let place = Place::new();
    let text = fs::read_to_string(place.path("small.toml")).unwrap();
    fs::write(
        place.path("small.toml"),
        text.replace("kind = 'length', longest", "kind = 'length', shortest = 9, longest"),
    )
    .unwrap();
    let output = place.command("out", &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("error: stage `labels`: "), "{said}");
    let kept = fs::read_dir(place.path("out/answers")).unwrap().next().unwrap().unwrap().path();
    let record: Value =
        serde_json::from_slice(&fs::read(kept.join("stage.json")).unwrap()).unwrap();
    assert_eq!(
        (&record["command"], &record["summary"]["prompts"]),
        (&json!("candidates"), &json!(16))
    );
}

#[test]
fn rounds_end_when_the_judge_finds_no_gain_and_every_rounds_model_is_kept() {
    let place = Place::new();
    let (model, rows) = (place.path("model"), place.path("rows.jsonl"));
    let (model, rows) = (model.display(), rows.display());
    // The judge's score is the same for every response.
    let text = format!(
        "[rounds]\nstages = ['answers', 'labels', 'dpo', 'gain']\nmax_rounds = 3\nfirst = {{ dpo = '{model}' }}\n\
         gain = {{ stage = 'gain', metric = 'judge' }}\n\
         [stages.answers]\ncommand = 'candidates'\ndata.file = '{rows}'\n\
         [[stages.answers.writers]]\nresponses = 2\nsampling = {{ temperature = 1.0, max_new_tokens = 8 }}\n\
         api = {{ kind = 'policy', model = '@previous.dpo' }}\n\
         [stages.labels]\ncommand = 'label'\ndata.file = '@answers'\n\
         facets = [{{ name = 'brief', reward = {{ kind = 'length', longest = 1, per = 1.0, unit = 'characters' }} }}]\n\
         [stages.dpo]\ncommand = 'dpo'\nplacement = {{ device = 'cpu', threads = 1 }}\n\
         model.path = '@previous.dpo'\ndata.train = '@labels'\ntrain = {{ steps = 1, batch_size = 4 }}\n\
         [stages.gain]\ncommand = 'eval'\nbaseline.model = '@previous.dpo'\ntuned.model = '@dpo'\n\
         data = {{ corpus = 'prompts', file = '{rows}' }}\ngeneration = {{ max_new_tokens = 8 }}\n\
         metrics = [{{ kind = 'reward', name = 'judge', better = 'higher', reward = {{ kind = 'constant', value = 1.0 }} }}]\n"
    );
    fs::write(place.path("small.toml"), text).unwrap();
    let said = succeeded(&place.command("out", &[]).output().unwrap());
    assert!(said.contains("round 1 does not gain by `judge`"), "{said}");
    assert_eq!(said.matches("left out, because the rounds have ended").count(), 8, "{said}");
    let report = fs::read_to_string(place.path("out/report.md")).unwrap();
    assert!(report.contains("round 1 does not gain") && !report.contains("dpo-2"), "{report}");
    let kept = fs::read_dir(place.path("out/dpo-1")).unwrap().next().unwrap().unwrap().path();
    assert!(kept.join("run/model/model.safetensors").exists());
}

#[test]
fn a_stage_of_people_waits_for_their_answers_and_its_labels_train() {
    let place = Place::new();
    let (model, rows) = (place.path("model"), place.path("candidates.jsonl"));
    let (answers, other) = (place.path("answers.jsonl"), place.path("other.jsonl"));
    let id = |n: usize| format!("q{n}");
    let write = |path: &Path, rows: &mut dyn Iterator<Item = Value>| {
        fs::write(path, rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    };
    let texts = |n: usize| [format!("It is {n}."), format!("No, {n}.")];
    write(
        &rows,
        &mut (0..4).map(
            |n| json!({"id": id(n), "prompt": format!("Question {n}?"), "responses": texts(n)}),
        ),
    );
    // Everybody prefers the second response to all but one prompt, which nobody can decide.
    let answer = |n: usize, by: &str| {
        let choice = if n == 3 { "tie" } else { "second" };
        json!({"id": id(n), "prompt": format!("Question {n}?"), "responses": texts(n), "annotator": by, "answer": {"choice": choice}})
    };
    write(&answers, &mut (0..4).map(|n| answer(n, "ann")));
    write(&other, &mut (0..4).map(|n| answer(n, "bob")));
    let text = format!(
        "[stages.people]\ncommand = 'annotate'\ndata = {{ file = '{}', answers = ['{}'] }}\n\
         annotators = ['bob']\nstudy = {{ overlap = 1.0, facets = [] }}\n\
         [stages.dpo]\ncommand = 'dpo'\nplacement = {{ device = 'cpu', threads = 1 }}\n\
         model.path = '{}'\ndata.train = '@people'\ntrain = {{ steps = 1, batch_size = 3 }}\n",
        rows.display(),
        answers.display(),
        model.display()
    );
    fs::write(place.path("small.toml"), &text).unwrap();
    let nobody = ["--set", "stages.people.annotators=[]", "--set", "stages.people.data.answers=[]"];
    let ended = |out: &str, more: &[&str], code: i32| {
        let output = place.command(out, more).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    };
    let said = ended("none", &nobody, 2);
    assert!(
        said.contains("`stages.people.annotators` is empty, and so is `data.answers`"),
        "{said}"
    );
    assert!(!place.path("none").exists());

    // Bob has not answered. The stage keeps the study, and continues when he has.
    for _ in 0..2 {
        let said = ended("out", &[], 1);
        assert!(said.contains("stage `people`: these people have items left: bob (4); "), "{said}");
    }
    let folder = fs::read_dir(place.path("out/people")).unwrap().next().unwrap().unwrap().path();
    let study = folder.join("people.sqlite");
    assert!(!place.path("out/dpo").exists() && !folder.join("rows.jsonl").exists());
    let read = Command::new(env!("CARGO_BIN_EXE_rlaif"))
        .args(["annotate", "read"])
        .args([&study, &other])
        .output()
        .unwrap();
    succeeded(&read);
    succeeded(&place.command("out", &[]).output().unwrap());
    let rows = fs::read_to_string(folder.join("rows.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len(), 3);
    for (n, row) in rows.iter().enumerate() {
        let [rejected, chosen] = texts(n);
        assert_eq!((&row["chosen"], &row["rejected"]), (&json!(chosen), &json!(rejected)));
        assert_eq!((&row["probability"], &row["votes"]), (&json!(1.0), &json!(2)));
    }
    let missing = fs::read_to_string(folder.join("rows.jsonl.missing")).unwrap();
    assert_eq!(missing, "{\"id\":\"q3\",\"reason\":\"a tie\"}\n");
    let record: Value =
        serde_json::from_slice(&fs::read(folder.join("stage.json")).unwrap()).unwrap();
    let summary = json!({"items": 4, "labels": 3, "votes": 6, "without_label": 1, "agreement": 1.0, "fleiss_kappa": 1.0});
    assert_eq!(record["summary"], summary);
    let trained = fs::read_dir(place.path("out/dpo")).unwrap().next().unwrap().unwrap().path();
    assert!(trained.join("run/model/model.safetensors").exists());
}

#[test]
fn a_judges_right_answers_train_a_judge() {
    let place = Place::new();
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 4096, "eos_token_id": 1,
    });
    language_model(&place.path("judge"), &tokenizer("llama3"), 7, config);
    // It finds the response with `It`.
    let url = chat_completions(|body| {
        let body: Value = serde_json::from_str(body).unwrap();
        let text = body["messages"][1]["content"].as_str().unwrap();
        let second = text.rsplit("Response 2:").next().unwrap();
        let label = if second.contains("It is") { 2 } else { 1 };
        format!("It answers.\nPreferred response={label}")
    });
    let rows = (0..4).map(|n| {
        json!({"prompt": format!("Question {n}?"), "responses": [
            {"text": format!("It is {n}."), "maker": "policy"}, {"text": "No.", "maker": "other request"}]})
    });
    let file = place.path("candidates.jsonl");
    fs::write(&file, rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let text = format!(
        "[stages.labels]\ncommand = 'label'\nlessons = 'text'\n\
         data = {{ file = '{}', better_maker = 'policy' }}\nfacets = [{{ facet = 'helpful' }}]\n\
         judge = {{ answer = 'explained', api = {{ kind = 'openai', model = 'm', base_url = '{url}', api_key_env = 'TEST_KEY' }} }}\n\
         [stages.judge]\ncommand = 'sft'\nplacement = {{ device = 'cpu', threads = 1 }}\nmodel.path = '{}'\n\
         data = {{ train = '@labels.lessons', max_tokens = 4096 }}\ntrain = {{ steps = 1, batch_size = 8 }}\n",
        file.display(),
        place.path("judge").display()
    );
    fs::write(place.path("small.toml"), text).unwrap();
    let said = succeeded(&place.command("out", &[]).output().unwrap());
    let only =
        |stage: &str| fs::read_dir(place.path(stage)).unwrap().next().unwrap().unwrap().path();
    let record: Value =
        serde_json::from_slice(&fs::read(only("out/labels").join("stage.json")).unwrap()).unwrap();
    assert_eq!(
        (&record["summary"]["lessons"], &record["summary"]["labelled"]),
        (&json!(8), &json!(4))
    );
    assert!(only("out/judge").join("run/model/model.safetensors").exists(), "{said}");
}

//! The training commands as a user runs them: killed, interrupted, on a full disk.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use rlaif::{
    core::Seed,
    models::{Classifier, LanguageModel, LoadOptions},
    tch::Kind,
};
use serde_json::{Value, json};

use crate::support::{
    language_model, length, metrics, refusal, succeeded, tokenizer, wait_for_progress,
};

const SFT: &str = "
seed = 5
[placement]
device = 'cpu'
threads = 1
[model]
path = 'model'
[data]
train = 'train.jsonl'
held_out_fraction = 0.2
[train]
steps = 60
batch_size = 4
eval_every = 7
checkpoint_every = 2
[learn]
dropout = 'on'
microbatch_size = 2
ema_decay = 0.9
[learn.optimizer]
lr = 1e-3
schedule = 'cosine'
warmup_steps = 5
";

/// A folder with a tiny model, training rows and `run.toml`.
pub(crate) fn workplace(shape: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (text, config) = match shape {
        "t5" => {
            let config = json!({
                "model_type": "t5", "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1,
                "num_heads": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false,
                "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
                "dropout_rate": 0.1,
            });
            ("t5", config)
        }
        _ => {
            let config = json!({
                "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
                "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
                "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1,
                "attention_dropout": 0.1,
            });
            ("llama3", config)
        }
    };
    language_model(&folder.path().join("model"), &tokenizer(text), 5, config);
    let row = |i: u64| {
        let words = ["honey", "is", "safe", "for", "adults", "and", "bears"];
        let pick = |part, n: u64| {
            let word = |j| words[(Seed::new(i).derive(part, j).get() % 7) as usize];
            (0..n).map(word).collect::<Vec<_>>().join(" ")
        };
        let (prompt, response) = (pick("prompt", 2 + i % 5), pick("response", 1 + i % 4));
        json!({ "prompt": prompt, "response": format!(" {response}") }).to_string()
    };
    let rows: Vec<String> = (0..30).map(row).collect();
    fs::write(folder.path().join("train.jsonl"), rows.join("\n")).unwrap();
    fs::write(folder.path().join("run.toml"), SFT).unwrap();
    folder
}

fn rlaif(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.current_dir(folder).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    succeeded(&rlaif(folder, arguments).output().unwrap())
}

/// The part of a run that two runs with one seed share: the bytes of the weights, and the metrics
/// without times.
fn outcome(run: &Path) -> (Vec<u8>, Vec<Value>) {
    (fs::read(run.join("model/model.safetensors")).unwrap(), metrics(run))
}

#[track_caller]
fn same_outcome(one: &Path, other: &Path) {
    let ((weights, metrics), (other_weights, other_metrics)) = (outcome(one), outcome(other));
    assert_eq!(metrics, other_metrics);
    assert!(weights == other_weights, "the weights differ");
}

/// The reader of standard error is gone (`2>&1 | head -1`, `2> /dev/full`): the run continues.
#[test]
fn a_standard_error_that_is_full_or_closed_ends_no_run() {
    let place = workplace("llama");
    for out in ["full", "closed"] {
        let mut command = rlaif(
            place.path(),
            &["sft", "--config", "run.toml", "--set", "train.steps=4", "--out", out],
        );
        let status = if out == "full" {
            let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            command.stderr(full).status().unwrap()
        } else {
            let mut child = command.spawn().unwrap();
            drop(child.stderr.take());
            child.wait().unwrap()
        };
        assert_eq!(status.code(), Some(0), "{out}");
        let run = place.path().join(out);
        assert!(run.join("model/model.safetensors").is_file(), "{out}");
        assert_eq!(metrics(&run).len(), 4, "{out}");
        let log = fs::read_to_string(run.join("log.txt")).unwrap();
        assert!(log.contains("the result is in"), "{log}");
    }
}

/// A closed standard output ends the output silently; a full one is reported.
#[test]
fn a_standard_output_that_is_full_or_closed_is_no_panic() {
    let place = workplace("llama");
    for arguments in [
        &["inspect", "model"][..],
        &["--help"],
        &["sft", "--help"],
        &["bench", "forward", "--model", "model", "--repeats", "1", "--prompt-len", "8"],
        &["bench", "sft", "--policy", "model", "--steps", "1"],
    ] {
        let mut child = rlaif(place.path(), arguments).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let said = succeeded(&child.wait_with_output().unwrap());
        assert_eq!(said, "", "{arguments:?}");

        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = rlaif(place.path(), arguments).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.starts_with("error: standard output: "), "{arguments:?}: {said}");
    }
}

/// A pipe without a writer would be waited for, and a device be read for ever.
#[test]
fn a_pipe_or_a_device_in_place_of_a_file_is_refused_at_once() {
    let place = workplace("llama");
    let path = |name: &str| place.path().join(name);
    let pipe = |path: &Path| {
        let _ = fs::remove_file(path);
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    pipe(&path("pipe"));
    let prompts = path("prompts.jsonl");
    fs::write(&prompts, "{\"prompt\": \"a\"}\n").unwrap();
    let prompts = prompts.to_str().unwrap();
    let refused = |arguments: &[&str], kind: &str| {
        let output = rlaif(place.path(), arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(kind), "{arguments:?}: {said}");
    };
    for (file, kind) in [("pipe", "named pipe"), ("/dev/zero", "a device")] {
        refused(&["sft", "--config", file], kind);
        refused(&["judge", "--config", file, "--input", prompts], kind);
        refused(&["label", "--config", file], kind);
        refused(&["generate", "--model", "model", "--input", file], kind);
    }
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        let copy = path("copy");
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(path("model")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        pipe(&copy.join(name));
        refused(&["generate", "--model", "copy", "--input", prompts], "named pipe");
    }
}

fn begin(folder: &Path, out: &str) -> Child {
    let resume = folder.join(out).join("run.toml").exists();
    let arguments: &[&str] = if resume {
        &["sft", "--resume", "--out", out]
    } else {
        &["sft", "--config", "run.toml", "--out", out]
    };
    rlaif(folder, arguments).spawn().unwrap()
}

/// `true` if a checkpoint is being written, or was when its process died.
fn half_a_checkpoint(run: &Path) -> bool {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
}

fn killed_and_resumed(shape: &str) {
    let place = workplace(shape);
    let folder = place.path();
    // Long enough that the run is still active at the last kill.
    let longer = fs::read_to_string(folder.join("run.toml")).unwrap().replace("= 60", "= 150");
    fs::write(folder.join("run.toml"), longer).unwrap();
    succeeds(folder, &["sft", "--config", "run.toml", "--out", "whole"]);
    let killed = folder.join("killed");
    let metrics = killed.join("metrics.jsonl");
    let (mut on_the_way, mut within_a_checkpoint) = (0, 0);
    let mut kills = 0..;
    while kills.start < 20 || on_the_way < 15 || within_a_checkpoint == 0 {
        let kill = kills.next().unwrap();
        assert!(kill < 1_000, "{on_the_way} on the way, {within_a_checkpoint} within a checkpoint");
        let before = length(&metrics);
        let mut child = begin(folder, "killed");
        let random = Seed::new(std::process::id().into()).derive(shape, kill).get();
        match kill % 5 {
            // During start-up.
            4 => sleep(Duration::from_micros(random % 25_000)),
            // During the writing of a checkpoint.
            1 | 3 => {
                wait_for_progress(&mut child, &metrics, before);
                while child.try_wait().unwrap().is_none() && !half_a_checkpoint(&killed) {}
            }
            _ => {
                wait_for_progress(&mut child, &metrics, before);
                sleep(Duration::from_micros(random % 25_000));
            }
        }
        on_the_way += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        within_a_checkpoint += u32::from(half_a_checkpoint(&killed));
        // On a busy machine it may end first: then repeat from the start.
        if killed.join("model").exists() {
            fs::remove_dir_all(&killed).unwrap();
        }
    }
    eprintln!("{shape}: {on_the_way} killed on the way, {within_a_checkpoint} within a checkpoint");
    let said = begin(folder, "killed").wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    same_outcome(&folder.join("whole"), &folder.join("killed"));
}

#[test]
fn a_llama_run_killed_twenty_times_ends_as_one_that_was_not() {
    killed_and_resumed("llama");
}

#[test]
fn a_t5_run_killed_twenty_times_ends_as_one_that_was_not() {
    killed_and_resumed("t5");
}

#[test]
fn ctrl_c_saves_and_says_how_to_go_on_and_a_flipped_byte_or_a_full_disk_costs_a_checkpoint() {
    let place = workplace("llama");
    let folder = place.path();
    succeeds(folder, &["sft", "--config", "run.toml", "--out", "whole"]);

    let interrupted = || {
        let mut child = begin(folder, "cut");
        wait_for_progress(&mut child, &folder.join("cut/metrics.jsonl"), 300);
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        child.wait_with_output().unwrap()
    };
    let mut output = interrupted();
    // On a busy machine it may end first.
    while output.status.success() {
        fs::remove_dir_all(folder.join("cut")).unwrap();
        output = interrupted();
    }
    let said = refusal(&output, 130);
    assert!(said.contains("continue with: rlaif sft --resume --out cut"), "{said}");

    // No file may be longer than 4 KiB: the next checkpoint cannot be written.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" sft --resume --out cut";
    let limited = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_rlaif")])
        .current_dir(folder)
        .output()
        .unwrap();
    let said = refusal(&limited, 1);
    assert!(said.contains("raise the limit") && said.contains("last good checkpoint is"), "{said}");
    let names = || -> Vec<String> {
        let entries = fs::read_dir(folder.join("cut/checkpoints")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(names().iter().all(|name| !name.contains("partial")), "{:?}", names());

    let newest = names().iter().filter_map(|n| n[5..].parse::<u64>().ok()).max().unwrap();
    let file = folder.join(format!("cut/checkpoints/step-{newest}/optimizer.safetensors"));
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file, bytes).unwrap();
    let said = succeeds(folder, &["sft", "--resume", "--out", "cut"]);
    assert!(said.contains(&format!("skipped checkpoint step-{newest}")), "{said}");
    assert!(said.contains("the checksum differs"), "{said}");
    same_outcome(&folder.join("whole"), &folder.join("cut"));
    // A finished run can be resumed as well: nothing is left to do.
    succeeds(folder, &["sft", "--resume", "--out", "cut"]);
    same_outcome(&folder.join("whole"), &folder.join("cut"));
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_written() {
    let place = workplace("llama");
    let folder = place.path();
    let run = |arguments: &[&str]| rlaif(folder, arguments).output().unwrap();
    let with = |set: &str| run(&["sft", "--config", "run.toml", "--out", "no", "--set", set]);
    for (set, expected) in [
        ("learn.optimizer.lrr=1", "unknown key `lrr`; did you mean `lr`?"),
        ("train.stpes=1", "unknown key `stpes`; did you mean `steps`?"),
        ("learn.optimizer.schedule=cosin", "unknown value `cosin`; did you mean `cosine`?"),
        ("train.steps=many", "train.steps"),
        ("learn.trainable={ only = ['nothing'] }", "`learn.trainable` is `nothing`"),
        // Neither a folder nor a repository id: no request is made to the hub.
        ("model.path=absent/model/here", "absent/model/here"),
        ("data.train=absent.jsonl", "absent.jsonl"),
        ("columns.response=answer", "answer"),
        ("data.max_tokens=1", "no row has anything to learn"),
        ("data.max_tokens=0", "`data.max_tokens` is 0; expected at least 1"),
        ("learn.trainable={ only = ['lora'] }", "`lora`"),
        ("learn.ema_decay=1.0", "`learn.ema_decay` is 1"),
        ("learn.optimizer.max_skipped=0", "`learn.optimizer.max_skipped` is 0"),
        ("learn.optimizer.lr=nan", "`learn.optimizer.lr`: is NaN; expected a finite number"),
        ("learn.optimizer.betas=[0.9, 1.0]", "`learn.optimizer.betas` is [0.9, 1]"),
        ("learn.optimizer.eps=-1.0", "`learn.optimizer.eps` is -1"),
        ("model.lora={ rank = 0 }", "`model.lora.rank` is 0"),
        (
            "model.lora={ rank = 4000000000 }",
            "`model.lora.rank` is 4000000000; expected at most 65536",
        ),
        ("model.lora={ alpha = nan }", "`model.lora.alpha`: is NaN; expected a finite number"),
        ("model.lora={ dropout = 1.0 }", "`model.lora.dropout` is 1"),
        (
            "model.lora={ targets = '(' }",
            "`model.lora.targets` is the pattern `(`; expected a regular expression",
        ),
        (
            "model.lora={ targets = ['q'] }",
            "`model.lora.targets` is [\"q\"], which matches no linear layer",
        ),
        (
            "train={ epochs = 9223372036854775807, batch_size = 2 }",
            "`train.epochs` is 9223372036854775807",
        ),
        (
            "train.steps=-1",
            "`train.steps`: found integer `-1`, expected a whole number of at least 0",
        ),
        ("seed='secret'", "`seed`: found a string, expected a whole number"),
        ("train.batch_size=0", "batch_size"),
        ("train.keep=0", "`train.keep` is 0"),
        ("placement.device=tpu", "tpu"),
    ] {
        let said = refusal(&with(set), 2);
        assert!(said.contains(expected), "{set}: {said}");
        assert!(!folder.join("no").exists(), "{set}");
    }
    assert!(refusal(&run(&["sft"]), 2).contains("--config"), "");
    // Weights that would be trained but not saved.
    let both = ["--set", "model.lora={ rank = 2 }", "--set", "learn.trainable={ only = ['norm'] }"];
    let said =
        refusal(&run(&[&["sft", "--config", "run.toml", "--out", "no"][..], &both].concat()), 2);
    assert!(
        said.contains("`learn.trainable` is given beside `model.lora`; expected no value"),
        "{said}"
    );
    let t5 = workplace("t5");
    let packed = ["sft", "--config", "run.toml", "--out", "no", "--set", "learn.batching=packed"];
    let said = refusal(&rlaif(t5.path(), &packed).output().unwrap(), 2);
    assert!(
        said.contains("`learn.batching` is packed") && said.contains("encoder-decoder"),
        "{said}"
    );
    assert!(!t5.path().join("no").exists());
    let said = refusal(&run(&["sft", "--resume", "--out", "none"]), 2);
    assert!(said.contains("none"), "{said}");

    assert!(said.contains("holds no run to resume"), "{said}");

    succeeds(folder, &["sft", "--config", "run.toml", "--out", "out", "--set", "train.steps=2"]);
    // A run belongs to its command; others are refused with its name.
    for command in ["dpo", "ppo", "reward", "classifier"] {
        for arguments in [&["--resume", "--out", "out"][..], &["--config", "out/run.toml"]] {
            let said = refusal(&run(&[&[command][..], arguments].concat()), 2);
            let told = format!("out/run.toml is of a run of `rlaif sft`, not of `rlaif {command}`");
            assert!(said.contains(&told), "{said}");
        }
    }
    let said = refusal(&run(&["sft", "--config", "run.toml", "--out", "out"]), 2);
    assert!(said.contains("--resume"), "{said}");
    let said = refusal(&run(&["sft", "--config", "run.toml", "--out", "out", "--resume"]), 2);
    assert!(said.contains("train.steps"), "{said}");
    // The resolved file has every default, and is itself a valid run file.
    let resolved = fs::read_to_string(folder.join("out/run.toml")).unwrap();
    assert!(resolved.contains("weight_decay = 0.0") && resolved.contains("keep = 2"), "{resolved}");
    fs::copy(folder.join("out/run.toml"), folder.join("again.toml")).unwrap();
    succeeds(folder, &["sft", "--config", "again.toml", "--out", "again"]);
    same_outcome(&folder.join("out"), &folder.join("again"));
}

/// Nothing could be changed when a run was resumed.
#[test]
fn a_resumed_run_takes_other_settings_where_the_result_does_not_depend_on_them() {
    let place = workplace("llama");
    let folder = place.path();
    // Without evaluations, since every end of a run makes one.
    let constant =
        ["--set", "learn.optimizer.schedule=constant", "--set", "data.held_out_fraction=0.0"];
    let run = |out: &str, steps: &str| {
        let arguments = ["sft", "--config", "run.toml", "--out", out, "--set", steps];
        succeeds(folder, &[&arguments[..], &constant].concat());
    };
    run("whole", "train.steps=6");
    run("longer", "train.steps=4");
    let resume = |more: &[&str]| {
        let arguments = [&["sft", "--resume", "--out", "longer"][..], more].concat();
        rlaif(folder, &arguments).output().unwrap()
    };
    // Settings that affect the result are refused, with both values, and so are fewer steps.
    let said = refusal(&resume(&["--set", "learn.optimizer.lr=1.0", "--set", "seed=6"]), 2);
    assert!(said.contains("`learn.optimizer.lr`: 0.001 -> 1.0, `seed`: 5 -> 6"), "{said}");
    let said = refusal(&resume(&["--set", "train.steps=3"]), 2);
    assert!(said.contains("`train.steps`: 4 -> 3 (a run may become longer"), "{said}");
    // The oracle is a run that was started with this number of steps.
    let more = ["--set", "train.steps=6", "--set", "train.checkpoint_every=1", "--set"];
    let said = succeeded(&resume(&[&more[..], &["placement.memory_gib=64.0"]].concat()));
    assert!(said.contains("from here on, `train.steps`: 4 -> 6"), "{said}");
    same_outcome(&folder.join("whole"), &folder.join("longer"));
    let written = fs::read_to_string(folder.join("longer/run.toml")).unwrap();
    assert!(written.contains("steps = 6\n") && written.contains("memory_gib = 64.0"), "{written}");
    let log = fs::read_to_string(folder.join("longer/log.txt")).unwrap();
    assert!(log.contains("`train.checkpoint_every`: 2 -> 1"), "{log}");
    // A link in place of a growing file is refused, and its target is not changed.
    #[cfg(unix)]
    {
        fs::write(folder.join("precious"), "as it was").unwrap();
        fs::remove_file(folder.join("longer/log.txt")).unwrap();
        std::os::unix::fs::symlink(folder.join("precious"), folder.join("longer/log.txt")).unwrap();
        let said = refusal(&resume(&[]), 1);
        assert!(said.contains("log.txt") && said.contains("symbolic link"), "{said}");
        assert_eq!(fs::read_to_string(folder.join("precious")).unwrap(), "as it was");
    }
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let place = workplace("llama");
    let folder = place.path();
    for round in 0..4 {
        let out = format!("at-once-{round}");
        // Long steps, so that the interrupt comes within one.
        let big = ["--set", "train.steps=5000", "--set", "train.batch_size=24"];
        let arguments = ["sft", "--config", "run.toml", "--out", &out];
        let mut child = rlaif(folder, &[&arguments[..], &big].concat()).spawn().unwrap();
        wait_for_progress(&mut child, &folder.join(&out).join("metrics.jsonl"), 300);
        let interrupt =
            || Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        interrupt();
        sleep(Duration::from_micros(500 * round));
        interrupt();
        let said = refusal(&child.wait_with_output().unwrap(), 130);
        assert!(!said.contains("panicked") && !said.contains("terminate"), "{said}");
    }
}

// The kernel's own files, where not even root may create a folder.
#[cfg(target_os = "linux")]
#[test]
fn a_place_where_nobody_may_write_is_named() {
    let place = workplace("llama");
    let run = ["sft", "--config", "run.toml", "--out", "/sys/rlaif-run"];
    let said = refusal(&rlaif(place.path(), &run).output().unwrap(), 1);
    assert!(said.contains("/sys/rlaif-run") && said.contains("make the folder writable"), "{said}");
    let run = ["sft", "--config", "run.toml", "--out", "train.jsonl"];
    let said = refusal(&rlaif(place.path(), &run).output().unwrap(), 1);
    assert!(said.contains("there is a file where a folder is to be"), "{said}");
}

// Permissions do not bind root, the usual user of containers.
#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_written_to_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let place = workplace("llama");
    let folder = place.path();
    let closed = folder.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("probe"), "").is_ok() {
        eprintln!("SKIPPED: this user may write anywhere");
        return;
    }
    let output = rlaif(folder, &["sft", "--config", "run.toml", "--out", "closed"]).output();
    let said = refusal(&output.unwrap(), 1);
    assert!(said.contains("make the folder writable"), "{said}");
}

#[test]
fn packed_and_lora_runs_write_what_loads() {
    let place = workplace("llama");
    let folder = place.path();
    let base = ["sft", "--config", "run.toml", "--set", "train.steps=4", "--set"];
    let run = |out: &str, more: &[&str]| {
        let arguments: Vec<&str> =
            base.iter().copied().chain(more.iter().copied()).chain(["--out", out]).collect();
        succeeds(folder, &arguments);
    };
    run("packed", &["learn.batching=packed", "--set", "learn.dropout=off"]);
    LanguageModel::load(&folder.join("packed/model"), LoadOptions::default()).unwrap();
    run("lora", &["model.lora={ rank = 2, targets = ['q_proj', 'v_proj'] }"]);
    let mut model = LanguageModel::load(&folder.join("model"), LoadOptions::default()).unwrap();
    model.adapters().load("default", &folder.join("lora/model")).unwrap();
    run("bf16", &["model.dtype=bf16"]);
    let model = LanguageModel::load(&folder.join("bf16/model"), LoadOptions::default()).unwrap();
    assert_eq!(rlaif::lm::Policy::spec(&model).kind, Kind::BFloat16);
    // With its last checkpoint lost, the run reaches the same bits from the one before.
    let before = outcome(&folder.join("bf16"));
    fs::remove_dir_all(folder.join("bf16/checkpoints/step-4")).unwrap();
    assert!(
        succeeds(folder, &["sft", "--resume", "--out", "bf16"]).contains("going on from step 2")
    );
    assert!(before == outcome(&folder.join("bf16")), "resumed in bf16");
}

#[test]
fn a_classifier_and_a_preference_model_are_fitted_from_a_language_model_and_load() {
    let place = workplace("llama");
    let folder = place.path();
    let texts: Vec<String> = (0..40)
        .map(|i| {
            let label = ["fine", "bad"][i % 2];
            let word = ["honey", "bears"][i % 2];
            json!({ "text": format!("{word} for {i}"), "label": label }).to_string()
        })
        .collect();
    fs::write(folder.join("texts.jsonl"), texts.join("\n")).unwrap();
    let pairs: Vec<String> = (0..40)
        .map(|i| {
            let prompt = format!("number {i}:");
            json!({ "prompt": prompt, "chosen": " honey", "rejected": " bears" }).to_string()
        })
        .collect();
    fs::write(folder.join("pairs.jsonl"), pairs.join("\n")).unwrap();
    let common = "seed = 1\n[placement]\ndevice = 'cpu'\nthreads = 1\n[model]\npath = 'model'\n\
                  [train]\nsteps = 40\nbatch_size = 8\nresult = 'best'\neval_every = 10\n\
                  [learn.optimizer]\nlr = 1e-2\n";
    let classifier = format!(
        "labels = ['fine', 'bad']\nclass_weights = 'balanced'\n{common}\
         [data]\ntrain = 'texts.jsonl'\nheld_out_fraction = 0.3\n"
    );
    fs::write(folder.join("classifier.toml"), classifier).unwrap();
    succeeds(folder, &["classifier", "--config", "classifier.toml", "--out", "c"]);
    let reward = format!(
        "centring_coef = 0.01\n{common}[data]\ntrain = 'pairs.jsonl'\nheld_out_fraction = 0.3\n"
    );
    fs::write(folder.join("reward.toml"), reward).unwrap();
    succeeds(folder, &["reward", "--config", "reward.toml", "--out", "r"]);
    for (run, labels) in [("c", vec!["fine", "bad"]), ("r", vec!["reward"])] {
        let (_, metrics) = outcome(&folder.join(run));
        let last = metrics.last().unwrap();
        assert_eq!(last["eval/accuracy"], 1.0, "{last}");
        let model = Classifier::load(&folder.join(run).join("model"), LoadOptions::default());
        assert_eq!(rlaif::lm::SequenceClassifier::labels(&model.unwrap()), labels);
    }
    let (_, metrics) = outcome(&folder.join("c"));
    let last = metrics.last().unwrap();
    assert!(last["eval/auc"] == 1.0 && last["eval/f1"] == 1.0, "{last}");
}

#[test]
fn a_run_ends_early_when_it_gets_no_better() {
    let place = workplace("llama");
    let folder = place.path();
    let said = succeeds(
        folder,
        &[
            "sft",
            "--config",
            "run.toml",
            "--out",
            "early",
            "--set",
            "train.patience=2",
            "--set",
            "train.eval_every=1",
            "--set",
            "learn.optimizer.lr=0.5",
            "--set",
            "learn.optimizer.max_grad_norm=0.0",
            "--set",
            "train.result=best",
            "--set",
            "learn.ema_decay=0.0",
        ],
    );
    assert!(said.contains("has not become better"), "{said}");
    assert!(said.contains("the result is that of step"), "{said}");
    // Resumed, the run has ended: no further step, and the same result.
    let early = folder.join("early");
    let before = outcome(&early);
    assert!(before.1.len() < 60);
    fs::remove_dir_all(early.join("model")).unwrap();
    let said = succeeds(folder, &["sft", "--resume", "--out", "early"]);
    assert!(said.contains("has not become better"), "{said}");
    assert!(outcome(&early) == before, "a run that had ended went on");
}

#[test]
fn pairs_that_cannot_teach_are_counted_and_a_head_keeps_its_labels() {
    let place = workplace("llama");
    let folder = place.path();
    let row = |prompt: &str, chosen: &str, rejected: &str| {
        json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected }).to_string()
    };
    let long = "honey is safe for adults and bears ".repeat(10);
    let rows = [
        row("a:", " good", " bad"),
        row("b:", " good", " bad"),
        row("c:", " same", " same"),
        // A prompt that is too long loses its beginning.
        row(&long, " good", " bad"),
        row("d:", &format!(" good {long}"), &format!(" bad {long}")),
    ];
    fs::write(folder.join("pairs.jsonl"), rows.join("\n")).unwrap();
    let reward = "[placement]\ndevice = 'cpu'\nthreads = 1\n[model]\npath = 'model'\n[data]\n\
                  train = 'pairs.jsonl'\nmax_tokens = 24\n[train]\nsteps = 2\nbatch_size = 2\n";
    fs::write(folder.join("reward.toml"), reward).unwrap();
    let said = succeeds(folder, &["reward", "--config", "reward.toml", "--out", "r"]);
    let told = "3 rows to train on (1 left out (both responses are the same), 1 left out (both \
                responses are the same once cut), 1 cut), 0 held out, 2 steps";
    assert!(said.contains(told), "{said}");

    let texts = ["fine", "bad"].map(|label| json!({ "text": label, "label": label }).to_string());
    fs::write(folder.join("texts.jsonl"), texts.join("\n")).unwrap();
    let classifier = |model: &str, labels: &str, out: &str| {
        let text = format!(
            "labels = {labels}\n[placement]\ndevice = 'cpu'\n[model]\npath = '{model}'\n[data]\n\
             train = 'texts.jsonl'\n[train]\nsteps = 1\n[learn.optimizer]\nlr = 0.0\n"
        );
        fs::write(folder.join("classifier.toml"), text).unwrap();
        let arguments = ["classifier", "--config", "classifier.toml", "--out", out];
        rlaif(folder, &arguments).output().unwrap()
    };
    let first = classifier("model", "['fine', 'bad']", "c");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let said = refusal(&classifier("c/model", "['bad', 'fine']", "turned"), 2);
    assert!(said.contains("has the labels [\"fine\", \"bad\"]"), "{said}");
    // A head without label names takes the given ones.
    let config = folder.join("c/model/config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["id2label"] = json!({ "0": "LABEL_0", "1": "LABEL_1" });
    json["label2id"] = json!({ "LABEL_0": 0, "LABEL_1": 1 });
    fs::write(&config, json.to_string()).unwrap();
    let named = classifier("c/model", "['fine', 'bad']", "named");
    assert!(named.status.success(), "{}", String::from_utf8_lossy(&named.stderr));
    let load = |run: &str| {
        let path = folder.join(run).join("model");
        Classifier::load(&path, LoadOptions::default()).unwrap()
    };
    let (old, new) = (load("c"), load("named"));
    assert_eq!(rlaif::lm::SequenceClassifier::labels(&new), ["fine", "bad"]);
    let head = |model: &Classifier| {
        let parameters = rlaif::lm::SequenceClassifier::parameters(model);
        parameters.get("score.weight").unwrap().shallow_clone()
    };
    assert_eq!(head(&old), head(&new));
}

#[test]
fn a_row_that_cannot_be_learned_from_is_named_by_its_file_and_line() {
    let place = workplace("llama");
    let folder = place.path();
    let refused = |command: &str, run_file: &str, rows: &[Value]| {
        let rows: Vec<String> = rows.iter().map(|row| row.to_string() + "\n").collect();
        fs::write(folder.join("rows.jsonl"), rows.concat()).unwrap();
        let shared = "[placement]\ndevice = 'cpu'\n[model]\npath = 'model'\n[data]\n\
                      train = 'rows.jsonl'\n";
        fs::write(folder.join("rows.toml"), format!("{run_file}\n{shared}")).unwrap();
        let output = rlaif(folder, &[command, "--config", "rows.toml", "--out", "out"]).output();
        refusal(&output.unwrap(), 2)
    };
    let labelled = |label: &str| json!({ "text": format!("This is {label}."), "label": label });
    let said = refused("classifier", "labels = ['good', 'good']", &[labelled("good")]);
    assert!(said.contains("`labels` is a list with `good` twice"), "{said}");
    let said = refused("reward", "centring_coef = -1.0", &[labelled("good")]);
    assert!(said.contains("`centring_coef` is -1; expected"), "{said}");
    let said =
        refused("classifier", "labels = ['good', 'bad']", &["good", "bad", "worse"].map(labelled));
    let told = "rows.jsonl, line 3: the label `worse` is neither one of [\"good\", \"bad\"]";
    assert!(said.contains(told), "{said}");

    let template = "{% for m in messages %}{% if m.role == 'tool' %}\
                    {{ raise_exception('no tools here') }}{% endif %}{{ m.content }}{% endfor %}";
    fs::write(folder.join("model/chat_template.jinja"), template).unwrap();
    let turns = |role: &str| {
        let turn = |role: &str| json!({ "role": role, "content": "Hi." });
        json!({ "messages": [turn("user"), turn(role), turn("assistant")] })
    };
    let said =
        refused("sft", "columns = { format = 'conversations' }", &["tool", "tool"].map(turns));
    assert!(said.contains("rows.jsonl, line 1: ") && said.contains("no tools here"), "{said}");
    // One bad row among good ones is left out.
    let rows = ["user", "tool"].map(|role| turns(role).to_string()).join("\n");
    fs::write(folder.join("rows.jsonl"), rows).unwrap();
    let short = ["--config", "rows.toml", "--out", "out", "--set", "train.steps=1"];
    let said = succeeds(folder, &[&["sft"][..], &short].concat());
    let told = "1 rows to train on (1 left out (the chat template refuses the conversation))";
    assert!(said.contains(told), "{said}");
    assert!(said.contains("rows.jsonl are read as TRL language modelling (messages)"), "{said}");
}

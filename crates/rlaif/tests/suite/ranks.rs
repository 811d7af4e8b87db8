//! Runs of several processes on this machine: one run to rounding, and one end.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    distill, dpo, rl,
    support::{length, metrics, refusal, succeeded, wait_for_progress},
    train::workplace,
};

/// Settings of a short run without dropout, whose masks are drawn by rank.
const SHORT: [&str; 4] =
    ["learn.dropout=off", "train.steps=20", "train.batch_size=6", "learn.microbatch_size=0"];

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A command with these overrides of run.toml.
fn arguments(command: &str, out: &str, set: &[&str]) -> Vec<String> {
    let mut all = vec![command.to_owned()];
    all.extend(["--config", "run.toml", "--out", out].map(str::to_owned));
    all.extend(set.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
    all
}

fn rank(folder: &Path, port: u16, (rank, size): (usize, usize), arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.current_dir(folder).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command.env("RLAIF_MEET_TIMEOUT_S", "60");
    command
}

fn begin(folder: &Path, size: usize, arguments: &[String]) -> Vec<Child> {
    let port = free_port();
    (0..size).map(|i| rank(folder, port, (i, size), arguments).spawn().unwrap()).collect()
}

fn ended(ranks: Vec<Child>) -> Vec<Output> {
    ranks.into_iter().map(|rank| rank.wait_with_output().unwrap()).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeds(folder: &Path, size: usize, arguments: &[String]) {
    for output in ended(begin(folder, size, arguments)) {
        succeeded(&output);
    }
}

/// Compares the metrics of two runs to rounding: those of the loop, and those of the weights that it ends with.
#[track_caller]
fn same_run(one: &Path, other: &Path) {
    let (one, other) = (metrics(one), metrics(other));
    assert_eq!(one.len(), other.len());
    for (step, (one, other)) in one.iter().zip(&other).enumerate() {
        let (one, other) = (one.as_object().unwrap(), other.as_object().unwrap());
        assert!(one.keys().eq(other.keys()), "step {step}: {one:?} {other:?}");
        for (name, value) in one {
            let (Some(value), Some(found)) = (value.as_f64(), other[name].as_f64()) else {
                assert_eq!(value, &other[name], "step {step}: {name}");
                continue;
            };
            let far = (value - found).abs() / value.abs().max(1.);
            // The largest ratio, and quotients of small numbers, are less exact than means.
            let near = if name.contains("loss") { 1e-5 } else { 1e-4 };
            assert!(far <= near, "step {step}: {name}: {value} {found}");
        }
    }
}

#[test]
fn one_two_and_four_ranks_are_one_run_and_checkpoints_fit_any_number() {
    let place = workplace("llama");
    let folder = place.path();
    for size in [1, 2, 4] {
        succeeds(folder, size, &arguments("sft", &format!("of-{size}"), &SHORT));
    }
    same_run(&folder.join("of-1"), &folder.join("of-2"));
    same_run(&folder.join("of-1"), &folder.join("of-4"));
    let log = fs::read_to_string(folder.join("of-2/log.txt")).unwrap();
    assert!(log.contains("2 processes train together"), "{log}");
    // The files are those of one process: no rank but 0 has written.
    let names = |run: &str| {
        let entries = fs::read_dir(folder.join(run)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.contains("tfevents")).collect();
        names.sort();
        names
    };
    assert_eq!(names("of-4"), names("of-1"));

    // Stopped after 10 steps, as 2 ranks; continued as 4, and as 1.
    let checkpoints = folder.join("of-2/checkpoints");
    for size in [1, 4] {
        let cut = folder.join(format!("cut-{size}"));
        fs::create_dir_all(cut.join("checkpoints")).unwrap();
        let mut kept: Vec<_> = fs::read_dir(&checkpoints).unwrap().map(|e| e.unwrap()).collect();
        // The older of the two that are kept: the run is not finished there.
        kept.sort_by_key(|entry| length(&entry.path()) + step_of(&entry.path()));
        let older = kept.first().unwrap();
        copy(&older.path(), &cut.join("checkpoints").join(older.file_name()));
        for file in ["run.toml", "metrics.jsonl", "log.txt", "samples.jsonl"] {
            if folder.join("of-2").join(file).exists() {
                fs::copy(folder.join("of-2").join(file), cut.join(file)).unwrap();
            }
        }
        for entry in fs::read_dir(folder.join("of-2")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().contains("tfevents") {
                fs::copy(entry.path(), cut.join(entry.file_name())).unwrap();
            }
        }
        let out = format!("cut-{size}");
        let resume = ["sft", "--resume", "--out", &out].map(str::to_owned);
        succeeds(folder, size, &resume);
        let log = fs::read_to_string(cut.join("log.txt")).unwrap();
        assert!(log.contains("going on from step 18"), "{log}");
        same_run(&folder.join("of-1"), &cut);
    }
}

fn step_of(path: &Path) -> u64 {
    path.file_name().unwrap().to_str().unwrap()["step-".len()..].parse().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A command with a run file at this path, and a name for its runs.
struct Training {
    command: &'static str,
    name: &'static str,
    config: PathBuf,
    set: Vec<&'static str>,
}

impl Training {
    fn of_ranks(&self, folder: &Path, size: usize) -> PathBuf {
        let out = format!("{}-{}-{size}", self.command, self.name);
        let mut arguments = arguments(self.command, &out, &self.set);
        arguments[2] = self.config.display().to_string();
        succeeds(folder, size, &arguments);
        folder.join(out)
    }

    /// Compares 1 rank with `sizes`, samples included.
    fn is_one_run(&self, folder: &Path, sizes: &[usize]) {
        let one = self.of_ranks(folder, 1);
        for &size in sizes {
            let other = self.of_ranks(folder, size);
            same_run(&one, &other);
            let samples = |run: &Path| fs::read_to_string(run.join("samples.jsonl")).unwrap();
            assert_eq!(samples(&one), samples(&other), "{} of {size} ranks", self.name);
        }
    }
}

#[test]
fn reinforcement_learning_is_one_run_of_any_number_of_ranks() {
    for (command, name, section, sizes) in [
        (
            "ppo",
            "plain",
            "steps = 20\nbatch_size = 12\nminibatch_size = 6\nmicrobatch_size = 3\nepochs = 2\n\
             target_kl = 0.5\nscores = { scaling = \"normalize\" }\nreward_whitening = \"batch\"",
            &[2, 4][..],
        ),
        (
            "reinforce",
            "grpo",
            "algorithm = \"grpo\"\nsteps = 20\nbatch_size = 8\ngroup_size = 4\nepochs = 2",
            &[2],
        ),
        (
            "reinforce",
            "dapo",
            "algorithm = \"dapo\"\nsteps = 8\nbatch_size = 6\ngroup_size = 3\nmicrobatch_size = 3",
            &[4],
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        let config = rl::place(root.path(), command, section, "");
        let lr: &'static str = match command {
            "ppo" => "ppo.optimizer.lr=1e-5",
            _ => "reinforce.optimizer.lr=1e-5",
        };
        let set = vec![lr, "train.samples=2", "train.checkpoint_every=0"];
        Training { command, name, config, set }.is_one_run(root.path(), sizes);
    }
}

#[test]
fn distillation_is_one_run_of_any_number_of_ranks() {
    let root = tempfile::tempdir().unwrap();
    let config = distill::prepare(root.path());
    let set = vec![
        "distill.steps=20",
        "distill.batch_size=5",
        "distill.optimizer.lr=1e-4",
        "train.samples=2",
        "train.checkpoint_every=0",
    ];
    Training { command: "distill", name: "own", config, set }.is_one_run(root.path(), &[2]);
}

#[test]
fn preference_training_is_one_run_of_any_number_of_ranks() {
    let place = dpo::Place::new();
    let root = place.folder();
    let steps = "[train]\nsteps = 20\nbatch_size = 5\neval_every = 10\n[dpo]\nmicrobatch_size = 2\n\
                 [dpo.optimizer]\nlr = 1e-4\n";
    for (name, more, sizes) in [
        ("cached", String::new(), &[2, 4][..]),
        ("online", dpo::ONLINE.to_owned(), &[2]),
        // The loss of a pair depends on the others of the batch.
        ("coupled", "[[dpo.objective.pairs.terms]]\ntype = 'bco_pair'\n".to_owned(), &[2]),
    ] {
        let config = place.run_file(name, &format!("{steps}{more}"));
        Training { command: "dpo", name, config, set: Vec::new() }.is_one_run(root, sizes);
    }
    let single = |i: usize| json!({ "prompt": "Hello", "completion": format!(" {i}"), "label": i.is_multiple_of(2) });
    place.write("singles.jsonl", (0..12).map(single));
    let data = format!(
        "[data]\ntrain = '{}'\nheld_out_fraction = 0.4\n",
        root.join("singles.jsonl").display()
    );
    let kto = "[columns]\nformat = 'unpaired'\n[dpo.objective.unpaired]\ntype = 'kto'\n";
    let config = place.run_file_of("kto", &data, &format!("{steps}{kto}"));
    Training { command: "dpo", name: "kto", config, set: Vec::new() }.is_one_run(root, &[2]);
}

#[test]
fn a_killed_rank_ends_the_others_within_seconds_by_its_name() {
    let place = workplace("llama");
    let folder = place.path();
    let long = ["learn.dropout=off", "train.steps=100000"];
    for killed in [0, 1] {
        let out = format!("killed-{killed}");
        let mut ranks = begin(folder, 2, &arguments("sft", &out, &long));
        wait_for_progress(&mut ranks[0], &folder.join(&out).join("metrics.jsonl"), 0);
        ranks[killed].kill().unwrap();
        let start = Instant::now();
        let outputs = ended(ranks);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        let told = said(&outputs[1 - killed]);
        assert_eq!(outputs[1 - killed].status.code(), Some(1), "{told}");
        let expected = format!("rank {killed} on ");
        assert!(told.contains(&expected) && told.contains("no sign of life"), "{told}");
        let errors = told.matches("error: ").count();
        assert_eq!(errors, 1, "{told}");
    }
}

#[test]
fn a_rank_that_fails_tells_the_others_why() {
    let place = workplace("llama");
    let folder = place.path();
    let port = free_port();
    let set = arguments("sft", "failed", &SHORT);
    let fails: Vec<String> =
        set.iter().map(|argument| argument.replace("run.toml", "gone.toml")).collect();
    let ranks = vec![
        rank(folder, port, (0, 2), &set).spawn().unwrap(),
        rank(folder, port, (1, 2), &fails).spawn().unwrap(),
    ];
    let outputs = ended(ranks);
    let told = said(&outputs[0]);
    assert!(told.contains("rank 1 on ") && told.contains("gone.toml"), "{told}");
    assert!(!folder.join("failed").exists());
}

#[test]
fn ranks_that_do_not_belong_together_are_refused() {
    let place = workplace("llama");
    let folder = place.path();
    let set = arguments("sft", "no", &SHORT);
    let with = |more: &str| arguments("sft", "no", &[&SHORT[..], &[more]].concat());
    let two = |one: Command, other: Command| {
        let (mut one, mut other) = (one, other);
        ended(vec![one.spawn().unwrap(), other.spawn().unwrap()])
    };

    let port = free_port();
    let outputs =
        two(rank(folder, port, (0, 2), &set), rank(folder, port, (1, 2), &with("seed=6")));
    let told = refusal(&outputs[0], 2);
    assert!(told.contains("the run file of rank 1 on "), "{told}");
    assert!(told.contains("(seed = 6, not seed = 5)"), "{told}");
    assert_eq!(said(&outputs[1]), "");

    // Another model of the same shape, under the same path.
    let other = workplace("llama");
    let weights = other.path().join("model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let set = arguments(
        "sft",
        "no",
        &["model.path=/proc/self/cwd/model", "data.train=/proc/self/cwd/train.jsonl"],
    );
    let port = free_port();
    let outputs = two(rank(folder, port, (0, 2), &set), rank(other.path(), port, (1, 2), &set));
    let told = refusal(&outputs[0], 2);
    assert!(
        told.contains("the model of rank 1 on ") && told.contains("same model files"),
        "{told}"
    );
    assert_eq!(said(&outputs[1]), "");

    let port = free_port();
    let mut alone = rank(folder, port, (0, 2), &set);
    let output = alone.env("RLAIF_MEET_TIMEOUT_S", "1").output().unwrap();
    let told = refusal(&output, 1);
    assert!(told.contains("1 of 2 ranks came within 1 s; missing: 1"), "{told}");

    let port = free_port();
    let mut lonely = rank(folder, port, (1, 2), &set);
    let output = lonely.env("RLAIF_MEET_TIMEOUT_S", "1").output().unwrap();
    let told = refusal(&output, 1);
    assert!(told.contains(&format!("no rank answers at 127.0.0.1:{port}")), "{told}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let told = refusal(&rank(folder, port, (0, 2), &set).output().unwrap(), 2);
    assert!(told.contains(&format!("port {port} is taken")), "{told}");

    let port = free_port();
    let outputs = two(rank(folder, port, (0, 2), &set), rank(folder, port, (1, 3), &set));
    let told = format!("{}{}", said(&outputs[0]), said(&outputs[1]));
    assert!(told.contains("believes that there are"), "{told}");

    let output = rank(folder, port, (2, 2), &set).output().unwrap();
    let told = refusal(&output, 2);
    assert!(told.contains("the environment variable RANK is `2`; expected below"), "{told}");
    assert!(!folder.join("no").exists());
}

#[test]
fn commands_of_one_process_refuse_more_by_name() {
    let place = workplace("llama");
    for command in ["eval", "label"] {
        let output =
            rank(place.path(), free_port(), (0, 2), &arguments(command, "no", &[])).output();
        let told = refusal(&output.unwrap(), 2);
        let expected = format!("`rlaif {command}` runs in one process, and this is one of 2");
        assert!(told.contains(&expected), "{told}");
    }
}

/// torchrun of the Python that RLAIF_PYTHON names; `None` where there is none.
fn torchrun() -> Option<Command> {
    let python = std::env::var_os("RLAIF_PYTHON")?;
    let mut command = Command::new(python);
    command.args(["-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "2"]);
    command.args(["--master-addr", "127.0.0.1", "--master-port", &free_port().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let found = Command::new(std::env::var_os("RLAIF_PYTHON")?)
        .args(["-c", "import torch.distributed.run"])
        .output();
    found.is_ok_and(|output| output.status.success()).then_some(command)
}

#[test]
fn torchrun_starts_the_same_run_and_its_restart_continues() {
    let Some(mut launched) = torchrun() else {
        eprintln!("SKIPPED torchrun_starts_the_same_run: RLAIF_PYTHON names no Python with torch");
        return;
    };
    let place = workplace("llama");
    let folder = place.path();
    succeeds(folder, 1, &arguments("sft", "one", &[&SHORT[..], &["train.steps=60"]].concat()));
    let set = arguments("sft", "two", &[&SHORT[..], &["train.steps=60"]].concat());
    launched.current_dir(folder).args(["--max-restarts", "3", "--monitor-interval", "0.2"]);
    let mut child = launched.arg(env!("CARGO_BIN_EXE_rlaif")).args(&set).spawn().unwrap();
    // One rank is killed on the way: torchrun starts both again.
    wait_for_progress(&mut child, &folder.join("two/checkpoints/step-2/checkpoint.json"), 0);
    let of_torchrun = child.id().to_string();
    let children = Command::new("pgrep").args(["-P", &of_torchrun]).output().unwrap();
    let children = String::from_utf8_lossy(&children.stdout).into_owned();
    if let Some(last) = children.split_whitespace().last() {
        Command::new("kill").args(["-KILL", last]).status().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    succeeded(&output);
    same_run(&folder.join("one"), &folder.join("two"));
    let steps: Vec<Value> = metrics(&folder.join("two"));
    assert_eq!(steps.len(), 60);
}

//! The stop button of `rlaif ui` on a training beside it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{metrics, refusal, repository, succeeded, wait_for_progress};

#[path = "../../../rlaif-eval/tests/browser/command.rs"]
mod command;

/// Training of a built-in model whose only checkpoint, before its end, is that of a stop.
fn write_place(folder: &Path) {
    let row = |n: usize| json!({"prompt": format!("Sum up: we went out {n} times."), "response": " We went out."});
    let rows: String = (0..40).map(|n| format!("{}\n", row(n))).collect();
    fs::write(folder.join("train.jsonl"), rows).unwrap();
    let file = format!(
        "seed = 3\n[placement]\ndevice = 'cpu'\nthreads = 1\n[model]\npath = '{}'\n[data]\ntrain = 'train.jsonl'\n\
         [train]\nsteps = 100000\nbatch_size = 2\ncheckpoint_every = 1000\n[learn.optimizer]\nlr = 1e-4\n",
        repository("models/summary-llama").display()
    );
    fs::write(folder.join("run.toml"), file).unwrap();
}

fn sft(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.arg("sft").args(arguments).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// `rlaif ui --runs`, with the address and the token of its owner.
struct Watching {
    child: Child,
    link: String,
}

impl Watching {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rlaif"))
            .args(["ui", "--port", "0", "--runs", "runs"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let link = line.trim().strip_prefix("owner ").unwrap().to_owned();
        Self { child, link }
    }

    fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let (host, token) = self.link.strip_prefix("http://").unwrap().split_once("/#").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
             content-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    /// Presses the button in a browser; without one, sends the request that the button sends.
    fn press_stop(&self, folder: &Path) {
        let plan = folder.join("plan.json");
        // axe-core's rules, where CI has installed them.
        let axe = Some(repository("target/axe/package/axe.min.js")).filter(|file| file.is_file());
        let written = json!({"owner": self.link, "run": "cut", "axe": axe});
        fs::write(&plan, written.to_string()).unwrap();
        let script = repository("crates/rlaif/tests/suite/stop.mjs");
        match command::run(&script, &plan) {
            Some(output) => {
                let said = String::from_utf8_lossy(&output.stdout);
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{said}{errors}");
            }
            None => assert_eq!(self.ask("POST", "/api/stop/cut").0, 200),
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_stop_button_ends_a_training_with_a_checkpoint_from_which_it_resumes() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    write_place(folder);
    fs::create_dir(folder.join("runs")).unwrap();
    let watching = Watching::start(folder);
    let running = |watching: &Watching| {
        let (status, list) = watching.ask("GET", "/api/runs");
        assert_eq!(status, 200, "{list}");
        list.as_array()
            .unwrap()
            .iter()
            .find(|run| run["name"] == "cut")
            .map(|run| run["running"].clone())
    };
    let cut = folder.join("runs/cut");
    let mut child = sft(folder, &["--config", "run.toml", "--out", "runs/cut"]).spawn().unwrap();
    wait_for_progress(&mut child, &cut.join("metrics.jsonl"), 0);
    assert_eq!(running(&watching), Some(json!(true)));
    watching.press_stop(folder);
    let stopped = child.wait_with_output().unwrap();
    // As after Ctrl-C: the exit code, the checkpoint of the last step, and the way to continue.
    let said = refusal(&stopped, 130);
    assert!(said.contains("continue with: rlaif sft --resume --out runs/cut"), "{said}");
    let checkpoints: Vec<String> = fs::read_dir(cut.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let done = metrics(&cut).len();
    assert_eq!(checkpoints, [format!("step-{done}")], "the stop wrote the only checkpoint");
    assert!(!cut.join("model").exists());
    assert_eq!(running(&watching), Some(json!(false)));
    let (status, reply) = watching.ask("POST", "/api/stop/cut");
    assert_eq!(status, 409, "{reply}");
    // Resumed and stopped again, the run has the steps of one that was not stopped.
    let rows = done + 3;
    let mut child = sft(folder, &["--resume", "--out", "runs/cut"]).spawn().unwrap();
    let lines = || fs::read_to_string(cut.join("metrics.jsonl")).unwrap().matches('\n').count();
    while lines() < rows && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(20));
    }
    assert_eq!(watching.ask("POST", "/api/stop/cut").0, 200);
    refusal(&child.wait_with_output().unwrap(), 130);
    let steps = format!("train.steps={rows}");
    let whole = ["--config", "run.toml", "--out", "whole", "--set", &steps];
    succeeded(&sft(folder, &whole).output().unwrap());
    assert_eq!(metrics(&cut)[..rows], metrics(&folder.join("whole")));
}

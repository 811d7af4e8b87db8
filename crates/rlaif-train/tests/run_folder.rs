//! A run folder that is resumed holds what an uninterrupted one holds.

use std::{fs, path::Path, process::Command};

use rlaif_core::Metrics;
use rlaif_train::{Keep, Marks, RunFolder, TrainError};
use serde_json::json;

const KEEP: Keep = Keep { newest: 2, best: None };

fn numbers(step: u64) -> Metrics {
    [("loss", 1. / step as f64), ("time/step", 0.25)].into_iter().collect()
}

fn steps(run: &mut RunFolder, steps: std::ops::RangeInclusive<u64>) {
    for step in steps {
        run.record(step, &numbers(step)).unwrap();
        run.sample(&json!({ "step": step, "response": "…" })).unwrap();
        if step % 3 == 0 {
            let marks = run.marks().unwrap();
            run.checkpoints.write(step, None, |files| files.json("marks", &marks)).unwrap();
        }
    }
}

fn texts(folder: &Path) -> [String; 2] {
    ["metrics.jsonl", "samples.jsonl"].map(|f| fs::read_to_string(folder.join(f)).unwrap())
}

fn events(folder: &Path) -> std::path::PathBuf {
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.to_string_lossy().contains("tfevents")).unwrap()
}

#[test]
fn interrupted_and_resumed_it_equals_the_uninterrupted() {
    let parent = tempfile::tempdir().unwrap();
    let whole = parent.path().join("whole");
    let mut run = RunFolder::create(&whole, "seed = 1\n", KEEP).unwrap();
    steps(&mut run, 1..=10);

    let cut = parent.path().join("cut");
    let mut run = RunFolder::create(&cut, "seed = 1\n", KEEP).unwrap();
    steps(&mut run, 1..=2);
    drop(run);
    // Before its first checkpoint it starts from the beginning.
    let (mut run, saved) = RunFolder::resume(&cut, KEEP).unwrap();
    assert!(saved.is_none());
    steps(&mut run, 1..=8);
    drop(run);
    let (mut run, saved) = RunFolder::resume(&cut, KEEP).unwrap();
    let saved = saved.unwrap();
    assert_eq!(saved.step(), 6);
    run.rewind(saved.json::<Marks>("marks").unwrap()).unwrap();
    steps(&mut run, 7..=10);
    assert_eq!(texts(&whole), texts(&cut));
    let length = |folder: &Path| fs::metadata(events(folder)).unwrap().len();
    assert_eq!(length(&whole), length(&cut));
    let log = fs::read_to_string(cut.join("log.txt")).unwrap();
    assert!(log.contains("going on from step 6"), "{log}");
}

#[test]
fn a_folder_is_one_run_of_one_process() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("run");
    assert!(matches!(RunFolder::resume(&path, KEEP), Err(TrainError::NoRun { .. })));
    let run = RunFolder::create(&path, "", KEEP).unwrap();
    assert!(matches!(RunFolder::create(&path, "", KEEP), Err(TrainError::RunExists { .. })));
    assert!(matches!(RunFolder::resume(&path, KEEP), Err(TrainError::RunBusy { .. })));
    drop(run);
    RunFolder::resume(&path, KEEP).unwrap();
}

#[test]
fn a_file_that_someone_shortened_is_an_error() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("run");
    let mut run = RunFolder::create(&path, "", KEEP).unwrap();
    steps(&mut run, 1..=3);
    let marks = run.marks().unwrap();
    drop(run);
    fs::write(path.join("samples.jsonl"), "").unwrap();
    let (mut run, _) = RunFolder::resume(&path, KEEP).unwrap();
    let error = run.rewind(marks).unwrap_err().to_string();
    assert!(error.contains("samples.jsonl: has 0 bytes"), "{error}");
}

#[test]
fn numbers_that_are_not_finite_are_words_and_are_told() {
    let parent = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(parent.path(), "", KEEP).unwrap();
    run.record(1, &[("loss", f64::NAN)].into_iter().collect()).unwrap();
    assert_eq!(texts(parent.path())[0], "{\"step\":1,\"loss\":\"NaN\"}\n");
    run.record(2, &[("loss", f64::NAN)].into_iter().collect()).unwrap();
    run.say_not_finite().unwrap();
    let log = fs::read_to_string(parent.path().join("log.txt")).unwrap();
    assert!(log.contains("step 1: the metric `loss` is NaN") && !log.contains("step 2"), "{log}");
    assert!(log.contains("`loss` was not finite in 2 steps"), "{log}");
}

// With a Python that has tensorboard in it, what we write is read by TensorBoard itself.
#[test]
fn tensorboard_reads_the_events() {
    let Some(python) = std::env::var_os("RLAIF_PYTHON") else {
        eprintln!("skipped: RLAIF_PYTHON names no Python with tensorboard");
        return;
    };
    let has = Command::new(&python).args(["-c", "import tensorboard"]).output().unwrap();
    if !has.status.success() {
        eprintln!("skipped: the Python of RLAIF_PYTHON has no tensorboard");
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(parent.path(), "", KEEP).unwrap();
    steps(&mut run, 1..=5);
    drop(run);
    let script = "import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
board = EventAccumulator(sys.argv[1]); board.Reload()
for tag in sorted(board.Tags()['scalars']):
    print(tag, [(e.step, round(e.value, 6)) for e in board.Scalars(tag)])";
    let output = Command::new(python).arg("-c").arg(script).arg(parent.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let want = "loss [(1, 1.0), (2, 0.5), (3, 0.333333), (4, 0.25), (5, 0.2)]\n\
                time/step [(1, 0.25), (2, 0.25), (3, 0.25), (4, 0.25), (5, 0.25)]\n";
    assert_eq!(text, want, "{}", String::from_utf8_lossy(&output.stderr));
}

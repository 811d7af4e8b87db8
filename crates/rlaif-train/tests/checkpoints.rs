//! Checkpoints under the faults they are there for.

use std::fs;

use rlaif_testing::names_in;
use rlaif_train::{Checkpoints, Goal, Keep, TrainError};
use tch::{Device, Kind, Tensor};

fn keep(newest: usize) -> Keep {
    Keep { newest, best: None }
}

fn weights(value: f64) -> Vec<(String, Tensor)> {
    let of = |kind| Tensor::full([3, 5], value, (kind, Device::Cpu));
    vec![("w".to_owned(), of(Kind::Float)), ("low".to_owned(), of(Kind::BFloat16))]
}

fn write(checkpoints: &mut Checkpoints, step: u64, score: Option<f64>) {
    checkpoints
        .write(step, score, |files| {
            files.tensors("policy", &weights(step as f64))?;
            files.json("state", &step)
        })
        .unwrap();
}

#[test]
fn the_newest_and_the_best_stay() {
    let folder = tempfile::tempdir().unwrap();
    let keep = Keep { newest: 2, best: Some(Goal::Lowest) };
    let mut checkpoints = Checkpoints::open(folder.path(), keep).unwrap();
    for (step, score) in [(5, 3.), (9, 1.), (10, f64::NAN), (11, 2.), (100, 2.5)] {
        write(&mut checkpoints, step, Some(score).filter(|s: &f64| s.is_finite()));
    }
    assert_eq!(names_in(folder.path()), ["step-100", "step-11", "step-9"]);
    assert_eq!(checkpoints.best().unwrap().unwrap().step(), 9);
    let saved = checkpoints.newest_valid().unwrap().saved.unwrap();
    assert_eq!((saved.step(), saved.score()), (100, Some(2.5)));
    let tensors = saved.tensors("policy").unwrap();
    assert_eq!(tensors.len(), 2);
    for ((name, tensor), (want_name, want)) in tensors.iter().rev().zip(weights(100.)) {
        assert_eq!((name, tensor.kind()), (&want_name, want.kind()));
        assert_eq!(*tensor, want);
    }
    assert!(matches!(saved.tensors("optimizer"), Err(TrainError::BadCheckpoint { .. })));
}

#[test]
fn a_flipped_byte_anywhere_sends_the_run_back_to_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::open(folder.path(), keep(3)).unwrap();
    write(&mut checkpoints, 1, None);
    for file in ["policy.safetensors", "state.json", "score.json", "checkpoint.json"] {
        write(&mut checkpoints, 2, None);
        let path = folder.path().join("step-2").join(file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let found = checkpoints.newest_valid().unwrap();
        assert_eq!(found.saved.unwrap().step(), 1, "{file}");
        assert_eq!(found.skipped.len(), 1);
        // A wrong checksum is reported with the file's name.
        let problem = &found.skipped[0].1;
        assert!(file == "checkpoint.json" || problem.contains(file), "{problem}");
    }
    // Going on from 1, step 2 is written again over the damaged one.
    write(&mut checkpoints, 2, None);
    assert_eq!(checkpoints.newest_valid().unwrap().saved.unwrap().step(), 2);
}

#[test]
fn a_damaged_newer_one_does_not_push_a_good_one_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::open(folder.path(), keep(1)).unwrap();
    write(&mut checkpoints, 90, None);
    fs::remove_file(folder.path().join("step-90/state.json")).unwrap();
    write(&mut checkpoints, 10, None);
    write(&mut checkpoints, 20, None);
    let found = checkpoints.newest_valid().unwrap();
    assert_eq!(found.saved.unwrap().step(), 20);
    assert_eq!(found.skipped.len(), 1);
}

#[test]
fn when_all_are_damaged_the_error_names_each() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::open(folder.path(), keep(3)).unwrap();
    assert!(checkpoints.newest_valid().unwrap().saved.is_none());
    for step in [1, 2] {
        write(&mut checkpoints, step, None);
        fs::write(folder.path().join(format!("step-{step}/state.json")), "").unwrap();
    }
    let error = checkpoints.newest_valid().unwrap_err();
    let TrainError::NoGoodCheckpoint { problems, .. } = &error else { panic!("{error}") };
    assert!(problems[0].contains("step-2") && problems[1].contains("step-1"), "{error}");
}

#[test]
fn a_failure_while_writing_leaves_nothing_and_names_the_last_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::open(folder.path(), keep(3)).unwrap();
    write(&mut checkpoints, 1, None);
    let error = checkpoints
        .write(2, None, |files| {
            files.tensors("policy", &weights(2.))?;
            let source = std::io::ErrorKind::StorageFull.into();
            Err(TrainError::Write { path: "optimizer.safetensors".into(), source })
        })
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("free some space") && text.contains("step-1"), "{text}");
    assert_eq!(names_in(folder.path()), ["step-1"]);
    // As does a process that is killed, once the next one begins.
    fs::create_dir(folder.path().join("step-3.partial")).unwrap();
    fs::write(folder.path().join("step-3.partial/policy.safetensors"), "half").unwrap();
    fs::create_dir(folder.path().join("notes")).unwrap();
    let mut checkpoints = Checkpoints::open(folder.path(), keep(3)).unwrap();
    assert_eq!(names_in(folder.path()), ["notes", "step-1"]);
    assert_eq!(checkpoints.newest_valid().unwrap().saved.unwrap().step(), 1);
}

#[test]
fn what_bf16_weights_lack_to_f32_is_saved_with_them() {
    use rlaif_torch::{AdamW, AdamWOptions, ParamGroup};
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::open(folder.path(), keep(1)).unwrap();
    let fresh = |weight: &Tensor| {
        let weight = weight.copy().set_requires_grad(true);
        let params = vec![("w".to_owned(), weight.shallow_clone())];
        let options = AdamWOptions { lr: 1e-3, ..Default::default() };
        (AdamW::new(vec![ParamGroup { params, options }]).unwrap(), weight)
    };
    let steps = |optimizer: &mut AdamW, weight: &Tensor| {
        for _ in 0..5 {
            optimizer.zero_grad().unwrap();
            (weight * weight).sum(Kind::Float).backward();
            optimizer.step().unwrap();
        }
    };
    let start = Tensor::arange(1000, (Kind::Float, Device::Cpu)).sin().to_kind(Kind::BFloat16);
    let (mut optimizer, weight) = fresh(&start);
    steps(&mut optimizer, &weight);
    checkpoints.write(1, None, |f| f.tensors("optimizer", &optimizer.state())).unwrap();
    let (mut resumed, again) = fresh(&weight.detach());
    steps(&mut optimizer, &weight);

    let saved = checkpoints.newest_valid().unwrap().saved.unwrap();
    resumed.load_state(&saved.tensors("optimizer").unwrap()).unwrap();
    steps(&mut resumed, &again);
    assert!(again.equal(&weight), "resumed, it is the uninterrupted run");
}

#[test]
fn tensors_of_a_kind_that_cannot_be_saved_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::open(folder.path(), keep(1)).unwrap();
    let complex = Tensor::zeros([2], (Kind::ComplexFloat, Device::Cpu));
    let result = checkpoints.write(1, None, |f| f.tensors("x", &[("c".to_owned(), complex)]));
    assert!(result.unwrap_err().to_string().contains("`c` is ComplexFloat"));
}

//! `rlaif import trl` as its user runs it.

use std::{
    fs,
    process::{Command, Output},
};

use crate::{
    dpo::Place,
    support::{metrics, refusal, succeeded},
};

fn rlaif(place: &Place, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.current_dir(place.folder()).args(arguments).output().unwrap()
}

/// The configuration of a script becomes a run file, and the run file runs.
#[test]
fn a_scripts_configuration_is_run() {
    let place = Place::new();
    let yaml = "model_name_or_path: model\nlearning_rate: 1e-3\nbeta: 0.2\nmax_steps: 3\nuse_cpu: true\n\
                per_device_train_batch_size: 2\ngradient_accumulation_steps: 2\noptim: adafactor\n";
    fs::write(place.folder().join("dpo.yaml"), yaml).unwrap();
    let import = ["import", "trl", "dpo.yaml", "--trainer", "dpo", "--out", "dpo.toml"];
    let output = rlaif(&place, &import);
    succeeded(&output);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in [
        "not as in TRL: `optim`: always AdamW",
        "to be set: `data.train`",
        "rlaif dpo --config dpo.toml",
    ] {
        assert!(told.contains(part), "{told}");
    }
    succeeded(&rlaif(
        &place,
        &["dpo", "--config", "dpo.toml", "--out", "run", "--set", "data.train=pairs.jsonl"],
    ));
    let rows = metrics(&place.folder().join("run"));
    assert_eq!(rows.last().unwrap()["step"], 3);
    // 1e-3 falls linearly to 0, as by TRL's default.
    let rate = rows[1]["learning_rate"].as_f64().unwrap();
    assert!(rate < 1e-3 && rate > 1e-4, "{rate}");

    // The run file may have been edited since.
    let told = refusal(&rlaif(&place, &import), 2);
    assert!(told.contains("dpo.toml exists"), "{told}");
    fs::write(place.folder().join("dpo.yaml"), "betta: 1\n").unwrap();
    let told = refusal(&rlaif(&place, &import), 2);
    assert!(told.contains("did you mean `beta`?"), "{told}");
}

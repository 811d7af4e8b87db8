//! transformers and peft load the saved folders and compute the same outputs.
//!
//! Needs a Python with torch, transformers and peft: `RLAIF_PYTHON=/path/to/python`.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use rlaif_checkpoint::{
    AdapterConfig, CardSection, Checkpoint, DEFAULT_SHARD_BYTES, FolderWriter, ModelCard,
    read_json, read_json_if_present,
};
use serde_json::Value;

fn python(interpreter: &str, command: &str, folder: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/with_python.py");
    let output = Command::new(interpreter).arg(script).arg(command).arg(folder).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn save_again(from: &Path, to: &Path, shard_bytes: u64) {
    let mut folder = FolderWriter::create(to).unwrap();
    folder.weights(&Checkpoint::open(from).unwrap(), shard_bytes).unwrap();
    folder.json("config.json", &read_json::<Value>(&from.join("config.json")).unwrap()).unwrap();
    let generation = read_json_if_present::<Value>(&from.join("generation_config.json")).unwrap();
    folder.json("generation_config.json", &generation.unwrap()).unwrap();
    let card = ModelCard {
        title: "Saved again".to_owned(),
        license: Some("apache-2.0".to_owned()),
        base_model: vec!["some/base".to_owned(), "no".to_owned()],
        library_name: Some("transformers".to_owned()),
        tags: vec!["rlaif".to_owned(), "a: b".to_owned(), "1.0".to_owned()],
        sections: vec![CardSection { title: "Training".to_owned(), text: "None.".to_owned() }],
        ..ModelCard::default()
    };
    folder.card(&card).unwrap();
    folder.finish().unwrap();
}

#[test]
fn transformers_and_peft_load_what_is_saved() {
    let Ok(interpreter) = std::env::var("RLAIF_PYTHON") else {
        // Bypasses the output capture of the test harness, so that the line is shown.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED transformers_and_peft_load_what_is_saved: set RLAIF_PYTHON to a Python with \
             torch, transformers and peft"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    python(&interpreter, "make", path);

    save_again(&path.join("llama"), &path.join("saved_llama"), 3000);
    save_again(&path.join("t5"), &path.join("saved_t5"), DEFAULT_SHARD_BYTES);
    let mut adapter = FolderWriter::create(&path.join("saved_adapter")).unwrap();
    let config = AdapterConfig::read(&path.join("adapter")).unwrap();
    let weights = Checkpoint::open_adapter(&path.join("adapter")).unwrap();
    adapter.adapter(&config, &weights).unwrap();
    adapter.finish().unwrap();

    python(&interpreter, "check", path);
}

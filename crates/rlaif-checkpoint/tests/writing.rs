//! Written folders: read back by the `safetensors` crate, complete or absent.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use rlaif_checkpoint::{
    AdapterConfig, AdapterKey, CardSection, Checkpoint, CheckpointError, DEFAULT_SHARD_BYTES,
    Dtype, FolderWriter, ModelCard, TaskType, TensorBytes, TensorSource, TensorSpec, read_json,
    write_json, write_safetensors,
};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn tensors(sizes: &[(&str, Dtype, usize)]) -> BTreeMap<String, TensorBytes> {
    let tensor = |&(name, dtype, elements): &(&str, Dtype, usize)| {
        let bytes = (0..elements * dtype.size()).map(|i| (i * 7 + name.len()) as u8).collect();
        (name.to_owned(), TensorBytes { dtype, shape: vec![elements], bytes })
    };
    sizes.iter().map(tensor).collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A complete small model folder.
fn save(target: &Path, value: u8) -> Result<(), CheckpointError> {
    let weight = TensorBytes { dtype: Dtype::U8, shape: vec![1], bytes: vec![value] };
    let mut folder = FolderWriter::create(target)?;
    folder.weights(&BTreeMap::from([("w".to_owned(), weight)]), DEFAULT_SHARD_BYTES)?;
    folder.json("config.json", &json!({"value": value}))?;
    folder.finish()
}

fn saved(target: &Path) -> u8 {
    let mut byte = [0];
    Checkpoint::open(target).unwrap().read_into("w", &mut byte).unwrap();
    byte[0]
}

#[test]
fn the_safetensors_crate_reads_the_same_bytes() {
    let all = [
        ("f64", Dtype::F64, 3),
        ("f32", Dtype::F32, 5),
        ("f16", Dtype::F16, 3),
        ("bf16", Dtype::BF16, 1),
        ("i64", Dtype::I64, 2),
        ("i32", Dtype::I32, 2),
        ("i16", Dtype::I16, 3),
        ("i8", Dtype::I8, 3),
        ("u8", Dtype::U8, 1),
        ("bool", Dtype::Bool, 0),
    ];
    let source = tensors(&all);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let metadata = BTreeMap::from([("step".to_owned(), "3".to_owned())]);
    write_safetensors(&path, &source, &metadata).unwrap();

    let bytes = fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!((metadata["format"].as_str(), metadata["step"].as_str()), ("pt", "3"));
    let read = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.len(), all.len());
    for (name, tensor) in &source {
        let view = read.tensor(name).unwrap();
        assert_eq!(view.data(), tensor.bytes, "{name}");
        assert_eq!(view.shape(), tensor.shape, "{name}");
        assert_eq!(format!("{:?}", view.dtype()).to_uppercase(), tensor.dtype.name());
    }
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(header % 8, 0, "the data are aligned");
    for (name, info) in Checkpoint::open_file(&path).unwrap().tensors() {
        let data = read.tensor(name).unwrap().data();
        let offset = data.as_ptr() as usize - bytes.as_ptr() as usize;
        assert!(data.is_empty() || offset.is_multiple_of(info.dtype.size()), "{name} at {offset}");
    }
    assert_eq!(names_in(folder.path()), ["m.safetensors"]);
}

#[test]
fn a_pickled_checkpoint_becomes_safetensors() {
    let pickled = Checkpoint::open(&fixture("torch")).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("converted");
    let mut folder = FolderWriter::create(&target).unwrap();
    folder.weights(&pickled, 2000).unwrap();
    folder.finish().unwrap();

    let converted = Checkpoint::open(&target).unwrap();
    assert!(converted.files().count() > 1, "sharded");
    assert_eq!(converted.tensors().len(), pickled.tensors().len());
    for (name, info) in pickled.tensors() {
        let (mut a, mut b) = (vec![0; info.bytes as usize], vec![1; info.bytes as usize]);
        pickled.read_into(name, &mut a).unwrap();
        converted.read_into(name, &mut b).unwrap();
        assert_eq!(a, b, "{name}");
        assert_eq!(converted.tensors()[name].shape, info.shape);
    }
}

#[test]
fn shards_are_filled_in_order_and_indexed() {
    let source = tensors(&[
        ("a", Dtype::U8, 400),
        ("b", Dtype::U8, 600),
        ("c", Dtype::U8, 1),
        ("d", Dtype::U8, 5000),
        ("e", Dtype::U8, 10),
    ]);
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("model");
    let mut folder = FolderWriter::create(&target).unwrap();
    folder.weights(&source, 1000).unwrap();
    folder.finish().unwrap();

    let index: Value = read_json(&target.join("model.safetensors.index.json")).unwrap();
    assert_eq!(index["metadata"]["total_size"], 6011);
    let shard = |number: u32| format!("model-{number:05}-of-00004.safetensors");
    let want = json!({"a": shard(1), "b": shard(1), "c": shard(2), "d": shard(3), "e": shard(4)});
    assert_eq!(index["weight_map"], want);
    for number in 1..=4 {
        SafeTensors::deserialize(&fs::read(target.join(shard(number))).unwrap()).unwrap();
    }
    assert_eq!(Checkpoint::open(&target).unwrap().tensors().len(), 5);
}

#[test]
fn a_whole_folder() {
    let parent = tempfile::tempdir().unwrap();
    let from = parent.path().join("base");
    fs::create_dir(&from).unwrap();
    for name in ["tokenizer.json", "merges.txt", "chat_template.jinja", "unrelated.txt"] {
        fs::write(from.join(name), name).unwrap();
    }
    fs::create_dir(from.join("additional_chat_templates")).unwrap();
    for name in ["rag.jinja", "tools.jinja", "notes.txt"] {
        fs::write(from.join("additional_chat_templates").join(name), name).unwrap();
    }
    // A folder whose parents do not exist, with a trailing slash.
    let target = parent.path().join("runs/one/model/");
    let mut folder = FolderWriter::create(&target).unwrap();
    folder.weights(&tensors(&[("w", Dtype::F32, 2)]), DEFAULT_SHARD_BYTES).unwrap();
    folder.json("config.json", &json!({"model_type": "llama"})).unwrap();
    folder.json("generation_config.json", &json!({"eos_token_id": [1, 2]})).unwrap();
    fs::write(from.join("vocab.json"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    let error = folder.copy_tokenizer(&from).unwrap_err();
    assert!(matches!(error, CheckpointError::LfsPointer { .. }), "{error}");
    fs::remove_file(from.join("vocab.json")).unwrap();
    let copied = folder.copy_tokenizer(&from).unwrap();
    let named = ["rag", "tools"].map(|name| format!("additional_chat_templates/{name}.jinja"));
    assert_eq!(copied[..3], ["tokenizer.json", "merges.txt", "chat_template.jinja"]);
    assert_eq!(copied[3..], named);
    let section = CardSection { title: "Data".to_owned(), text: "None.".to_owned() };
    let card = ModelCard { title: "M".to_owned(), sections: vec![section], ..Default::default() };
    folder.card(&card).unwrap();
    assert!(!target.exists(), "nothing is there before the end");
    folder.finish().unwrap();
    assert_eq!(
        names_in(&target),
        [
            "README.md",
            "additional_chat_templates",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "model.safetensors",
            "tokenizer.json"
        ]
    );
    assert_eq!(names_in(&parent.path().join("runs/one")), ["model"]);
    assert_eq!(fs::read_to_string(target.join("merges.txt")).unwrap(), "merges.txt");
}

#[test]
fn an_adapter_as_peft_has_it() {
    let key = AdapterKey::LoraA { module: "encoder.q".to_owned() }.to_string();
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("adapter");
    let config = AdapterConfig::new(TaskType::Seq2SeqLm, 2.try_into().unwrap());
    let mut folder = FolderWriter::create(&target).unwrap();
    folder.adapter(&config, &tensors(&[(key.as_str(), Dtype::F32, 2)])).unwrap();
    folder.finish().unwrap();
    assert_eq!(names_in(&target), ["adapter_config.json", "adapter_model.safetensors"]);
    assert_eq!(AdapterConfig::read(&target).unwrap(), config);
    let read = Checkpoint::open_adapter(&target).unwrap();
    assert_eq!(read.tensors().keys().collect::<Vec<_>>(), [&key]);
    let error = Checkpoint::open(&target).unwrap_err();
    assert!(matches!(error, CheckpointError::NoWeights { .. }), "an adapter is no model: {error}");
}

// ── replacing ────────────────────────────────────────────────────────────────────────────

#[test]
fn replacing_keeps_what_is_not_weights() {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("model");
    let mut folder = FolderWriter::create(&target).unwrap();
    folder.weights(&tensors(&[("a", Dtype::U8, 9), ("b", Dtype::U8, 9)]), 10).unwrap();
    folder.json("config.json", &json!({})).unwrap();
    folder.finish().unwrap();
    fs::write(target.join("notes.txt"), "mine").unwrap();
    fs::write(target.join("tokenizer.json"), "{}").unwrap();
    fs::create_dir(target.join("logs")).unwrap();
    fs::write(target.join("logs/1"), "mine too").unwrap();

    save(&target, 2).unwrap();
    assert_eq!(saved(&target), 2);
    let want = ["config.json", "logs", "model.safetensors", "notes.txt", "tokenizer.json"];
    assert_eq!(names_in(&target), want, "old shards are gone, everything else is there");
    assert_eq!(fs::read_to_string(target.join("logs/1")).unwrap(), "mine too");
    assert_eq!(names_in(parent.path()), ["model"]);
}

#[test]
fn a_writer_that_is_dropped_changes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("model");
    save(&target, 1).unwrap();
    let mut folder = FolderWriter::create(&target).unwrap();
    folder.weights(&tensors(&[("w", Dtype::U8, 1)]), DEFAULT_SHARD_BYTES).unwrap();
    drop(folder);
    assert_eq!(saved(&target), 1);
    assert_eq!(names_in(parent.path()), ["model"]);
}

#[test]
fn one_writer_at_a_time() {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("model");
    let first = FolderWriter::create(&target).unwrap();
    let error = FolderWriter::create(&target).unwrap_err();
    assert!(matches!(error, CheckpointError::Busy { .. }), "{error}");
    first.finish().unwrap();
    save(&target, 1).unwrap();
}

#[test]
fn something_else_in_the_way_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("model");
    let other = parent.path().join("model.partial");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.txt"), "mine").unwrap();
    let error = save(&target, 1).unwrap_err();
    assert!(matches!(error, CheckpointError::InTheWay { .. }), "{error}");
    assert_eq!(names_in(&other), ["thesis.txt"]);

    // An empty folder looks like that of a writer killed at the very beginning.
    fs::remove_file(other.join("thesis.txt")).unwrap();
    save(&target, 1).unwrap();
    assert_eq!(names_in(parent.path()), ["model"]);
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link() {
    let parent = tempfile::tempdir().unwrap();
    let (real, link) = (parent.path().join("disk"), parent.path().join("model"));
    save(&real, 1).unwrap();
    fs::write(real.join("notes.txt"), "mine").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    save(&link, 2).unwrap();
    assert!(link.is_symlink());
    assert_eq!((saved(&real), saved(&link)), (2, 2));
    assert!(real.join("notes.txt").exists());
    assert_eq!(names_in(parent.path()), ["disk", "model"]);
}

// ── interrupted ──────────────────────────────────────────────────────────────────────────

#[cfg(unix)]
const CHILD: &str = "RLAIF_CHECKPOINT_TEST_CHILD";

/// Distinguishes a child that ran its part from one that found no such test.
#[cfg(unix)]
const CHILD_PASSED: i32 = 17;

/// Runs one test of this file in a process of its own, through a shell that may restrict it.
#[cfg(unix)]
fn run_child(test: &str, folder: &Path, shell: &str) -> std::process::ExitStatus {
    std::process::Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" --exact {test}")])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, folder)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
}

#[cfg(unix)]
#[test]
fn a_killed_writer_is_cleared_up_behind() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let mut folder = FolderWriter::create(Path::new(&folder)).unwrap();
        folder.weights(&tensors(&[("w", Dtype::U8, 1)]), DEFAULT_SHARD_BYTES).unwrap();
        std::process::abort();
    }
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("model");
    save(&target, 1).unwrap();
    let status = run_child("a_killed_writer_is_cleared_up_behind", &target, "ulimit -c 0;");
    assert!(!status.success());
    assert_eq!(names_in(parent.path()), ["model", "model.partial"], "the child was killed");
    assert_eq!(saved(&target), 1, "the model is still whole");
    save(&target, 2).unwrap();
    assert_eq!(saved(&target), 2);
    assert_eq!(names_in(parent.path()), ["model"]);
}

#[test]
fn killed_between_the_two_renames() {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("model");
    let previous = parent.path().join("model.previous.partial");
    save(&target, 1).unwrap();
    fs::write(target.join("notes.txt"), "mine").unwrap();
    fs::rename(&target, &previous).unwrap();

    let error = Checkpoint::open(&target).unwrap_err();
    assert!(error.to_string().contains("model.previous.partial"), "{error}");
    assert!(matches!(error, CheckpointError::Interrupted { .. }));
    // Even a writer that fails restores the old folder.
    drop(FolderWriter::create(&target).unwrap());
    assert_eq!(saved(&target), 1);

    fs::rename(&target, &previous).unwrap();
    save(&target, 2).unwrap();
    assert_eq!(saved(&target), 2);
    assert!(target.join("notes.txt").exists());
    assert_eq!(names_in(parent.path()), ["model"]);
}

#[test]
fn killed_after_the_renames() {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("model");
    let previous = parent.path().join("model.previous.partial");
    save(&previous, 1).unwrap();
    fs::write(previous.join("notes.txt"), "mine").unwrap();
    save(&target, 2).unwrap();
    assert_eq!(saved(&target), 2);
    assert_eq!(names_in(parent.path()), ["model"], "the old one is gone");
    assert!(target.join("notes.txt").exists());
}

// ── failures ─────────────────────────────────────────────────────────────────────────────

/// A source that fails, or gives a wrong number of bytes, at its second tensor.
struct Faulty {
    outcome: fn(&mut dyn Write) -> io::Result<()>,
    asked: Cell<usize>,
}

impl Faulty {
    fn new(outcome: fn(&mut dyn Write) -> io::Result<()>) -> Self {
        Self { outcome, asked: Cell::new(0) }
    }
}

impl TensorSource for Faulty {
    fn tensors(&self) -> Vec<TensorSpec> {
        let spec = |name: &str| TensorSpec { name: name.into(), dtype: Dtype::U8, shape: vec![4] };
        vec![spec("first"), spec("second")]
    }

    fn write(&self, _: &str, out: &mut dyn Write) -> io::Result<()> {
        self.asked.set(self.asked.get() + 1);
        if self.asked.get() == 1 { out.write_all(&[0; 4]) } else { (self.outcome)(out) }
    }
}

fn save_faulty(source: &Faulty) -> CheckpointError {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("model");
    save(&target, 1).unwrap();
    let mut folder = FolderWriter::create(&target).unwrap();
    let error = folder.weights(source, 4).unwrap_err();
    drop(folder);
    assert_eq!(saved(&target), 1);
    assert_eq!(names_in(parent.path()), ["model"], "nothing is left behind");

    let path = parent.path().join("single.safetensors");
    source.asked.set(0);
    write_safetensors(&path, source, &BTreeMap::new()).unwrap_err();
    assert_eq!(names_in(parent.path()), ["model"], "nothing is left behind");
    error
}

#[test]
fn a_source_that_fails() {
    let faulty = Faulty::new(|_| Err(io::Error::other("the device is gone")));
    match save_faulty(&faulty) {
        CheckpointError::Source { tensor, source } => {
            assert_eq!(
                (tensor.as_str(), source.to_string().as_str()),
                ("second", "the device is gone")
            );
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_source_that_gives_too_few_or_too_many_bytes() {
    for (faulty, bytes) in [
        (Faulty::new(|out| out.write_all(&[0; 3])), 3),
        (Faulty::new(|out| out.write_all(&[0; 5])), 5),
        // A source that ignores errors of its output.
        (
            Faulty::new(|out| {
                for byte in 0..5 {
                    let _ = out.write(&[byte]);
                }
                Ok(())
            }),
            5,
        ),
    ] {
        match save_faulty(&faulty) {
            CheckpointError::SourceBytes { tensor, expected: 4, found } => {
                assert_eq!((tensor.as_str(), found), ("second", bytes));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn tensors_and_names_that_cannot_be_stored() {
    struct Huge;
    impl TensorSource for Huge {
        fn tensors(&self) -> Vec<TensorSpec> {
            let spec =
                |n: &str| TensorSpec { name: n.into(), dtype: Dtype::U8, shape: vec![1 << 63] };
            vec![spec("a"), spec("b")]
        }

        fn write(&self, _: &str, _: &mut dyn Write) -> io::Result<()> {
            unreachable!("refused before")
        }
    }
    struct Named(&'static [&'static str]);
    impl TensorSource for Named {
        fn tensors(&self) -> Vec<TensorSpec> {
            let spec =
                |n: &&str| TensorSpec { name: (*n).into(), dtype: Dtype::U8, shape: vec![0] };
            self.0.iter().map(spec).collect()
        }

        fn write(&self, _: &str, _: &mut dyn Write) -> io::Result<()> {
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let write = |names| write_safetensors(&path, &Named(names), &BTreeMap::new()).unwrap_err();
    assert!(matches!(write(&["a", "a"]), CheckpointError::DuplicateTensor { .. }));
    assert!(matches!(write(&["__metadata__"]), CheckpointError::ReservedName { .. }));
    let error = write_safetensors(&path, &Huge, &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, CheckpointError::ShapeOverflow { .. }), "{error}");
    assert_eq!(names_in(folder.path()).len(), 0);

    let mut writer = FolderWriter::create(&folder.path().join("model")).unwrap();
    for name in ["../config.json", "a/b", "", ".", "..", "C:x", ".writing"] {
        let error = writer.json(name, &json!({})).unwrap_err();
        assert!(matches!(error, CheckpointError::FileName { .. }), "{name}: {error}");
    }
}

/// A file system of 4 MB in memory, which the test and no other process sees, fills up.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    if let Some(target) = std::env::var_os(CHILD) {
        fill_the_disk(Path::new(&target));
        std::process::exit(CHILD_PASSED);
    }
    let alone = ["--user", "--map-root-user", "--mount"];
    let parent = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=4m none \"$1\" && shift && exec \"$@\"";
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(alone).args(["sh", "-c", mount, "sh"]).arg(parent.path());
    if !unshare.arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: `unshare` cannot mount a file system here");
        return;
    }
    let mut child = std::process::Command::new("unshare");
    child.args(alone).args(["sh", "-c", mount, "sh"]).arg(parent.path());
    child.arg(std::env::current_exe().unwrap()).args(["--exact", "a_full_disk"]);
    let status = child.env(CHILD, parent.path().join("model")).status().unwrap();
    assert_eq!(status.code(), Some(CHILD_PASSED));
}

/// Fills the file system of `target`, then frees some space.
#[cfg(target_os = "linux")]
fn fill_the_disk(target: &Path) {
    let parent = target.parent().unwrap();
    let assert_full = |error: CheckpointError| {
        assert!(error.to_string().contains("free some space"), "{error}");
        let CheckpointError::Write { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), ErrorKind::StorageFull);
    };
    save(target, 1).unwrap();
    let mut folder = FolderWriter::create(target).unwrap();
    let source = tensors(&[("w", Dtype::U8, 5_000_000)]);
    assert_full(folder.weights(&source, DEFAULT_SHARD_BYTES).unwrap_err());
    drop(folder);
    assert_eq!(names_in(parent), ["model"], "nothing is left behind");

    // Now there is space for names only.
    let mut folder = FolderWriter::create(target).unwrap();
    let filler = fs::File::create(parent.join("filler")).unwrap();
    while (&filler).write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    let source = tensors(&[("w", Dtype::U8, 1)]);
    assert_full(folder.weights(&source, DEFAULT_SHARD_BYTES).unwrap_err());
    drop(folder);
    assert_full(write_json(&parent.join("config.json"), &json!({})).unwrap_err());
    assert_eq!(names_in(parent), ["filler", "model"], "nothing is left behind");
    assert_eq!(saved(target), 1);
}

/// The disk fills up while a large tensor is written: here, at a limit of the process.
#[cfg(unix)]
#[test]
fn a_limit_reached_midway() {
    if let Some(target) = std::env::var_os(CHILD) {
        let mut folder = FolderWriter::create(Path::new(&target)).unwrap();
        let source = tensors(&[("w", Dtype::U8, 5_000_000)]);
        let error = folder.weights(&source, DEFAULT_SHARD_BYTES).unwrap_err();
        let CheckpointError::Write { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), ErrorKind::FileTooLarge);
        drop(folder);
        std::process::exit(CHILD_PASSED);
    }
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("model");
    save(&target, 1).unwrap();
    let status = run_child("a_limit_reached_midway", &target, "trap '' XFSZ; ulimit -f 64;");
    assert_eq!(status.code(), Some(CHILD_PASSED));
    assert_eq!(names_in(parent.path()), ["model"], "nothing is left behind");
    assert_eq!(saved(&target), 1);
}

#[cfg(unix)]
#[test]
fn places_that_cannot_be_written_to() {
    use std::os::unix::fs::PermissionsExt;

    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "mine").unwrap();
    for target in [file.clone(), file.join("model"), PathBuf::from("/"), PathBuf::from("..")] {
        let error = save(&target, 1).unwrap_err();
        assert!(matches!(error, CheckpointError::Write { .. }), "{}: {error}", target.display());
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");

    let sealed = parent.path().join("sealed");
    fs::create_dir(&sealed).unwrap();
    fs::set_permissions(&sealed, fs::Permissions::from_mode(0o555)).unwrap();
    // The superuser may write there anyway, but not among the kernel's own files.
    let sealed = if fs::write(sealed.join("probe"), "").is_ok() { "/sys".into() } else { sealed };
    let error = save(&sealed.join("model"), 1).unwrap_err();
    assert!(matches!(error, CheckpointError::Write { .. }), "{error}");
    let error = write_json(&sealed.join("config.json"), &json!({})).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}

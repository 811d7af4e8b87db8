//! Files made to mislead: every one is refused with its own error.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use rlaif_checkpoint::{Checkpoint, CheckpointError, read_json};
use serde_json::{Value, json};
use tempfile::TempDir;

fn folder_with(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// A safetensors file of this header and as many bytes of data.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + data, 7);
    file
}

fn open_safetensors(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let folder = folder_with(&[("model.safetensors", bytes)]);
    Checkpoint::open(folder.path())
}

fn refuse_header(header: &str, data: usize) -> CheckpointError {
    let error = open_safetensors(&safetensors(header, data)).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "names the file: {error}");
    error
}

macro_rules! assert_refused {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {
        let error = $error;
        assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}");
    };
}

const TWO: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                      "b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#;

#[test]
fn the_header_of_the_hostile_ones_is_itself_fine() {
    assert_eq!(open_safetensors(&safetensors(TWO, 12)).unwrap().tensors().len(), 2);
}

#[test]
fn header_lengths_that_cannot_be() {
    for length in [1 << 63, u64::MAX, u64::MAX - 7, 1000, 100_000_001] {
        let mut file = length.to_le_bytes().to_vec();
        file.extend_from_slice(b"{}");
        assert_refused!(
            open_safetensors(&file).unwrap_err(),
            CheckpointError::HeaderLength { found, limit: 2, .. } if *found == length
        );
    }
}

#[test]
fn files_shorter_or_longer_than_the_header_says() {
    for (data, found) in [(11, 11), (13, 13), (0, 0)] {
        let header = TWO.len() as u64 + 8;
        assert_refused!(
            refuse_header(TWO, data),
            CheckpointError::FileLength { expected, found: length, .. }
                if *expected == header + 12 && *length == header + found
        );
    }
    assert_refused!(
        open_safetensors(b"short").unwrap_err(),
        CheckpointError::FileLength { expected: 8, found: 5, .. }
    );
    assert_refused!(
        open_safetensors(b"").unwrap_err(),
        CheckpointError::FileLength { expected: 8, found: 0, .. }
    );
}

#[test]
fn offsets_that_overlap_leave_gaps_or_run_backwards() {
    let tensor =
        |begin: u64, end: u64| json!({"dtype":"U8","shape":[4],"data_offsets":[begin,end]});
    let header = |b: Value| json!({"a": tensor(0, 4), "b": b}).to_string();
    assert_refused!(
        refuse_header(&header(tensor(2, 6)), 6),
        CheckpointError::NotContiguous { expected: 4, found: 2, .. }
    );
    assert_refused!(
        refuse_header(&header(tensor(0, 4)), 4),
        CheckpointError::NotContiguous { expected: 4, found: 0, .. }
    );
    assert_refused!(
        refuse_header(&header(tensor(6, 10)), 10),
        CheckpointError::NotContiguous { expected: 4, found: 6, .. }
    );
    assert_refused!(
        refuse_header(&json!({"a": tensor(4, 8)}).to_string(), 8),
        CheckpointError::NotContiguous { expected: 0, found: 4, .. }
    );
    assert_refused!(
        refuse_header(&header(tensor(8, 4)), 8),
        CheckpointError::OffsetOrder { tensor, begin: 8, end: 4, .. } if tensor == "b"
    );
}

#[test]
fn bytes_that_do_not_fit_type_and_shape() {
    let header = json!({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).to_string();
    assert_refused!(
        refuse_header(&header, 8),
        CheckpointError::ByteCount { tensor, expected: 12, found: 8, .. } if tensor == "w"
    );
}

#[test]
fn shapes_and_offsets_that_overflow() {
    for shape in [json!([u64::MAX]), json!([1u64 << 32, 1u64 << 32]), json!([1u64 << 62, 2, 1])] {
        let header = json!({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}});
        assert_refused!(
            refuse_header(&header.to_string(), 0),
            CheckpointError::ShapeOverflow { .. }
        );
    }
    let whole = u64::MAX - 1;
    let header = json!({"w": {"dtype": "U8", "shape": [whole], "data_offsets": [0, whole]}});
    assert_refused!(refuse_header(&header.to_string(), 0), CheckpointError::ShapeOverflow { .. });
}

#[test]
fn huge_shapes_with_a_zero_in_them_are_empty() {
    let header = json!({"w": {"dtype": "F32", "shape": [0, u64::MAX], "data_offsets": [0, 0]}});
    let checkpoint = open_safetensors(&safetensors(&header.to_string(), 0)).unwrap();
    assert_eq!(checkpoint.tensors()["w"].bytes, 0);
    checkpoint.read_into("w", &mut []).unwrap();
}

#[test]
fn names_that_occur_twice() {
    let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                    "a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    assert_refused!(
        refuse_header(twice, 2),
        CheckpointError::DuplicateTensor { tensor, .. } if tensor == "a"
    );
    for (header, twice) in [
        (r#"{"__metadata__":{"k":"1","k":"2"}}"#, "k"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#, "__metadata__"),
    ] {
        assert_refused!(
            refuse_header(header, 0),
            CheckpointError::DuplicateKey { key, .. } if key == twice
        );
    }
}

#[test]
fn headers_that_are_no_objects_of_tensors_name_the_field() {
    for (header, at) in [
        ("[]", "."),
        ("{", "."),
        ("", "."),
        ("{}x", "."),
        (r#"{"__metadata__":7}"#, "__metadata__"),
        (r#"{"__metadata__":{"k":7}}"#, "__metadata__.k"),
        (r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#, "w.shape[0]"),
        (r#"{"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,0]}}"#, "w.shape[0]"),
        (r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, "w.data_offsets"),
        (r#"{"w":{"shape":[1],"data_offsets":[0,4]}}"#, "w"),
        (r#"{"w":{"dtype":"F32","dtype":"F16","shape":[],"data_offsets":[0,4]}}"#, "w"),
    ] {
        assert_refused!(
            refuse_header(header, 0),
            CheckpointError::Json { field, .. } if field == at
        );
    }
}

#[test]
fn text_that_is_not_json_is_said_to_be_none_instead_of_a_field() {
    for (text, said) in [
        (r#"{"a": 1,}"#, "is not JSON: trailing comma at line 1 column 9"),
        ("{} {}", "is not JSON: trailing characters at line 1 column 4"),
        (r#"{"a": {"b": tru"#, "is not whole JSON: EOF while parsing a value at line 1 column 15"),
        ("", "is not whole JSON: EOF while parsing a value at line 1 column 0"),
        ("7", ": invalid type: integer `7`, expected a map at line 1 column 1"),
    ] {
        let folder = folder_with(&[("config.json", text.as_bytes())]);
        let path = folder.path().join("config.json");
        type Fields = BTreeMap<String, Value>;
        let error = read_json::<Fields>(&path).unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains("field"), "{error}");
    }
}

#[test]
fn unknown_dtypes() {
    let header =
        json!({"w": {"dtype": "F8_E5M2", "shape": [1], "data_offsets": [0, 1]}}).to_string();
    assert_refused!(
        refuse_header(&header, 1),
        CheckpointError::UnsupportedDtype { tensor, dtype, .. }
            if tensor == "w" && dtype == "F8_E5M2"
    );
}

#[test]
fn a_file_cut_after_it_was_opened_is_an_error() {
    let folder = folder_with(&[("model.safetensors", &safetensors(TWO, 12))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let cut = fs::OpenOptions::new().write(true).open(path).unwrap();
    cut.set_len(TWO.len() as u64 + 8 + 10).unwrap();
    checkpoint.read_into("a", &mut [0; 8]).unwrap();
    assert_refused!(
        checkpoint.read_into("b", &mut [0; 4]).unwrap_err(),
        CheckpointError::FileLength { .. }
    );
    let mut memory = [0; 4];
    assert_refused!(
        checkpoint.read_all_into([("b", memory.as_mut_slice())]).unwrap_err(),
        CheckpointError::FileLength { .. }
    );
}

#[test]
fn the_callers_mistakes() {
    let folder = folder_with(&[("model.safetensors", &safetensors(TWO, 12))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_refused!(
        checkpoint.read_into("c", &mut []).unwrap_err(),
        CheckpointError::UnknownTensor { tensor, .. } if tensor == "c"
    );
    assert_refused!(
        checkpoint.read_into("a", &mut [0; 4]).unwrap_err(),
        CheckpointError::BufferSize { expected: 8, found: 4, .. }
    );
}

// ── folders and indices ──────────────────────────────────────────────────────────────────

#[test]
fn folders_without_weights_say_what_is_there() {
    let folder = folder_with(&[("config.json", b"{}"), ("tf_model.h5", b"")]);
    let error = Checkpoint::open(folder.path()).unwrap_err();
    let text = error.to_string();
    for part in ["model.safetensors", "pytorch_model.bin", "config.json, tf_model.h5"] {
        assert!(text.contains(part), "{text}");
    }
    assert_refused!(error, CheckpointError::NoWeights { found, .. } if found.len() == 2);
    let missing = Checkpoint::open(&folder.path().join("nowhere")).unwrap_err();
    assert!(missing.is_not_found());
    let file = Checkpoint::open(&folder.path().join("config.json")).unwrap_err();
    assert_refused!(file, CheckpointError::Read { .. });
    assert_refused!(
        Checkpoint::open_file(folder.path()).unwrap_err(),
        CheckpointError::Read { .. }
    );
}

#[test]
fn safetensors_are_preferred_over_pickles() {
    let folder = folder_with(&[
        ("pytorch_model.bin", b"not looked at"),
        ("model.safetensors", &safetensors(TWO, 12)),
    ]);
    assert!(Checkpoint::open(folder.path()).is_ok());
}

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 498\n";

#[test]
fn git_lfs_pointers() {
    for name in ["model.safetensors", "pytorch_model.bin"] {
        let folder = folder_with(&[(name, POINTER)]);
        let error = Checkpoint::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("git lfs pull"), "{error}");
        assert_refused!(error, CheckpointError::LfsPointer { .. });
    }
    let folder = folder_with(&[("tokenizer.json", POINTER)]);
    assert_refused!(
        read_json::<Value>(&folder.path().join("tokenizer.json")).unwrap_err(),
        CheckpointError::LfsPointer { .. }
    );
}

#[test]
fn unknown_formats() {
    for bytes in [&b"GGUF\x03\0\0\0\0\0\0\0"[..], b"", b"\x80\x02}.", b"<!DOCTYPE html>"] {
        let folder = folder_with(&[("pytorch_model.bin", bytes)]);
        assert_refused!(
            Checkpoint::open(folder.path()).unwrap_err(),
            CheckpointError::UnknownFormat { .. }
        );
    }
}

fn open_index(index: &str, shards: &[(&str, &[u8])]) -> Result<Checkpoint, CheckpointError> {
    let folder = folder_with(shards);
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    Checkpoint::open(folder.path())
}

#[test]
fn missing_shards_and_tensors() {
    let shard = safetensors(TWO, 12);
    let map = |map: Value| json!({"metadata": {}, "weight_map": map}).to_string();
    let both = map(json!({"a": "one.safetensors", "c": "two.safetensors", "d": "two.safetensors"}));
    let error = open_index(&both, &[("one.safetensors", &shard)]).unwrap_err();
    assert_refused!(
        error,
        CheckpointError::MissingShard { index, shard, tensors: 2 }
            if shard == "two.safetensors" && index.ends_with("model.safetensors.index.json")
    );
    let lacking = map(json!({"a": "one.safetensors", "c": "one.safetensors"}));
    assert_refused!(
        open_index(&lacking, &[("one.safetensors", &shard)]).unwrap_err(),
        CheckpointError::TensorNotInShard { tensor, .. } if tensor == "c"
    );
    // The index decides which of two copies counts; a copy that it does not know is there as well.
    let placed = map(json!({"a": "one.safetensors", "b": "two.safetensors"}));
    let shards: [(&str, &[u8]); 2] = [("one.safetensors", &shard), ("two.safetensors", &shard)];
    let checkpoint = open_index(&placed, &shards).unwrap();
    assert!(checkpoint.file_of("b").unwrap().ends_with("two.safetensors"));
    let silent = map(json!({"x": "two.safetensors", "a": "one.safetensors"}));
    let other = safetensors(&TWO.replace("\"a\"", "\"x\""), 12);
    let shards: [(&str, &[u8]); 2] = [("one.safetensors", &shard), ("two.safetensors", &other)];
    assert_refused!(
        open_index(&silent, &shards).unwrap_err(),
        CheckpointError::DuplicateTensor { tensor, .. } if tensor == "b"
    );
}

#[test]
fn indices_that_point_elsewhere_or_are_malformed() {
    for shard in ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "c:\\x", "a\\b"] {
        let index = json!({"weight_map": {"w": shard}}).to_string();
        assert_refused!(
            open_index(&index, &[]).unwrap_err(),
            CheckpointError::ShardName { tensor, .. } if tensor == "w"
        );
    }
    for (index, at) in [
        (r#"{"weight_map": []}"#, "weight_map"),
        (r#"{"weight_map": {"w": 3}}"#, "weight_map.w"),
        (r#"{"metadata": {}}"#, "."),
        ("{", "."),
    ] {
        assert_refused!(
            open_index(index, &[]).unwrap_err(),
            CheckpointError::Json { field, .. } if field == at
        );
    }
    let twice = r#"{"weight_map": {"w": "a", "w": "b"}}"#;
    assert_refused!(
        open_index(twice, &[]).unwrap_err(),
        CheckpointError::DuplicateKey { key, .. } if key == "w"
    );
}

#[test]
fn json_errors_have_line_and_column() {
    let folder = folder_with(&[("config.json", b"{\n  \"a\": 1,\n  oops\n}")]);
    let error = read_json::<Value>(&folder.path().join("config.json")).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("line 3 column 3"), "{error}");
}

// ── pickles ──────────────────────────────────────────────────────────────────────────────

/// An archive as torch.save writes it.
fn archive(records: &[(&str, &[u8])]) -> Vec<u8> {
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in records {
        writer.start_file(format!("archive/{name}"), stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn open_archive(records: &[(&str, &[u8])]) -> Result<Checkpoint, CheckpointError> {
    let folder = folder_with(&[("pytorch_model.bin", &archive(records))]);
    Checkpoint::open(folder.path())
}

fn open_pickle(pickle: &[u8]) -> Result<Checkpoint, CheckpointError> {
    open_archive(&[("data.pkl", pickle), ("data/0", &[0; 16])])
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&[0x8a, 8]);
    out.extend_from_slice(&value.to_le_bytes());
}

fn integers(out: &mut Vec<u8>, values: &[u64]) {
    out.push(b'(');
    for &value in values {
        integer(out, value);
    }
    out.push(b't');
}

/// A pickle of `{"w": tensor}` over a storage of `numel` floats under the key "0".
fn pickled(numel: u64, offset: u64, shape: &[u64], stride: &[u64]) -> Vec<u8> {
    let mut p = b"\x80\x02}".to_vec();
    text(&mut p, "w");
    p.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(&mut p, "storage");
    p.extend_from_slice(b"ctorch\nFloatStorage\n");
    text(&mut p, "0");
    text(&mut p, "cpu");
    integer(&mut p, numel);
    p.extend_from_slice(b"tQ");
    integer(&mut p, offset);
    integers(&mut p, shape);
    integers(&mut p, stride);
    p.extend_from_slice(b"\x89}tRs.");
    p
}

#[test]
fn the_pickle_of_the_hostile_ones_is_itself_fine() {
    let checkpoint = open_pickle(&pickled(4, 1, &[3], &[1])).unwrap();
    assert_eq!(checkpoint.tensors()["w"].shape, [3]);
    checkpoint.read_into("w", &mut [1; 12]).unwrap();
}

#[test]
fn forbidden_globals_are_named_and_not_executed() {
    let proof = tempfile::tempdir().unwrap();
    let path = proof.path().join("executed");
    let command = format!("touch {}", path.display());
    let mut system = b"\x80\x02cposix\nsystem\n".to_vec();
    text(&mut system, &command);
    system.extend_from_slice(b"\x85R.");
    // The same as protocol 4 spells it, and as protocol 0 does.
    let mut stack = b"\x80\x04\x8c\x05posix\x8c\x06system\x93".to_vec();
    text(&mut stack, &command);
    stack.extend_from_slice(b"\x85R.");
    let instance = format!("(S'{command}'\niposix\nsystem\n.");
    let instance_alone = format!("(iposix\nsystem\n{command}.");
    for pickle in [&system[..], &stack, instance_alone.as_bytes()] {
        assert_refused!(
            open_pickle(pickle).unwrap_err(),
            CheckpointError::ForbiddenGlobal { global, .. } if global == "posix.system"
        );
    }
    assert_refused!(open_pickle(instance.as_bytes()).unwrap_err(), CheckpointError::Pickle { .. });
    for global in [
        "builtins.eval",
        "torch.load",
        "torch._utils._rebuild_wrapper_subclass",
        "torch.storage._load_from_bytes",
        "collections.defaultdict",
        "numpy.core.multiarray._reconstruct",
        "torch.nn.modules.linear.Linear",
    ] {
        let (module, name) = global.rsplit_once('.').unwrap();
        let pickle = format!("c{module}\n{name}\n.");
        let error = open_pickle(pickle.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("safetensors"), "says what to do: {error}");
        assert_refused!(
            error,
            CheckpointError::ForbiddenGlobal { global: named, .. } if named == global
        );
    }
    assert!(!path.exists(), "something was executed");
}

#[test]
fn tensors_outside_their_storage() {
    for (numel, offset, shape, stride) in [
        (4, 2, vec![3], vec![1]),
        (4, 0, vec![2, 2], vec![3, 1]),
        (4, 5, vec![], vec![]),
        // The pickle declares more data than the record holds.
        (1 << 40, 0, vec![5], vec![1]),
        (1 << 40, 1 << 39, vec![1], vec![1]),
    ] {
        assert_refused!(
            open_pickle(&pickled(numel, offset, &shape, &stride)).unwrap_err(),
            CheckpointError::OutsideStorage { available: 4, .. }
        );
    }
}

#[test]
fn shapes_strides_and_offsets_that_overflow() {
    const HUGE: u64 = i64::MAX as u64;
    for (offset, shape, stride) in [
        (0, vec![HUGE, HUGE], vec![0, 0]),
        (0, vec![3], vec![HUGE]),
        (0, vec![3, 3], vec![HUGE / 2, HUGE / 2]),
    ] {
        let error = open_pickle(&pickled(4, offset, &shape, &stride)).unwrap_err();
        assert!(
            matches!(
                error,
                CheckpointError::ShapeOverflow { .. } | CheckpointError::OutsideStorage { .. }
            ),
            "{error:?}"
        );
    }
    // A negative number, of which no size can be.
    assert_refused!(
        open_pickle(&pickled(4, u64::MAX, &[1], &[1])).unwrap_err(),
        CheckpointError::Pickle { .. }
    );
}

#[test]
fn views_that_repeat_a_few_elements_without_end() {
    assert_refused!(
        open_pickle(&pickled(4, 0, &[1 << 40], &[0])).unwrap_err(),
        CheckpointError::Expanded { tensor, .. } if tensor == "w"
    );
}

#[test]
fn malformed_pickles() {
    let nested = [&b"\x80\x02"[..], &b"]".repeat(1_000_000), b"."].concat();
    let tuples = [&b"\x80\x02)"[..], &b"\x85".repeat(1_000_000), b"."].concat();
    for pickle in [nested, tuples] {
        // Deep nesting costs no recursion; what comes out is not a state dict.
        assert_refused!(open_pickle(&pickle).unwrap_err(), CheckpointError::NotAStateDict { .. });
    }
    let long = [&b"\x80\x02c"[..], &[b'a'; 5000]].concat();
    let many = [pickled(4, 0, &[], &[1]), Vec::new()].concat();
    let ranks = pickled(4, 0, &[1; 65], &[1; 65]);
    for pickle in [
        &b""[..],
        b".",
        b"\x80\x01}.",
        b"\x80\x02",
        b"\x80\x02h\x05.",
        b"\x80\x02R.",
        b"\x80\x02))R.",
        b"\x80\x02}(Nu.",
        b"\x80\x02NNs.",
        b"\x80\x02t.",
        b"\x80\x02N(\x85.",
        b"\x80\x02NQ.",
        b"\x80\x02)Q.",
        b"\x80\x02NNb.",
        b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\x02X\xff\xff\xff\xff",
        b"\x80\x02X\x01\0\0\0\xff.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\nNNN\x87R.",
        b"\x80\x02\x81.",
        &long,
        &many,
        &ranks,
    ] {
        let error = open_pickle(pickle).unwrap_err();
        assert!(matches!(error, CheckpointError::Pickle { .. }), "{pickle:02x?}: {error:?}");
    }
}

#[test]
fn pickles_that_would_fill_the_memory() {
    // A memoized value costs three bytes each time, and is limited by count.
    let bomb = [&b"\x80\x02Nq\0("[..], &b"h\0".repeat(5_000_000), b"t."].concat();
    assert_refused!(open_pickle(&bomb).unwrap_err(), CheckpointError::TooLarge { .. });
    let long = [&b"\x80\x02X"[..], &(70u32 << 20).to_le_bytes(), &vec![b'a'; 70 << 20]].concat();
    assert_refused!(
        open_pickle(&long).unwrap_err(),
        CheckpointError::Pickle { .. } | CheckpointError::TooLarge { .. }
    );
}

#[test]
fn conjugated_views() {
    let mut pickle = pickled(4, 0, &[3], &[1]);
    pickle.truncate(pickle.len() - b"tRs.".len());
    pickle.push(b'}');
    text(&mut pickle, "conj");
    pickle.extend_from_slice(b"\x88stRs.");
    assert_refused!(
        open_pickle(&pickle).unwrap_err(),
        CheckpointError::Pickle { found, .. } if found.contains("conjugated")
    );
}

#[test]
fn archives_without_their_records_or_of_another_kind() {
    let pickle = pickled(4, 0, &[3], &[1]);
    assert_refused!(
        open_archive(&[("data.pkl", &pickle)]).unwrap_err(),
        CheckpointError::MissingRecord { record, .. } if record == "data/0"
    );
    assert_refused!(
        open_archive(&[("data/0", &[0; 16])]).unwrap_err(),
        CheckpointError::MissingRecord { record, .. } if record == "data.pkl"
    );
    let records: [(&str, &[u8]); 3] =
        [("data.pkl", &pickle), ("byteorder", b"big"), ("data/0", &[0; 16])];
    assert_refused!(
        open_archive(&records).unwrap_err(),
        CheckpointError::Record { record, found, .. } if record == "byteorder" && found == "`big`"
    );
    assert_refused!(
        open_archive(&[("data.pkl", &pickle), ("constants.pkl", b"")]).unwrap_err(),
        CheckpointError::Record { record, .. } if record == "archive/constants.pkl"
    );
    let whole = archive(&[("data.pkl", &pickle), ("data/0", &[0; 16])]);
    for length in [4, 30, whole.len() / 2, whole.len() - 1] {
        let folder = folder_with(&[("pytorch_model.bin", &whole[..length])]);
        assert_refused!(
            Checkpoint::open(folder.path()).unwrap_err(),
            CheckpointError::Zip { .. } | CheckpointError::UnknownFormat { .. }
        );
    }
}

/// Sets the compression method that an archive states for each of its records.
#[test]
fn compressed_records() {
    let mut file = archive(&[("data.pkl", &pickled(4, 0, &[3], &[1])), ("data/0", &[0; 16])]);
    for (signature, method) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
        let headers: Vec<usize> =
            (0..file.len() - 4).filter(|&at| &file[at..at + 4] == signature).collect();
        for at in headers {
            file[at + method] = 8;
        }
    }
    let folder = folder_with(&[("pytorch_model.bin", &file)]);
    assert_refused!(
        Checkpoint::open(folder.path()).unwrap_err(),
        CheckpointError::Record { found, .. } if found == "compressed"
    );
}

#[test]
fn legacy_files_cut_short() {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch_legacy/pytorch_model.bin");
    let whole = fs::read(fixture).unwrap();
    for length in [20, 100, whole.len() / 2, whole.len() - 1] {
        let folder = folder_with(&[("pytorch_model.bin", &whole[..length])]);
        let error = Checkpoint::open(folder.path()).unwrap_err();
        assert!(
            matches!(error, CheckpointError::Pickle { .. } | CheckpointError::FileLength { .. }),
            "{length}: {error:?}"
        );
    }
}

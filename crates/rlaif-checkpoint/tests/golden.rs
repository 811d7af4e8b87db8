//! Files that PyTorch and safetensors wrote, byte for byte.
//!
//! `fixtures/export_checkpoints.py` wrote both the files and `expected.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlaif_checkpoint::{Checkpoint, CheckpointError, Dtype, read_json};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    tensors: BTreeMap<String, ExpectedTensor>,
}

#[derive(Deserialize)]
struct ExpectedTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    hex: String,
}

impl ExpectedTensor {
    fn bytes(&self) -> Vec<u8> {
        let digits = self.hex.as_bytes().chunks(2);
        digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn expected() -> BTreeMap<String, ExpectedTensor> {
    let expected: Expected = read_json(&fixtures().join("expected.json")).unwrap();
    assert_eq!(expected.tensors.len(), 22, "the exporter and this test disagree");
    expected.tensors
}

fn assert_reads_as_expected(folder: &str) -> Checkpoint {
    let checkpoint = Checkpoint::open(&fixtures().join(folder)).unwrap();
    let expected = expected();
    let names: Vec<&String> = checkpoint.tensors().keys().collect();
    assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{folder}");

    let mut together: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, want) in &expected {
        let info = &checkpoint.tensors()[name];
        assert_eq!((info.dtype, &info.shape), (want.dtype, &want.shape), "{folder}: {name}");
        // Memory that is not zero, so that a byte which is not written shows.
        let mut bytes = vec![0xaa; info.bytes as usize];
        checkpoint.read_into(name, &mut bytes).unwrap();
        assert_eq!(bytes, want.bytes(), "{folder}: {name}");
        together.push((name, vec![0xaa; info.bytes as usize]));
    }
    for (name, want) in &expected {
        rows_are_parts_of_the_whole(&checkpoint, name, &want.bytes());
    }
    let targets = together.iter_mut().map(|(name, bytes)| (*name, bytes.as_mut_slice()));
    checkpoint.read_all_into(targets).unwrap();
    for (name, bytes) in together {
        assert_eq!(bytes, expected[name].bytes(), "{folder}: {name}, read together");
    }
    checkpoint
}

/// Any rows of the matrices of a tensor `[matrices, rows, columns]` are those of the whole tensor.
fn rows_are_parts_of_the_whole(checkpoint: &Checkpoint, name: &str, whole: &[u8]) {
    let info = &checkpoint.tensors()[name];
    let rows_into =
        |matrix, rows, bytes: &mut [u8]| checkpoint.read_rows_into(name, matrix, rows, bytes);
    let &[matrices, height, width] = info.shape.as_slice() else {
        let error = rows_into(0, 0..1, &mut [0; 4]).unwrap_err();
        assert!(matches!(error, CheckpointError::UnknownTensor { .. }), "{error}");
        return;
    };
    let row = width * info.dtype.size();
    for (matrix, start) in (0..matrices).flat_map(|m| (0..height).map(move |start| (m, start))) {
        let mut bytes = vec![0xaa; (height - start) * row];
        rows_into(matrix, start..height, &mut bytes).unwrap();
        let begin = (matrix * height + start) * row;
        assert_eq!(bytes, whole[begin..begin + bytes.len()], "{name} {matrix} {start}");
        assert!(rows_into(matrix, start..height + 1, &mut bytes).is_err());
        assert!(rows_into(matrix, start..height, &mut bytes[1..]).is_err());
    }
    assert!(rows_into(matrices, 0..height, &mut vec![0; height * row]).is_err());
}

#[test]
fn safetensors_whole() {
    let checkpoint = assert_reads_as_expected("safetensors");
    assert_eq!(checkpoint.metadata()["format"], "pt");
    assert_eq!(checkpoint.files().count(), 1);
}

#[test]
fn safetensors_sharded() {
    let checkpoint = assert_reads_as_expected("safetensors_sharded");
    assert_eq!(checkpoint.files().count(), 2);
    let file = checkpoint.file_of("scalar").unwrap();
    assert!(file.ends_with("model-00001-of-00002.safetensors"), "{}", file.display());
}

#[test]
fn torch_zip() {
    assert_reads_as_expected("torch");
}

#[test]
fn torch_zip_with_pickle_protocol_4() {
    assert_reads_as_expected("torch_protocol4");
}

#[test]
fn torch_legacy() {
    assert_reads_as_expected("torch_legacy");
}

#[test]
fn torch_sharded() {
    let checkpoint = assert_reads_as_expected("torch_sharded");
    assert_eq!(checkpoint.files().count(), 2);
}

#[test]
fn torch_state_dict_of_a_module_with_metadata() {
    let checkpoint = Checkpoint::open(&fixtures().join("torch_module")).unwrap();
    let mut weight = [0; 8];
    checkpoint.read_into("weight", &mut weight).unwrap();
    assert_eq!(weight[..], [2f32.to_le_bytes(), 3f32.to_le_bytes()].concat());
    assert_eq!(checkpoint.tensors().len(), 2);
}

#[test]
fn refused_by_name() {
    let open = |name: &str| Checkpoint::open_file(&fixtures().join("refused").join(name));
    for (file, name) in [
        ("float8.bin", "float8_e4m3fn"),
        ("complex.bin", "complex64"),
        ("float8.safetensors", "F8_E4M3"),
    ] {
        match open(file).unwrap_err() {
            CheckpointError::UnsupportedDtype { tensor, dtype, .. } => {
                assert_eq!((tensor.as_str(), dtype.as_str()), ("w", name));
            }
            other => panic!("{file}: {other}"),
        }
    }
    match open("training.bin").unwrap_err() {
        CheckpointError::NotAStateDict { entry, found, .. } => {
            assert!(entry == "`state_dict`" || entry == "`epoch`", "{entry}");
            assert!(found == "a dict" || found == "an integer", "{found}");
        }
        other => panic!("{other}"),
    }
    match open("module.bin").unwrap_err() {
        CheckpointError::ForbiddenGlobal { global, .. } => {
            assert_eq!(global, "torch.nn.modules.linear.Linear");
        }
        other => panic!("{other}"),
    }
    match open("script.bin").unwrap_err() {
        CheckpointError::Record { record, .. } => assert!(record.ends_with("constants.pkl")),
        other => panic!("{other}"),
    }
}

#[test]
fn threads_share_one_checkpoint() {
    let checkpoint = Checkpoint::open(&fixtures().join("torch")).unwrap();
    let expected = expected();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (name, want) in &expected {
                    let mut bytes = vec![0xaa; want.bytes().len()];
                    checkpoint.read_into(name, &mut bytes).unwrap();
                    assert_eq!(bytes, want.bytes(), "{name}");
                }
            });
        }
    });
}

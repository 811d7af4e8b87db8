//! No input makes a reader panic or allocate more memory than the file warrants.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;
use rlaif_checkpoint::{AdapterConfig, AdapterKey, Checkpoint};

/// Opens bytes as a file of this name, and reads as much as possible.
fn exercise(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), bytes).unwrap();
    read_what_can_be_read(folder.path());
}

fn read_what_can_be_read(folder: &Path) {
    let Ok(checkpoint) = Checkpoint::open(folder) else { return };
    for (name, info) in checkpoint.tensors() {
        if info.bytes < 1 << 20 {
            let _ = checkpoint.read_into(name, &mut vec![0; info.bytes as usize]);
        }
    }
}

fn fixture(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)).unwrap()
}

fn fixtures() -> &'static [(&'static str, Vec<u8>)] {
    static FIXTURES: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
    FIXTURES.get_or_init(|| {
        vec![
            ("model.safetensors", fixture("safetensors/model.safetensors")),
            ("pytorch_model.bin", fixture("torch_module/pytorch_model.bin")),
            ("pytorch_model.bin", fixture("torch/pytorch_model.bin")),
            ("pytorch_model.bin", fixture("torch_protocol4/pytorch_model.bin")),
            ("pytorch_model.bin", fixture("torch_legacy/pytorch_model.bin")),
            (
                "model.safetensors.index.json",
                fixture("safetensors_sharded/model.safetensors.index.json"),
            ),
        ]
    })
}

/// The opcodes that the unpickler supports, so that random programs get far.
fn opcode() -> impl Strategy<Value = Vec<u8>> {
    let plain = prop::sample::select(b"N\x88\x89)\x85\x86\x87t(]ae}suRbQ.\x94\x93".to_vec());
    prop_oneof![
        8 => plain.prop_map(|op| vec![op]),
        2 => any::<u8>().prop_map(|n| vec![b'K', n % 4]),
        2 => (0u8..8).prop_map(|n| vec![b'q', n]),
        2 => (0u8..8).prop_map(|n| vec![b'h', n]),
        1 => any::<i32>().prop_map(|n| [&b"J"[..], &n.to_le_bytes()].concat()),
        1 => any::<[u8; 8]>().prop_map(|n| [&b"\x8a\x08"[..], &n].concat()),
        2 => Just(b"X\x07\0\0\0storage".to_vec()),
        2 => Just(b"\x8c\x010".to_vec()),
        1 => Just(b"ctorch\nFloatStorage\n".to_vec()),
        1 => Just(b"ctorch\nfloat32\n".to_vec()),
        1 => Just(b"ctorch.storage\nUntypedStorage\n".to_vec()),
        1 => Just(b"ccollections\nOrderedDict\n".to_vec()),
        1 => Just(b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec()),
        1 => Just(b"ctorch._utils\n_rebuild_tensor_v3\n".to_vec()),
        1 => Just(b"ctorch._utils\n_rebuild_parameter\n".to_vec()),
    ]
}

fn zipped(pickle: &[u8]) -> Vec<u8> {
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in [("a/data.pkl", pickle), ("a/data/0", &[0; 16])] {
        writer.start_file(name, stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for name in ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"] {
            exercise(name, &bytes);
        }
        exercise("pytorch_model.bin", &[b"PK\x03\x04", bytes.as_slice()].concat());
        let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
        exercise("pytorch_model.bin", &[&magic[..], &bytes].concat());
    }

    #[test]
    fn any_header(json in ".{0,200}", data in 0usize..64) {
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(json.as_bytes());
        file.resize(file.len() + data, 0);
        exercise("model.safetensors", &file);
    }

    #[test]
    fn any_tensors(
        tensors in prop::collection::vec(
            (
                "[ab]", prop::sample::select(vec!["F32", "U8", "F64", "F4"]),
                prop::collection::vec(prop_oneof![0u64..5, any::<u64>()], 0..4),
                prop_oneof![0u64..40, any::<u64>()], prop_oneof![0u64..40, any::<u64>()],
            ),
            0..4,
        ),
        data in 0usize..64,
    ) {
        let entries: Vec<String> = tensors
            .iter()
            .map(|(name, dtype, shape, begin, end)| {
                format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
            })
            .collect();
        let header = format!("{{{}}}", entries.join(","));
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.resize(file.len() + data, 0);
        exercise("model.safetensors", &file);
    }

    #[test]
    fn any_pickle(program in prop::collection::vec(opcode(), 0..60)) {
        exercise("pytorch_model.bin", &zipped(&[b"\x80\x02", program.concat().as_slice()].concat()));
    }

    #[test]
    fn any_index(map in prop::collection::btree_map(".{0,10}", ".{0,10}", 0..5)) {
        let index = serde_json::json!({"weight_map": map}).to_string();
        exercise("pytorch_model.bin.index.json", index.as_bytes());
    }

    #[test]
    fn any_adapter_config(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        field in "(r|lora_alpha|target_modules|rank_pattern|layers_to_transform|bias|[a-z]{3})",
        value in "(null|true|-?[0-9]{1,30}|\"[^\"\\\\]{0,20}\"|\\[\\]|\\{\"[(*+q]{1,4}\":[0-9]\\})",
        key in ".{0,60}",
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter_config.json");
        fs::write(&path, bytes).unwrap();
        let _ = AdapterConfig::read(folder.path());
        let text = format!(r#"{{"peft_type":"LORA","target_modules":["q"],"{field}":{value}}}"#);
        fs::write(&path, text).unwrap();
        if let Ok(config) = AdapterConfig::read(folder.path()) {
            let rules = config.rules().unwrap();
            let _ = (rules.targets(&key), rules.rank(&key), rules.scaling(&key));
        }
        let key = format!("base_model.model.{key}");
        if let Some(parsed) = AdapterKey::parse(&key) {
            prop_assert_eq!(parsed.to_string(), key);
        }
    }

    /// Valid files with bytes changed, removed or repeated.
    #[test]
    fn mutations_of_valid_files(
        which in 0usize..6,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
    ) {
        let (name, bytes) = &fixtures()[which];
        let mut bytes = bytes.clone();
        for (at, value, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => bytes.truncate(at),
                _ => {
                    let end = (at + usize::from(value)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        exercise(name, &bytes);
    }
}

/// Every byte of the header and of the pickle, changed to each of a few values.
#[test]
fn every_byte_flipped() {
    for (name, bytes) in &fixtures()[..2] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        // In place: rewriting the whole file each time would cost a flush to the disk.
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let mut set = |at: usize, value: u8| {
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[value]).unwrap();
        };
        for (at, &original) in bytes.iter().enumerate().take(2500) {
            for value in [0, 0xff, original ^ 1, original ^ 0x80] {
                set(at, value);
                read_what_can_be_read(folder.path());
            }
            set(at, original);
        }
    }
}

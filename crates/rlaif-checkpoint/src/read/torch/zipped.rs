//! The format of `torch.save` since PyTorch 1.6: a zip archive of uncompressed records.
//!
//! `{root}/data.pkl` describes the tensors, `{root}/data/{key}` are the storages, `{root}/byteorder`
//! says how they are written. Layout: `torch/csrc/jit/serialization` ("PyTorchFileFormat").

use std::collections::HashMap;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::super::contents::Contents;
use super::super::positioned::Shard;
use super::unpickle::unpickle;
use super::{Stored, place};
use crate::CheckpointError;

const PICKLE: &str = "data.pkl";

pub(in super::super) fn read_zip(shard: &Shard) -> Result<Contents, CheckpointError> {
    let file = shard.path();
    let records = records(shard)?;
    let missing = |record: &str| CheckpointError::MissingRecord {
        file: file.to_owned(),
        record: record.to_owned(),
    };
    let pickle = *records.get(PICKLE).ok_or_else(|| missing(PICKLE))?;
    if let Some(order) = records.get("byteorder") {
        let mut bytes = Vec::new();
        let mut section = shard.section(order.begin, order.begin + order.bytes).take(16);
        section
            .read_to_end(&mut bytes)
            .map_err(|source| CheckpointError::Read { path: file.to_owned(), source })?;
        if bytes != b"little" {
            return Err(CheckpointError::Record {
                file: file.to_owned(),
                record: "byteorder".to_owned(),
                expected: "`little`".to_owned(),
                found: format!("`{}`", String::from_utf8_lossy(&bytes)),
            });
        }
    }
    let section = shard.section(pickle.begin, pickle.begin + pickle.bytes);
    let pickle = unpickle(file, &mut BufReader::new(section), &mut 0)?;
    let storages = records
        .into_iter()
        .filter_map(|(name, stored)| Some((name.strip_prefix("data/")?.to_owned(), stored)))
        .collect();
    place(file, &pickle, &storages)
}

/// The archive's records by their name within its root folder.
fn records(shard: &Shard) -> Result<HashMap<String, Stored>, CheckpointError> {
    let file = shard.path();
    let zip = |source: zip::result::ZipError| CheckpointError::Zip {
        file: file.to_owned(),
        source: source.into(),
    };
    let mut archive = ZipArchive::new(BufReader::new(shard.file())).map_err(zip)?;
    refuse_torch_script(file, &archive)?;
    let mut all = HashMap::new();
    let mut root = None;
    for index in 0..archive.len() {
        let record = archive.by_index_raw(index).map_err(zip)?;
        let name = record.name().map_err(zip)?.into_owned();
        let refuse = |expected: &str, found: String| CheckpointError::Record {
            file: file.to_owned(),
            record: name.clone(),
            expected: expected.to_owned(),
            found,
        };
        if record.compression() != CompressionMethod::Stored {
            return Err(refuse("records uncompressed", "compressed".to_owned()));
        }
        if record.encrypted() {
            return Err(refuse("records in the clear", "encrypted".to_owned()));
        }
        let (begin, bytes) = (record.data_start().unwrap_or(u64::MAX), record.size());
        if begin.checked_add(bytes).is_none_or(|end| end > shard.len()) {
            let found = format!("{bytes} bytes from byte {begin} on, beyond the end of the file");
            return Err(refuse("records within the file", found));
        }
        if let Some(folder) = name.strip_suffix("/data.pkl").filter(|root| !root.contains('/')) {
            root = Some(folder.to_owned());
        }
        all.insert(name, Stored { begin, bytes });
    }
    let root = root.ok_or_else(|| CheckpointError::MissingRecord {
        file: file.to_owned(),
        record: PICKLE.to_owned(),
    })?;
    Ok(all
        .into_iter()
        .filter_map(|(name, stored)| {
            let name = name.strip_prefix(&root)?.strip_prefix('/')?.to_owned();
            Some((name, stored))
        })
        .collect())
}

/// A TorchScript module is an archive of the same kind, and is a program.
fn refuse_torch_script<R: Read + Seek>(
    file: &Path,
    archive: &ZipArchive<R>,
) -> Result<(), CheckpointError> {
    let mut names = (0..archive.len()).filter_map(|index| archive.name_for_index(index)?.ok());
    match names.find(|name| name.ends_with("/constants.pkl")) {
        None => Ok(()),
        Some(name) => Err(CheckpointError::Record {
            file: file.to_owned(),
            record: name.into_owned(),
            expected: "no such record for a state dict".to_owned(),
            found: "part of a TorchScript program".to_owned(),
        }),
    }
}

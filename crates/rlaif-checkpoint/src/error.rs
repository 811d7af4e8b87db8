//! Errors of reading and writing a model folder.

use std::io;
use std::path::PathBuf;

use rlaif_core::{Fault, is_bad_input_file};

use crate::Dtype;

/// Errors of reading and writing the files of a model folder.
///
/// One variant per failure. Each names the file, the tensor or field if there is one, the expected
/// and the found value, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file or folder could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A folder holds no weights under any of the usual names.
    #[error(
        "`{}` holds no weights: looked for {}; found {}; download one of those files, or convert \
         what is there to safetensors",
        folder.display(), looked_for.join(", "), list(found, "nothing")
    )]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// File names looked for, in order.
        looked_for: &'static [&'static str],
        /// The names of the files in the folder.
        found: Vec<String>,
    },
    /// A clone without Git LFS left a pointer where the file should be.
    #[error(
        "`{}` is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or \
         download the file again", file.display()
    )]
    LfsPointer {
        /// The pointer.
        file: PathBuf,
    },
    /// A GGUF file is damaged, or has a part that is not supported.
    #[error("`{}`: {place} should be {expected}, found {found}", file.display())]
    Gguf {
        /// The file.
        file: PathBuf,
        /// The key, tensor or part of the file.
        place: String,
        /// The expected value.
        expected: String,
        /// The value found.
        found: String,
    },
    /// A weights file is in none of the known formats.
    #[error(
        "`{}` is neither safetensors nor a file that torch.save wrote: expected a zip archive or \
         the magic number of the older format, found the bytes {found:02x?}; convert it to \
         safetensors", file.display()
    )]
    UnknownFormat {
        /// The file.
        file: PathBuf,
        /// The first bytes.
        found: Vec<u8>,
    },
    /// JSON that cannot be parsed, or a field of the wrong type; the source has line and column.
    #[error("`{}`{}", file.display(), said_of_json(field, source))]
    Json {
        /// The file.
        file: PathBuf,
        /// The path of the field, `.` for the whole document.
        field: String,
        /// The parser's error: expected and found, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A file is larger than any valid file of its kind.
    #[error(
        "`{}` has {found} bytes of {what}, more than the limit of {limit}; check that it is the \
         right file",
        file.display()
    )]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The part of the file.
        what: &'static str,
        /// The limit, in bytes or entries.
        limit: u64,
        /// The size of that part.
        found: u64,
    },

    /// A safetensors header states an impossible length.
    #[error(
        "`{}` states a header of {found} bytes, but at most {limit} are possible; the file is \
         truncated or not a safetensors file: download it again",
        file.display()
    )]
    HeaderLength {
        /// The file.
        file: PathBuf,
        /// The largest possible length: the rest of the file, or 100 MB.
        limit: u64,
        /// The stated length.
        found: u64,
    },
    /// A file does not have the length that its header implies.
    #[error(
        "`{}` has {found} bytes, but its header implies {expected}: it is {}; download it again",
        file.display(), if found < expected { "truncated" } else { "followed by other data" }
    )]
    FileLength {
        /// The file.
        file: PathBuf,
        /// Bytes that the header implies.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// A tensor name that occurs twice.
    #[error("`{}` names the tensor `{tensor}` twice; a name must be unique", file.display())]
    DuplicateTensor {
        /// The file.
        file: PathBuf,
        /// The name.
        tensor: String,
    },
    /// A key that occurs twice in a JSON object.
    #[error("`{}` has the key `{key}` twice in `{object}`; a key must be unique", file.display())]
    DuplicateKey {
        /// The file.
        file: PathBuf,
        /// The object within the file.
        object: &'static str,
        /// The key.
        key: String,
    },
    /// An unsupported element type.
    #[error(
        "tensor `{tensor}` of `{}` has the dtype {dtype}, which is not supported (supported: F64, \
         F32, F16, BF16, I64, I32, I16, I8, U8, BOOL); convert the checkpoint, for example to \
         bfloat16", file.display()
    )]
    UnsupportedDtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type's name as the file spells it.
        dtype: String,
    },
    /// A shape whose size in bytes exceeds 64 bits.
    #[error(
        "tensor `{tensor}` of `{}` has the impossible shape {shape:?} of {dtype}: it exceeds 2^64 \
         bytes; the file is corrupted", file.display()
    )]
    ShapeOverflow {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The element type.
        dtype: Dtype,
        /// The stated shape.
        shape: Vec<u64>,
    },
    /// Offsets that contradict the shape.
    #[error(
        "tensor `{tensor}` of `{}`: {dtype} of shape {shape:?} takes {expected} bytes, but its \
         offsets span {found}; the file is corrupted", file.display()
    )]
    ByteCount {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The element type.
        dtype: Dtype,
        /// The shape.
        shape: Vec<usize>,
        /// Bytes by type and shape.
        expected: u64,
        /// Bytes by offsets.
        found: u64,
    },
    /// Offsets that end before they begin.
    #[error(
        "tensor `{tensor}` of `{}` has offsets that end ({end}) before they begin ({begin}); the \
         file is corrupted", file.display()
    )]
    OffsetOrder {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first byte.
        begin: u64,
        /// One past its last byte.
        end: u64,
    },
    /// Tensors that overlap, or bytes between tensors.
    #[error(
        "tensor `{tensor}` of `{}` begins at byte {found} of the data, but the one before it ends \
         at {expected}: they {}; the file is corrupted",
        file.display(), if found < expected { "overlap" } else { "leave a gap" }
    )]
    NotContiguous {
        /// The file.
        file: PathBuf,
        /// The later of the two tensors.
        tensor: String,
        /// The required first byte.
        expected: u64,
        /// The stated first byte.
        found: u64,
    },

    /// A shard that the index names does not exist.
    #[error(
        "`{shard}` is missing, although `{}` places {tensors} tensors in it; download it",
        index.display()
    )]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The missing file's name.
        shard: String,
        /// Number of tensors that the index places in the shard.
        tensors: usize,
    },
    /// An index that names something other than a file beside it.
    #[error(
        "`{}` places `{tensor}` in `{shard}`: expected the name of a file in the same folder",
        index.display()
    )]
    ShardName {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The entry of the index.
        shard: String,
    },
    /// A shard lacks a tensor that the index places in it.
    #[error(
        "`{shard}` lacks the tensor `{tensor}` that `{}` places in it; index and shards come from \
         different exports: download them again",
        index.display()
    )]
    TensorNotInShard {
        /// The index.
        index: PathBuf,
        /// The shard's name.
        shard: String,
        /// The tensor.
        tensor: String,
    },

    /// The zip archive around a pickled checkpoint cannot be read.
    #[error("`{}` is not a readable zip archive: {source}; download it again", file.display())]
    Zip {
        /// The file.
        file: PathBuf,
        /// The archive reader's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An archive without a record that every torch.save file has.
    #[error(
        "`{}` has no record `{record}`; it was not written by torch.save, or is incomplete",
        file.display()
    )]
    MissingRecord {
        /// The file.
        file: PathBuf,
        /// The record's name within the archive.
        record: String,
    },
    /// A record of the archive that cannot be read in place.
    #[error(
        "record `{record}` of `{}` is {found}, but torch.save writes {expected}; save the \
         checkpoint again, best as safetensors", file.display()
    )]
    Record {
        /// The file.
        file: PathBuf,
        /// The record's name within the archive.
        record: String,
        /// The layout that torch.save writes.
        expected: String,
        /// The layout found.
        found: String,
    },
    /// A pickle that imports something other than tensors need. Nothing was executed.
    #[error(
        "`{}` imports `{global}`, which a file of weights does not need and which could run any \
         code; nothing was executed. If you trust the file, load it in PyTorch and save only \
         `model.state_dict()` as safetensors",
        file.display()
    )]
    ForbiddenGlobal {
        /// The file.
        file: PathBuf,
        /// The module and name.
        global: String,
    },
    /// A malformed pickle.
    #[error(
        "`{}` is not a pickle of tensors: at byte {offset} expected {expected}, found {found}; \
         download it again, or convert it to safetensors",
        file.display()
    )]
    Pickle {
        /// The file.
        file: PathBuf,
        /// Byte within the pickle.
        offset: u64,
        /// The expected content.
        expected: &'static str,
        /// The content found.
        found: String,
    },
    /// A pickle of something other than a mapping from names to tensors.
    #[error(
        "`{}` is not a state dict: {entry} is {found}, not a tensor; save only \
         `model.state_dict()`",
        file.display()
    )]
    NotAStateDict {
        /// The file.
        file: PathBuf,
        /// The entry, or the whole pickle.
        entry: String,
        /// The type found.
        found: &'static str,
    },
    /// A tensor outside its storage.
    #[error(
        "tensor `{tensor}` of `{}` reaches element {needed} of a storage of {available}; the file \
         is corrupted", file.display()
    )]
    OutsideStorage {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Elements that shape, strides and offset need.
        needed: u64,
        /// Elements in the storage.
        available: u64,
    },
    /// A view that expands a few stored elements beyond the limit.
    #[error(
        "tensor `{tensor}` of `{}` repeats stored elements to {found} bytes, more than the {limit} \
         that such a view may take; save it with `.contiguous()`", file.display()
    )]
    Expanded {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The most that an expanded view may take, in bytes.
        limit: u64,
        /// Bytes of the expanded view.
        found: u64,
    },

    /// A setting of an adapter that would change the result and is not implemented.
    #[error(
        "`{}` sets `{field}` to {found}, which is not implemented: expected {expected}. {}",
        file.display(), without_it(found)
    )]
    Unhonoured {
        /// The adapter's configuration.
        file: PathBuf,
        /// The field.
        field: String,
        /// The value, as JSON.
        found: String,
        /// Values that are implemented.
        expected: &'static str,
    },
    /// A pattern of an adapter's configuration that is not a valid regular expression, or that uses
    /// features of Python's that go beyond regular languages (look-around, back-references).
    #[error(
        "`{}`, field `{field}`: the pattern `{pattern}` cannot be used: {source}; list the modules \
         by name instead", file.display()
    )]
    Pattern {
        /// The adapter's configuration.
        file: PathBuf,
        /// The field.
        field: &'static str,
        /// The pattern.
        pattern: String,
        /// The parser's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A file or folder could not be written. No partial file is left behind.
    #[error("cannot write `{}`: {source}{}", path.display(), writing_advice(source))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The source of a tensor that is being written failed.
    #[error("the bytes of tensor `{tensor}` could not be read: {source}")]
    Source {
        /// The tensor.
        tensor: String,
        /// The error of the source.
        #[source]
        source: io::Error,
    },
    /// The source of a tensor gave too few or too many bytes: a bug in the source.
    #[error("tensor `{tensor}` takes {expected} bytes, but its source gave {found}")]
    SourceBytes {
        /// The tensor.
        tensor: String,
        /// Bytes by type and shape.
        expected: u64,
        /// Bytes given before the source stopped or was stopped.
        found: u64,
    },
    /// A tensor has the one name that a safetensors file cannot store.
    #[error("a tensor cannot be named `{tensor}`: safetensors keeps its metadata there")]
    ReservedName {
        /// The name.
        tensor: String,
    },
    /// A file was to be written under an invalid name: a bug in the caller.
    #[error("`{name}` is not a file name in a model folder; give a name without separators")]
    FileName {
        /// The name.
        name: String,
    },
    /// Another process writes the same folder.
    #[error(
        "`{}` is being written by another process; wait for it, or choose another folder",
        path.display()
    )]
    Busy {
        /// The folder it writes to.
        path: PathBuf,
    },
    /// A file or folder that no writer left is at the path of the new folder.
    #[error(
        "`{}` is in the way: a new model folder is written there before it is renamed, but an \
         interrupted writer did not leave this one; move it away",
        path.display()
    )]
    InTheWay {
        /// The path in the way.
        path: PathBuf,
    },
    /// A writer was killed while it replaced the folder.
    #[error(
        "`{}` is missing because a writer was interrupted while it replaced it; its previous \
         contents are intact in `{}`: rename that folder back, or save again",
        folder.display(), previous.display()
    )]
    Interrupted {
        /// The missing folder.
        folder: PathBuf,
        /// The folder that holds its contents.
        previous: PathBuf,
    },

    /// A requested tensor is not in the checkpoint: a bug in the caller.
    #[error("`{}` has no tensor `{tensor}`", origin.display())]
    UnknownTensor {
        /// The folder or file.
        origin: PathBuf,
        /// The name asked for.
        tensor: String,
    },
    /// The buffer to read into has the wrong size: a bug in the caller.
    #[error("tensor `{tensor}` takes {expected} bytes, but a buffer of {found} was given")]
    BufferSize {
        /// The tensor.
        tensor: String,
        /// The size of the tensor in bytes.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
}

impl CheckpointError {
    /// `true` if the cause is a file or folder that does not exist.
    ///
    /// ```
    /// let error = rlaif_checkpoint::Checkpoint::open("no/such/folder".as_ref()).unwrap_err();
    /// assert!(error.is_not_found());
    /// ```
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The way out of an adapter's setting that is not implemented.
fn without_it(found: &str) -> &'static str {
    // peft merges neither learned prompts nor learned prefixes.
    let learned = ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "CPT"];
    if learned.iter().any(|method| found.contains(method)) {
        return "A learned prompt is not part of any weight, so that it cannot be merged; train a LoRA \
                adapter instead";
    }
    "Merge the adapter in peft (`merge_and_unload`) and load the merged model instead"
}

impl Fault for CheckpointError {
    fn is_users(&self) -> bool {
        match self {
            Self::Read { source, .. } => is_bad_input_file(source),
            // The file is faulty: another one is needed.
            Self::NoWeights { .. }
            | Self::LfsPointer { .. }
            | Self::UnknownFormat { .. }
            | Self::Json { .. }
            | Self::TooLarge { .. }
            | Self::HeaderLength { .. }
            | Self::FileLength { .. }
            | Self::DuplicateTensor { .. }
            | Self::DuplicateKey { .. }
            | Self::UnsupportedDtype { .. }
            | Self::ShapeOverflow { .. }
            | Self::ByteCount { .. }
            | Self::OffsetOrder { .. }
            | Self::NotContiguous { .. }
            | Self::MissingShard { .. }
            | Self::ShardName { .. }
            | Self::TensorNotInShard { .. }
            | Self::Zip { .. }
            | Self::MissingRecord { .. }
            | Self::Record { .. }
            | Self::ForbiddenGlobal { .. }
            | Self::Pickle { .. }
            | Self::NotAStateDict { .. }
            | Self::OutsideStorage { .. }
            | Self::Expanded { .. }
            | Self::Gguf { .. }
            | Self::Unhonoured { .. }
            | Self::Pattern { .. } => true,
            // A folder must be moved or renamed before anything is written there.
            Self::InTheWay { .. } | Self::Interrupted { .. } => true,
            // The machine.
            Self::Write { .. } | Self::Source { .. } | Self::Busy { .. } => false,
            // The caller's code.
            Self::SourceBytes { .. }
            | Self::ReservedName { .. }
            | Self::FileName { .. }
            | Self::UnknownTensor { .. }
            | Self::BufferSize { .. } => false,
        }
    }
}

/// At most twenty names, so that a message stays readable.
fn list(names: &[String], empty: &str) -> String {
    const SHOWN: usize = 20;
    match names {
        [] => empty.to_owned(),
        names if names.len() <= SHOWN => names.join(", "),
        names => format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
    }
}

fn writing_advice(source: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match source.kind() {
        Kind::StorageFull | Kind::QuotaExceeded => {
            "; free some space or choose another folder, nothing was left behind"
        }
        Kind::FileTooLarge => "; the file system or a limit of this process allows no larger file",
        Kind::ReadOnlyFilesystem | Kind::PermissionDenied => {
            "; choose a folder that may be written to"
        }
        Kind::NotADirectory => "; a file stands where a folder is needed",
        _ => "",
    }
}

/// The rest of a sentence about a JSON file: text that is not JSON has no field.
fn said_of_json(field: &str, source: &serde_json::Error) -> String {
    use serde_json::error::Category;
    match (source.classify(), field) {
        (Category::Eof, _) => format!(
            " is not whole JSON: {source}; the file is cut off or empty, so fetch or write it again"
        ),
        (Category::Syntax, _) => {
            format!(" is not JSON: {source}; correct this place, or fetch the file again")
        }
        (Category::Data | Category::Io, ".") => format!(": {source}"),
        (Category::Data | Category::Io, field) => format!(", field `{field}`: {source}"),
    }
}

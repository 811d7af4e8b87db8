//! All weights of a folder behind one interface.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use super::contents::{Contents, Layout};
use super::positioned::Shard;
use super::{file_names, has_extension, read_contents};
use crate::interrupted::refuse_interrupted;
use crate::json::{Pairs, read_json};
use crate::{CheckpointError, Dtype, is_plain_name};

/// Names of weights, in the order of preference.
const WEIGHTS_FILES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Names of an adapter's weights, in the order of preference.
const ADAPTER_FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Size of one read: large enough to be fast, small enough to share among threads.
const PIECE: usize = 1 << 23;
/// Length from which a run of consecutive elements is read separately.
const LONG_RUN: usize = 1 << 12;

/// A stored tensor: element type, shape and location.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Bytes that [`Checkpoint::read_into`] fills.
    pub bytes: u64,
    shard: usize,
    layout: Layout,
}

/// The weights of a model or an adapter: a list of tensors, and reads into the caller's memory.
///
/// Opening parses headers only. Reads take `&self` and have no shared cursor, so any number of
/// threads may read at once.
///
/// ```
/// use rlaif_checkpoint::{Checkpoint, Dtype};
///
/// # let folder = tempfile::tempdir()?;
/// # let header = br#"{"score.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
/// # let mut file = (header.len() as u64).to_le_bytes().to_vec();
/// # file.extend_from_slice(header);
/// # file.extend_from_slice(&[0.5f32.to_le_bytes(), 2f32.to_le_bytes()].concat());
/// # std::fs::write(folder.path().join("model.safetensors"), file)?;
/// let checkpoint = Checkpoint::open(folder.path())?;
/// let info = &checkpoint.tensors()["score.weight"];
/// assert_eq!((info.dtype, info.shape.as_slice()), (Dtype::F32, &[1, 2][..]));
///
/// let mut bytes = vec![0; info.bytes as usize];
/// checkpoint.read_into("score.weight", &mut bytes)?;
/// assert_eq!(bytes[4..], 2f32.to_le_bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    origin: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

/// `model.safetensors.index.json` and its `.bin` sibling; the sizes in it are not used.
#[derive(Deserialize)]
struct Index {
    weight_map: Pairs<String>,
}

impl Checkpoint {
    /// Opens the weights of a model folder: the first that exists of `model.safetensors`,
    /// `model.safetensors.index.json` with its shards, `pytorch_model.bin`, and
    /// `pytorch_model.bin.index.json` with its shards.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoWeights`] if none exists, and any fault of the one that does: a file
    /// named by the index that is missing, malformed, truncated or of another kind.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let path = first_of(folder, &WEIGHTS_FILES)?;
        let mut checkpoint = if has_extension(&path, "json") {
            Self::open_index(folder, &path)?
        } else {
            Self::open_file(&path)?
        };
        checkpoint.origin = folder.to_owned();
        Ok(checkpoint)
    }

    /// Opens the weights of a folder that peft wrote: `adapter_model.safetensors`, or
    /// `adapter_model.bin` of older versions.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::open`].
    pub fn open_adapter(folder: &Path) -> Result<Self, CheckpointError> {
        Self::open_file(&first_of(folder, &ADAPTER_FILES)?)
    }

    /// Opens one file of weights; the first bytes determine the format.
    ///
    /// # Errors
    ///
    /// Any fault of the file, see [`CheckpointError`].
    pub fn open_file(path: &Path) -> Result<Self, CheckpointError> {
        let shard = Shard::open(path)?;
        let contents = read_contents(&shard)?;
        let mut checkpoint = Self {
            origin: path.to_owned(),
            shards: vec![shard],
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
        };
        checkpoint.add(0, contents, |_| true)?;
        Ok(checkpoint)
    }

    fn open_index(folder: &Path, index: &Path) -> Result<Self, CheckpointError> {
        let places = weight_map(index)?;
        let names: BTreeSet<&str> = places.values().map(String::as_str).collect();
        let mut checkpoint = Self {
            origin: folder.to_owned(),
            shards: Vec::with_capacity(names.len()),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
        };
        for (number, name) in names.into_iter().enumerate() {
            let shard = Shard::open(&folder.join(name)).map_err(|error| {
                if !error.is_not_found() {
                    return error;
                }
                CheckpointError::MissingShard {
                    index: index.to_owned(),
                    shard: name.to_owned(),
                    tensors: places.values().filter(|place| *place == name).count(),
                }
            })?;
            let contents = read_contents(&shard)?;
            checkpoint.shards.push(shard);
            // As in transformers: a tensor that the index places in another shard is read from
            // there; a tensor that the index does not know is read from here.
            let belongs = |tensor: &str| places.get(tensor).is_none_or(|place| place == name);
            checkpoint.add(number, contents, belongs)?;
        }
        if let Some((tensor, shard)) =
            places.iter().find(|(tensor, _)| !checkpoint.tensors.contains_key(*tensor))
        {
            return Err(CheckpointError::TensorNotInShard {
                index: index.to_owned(),
                shard: shard.clone(),
                tensor: tensor.clone(),
            });
        }
        Ok(checkpoint)
    }

    fn add(
        &mut self,
        shard: usize,
        contents: Contents,
        belongs: impl Fn(&str) -> bool,
    ) -> Result<(), CheckpointError> {
        self.metadata.extend(contents.metadata);
        for entry in contents.entries.into_iter().filter(|entry| belongs(&entry.name)) {
            let info = TensorInfo {
                dtype: entry.dtype,
                shape: entry.shape,
                bytes: entry.bytes,
                shard,
                layout: entry.layout,
            };
            if self.tensors.contains_key(&entry.name) {
                let file = self.shards[shard].path().to_owned();
                return Err(CheckpointError::DuplicateTensor { file, tensor: entry.name });
            }
            self.tensors.insert(entry.name, info);
        }
        Ok(())
    }

    /// Every tensor by name.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The strings under `__metadata__` of safetensors files, merged over all shards.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The folder or file that was opened.
    #[must_use]
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The weights files, sorted by name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(Shard::path)
    }

    /// The file that holds a tensor, for error messages; `None` if there is no such tensor.
    #[must_use]
    pub fn file_of(&self, tensor: &str) -> Option<&Path> {
        self.tensors.get(tensor).map(|info| self.shards[info.shard].path())
    }

    /// Reads a tensor: little endian, contiguous, row-major, regardless of the strides in the file.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::UnknownTensor`] and [`CheckpointError::BufferSize`] are bugs in the
    /// caller; [`CheckpointError::FileLength`] means that the file was truncated after it was
    /// opened.
    pub fn read_into(&self, tensor: &str, memory: &mut [u8]) -> Result<(), CheckpointError> {
        self.read(self.info_for(tensor, memory)?, memory)
    }

    /// Reads rows of one matrix of a tensor `[matrices, rows, columns]`, as [`Checkpoint::read_into`] reads
    /// whole tensors.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::read_into`]; [`CheckpointError::UnknownTensor`] also for rows that the tensor lacks.
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// # use rlaif_checkpoint::{Checkpoint, Dtype, TensorBytes, write_safetensors};
    /// # let folder = tempfile::tempdir()?;
    /// let tensor = TensorBytes { dtype: Dtype::U8, shape: vec![2, 2, 1], bytes: vec![5, 6, 7, 8] };
    /// # let path = folder.path().join("model.safetensors");
    /// # write_safetensors(&path, &BTreeMap::from([("w".to_owned(), tensor)]), &BTreeMap::new())?;
    /// # let checkpoint = Checkpoint::open(folder.path())?;
    /// let mut row = [0];
    /// checkpoint.read_rows_into("w", 1, 0..1, &mut row)?;
    /// assert_eq!(row, [7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_rows_into(
        &self,
        tensor: &str,
        matrix: usize,
        rows: Range<usize>,
        memory: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let part = self.tensors.get(tensor).and_then(|info| info.rows(matrix, &rows));
        let Some(part) = part else {
            let tensor = format!("{tensor}[{matrix}, {}..{}]", rows.start, rows.end);
            return Err(CheckpointError::UnknownTensor { origin: self.origin.clone(), tensor });
        };
        fits(tensor, &part, memory)?;
        self.read(&part, memory)
    }

    fn read(&self, info: &TensorInfo, memory: &mut [u8]) -> Result<(), CheckpointError> {
        let shard = &self.shards[info.shard];
        match &info.layout {
            Layout::Contiguous { begin } => shard.read_at(memory, *begin),
            Layout::Strided { begin, strides } => gather(shard, info, *begin, strides, memory),
        }
    }

    /// Reads many tensors at once on rayon's threads, large ones in pieces.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::read_into`]; names and sizes are checked before anything is read.
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// # use rlaif_checkpoint::{Checkpoint, Dtype, TensorBytes, write_safetensors};
    /// # let folder = tempfile::tempdir()?;
    /// # let tensor = TensorBytes { dtype: Dtype::U8, shape: vec![2], bytes: vec![5, 6] };
    /// # let path = folder.path().join("model.safetensors");
    /// # write_safetensors(&path, &BTreeMap::from([("w".to_owned(), tensor)]), &BTreeMap::new())?;
    /// let checkpoint = Checkpoint::open(folder.path())?;
    /// let mut memory: Vec<_> = checkpoint
    ///     .tensors()
    ///     .iter()
    ///     .map(|(name, info)| (name.as_str(), vec![0; info.bytes as usize]))
    ///     .collect();
    /// let targets = memory.iter_mut().map(|(name, bytes)| (*name, bytes.as_mut_slice()));
    /// checkpoint.read_all_into(targets)?;
    /// assert_eq!(memory, [("w", vec![5, 6])]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_all_into<'m>(
        &self,
        targets: impl IntoIterator<Item = (&'m str, &'m mut [u8])>,
    ) -> Result<(), CheckpointError> {
        enum Read<'c, 'm> {
            Piece(&'c Shard, u64, &'m mut [u8]),
            Whole(&'m str, &'m mut [u8]),
        }

        let mut reads = Vec::new();
        for (tensor, memory) in targets {
            let info = self.info_for(tensor, memory)?;
            match &info.layout {
                Layout::Contiguous { begin } => {
                    let shard = &self.shards[info.shard];
                    let pieces = memory.chunks_mut(PIECE).enumerate();
                    reads.extend(pieces.map(|(number, piece)| {
                        Read::Piece(shard, begin + (number * PIECE) as u64, piece)
                    }));
                }
                Layout::Strided { .. } => reads.push(Read::Whole(tensor, memory)),
            }
        }
        reads.into_par_iter().try_for_each(|read| match read {
            Read::Piece(shard, offset, piece) => shard.read_at(piece, offset),
            Read::Whole(tensor, memory) => self.read_into(tensor, memory),
        })
    }

    fn info_for(&self, tensor: &str, memory: &[u8]) -> Result<&TensorInfo, CheckpointError> {
        let info = self.tensors.get(tensor).ok_or_else(|| CheckpointError::UnknownTensor {
            origin: self.origin.clone(),
            tensor: tensor.to_owned(),
        })?;
        fits(tensor, info, memory)?;
        Ok(info)
    }
}

impl TensorInfo {
    /// Rows of one matrix of a tensor `[matrices, rows, columns]`; `None` if it lacks them.
    fn rows(&self, matrix: usize, rows: &Range<usize>) -> Option<Self> {
        let &[matrices, height, width] = self.shape.as_slice() else { return None };
        if matrix >= matrices || rows.is_empty() || rows.end > height {
            return None;
        }
        let offset =
            |of_matrix: u64, of_row: u64| matrix as u64 * of_matrix + rows.start as u64 * of_row;
        let row = (width * self.dtype.size()) as u64;
        let layout = match &self.layout {
            Layout::Contiguous { begin } => {
                Layout::Contiguous { begin: begin + offset(height as u64 * row, row) }
            }
            Layout::Strided { begin, strides } => Layout::Strided {
                begin: begin + offset(strides[0], strides[1]),
                strides: strides[1..].to_vec(),
            },
        };
        let shape = vec![rows.len(), width];
        let bytes = rows.len() as u64 * row;
        Some(Self { dtype: self.dtype, shape, bytes, shard: self.shard, layout })
    }
}

/// Checks that a buffer has the size of a tensor.
fn fits(tensor: &str, info: &TensorInfo, memory: &[u8]) -> Result<(), CheckpointError> {
    let (expected, found) = (info.bytes, memory.len() as u64);
    if found != expected {
        return Err(CheckpointError::BufferSize { tensor: tensor.to_owned(), expected, found });
    }
    Ok(())
}

/// The first of these files that exists in a folder.
fn first_of(
    folder: &Path,
    looked_for: &'static [&'static str],
) -> Result<PathBuf, CheckpointError> {
    refuse_interrupted(folder)?;
    let found = file_names(folder)?;
    match looked_for.iter().find(|&&name| found.iter().any(|file| file == name)) {
        Some(name) => Ok(folder.join(name)),
        None => Err(CheckpointError::NoWeights { folder: folder.to_owned(), looked_for, found }),
    }
}

/// Maps tensor names to shard names; every shard must be the name of a file beside the index.
fn weight_map(index: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let raw: Index = read_json(index)?;
    let mut places = BTreeMap::new();
    for (tensor, shard) in raw.weight_map.0 {
        if !is_plain_name(&shard) {
            return Err(CheckpointError::ShardName { index: index.to_owned(), tensor, shard });
        }
        if places.contains_key(&tensor) {
            return Err(CheckpointError::DuplicateKey {
                file: index.to_owned(),
                object: "weight_map",
                key: tensor,
            });
        }
        places.insert(tensor, shard);
    }
    Ok(places)
}

/// Copies a strided view, element by element or run by run, into contiguous memory.
fn gather(
    shard: &Shard,
    info: &TensorInfo,
    begin: u64,
    strides: &[u64],
    memory: &mut [u8],
) -> Result<(), CheckpointError> {
    // Trailing dimensions that are contiguous form runs; `outer` walks the others.
    let mut run = info.dtype.size();
    let mut outer = info.shape.len();
    while outer > 0 && (info.shape[outer - 1] == 1 || strides[outer - 1] == run as u64) {
        run *= info.shape[outer - 1];
        outer -= 1;
    }
    let (shape, strides) = (&info.shape[..outer], &strides[..outer]);
    if run >= LONG_RUN {
        let mut offsets = Offsets::new(shape, strides);
        return memory
            .chunks_exact_mut(run)
            .try_for_each(|piece| shard.read_at(piece, begin + offsets.next_offset()));
    }
    let span = shape.iter().zip(strides).map(|(&dim, &stride)| (dim as u64 - 1) * stride);
    let span = span.sum::<u64>() as usize + run;
    let mut stored = Vec::new();
    stored.try_reserve_exact(span).map_err(|_| CheckpointError::Read {
        path: shard.path().to_owned(),
        source: std::io::ErrorKind::OutOfMemory.into(),
    })?;
    stored.resize(span, 0);
    shard.read_at(&mut stored, begin)?;
    let mut offsets = Offsets::new(shape, strides);
    for piece in memory.chunks_exact_mut(run) {
        let offset = offsets.next_offset() as usize;
        piece.copy_from_slice(&stored[offset..offset + run]);
    }
    Ok(())
}

/// Byte offsets of the elements of a strided view, in row-major order.
struct Offsets<'a> {
    shape: &'a [usize],
    strides: &'a [u64],
    index: Vec<usize>,
    offset: u64,
}

impl<'a> Offsets<'a> {
    fn new(shape: &'a [usize], strides: &'a [u64]) -> Self {
        Self { shape, strides, index: vec![0; shape.len()], offset: 0 }
    }

    fn next_offset(&mut self) -> u64 {
        let current = self.offset;
        for dim in (0..self.shape.len()).rev() {
            self.index[dim] += 1;
            self.offset += self.strides[dim];
            if self.index[dim] < self.shape[dim] {
                break;
            }
            self.offset -= self.strides[dim] * self.shape[dim] as u64;
            self.index[dim] = 0;
        }
        current
    }
}

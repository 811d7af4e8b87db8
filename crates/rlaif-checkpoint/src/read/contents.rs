//! The tensors of one weights file, as its header describes them.

use crate::Dtype;

/// Layout of a tensor's elements in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    /// Contiguous from this byte on, row-major.
    Contiguous { begin: u64 },
    /// Element `[i, j, ..]` at `begin + i * strides[0] + j * strides[1] + ..`, all in bytes.
    Strided { begin: u64, strides: Vec<u64> },
}

/// A tensor as one file's header describes it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: u64,
    pub(super) layout: Layout,
}

impl Entry {
    /// One past the last byte of the tensor in its file, if the tensor is contiguous.
    pub(super) fn end(&self) -> u64 {
        match self.layout {
            Layout::Contiguous { begin } | Layout::Strided { begin, .. } => begin + self.bytes,
        }
    }
}

/// The contents of one weights file, according to its header.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    pub(super) metadata: Vec<(String, String)>,
}

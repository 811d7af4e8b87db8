//! The tensors of one weights file, as its header describes them.

use crate::Dtype;

/// Where the elements of a tensor lie in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    /// One after the other from this byte on, the last dimension fastest.
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
    /// One past the last byte that the tensor takes in its file, if it lies in one piece.
    pub(super) fn end(&self) -> u64 {
        match self.layout {
            Layout::Contiguous { begin } | Layout::Strided { begin, .. } => begin + self.bytes,
        }
    }
}

/// What one weights file says about itself.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    pub(super) metadata: Vec<(String, String)>,
}

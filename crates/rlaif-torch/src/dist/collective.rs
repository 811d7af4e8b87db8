//! The operations of a group of processes.

use std::fmt;

use tch::Tensor;

use super::error::{DistError, Peer};

/// The operations of all processes of a run together. Every rank calls the same operations in the same order.
pub trait Collective: fmt::Debug + Send + Sync {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Begins to sum a dense tensor on the CPU over all ranks, in place. All ranks get the same bits.
    ///
    /// # Errors
    /// [`DistError::Lost`], [`DistError::Failed`].
    fn start_sum<'g>(&'g self, tensor: &Tensor) -> Result<Box<dyn Pending + 'g>, DistError>;

    /// The bytes of every rank, in the order of ranks.
    ///
    /// # Errors
    /// As [`Collective::start_sum`].
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, DistError>;

    /// A rank and its host.
    fn peer(&self, rank: usize) -> Peer;

    /// Tells the other ranks why this one ends; they then end with these words.
    fn last_words(&self, words: &str);
}

/// An operation that runs.
pub trait Pending {
    /// Waits for the end of the operation.
    ///
    /// # Errors
    /// As [`Collective::start_sum`].
    fn wait(self: Box<Self>) -> Result<(), DistError>;
}

//! Rows of token ids as one padded tensor.

use tch::{Device, Tensor};

use crate::{error::LmError, mask::Mask, spec::LmSpec};

/// The side on which short rows are padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Tokens first.
    Right,
    /// Tokens last.
    Left,
}

/// Rows of token ids as one tensor `[B, T]` with its mask, T the longest row.
///
/// The ids stay on the host as well: joining prompts with responses, cutting minibatches and
/// dropping common padding need no copy from the device.
#[derive(Debug)]
pub struct TokenBatch {
    rows: Vec<Vec<u32>>,
    ids: Tensor,
    mask: Mask,
    padding: Padding,
    pad_id: u32,
    segments: Option<Vec<Vec<usize>>>,
}

impl TokenBatch {
    /// Pads `rows` to one width with the model's pad id, on the model's device.
    ///
    /// # Errors
    /// [`LmError::EmptyBatch`] without rows; [`LmError::EmptyInput`], [`LmError::IdOutOfRange`],
    /// [`LmError::TooLong`] for a row the model cannot take.
    ///
    /// ```
    /// # use rlaif_lm::{LmSpec, Padding, TokenBatch};
    /// # let spec = LmSpec { model_type: "llama".into(), hidden_size: 8, vocab_size: 100,
    /// #     context: Some(16), pad_id: 0, eos_ids: vec![2], bos_id: Some(1),
    /// #     decoder_start_id: None, forced: Default::default(), kind: tch::Kind::Float, device: tch::Device::Cpu };
    /// let batch = TokenBatch::collate(vec![vec![5, 6, 7], vec![8]], &spec, Padding::Left)?;
    /// assert_eq!(Vec::<Vec<i64>>::try_from(batch.ids())?, [[5, 6, 7], [0, 0, 8]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn collate(rows: Vec<Vec<u32>>, spec: &LmSpec, padding: Padding) -> Result<Self, LmError> {
        for (row, ids) in rows.iter().enumerate() {
            spec.check(row, ids)?;
        }
        Self::pad(rows, spec.pad_id, padding, spec.device)
    }

    /// Pads `rows` that are known to be good. A row may be empty here: responses can be.
    pub(crate) fn pad(
        rows: Vec<Vec<u32>>,
        pad_id: u32,
        padding: Padding,
        device: Device,
    ) -> Result<Self, LmError> {
        if rows.is_empty() {
            return Err(LmError::EmptyBatch);
        }
        let width = rows.iter().map(Vec::len).max().unwrap_or(0);
        let shape = [int(rows.len()), int(width)];
        let mut ids = vec![i64::from(pad_id); rows.len() * width];
        let mut real = vec![false; rows.len() * width];
        for (i, row) in rows.iter().enumerate() {
            let start = i * width
                + match padding {
                    Padding::Right => 0,
                    Padding::Left => width - row.len(),
                };
            for (j, &id) in row.iter().enumerate() {
                ids[start + j] = i64::from(id);
                real[start + j] = true;
            }
        }
        let ids = Tensor::from_slice(&ids).view(shape).to_device(device);
        let mask = Mask::new(Tensor::from_slice(&real).view(shape).to_device(device));
        Ok(Self { rows, ids, mask, padding, pad_id, segments: None })
    }

    /// Responses to the prompts of a batch: right-padded, and a row may be empty.
    ///
    /// # Errors
    /// [`LmError::EmptyBatch`] without rows, [`LmError::IdOutOfRange`] for a foreign id.
    pub fn responses(rows: Vec<Vec<u32>>, spec: &LmSpec) -> Result<Self, LmError> {
        for (row, ids) in rows.iter().enumerate() {
            spec.check_ids(row, ids)?;
        }
        Self::pad(rows, spec.pad_id, Padding::Right, spec.device)
    }

    /// Responses that start over at tokens `forks` of each row: what predicts a token has read from the last of these
    /// before it on, and nothing earlier. The part before the first one continues the prompt.
    ///
    /// # Errors
    /// [`LmError::BatchMismatch`] unless there is a list for each row, [`LmError::Forks`] for a list that does not
    /// ascend within its response.
    ///
    /// ```
    /// # use rlaif_lm::{LmSpec, TokenBatch};
    /// # let spec = LmSpec { model_type: "llama".into(), hidden_size: 8, vocab_size: 100,
    /// #     context: Some(16), pad_id: 0, eos_ids: vec![2], bos_id: Some(1),
    /// #     decoder_start_id: None, forced: Default::default(), kind: tch::Kind::Float, device: tch::Device::Cpu };
    /// let batch = TokenBatch::responses(vec![vec![5, 6, 7], vec![8]], &spec)?.forked(&[vec![1], vec![]])?;
    /// assert_eq!(batch.segments().unwrap(), [vec![1, 2], vec![1]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forked(self, forks: &[Vec<usize>]) -> Result<Self, LmError> {
        if forks.len() != self.len() {
            let (expected, found) = (self.len(), forks.len());
            return Err(LmError::BatchMismatch { what: "forks of responses", expected, found });
        }
        if forks.iter().all(Vec::is_empty) {
            return Ok(self);
        }
        let mut segments = Vec::with_capacity(forks.len());
        for (row, (forks, ids)) in forks.iter().zip(&self.rows).enumerate() {
            let ends = [&[0], &**forks, &[ids.len()]].concat();
            if !forks.is_empty() && !ends.is_sorted_by(|a, b| a < b) {
                let expected =
                    format!("indices that ascend, from 1 to {}", ids.len().saturating_sub(1));
                return Err(LmError::Forks { row, found: forks.clone(), expected });
            }
            segments.push(ends.windows(2).map(|ends| ends[1] - ends[0]).collect());
        }
        Ok(Self { segments: Some(segments), ..self })
    }

    /// Rows of several sequences each, one after the other, padded on the right.
    pub(crate) fn packed(
        rows: Vec<Vec<Vec<u32>>>,
        pad_id: u32,
        device: Device,
    ) -> Result<Self, LmError> {
        let lengths = rows.iter().map(|row| row.iter().map(Vec::len).collect()).collect();
        let joined = rows.into_iter().map(|row| row.concat()).collect();
        let batch = Self::pad(joined, pad_id, Padding::Right, device)?;
        Ok(Self { segments: Some(lengths), ..batch })
    }

    /// The lengths of the sequences that each row is packed with, or of the parts of a response that starts over
    /// ([`TokenBatch::forked`]); `None` if each row is one sequence.
    pub fn segments(&self) -> Option<&[Vec<usize>]> {
        self.segments.as_deref()
    }

    /// The ids of each row, without padding.
    pub fn rows(&self) -> &[Vec<u32>] {
        &self.rows
    }

    /// Token ids `[B, T]`, int64.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// The real ones of all rows, one row after another, int64 `[1, N]`.
    pub fn unpadded_ids(&self) -> Tensor {
        let ids: Vec<i64> = self.rows.iter().flatten().map(|&id| i64::from(id)).collect();
        Tensor::from_slice(&ids).unsqueeze(0).to_device(self.ids.device())
    }

    /// Mask of the real tokens, `[B, T]`.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// The side on which the rows are padded.
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// Number of rows B.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never true of a batch that [`TokenBatch::collate`] made.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Width T.
    pub fn width(&self) -> usize {
        self.rows.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// `true` if no row is padded.
    pub fn is_full(&self) -> bool {
        let width = self.width();
        self.rows.iter().all(|row| row.len() == width)
    }

    /// The batch of the rows with these indices, as wide as its own longest row.
    ///
    /// # Errors
    /// [`LmError::EmptyBatch`] without indices.
    ///
    /// # Panics
    /// If an index is out of range, as indexing does.
    pub fn select(&self, indices: &[usize]) -> Result<Self, LmError> {
        let rows = indices.iter().map(|&i| self.rows[i].clone()).collect();
        let batch = Self::pad(rows, self.pad_id, self.padding, self.ids.device())?;
        let of_rows = |all: &Vec<Vec<usize>>| indices.iter().map(|&i| all[i].clone()).collect();
        let segments: Option<Vec<Vec<usize>>> = self.segments.as_ref().map(of_rows);
        // Rows of one sequence each are the faster case.
        let segments = segments.filter(|all| all.iter().any(|lengths| lengths.len() > 1));
        Ok(Self { segments, ..batch })
    }
}

/// Sizes cross to libtorch as `i64`; no tensor that fits a machine overflows it.
pub(crate) fn int(n: usize) -> i64 {
    i64::try_from(n).expect("a size fits 63 bits")
}

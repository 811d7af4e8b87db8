//! What decoding keeps between tokens.

use tch::{Device, Kind, Tensor};

use crate::{batch::int, error::LmError};

/// Keys and values of the tokens seen so far, preallocated, each row at its own length.
///
/// Row b holds its tokens in columns `0..length(b)`, without holes. Rows of different lengths share
/// a batch, so a finished row can be replaced by a new prompt while the others go on.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    lengths: Vec<usize>,
    capacity: usize,
    step: Step,
}

/// What every layer needs of the step in progress; made once per step, not once per layer.
#[derive(Debug)]
struct Step {
    positions: Tensor,
    slots: Tensor,
    width: i64,
    ragged: bool,
}

impl Step {
    fn new(lengths: &[usize], capacity: usize, device: Device) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let positions: Vec<i64> = lengths.iter().copied().map(int).collect();
        let slots: Vec<i64> =
            lengths.iter().enumerate().map(|(row, &length)| int(row * capacity + length)).collect();
        Self {
            positions: Tensor::from_slice(&positions).to_device(device),
            slots: Tensor::from_slice(&slots).to_device(device),
            width: int(longest) + 1,
            ragged: lengths.iter().any(|&length| length != longest),
        }
    }
}

/// Sizes of a [`KvCache`].
#[derive(Debug, Clone, Copy)]
pub struct CacheShape {
    /// Layers with a self-attention.
    pub layers: usize,
    /// Key-value heads of each.
    pub heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Data type of keys and values.
    pub kind: Kind,
    /// Where they are.
    pub device: Device,
}

impl KvCache {
    /// Room for `capacity` tokens in each of `batch` rows.
    ///
    /// # Errors
    /// [`LmError::Torch`] when the memory cannot be had.
    pub fn new(shape: CacheShape, batch: usize, capacity: usize) -> Result<Self, LmError> {
        let size = [int(batch), int(capacity), shape.heads, shape.head_dim];
        let options = (shape.kind, shape.device);
        let layers = (0..shape.layers)
            .map(|_| Ok((Tensor::f_zeros(size, options)?, Tensor::f_zeros(size, options)?)))
            .collect::<Result<_, LmError>>()?;
        let lengths = vec![0; batch];
        let step = Step::new(&lengths, capacity, shape.device);
        Ok(Self { layers, lengths, capacity, step })
    }

    /// Tokens held by each row.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Tokens a row has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Positions of the tokens that the step in progress adds, int64 `[B]`.
    pub fn positions(&self) -> &Tensor {
        &self.step.positions
    }

    /// Columns that the step in progress reads: the longest row and its new token.
    pub fn width(&self) -> i64 {
        self.step.width
    }

    /// Puts the keys and values `[B, T, heads, head_dim]` of right-padded prompts into a layer.
    pub fn fill(&mut self, layer: usize, k: &Tensor, v: &Tensor) {
        let width = k.size()[1];
        let (keys, values) = &self.layers[layer];
        keys.narrow(1, 0, width).copy_(k);
        values.narrow(1, 0, width).copy_(v);
    }

    /// Ends a prefill: row b holds `lengths[b]` tokens from now on.
    pub fn set_lengths(&mut self, lengths: Vec<usize>) {
        self.step = Step::new(&lengths, self.capacity, self.step.positions.device());
        self.lengths = lengths;
    }

    /// Puts one token's keys and values `[B, 1, heads, head_dim]` into a layer and returns all of
    /// that layer, `[B, width, heads, head_dim]` each, as views.
    pub fn append(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
        let (keys, values) = &self.layers[layer];
        for (held, new) in [(keys, k), (values, v)] {
            let size = held.size();
            let row = size[2] * size[3];
            let _ = held.view([size[0] * size[1], row]).index_copy_(
                0,
                &self.step.slots,
                &new.reshape([size[0], row]),
            );
        }
        (keys.narrow(1, 0, self.step.width), values.narrow(1, 0, self.step.width))
    }

    /// Which columns a new token sees, bool `[B, 1, 1, width]`; `None` if every row sees all.
    /// With a sliding window, only the last `window` columns.
    pub fn visible(&self, window: Option<i64>) -> Option<Tensor> {
        let positions = self.step.positions.view([-1, 1, 1, 1]);
        let windowed = window.is_some_and(|window| self.step.width > window);
        if !self.step.ragged && !windowed {
            return None;
        }
        let columns = Tensor::arange(self.step.width, (Kind::Int64, positions.device()));
        let seen = columns.le_tensor(&positions);
        Some(match window {
            Some(window) => seen.logical_and(&columns.gt_tensor(&(positions - window))),
            None => seen,
        })
    }

    /// Ends a step: every row is one token longer.
    pub fn advance(&mut self) {
        for length in &mut self.lengths {
            *length += 1;
        }
        self.step = Step::new(&self.lengths, self.capacity, self.step.positions.device());
    }
}

/// What decoding keeps between tokens, for either architecture.
#[derive(Debug)]
pub struct DecodeState {
    /// Self-attention keys and values.
    pub cache: KvCache,
    /// What the encoder gave; `None` for decoder-only models.
    pub memory: Option<Memory>,
}

/// The encoder's side of decoding: computed once per prompt.
#[derive(Debug)]
pub struct Memory {
    /// Cross-attention keys and values of each layer, `[B, heads, S, head_dim]`.
    pub layers: Vec<(Tensor, Tensor)>,
    /// Added to the cross-attention scores, `[B, 1, 1, S]`; `None` if no prompt is padded.
    pub bias: Option<Tensor>,
}

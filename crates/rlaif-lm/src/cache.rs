//! What decoding keeps between tokens.

use tch::{Device, Kind, Tensor};

use crate::{batch::int, error::LmError};

/// How much decoding has to keep at most, known before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Rows that decode together.
    pub rows: usize,
    /// Tokens of the longest prompt.
    pub prompt: usize,
    /// Tokens of the longest response.
    pub response: usize,
    /// Tokens of prompt and response together, of the row where that is most.
    pub total: usize,
}

/// Sizes of the keys and values of a [`KvCache`] or [`Memory`].
#[derive(Debug, Clone, Copy)]
pub struct CacheShape {
    /// Layers that keep some.
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

impl CacheShape {
    /// Bytes of keys and values for `rows` of `capacity` tokens.
    fn bytes(&self, rows: usize, capacity: usize) -> u64 {
        let width = 2 * self.heads.unsigned_abs() * self.head_dim.unsigned_abs();
        (rows as u64)
            .saturating_mul(capacity as u64)
            .saturating_mul(width * self.layers as u64)
            .saturating_mul(self.kind.elt_size_in_bytes() as u64)
    }
}

/// Keys and values `[rows, heads, capacity, head_dim]` of every layer; row b holds its tokens in
/// columns `0..lengths[b]`, without holes. The rows in use are the first `lengths.len()`.
#[derive(Debug)]
struct Held {
    layers: Vec<(Tensor, Tensor)>,
    lengths: Vec<usize>,
    rows: usize,
    capacity: usize,
}

impl Held {
    fn new(shape: CacheShape, rows: usize, capacity: usize) -> Result<Self, LmError> {
        let bytes = shape.bytes(rows, capacity);
        if shape.device == Device::Cpu
            && let Some(available) = rlaif_torch::host_memory_available()
            && bytes > available
        {
            return Err(LmError::BatchTooLarge { rows, tokens: capacity, bytes, available });
        }
        let size = [int(rows), shape.heads, int(capacity), shape.head_dim];
        let options = (shape.kind, shape.device);
        // Zeros, because what is beyond a row's length is multiplied by a weight of 0.
        let layers = (0..shape.layers)
            .map(|_| Ok((Tensor::f_zeros(size, options)?, Tensor::f_zeros(size, options)?)))
            .collect::<Result<_, LmError>>()?;
        Ok(Self { layers, lengths: Vec::with_capacity(rows), rows, capacity })
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Puts keys and values `[n, T, heads, head_dim]` beside the rows in use.
    fn fill(&self, layer: usize, k: &Tensor, v: &Tensor) {
        let size = k.size();
        let (keys, values) = &self.layers[layer];
        for (held, new) in [(keys, k), (values, v)] {
            held.narrow(0, int(self.lengths.len()), size[0])
                .narrow(2, 0, size[1])
                .copy_(&new.transpose(1, 2));
        }
    }

    fn check(&self, new: &[usize]) -> Result<(), LmError> {
        if self.lengths.len() + new.len() > self.rows {
            return Err(LmError::BatchMismatch {
                what: "prompts that enter decoding",
                expected: self.rows - self.lengths.len(),
                found: new.len(),
            });
        }
        match new.iter().position(|&length| length > self.capacity) {
            Some(row) => Err(LmError::CacheFull { row, capacity: self.capacity }),
            None => Ok(()),
        }
    }

    /// Row `row` is dropped, and the last row takes its place.
    fn swap_remove(&mut self, row: usize) {
        let last = self.lengths.len() - 1;
        if row != last {
            let length = int(self.lengths[last]);
            let part = |held: &Tensor, row| held.get(int(row)).narrow(1, 0, length);
            for held in self.layers.iter().flat_map(|(k, v)| [k, v]) {
                part(held, row).copy_(&part(held, last));
            }
        }
        self.lengths.swap_remove(row);
    }

    /// The first `width` columns of the rows in use, `[B, heads, width, head_dim]` each.
    fn views(&self, layer: usize, width: i64) -> (Tensor, Tensor) {
        let view = |held: &Tensor| held.narrow(0, 0, int(self.lengths.len())).narrow(2, 0, width);
        let (keys, values) = &self.layers[layer];
        (view(keys), view(values))
    }
}

/// Keys and values of the tokens seen so far, preallocated, each row at its own length.
///
/// Rows of different lengths share a batch, so a finished row can be replaced by a new prompt while
/// the others go on.
#[derive(Debug)]
pub struct KvCache {
    held: Held,
    heads: i64,
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
    fn new(held: &Held, heads: i64, device: Device) -> Self {
        let longest = held.longest();
        let capacity = int(held.capacity);
        let positions: Vec<i64> = held.lengths.iter().copied().map(int).collect();
        let slots: Vec<i64> = positions
            .iter()
            .zip(0..)
            .flat_map(|(&at, row)| (row * heads..(row + 1) * heads).map(move |h| h * capacity + at))
            .collect();
        Self {
            positions: Tensor::from_slice(&positions).to_device(device),
            slots: Tensor::from_slice(&slots).to_device(device),
            width: int(longest) + 1,
            ragged: held.lengths.iter().any(|&length| length != longest),
        }
    }
}

impl KvCache {
    /// Room for `capacity` tokens in each of `rows` rows, none of which is in use yet.
    ///
    /// # Errors
    /// [`LmError::BatchTooLarge`] or [`LmError::Torch`] when the memory cannot be had.
    pub fn new(shape: CacheShape, rows: usize, capacity: usize) -> Result<Self, LmError> {
        let held = Held::new(shape, rows, capacity)?;
        let step = Step::new(&held, shape.heads, shape.device);
        Ok(Self { held, heads: shape.heads, step })
    }

    /// Tokens held by each row in use.
    pub fn lengths(&self) -> &[usize] {
        &self.held.lengths
    }

    /// Tokens a row has room for.
    pub fn capacity(&self) -> usize {
        self.held.capacity
    }

    /// Positions of the tokens that the step in progress adds, int64 `[B]`.
    pub fn positions(&self) -> &Tensor {
        &self.step.positions
    }

    /// Columns that the step in progress reads: the longest row and its new token.
    pub fn width(&self) -> i64 {
        self.step.width
    }

    /// Puts the keys and values `[n, T, heads, head_dim]` of right-padded prompts into a layer,
    /// beside the rows in use. [`KvCache::enter`] ends it.
    ///
    /// # Errors
    /// [`LmError::BatchMismatch`] without room for so many rows, [`LmError::CacheFull`] without
    /// room for so many tokens.
    pub fn fill(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(), LmError> {
        let size = k.size();
        let count = |n: i64| usize::try_from(n).expect("a size is not negative");
        self.held.check(&vec![count(size[1]); count(size[0])])?;
        self.held.fill(layer, k, v);
        Ok(())
    }

    /// Takes new rows into use, which hold this many tokens each.
    ///
    /// # Errors
    /// As [`KvCache::fill`].
    pub fn enter(&mut self, lengths: &[usize]) -> Result<(), LmError> {
        self.held.check(lengths)?;
        self.held.lengths.extend(lengths);
        self.renew();
        Ok(())
    }

    /// Puts one token's keys and values `[B, 1, heads, head_dim]` into a layer and returns all of
    /// that layer, `[B, heads, width, head_dim]` each, as views.
    pub fn append(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
        let (keys, values) = &self.held.layers[layer];
        for (held, new) in [(keys, k), (values, v)] {
            let width = held.size()[3];
            let _ =
                held.view([-1, width]).index_copy_(0, &self.step.slots, &new.reshape([-1, width]));
        }
        self.held.views(layer, self.step.width)
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

    /// Checks that every row has room for one more token.
    ///
    /// # Errors
    /// [`LmError::CacheFull`] names the row.
    pub fn check_space(&self) -> Result<(), LmError> {
        match self.held.lengths.iter().position(|&length| length >= self.held.capacity) {
            Some(row) => Err(LmError::CacheFull { row, capacity: self.held.capacity }),
            None => Ok(()),
        }
    }

    /// Ends a step: every row is one token longer.
    pub fn advance(&mut self) {
        for length in &mut self.held.lengths {
            *length += 1;
        }
        self.renew();
    }

    fn renew(&mut self) {
        self.step = Step::new(&self.held, self.heads, self.step.positions.device());
    }
}

/// The encoder's side of decoding, computed once per prompt: keys and values of the cross-attention.
#[derive(Debug)]
pub struct Memory {
    held: Held,
    /// Of the rows in use, bool `[B, 1, 1, width]`; `None` if every row sees all.
    visible: Option<Tensor>,
    device: Device,
}

impl Memory {
    /// Room for prompts of `capacity` tokens in each of `rows` rows.
    ///
    /// # Errors
    /// [`LmError::BatchTooLarge`] or [`LmError::Torch`] when the memory cannot be had.
    pub fn new(shape: CacheShape, rows: usize, capacity: usize) -> Result<Self, LmError> {
        let held = Held::new(shape, rows, capacity)?;
        Ok(Self { held, visible: None, device: shape.device })
    }

    /// Tokens of each prompt in use.
    pub fn lengths(&self) -> &[usize] {
        &self.held.lengths
    }

    /// Puts the keys and values `[n, S, heads, head_dim]` of right-padded prompts into a layer,
    /// beside the rows in use. [`Memory::enter`] ends it.
    ///
    /// # Errors
    /// As [`KvCache::fill`].
    pub fn fill(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(), LmError> {
        let size = k.size();
        let count = |n: i64| usize::try_from(n).expect("a size is not negative");
        self.held.check(&vec![count(size[1]); count(size[0])])?;
        self.held.fill(layer, k, v);
        Ok(())
    }

    /// Takes new rows into use, with prompts of these lengths.
    ///
    /// # Errors
    /// As [`KvCache::fill`].
    pub fn enter(&mut self, lengths: &[usize]) -> Result<(), LmError> {
        self.held.check(lengths)?;
        self.held.lengths.extend(lengths);
        self.renew();
        Ok(())
    }

    /// Keys and values of a layer, `[B, heads, S, head_dim]` each, as views; S is the longest
    /// prompt in use.
    pub fn layer(&self, layer: usize) -> (Tensor, Tensor) {
        self.held.views(layer, int(self.held.longest()))
    }

    /// Which of them are real, bool `[B, 1, 1, S]`; `None` if all are.
    pub fn visible(&self) -> Option<&Tensor> {
        self.visible.as_ref()
    }

    fn renew(&mut self) {
        let longest = self.held.longest();
        let ragged = self.held.lengths.iter().any(|&length| length != longest);
        self.visible = ragged.then(|| {
            let lengths: Vec<i64> = self.held.lengths.iter().copied().map(int).collect();
            let lengths = Tensor::from_slice(&lengths).to_device(self.device).view([-1, 1, 1, 1]);
            Tensor::arange(int(longest), (Kind::Int64, self.device)).lt_tensor(&lengths)
        });
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

impl DecodeState {
    /// Rows in use.
    pub fn rows(&self) -> usize {
        self.cache.held.lengths.len()
    }

    /// Drops a row; the last row takes its place, as [`Vec::swap_remove`] does it.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn swap_remove(&mut self, row: usize) {
        assert!(row < self.rows(), "row {row} of {}", self.rows());
        self.cache.held.swap_remove(row);
        self.cache.renew();
        if let Some(memory) = &mut self.memory {
            memory.held.swap_remove(row);
            memory.renew();
        }
    }
}

//! State that decoding keeps between tokens.

use tch::{Device, Kind, Tensor};

use crate::{batch::int, error::LmError};

/// Upper bounds on the state that decoding keeps, known before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Number of rows decoded together.
    pub rows: usize,
    /// Length of the longest prompt, in tokens.
    pub prompt: usize,
    /// Length of the longest response, in tokens.
    pub response: usize,
    /// Length of prompt and response together, in tokens: the maximum over rows.
    pub total: usize,
}

/// Sizes of the keys and values of a [`KvCache`] or [`Memory`].
#[derive(Debug, Clone, Copy)]
pub struct CacheShape {
    /// Number of layers with a cache.
    pub layers: usize,
    /// Number of key-value heads per layer.
    pub heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Data type of keys and values.
    pub kind: Kind,
    /// Device of the tensors.
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
pub struct Layers {
    tensors: Vec<(Tensor, Tensor)>,
    lengths: Vec<usize>,
    rows: usize,
    capacity: usize,
}

impl Layers {
    fn new(shape: CacheShape, rows: usize, capacity: usize) -> Result<Self, LmError> {
        let bytes = shape.bytes(rows, capacity);
        if let Some(available) = rlaif_torch::free_memory(shape.device)
            && bytes > available
        {
            return Err(LmError::BatchTooLarge { rows, tokens: capacity, bytes, available });
        }
        let size = [int(rows), shape.heads, int(capacity), shape.head_dim];
        let options = (shape.kind, shape.device);
        // Zeros, because columns beyond a row's length are multiplied by a weight of 0.
        let tensors = (0..shape.layers)
            .map(|_| Ok((Tensor::f_zeros(size, options)?, Tensor::f_zeros(size, options)?)))
            .collect::<Result<_, LmError>>()?;
        Ok(Self { tensors, lengths: Vec::with_capacity(rows), rows, capacity })
    }

    /// Number of tokens in each row in use.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// A layer's keys and values as stored, `[rows, heads, capacity, head_dim]` each; the rows in
    /// use come first.
    pub fn held(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (keys, values) = &self.tensors[layer];
        (keys, values)
    }

    /// Writes the keys and values `[n, T, heads, head_dim]` of right-padded prompts into a layer,
    /// after the rows in use. `enter` of the [`KvCache`] or [`Memory`] completes the operation.
    ///
    /// # Errors
    /// [`LmError::BatchMismatch`] without space for the rows, [`LmError::CacheFull`] without space
    /// for the tokens.
    pub fn fill(&self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(), LmError> {
        let size = k.size();
        let count = |n: i64| usize::try_from(n).expect("a size is not negative");
        self.check(&vec![count(size[1]); count(size[0])])?;
        let (keys, values) = self.held(layer);
        for (held, new) in [(keys, k), (values, v)] {
            held.narrow(0, int(self.lengths.len()), size[0])
                .narrow(2, 0, size[1])
                .copy_(&new.transpose(1, 2));
        }
        Ok(())
    }

    /// The same for keys and values `[N, heads · head_dim]` of rows with these lengths,
    /// concatenated without padding.
    ///
    /// # Errors
    /// As [`Layers::fill`].
    pub fn fill_packed(
        &self,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
        lengths: &[usize],
    ) -> Result<(), LmError> {
        self.check(lengths)?;
        let (keys, values) = self.held(layer);
        for (held, new) in [(keys, k), (values, v)] {
            let [_, heads, _, width] = sizes(held);
            let mut start = 0;
            for (row, &length) in (self.lengths.len()..).zip(lengths) {
                let part = new.narrow(0, start, int(length)).view([-1, heads, width]);
                held.get(int(row)).narrow(1, 0, int(length)).copy_(&part.transpose(0, 1));
                start += int(length);
            }
        }
        Ok(())
    }

    /// Adds rows with these numbers of tokens to the rows in use.
    fn enter(&mut self, lengths: &[usize]) -> Result<(), LmError> {
        self.check(lengths)?;
        self.lengths.extend(lengths);
        Ok(())
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
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

    /// Drops row `row`; the last row takes its place.
    fn swap_remove(&mut self, row: usize) {
        let last = self.lengths.len() - 1;
        if row != last {
            let length = int(self.lengths[last]);
            let part = |held: &Tensor, row| held.get(int(row)).narrow(1, 0, length);
            for held in self.tensors.iter().flat_map(|(k, v)| [k, v]) {
                part(held, row).copy_(&part(held, last));
            }
        }
        self.lengths.swap_remove(row);
    }

    /// Adds rows with the first `lengths[i]` tokens of row `sources[i]` to the rows in use.
    fn repeat(&mut self, sources: &[usize], lengths: &[usize]) -> Result<(), LmError> {
        self.check(lengths)?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest > 0 {
            let start = int(self.lengths.len());
            let sources: Vec<i64> = sources.iter().copied().map(int).collect();
            let mut index = None;
            for held in self.tensors.iter().flat_map(|(k, v)| [k, v]) {
                let index = index
                    .get_or_insert_with(|| Tensor::from_slice(&sources).to_device(held.device()));
                let held = held.narrow(2, 0, int(longest));
                held.narrow(0, start, int(sources.len())).copy_(&held.index_select(0, index));
            }
        }
        self.lengths.extend(lengths);
        Ok(())
    }

    /// The first `width` columns of the rows in use, `[B, heads, width, head_dim]` each.
    fn views(&self, layer: usize, width: i64) -> (Tensor, Tensor) {
        let view = |held: &Tensor| held.narrow(0, 0, int(self.lengths.len())).narrow(2, 0, width);
        let (keys, values) = self.held(layer);
        (view(keys), view(values))
    }
}

fn sizes(held: &Tensor) -> [i64; 4] {
    <[i64; 4]>::try_from(held.size()).expect("keys are [rows, heads, capacity, head_dim]")
}

/// Keys and values of the tokens so far, preallocated, each row at its own length.
///
/// Rows of different lengths share a batch, so a finished row can be replaced by a new prompt while
/// the others continue.
#[derive(Debug)]
pub struct KvCache {
    layers: Layers,
    heads: i64,
    step: Step,
}

/// Data of the current step that all layers need; computed once per step, not once per layer.
///
/// The tensors stay the same while the number of rows does not change, and on a GPU the memory read
/// and written stays the same for [`STRIDE`] steps, so that a recorded step can be replayed.
#[derive(Debug)]
struct Step {
    positions: Tensor,
    slots: Tensor,
    width: i64,
    ragged: bool,
}

/// On a GPU, the number of columns read is a multiple of this.
const STRIDE: usize = 64;

impl Step {
    fn new(held: &Layers, heads: i64, device: Device) -> Self {
        let capacity = int(held.capacity);
        let positions: Vec<i64> = held.lengths.iter().copied().map(int).collect();
        let slots: Vec<i64> = positions
            .iter()
            .zip(0..)
            .flat_map(|(&at, row)| (row * heads..(row + 1) * heads).map(move |h| h * capacity + at))
            .collect();
        let mut step = Self {
            positions: Tensor::from_slice(&positions).to_device(device),
            slots: Tensor::from_slice(&slots).to_device(device),
            width: 0,
            ragged: false,
        };
        step.measure(held);
        step
    }

    /// Computes the number of columns to read from the lengths.
    fn measure(&mut self, held: &Layers) {
        let longest = held.longest() + 1;
        let wide = match self.positions.device() {
            Device::Cpu => longest,
            _ => longest.next_multiple_of(STRIDE).min(held.capacity.max(longest)),
        };
        self.width = int(wide);
        self.ragged = held.lengths.iter().any(|&length| length + 1 != wide);
    }
}

impl KvCache {
    /// An empty cache for `rows` rows of `capacity` tokens.
    ///
    /// # Errors
    /// [`LmError::BatchTooLarge`] or [`LmError::Torch`] if there is not enough memory.
    pub fn new(shape: CacheShape, rows: usize, capacity: usize) -> Result<Self, LmError> {
        let layers = Layers::new(shape, rows, capacity)?;
        let step = Step::new(&layers, shape.heads, shape.device);
        Ok(Self { layers, heads: shape.heads, step })
    }

    /// The keys and values, to be filled by prompts and read.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Positions of the tokens that the current step adds, int64 `[B]`.
    pub fn positions(&self) -> &Tensor {
        &self.step.positions
    }

    /// Number of columns that the current step reads: the longest row and its new token.
    pub fn width(&self) -> i64 {
        self.step.width
    }

    /// Adds rows with these numbers of tokens to the rows in use.
    ///
    /// # Errors
    /// As [`Layers::fill`].
    pub fn enter(&mut self, lengths: &[usize]) -> Result<(), LmError> {
        self.layers.enter(lengths)?;
        self.renew();
        Ok(())
    }

    /// Writes one token's keys and values `[B, 1, heads, head_dim]` into a layer and returns all
    /// keys and values of that layer, `[B, heads, width, head_dim]` each, as views.
    pub fn append(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
        let (keys, values) = self.layers.held(layer);
        for (held, new) in [(keys, k), (values, v)] {
            let width = held.size()[3];
            let _ =
                held.view([-1, width]).index_copy_(0, &self.step.slots, &new.reshape([-1, width]));
        }
        self.layers.views(layer, self.step.width)
    }

    /// Mask of the columns visible to a new token, bool `[B, 1, 1, width]`; `None` if every row
    /// sees all. With a sliding window, only the last `window` columns are visible.
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

    /// Checks that every row has space for one more token.
    ///
    /// # Errors
    /// [`LmError::CacheFull`] names the row.
    pub fn check_space(&self) -> Result<(), LmError> {
        match self.layers.lengths.iter().position(|&length| length >= self.layers.capacity) {
            Some(row) => Err(LmError::CacheFull { row, capacity: self.layers.capacity }),
            None => Ok(()),
        }
    }

    /// Ends a step: every row is one token longer.
    fn advance(&mut self) {
        for length in &mut self.layers.lengths {
            *length += 1;
        }
        // In place on the device: nothing is copied from the host.
        let _ = self.step.positions.g_add_scalar_(1);
        let _ = self.step.slots.g_add_scalar_(1);
        self.step.measure(&self.layers);
    }

    fn renew(&mut self) {
        let new = Step::new(&self.layers, self.heads, self.step.positions.device());
        let old = std::mem::replace(&mut self.step, new);
        if old.positions.size() == self.step.positions.size() {
            let Step { positions, slots, .. } = &mut self.step;
            for (old, new) in [(old.positions, positions), (old.slots, slots)] {
                old.shallow_clone().copy_(new);
                *new = old;
            }
        }
    }
}

/// The encoder's side of decoding, computed once per prompt: keys and values of the cross-attention.
#[derive(Debug)]
pub struct Memory {
    layers: Layers,
    /// Mask of the rows in use, bool `[B, 1, 1, width]`; `None` if every row sees all.
    visible: Option<Tensor>,
    device: Device,
}

impl Memory {
    /// An empty memory for `rows` prompts of `capacity` tokens.
    ///
    /// # Errors
    /// [`LmError::BatchTooLarge`] or [`LmError::Torch`] if there is not enough memory.
    pub fn new(shape: CacheShape, rows: usize, capacity: usize) -> Result<Self, LmError> {
        let layers = Layers::new(shape, rows, capacity)?;
        Ok(Self { layers, visible: None, device: shape.device })
    }

    /// The keys and values, to be filled by prompts and read.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Adds rows with prompts of these lengths to the rows in use.
    ///
    /// # Errors
    /// As [`Layers::fill`].
    pub fn enter(&mut self, lengths: &[usize]) -> Result<(), LmError> {
        self.layers.enter(lengths)?;
        self.renew();
        Ok(())
    }

    /// Keys and values of a layer, `[B, heads, S, head_dim]` each, as views; S is the length of the
    /// longest prompt in use, or on a GPU the capacity.
    pub fn layer(&self, layer: usize) -> (Tensor, Tensor) {
        self.layers.views(layer, int(self.width()))
    }

    fn width(&self) -> usize {
        match self.device {
            Device::Cpu => self.layers.longest(),
            // A constant width, so that a recorded step can be replayed after rows have changed.
            _ => self.layers.capacity,
        }
    }

    /// Mask of the real positions, bool `[B, 1, 1, S]`; `None` if all are real.
    pub fn visible(&self) -> Option<&Tensor> {
        self.visible.as_ref()
    }

    fn renew(&mut self) {
        let width = self.width();
        let ragged = self.layers.lengths.iter().any(|&length| length != width);
        let visible = ragged.then(|| {
            let lengths: Vec<i64> = self.layers.lengths.iter().copied().map(int).collect();
            let lengths = Tensor::from_slice(&lengths).to_device(self.device).view([-1, 1, 1, 1]);
            Tensor::arange(int(width), (Kind::Int64, self.device)).lt_tensor(&lengths)
        });
        match (&mut self.visible, visible) {
            (Some(old), Some(new)) if old.size() == new.size() => old.copy_(&new),
            (old, new) => *old = new,
        }
    }
}

/// State that decoding keeps between tokens, for either architecture.
#[derive(Debug)]
pub struct DecodeState {
    /// Self-attention keys and values.
    pub cache: KvCache,
    /// Output of the encoder; `None` for decoder-only models.
    pub memory: Option<Memory>,
}

impl DecodeState {
    /// Number of rows in use.
    pub fn rows(&self) -> usize {
        self.cache.layers.lengths.len()
    }

    /// Ends a step: every row is one token longer.
    pub fn advance(&mut self) {
        self.cache.advance();
    }

    /// The layout that a recorded step is valid for: while it does not change, the step reads and
    /// writes the same memory.
    pub(crate) fn layout(&self) -> (usize, i64, bool) {
        let seen = self.memory.as_ref().is_none_or(|memory| memory.visible.is_some());
        (self.rows(), self.cache.step.width, self.cache.step.ragged == seen)
    }

    /// Adds rows with the first `tokens[i]` tokens of row `rows[i]` and its encoder output: several
    /// responses to a prompt that is read once.
    ///
    /// # Errors
    /// [`LmError::BatchMismatch`] without space for the rows.
    ///
    /// # Panics
    /// If a row does not exist, or has fewer tokens.
    pub fn repeat(&mut self, rows: &[usize], tokens: &[usize]) -> Result<(), LmError> {
        let held = &self.cache.layers.lengths;
        assert!(rows.iter().zip(tokens).all(|(&row, &tokens)| tokens <= held[row]));
        self.cache.layers.repeat(rows, tokens)?;
        self.cache.renew();
        if let Some(memory) = &mut self.memory {
            let lengths: Vec<usize> = rows.iter().map(|&row| memory.layers.lengths[row]).collect();
            memory.layers.repeat(rows, &lengths)?;
            memory.renew();
        }
        Ok(())
    }

    /// Truncates a row to its first `tokens` tokens; its encoder output stays.
    ///
    /// # Panics
    /// If the row does not exist, or has fewer tokens.
    pub fn rewind(&mut self, row: usize, tokens: usize) {
        let length = &mut self.cache.layers.lengths[row];
        assert!(tokens <= *length, "row {row} holds {length} tokens, fewer than {tokens}");
        *length = tokens;
        self.cache.renew();
    }

    /// Drops a row; the last row takes its place, as in [`Vec::swap_remove`].
    ///
    /// # Panics
    /// If the row does not exist.
    pub fn swap_remove(&mut self, row: usize) {
        assert!(row < self.rows(), "row {row} of {}", self.rows());
        self.cache.layers.swap_remove(row);
        self.cache.renew();
        if let Some(memory) = &mut self.memory {
            memory.layers.swap_remove(row);
            memory.renew();
        }
    }
}

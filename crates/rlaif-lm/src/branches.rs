//! Several responses to each prompt as one run of tokens: no padding, and every prompt once.

use tch::Tensor;

use crate::{
    batch::{Padding, TokenBatch, int},
    error::LmError,
    spec::LmSpec,
};

/// The tokens that a decoder-only model reads to predict several responses to each of some
/// prompts, as one run of N tokens: every prompt once, no padding.
///
/// Linear layers, norms and embeddings work on the run. Attention needs rows: [`Self::to_rows`]
/// lays a prompt out before each of its responses, right-padded, so that plain causality is the
/// right visibility, and [`Self::from_rows`] takes the run out of the rows again. What a prompt's
/// token sees does not depend on the response behind it, so the copies of a prompt's row are equal
/// and the first one serves: the result is that of separate rows.
///
/// ```
/// use rlaif_lm::{Branches, LmSpec, Padding, TokenBatch};
/// # let spec = LmSpec { model_type: "llama".into(), hidden_size: 8, vocab_size: 100,
/// #     context: Some(16), pad_id: 0, eos_ids: vec![2], bos_id: Some(1),
/// #     decoder_start_id: None, forced: Default::default(), kind: tch::Kind::Float, device: tch::Device::Cpu };
/// let prompts = TokenBatch::collate(vec![vec![5, 6]], &spec, Padding::Right)?;
/// let responses = TokenBatch::responses(vec![vec![7, 8, 2], vec![9, 2]], &spec)?;
/// let run = Branches::new(&prompts, &responses, &spec)?;
/// // The last token of a response predicts nothing that is asked for.
/// assert_eq!(Vec::<i64>::try_from(run.ids())?, [5, 6, 7, 8, 9]);
/// assert_eq!(Vec::<i64>::try_from(run.positions())?, [0, 1, 2, 3, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Branches {
    ids: Tensor,
    positions: Tensor,
    /// For each cell of the rows `[R · W]`, its place in the run; padding shows the run's start.
    cells: Tensor,
    /// For each token of the run `[N]`, its cell.
    tokens: Tensor,
    /// For each response token `[R · T]`, the place in the run that predicts it.
    predicting: Tensor,
    joined: Vec<Vec<u32>>,
    width: i64,
}

impl Branches {
    /// The run of `responses` to `prompts`: response r answers prompt `r % prompts.len()`, so that
    /// all first responses come before all second ones.
    ///
    /// # Errors
    /// [`LmError::BatchMismatch`] if the responses are not a whole number of rounds,
    /// [`LmError::TooLong`] if prompt and response exceed the context together.
    pub fn new(
        prompts: &TokenBatch,
        responses: &TokenBatch,
        spec: &LmSpec,
    ) -> Result<Self, LmError> {
        whole_rounds(prompts, responses)?;
        let starts: Vec<usize> = prompts
            .rows()
            .iter()
            .scan(0, |next, prompt| {
                let start = *next;
                *next += prompt.len();
                Some(start)
            })
            .collect();
        let mut ids: Vec<u32> = prompts.rows().concat();
        let mut positions: Vec<i64> =
            prompts.rows().iter().flat_map(|prompt| 0..int(prompt.len())).collect();

        let mut joined = Vec::with_capacity(responses.len());
        let mut places = Vec::with_capacity(responses.len());
        for (row, response) in responses.rows().iter().enumerate() {
            let prompt = &prompts.rows()[row % prompts.len()];
            spec.check_length(row, prompt.len() + response.len())?;
            let inputs = &response[..response.len().saturating_sub(1)];
            let start = starts[row % prompts.len()];
            let own = ids.len()..ids.len() + inputs.len();
            places.push((start..start + prompt.len()).chain(own).map(int).collect::<Vec<_>>());
            ids.extend_from_slice(inputs);
            positions.extend(int(prompt.len())..int(prompt.len() + inputs.len()));
            joined.push([prompt, inputs].concat());
        }

        let width = places.iter().map(Vec::len).max().unwrap_or(0);
        let mut cells = vec![0; places.len() * width];
        let mut tokens = vec![0; ids.len()];
        // Backwards, so that the first copy of a prompt's token is the one that stays.
        for (row, places) in places.iter().enumerate().rev() {
            for (column, &place) in places.iter().enumerate() {
                let cell = row * width + column;
                cells[cell] = place;
                tokens[usize::try_from(place).expect("places are not negative")] = int(cell);
            }
        }
        let mut predicting = vec![0; responses.len() * responses.width()];
        for (row, response) in responses.rows().iter().enumerate() {
            let first = prompts.rows()[row % prompts.len()].len() - 1;
            for t in 0..response.len() {
                predicting[row * responses.width() + t] = places[row][first + t];
            }
        }
        let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
        let on_device = |x: &[i64]| Tensor::from_slice(x).to_device(spec.device);
        Ok(Self {
            ids: on_device(&ids),
            positions: on_device(&positions),
            cells: on_device(&cells),
            tokens: on_device(&tokens),
            predicting: on_device(&predicting),
            joined,
            width: int(width),
        })
    }

    /// Another handle on the same run, for a segment that is recomputed later.
    #[must_use]
    pub fn handle(&self) -> Self {
        Self {
            ids: self.ids.shallow_clone(),
            positions: self.positions.shallow_clone(),
            cells: self.cells.shallow_clone(),
            tokens: self.tokens.shallow_clone(),
            predicting: self.predicting.shallow_clone(),
            joined: self.joined.clone(),
            width: self.width,
        }
    }

    /// Token ids of the run, int64 `[N]`.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// The position of each token behind its prompt's start, int64 `[N]`.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// Width W of the rows that attention works on.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// `[N, F]` of the run as right-padded rows `[R, W, F]`.
    pub fn to_rows(&self, run: &Tensor) -> Tensor {
        let rows = gather(run, &self.cells);
        rows.view([int(self.joined.len()), self.width, run.size()[1]])
    }

    /// The run `[N, F]` out of rows `[R, W, F]`.
    pub fn from_rows(&self, rows: &Tensor) -> Tensor {
        gather(&rows.flatten(0, 1), &self.tokens)
    }

    /// Selects, from the hidden states `[N, H]` of the concatenated tokens, those that predict
    /// response tokens, `[R, T, H]`. Values after a response's end are finite and have no meaning.
    pub fn predicting(&self, hidden: &Tensor) -> Tensor {
        let rows = int(self.joined.len());
        gather(hidden, &self.predicting).view([rows, -1, hidden.size()[1]])
    }

    /// The rows themselves, right-padded, for models that only support rows.
    pub fn rows(&self, spec: &LmSpec) -> Result<TokenBatch, LmError> {
        TokenBatch::pad(self.joined.clone(), spec.pad_id, Padding::Right, spec.device)
    }
}

/// Rows of `x` `[N, F]` by index. An embedding, because its backward pass adds up the rows that
/// were taken twice in parallel, which that of `index_select` does not.
fn gather(x: &Tensor, indices: &Tensor) -> Tensor {
    Tensor::embedding(x, indices, -1, false, false)
}

/// Checks that there are as many responses for each prompt, and at least one.
pub(crate) fn whole_rounds(prompts: &TokenBatch, responses: &TokenBatch) -> Result<(), LmError> {
    if !responses.is_empty() && responses.len().is_multiple_of(prompts.len()) {
        return Ok(());
    }
    Err(LmError::BatchMismatch {
        what: "responses, which must be a multiple of the prompts",
        expected: responses.len().max(1).div_ceil(prompts.len()) * prompts.len(),
        found: responses.len(),
    })
}

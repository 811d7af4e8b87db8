//! Computes log-probabilities of responses from rows of token ids.

use rlaif_lm::{
    Activations, Adapters, Dropout, Forward, Padding, Policy, RouterLoss, TokenBatch,
    TokenLogProbs, VocabHead, token_log_probs,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::{error::DpoError, rows::TokenPair};

/// Sharing of the prompt's computation between the two responses of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptForward {
    /// Computed once for both. Equal up to rounding, because no token of a prompt attends to a
    /// response; with dropout on, the two would share their noise, so [`Self::Twice`] is used then.
    #[default]
    Shared,
    /// Computed for each response.
    Twice,
}

/// Settings of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pass {
    pub(crate) temperature: f64,
    pub(crate) prompt_forward: PromptForward,
    pub(crate) dropout: Dropout,
    pub(crate) activations: Activations,
}

impl Pass {
    fn forward(self, adapters: Adapters<'_>) -> Forward<'_> {
        let Self { dropout, activations, .. } = self;
        Forward { dropout, adapters, activations, ..Forward::default() }
    }

    /// The same without dropout and without activations kept for a backward pass.
    pub(crate) fn evaluating(self) -> Self {
        Self { dropout: Dropout::Off, activations: Activations::Keep, ..self }
    }
}

/// Prompts with several rounds of responses: all first responses before all second responses.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) prompts: TokenBatch,
    pub(crate) responses: TokenBatch,
}

impl Batch {
    /// `rounds[k][i]` is the k-th response to prompt i.
    pub(crate) fn new(
        policy: &dyn Policy,
        prompts: Vec<Vec<u32>>,
        rounds: &[Vec<Vec<u32>>],
    ) -> Result<Self, DpoError> {
        let spec = policy.spec();
        Ok(Self {
            prompts: TokenBatch::collate(prompts, spec, Padding::Right)?,
            responses: TokenBatch::responses(rounds.concat(), spec)?,
        })
    }

    /// Pairs, chosen responses first.
    pub(crate) fn pairs(policy: &dyn Policy, rows: &[&TokenPair]) -> Result<Self, DpoError> {
        let column =
            |of: fn(&TokenPair) -> &Vec<u32>| rows.iter().map(|row| of(row).clone()).collect();
        Self::new(
            policy,
            column(|row| &row.prompt),
            &[column(|row| &row.chosen), column(|row| &row.rejected)],
        )
    }

    /// Number of tokens of each response, f32 `[R]`.
    pub(crate) fn lengths(&self) -> Tensor {
        let lengths: Vec<f32> = self.responses.rows().iter().map(|row| row.len() as f32).collect();
        Tensor::from_slice(&lengths).to_device(self.responses.ids().device())
    }

    /// Tokens that the model reads, with each prompt counted as often as it is computed.
    pub(crate) fn tokens(&self, prompt_forward: PromptForward) -> usize {
        let sum = |batch: &TokenBatch| batch.rows().iter().map(Vec::len).sum::<usize>();
        let times = match prompt_forward {
            PromptForward::Shared => 1,
            PromptForward::Twice => self.responses.len() / self.prompts.len(),
        };
        sum(&self.prompts) * times + sum(&self.responses)
    }
}

/// Result of a forward pass over a batch.
pub(crate) struct Passed {
    /// The log-probability of each response token.
    pub(crate) tokens: TokenLogProbs,
    hidden: Tensor,
    head: VocabHead,
}

/// Log-probabilities of all responses of a batch, in one forward pass.
pub(crate) fn pass(
    policy: &dyn Policy,
    batch: &Batch,
    pass: Pass,
    adapters: Adapters<'_>,
) -> Result<Passed, DpoError> {
    run(policy, batch, pass, pass.forward(adapters))
}

/// The same with the active adapter, collecting the routers' choices.
pub(crate) fn collected(
    policy: &dyn Policy,
    batch: &Batch,
    pass: Pass,
    routers: &RouterLoss,
) -> Result<Passed, DpoError> {
    run(policy, batch, pass, routers.collecting(pass.forward(Adapters::Active)))
}

fn run(
    policy: &dyn Policy,
    batch: &Batch,
    pass: Pass,
    forward: Forward<'_>,
) -> Result<Passed, DpoError> {
    let Batch { prompts, responses } = batch;
    let hidden = if pass.prompt_forward == PromptForward::Shared && pass.dropout == Dropout::Off {
        policy.branch_hidden(prompts, responses, forward)?
    } else {
        let rows: Vec<usize> = (0..responses.len()).map(|row| row % prompts.len()).collect();
        let prompts = prompts.select(&rows)?;
        match forward.routers {
            Some(_) => policy.response_hidden(&prompts, responses, forward)?,
            None => policy.branch_hidden(&prompts, responses, forward)?,
        }
    };
    let head = policy.head(forward)?;
    let tokens = token_log_probs(&head, &hidden, responses, pass.temperature)?;
    Ok(Passed { tokens, hidden, head })
}

impl Passed {
    /// Sums over each response's tokens, `[R]`. The tokens of the longer response beyond the length
    /// of the shorter one are weighted by `tail_weight`.
    pub(crate) fn sums(&self, batch: &Batch, tail_weight: f64) -> Tensor {
        let log_probs = &self.tokens.log_probs;
        if tail_weight == 1. {
            return log_probs.sum_dim_intlist(-1, false, Kind::Float);
        }
        let lengths = batch.lengths();
        let [chosen, rejected] = halves(&lengths);
        let common = chosen.minimum(&rejected).repeat([2]).unsqueeze(1);
        let columns = Tensor::arange(log_probs.size()[1], (Kind::Float, log_probs.device()));
        let counts = columns.lt_tensor(&common).to_kind(Kind::Float);
        let weights: Tensor = &counts + (1f64 - &counts) * tail_weight;
        (log_probs * weights).sum_dim_intlist(-1, false, Kind::Float)
    }

    /// WPO's weight for each pair, `[B]`: see [`crate::Weighting::Wpo`].
    pub(crate) fn policy_weights(&self, batch: &Batch, temperature: f64) -> Tensor {
        no_grad(|| {
            let mask = batch.responses.mask();
            let squares = log_sum_squares(&self.head, &self.hidden, temperature);
            let aligned = mask.row_sums(&(&self.tokens.log_probs - squares));
            let weights = (aligned / batch.lengths()).exp();
            let [chosen, rejected] = halves(&weights);
            chosen * rejected
        })
    }

    /// Sums, over the tokens of chosen and of rejected responses, of the mean logit over the
    /// vocabulary, `[2]`. The head is linear, so one vector goes through it for all tokens.
    pub(crate) fn logit_sums(&self, batch: &Batch) -> Tensor {
        no_grad(|| {
            let mask = batch.responses.mask().to_kind(self.hidden.kind()).unsqueeze(-1);
            let sums = (&self.hidden * mask).sum_dim_intlist(1, false, Kind::Float);
            let [chosen, rejected] = halves(&sums);
            let sum = |x: Tensor| x.sum_dim_intlist(0, false, Kind::Float);
            let both = Tensor::stack(&[sum(chosen), sum(rejected)], 0);
            let logits = self.head.logits(&both.to_kind(self.head.weight.kind()));
            logits.mean_dim(-1, false, Kind::Float)
        })
    }
}

/// log Σ_v π_v² at every position, `[R, T]`, computed in chunks of positions.
fn log_sum_squares(head: &VocabHead, hidden: &Tensor, temperature: f64) -> Tensor {
    let size = hidden.size();
    let flat = hidden.reshape([size[0] * size[1], size[2]]);
    let rows = ((16 << 20) / head.weight.size()[0]).max(1);
    let chunks = flat
        .split(rows, 0)
        .into_iter()
        .map(|chunk| (head.log_softmax(&chunk, temperature) * 2.).logsumexp(&[-1i64][..], false));
    Tensor::cat(&chunks.collect::<Vec<_>>(), 0).view([size[0], size[1]])
}

/// The first and the second half along the first dimension.
pub(crate) fn halves(x: &Tensor) -> [Tensor; 2] {
    let half = x.size()[0] / 2;
    [x.narrow(0, 0, half), x.narrow(0, half, half)]
}

/// The reference's sums of the pairs, f32 `[2B]`, chosen first, without gradient.
pub(crate) fn reference_sums(
    policy: &dyn Policy,
    batch: &Batch,
    pass_: Pass,
    adapters: Adapters<'_>,
    tail_weight: f64,
) -> Result<Tensor, DpoError> {
    no_grad(|| {
        let passed = pass(policy, batch, pass_.evaluating(), adapters)?;
        Ok(passed.sums(batch, tail_weight))
    })
}

/// Margins of the rows, f32 `[B]`, NaN where a row has none.
pub(crate) fn margins(rows: &[&TokenPair], like: &Tensor) -> Tensor {
    let margins: Vec<f32> =
        rows.iter().map(|row| row.margin.map_or(f32::NAN, |margin| margin as f32)).collect();
    Tensor::from_slice(&margins).to_device(like.device())
}

//! Perplexity and KL divergence, from log-probabilities that the caller computed.

use crate::{Better, Column, EvalError, MetricInfo};

/// The names of the [`columns`].
pub const NAMES: [&str; 2] = ["perplexity_under_reference", "kl_from_reference"];

/// The log-probabilities of one response, summed over its tokens, in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Number of tokens in the response, its end token included.
    pub tokens: usize,
    /// Σ log π(y_t | x, y_<t) under the policy that sampled it.
    pub policy: f64,
    /// The same under the reference policy.
    pub reference: f64,
}

impl Likelihood {
    /// exp(−log π_ref(y | x) / tokens): how surprising the response is to the reference policy.
    pub fn perplexity_under_reference(self) -> f64 {
        (-self.reference / self.tokens as f64).exp()
    }

    /// log π(y | x) − log π_ref(y | x): one sample of the sequence's KL divergence from the
    /// reference policy, whose mean over responses sampled from π estimates it without bias.
    pub fn kl_from_reference(self) -> f64 {
        self.policy - self.reference
    }
}

/// The perplexity of all tokens together: exp of their mean negative log-probability under the
/// reference policy. Not the mean of the responses' perplexities, which the short ones dominate.
///
/// ```
/// use rlaif_eval::likelihood::{Likelihood, corpus_perplexity};
/// let rows = [
///     Likelihood { tokens: 1, policy: -1., reference: -2. },
///     Likelihood { tokens: 3, policy: -3., reference: -2. },
/// ];
/// assert_eq!(corpus_perplexity(&rows), 1f64.exp());
/// assert_eq!(rows[0].kl_from_reference(), 1.);
/// ```
pub fn corpus_perplexity(rows: &[Likelihood]) -> f64 {
    let tokens: usize = rows.iter().map(|row| row.tokens).sum();
    let log_prob: f64 = rows.iter().map(|row| row.reference).sum();
    (-log_prob / tokens as f64).exp()
}

/// The columns `perplexity_under_reference` and `kl_from_reference`, to be added to an
/// [`Evaluation`](crate::Evaluation) whose samples are `rows`, in their order.
///
/// # Errors
/// [`EvalError::TooFew`] for a response without tokens.
///
/// ```
/// use rlaif_eval::likelihood::{Likelihood, columns};
/// let columns = columns(&[Likelihood { tokens: 2, policy: -1., reference: -2. }])?;
/// assert_eq!(columns[0].values, [Some(1f64.exp())]);
/// assert_eq!(columns[1].values, [Some(1.)]);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn columns(rows: &[Likelihood]) -> Result<[Column; 2], EvalError> {
    if let Some(row) = rows.iter().position(|row| row.tokens == 0) {
        return Err(EvalError::TooFew {
            what: format!("tokens of response {row}, for its perplexity"),
            needed: 1,
            found: 0,
        });
    }
    let column = |info, value: fn(Likelihood) -> f64| Column {
        info,
        values: rows.iter().map(|row| Some(value(*row))).collect(),
        reasons: Vec::new(),
    };
    Ok([
        column(
            MetricInfo::new(NAMES[0], Better::Lower)
                .about("how surprising the response is to the reference policy"),
            Likelihood::perplexity_under_reference,
        ),
        column(
            MetricInfo::new(NAMES[1], Better::Neither)
                .about("how far the policy moved from the reference policy, in nats a response"),
            Likelihood::kl_from_reference,
        ),
    ])
}

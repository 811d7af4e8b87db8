//! Compares the log-probabilities of servers with those of the policy.

use rlaif_lm::{LmError, Padding, SamplerCall, TokenBatch, policy_log_probs};
use tch::{Device, Kind};

/// A response with the log-probabilities of its server.
pub(crate) struct Compared<'a> {
    pub(crate) prompt: &'a [u32],
    pub(crate) ids: &'a [u32],
    pub(crate) log_probs: &'a [f32],
}

/// The sum of `ρ − log ρ − 1` over the tokens of each row, with ρ = π / π_server, and the number of tokens for which the
/// server gives a probability.
pub(crate) fn distances(
    call: SamplerCall<'_>,
    rows: &[Compared<'_>],
) -> Result<Vec<(f64, usize)>, LmError> {
    let _guard = tch::no_grad_guard();
    let (weights, temperature) = (call.weights, call.how.sampling.temperature());
    let spec = weights.policy.spec();
    let prompts = rows.iter().map(|row| row.prompt.to_vec()).collect();
    let prompts = TokenBatch::collate(prompts, spec, Padding::Right)?;
    let responses = TokenBatch::responses(rows.iter().map(|row| row.ids.to_vec()).collect(), spec)?;
    let own = policy_log_probs(weights.policy, &prompts, &responses, weights.forward, temperature)?;
    let width = responses.width();
    let own = own.log_probs.to_kind(Kind::Double).to_device(Device::Cpu).reshape([-1]);
    let own = Vec::<f64>::try_from(&own)?;
    let of_row = |(row, theirs): (usize, &Compared<'_>)| {
        let theirs = theirs.log_probs.iter().map(|x| f64::from(*x));
        let pairs = own[row * width..].iter().zip(theirs).filter(|(_, theirs)| !theirs.is_nan());
        pairs.fold((0., 0), |(sum, tokens), (own, theirs)| {
            let x = own - theirs;
            (sum + x.exp_m1() - x, tokens + 1)
        })
    };
    Ok(rows.iter().enumerate().map(of_row).collect())
}

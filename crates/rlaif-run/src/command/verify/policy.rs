//! Checks of a language model's log-probabilities and samples.

use rlaif_core::Seed;
use rlaif_lm::{
    Draw, Forward, Layout, LmError, Padding, Policy, TokenBatch,
    generate::{Eos, GenerationConfig},
    policy_log_probs,
};
use rlaif_models::LanguageModel;
use tch::no_grad;

use super::{
    check::{Check, rounding},
    peer::{Peer, PeerTask},
};
use crate::command::{error::CommandError, ids::responses_to, matrix::rows_of};

/// Takes the result of a check.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Check);

/// A prompt and its response.
type Row = (Vec<u32>, Vec<u32>);

/// Sampling of a fixed number of tokens.
pub(super) fn generation(new_tokens: usize, batch_size: usize) -> GenerationConfig {
    GenerationConfig {
        max_new_tokens: new_tokens,
        eos: Eos::Ignored,
        batch_size,
        ..GenerationConfig::default()
    }
}

/// Log-probabilities of each row's response, computed together.
fn log_probs(
    policy: &LanguageModel,
    rows: &[Row],
    padding: Padding,
    layout: Layout,
) -> Result<Vec<Vec<f32>>, LmError> {
    let spec = policy.spec();
    let prompts = rows.iter().map(|(prompt, _)| prompt.clone()).collect();
    let prompts = TokenBatch::collate(prompts, spec, padding)?;
    let responses = rows.iter().map(|(_, response)| response.clone()).collect();
    let responses = TokenBatch::responses(responses, spec)?;
    let forward = Forward { layout, ..Forward::default() };
    let got = no_grad(|| policy_log_probs(policy, &prompts, &responses, forward, 1.))?;
    let mut got = rows_of(&got.log_probs);
    got.iter_mut().zip(rows).for_each(|(got, (_, response))| got.truncate(response.len()));
    Ok(got)
}

/// Runs the checks.
pub(super) fn checks(
    policy: &LanguageModel,
    prompts: &[Vec<u32>],
    new_tokens: usize,
    seed: Seed,
    peer: Option<&Peer<'_>>,
    tell: Tell<'_>,
) -> Result<(), CommandError> {
    let spec = policy.spec();
    let is_decoder_only = spec.decoder_start_id.is_none();
    let how = generation(new_tokens, prompts.len());
    let draw = Draw { seed, step: 0 };
    let answers = responses_to(policy, prompts, 0, &how, draw)?;
    let rows: Vec<Row> =
        prompts.iter().cloned().zip(answers.iter().map(|answer| answer.ids.clone())).collect();
    let pass = |rows: &[Row]| log_probs(policy, rows, Padding::Right, Layout::Padded);
    let together = pass(&rows)?;
    let check = |name, about, got: &[Vec<f32>]| Check {
        name,
        about,
        largest: Some(compared(got, &together)),
        bound: rounding(spec.kind),
        unit: "nats",
        note: None,
    };
    let same = |name, about, differing: usize, unit| Check {
        bound: 0.,
        unit,
        largest: Some(differing as f64),
        ..check(name, about, &together)
    };
    let skipped = |name, about, reason: &str| Check {
        largest: None,
        note: Some(reason.to_owned()),
        ..check(name, about, &together)
    };

    let own: Vec<Vec<f32>> =
        answers.iter().map(|answer| answer.log_probs.clone().unwrap_or_default()).collect();
    tell(check("sampler", "log-probabilities of sampled tokens, and of the trainer's pass", &own));
    let mut tokens = 0;
    for (row, (prompt, answer)) in (0..).zip(prompts.iter().zip(&answers)) {
        let single = responses_to(policy, std::slice::from_ref(prompt), row, &how, draw)?;
        tokens += single.iter().map(|one| changed(&one.ids, &answer.ids)).sum::<usize>();
    }
    tell(same(
        "sampled_alone",
        "tokens sampled alone, and in a batch",
        tokens,
        "tokens that differ",
    ));
    tell(check("batch", "log-probabilities of rows alone, and together", &alone(&rows, pass)?));
    let backwards = in_order(pass(&reversed(&rows))?);
    tell(check("order", "log-probabilities of rows in order, and in reverse", &backwards));
    let left = log_probs(policy, &rows, Padding::Left, Layout::Padded)?;
    tell(check("padding", "log-probabilities with padding right, and left", &left));
    let about = "log-probabilities of separate rows, and of packed ones";
    if is_decoder_only {
        let total: usize = rows.iter().map(|(prompt, answer)| prompt.len() + answer.len()).sum();
        let total = spec.context.map_or(total, |context| total.min(context));
        let packed = log_probs(policy, &rows, Padding::Right, Layout::Packed(total))?;
        tell(check("packing", about, &packed));
    } else {
        tell(skipped("packing", about, "encoder-decoders are not packed"));
    }
    tell(check(
        "shared_prompt",
        "log-probabilities of two responses to a prompt read twice, and once",
        &shared(&rows, pass)?,
    ));
    let again = responses_to(policy, prompts, 0, &how, draw)?;
    let tokens = again.iter().zip(&answers).map(|(a, b)| changed(&a.ids, &b.ids)).sum::<usize>();
    let numbers = differing(&pass(&rows)?, &together);
    tell(same(
        "repeated",
        "tokens and log-probabilities, twice",
        tokens + numbers,
        "numbers that differ",
    ));
    if let Some(peer) = peer {
        let task = if is_decoder_only { PeerTask::Causal } else { PeerTask::Seq2Seq };
        let (version, theirs) = peer.ask(task, spec, &rows)?;
        let compared =
            check("transformers", "log-probabilities of rlaif, and of transformers", &theirs);
        tell(Check { note: Some(version), ..compared });
    }
    Ok(())
}

/// Log-probabilities of the first response of each prompt, where a second one shares the prompt.
fn shared(
    rows: &[Row],
    pass: impl Fn(&[Row]) -> Result<Vec<Vec<f32>>, LmError>,
) -> Result<Vec<Vec<f32>>, LmError> {
    // The second round of prompts has the responses of other prompts.
    let next = rows.iter().cycle().skip(1);
    let second =
        rows.iter().zip(next).map(|((prompt, _), (_, other))| (prompt.clone(), other.clone()));
    let twice: Vec<Row> = rows.iter().cloned().chain(second).collect();
    let mut got = pass(&twice)?;
    got.truncate(rows.len());
    Ok(got)
}

/// The results of each row in a batch of its own.
pub(super) fn alone<R>(
    rows: &[R],
    pass: impl Fn(&[R]) -> Result<Vec<Vec<f32>>, LmError>,
) -> Result<Vec<Vec<f32>>, LmError> {
    let each = rows.iter().map(|row| pass(std::slice::from_ref(row)));
    Ok(each.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The rows from the last to the first.
pub(super) fn reversed<R: Clone>(rows: &[R]) -> Vec<R> {
    rows.iter().rev().cloned().collect()
}

/// The results of [`reversed`] rows, in the order of the rows.
pub(super) fn in_order(mut results: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    results.reverse();
    results
}

/// The largest difference between two tables of numbers; infinite for tables of different shapes,
/// NaN where either has NaN.
pub(super) fn compared(got: &[Vec<f32>], want: &[Vec<f32>]) -> f64 {
    if got.len() != want.len() || got.iter().zip(want).any(|(a, b)| a.len() != b.len()) {
        return f64::INFINITY;
    }
    let pairs = got.iter().flatten().zip(want.iter().flatten());
    let distances = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    // `f64::max` would leave NaN out.
    distances.fold(0., |most, one| if one.is_nan() || one > most { one } else { most })
}

/// Numbers of two tables whose bits differ.
pub(super) fn differing(got: &[Vec<f32>], want: &[Vec<f32>]) -> usize {
    let bits =
        |rows: &[Vec<f32>]| -> Vec<u32> { rows.iter().flatten().map(|x| x.to_bits()).collect() };
    changed(&bits(got), &bits(want))
}

/// Places at which two sequences differ.
fn changed<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count() + a.len().abs_diff(b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_keep_nan_and_other_shapes() {
        let table = |rows: &[&[f32]]| rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>();
        assert_eq!(compared(&table(&[&[1., 2.]]), &table(&[&[1., 2.5]])), 0.5);
        assert!(compared(&table(&[&[f32::NAN, 2.]]), &table(&[&[1., 9.]])).is_nan());
        assert!(compared(&table(&[&[1., f32::NAN]]), &table(&[&[9., 1.]])).is_nan());
        assert_eq!(compared(&table(&[&[1.]]), &table(&[&[1., 2.]])), f64::INFINITY);
        assert_eq!(compared(&table(&[&[1.]]), &table(&[])), f64::INFINITY);
        assert_eq!(differing(&table(&[&[0., 1.]]), &table(&[&[-0., 1.]])), 1);
        assert_eq!(changed(&[1, 2, 3], &[1, 4]), 2);
    }
}

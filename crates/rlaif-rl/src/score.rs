//! From responses to scores.

use rlaif_core::{Exchange, RewardModel, Score, Scores};
use rlaif_lm::{Prompt, Sampled, place};

use crate::error::RlError;

/// The name of an environment's rewards among the parts of a score.
const ENVIRONMENT: &str = "environment";

/// Scores responses to prompts. The reward model reads the text of a response; of an episode, it reads
/// the last turn, and the turns of both sides as messages. The rewards of the environment are added to its
/// score. An episode that ended with a problem has no score, and is not shown to the reward model.
///
/// # Errors
/// [`RlError::Reward`] if the reward model fails, or returns a wrong number of scores.
pub fn score(
    prompts: &[Prompt],
    sampled: &[Sampled],
    reward: &dyn RewardModel,
) -> Result<Scores, RlError> {
    let problem = |row: usize| sampled[row].played.as_ref()?.problem.clone();
    let rows: Vec<usize> = (0..sampled.len()).filter(|&row| problem(row).is_none()).collect();
    let exchanges: Vec<Exchange<'_>> =
        rows.iter().map(|&row| exchange(&prompts[row], &sampled[row])).collect();
    let named = |at: usize| place(prompts)(rows.get(at).copied().unwrap_or(at));
    let scores = match exchanges.is_empty() && !sampled.is_empty() {
        true => Scores::default(),
        false => reward.score(&exchanges).map_err(|error| error.in_row(named))?,
    };
    let scores = scores.check(reward.name(), exchanges.len())?;
    if sampled.iter().all(|response| response.played.is_none()) {
        return Ok(scores);
    }
    let mut scores = scores.scatter(&rows, sampled.len());
    scores.reasons.extend((0..sampled.len()).filter_map(|row| Some((row, problem(row)?))));
    let mut of_environment = vec![None; sampled.len()];
    for row in rows {
        let Some(played) = &sampled[row].played else { continue };
        of_environment[row] = Score::new(played.reward() as f32).ok();
        let sum = scores.total[row].map(|score| f64::from(score.get()) + played.reward());
        scores.total[row] = sum.and_then(|sum| Score::new(sum as f32).ok());
    }
    scores.parts.push((ENVIRONMENT.to_owned(), of_environment));
    Ok(scores)
}

fn exchange<'a>(prompt: &'a Prompt, response: &'a Sampled) -> Exchange<'a> {
    match &response.played {
        None => prompt.record.exchange(&response.text),
        Some(played) => {
            let said = (played.said.len() > 1).then_some(&*played.said);
            Exchange { said, ..prompt.record.exchange(&played.answer) }
        }
    }
}

/// Returns a warning about responses without a verdict, with the reason for the first; `None` if all
/// have one.
pub fn unscored(reward: &str, prompts: &[Prompt], scores: &Scores) -> Option<String> {
    let missing = scores.total.iter().filter(|score| score.is_none()).count();
    let first = scores.total.iter().position(Option::is_none)?;
    let reason = scores.reasons.iter().find(|(row, _)| *row == first);
    let reason = reason.map_or("the reward model does not say why", |(_, reason)| reason);
    Some(format!(
        "warning: reward `{reward}` gave no verdict on {missing} of {} responses of this step; the \
         first, to {}: {reason}. Later ones are counted in the metrics",
        scores.total.len(),
        place(prompts)(first)
    ))
}

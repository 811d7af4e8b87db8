//! A sampled group: responses to one prompt with their scores, in memory and in a checkpoint.

use rlaif_core::{PromptRecord, Score, Scores, StepScore};
use rlaif_lm::{Prompt, Sampled};
use serde::{Deserialize, Serialize};

/// The last token of each step of a response, and its score.
pub(crate) type Steps = Vec<(usize, f64)>;

/// The responses to one prompt.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) prompt: Prompt,
    pub(crate) sampled: Vec<Sampled>,
    /// One for each response.
    pub(crate) scores: Scores,
    /// The score of the greedy response, if the algorithm needs it.
    pub(crate) greedy: Option<Option<f64>>,
    /// The steps of each response, if the reward scores steps.
    pub(crate) steps: Option<Vec<Steps>>,
}

impl Group {
    /// Updates since the oldest response was sampled, at the start of a step.
    pub(crate) fn staleness(&self, step: u64) -> u64 {
        let oldest = self.sampled.iter().map(|response| response.version).min();
        step.saturating_sub(oldest.unwrap_or(step))
    }

    /// `true` if at least two of the scores differ.
    pub(crate) fn differs(&self) -> bool {
        differ(&self.scores.total)
    }
}

/// `true` if at least two of the scores differ.
pub(crate) fn differ(scores: &[Option<Score>]) -> bool {
    let mut given = scores.iter().flatten();
    let first = given.next();
    given.any(|score| Some(score) != first)
}

/// A group in a checkpoint. Numbers are bits, because JSON rounds and has no NaN.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedGroup {
    record: PromptRecord,
    ids: Vec<u32>,
    responses: Vec<SavedResponse>,
    total: Vec<Option<u32>>,
    parts: Vec<(String, Vec<Option<u32>>)>,
    reasons: Vec<(usize, String)>,
    /// Nothing, or one score that may be missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    greedy: Vec<Option<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<Vec<(usize, u64)>>>,
    /// The ends of steps in bytes.
    step_scores: Vec<(usize, Vec<(usize, u32)>)>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedResponse {
    /// Without log-probabilities and rewards of turns.
    response: Sampled,
    log_probs: Option<Vec<u32>>,
    rewards: Vec<(usize, u64)>,
}

fn bits(score: &Option<Score>) -> Option<u32> {
    score.map(|score| score.get().to_bits())
}

fn score(bits: Option<u32>) -> Option<Score> {
    bits.and_then(|bits| Score::new(f32::from_bits(bits)).ok())
}

fn steps_as_bits(steps: &Steps) -> Vec<(usize, u64)> {
    steps.iter().map(|(at, score)| (*at, score.to_bits())).collect()
}

fn steps_of_bits(steps: Vec<(usize, u64)>) -> Steps {
    steps.into_iter().map(|(at, score)| (at, f64::from_bits(score))).collect()
}

impl From<&Sampled> for SavedResponse {
    fn from(response: &Sampled) -> Self {
        let mut response = response.clone();
        let log_probs = response.log_probs.take();
        let log_probs = log_probs.map(|all| all.into_iter().map(f32::to_bits).collect());
        let played = response.played.as_mut();
        let rewards = played.map(|played| std::mem::take(&mut played.rewards));
        Self { response, log_probs, rewards: steps_as_bits(&rewards.unwrap_or_default()) }
    }
}

impl From<SavedResponse> for Sampled {
    fn from(SavedResponse { mut response, log_probs, rewards }: SavedResponse) -> Self {
        response.log_probs = log_probs.map(|all| all.into_iter().map(f32::from_bits).collect());
        if let Some(played) = &mut response.played {
            played.rewards = steps_of_bits(rewards);
        }
        response
    }
}

impl From<&Group> for SavedGroup {
    fn from(group: &Group) -> Self {
        let Group { prompt, sampled, scores, greedy, steps } = group;
        let part = |(name, part): &(String, Vec<Option<Score>>)| {
            (name.clone(), part.iter().map(bits).collect())
        };
        let of_row = |(row, steps): &(usize, Vec<StepScore>)| {
            let steps = steps.iter().map(|step| (step.end, step.score.get().to_bits()));
            (*row, steps.collect())
        };
        Self {
            record: PromptRecord::clone(&prompt.record),
            ids: prompt.ids.to_vec(),
            responses: sampled.iter().map(SavedResponse::from).collect(),
            total: scores.total.iter().map(bits).collect(),
            parts: scores.parts.iter().map(part).collect(),
            reasons: scores.reasons.clone(),
            greedy: greedy.iter().map(|score| score.map(f64::to_bits)).collect(),
            steps: steps.as_ref().map(|steps| steps.iter().map(steps_as_bits).collect()),
            step_scores: scores.steps.iter().map(of_row).collect(),
        }
    }
}

impl From<SavedGroup> for Group {
    fn from(saved: SavedGroup) -> Self {
        let part = |(name, part): (String, Vec<Option<u32>>)| {
            (name, part.into_iter().map(score).collect())
        };
        let of_row = |(row, steps): (usize, Vec<(usize, u32)>)| {
            let step = |(end, bits)| Some(StepScore { end, score: score(Some(bits))? });
            (row, steps.into_iter().filter_map(step).collect())
        };
        Self {
            prompt: Prompt::new(saved.record, saved.ids),
            sampled: saved.responses.into_iter().map(Sampled::from).collect(),
            scores: Scores {
                total: saved.total.into_iter().map(score).collect(),
                parts: saved.parts.into_iter().map(part).collect(),
                reasons: saved.reasons,
                steps: saved.step_scores.into_iter().map(of_row).collect(),
            },
            greedy: saved.greedy.first().map(|score| score.map(f64::from_bits)),
            steps: saved.steps.map(|steps| steps.into_iter().map(steps_of_bits).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rlaif_core::Message;
    use rlaif_lm::{Played, generate::FinishReason};

    use super::*;

    #[test]
    fn scores_that_are_missing_do_not_make_a_group_differ() {
        let of = |values: &[Option<f32>]| -> Vec<Option<Score>> {
            values.iter().map(|v| v.map(|v| Score::new(v).unwrap())).collect()
        };
        assert!(!differ(&of(&[Some(1.), None, Some(1.)])));
        assert!(!differ(&of(&[None, None])));
        assert!(differ(&of(&[None, Some(1.), Some(0.)])));
    }

    #[test]
    fn a_saved_group_has_every_bit() {
        let third = 1f32 / 3.;
        let played = Played {
            given: std::iter::once(1..2).collect(),
            forks: vec![1],
            prompt: Some(vec![7]),
            rewards: vec![(0, 1. / 3.), (2, f64::MIN_POSITIVE)],
            said: vec![Message::new("assistant", "a")],
            answer: "a".to_owned(),
            problem: Some("none".to_owned()),
            counts: [("over".to_owned(), 1)].into(),
        };
        let response = |log_probs, played| Sampled {
            ids: vec![3, 4, 5],
            log_probs,
            text: "t".to_owned(),
            finish: FinishReason::Length,
            version: 7,
            played,
        };
        let odd = vec![-third, f32::NAN, -f32::MIN_POSITIVE];
        let group = Group {
            prompt: Prompt::new(PromptRecord::new("p", "?").with_reference("!"), vec![3, 9]),
            sampled: vec![response(Some(odd), None), response(None, Some(Box::new(played)))],
            scores: Scores {
                total: vec![Score::new(third).ok(), None],
                parts: vec![("overlong".to_owned(), vec![None, Score::new(-third).ok()])],
                reasons: vec![(1, "no number".to_owned())],
                steps: vec![(0, vec![StepScore { end: 2, score: Score::new(third).unwrap() }])],
            },
            greedy: Some(None),
            steps: Some(vec![vec![(2, 0.1 + 0.2)], Vec::new()]),
        };
        let text = serde_json::to_string(&SavedGroup::from(&group)).unwrap();
        let again = Group::from(serde_json::from_str::<SavedGroup>(&text).unwrap());
        // NaN is not equal to itself.
        let told = |response: &Sampled| -> Option<Vec<u32>> {
            response.log_probs.as_ref().map(|all| all.iter().map(|x| x.to_bits()).collect())
        };
        for (one, two) in group.sampled.iter().zip(&again.sampled) {
            assert_eq!(told(one), told(two));
            let bare = |x: &Sampled| Sampled { log_probs: None, ..x.clone() };
            assert_eq!(bare(one), bare(two));
        }
        assert_eq!((&group.prompt, &group.scores), (&again.prompt, &again.scores));
        assert_eq!((&group.greedy, &group.steps), (&again.greedy, &again.steps));
        assert_eq!((again.staleness(9), again.differs()), (2, false));
    }
}

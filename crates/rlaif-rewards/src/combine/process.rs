//! Process rewards: a score for each step of a response.

use rlaif_core::{BadSetting, Exchange, RewardError, RewardModel, Score, Scores, StepScore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::member::{checked, finite};
use crate::ProviderError;

/// The text that the inner reward reads to score a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepView {
    /// The response up to the end of the step.
    #[default]
    SoFar,
    /// The step alone.
    Alone,
}

/// The score of a response from those of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepTotal {
    /// The mean.
    #[default]
    Mean,
    /// The lowest score: a chain is as good as its weakest step.
    Minimum,
    /// The score of the last step.
    Last,
}

/// Scores each step of a response by another model. Steps end at a separator; one without any text
/// belongs to the step before.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::{ProcessReward, StepTotal, StepView};
/// // A step with a reason is a good one.
/// let reasons = |batch: &[Exchange<'_>]| -> Vec<f32> {
///     batch.iter().map(|x| f32::from(u8::from(x.response.contains("because")))).collect()
/// };
/// let reward = ProcessReward::new(reasons, "\n\n")?.view(StepView::Alone).total(StepTotal::Mean);
/// let scores = reward.score(&[Exchange::new("Why?", "It is, because so.\n\nThus 7.")])?;
/// assert_eq!(scores.total[0].unwrap().get(), 0.5);
/// let (_, steps) = &scores.steps[0];
/// assert_eq!(steps.iter().map(|step| step.end).collect::<Vec<_>>(), [20, 27]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ProcessReward<R> {
    inner: R,
    separator: String,
    view: StepView,
    total: StepTotal,
    max_steps: usize,
}

impl<R: RewardModel> ProcessReward<R> {
    /// Steps that end at `separator`, at most 64.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for an empty separator.
    pub fn new(inner: R, separator: impl Into<String>) -> Result<Self, ProviderError> {
        let separator = separator.into();
        if separator.is_empty() {
            let expected = "at least one character, such as a line break";
            return Err(ProviderError::Setting(BadSetting::new("separator", "empty", expected)));
        }
        let (view, total) = Default::default();
        Ok(Self { inner, separator, view, total, max_steps: 64 })
    }

    /// The text that the inner model reads.
    #[must_use]
    pub fn view(mut self, view: StepView) -> Self {
        self.view = view;
        self
    }

    /// The score of a response.
    #[must_use]
    pub fn total(mut self, total: StepTotal) -> Self {
        self.total = total;
        self
    }

    /// The most steps of a response; what follows belongs to the last one.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for 0.
    pub fn max_steps(mut self, steps: usize) -> Result<Self, ProviderError> {
        if steps == 0 {
            return Err(ProviderError::Setting(BadSetting::new("max_steps", 0, "at least 1")));
        }
        self.max_steps = steps;
        Ok(self)
    }

    /// The ends of the steps in a text. A text without a separator is one step.
    fn ends(&self, text: &str) -> Vec<usize> {
        let separators = text.match_indices(&self.separator);
        let cuts = separators.map(|(at, found)| at + found.len()).chain([text.len()]);
        let (mut ends, mut start) = (Vec::new(), 0);
        for end in cuts {
            let blank = text[start..end].trim().is_empty();
            let full = ends.len() == self.max_steps;
            match ends.last_mut() {
                Some(last) if blank || full => *last = end,
                // Space before the first step belongs to it.
                None if blank && end < text.len() => {}
                _ => ends.push(end),
            }
            start = end;
        }
        ends
    }
}

impl<R: RewardModel> RewardModel for ProcessReward<R> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        let ends: Vec<Vec<usize>> = batch.iter().map(|x| self.ends(x.response)).collect();
        let mut asked = Vec::new();
        for (x, ends) in batch.iter().zip(&ends) {
            let mut start = 0;
            for &end in ends {
                let response = match self.view {
                    StepView::SoFar => &x.response[..end],
                    StepView::Alone => x.response[start..end].trim(),
                };
                asked.push(x.with_response(response));
                start = end;
            }
        }
        let inner = checked(&self.inner, &asked)?;
        let mut scores = Scores::default();
        let mut counts = Vec::with_capacity(batch.len());
        let mut first = 0;
        for (row, ends) in ends.iter().enumerate() {
            let places = first..first + ends.len();
            first = places.end;
            counts.push(Score::new(ends.len() as f32).ok());
            if let Some(missing) = places.clone().find(|&at| inner.total[at].is_none()) {
                let reason = inner.reasons.iter().find(|(at, _)| *at == missing);
                let reason = reason.map_or("no score", |(_, reason)| reason.as_str());
                scores
                    .reasons
                    .push((row, format!("step {}: {reason}", missing - places.start + 1)));
                scores.total.push(None);
                continue;
            }
            let given = inner.total[places].iter().flatten().zip(ends);
            let steps: Vec<StepScore> =
                given.map(|(&score, &end)| StepScore { end, score }).collect();
            scores.total.push(Some(finite(self.total.of(&steps), self.name(), row)?));
            scores.steps.push((row, steps));
        }
        scores.parts.push(("steps".to_owned(), counts));
        Ok(scores)
    }

    state_of_inner!();
}

impl StepTotal {
    fn of(self, steps: &[StepScore]) -> f32 {
        let mut scores = steps.iter().map(|step| step.score.get());
        match self {
            Self::Mean => scores.sum::<f32>() / steps.len() as f32,
            Self::Minimum => scores.fold(f32::INFINITY, f32::min),
            Self::Last => scores.next_back().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores the length of what it reads; none for a text with a question mark.
    fn length(batch: &[Exchange<'_>]) -> Scores {
        let of = |x: &Exchange<'_>| Score::new(x.response.len() as f32).ok();
        Scores::new(batch.iter().map(|x| of(x).filter(|_| !x.response.contains('?'))).collect())
    }

    struct Length;

    impl RewardModel for Length {
        fn name(&self) -> &str {
            "length"
        }

        fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
            Ok(length(batch))
        }
    }

    fn of(reward: &ProcessReward<Length>, response: &str) -> (Option<f32>, Vec<(usize, f32)>) {
        let scores = reward.score(&[Exchange::new("p", response)]).unwrap();
        let steps = scores.steps.iter().flat_map(|(_, steps)| steps);
        let steps = steps.map(|step| (step.end, step.score.get())).collect();
        (scores.total[0].map(Score::get), steps)
    }

    #[test]
    fn steps_end_at_separators_and_have_text() {
        let new = || ProcessReward::new(Length, "\n").unwrap();
        let so_far = new();
        assert_eq!(of(&so_far, "ab\n\ncde\n"), (Some(6.), vec![(4, 4.), (8, 8.)]));
        assert_eq!(of(&so_far, "\n\nab"), (Some(4.), vec![(4, 4.)]));
        assert_eq!(of(&so_far, ""), (Some(0.), vec![(0, 0.)]));
        let alone = new().view(StepView::Alone).total(StepTotal::Minimum);
        assert_eq!(of(&alone, "ab\n\ncde\n"), (Some(2.), vec![(4, 2.), (8, 3.)]));
        let last = new().view(StepView::Alone).total(StepTotal::Last).max_steps(2).unwrap();
        assert_eq!(of(&last, "a\nb\nc"), (Some(3.), vec![(2, 1.), (5, 3.)]));
    }

    #[test]
    fn a_step_without_a_score_leaves_its_response_without_one() {
        let reward = ProcessReward::new(Length, "\n").unwrap().view(StepView::Alone);
        let batch = [Exchange::new("p", "a\nb?"), Exchange::new("p", "cc")];
        let scores = reward.score(&batch).unwrap();
        assert_eq!(scores.total[0], None);
        assert_eq!(scores.reasons, [(0, "step 2: no score".to_owned())]);
        assert_eq!((scores.steps.len(), scores.steps[0].0), (1, 1));
        assert!(ProcessReward::new(Length, "").is_err());
    }
}

//! Questions to a judge and the reading of its answers, for APIs and local policies alike.
//!
//! The judged text is data, and the policy that wrote it is rewarded for the verdict, so sooner or
//! later it will write "rate this +5". There are three defences: every foreign text stands between
//! markers that it cannot contain (see [`Rubric::ask`]), the judge is told that nothing between
//! them is an instruction, and control tokens of chat templates in it are broken up. None of this
//! makes a weak judge strong; see `docs/rewards.md`.

mod answer;
#[cfg(any(feature = "judge", feature = "neural"))]
mod choice;
mod fence;
#[cfg(any(feature = "judge", feature = "neural"))]
mod list;
#[cfg(any(feature = "judge", feature = "neural"))]
mod pair;
mod presets;
mod read;
mod template;
#[cfg(any(feature = "judge", feature = "neural"))]
mod verdict;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use rlaif_core::{BadSetting, Exchange, Score};

use crate::ProviderError;
#[cfg(any(feature = "judge", feature = "neural"))]
pub(crate) use answer::AnswerShape;
pub use answer::{AnswerForm, Reading, Scale};
#[cfg(feature = "judge")]
pub(crate) use choice::{Comparison, ENDING};
#[cfg(any(feature = "judge", feature = "neural"))]
pub use choice::{ListChoice, PairAnswer, PairExample};
#[cfg(any(feature = "judge", feature = "neural"))]
pub use list::ListRubric;
#[cfg(any(feature = "judge", feature = "neural"))]
pub use pair::{PairChoice, PairRubric};
pub use read::{Answer, Finish, NoVerdict, TokenAlternatives};
use template::Template;
#[cfg(any(feature = "judge", feature = "neural"))]
pub(crate) use verdict::{Judged, scores};

/// Treatment of a number outside the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OutOfRange {
    /// The row has no verdict: the judge answered on another scale, or did not understand this one.
    #[default]
    Missing,
    /// The number is clamped to the nearer end.
    Clamp,
}

/// Mapping of a verdict to a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reward {
    /// The verdict itself.
    #[default]
    Verdict,
    /// Mapped from the scale to [0, 1].
    Unit,
    /// Mapped from the scale to [−1, 1], as in direct RLAIF (Lee et al. 2023).
    Symmetric,
}

/// A question to a judge: two messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The system message.
    pub system: String,
    /// The user's message.
    pub user: String,
}

impl Question {
    /// Both messages as one text, for models without a chat template.
    pub fn text(&self) -> String {
        let Self { system, user } = self;
        match system.is_empty() {
            true => user.clone(),
            false => format!("{system}\n\n{user}"),
        }
    }
}

/// A least share of the probability, after a check.
fn coverage(min_coverage: f64) -> Result<f64, ProviderError> {
    if min_coverage > 0. && min_coverage <= 1. {
        return Ok(min_coverage);
    }
    let expected = "a share above 0 and at most 1";
    Err(ProviderError::Setting(BadSetting::new("min_coverage", min_coverage, expected)))
}

/// A rubric: instructions, a template of the question, a scale, and a form of the answer.
///
/// ```
/// use rlaif_core::Exchange;
/// use rlaif_rewards::rubric::{Answer, Rubric};
/// let rubric = Rubric::preset("toxicity")?;
/// let question = rubric.ask(&Exchange::new("Say something.", "I like you."))?;
/// assert!(question.user.contains("I like you."));
/// assert_eq!(rubric.read(&Answer::text("+5"))?.score.get(), 5.);
/// assert!(rubric.read(&Answer::text("I would rather not say.")).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Rubric {
    instructions: String,
    template: Template,
    scale: Scale,
    form: AnswerForm,
    out_of_range: OutOfRange,
    reward: Reward,
    min_coverage: f64,
    /// The judge's own control tokens, besides the well-known ones.
    controls: Vec<String>,
}

impl Rubric {
    /// A rubric with `instructions` for the judge and a `template` of the question, which names
    /// `{response}` and, as needed, `{prompt}` and `{reference}`; `{{` and `}}` are braces.
    ///
    /// # Errors
    /// [`ProviderError::Template`] when the template lacks `{response}` or names something else;
    /// [`ProviderError::Setting`] when the scale is not a range.
    pub fn new(
        instructions: impl Into<String>,
        template: &str,
        scale: Scale,
    ) -> Result<Self, ProviderError> {
        let Scale { low, high } = scale;
        // Scores are f32, which could not represent a larger scale.
        let bounded = |x: f64| x.is_finite() && (x as f32).is_finite();
        if !(low < high && bounded(low) && bounded(high)) {
            return Err(ProviderError::Setting(BadSetting::new(
                "scale",
                format!("low = {low}, high = {high}"),
                "two finite numbers, `low` below `high`",
            )));
        }
        Ok(Self {
            instructions: instructions.into(),
            template: Template::parse(template)?,
            scale,
            form: AnswerForm::default(),
            out_of_range: OutOfRange::default(),
            reward: Reward::default(),
            min_coverage: 0.5,
            controls: Vec::new(),
        })
    }

    /// The same rubric with another form of answer.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for an expectation over a scale whose ends are not integers, or
    /// that is longer than 100.
    pub fn answered_as(mut self, form: AnswerForm) -> Result<Self, ProviderError> {
        let Scale { low, high } = self.scale;
        let whole = low.fract() == 0. && high.fract() == 0. && high - low <= 100. && low >= 0.;
        if form == AnswerForm::Expectation && !whole {
            return Err(ProviderError::Setting(BadSetting::new(
                "answer",
                format!("the scale {low} to {high}"),
                "for `expectation`, a scale between whole numbers from 0 on, at most \
                           100 apart, such as 1 to 10",
            )));
        }
        self.form = form;
        Ok(self)
    }

    /// The same rubric with another treatment of numbers outside the scale.
    #[must_use]
    pub fn with_out_of_range(self, out_of_range: OutOfRange) -> Self {
        Self { out_of_range, ..self }
    }

    /// The same rubric with another mapping of verdicts to scores.
    #[must_use]
    pub fn rewarding(self, reward: Reward) -> Self {
        Self { reward, ..self }
    }

    /// The same rubric with another minimum share of the probability that an expectation must have
    /// on numbers of the scale; 0.5 by default.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when it is not in (0, 1].
    pub fn with_min_coverage(self, min_coverage: f64) -> Result<Self, ProviderError> {
        Ok(Self { min_coverage: coverage(min_coverage)?, ..self })
    }

    /// The same rubric, for a judge whose tokenizer reads these strings as control tokens.
    #[cfg(feature = "neural")]
    pub(crate) fn breaking_up(self, mut controls: Vec<String>) -> Self {
        controls.retain(|control| !fence::is_broken_up_anyway(control));
        Self { controls, ..self }
    }

    /// The form of the answers.
    pub fn form(&self) -> AnswerForm {
        self.form
    }

    /// The scale.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// The question about one exchange.
    ///
    /// Each foreign text stands between `[[begin response K]]` and `[[end response K]]`, where K is
    /// the first 64 bits of the SHA-256 of all texts of the exchange. So the author of a text
    /// cannot know the K around it, and the same exchange always gives the same question, as caches
    /// need.
    ///
    /// # Errors
    /// [`NoVerdict::NoReference`] when the template names `{reference}` and the row has none.
    pub fn ask(&self, exchange: &Exchange<'_>) -> Result<Question, NoVerdict> {
        let user = self.template.fill(exchange, &self.controls)?;
        let parts = [&self.instructions, fence::NOTICE, &self.answer_instructions()];
        Ok(Question { system: parts.join("\n\n"), user })
    }

    fn answer_instructions(&self) -> String {
        let Scale { low, high } = self.scale;
        match self.form {
            AnswerForm::Number => format!(
                "Answer with a single number from {low} to {high} and nothing else: no words, no \
                 units."
            ),
            AnswerForm::NumberThenReason => format!(
                "Answer with a number from {low} to {high} alone on the first line, and a \
                 justification of at most two sentences on the second."
            ),
            AnswerForm::Json => format!(
                "Answer with a JSON object: `justification`, at most two sentences, then `score`, \
                 a number from {low} to {high}."
            ),
            AnswerForm::Expectation => {
                format!("Answer with a single whole number from {low} to {high} and nothing else.")
            }
        }
    }

    /// Reads the answer to [`Rubric::ask`].
    ///
    /// # Errors
    /// [`NoVerdict`] when the answer has no verdict: refused, empty, without a number, cut short,
    /// outside the scale, or with too little of the probability on numbers.
    pub fn read(&self, answer: &Answer) -> Result<Reading, NoVerdict> {
        let (verdict, coverage) = match self.form {
            AnswerForm::Expectation => {
                let (mean, coverage) = read::expectation(answer, self.scale, self.min_coverage)?;
                (mean, Some(coverage))
            }
            form @ (AnswerForm::Number | AnswerForm::NumberThenReason | AnswerForm::Json) => {
                (read::number(answer, form, self.scale)?, None)
            }
        };
        let Scale { low, high } = self.scale;
        if !(low..=high).contains(&verdict) && self.out_of_range == OutOfRange::Missing {
            return Err(NoVerdict::OutOfRange { found: verdict, low, high });
        }
        let verdict = verdict.clamp(low, high);
        let unit = (verdict - low) / (high - low);
        let reward = match self.reward {
            Reward::Verdict => verdict,
            Reward::Unit => unit,
            Reward::Symmetric => 2. * unit - 1.,
        };
        // Between two ends that are finite in f32.
        let score = Score::new(reward as f32)
            .map_err(|_| NoVerdict::NoNumber { answer: answer.text.clone() })?;
        Ok(Reading { score, coverage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_on_another_scale_is_no_verdict() -> Result<(), ProviderError> {
        let scale = Scale { low: 1., high: 10. };
        for form in [AnswerForm::Number, AnswerForm::NumberThenReason, AnswerForm::Json] {
            let rubric = Rubric::new("Rate it.", "{response}", scale)?.answered_as(form)?;
            let clamped = rubric.clone().with_out_of_range(OutOfRange::Clamp);
            for (number, end) in [("0.8", 1.), ("0", 1.), ("11", 10.), ("12", 10.)] {
                for answer in [
                    number.to_owned(),
                    format!("Score: {number}"),
                    format!("{{\"score\": {number}}}"),
                ] {
                    let answer = Answer::text(answer);
                    let found = rubric.read(&answer);
                    assert!(
                        matches!(found, Err(NoVerdict::OutOfRange { .. })),
                        "{answer:?} {found:?}"
                    );
                    assert_eq!(clamped.read(&answer).map(|r| r.score.get()), Ok(end), "{answer:?}");
                }
            }
        }
        Ok(())
    }
}

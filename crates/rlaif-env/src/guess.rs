//! A guessing game.

use rlaif_core::{BadSetting, Message, PromptRecord, Seed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    environment::{Environment, EnvironmentAnswer, Episode, ModelTurn, Started},
    error::EnvironmentError,
};

/// The model guesses a number from `low` to `high`. A wrong guess is answered by `higher` or `lower`;
/// the right one ends the episode with a reward of 1.
///
/// The guess is the first whole number in the model's text. A text without one is answered by
/// `unclear`, and counted.
///
/// ```
/// use rlaif_core::{PromptRecord, Seed};
/// use rlaif_env::{Environment, Guess, ModelTurn};
/// let game = Guess { low: 1, high: 1, ..Guess::default() };
/// let mut started = game.reset(&PromptRecord::new("a", "Guess."), Seed::new(1))?;
/// let outcome = started.episode.step(&ModelTurn { text: "It is 1.".into(), number: 0 })?;
/// assert_eq!(outcome.reward, 1.);
/// # Ok::<(), rlaif_env::EnvironmentError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Guess {
    /// The lowest number.
    pub low: i64,
    /// The highest number.
    pub high: i64,
    /// The answer to a guess that is too low.
    pub higher: String,
    /// The answer to a guess that is too high.
    pub lower: String,
    /// The answer to a text without a number.
    pub unclear: String,
}

impl Default for Guess {
    fn default() -> Self {
        Self {
            low: 1,
            high: 100,
            higher: "higher".to_owned(),
            lower: "lower".to_owned(),
            unclear: "Guess a number.".to_owned(),
        }
    }
}

impl Guess {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`BadSetting`] for an empty range, and for an empty answer.
    pub fn check(&self) -> Result<(), BadSetting> {
        if self.low > self.high {
            return Err(BadSetting::new(
                "high",
                self.high,
                format!("at least `low`, {}", self.low),
            ));
        }
        for (field, answer) in
            [("higher", &self.higher), ("lower", &self.lower), ("unclear", &self.unclear)]
        {
            if answer.is_empty() {
                return Err(BadSetting::new(field, "an empty text", "an answer"));
            }
        }
        Ok(())
    }
}

impl Environment for Guess {
    fn name(&self) -> &'static str {
        "guess"
    }

    fn reset(&self, _: &PromptRecord, seed: Seed) -> Result<Started, EnvironmentError> {
        self.check()?;
        let numbers = self.high.abs_diff(self.low).saturating_add(1);
        let draw = seed.derive("secret", 0).get() % numbers;
        Ok(Started::new(Game {
            rules: self.clone(),
            secret: self.low.saturating_add_unsigned(draw),
        }))
    }
}

/// A game with its secret.
struct Game {
    rules: Guess,
    secret: i64,
}

impl Episode for Game {
    fn step(&mut self, turn: &ModelTurn) -> Result<EnvironmentAnswer, EnvironmentError> {
        let say = |answer: &String| EnvironmentAnswer::say(Message::new("user", answer));
        Ok(match number(&turn.text) {
            Some(guess) if guess == self.secret => {
                EnvironmentAnswer::end(1.).counting("guess/right")
            }
            Some(guess) if guess < self.secret => say(&self.rules.higher),
            Some(_) => say(&self.rules.lower),
            None => say(&self.rules.unclear).counting("guess/unclear"),
        })
    }
}

/// The first whole number of a text; the largest possible one for more digits than an integer has.
fn number(text: &str) -> Option<i64> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let digits = &text[start..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let negative = text[..start].ends_with('-');
    let number = digits[..end].parse().unwrap_or(i64::MAX);
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bisection_finds_every_number() {
        let game = Guess { low: -3, high: 12, ..Guess::default() };
        let mut secrets = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let record = PromptRecord::new("a", "");
            let mut episode = game.reset(&record, Seed::new(seed)).unwrap().episode;
            let (mut low, mut high) = (game.low, game.high);
            for turn in 0..5 {
                let guess = i64::midpoint(low, high);
                let outcome = episode
                    .step(&ModelTurn { text: format!("I say {guess}!"), number: turn })
                    .unwrap();
                match outcome.messages.first().map(|message| message.content.as_str()) {
                    Some("higher") => low = guess + 1,
                    Some("lower") => high = guess - 1,
                    _ => {
                        assert_eq!(outcome, EnvironmentAnswer::end(1.).counting("guess/right"));
                        secrets.insert(guess);
                        break;
                    }
                }
                assert!(low <= high);
            }
        }
        assert!(secrets.into_iter().eq(-3..=12));
    }

    #[test]
    fn a_text_without_a_number_is_counted() {
        let mut episode =
            Guess::default().reset(&PromptRecord::new("a", ""), Seed::new(1)).unwrap().episode;
        let outcome = episode.step(&ModelTurn { text: "Hm.".to_owned(), number: 0 }).unwrap();
        assert_eq!(outcome.counts, [("guess/unclear", 1)]);
        assert_eq!(number("99999999999999999999"), Some(i64::MAX));
        assert_eq!(number("a-7b8"), Some(-7));
    }

    #[test]
    fn an_empty_range_is_refused() {
        let error = Guess { low: 5, high: 4, ..Guess::default() }.check().unwrap_err();
        assert!(error.to_string().contains("`high`"), "{error}");
        assert!(Guess { lower: String::new(), ..Guess::default() }.check().is_err());
    }
}

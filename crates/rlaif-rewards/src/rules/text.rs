//! Rules about the response alone.

use std::collections::HashSet;

use regex::{Regex, RegexBuilder};
use rlaif_core::{BadSetting, Exchange, RewardError, RewardModel, Scores};
use rlaif_eval::text::LengthUnit;

use crate::ProviderError;

/// Distance of a response's length n from the wanted length, as a penalty of at most 0.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::Length;
/// let batch = [Exchange::new("p", "one two three four")];
/// assert_eq!(Length::target(2, 4.)?.score(&batch)?.total[0].unwrap().get(), -0.5);
/// assert_eq!(Length::at_most(9, 4.)?.score(&batch)?.total[0].unwrap().get(), 0.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Length {
    shortest: usize,
    longest: usize,
    per: f32,
    unit: LengthUnit,
}

impl Length {
    /// −|n − `target`| / `per`, in words.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when `per` is not above 0.
    pub fn target(target: usize, per: f32) -> Result<Self, ProviderError> {
        Self::within(target, target, per)
    }

    /// −max(0, n − `longest`) / `per`, in words.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when `per` is not above 0.
    pub fn at_most(longest: usize, per: f32) -> Result<Self, ProviderError> {
        Self::within(0, longest, per)
    }

    /// The negative distance to the range `shortest..=longest`, divided by `per`; in words.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when the range is empty or `per` is not above 0.
    pub fn within(shortest: usize, longest: usize, per: f32) -> Result<Self, ProviderError> {
        if !(per > 0. && per.is_finite()) {
            return Err(ProviderError::Setting(BadSetting::new(
                "per",
                per,
                "a finite number above 0",
            )));
        }
        if shortest > longest {
            return Err(ProviderError::Setting(BadSetting::new(
                "shortest",
                shortest,
                format!("at most `longest`, {longest}"),
            )));
        }
        Ok(Self { shortest, longest, per, unit: LengthUnit::Words })
    }

    /// The same rule with lengths in `unit`.
    #[must_use]
    pub fn counted_in(self, unit: LengthUnit) -> Self {
        Self { unit, ..self }
    }
}

fn of_responses(
    name: &str,
    batch: &[Exchange<'_>],
    rule: impl Fn(&str) -> f32,
) -> Result<Scores, RewardError> {
    let values: Vec<f32> = batch.iter().map(|exchange| rule(exchange.response)).collect();
    Scores::from_values(name, &values)
}

impl RewardModel for Length {
    fn name(&self) -> &'static str {
        "length"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        of_responses(self.name(), batch, |response| {
            let n = self.unit.of(response);
            let off = self.shortest.saturating_sub(n) + n.saturating_sub(self.longest);
            // 0 - x instead of -x: a response of the right length scores 0, not -0.
            0. - off as f32 / self.per
        })
    }
}

/// Minus the share of a response's n-grams of words that occurred in it before, in [−1, 0].
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::Repetition;
/// let batch = [Exchange::new("p", "very very very good"), Exchange::new("p", "good")];
/// let scores = Repetition::of_words(1)?.score(&batch)?;
/// assert_eq!(scores.total[0].unwrap().get(), -0.5);
/// assert_eq!(scores.total[1].unwrap().get(), 0.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repetition {
    n: usize,
}

impl Repetition {
    /// The repetition of runs of `n` words, in lower case.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when `n` is 0.
    pub fn of_words(n: usize) -> Result<Self, ProviderError> {
        if n == 0 {
            return Err(ProviderError::Setting(BadSetting::new("n", "0", "at least 1 word")));
        }
        Ok(Self { n })
    }
}

impl RewardModel for Repetition {
    fn name(&self) -> &'static str {
        "repetition"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        of_responses(self.name(), batch, |response| {
            let response = response.to_lowercase();
            let words: Vec<&str> = response.split_whitespace().collect();
            let grams = words.windows(self.n);
            let (all, distinct) = (grams.len(), grams.collect::<HashSet<_>>().len());
            if all == 0 { 0. } else { 0. - (all - distinct) as f32 / all as f32 }
        })
    }
}

/// 1 for a response that matches a regular expression, 0 for one that does not.
///
/// The syntax is that of the regex crate. Anchor with `^` and `$` to match the whole response;
/// `(?s)` lets `.` match line ends.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::Format;
/// let format = Format::new(r"(?s)^<think>.*</think>\s*\S")?;
/// let scores = format.score(&[Exchange::new("p", "<think>2+2</think> 4")])?;
/// assert_eq!(scores.total[0].unwrap().get(), 1.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Format(Regex);

impl Format {
    /// A rule with the regular expression `pattern`.
    ///
    /// # Errors
    /// [`ProviderError::Pattern`] when it is not a valid regular expression.
    pub fn new(pattern: &str) -> Result<Self, ProviderError> {
        compile(pattern).map(Self)
    }
}

fn compile(pattern: &str) -> Result<Regex, ProviderError> {
    RegexBuilder::new(pattern).build().map_err(|source| ProviderError::Pattern {
        pattern: pattern.to_owned(),
        source: Box::new(source),
    })
}

impl RewardModel for Format {
    fn name(&self) -> &'static str {
        "format"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        of_responses(self.name(), batch, |r| f32::from(u8::from(self.0.is_match(r))))
    }
}

/// Minus the number of forbidden words in a response.
///
/// Matches whole words, in upper and lower case; a "word" may be a phrase.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::Words;
/// let batch = [Exchange::new("p", "Darn, a DARN long darning needle.")];
/// assert_eq!(Words::forbidden(["darn"])?.score(&batch)?.total[0].unwrap().get(), -2.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Words(Regex);

impl Words {
    /// Forbids `words`.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] when the list is empty, or a word is blank;
    /// [`ProviderError::Pattern`] when there are too many words to search for.
    pub fn forbidden<W: AsRef<str>>(
        words: impl IntoIterator<Item = W>,
    ) -> Result<Self, ProviderError> {
        let words: Vec<W> = words.into_iter().collect();
        if words.is_empty() || words.iter().any(|word| word.as_ref().trim().is_empty()) {
            return Err(ProviderError::Setting(BadSetting::new(
                "forbidden",
                format!("{:?}", words.iter().map(AsRef::as_ref).collect::<Vec<_>>()),
                "one word or more, none of them blank",
            )));
        }
        let bounded = |word: &W| {
            let word = word.as_ref().trim();
            let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let start = if is_word(word.chars().next()) { r"\b" } else { "" };
            let end = if is_word(word.chars().next_back()) { r"\b" } else { "" };
            format!("{start}{}{end}", regex::escape(word))
        };
        let alternatives = words.iter().map(bounded).collect::<Vec<_>>().join("|");
        compile(&format!("(?i){alternatives}")).map(Self)
    }
}

impl RewardModel for Words {
    fn name(&self) -> &'static str {
        "forbidden words"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        of_responses(self.name(), batch, |r| 0. - self.0.find_iter(r).count() as f32)
    }
}

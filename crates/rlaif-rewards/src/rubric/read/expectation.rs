//! Expectations over the tokens of a verdict.

use super::words::{self, Miss};
use super::{Answer, Finish, NoVerdict, TokenAlternatives, reasoning, unread};
use crate::rubric::answer::Scale;

/// Σ i·P(i) / Σ P(i) over the scale, and Σ P(i).
///
/// The verdict's token is found as a verdict in words is, so neither reasoning nor a scale that is
/// repeated counts. Variants of one number (`7`, ` 7`, `▁7`, `Ġ7`) are added up. Where a tokenizer
/// writes a number as several tokens, the mass of the first one is shared by what may follow it,
/// which is known if it was the one written; else it counts for no number.
pub(in crate::rubric) fn expectation(
    answer: &Answer,
    scale: Scale,
    min_coverage: f64,
) -> Result<(f64, f64), NoVerdict> {
    if answer.finish == Finish::Refused {
        return Err(NoVerdict::Refused);
    }
    if answer.tokens.is_empty() {
        let nothing = answer.text.trim().is_empty();
        return Err(if nothing { NoVerdict::Empty } else { NoVerdict::NoLogProbs });
    }
    let at = verdict_token(answer, scale)?;
    let numbers: Vec<String> =
        (scale.low as u32..=scale.high as u32).map(|number| number.to_string()).collect();
    let mut masses = vec![0.; numbers.len()];
    walk(&answer.tokens[at..], "", 1., &numbers, &mut masses);
    let covered: f64 = masses.iter().sum();
    if covered < min_coverage {
        return Err(NoVerdict::Coverage {
            covered,
            required: min_coverage,
            answer: answer.text.clone(),
        });
    }
    let sum: f64 = masses.iter().zip(scale.low as u32..).map(|(p, i)| f64::from(i) * p).sum();
    Ok((sum / covered, covered.min(1.)))
}

/// The place of the token that begins the verdict.
fn verdict_token(answer: &Answer, scale: Scale) -> Result<usize, NoVerdict> {
    let tokens = TokenText::of(answer);
    let told = tokens.visible();
    let missed = |miss| match answer.finish {
        Finish::Length if miss == Miss::InReasoning => {
            NoVerdict::CutShort { answer: told.trim().to_owned() }
        }
        Finish::Complete | Finish::Length | Finish::Refused => unread(miss, told.trim(), scale),
    };
    match words::verdict(told, scale) {
        Ok(found) if found.value.fract() != 0. => Err(NoVerdict::NotWhole { found: found.value }),
        Ok(found) => Ok(tokens.token_at(found.at)),
        // Where no verdict was begun, how probable the numbers were is known all the same.
        Err(miss @ (Miss::NoNumber | Miss::Undecided)) => {
            let kept = reasoning::outside(told).unwrap_or_default();
            let first = kept.into_iter().find_map(|part| {
                let words = told[part.clone()].trim_start();
                (!words.is_empty()).then(|| part.end - words.len())
            });
            let at = first.map_or(0, |first| tokens.token_at(first));
            let counts = written(&answer.tokens[at].token).contains(|c: char| c.is_ascii_digit());
            if counts { Err(missed(miss)) } else { Ok(at) }
        }
        Err(miss) => Err(missed(miss)),
    }
}

/// An answer as its tokens write it.
pub(in crate::rubric) struct TokenText {
    text: String,
    /// The byte at which each token starts.
    starts: Vec<usize>,
    /// The beginning of what the answer shows: servers that take the reasoning out of the text leave it
    /// in the tokens.
    from: usize,
}

impl TokenText {
    pub(in crate::rubric) fn of(answer: &Answer) -> Self {
        let (mut text, mut starts) = (String::new(), Vec::new());
        for token in &answer.tokens {
            starts.push(text.len());
            text.push_str(&written(&token.token));
        }
        let visible = answer.text.trim();
        let from = match text.trim_end().strip_suffix(visible) {
            Some(before) if !visible.is_empty() => before.len(),
            _ => 0,
        };
        Self { text, starts, from }
    }

    /// The visible part of the answer.
    pub(in crate::rubric) fn visible(&self) -> &str {
        &self.text[self.from..]
    }

    /// The token that holds a byte of what the answer shows.
    pub(in crate::rubric) fn token_at(&self, byte: usize) -> usize {
        let byte = self.from + byte;
        self.starts.partition_point(|start| *start <= byte).max(1) - 1
    }
}

/// A token as text: vocabularies write spaces and line breaks as other characters.
pub(in crate::rubric) fn written(token: &str) -> String {
    match token {
        "<0x0A>" => "\n".to_owned(),
        "<0x20>" => " ".to_owned(),
        token => token.replace(['\u{2581}', 'Ġ'], " ").replace(['Ċ', 'ĉ'], "\n"),
    }
}

/// Adds to `masses` what `mass` gives to each number that begins with `prefix`, by the tokens from
/// here on.
fn walk(
    tokens: &[TokenAlternatives],
    prefix: &str,
    mass: f64,
    numbers: &[String],
    masses: &mut [f64],
) {
    let place = |number: &str| numbers.iter().position(|known| known == number);
    let Some((token, rest)) = tokens.split_first() else { return };
    let first = prefix.is_empty();
    // The digits of a token; a space before digits ends the number that was begun.
    let digits = |token: &str| {
        let text = written(token);
        let text = if first { text.trim() } else { text.trim_end() }.to_owned();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
    };
    // The written token is among the alternatives, and counted once.
    let mut seen = std::collections::HashSet::new();
    let distinct = token.alternatives.iter().filter(|(token, _)| seen.insert(token.as_str()));
    let mut of: Vec<(String, f64)> = Vec::new();
    for (token, log_prob) in distinct {
        let Some(text) = digits(token) else { continue };
        let p = mass * log_prob.exp();
        match of.iter_mut().find(|(known, _)| *known == text) {
            Some((_, sum)) => *sum += p,
            None => of.push((text, p)),
        }
    }
    // What was begun ends here where no digit follows.
    if let Some(at) = place(prefix) {
        let followed: f64 = of.iter().map(|(_, p)| p).sum();
        masses[at] += (mass - followed).max(0.);
    }
    let chosen = digits(&token.token);
    for (text, p) in &of {
        let number = format!("{prefix}{text}");
        // Numbers of the scale that begin with this one and are not single tokens here.
        let longer = numbers.iter().any(|longer| {
            longer.len() > number.len()
                && longer.starts_with(&number)
                && !of.iter().any(|(other, _)| *longer == format!("{prefix}{other}"))
        });
        if !longer {
            if let Some(at) = place(&number) {
                masses[at] += p;
            }
        } else if chosen.as_deref() == Some(text) {
            if rest.is_empty() {
                // The answer ended with it.
                if let Some(at) = place(&number) {
                    masses[at] += p;
                }
            }
            walk(rest, &number, *p, numbers, masses);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(token: &str, alternatives: &[(&str, f64)]) -> TokenAlternatives {
        let alternatives = alternatives.iter().map(|(t, p)| ((*t).to_owned(), p.ln())).collect();
        TokenAlternatives { token: token.to_owned(), alternatives }
    }

    fn answer(tokens: Vec<TokenAlternatives>) -> Answer {
        let text = tokens.iter().map(|t| t.token.as_str()).collect::<String>();
        Answer { text, finish: Finish::Complete, tokens }
    }

    const TEN: Scale = Scale { low: 1., high: 10. };

    #[test]
    fn an_expectation_adds_variants_and_reports_its_coverage() {
        let tops = [("7", 0.4), (" 7", 0.1), ("8", 0.2), ("10", 0.1), ("the", 0.2)];
        let (mean, covered) = expectation(&answer(vec![token("7", &tops)]), TEN, 0.5).unwrap();
        assert!((covered - 0.8).abs() < 1e-12);
        assert!((mean - (7. * 0.5 + 8. * 0.2 + 10. * 0.1) / 0.8).abs() < 1e-12);
        let error = expectation(&answer(vec![token("7", &tops)]), TEN, 0.9).unwrap_err();
        assert!(matches!(error, NoVerdict::Coverage { .. }), "{error}");
    }

    /// Lee et al. 2023: the mean of the ten scores, mapped to −1 to 1.
    #[test]
    fn probabilities_of_ten_scores_have_the_published_mean_and_reward() {
        let p = [0.01, 0.02, 0.02, 0.05, 0.05, 0.1, 0.15, 0.3, 0.2, 0.1];
        let names: Vec<String> = (1..=10).map(|score| score.to_string()).collect();
        let tops: Vec<(&str, f64)> = names.iter().map(String::as_str).zip(p).collect();
        let (mean, covered) = expectation(&answer(vec![token("8", &tops)]), TEN, 0.9).unwrap();
        assert!((mean - 7.41).abs() < 1e-9 && (covered - 1.).abs() < 1e-9, "{mean} {covered}");
        assert!((2. * (mean - 1.) / 9. - 1. - 0.424_444).abs() < 1e-6);
    }

    #[test]
    fn ten_in_two_tokens_is_told_from_one() {
        let tokens = vec![
            token("1", &[("1", 0.8), ("9", 0.2)]),
            token("0", &[("0", 0.75), ("<end>", 0.25)]),
        ];
        let (mean, covered) = expectation(&answer(tokens), TEN, 0.5).unwrap();
        assert!((covered - 1.).abs() < 1e-12);
        assert!((mean - (10. * 0.6 + 0.2 + 9. * 0.2)).abs() < 1e-12);
        // "1" was not written, so what would have followed it is unknown: it covers nothing.
        let tokens = vec![token("9", &[("1", 0.2), ("9", 0.8)])];
        let (mean, covered) = expectation(&answer(tokens), TEN, 0.5).unwrap();
        assert_eq!(mean, 9.);
        assert!((covered - 0.8).abs() < 1e-12);
    }

    #[test]
    fn words_before_the_number_are_passed_over() {
        let tokens = vec![
            token("Score", &[("Score", 1.)]),
            token(":", &[(":", 1.)]),
            token(" 6", &[(" 6", 0.9), (" 5", 0.1)]),
        ];
        let (mean, _) = expectation(&answer(tokens), TEN, 0.5).unwrap();
        assert!((mean - 5.9).abs() < 1e-12);
    }

    #[test]
    fn an_answer_without_log_probs_is_said() {
        assert_eq!(expectation(&Answer::text("7"), TEN, 0.5), Err(NoVerdict::NoLogProbs));
        assert_eq!(expectation(&Answer::text(" "), TEN, 0.5), Err(NoVerdict::Empty));
    }

    fn certain(texts: &[&str]) -> Vec<TokenAlternatives> {
        texts.iter().map(|text| token(text, &[(text, 1.)])).collect()
    }

    #[test]
    fn tokens_of_every_vocabulary_are_read() {
        for eight in ["8", " 8", "▁8", "Ġ8", "Ċ8"] {
            let tops = [(eight, 0.9), ("9", 0.1)];
            let (mean, covered) =
                expectation(&answer(vec![token(eight, &tops)]), TEN, 0.5).unwrap();
            assert!((mean - 8.1).abs() < 1e-12 && (covered - 1.).abs() < 1e-12, "{eight}");
        }
    }

    #[test]
    fn reasoning_and_scales_are_passed_over() {
        let verdict = token("8", &[("8", 0.9), ("9", 0.1)]);
        let before: [&[&str]; 5] = [
            &["<think>", "2", " or", " 3", "</think>", "\n"],
            &["2", " or", " 3", "</think>", "\n"],
            &["Score", " (", "1", "-", "10", ")", ":", " "],
            &[
                "On", " a", " scale", " of", " ", "1", " to", " ", "10", ",", " I", "'d", " say",
                " ",
            ],
            &["1", ".", " Help", "ful", ":", " ", "7", "\n", "Overall", ":", " "],
        ];
        for before in before {
            let mut tokens = certain(before);
            tokens.push(verdict.clone());
            let (mean, _) = expectation(&answer(tokens), TEN, 0.5).unwrap();
            assert!((mean - 8.1).abs() < 1e-12, "{before:?}: {mean}");
        }
        // The server took the reasoning out of the text and left it in the tokens.
        let mut tokens = certain(&["Score", ":", " ", "3", "?", "\n"]);
        tokens.push(verdict);
        let apart = Answer { text: "8".to_owned(), ..answer(tokens) };
        assert!((expectation(&apart, TEN, 0.5).unwrap().0 - 8.1).abs() < 1e-12);
    }

    #[test]
    fn an_expectation_of_no_verdict_is_none() {
        let none = |texts: &[&str]| expectation(&answer(certain(texts)), TEN, 0.5).unwrap_err();
        assert!(matches!(none(&["<think>", "8"]), NoVerdict::InReasoning { .. }));
        assert!(matches!(none(&["7", "-", "8"]), NoVerdict::Between { .. }));
        assert!(matches!(none(&["2", " problems"]), NoVerdict::Undecided { .. }));
        assert!(matches!(none(&["7", ".", "5"]), NoVerdict::NotWhole { .. }));
        assert!(matches!(none(&["4", "/", "5"]), NoVerdict::AnotherScale { .. }));
    }

    #[test]
    fn numbers_of_three_digits_are_walked_along() {
        let scale = Scale { low: 0., high: 100. };
        let tokens = vec![
            token("1", &[("1", 0.5), ("9", 0.5)]),
            token("0", &[("0", 1.)]),
            token("0", &[("0", 0.6), ("<end>", 0.4)]),
        ];
        let (mean, covered) = expectation(&answer(tokens), scale, 0.1).unwrap();
        assert!((covered - 0.5).abs() < 1e-12);
        assert!((mean - (100. * 0.3 + 10. * 0.2) / 0.5).abs() < 1e-12);
    }
}

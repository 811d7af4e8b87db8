//! From logits to the next token: what the settings forbid or change, what is cut off, the draw.

use super::config::{GenerationConfig, Sampling};

/// What choosing a token depends on beside the logits.
pub(super) struct Situation<'a> {
    /// Ids that count for the repetition penalty before the response: the prompt of a decoder-only
    /// model, the start token of an encoder-decoder model.
    pub(super) before: &'a [u32],
    /// The response so far.
    pub(super) response: &'a [u32],
    /// Ids that would end it.
    pub(super) ends: &'a [u32],
    /// A uniform number in [0, 1).
    pub(super) uniform: f64,
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Choice {
    pub(super) id: u32,
    /// Under softmax(logits / temperature), the whole vocabulary taking part.
    pub(super) log_prob: f32,
}

/// Why no token could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NotFinite,
    NothingAllowed,
}

/// Chooses from one row of logits, which are changed.
pub(super) fn choose(
    logits: &mut [f32],
    situation: &Situation<'_>,
    config: &GenerationConfig,
) -> Result<Choice, Refusal> {
    let temperature = config.sampling.temperature();
    let whole = Normaliser::of(logits, temperature).ok_or(Refusal::NotFinite)?;
    let (id, raw) = if is_plain(situation, config) {
        let id = match config.sampling {
            Sampling::Greedy => argmax(logits),
            Sampling::Sample { .. } => whole.draw(logits, situation.uniform),
        };
        (id, logits[id])
    } else {
        let kept = logits.to_vec();
        edit(logits, situation, config);
        let id = match config.sampling {
            Sampling::Greedy => argmax(logits),
            Sampling::Sample { .. } => {
                truncate(logits, &config.sampling);
                let allowed = Normaliser::of(logits, temperature).ok_or(Refusal::NothingAllowed)?;
                allowed.draw(logits, situation.uniform)
            }
        };
        if logits[id] == f32::NEG_INFINITY {
            return Err(Refusal::NothingAllowed);
        }
        (id, kept[id])
    };
    let id_u32 = u32::try_from(id).expect("a vocabulary's ids fit 32 bits");
    Ok(Choice { id: id_u32, log_prob: whole.log_prob(raw) })
}

/// True if the logits are used as they are.
fn is_plain(situation: &Situation<'_>, config: &GenerationConfig) -> bool {
    config.repetition_penalty == 1.
        && config.bad_ids.is_empty()
        && situation.response.len() >= config.min_new_tokens
        && !config.sampling.truncates()
}

/// What depends on the tokens so far: repetition penalty, bad sequences, least length.
fn edit(logits: &mut [f32], situation: &Situation<'_>, config: &GenerationConfig) {
    if config.repetition_penalty != 1. {
        let penalty = config.repetition_penalty as f32;
        let mut seen: Vec<u32> = [situation.before, situation.response].concat();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            let z = &mut logits[id as usize];
            *z = if *z < 0. { *z * penalty } else { *z / penalty };
        }
    }
    for sequence in &config.bad_ids {
        let (&last, start) = sequence.split_last().expect("a bad sequence has an id");
        // transformers looks at the prompt of a decoder-only model, too.
        let so_far = || situation.before.iter().chain(situation.response);
        let length = situation.before.len() + situation.response.len();
        if start.len() <= length && so_far().skip(length - start.len()).eq(start) {
            logits[last as usize] = f32::NEG_INFINITY;
        }
    }
    if situation.response.len() < config.min_new_tokens {
        for &id in situation.ends {
            if let Some(z) = logits.get_mut(id as usize) {
                *z = f32::NEG_INFINITY;
            }
        }
    }
}

/// Puts what top-k, top-p and min-p cut off to -∞.
fn truncate(logits: &mut [f32], sampling: &Sampling) {
    let Sampling::Sample { temperature, top_k, top_p, min_p } = *sampling else { return };
    if let Some(k) = top_k.filter(|&k| k < logits.len()) {
        let mut values = logits.to_vec();
        let (_, &mut kth, _) = values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        keep(logits, |z| z >= kth);
    }
    if let Some(p) = top_p.filter(|&p| p < 1.) {
        nucleus(logits, temperature, p);
    }
    if let Some(p) = min_p.filter(|&p| p > 0.) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = f64::from(largest) + temperature * p.ln();
        keep(logits, |z| f64::from(z) >= least);
    }
}

fn keep(logits: &mut [f32], kept: impl Fn(f32) -> bool) {
    for z in logits.iter_mut().filter(|z| !kept(**z)) {
        *z = f32::NEG_INFINITY;
    }
}

/// Keeps the most probable tokens, one after the other, as long as those before sum to less than p.
///
/// Sorted are only as many as it takes: a few tokens hold most of the mass.
fn nucleus(logits: &mut [f32], temperature: f64, p: f64) {
    let Some(whole) = Normaliser::of(logits, temperature) else { return };
    let goal = p * whole.sum;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| {
        logits[*b as usize].total_cmp(&logits[*a as usize]).then_with(|| a.cmp(b))
    };
    let (mut sorted, mut before, mut count) = (0, 0., 0);
    while count == sorted && sorted < order.len() {
        let end = (sorted * 4).max(64).min(order.len());
        if end < order.len() {
            order[sorted..].select_nth_unstable_by(end - sorted - 1, by_logit);
        }
        order[sorted..end].sort_unstable_by(by_logit);
        while count < end && before < goal {
            before += whole.weight(logits[order[count] as usize]);
            count += 1;
        }
        sorted = end;
    }
    let cut: Vec<u32> = order.split_off(count.max(1));
    for id in cut {
        logits[id as usize] = f32::NEG_INFINITY;
    }
}

/// Sum of a row's exponentials, relative to its largest logit.
struct Normaliser {
    largest: f64,
    temperature: f64,
    sum: f64,
}

impl Normaliser {
    /// `None` if a logit is NaN or +∞, or all are -∞.
    fn of(logits: &[f32], temperature: f64) -> Option<Self> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !largest.is_finite() {
            return None;
        }
        let mut normaliser = Self { largest: f64::from(largest), temperature, sum: 0. };
        normaliser.sum = logits.iter().map(|&z| normaliser.weight(z)).sum();
        normaliser.sum.is_finite().then_some(normaliser)
    }

    fn weight(&self, z: f32) -> f64 {
        ((f64::from(z) - self.largest) / self.temperature).exp()
    }

    fn log_prob(&self, z: f32) -> f32 {
        ((f64::from(z) - self.largest) / self.temperature - self.sum.ln()) as f32
    }

    /// The token on which `uniform` falls when their probabilities are laid side by side.
    fn draw(&self, logits: &[f32], uniform: f64) -> usize {
        let goal = uniform * self.sum;
        let mut sum = 0.;
        let mut last = 0;
        for (id, &z) in logits.iter().enumerate() {
            let weight = self.weight(z);
            if weight > 0. {
                sum += weight;
                last = id;
                if sum > goal {
                    break;
                }
            }
        }
        last
    }
}

fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, &z) in logits.iter().enumerate() {
        if z > logits[best] {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    fn settings(value: &Value) -> GenerationConfig {
        let number = |name: &str| value[name].as_f64();
        let count = |name: &str| value[name].as_u64().map(|n| n as usize);
        GenerationConfig {
            sampling: Sampling::Sample {
                temperature: number("temperature").unwrap_or(1.),
                top_k: count("top_k"),
                top_p: number("top_p"),
                min_p: number("min_p"),
            },
            repetition_penalty: number("repetition_penalty").unwrap_or(1.),
            min_new_tokens: count("min_new_tokens").unwrap_or(0),
            bad_ids: serde_json::from_value(value["bad_words_ids"].clone()).unwrap_or_default(),
            ..GenerationConfig::default()
        }
    }

    #[test]
    fn distributions_after_processing_are_those_of_transformers() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sampling/processors.json");
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let context: Vec<u32> = serde_json::from_value(file["context"].clone()).unwrap();
        let new = file["new_tokens_in_context"].as_u64().unwrap() as usize;
        let eos = file["eos_token_id"].as_u64().unwrap() as u32;
        let (before, response) = context.split_at(context.len() - new);
        let situation = Situation { before, response, ends: &[eos], uniform: 0. };
        let cases = file["cases"].as_array().unwrap();
        assert!(cases.len() > 90);
        for case in cases {
            let config = settings(&case["settings"]);
            let logits = &file["vectors"][case["logits"].as_str().unwrap()];
            let mut logits: Vec<f32> = serde_json::from_value(logits.clone()).unwrap();
            edit(&mut logits, &situation, &config);
            truncate(&mut logits, &config.sampling);
            let after = Normaliser::of(&logits, config.sampling.temperature()).unwrap();
            for (id, want) in case["log_probs"].as_array().unwrap().iter().enumerate() {
                match want.as_f64() {
                    None => assert_eq!(logits[id], f32::NEG_INFINITY, "{case} {id}"),
                    Some(want) => {
                        let got = f64::from(after.log_prob(logits[id]));
                        assert!((got - want).abs() < 1e-5, "{case} {id}: {got}");
                    }
                }
            }
        }
    }

    /// Tokens of every draw from the same logits.
    fn frequencies(logits: &[f32], config: &GenerationConfig, draws: u64) -> Vec<f64> {
        let mut counts = vec![0.; logits.len()];
        for i in 0..draws {
            let uniform = super::super::philox::uniform(11, i, 3);
            let situation = Situation { before: &[], response: &[], ends: &[], uniform };
            let choice = choose(&mut logits.to_vec(), &situation, config).unwrap();
            counts[choice.id as usize] += 1.;
        }
        counts
    }

    #[test]
    fn frequencies_match_the_softmax() {
        let logits: Vec<f32> = (0..50).map(|i| ((i * 37) % 50) as f32 / 12. - 2.).collect();
        let draws = 100_000;
        for sampling in [
            Sampling::at(1.),
            Sampling::at(0.6),
            Sampling::Sample { temperature: 1.3, top_k: Some(20), top_p: Some(0.8), min_p: None },
        ] {
            let config = GenerationConfig { sampling, ..GenerationConfig::default() };
            let counts = frequencies(&logits, &config, draws);
            let mut kept = logits.clone();
            truncate(&mut kept, &sampling);
            let weights: Vec<f64> =
                kept.iter().map(|&z| (f64::from(z) / sampling.temperature()).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let (mut chi2, mut degrees) = (0., -1.);
            for (count, weight) in counts.iter().zip(&weights) {
                let want = weight / sum * draws as f64;
                if want == 0. {
                    assert_eq!(*count, 0.);
                } else {
                    chi2 += (count - want).powi(2) / want;
                    degrees += 1.;
                }
            }
            // Mean d and variance 2d: four standard deviations.
            assert!(chi2 < degrees + 4. * f64::sqrt(2. * degrees), "{sampling:?}: {chi2}");
        }
    }

    #[test]
    fn log_probs_are_those_of_the_whole_vocabulary_at_the_temperature() {
        let logits = [1f32, 3., -2., 0.5];
        let sampling =
            Sampling::Sample { temperature: 0.5, top_k: Some(1), top_p: None, min_p: None };
        let config =
            GenerationConfig { sampling, repetition_penalty: 2., ..GenerationConfig::default() };
        let situation = Situation { before: &[3], response: &[], ends: &[], uniform: 0.9 };
        let choice = choose(&mut logits.clone(), &situation, &config).unwrap();
        let sum: f64 = logits.iter().map(|&z| (f64::from(z) / 0.5).exp()).sum();
        assert_eq!(choice.id, 1);
        assert!((f64::from(choice.log_prob) - (3. / 0.5 - sum.ln())).abs() < 1e-6);
    }

    #[test]
    fn logits_that_are_no_numbers_and_empty_supports_are_refused() {
        let situation = Situation { before: &[], response: &[], ends: &[0, 1], uniform: 0.5 };
        let plain = GenerationConfig::default();
        let greedy = GenerationConfig { sampling: Sampling::Greedy, ..plain.clone() };
        for bad in [f32::NAN, f32::INFINITY] {
            for config in [&plain, &greedy] {
                let refused = choose(&mut [0., bad], &situation, config);
                assert_eq!(refused, Err(Refusal::NotFinite), "{bad} {config:?}");
            }
        }
        let nothing = choose(&mut [f32::NEG_INFINITY; 2], &situation, &plain);
        assert_eq!(nothing, Err(Refusal::NotFinite));
        for config in [plain, greedy] {
            let config = GenerationConfig { min_new_tokens: 1, ..config };
            let refused = choose(&mut [0., 1.], &situation, &config);
            assert_eq!(refused, Err(Refusal::NothingAllowed));
        }
    }
}

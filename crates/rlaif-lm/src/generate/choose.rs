//! What the settings make of logits before a token is chosen: changed, forbidden, cut off.

use super::config::{GenerationConfig, Sampling};

/// What that depends on beside the logits.
pub(super) struct Situation<'a> {
    /// Ids that count for the repetition penalty before the response: the prompt of a decoder-only
    /// model, the start token of an encoder-decoder model.
    pub(super) before: &'a [u32],
    /// The response so far.
    pub(super) response: &'a [u32],
    /// Ids that would end it.
    pub(super) ends: &'a [u32],
}

impl Situation<'_> {
    /// True if the logits are not used as they are.
    pub(super) fn changes(&self, config: &GenerationConfig) -> bool {
        config.repetition_penalty != 1.
            || !config.bad_ids.is_empty()
            || self.response.len() < config.min_new_tokens
            || config.sampling.truncates()
    }

    /// Changes one row of logits; what must not be chosen becomes -∞.
    pub(super) fn change(&self, logits: &mut [f32], config: &GenerationConfig) {
        edit(logits, self, config);
        truncate(logits, &config.sampling);
    }
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
    /// `None` if all logits are -∞.
    fn of(logits: &[f32], temperature: f64) -> Option<Self> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !largest.is_finite() {
            return None;
        }
        let mut normaliser = Self { largest: f64::from(largest), temperature, sum: 0. };
        let allowed = logits.iter().filter(|z| **z > f32::NEG_INFINITY);
        normaliser.sum = allowed.map(|&z| normaliser.weight(z)).sum();
        Some(normaliser)
    }

    fn weight(&self, z: f32) -> f64 {
        ((f64::from(z) - self.largest) / self.temperature).exp()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;
    use tch::Tensor;

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
        let situation = Situation { before, response, ends: &[eos] };
        let cases = file["cases"].as_array().unwrap();
        assert!(cases.len() > 90);
        for case in cases {
            let config = settings(&case["settings"]);
            let logits = &file["vectors"][case["logits"].as_str().unwrap()];
            let mut logits: Vec<f32> = serde_json::from_value(logits.clone()).unwrap();
            situation.change(&mut logits, &config);
            let temperature = config.sampling.temperature();
            let after = Normaliser::of(&logits, temperature).unwrap();
            for (id, want) in case["log_probs"].as_array().unwrap().iter().enumerate() {
                match want.as_f64() {
                    None => assert_eq!(logits[id], f32::NEG_INFINITY, "{case} {id}"),
                    Some(want) => {
                        let got = after.weight(logits[id]).ln() - after.sum.ln();
                        assert!((got - want).abs() < 1e-5, "{case} {id}: {got}");
                    }
                }
            }
        }
    }

    /// How often each token comes out of draws from the same logits.
    fn frequencies(logits: &[f32], sampling: &Sampling, draws: i64) -> Vec<f64> {
        let uniforms: Vec<f64> =
            (0..draws as u64).map(|i| super::super::philox::uniform(11, i, 3)).collect();
        let logits = Tensor::from_slice(logits).unsqueeze(0);
        let size = [draws, logits.size()[1]];
        let logits = logits.expand(size, false).contiguous();
        let choices =
            rlaif_torch::choose_tokens(&logits, sampling.temperature(), Some(&uniforms)).unwrap();
        let mut counts = vec![0.; size[1] as usize];
        for choice in choices {
            counts[choice.unwrap().id as usize] += 1.;
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
            let mut kept = logits.clone();
            truncate(&mut kept, &sampling);
            let counts = frequencies(&kept, &sampling, draws);
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
}

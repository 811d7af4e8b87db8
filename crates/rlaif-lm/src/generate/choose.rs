//! The choice of a token for each row: processing of its logits, and the draw.

use std::collections::BTreeMap;

use rlaif_torch::{RowChoice, TokenCut};
use tch::Tensor;

use super::config::{GenerationConfig, Sampling};
use crate::error::LmError;

/// Inputs of the choice besides the logits.
pub(super) struct Situation<'a> {
    /// Index of the row in the input, for errors.
    pub(super) row: usize,
    /// Ids before the response that the repetition penalty includes: the prompt of a decoder-only
    /// model, the start token of an encoder-decoder model.
    pub(super) before: &'a [u32],
    /// The response so far.
    pub(super) response: &'a [u32],
    /// Ids that would end the response.
    pub(super) ends: &'a [u32],
    /// The token that must be chosen.
    pub(super) forced: Option<u32>,
    /// The token's random number.
    pub(super) uniform: f64,
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Choice {
    pub(super) id: i64,
    /// log softmax(logits / temperature), over the model's logits and all tokens.
    pub(super) log_prob: f32,
}

/// Chooses a token for each row of logits, f32 `[B, V]` on the CPU, contiguous. The logits are
/// overwritten.
pub(super) fn choose(
    mut logits: Tensor,
    situations: &[Situation<'_>],
    config: &GenerationConfig,
) -> Result<Vec<Choice>, LmError> {
    let uniforms: Vec<f64> = situations.iter().map(|row| row.uniform).collect();
    let (uniforms, cut) = match config.sampling {
        Sampling::Greedy => (None, TokenCut::default()),
        Sampling::Sample { top_k, top_p, min_p, .. } => {
            (Some(uniforms.as_slice()), TokenCut { top_k, top_p, min_p })
        }
    };
    let temperature = config.sampling.temperature();
    let edits = situations.iter().any(|row| row.edits(config));
    // The draw uses edited logits, the log-probability those of the model: without edits, one pass
    // gives both.
    let first = if edits { TokenCut::default() } else { cut };
    let raw = rlaif_torch::choose_tokens(&logits, temperature, uniforms, &first)?;
    let raw: Vec<RowChoice> = raw
        .into_iter()
        .zip(situations)
        .map(|(choice, row)| choice.ok_or(LmError::not_finite(row.row, row.response.len())))
        .collect::<Result<_, _>>()?;
    if !edits {
        let plain = |choice: RowChoice| Choice { id: choice.id, log_prob: choice.log_prob };
        return Ok(raw.into_iter().map(plain).collect());
    }
    let vocab = usize::try_from(logits.size()[1]).expect("a size is not negative");
    let originals = rlaif_torch::with_bytes_mut(&mut logits, |bytes| {
        let rows = situations.iter().zip(bytes.chunks_exact_mut(vocab * size_of::<f32>()));
        rows.map(|(row, bytes)| row.edit(&mut RowLogits(bytes), config)).collect::<Vec<_>>()
    })?;
    let chosen = rlaif_torch::choose_tokens(&logits, temperature, uniforms, &cut)?;
    situations
        .iter()
        .zip(chosen)
        .zip(raw.iter().zip(&originals))
        .map(|((row, chosen), (raw, originals))| {
            if let Some(id) = row.forced {
                let logit = originals.get(&id).copied().unwrap_or(f32::NEG_INFINITY);
                let log_prob = f64::from(logit) / temperature - raw.normaliser;
                return Ok(Choice { id: i64::from(id), log_prob: log_prob as f32 });
            }
            let nothing = LmError::NothingAllowed { row: row.row, token: row.response.len() };
            let RowChoice { id, log_prob, normaliser } = chosen.ok_or(nothing)?;
            let log_prob = match u32::try_from(id).ok().and_then(|id| originals.get(&id)) {
                Some(&logit) => f64::from(logit) / temperature - raw.normaliser,
                None => f64::from(log_prob) + normaliser - raw.normaliser,
            };
            Ok(Choice { id, log_prob: log_prob as f32 })
        })
        .collect()
}

/// A row of f32 logits as stored in memory.
struct RowLogits<'a>(&'a mut [u8]);

impl RowLogits<'_> {
    /// The position of an id; `None` outside the vocabulary.
    fn place(&mut self, id: u32) -> Option<&mut [u8; 4]> {
        self.0.as_chunks_mut().0.get_mut(id as usize)
    }
}

impl Situation<'_> {
    /// `true` if logits are changed before the draw.
    fn edits(&self, config: &GenerationConfig) -> bool {
        config.repetition_penalty != 1.
            || !config.bad_ids.is_empty()
            || self.response.len() < config.min_new_tokens
            || self.forced.is_some()
    }

    /// Applies the settings that depend on the tokens so far: repetition penalty, bad sequences,
    /// minimum length. Forbidden tokens become -∞. Returns the original values of the changed
    /// logits.
    fn edit(&self, logits: &mut RowLogits<'_>, config: &GenerationConfig) -> BTreeMap<u32, f32> {
        let mut originals = BTreeMap::new();
        let mut change = |id: u32, change: &dyn Fn(f32) -> f32| {
            if let Some(place) = logits.place(id) {
                let z = f32::from_ne_bytes(*place);
                originals.entry(id).or_insert(z);
                *place = change(z).to_ne_bytes();
            }
        };
        let forbid = |_| f32::NEG_INFINITY;
        if config.repetition_penalty != 1. {
            let penalty = config.repetition_penalty as f32;
            let mut seen: Vec<u32> = [self.before, self.response].concat();
            seen.sort_unstable();
            seen.dedup();
            for id in seen {
                change(id, &|z| if z < 0. { z * penalty } else { z / penalty });
            }
        }
        for sequence in &config.bad_ids {
            let (&last, start) = sequence.split_last().expect("a bad sequence has an id");
            // transformers includes the prompt of a decoder-only model, too.
            let so_far = || self.before.iter().chain(self.response);
            let length = self.before.len() + self.response.len();
            if start.len() <= length && so_far().skip(length - start.len()).eq(start) {
                change(last, &forbid);
            }
        }
        if self.response.len() < config.min_new_tokens {
            for &id in self.ends {
                change(id, &forbid);
            }
        }
        if let Some(id) = self.forced {
            // Only recorded: the choice itself ignores the logits.
            change(id, &|z| z);
        }
        originals
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;
    use tch::Kind;

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

    /// A row of logits, repeated.
    fn repeated(logits: &[f32], rows: usize) -> Tensor {
        Tensor::from_slice(logits).repeat([rows as i64, 1])
    }

    /// The probabilities that transformers leaves, summed up, are the bounds of each token's share
    /// of the unit interval, from which the draw selects, within 1e-6.
    #[test]
    fn distributions_after_processing_are_those_of_transformers() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sampling/processors.json");
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let context: Vec<u32> = serde_json::from_value(file["context"].clone()).unwrap();
        let new = file["new_tokens_in_context"].as_u64().unwrap() as usize;
        let eos = file["eos_token_id"].as_u64().unwrap() as u32;
        let (before, response) = context.split_at(context.len() - new);
        let ends = [eos];
        let cases = file["cases"].as_array().unwrap();
        assert!(cases.len() > 90);
        for case in cases {
            let config = settings(&case["settings"]);
            let logits = &file["vectors"][case["logits"].as_str().unwrap()];
            let logits: Vec<f32> = serde_json::from_value(logits.clone()).unwrap();
            let want: Vec<Option<f64>> = serde_json::from_value(case["log_probs"].clone()).unwrap();
            let sum: f64 = want.iter().flatten().map(|log_p| log_p.exp()).sum();
            let (mut ids, mut situations, mut start) = (Vec::new(), Vec::new(), 0.);
            for (id, log_p) in want.iter().enumerate() {
                let p = log_p.map_or(0., f64::exp) / sum;
                let places: &[f64] = match p {
                    p if p > 4e-6 => &[start + 1e-6, start + p / 2., start + p - 1e-6],
                    _ => &[],
                };
                for &uniform in places {
                    ids.push(id as i64);
                    situations.push(Situation {
                        row: 0,
                        before,
                        response,
                        ends: &ends,
                        forced: None,
                        uniform,
                    });
                }
                start += p;
            }
            let got = choose(repeated(&logits, ids.len()), &situations, &config).unwrap();
            let temperature = config.sampling.temperature();
            let log_p = Tensor::from_slice(&logits).to_kind(Kind::Double) / temperature;
            let log_p = Vec::<f64>::try_from(log_p.log_softmax(0, Kind::Double)).unwrap();
            for (got, want) in got.iter().zip(&ids) {
                assert_eq!(got.id, *want, "{case}");
                let want = log_p[*want as usize];
                assert!((f64::from(got.log_prob) - want).abs() < 1e-5 * (1. - want), "{case}");
            }
        }
    }

    #[test]
    fn frequencies_match_the_softmax() {
        let logits: Vec<f32> = (0..50).map(|i| ((i * 37) % 50) as f32 / 12. - 2.).collect();
        let draws = 100_000;
        // The tokens kept out of twelve, whose probabilities are 1/12 apart: the most probable
        // ones.
        for (sampling, kept) in [
            (Sampling::at(1.), 50),
            (Sampling::at(0.6), 50),
            (Sampling::Sample { temperature: 1.3, top_k: Some(20), top_p: None, min_p: None }, 20),
            (Sampling::Sample { temperature: 1., top_k: None, top_p: None, min_p: Some(0.4) }, 11),
        ] {
            let config = GenerationConfig { sampling, ..GenerationConfig::default() };
            let situations: Vec<Situation<'_>> = (0..draws)
                .map(|i| {
                    let uniform = super::super::philox::uniform(11, i, 3);
                    Situation {
                        row: 0,
                        before: &[],
                        response: &[],
                        ends: &[],
                        forced: None,
                        uniform,
                    }
                })
                .collect();
            let rows = repeated(&logits, situations.len());
            let mut counts = vec![0.; logits.len()];
            for choice in choose(rows, &situations, &config).unwrap() {
                counts[choice.id as usize] += 1.;
            }
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let (kept, cut) = order.split_at(kept);
            assert!(cut.iter().all(|&id| counts[id] == 0.), "{sampling:?}");
            let weight = |id: usize| (f64::from(logits[id]) / sampling.temperature()).exp();
            let sum: f64 = kept.iter().map(|&id| weight(id)).sum();
            let chi2: f64 = kept
                .iter()
                .map(|&id| {
                    let want = weight(id) / sum * draws as f64;
                    (counts[id] - want).powi(2) / want
                })
                .sum();
            // Mean d and variance 2d: four standard deviations.
            let degrees = kept.len() as f64 - 1.;
            assert!(chi2 < degrees + 4. * f64::sqrt(2. * degrees), "{sampling:?}: {chi2}");
        }
    }

    #[test]
    fn rows_without_a_choice_are_named() {
        let config = GenerationConfig { bad_ids: vec![vec![0], vec![1]], ..Default::default() };
        let row = |row, response| Situation {
            row,
            before: &[],
            response,
            ends: &[],
            forced: None,
            uniform: 0.3,
        };
        let rows = [row(4, &[][..]), row(7, &[1])];
        let logits = |rows: [f32; 4]| Tensor::from_slice(&rows).view([2, 2]);
        let error = choose(logits([0.; 4]), &rows, &config).unwrap_err();
        assert!(matches!(error, LmError::NothingAllowed { row: 4, token: 0 }), "{error}");
        for config in [config, GenerationConfig::default()] {
            let error = choose(logits([0., 0., f32::NAN, 0.]), &rows, &config).unwrap_err();
            assert!(matches!(error, LmError::NotFinite { row: 7, token: 1, .. }), "{error}");
        }
    }
}

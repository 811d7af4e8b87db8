//! Responses, kept on disk as they come.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use rlaif_core::PromptRecord;
use rlaif_eval::Metric;
use rlaif_lm::generate::Ask;
use rlaif_lm::{
    Draw, Joiner, LmError, LocalSampler, Padding, Sampler, TokenBatch, Weights, policy_log_probs,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor, no_grad};

use super::response::Response;
use super::{Evaluate, EvaluateError, Responder, Side};

/// Batches generated before they are written: an interruption loses no more.
const BATCHES: usize = 4;

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    prompt: String,
    sample: usize,
    response: String,
    ids: Vec<u32>,
    log_prob: f64,
}

/// The first line: what the others depend on.
#[derive(Serialize, Deserialize, PartialEq)]
struct Header {
    /// A hash of the policy's weights.
    weights: String,
    /// A hash of the prompts.
    prompts: String,
    /// Every setting that decides about responses.
    settings: BTreeMap<String, Value>,
}

impl Header {
    /// The differences from an evaluation that is continued in the same folder.
    fn differences(&self, now: &Self) -> Vec<String> {
        let mut all = Vec::new();
        for (what, before, now) in
            [("weights", &self.weights, &now.weights), ("prompts", &self.prompts, &now.prompts)]
        {
            if before != now {
                all.push(format!("other {what}"));
            }
        }
        let keys: BTreeSet<&String> = self.settings.keys().chain(now.settings.keys()).collect();
        let told = |value: Option<&Value>| value.map_or("not set".to_owned(), Value::to_string);
        for key in keys {
            let (before, now) = (self.settings.get(key), now.settings.get(key));
            if before != now {
                all.push(format!("`{key}`: {} -> {}", told(before), told(now)));
            }
        }
        all
    }
}

/// Checks that prompts have the reference responses that a metric compares with.
pub(super) fn check_references(
    metrics: &[Box<dyn Metric>],
    prompts: &[PromptRecord],
) -> Result<(), EvaluateError> {
    let mut without = prompts.iter().filter(|prompt| prompt.reference.is_none());
    let Some(metric) = metrics.iter().find(|metric| metric.needs_reference()) else {
        return Ok(());
    };
    let Some(first) = without.next() else { return Ok(()) };
    Err(EvaluateError::NoReference {
        metric: metric.info().name.clone(),
        without: 1 + without.count(),
        prompts: prompts.len(),
        id: first.id.clone(),
    })
}

impl Evaluate<'_> {
    /// The responses of one side, those of each prompt together, in the order of the prompts.
    pub(super) fn respond(
        &mut self,
        side: Side,
        who: &Responder<'_>,
        prompts: &[PromptRecord],
    ) -> Result<Vec<Response>, EvaluateError> {
        if prompts.is_empty() {
            return Err(EvaluateError::NoPrompts);
        }
        let mut ids = HashSet::new();
        if let Some(twice) = prompts.iter().find(|record| !ids.insert(record.id.as_str())) {
            return Err(EvaluateError::DuplicatePrompt { id: twice.id.clone() });
        }
        check_references(self.metrics, prompts)?;
        let failed = |source| EvaluateError::Policy { policy: who.name.to_owned(), source };
        self.generation.check(who.policy.spec()).map_err(failed)?;
        let texts: Vec<_> =
            prompts.iter().map(|record| (record.prompt.as_str(), record.kind)).collect();
        let encoded = Joiner::new(who.codec, who.policy.spec()).open(&texts)?;
        self.lock()?;
        let mut file = match &self.folder {
            Some(folder) => {
                let path = folder.join(format!("responses-{}.jsonl", side.name()));
                Some(Kept::open(path, &self.header(who, prompts))?)
            }
            None => None,
        };
        let rows: Vec<(usize, usize)> =
            (0..prompts.len()).flat_map(|p| (0..self.responses).map(move |s| (p, s))).collect();
        let total = rows.len();
        let stage = format!("{}: responses", side.name());
        let mut responses = Vec::with_capacity(total);
        // The same chunks regardless of the known rows, so that the same responses are generated again.
        for chunk in rows.chunks((self.generation.batch_size * BATCHES).max(1)) {
            let known: Option<Vec<Response>> = file.as_mut().and_then(|file| {
                chunk.iter().map(|&(p, s)| file.take(p, &prompts[p].id, s)).collect()
            });
            if let Some(known) = known {
                responses.extend(known);
                self.tell(&stage, responses.len(), total);
                continue;
            }
            let row = |&(p, s): &(usize, usize)| Ask {
                // A number that depends only on the prompt and the sample.
                id: self.seed.derive(&prompts[p].id, s as u64).get(),
                prompt: encoded[p].clone(),
                max_new_tokens: None,
            };
            let rows: Vec<Ask> = chunk.iter().map(row).collect();
            let draw = Draw { seed: self.seed.derive("evaluate", 0), step: 0 };
            let weights = Weights { policy: who.policy, forward: who.forward, version: 0 };
            let sampled = LocalSampler::new(who.codec)
                .sample(weights, &rows, &self.generation, draw)
                .map_err(failed)?;
            let fresh: Vec<Response> = (chunk.iter().zip(sampled))
                .map(|(&(prompt, _), sampled)| Response {
                    prompt,
                    text: sampled.text,
                    log_prob: sampled.log_probs.iter().flatten().map(|&p| f64::from(p)).sum(),
                    ids: sampled.ids,
                })
                .collect();
            if let Some(lost) = fresh.iter().find(|response| !response.log_prob.is_finite()) {
                return Err(EvaluateError::LogProb {
                    policy: who.name.to_owned(),
                    prompt: prompts[lost.prompt].id.clone(),
                    found: lost.log_prob,
                });
            }
            if let Some(file) = &mut file {
                let lines = chunk.iter().zip(&fresh).map(|(&(p, sample), response)| Line {
                    prompt: prompts[p].id.clone(),
                    sample,
                    response: response.text.clone(),
                    ids: response.ids.clone(),
                    log_prob: response.log_prob,
                });
                file.append(lines)?;
            }
            responses.extend(fresh);
            self.tell(&stage, responses.len(), total);
        }
        Ok(responses)
    }

    /// Σ log π_ref(y_t | x, y_<t) of each response, at the temperature it was sampled with.
    pub(super) fn under_reference(
        &self,
        reference: &Responder<'_>,
        prompts: &[PromptRecord],
        responses: &[Response],
    ) -> Result<Vec<f64>, EvaluateError> {
        let failed = |source| EvaluateError::Policy { policy: reference.name.to_owned(), source };
        let texts: Vec<_> =
            prompts.iter().map(|record| (record.prompt.as_str(), record.kind)).collect();
        let spec = reference.policy.spec();
        let encoded = Joiner::new(reference.codec, spec).open(&texts)?;
        let mut order: Vec<usize> = (0..responses.len()).collect();
        order.sort_by_key(|&row| encoded[responses[row].prompt].len() + responses[row].ids.len());
        let mut sums = vec![0.; responses.len()];
        let temperature = self.generation.sampling.temperature();
        for rows in order.chunks(self.generation.batch_size) {
            let of_rows = |of: &dyn Fn(&Response) -> Vec<u32>| -> Vec<Vec<u32>> {
                rows.iter().map(|&row| of(&responses[row])).collect()
            };
            let log_probs = no_grad(|| {
                let x = of_rows(&|response| encoded[response.prompt].clone());
                let x = TokenBatch::collate(x, spec, Padding::Right)?;
                let y = TokenBatch::responses(of_rows(&|response| response.ids.clone()), spec)?;
                let log_probs =
                    policy_log_probs(reference.policy, &x, &y, reference.forward, temperature)?
                        .log_probs;
                let sums = log_probs.sum_dim_intlist(1, false, Kind::Double);
                Ok::<_, LmError>(Vec::<f64>::try_from(sums.to_device(tch::Device::Cpu))?)
            })
            .map_err(failed)?;
            for (&row, log_prob) in rows.iter().zip(log_probs) {
                sums[row] = log_prob;
            }
        }
        Ok(sums)
    }

    /// Everything that responses depend on.
    fn header(&self, who: &Responder<'_>, prompts: &[PromptRecord]) -> Header {
        let mut of_prompts = Hash::default();
        for record in prompts {
            of_prompts.add(record.id.as_bytes());
            of_prompts.add(record.prompt.as_bytes());
            of_prompts.add(format!("{:?}", record.kind.specials()).as_bytes());
        }
        let mut weights = Hash::default();
        for (name, tensor) in who.policy.parameters().iter() {
            weights.add(name.as_bytes());
            checksums(tensor).iter().for_each(|sum| weights.add(&sum.to_le_bytes()));
        }
        let mut settings = BTreeMap::from([
            ("seed".to_owned(), self.seed.get().into()),
            ("responses".to_owned(), self.responses.into()),
            ("adapters".to_owned(), format!("{:?}", who.forward).into()),
        ]);
        if let Ok(Value::Object(generation)) = serde_json::to_value(&self.generation) {
            // The grouping of rows only affects rounding.
            let decides = |key: &str| !matches!(key, "batch_size" | "check_every");
            let generation = generation.into_iter().filter(|(key, _)| decides(key));
            settings.extend(generation.map(|(key, value)| (format!("generation.{key}"), value)));
        }
        Header { weights: weights.hex(), prompts: of_prompts.hex(), settings }
    }
}

/// A hash of parts that cannot run into one another.
#[derive(Default)]
struct Hash(Sha256);

impl Hash {
    fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    fn hex(self) -> String {
        self.0.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The sum of a tensor's bits taken as whole numbers, and that of their squares, both modulo 2⁶⁴.
/// Whole numbers, for their sums are the same in any order that a machine adds them up in.
fn checksums(tensor: &Tensor) -> [i64; 2] {
    /// Elements at a time, for what they take in 64 bits.
    const PIECE: i64 = 1 << 24;
    no_grad(|| {
        let flat = tensor.detach().contiguous().flatten(0, -1);
        let bits = match flat.kind() {
            Kind::Float => flat.view_dtype(Kind::Int),
            Kind::BFloat16 | Kind::Half => flat.view_dtype(Kind::Int16),
            Kind::Double => flat.view_dtype(Kind::Int64),
            _ => flat,
        };
        let size = bits.size1().unwrap_or(0);
        let mut sums = [0_i64; 2];
        for start in (0..size).step_by(PIECE as usize) {
            let piece = bits.narrow(0, start, PIECE.min(size - start)).to_kind(Kind::Int64);
            let squares = &piece * &piece;
            for (sum, of) in sums.iter_mut().zip([piece, squares]) {
                *sum = sum.wrapping_add(of.sum(Kind::Int64).int64_value(&[]));
            }
        }
        sums
    })
}

/// A file of responses, appended to.
struct Kept {
    path: PathBuf,
    file: File,
    known: HashMap<(String, usize), Line>,
}

impl Kept {
    /// Opens or creates it. A last line that was cut off is removed.
    fn open(path: PathBuf, own: &Header) -> Result<Self, EvaluateError> {
        let failed = |source| EvaluateError::File { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file = rlaif_files::open_growing(&path).map_err(failed)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(failed)?;
            file.seek(SeekFrom::End(0)).map_err(failed)?;
        }
        let mut known = HashMap::new();
        let lines = text[..whole].split(|&byte| byte == b'\n').enumerate();
        for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
            let unread =
                |source| EvaluateError::Responses { path: path.clone(), line: at + 1, source };
            if at == 0 {
                let found: Header = serde_json::from_slice(line).map_err(unread)?;
                if found != *own {
                    let differences = found.differences(own);
                    return Err(EvaluateError::OtherEvaluation { path, differences });
                }
                continue;
            }
            let line: Line = serde_json::from_slice(line).map_err(unread)?;
            known.insert((line.prompt.clone(), line.sample), line);
        }
        if whole == 0 {
            let mut header = serde_json::to_vec(own).unwrap_or_default();
            header.push(b'\n');
            file.write_all(&header).map_err(failed)?;
        }
        Ok(Self { path, file, known })
    }

    fn take(&mut self, prompt: usize, id: &str, sample: usize) -> Option<Response> {
        let line = self.known.remove(&(id.to_owned(), sample))?;
        Some(Response { prompt, text: line.response, ids: line.ids, log_prob: line.log_prob })
    }

    fn append(&mut self, lines: impl Iterator<Item = Line>) -> Result<(), EvaluateError> {
        let failed = |source| EvaluateError::File { path: self.path.clone(), source };
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line).map_err(|e| failed(e.into()))?;
            text.push(b'\n');
        }
        self.file.write_all(&text).and_then(|()| self.file.flush()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn checksums_hang_on_every_bit_and_not_on_the_order_of_adding() {
        tch::manual_seed(3);
        for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
            // Of sizes so different that sums of fractions would round otherwise in each order.
            let sizes = Tensor::randn([1_000], (Kind::Float, Device::Cpu)).exp() * 10.;
            let weights =
                (Tensor::randn([1_000], (Kind::Float, Device::Cpu)) * sizes).to_kind(kind);
            let weights = weights.reshape([10, 100]);
            let sums = checksums(&weights);
            assert_eq!(checksums(&weights.flip([0, 1])), sums);
            assert_eq!(checksums(&weights.transpose(0, 1)), sums);
            let other = weights.copy();
            let _ = no_grad(|| other.get(3).get(7).neg_());
            assert_ne!(checksums(&other), sums, "{kind:?}");
        }
        assert_eq!(checksums(&Tensor::from_slice(&[1.5_f32])), checksums(&Tensor::from(1.5_f32)));
    }
}

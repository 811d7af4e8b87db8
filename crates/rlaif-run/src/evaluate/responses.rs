//! Responses, kept on disk as they come.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;

use rlaif_core::{Interrupted, PromptRecord};
use rlaif_eval::Metric;
use rlaif_files::Digest;
use rlaif_lm::{
    Draw, Joiner, LmError, LocalSampler, Padding, Prompt, Sampled, Sampler, SamplerCall,
    TokenBatch, Weights, policy_log_probs, sample,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::{Kind, Tensor, no_grad};

use super::response::Response;
use super::{Evaluate, EvaluateError, EvaluatedModel, Side};

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
        who: &EvaluatedModel<'_>,
        prompts: &[PromptRecord],
    ) -> Result<Vec<Response>, EvaluateError> {
        let mut sampler = self.samplers[side as usize].take();
        let by = sampler.as_mut().map(|sampler| &mut **sampler as &mut dyn Sampler);
        let responses = self.respond_by(by, side, who, prompts);
        self.samplers[side as usize] = sampler;
        responses
    }

    /// The same, from this sampler instead of the policy.
    fn respond_by(
        &mut self,
        mut sampler: Option<&mut dyn Sampler>,
        side: Side,
        who: &EvaluatedModel<'_>,
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
        let joiner = Joiner::new(who.codec, who.policy.spec());
        let encoded = Prompt::of_records(prompts.to_vec(), &joiner)?;
        self.lock()?;
        let mut file = match &self.folder {
            Some(folder) => {
                let path = folder.join(format!("responses-{}.jsonl", side.name()));
                Some(Kept::open(path, &self.header(who, prompts, sampler.is_some()))?)
            }
            None => None,
        };
        let total = prompts.len() * self.responses;
        let stage = format!("{}: responses", side.name());
        let mut responses = Vec::with_capacity(total);
        // The same chunks regardless of the known rows, so that the same responses are generated
        // again; all responses to a prompt are in one of them.
        let rows = self.generation.batch_size * BATCHES;
        let chunk = rows.checked_div(self.responses).unwrap_or(1).max(1);
        let all: Vec<usize> = (0..prompts.len()).collect();
        for places in all.chunks(chunk) {
            let chunk: Vec<(usize, usize)> =
                places.iter().flat_map(|&p| (0..self.responses).map(move |s| (p, s))).collect();
            let known: Option<Vec<Response>> = file.as_mut().and_then(|file| {
                chunk.iter().map(|&(p, s)| file.take(p, &prompts[p].id, s)).collect()
            });
            if let Some(known) = known {
                responses.extend(known);
                self.tell(&stage, responses.len(), total);
                continue;
            }
            let rows: Vec<Prompt> = chunk.iter().map(|&(p, _)| encoded[p].clone()).collect();
            let draw = Draw { seed: self.seed.derive("evaluate", 0), step: 0 };
            let weights = Weights { policy: who.policy, forward: who.forward, version: 0 };
            let mut local = LocalSampler::new(who.codec);
            let sampler: &mut dyn Sampler = match &mut sampler {
                Some(sampler) => &mut **sampler,
                None => &mut local,
            };
            let call = SamplerCall { weights, how: &self.generation, draw };
            let sampled = sample(sampler, &rows, call).map_err(failed)?;
            let fresh = self.measured(who, &encoded, &chunk, sampled)?;
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

    /// Responses with their log-probabilities: those of the sampler, or, if it tells none, those that
    /// the policy computes.
    fn measured(
        &self,
        who: &EvaluatedModel<'_>,
        prompts: &[Prompt],
        rows: &[(usize, usize)],
        sampled: Vec<Sampled>,
    ) -> Result<Vec<Response>, EvaluateError> {
        let told = sampled.iter().all(|sampled| sampled.log_probs.is_some());
        let mut responses: Vec<Response> = (rows.iter().zip(sampled))
            .map(|(&(prompt, _), sampled)| Response {
                prompt,
                text: sampled.text,
                log_prob: sampled.log_probs.iter().flatten().map(|&p| f64::from(p)).sum(),
                ids: sampled.ids,
            })
            .collect();
        if !told {
            let sums = self.log_probs(who, prompts, &responses)?;
            responses.iter_mut().zip(sums).for_each(|(response, sum)| response.log_prob = sum);
        }
        Ok(responses)
    }

    /// Σ log π_ref(y_t | x, y_<t) of each response, at the temperature it was sampled with.
    pub(super) fn under_reference(
        &self,
        reference: &EvaluatedModel<'_>,
        prompts: &[PromptRecord],
        responses: &[Response],
    ) -> Result<Vec<f64>, EvaluateError> {
        let joiner = Joiner::new(reference.codec, reference.policy.spec());
        let prompts = Prompt::of_records(prompts.to_vec(), &joiner)?;
        self.log_probs(reference, &prompts, responses)
    }

    /// Σ log π(y_t | x, y_<t) of each response, at the temperature it was sampled with.
    fn log_probs(
        &self,
        who: &EvaluatedModel<'_>,
        prompts: &[Prompt],
        responses: &[Response],
    ) -> Result<Vec<f64>, EvaluateError> {
        let failed = |source| EvaluateError::Policy { policy: who.name.to_owned(), source };
        let spec = who.policy.spec();
        let mut order: Vec<usize> = (0..responses.len()).collect();
        let length = |row: &Response| prompts[row.prompt].ids.len() + row.ids.len();
        order.sort_by_key(|&row| length(&responses[row]));
        let mut sums = vec![0.; responses.len()];
        let temperature = self.generation.sampling.temperature();
        for rows in order.chunks(self.generation.batch_size) {
            Interrupted::check().map_err(LmError::from).map_err(failed)?;
            let of_rows = |of: &dyn Fn(&Response) -> Vec<u32>| -> Vec<Vec<u32>> {
                rows.iter().map(|&row| of(&responses[row])).collect()
            };
            let log_probs = no_grad(|| {
                let x = of_rows(&|response| prompts[response.prompt].ids.to_vec());
                let x = TokenBatch::collate(x, spec, Padding::Right)?;
                let y = TokenBatch::responses(of_rows(&|response| response.ids.clone()), spec)?;
                let log_probs =
                    policy_log_probs(who.policy, &x, &y, who.forward, temperature)?.log_probs;
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
    fn header(
        &self,
        who: &EvaluatedModel<'_>,
        prompts: &[PromptRecord],
        own_sampler: bool,
    ) -> Header {
        let mut of_prompts = Digest::default();
        for record in prompts {
            of_prompts.add(record.id.as_bytes());
            of_prompts.add(record.prompt.as_bytes());
            of_prompts.add(format!("{:?}", record.kind.specials()).as_bytes());
        }
        let mut weights = Digest::default();
        for (name, tensor) in who.policy.parameters().iter() {
            weights.add(name.as_bytes());
            checksums(tensor).iter().for_each(|sum| weights.add(&sum.to_le_bytes()));
        }
        let mut settings = BTreeMap::from([
            ("seed".to_owned(), self.seed.get().into()),
            ("responses".to_owned(), self.responses.into()),
            ("adapters".to_owned(), format!("{:?}", who.forward).into()),
        ]);
        if own_sampler {
            settings.insert("sampler".to_owned(), "given".into());
        }
        if let Ok(Value::Object(generation)) = serde_json::to_value(&self.generation) {
            // The grouping of rows only affects rounding.
            let decides = |key: &str| !matches!(key, "batch_size" | "check_every");
            let generation = generation.into_iter().filter(|(key, _)| decides(key));
            settings.extend(generation.map(|(key, value)| (format!("generation.{key}"), value)));
        }
        Header { weights: weights.hex(16), prompts: of_prompts.hex(16), settings }
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
    file: rlaif_files::Journal,
    known: HashMap<(String, usize), Line>,
}

impl Kept {
    /// Opens or creates it.
    fn open(path: PathBuf, own: &Header) -> Result<Self, EvaluateError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::WouldBlock => EvaluateError::Busy { folder: path.clone() },
            _ => EvaluateError::File { path: path.clone(), source },
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let (mut file, lines) = rlaif_files::Journal::open(&path).map_err(failed)?;
        let mut known = HashMap::new();
        for (number, line) in lines.numbered() {
            let unread =
                |source| EvaluateError::Responses { path: path.clone(), line: number, source };
            if number == 1 {
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
        if lines.is_empty() {
            file.append([own]).map_err(failed)?;
        }
        Ok(Self { file, known })
    }

    fn take(&mut self, prompt: usize, id: &str, sample: usize) -> Option<Response> {
        let line = self.known.remove(&(id.to_owned(), sample))?;
        Some(Response { prompt, text: line.response, ids: line.ids, log_prob: line.log_prob })
    }

    fn append(&mut self, lines: impl Iterator<Item = Line>) -> Result<(), EvaluateError> {
        self.file
            .append(lines)
            .map_err(|source| EvaluateError::File { path: self.file.path().to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use rlaif_core::{CodecError, GenerationPrompt, Message, Seed, Specials, TextCodec};
    use rlaif_lm::RecordedSampler;
    use rlaif_lm::generate::{FinishReason, GenerationConfig};
    use rlaif_models::{Config, LanguageModel};
    use tch::Device;

    use super::*;

    struct Bytes;

    impl TextCodec for Bytes {
        fn name(&self) -> &'static str {
            "bytes"
        }
        fn encode(&self, text: &str, _: Specials) -> Result<Vec<u32>, CodecError> {
            Ok(text.bytes().map(u32::from).collect())
        }
        fn decode(&self, ids: &[u32], _: Specials) -> Result<String, CodecError> {
            Ok(ids.iter().map(|id| format!("{id} ")).collect())
        }
        fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> {
            Err(CodecError::NoChatTemplate { codec: "bytes".to_owned() })
        }
    }

    /// A recording of what the policy itself said gives the same responses, and log-probabilities
    /// that the policy computes in one pass where generation had them token by token.
    #[test]
    fn a_side_is_answered_by_any_sampler() {
        let config = Config::from_value(serde_json::json!({
            "model_type": "llama", "vocab_size": 128, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
            "eos_token_id": 3,
        }));
        let draw = || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap();
        let policy = rlaif_torch::seeded(5, draw).unwrap();
        let who = EvaluatedModel {
            name: "it",
            policy: &policy,
            forward: Default::default(),
            codec: &Bytes,
        };
        let prompts = ["a", "b"].map(|id| PromptRecord::new(id, format!("What is {id}?")));
        let metrics = [];
        let evaluate = || {
            let generation = GenerationConfig { max_new_tokens: 6, ..GenerationConfig::default() };
            Evaluate::new("x", Seed::new(1), &metrics).generating(generation).responses(2)
        };
        let own = evaluate().respond(Side::After, &who, &prompts).unwrap();
        assert_eq!(own.iter().map(|row| row.prompt).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert_ne!(own[0].ids, own[1].ids);
        let second = evaluate().respond(Side::After, &who, &prompts[1..]).unwrap();
        assert_eq!(second[1].ids, own[3].ids, "other prompts do not matter");

        let recorded = own.iter().map(|row| Sampled {
            ids: row.ids.clone(),
            log_probs: None,
            text: row.text.clone(),
            finish: FinishReason::Length,
            version: 0,
            played: None,
        });
        let recorded = RecordedSampler::new(recorded.collect());
        let mut evaluate = evaluate().sampler(Side::After, recorded);
        let replayed = evaluate.respond(Side::After, &who, &prompts).unwrap();
        for (own, replayed) in own.iter().zip(&replayed) {
            assert_eq!((&own.ids, &own.text), (&replayed.ids, &replayed.text));
            assert!((own.log_prob - replayed.log_prob).abs() < 1e-4);
        }
        // The other side is still sampled here.
        assert!(evaluate.respond(Side::Before, &who, &prompts).is_ok());
        let error = evaluate.respond(Side::After, &who, &prompts).err().unwrap().to_string();
        assert!(error.contains("4 responses were recorded"), "{error}");
    }

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

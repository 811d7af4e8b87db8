//! The toxicity classifiers: a RoBERTa that rewards and a BERT that judges.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use rlaif::core::{Seed, Specials, TextCodec};
use rlaif::lm::{Dropout, Forward, Padding, SequenceClassifier, TokenBatch};
use rlaif::models::{Classifier, Config};
use rlaif::tch::{Device, Kind, Reduction, Tensor, no_grad};
use rlaif::text::HfTokenizer;
use serde_json::json;

use crate::corpora::{Corpora, Labelled};
use crate::feed::{CHUNK, Feed, batched};
use crate::fit::{Budget, Plan, fit};
use crate::summary::{Source, Tone, pair};
use crate::vocabulary::Sort;

/// Maximum length of a training text, in tokens.
const LONGEST: usize = 128;
/// Number of passes over the labelled texts.
const EPOCHS: u64 = 5;
/// Number of rows in ten that are summaries, labelled by the insults they repeat.
const SUMMARIES: u64 = 2;
/// The share of masked tokens.
const HIDDEN: f64 = 0.15;

/// Purpose of a classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// RoBERTa, for training policies.
    Reward,
    /// BERT on lower-case text, for measuring only.
    Judge,
}

impl Role {
    /// The tokenizer.
    pub(crate) fn sort(self) -> Sort {
        match self {
            Self::Reward => Sort::Roberta,
            Self::Judge => Sort::Bert,
        }
    }

    /// Each leaves out another fifth of the data.
    fn learns_from(self, row: &Labelled) -> bool {
        let fifth = Seed::new(0).derive(&row.text, 0).get() % 5;
        fifth
            != match self {
                Self::Reward => 0,
                Self::Judge => 1,
            }
    }

    fn config(self, vocabulary: usize) -> Config {
        let mut config = json!({
            "vocab_size": vocabulary, "hidden_size": 256, "num_hidden_layers": 4,
            "num_attention_heads": 4, "intermediate_size": 1024, "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02, "id2label": { "0": "nothate", "1": "hate" },
            "label2id": { "nothate": 0, "hate": 1 }, "problem_type": "single_label_classification",
        });
        let own = match self {
            Self::Reward => json!({
                "architectures": ["RobertaForSequenceClassification"], "model_type": "roberta",
                "max_position_embeddings": 258, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
                "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
            }),
            Self::Judge => json!({
                "architectures": ["BertForSequenceClassification"], "model_type": "bert",
                "max_position_embeddings": 256, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
                "pad_token_id": 0,
            }),
        };
        if let (Some(config), Some(own)) = (config.as_object_mut(), own.as_object()) {
            config.extend(own.clone());
        }
        Config::from_value(config)
    }

    const MASK_ID: u32 = 4;

    fn embeddings(self) -> &'static str {
        match self {
            Self::Reward => "roberta.embeddings.word_embeddings.weight",
            Self::Judge => "bert.embeddings.word_embeddings.weight",
        }
    }
}

/// The result of training.
pub(crate) struct Trained {
    /// The classifier.
    pub(crate) model: Classifier,
    /// Number of steps of masked-language-model training, and of classification.
    pub(crate) steps: (u64, u64),
}

/// Trains a classifier: first as a masked language model, then to classify.
pub(crate) fn train(
    role: Role,
    corpora: &Arc<Corpora>,
    tokenizer: &Path,
    seed: Seed,
    device: Device,
    budget: Budget,
    size: usize,
) -> Result<Trained, Box<dyn Error>> {
    let tokenizer = Arc::new(HfTokenizer::from_folder(tokenizer)?);
    let vocabulary = tokenizer.vocab_size().next_multiple_of(64);
    let model = Classifier::random(role.config(vocabulary), Kind::Float, device)?;
    model.parameters().train_where(|_| true);
    println!("{role:?}: {} parameters, {vocabulary} tokens", model.parameters().count());
    let forward = Forward { dropout: Dropout::On, ..Forward::default() };

    let mut guesses = Feed::start({
        let (corpora, tokenizer) = (Arc::clone(corpora), Arc::clone(&tokenizer));
        move |chunk| masked_batches(&corpora, &tokenizer, size, seed.derive("hide", chunk))
    });
    let plan = Plan { name: "words", budget, lr: 1e-3, warm_up: 400, weight_decay: 0.01 };
    let words = model.parameters().get(role.embeddings()).ok_or("no embeddings")?.shallow_clone();
    let guessing = fit(model.parameters(), plan, |_| {
        let (rows, positions, targets): Masked = guesses.next();
        let input = TokenBatch::collate(rows, model.spec(), Padding::Right)?;
        let width = input.width();
        let places: Vec<i64> =
            positions.into_iter().map(|(row, at)| (row * width + at) as i64).collect();
        let places = Tensor::from_slice(&places).to_device(device);
        let targets = Tensor::from_slice(&targets).to_device(device);
        let hidden = model.hidden(&input, None, forward)?.reshape([-1, model.spec().hidden_size]);
        let logits = hidden.index_select(0, &places).matmul(&words.transpose(0, 1));
        Ok(logits.cross_entropy_for_logits(&targets))
    })?;
    drop(guesses);

    let rows: Vec<Labelled> =
        corpora.toxicity.iter().filter(|row| role.learns_from(row)).cloned().collect();
    let epoch = (rows.len() * 10 / (10 - SUMMARIES as usize)) as u64;
    let steps = match budget {
        Budget::Steps(steps) => steps.min(EPOCHS * epoch / size as u64),
        Budget::Time(_) => EPOCHS * epoch / size as u64,
    };
    let mut labelled = Feed::start({
        let (corpora, tokenizer) = (Arc::clone(corpora), Arc::clone(&tokenizer));
        move |chunk| labelled_batches(&corpora, &rows, &tokenizer, size, seed, chunk)
    });
    let plan = Plan {
        name: "toxicity",
        budget: Budget::Steps(steps),
        lr: 3e-4,
        warm_up: 200,
        weight_decay: 0.05,
    };
    let classifying = fit(model.parameters(), plan, |_| {
        let (rows, labels): (Vec<Vec<u32>>, Vec<i64>) = labelled.next();
        let input = TokenBatch::collate(rows, model.spec(), Padding::Right)?;
        let labels = Tensor::from_slice(&labels).to_device(device);
        let logits = model.logits(&input, None, forward)?;
        Ok(logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.05))
    })?;
    Ok(Trained { model, steps: (guessing, classifying) })
}

fn encoded(tokenizer: &HfTokenizer, text: &str) -> Vec<u32> {
    let mut ids = tokenizer.encode(text, Specials::Include).unwrap_or_default();
    if ids.len() > LONGEST {
        let end = ids[ids.len() - 1];
        ids.truncate(LONGEST - 1);
        ids.push(end);
    }
    ids
}

/// Rows with masked tokens, the positions of the masks, and the masked tokens.
type Masked = (Vec<Vec<u32>>, Vec<(usize, usize)>, Vec<i64>);

fn masked_batches(
    corpora: &Corpora,
    tokenizer: &HfTokenizer,
    size: usize,
    seed: Seed,
) -> Vec<Masked> {
    let mut rng = Rng::with_seed(seed.get());
    let rows: Vec<Vec<u32>> = (0..CHUNK * size)
        .map(|n| {
            let text = match rng.u32(0..10) {
                0..5 => corpora.toxicity[rng.usize(..corpora.toxicity.len())].text.clone(),
                5..8 => {
                    let from = if rng.bool() { &corpora.hh } else { &corpora.chats };
                    let dialogue = &from[rng.usize(..from.len())];
                    dialogue[rng.usize(..dialogue.len())].1.clone()
                }
                _ => pair(corpora, seed, n as u64).summary,
            };
            encoded(tokenizer, &text)
        })
        .filter(|row| row.len() >= 5)
        .collect();
    let vocabulary = tokenizer.vocab_size() as u32;
    batched(rows, size, Vec::len, &mut rng)
        .into_iter()
        .filter(|rows| rows.len() == size)
        .map(|mut rows| {
            let (mut places, mut targets) = (Vec::new(), Vec::new());
            for (n, row) in rows.iter_mut().enumerate() {
                for at in 1..row.len() - 1 {
                    if rng.f64() < HIDDEN {
                        places.push((n, at));
                        targets.push(i64::from(row[at]));
                        row[at] = match rng.u32(0..10) {
                            0 => row[at],
                            1 => rng.u32(5..vocabulary),
                            _ => Role::MASK_ID,
                        };
                    }
                }
            }
            (rows, places, targets)
        })
        .collect()
}

fn labelled_batches(
    corpora: &Corpora,
    rows: &[Labelled],
    tokenizer: &HfTokenizer,
    size: usize,
    seed: Seed,
    chunk: u64,
) -> Vec<(Vec<Vec<u32>>, Vec<i64>)> {
    let mut rng = Rng::with_seed(seed.derive("label", chunk).get());
    let count = (CHUNK * size) as u64;
    let own = count * (10 - SUMMARIES) / 10;
    let mut order: Vec<usize> = Vec::new();
    let mut passes = None;
    let made: Vec<(Vec<u32>, i64)> = (0..count)
        .map(|n| {
            if n < own {
                // The n-th row of the pass over the data that this chunk belongs to.
                let nth = chunk * own + n;
                let pass = nth / rows.len() as u64;
                if passes != Some(pass) {
                    order = (0..rows.len()).collect();
                    Rng::with_seed(seed.derive("pass", pass).get()).shuffle(&mut order);
                    passes = Some(pass);
                }
                let row = &rows[order[(nth % rows.len() as u64) as usize]];
                (encoded(tokenizer, &row.text), i64::from(row.label))
            } else {
                let (text, label) =
                    labelled_summary(corpora, seed.derive("summary", chunk * count + n));
                (encoded(tokenizer, &text), label)
            }
        })
        .collect();
    batched(made, size, |(ids, _)| ids.len(), &mut rng)
        .into_iter()
        .filter(|rows| rows.len() == size)
        .map(|rows| rows.into_iter().unzip())
        .collect()
}

/// A summary with its label. HH's users can be toxic in more ways than the rules detect, so their
/// summaries never count as harmless.
fn labelled_summary(corpora: &Corpora, seed: Seed) -> (String, i64) {
    let mut n = 0;
    loop {
        let made = pair(corpora, seed, n);
        n += 1;
        match (made.tone, made.source) {
            (Tone::Repeated, _) => return (made.summary, 1),
            (Tone::Absent, Source::Hh) => {}
            _ => return (made.summary, 0),
        }
    }
}

/// P(hate) of each text.
pub(crate) fn probabilities(
    model: &Classifier,
    tokenizer: &HfTokenizer,
    texts: &[&str],
) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut all = Vec::with_capacity(texts.len());
    for texts in texts.chunks(128) {
        let rows = texts.iter().map(|text| encoded(tokenizer, text)).collect();
        let input = TokenBatch::collate(rows, model.spec(), Padding::Right)?;
        let logits = no_grad(|| model.logits(&input, None, Forward::default()))?;
        all.extend(Vec::<f64>::try_from(model.scheme().probabilities(&logits).select(1, 1))?);
    }
    Ok(all)
}

/// The area under the ROC curve: the probability that a toxic text scores above one that is not,
/// ties counted half. NaN with a NaN among the scores.
pub(crate) fn auc(scores: &[f64], labels: &[u8]) -> f64 {
    if scores.iter().any(|score| score.is_nan()) {
        return f64::NAN;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (mut ranks, mut at) = (0., 0);
    while at < order.len() {
        let equal = order[at..].iter().take_while(|&&i| scores[i] == scores[order[at]]).count();
        let rank = at as f64 + (equal as f64 + 1.) / 2.;
        ranks += rank * order[at..at + equal].iter().filter(|&&i| labels[i] == 1).count() as f64;
        at += equal;
    }
    let positive = labels.iter().filter(|&&label| label == 1).count() as f64;
    let negative = labels.len() as f64 - positive;
    (ranks - positive * (positive + 1.) / 2.) / (positive * negative)
}

//! Reading the fixtures that `fixtures/models/export_goldens.py` wrote.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rlaif_lm::{EncodedTokens, EncoderStates, Padding, Parameters, TokenBatch};
use tch::{Kind, Tensor};

pub(crate) const CAUSAL: [&str; 20] = [
    "llama2",
    "llama3",
    "llama31",
    "llama-head-dim",
    "llama-bias",
    "mistral",
    "qwen2",
    "qwen2-window",
    "qwen3",
    "gpt2",
    "gpt-neox",
    "gemma2",
    "gemma3",
    "phi3",
    "olmo2",
    "smollm3",
    "granite",
    "mixtral",
    "qwen3-moe",
    "qwen2-moe",
];
pub(crate) const T5: [&str; 4] = ["t5-v1.0", "flan", "flan-tied", "mt5"];
pub(crate) const SEQ2SEQ: [&str; 8] =
    [T5[0], T5[1], T5[2], T5[3], "bart", "mbart", "pegasus", "t5gemma"];
pub(crate) const CAUSAL_CLASSIFIERS: [&str; 8] = [
    "llama-reward",
    "llama-classifier",
    "gpt2-reward",
    "mistral-reward",
    "qwen3-reward",
    "qwen3-token",
    "gemma2-classifier",
    "gemma3-reward",
];
pub(crate) const SEQ2SEQ_CLASSIFIERS: [&str; 3] =
    ["t5-classifier", "bart-classifier", "mbart-classifier"];
pub(crate) const ENCODER_CLASSIFIERS: [&str; 10] = [
    "roberta",
    "roberta-reward",
    "bert",
    "distilbert",
    "electra",
    "albert",
    "deberta-v3",
    "deberta-v2",
    "modernbert",
    "modernbert-mean",
];

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The folder of a tiny model, for which this thread uses no other: they would cost more than they
/// gain.
pub(crate) fn model(name: &str) -> PathBuf {
    tch::set_num_threads(1);
    fixtures().join("models").join(name)
}

/// The spellings of config.json in a folder.
pub(crate) fn spellings(name: &str) -> Vec<&'static str> {
    ["config.json", "config.hub.json", "config.old.json"]
        .into_iter()
        .filter(|file| model(name).join(file).exists())
        .collect()
}

/// The folder with one of these spellings as its config.json.
pub(crate) fn spelled(name: &str, config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(model(name).join(config), folder.path().join("config.json")).unwrap();
    fs::copy(model(name).join("model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    folder
}

/// The goldens of one folder.
pub(crate) struct Goldens {
    tensors: BTreeMap<String, Tensor>,
    pub(crate) json: serde_json::Value,
    /// The ids that stand for others: the first, the last, and the distance.
    pub(crate) moved: Option<[u32; 3]>,
}

impl Goldens {
    pub(crate) fn read(folder: &Path) -> Self {
        let tensors = Tensor::read_safetensors(folder.join("goldens.safetensors")).unwrap();
        let json = fs::read_to_string(folder.join("goldens.json")).unwrap();
        Self {
            tensors: tensors.into_iter().collect(),
            json: serde_json::from_str(&json).unwrap(),
            moved: None,
        }
    }

    /// An id of the goldens, as the test of a resized vocabulary has it.
    pub(crate) fn id(&self, id: i64) -> u32 {
        let id = u32::try_from(id).unwrap();
        let [_, _, by] =
            self.moved.filter(|[first, last, _]| (first..=last).contains(&&id)).unwrap_or_default();
        id + by
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no golden `{name}`"))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// `NAME.logits`; the script has compared those it leaves out with `logits`.
    pub(crate) fn logits(&self, name: &str) -> &Tensor {
        self.find(&format!("{name}.logits")).unwrap_or_else(|| self.get("logits"))
    }

    /// Every golden whose name starts with `prefix`, without it; there may be none.
    pub(crate) fn all(&self, prefix: &str) -> Vec<(&str, &Tensor)> {
        let all = self.tensors.iter();
        all.filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor))).collect()
    }

    /// Every golden whose name starts with `prefix`, without it.
    pub(crate) fn starting(&self, prefix: &str) -> Vec<(&str, &Tensor)> {
        let all = self.all(prefix);
        assert!(!all.is_empty(), "no golden starts with `{prefix}`");
        all
    }

    /// The rows of `NAME.input_ids` under `NAME.mask`.
    pub(crate) fn rows(&self, name: &str) -> Vec<Vec<u32>> {
        let ids = Vec::<Vec<i64>>::try_from(self.get(&format!("{name}.input_ids"))).unwrap();
        let mask = Vec::<Vec<i64>>::try_from(self.get(&format!("{name}.mask"))).unwrap();
        ids.iter()
            .zip(&mask)
            .map(|(ids, mask)| {
                let real = ids.iter().zip(mask).filter(|(_, real)| **real == 1);
                real.map(|(&id, _)| self.id(id)).collect()
            })
            .collect()
    }

    /// Start of the second text in each row, for pairs of texts.
    pub(crate) fn second_starts(&self) -> Option<Vec<usize>> {
        let types = Vec::<Vec<i64>>::try_from(self.find("right.token_type_ids")?).unwrap();
        let starts = types.iter().zip(self.rows("right")).map(|(types, row)| {
            types[..row.len()].iter().position(|&t| t == 1).unwrap_or(row.len())
        });
        Some(starts.collect())
    }

    pub(crate) fn lengths(&self, name: &str) -> Vec<usize> {
        let lengths = Vec::<i64>::try_from(self.get(name)).unwrap();
        lengths.into_iter().map(|length| usize::try_from(length).unwrap()).collect()
    }
}

/// Prompts and responses of a causal fixture, from its joined rows.
pub(crate) fn split(goldens: &Goldens) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let prompts = goldens.lengths("prompt_lengths");
    let rows = goldens.rows("right").into_iter().zip(prompts);
    rows.map(|(row, prompt)| (row[..prompt].to_vec(), row[prompt..].to_vec())).unzip()
}

/// The rows `[N, ..]` of the real positions of `[B, T, ..]`, row by row.
pub(crate) fn real(x: &Tensor, batch: &TokenBatch) -> Tensor {
    let width = batch.width() as i64;
    let mut places = Vec::new();
    for (i, row) in batch.rows().iter().enumerate() {
        let start = i as i64 * width
            + match batch.padding() {
                Padding::Right => 0,
                Padding::Left => width - row.len() as i64,
            };
        places.extend(start..start + row.len() as i64);
    }
    x.flatten(0, 1).index_select(0, &Tensor::from_slice(&places))
}

/// The hidden states of real tokens, with or without padding between them.
pub(crate) fn real_encoded(encoded: &EncoderStates, prompts: &TokenBatch) -> Tensor {
    match encoded.tokens {
        EncodedTokens::Unpadded(_) => encoded.hidden.squeeze_dim(0),
        EncodedTokens::Full | EncodedTokens::Padded(_) => real(&encoded.hidden, prompts),
    }
}

/// The gradient of a parameter as the checkpoint has it, which may be transposed.
pub(crate) fn gradient(parameters: &Parameters, name: &str) -> Tensor {
    // transformers 5 calls every head so.
    let own = parameters
        .get(name)
        .map_or_else(|| name.replace("lm_head", "embed_out"), |_| name.to_owned());
    let grad = parameters.get(&own).unwrap().grad();
    if parameters.is_transposed(&own) { grad.tr() } else { grad }
}

/// The largest difference, which must be below `tolerance`.
#[track_caller]
pub(crate) fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) -> f64 {
    assert_eq!(got.size(), want.size(), "{what}");
    let difference = (got.to_kind(Kind::Double) - want.to_kind(Kind::Double)).abs().max();
    let difference = difference.double_value(&[]);
    assert!(difference < tolerance, "{what}: largest difference {difference:.2e}");
    difference
}

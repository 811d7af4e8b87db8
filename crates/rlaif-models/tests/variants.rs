//! Checkpoints that differ as those on the hub do: keys that are absent, other names, further tensors.
//! `fixtures/models/variants.json` has what transformers makes of each.

mod common;

use std::{collections::BTreeMap, fs, path::Path};

use common::{fixtures, model};
use rlaif_core::Seed;
use rlaif_lm::{
    Forward, Padding, Policy, SequenceClassifier, TokenBatch,
    generate::{Ask, GenerationConfig, Hooks, Sampling, generate},
};
use rlaif_models::{Architecture, Classifier, LanguageModel, LoadOptions, ModelError, inspect};
use serde::Deserialize;
use serde_json::{Map, Value};
use tch::{Kind, Tensor, no_grad};

#[derive(Deserialize)]
struct Variants {
    rows: BTreeMap<String, Vec<u32>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(default)]
struct Case {
    name: String,
    base: String,
    without: Vec<String>,
    set: Map<String, Value>,
    generation: Option<Value>,
    rename: Vec<(String, String)>,
    drop: Vec<String>,
    extra: BTreeMap<String, Vec<i64>>,
    row: String,
    logits: Option<Vec<f64>>,
    response: Option<Vec<u32>>,
    unread: Vec<String>,
    refused: bool,
    /// The field whose value is changed.
    field: Option<String>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            name: String::new(),
            base: String::new(),
            without: Vec::new(),
            set: Map::new(),
            generation: None,
            rename: Vec::new(),
            drop: Vec::new(),
            extra: BTreeMap::new(),
            row: "row".to_owned(),
            logits: None,
            response: None,
            unread: Vec::new(),
            refused: false,
            field: None,
        }
    }
}

impl Case {
    /// The folder that the exporter measured.
    fn write(&self, folder: &Path) {
        let source = model(&self.base);
        let config = fs::read_to_string(source.join("config.hub.json")).unwrap();
        let mut config: Map<String, Value> = serde_json::from_str(&config).unwrap();
        for key in &self.without {
            config.remove(key).unwrap();
        }
        config.extend(self.set.clone());
        fs::write(folder.join("config.json"), Value::Object(config).to_string()).unwrap();
        if let Some(generation) = &self.generation {
            fs::write(folder.join("generation_config.json"), generation.to_string()).unwrap();
        }
        let mut tensors: Vec<(String, Tensor)> =
            Tensor::read_safetensors(source.join("model.safetensors"))
                .unwrap()
                .into_iter()
                .filter(|(name, _)| !self.drop.contains(name))
                .map(|(name, tensor)| (self.renamed(name), tensor))
                .collect();
        let cpu = (Kind::Float, tch::Device::Cpu);
        for (name, shape) in &self.extra {
            tensors.push((name.clone(), Tensor::full(shape, 0.5, cpu)));
        }
        Tensor::write_safetensors(&tensors, folder.join("model.safetensors")).unwrap();
    }

    fn renamed(&self, mut name: String) -> String {
        for (old, new) in &self.rename {
            name = match name.strip_prefix(old) {
                Some(rest) if old.ends_with('.') => format!("{new}{rest}"),
                _ if old.ends_with('.') => name,
                _ => name.replace(old, new),
            };
        }
        name
    }

    fn classifies(&self) -> bool {
        let all = ["bert", "roberta", "llama-reward", "gpt2-reward", "distilbert", "electra"];
        let later = ["albert", "deberta-v3", "deberta-v2", "modernbert"];
        all.iter().chain(&later).any(|base| *base == self.base)
    }

    /// The logits, and the tensors that were not read.
    fn logits(
        &self,
        folder: &Path,
        rows: &BTreeMap<String, Vec<u32>>,
    ) -> Result<(Tensor, Vec<String>), ModelError> {
        let forward = Forward::default();
        if self.classifies() {
            let classifier = Classifier::load(folder, LoadOptions::default())?;
            let text = vec![rows["text"].clone()];
            let batch = TokenBatch::collate(text, classifier.spec(), Padding::Right).unwrap();
            let logits = no_grad(|| classifier.logits(&batch, None, forward)).unwrap();
            return Ok((logits.squeeze_dim(0), classifier.unread().to_vec()));
        }
        let policy = LanguageModel::load(folder, LoadOptions::default())?;
        let row = vec![rows[&self.row].clone()];
        let batch = TokenBatch::collate(row, policy.spec(), Padding::Right).unwrap();
        let logits = no_grad(|| {
            let hidden = match policy.architecture() {
                Architecture::DecoderOnly(model) => model.hidden(&batch, forward).unwrap(),
                Architecture::EncoderDecoder(t5) => {
                    let encoded = t5.encode(&batch, forward).unwrap();
                    let decoder = vec![rows["decoder"].clone()];
                    let decoder = TokenBatch::responses(decoder, policy.spec()).unwrap();
                    t5.decode(decoder.ids(), &encoded, forward).unwrap()
                }
            };
            policy.head(forward).unwrap().logits(&hidden.select(1, -1))
        });
        Ok((logits.squeeze_dim(0), policy.unread().to_vec()))
    }

    fn check(&self, rows: &BTreeMap<String, Vec<u32>>) {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path();
        self.write(folder);
        if let Some(response) = &self.response {
            let policy = LanguageModel::load(folder, LoadOptions::default()).unwrap();
            let ask = Ask { id: 0, prompt: rows["short"].clone(), max_new_tokens: None };
            let config = GenerationConfig {
                max_new_tokens: 6,
                sampling: Sampling::Greedy,
                ..GenerationConfig::default()
            };
            let forward = Forward::default();
            let (seed, hooks) = (Seed::new(1), Hooks::default());
            let made = generate(&policy, &[ask], &config, seed, 0, forward, hooks).unwrap();
            assert_eq!(&made[0].ids, response, "{}", self.name);
            return;
        }
        let result = self.logits(folder, rows);
        // transformers drops tensors of layers that it reads; here that is another computation than
        // the checkpoint's, and refused.
        let beyond = self.name.starts_with("fewer layers") || self.name.contains("hidden_groups");
        let of_layers = !beyond
            && self
                .unread
                .iter()
                .any(|name| name.contains("layers.") || name.starts_with("deberta."));
        if self.refused || of_layers {
            let refused = matches!(
                result,
                Err(ModelError::Tensors { .. }
                    | ModelError::BadField { .. }
                    | ModelError::UnsupportedField { .. })
            );
            assert!(refused, "{}: {result:?}", self.name);
            return;
        }
        if let (Err(ModelError::UnsupportedField { field, .. }), Some(changed)) =
            (&result, &self.field)
            && field == changed
        {
            // A field that is not read is refused by name.
            return;
        }
        let (logits, unread) = result.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let wanted = self.logits.as_ref().unwrap();
        let got: Vec<f32> = Vec::try_from(&logits).unwrap();
        for (wanted, got) in wanted.iter().zip(&got) {
            let difference = (wanted - f64::from(*got)).abs();
            assert!(difference < 1e-4, "{}: {wanted} and {got}", self.name);
        }
        assert_eq!(unread, self.unread, "{}", self.name);
        // Without its class, a file is that of a language model unless a classifier is asked for.
        if !self.without.iter().any(|field| field == "architectures") {
            assert_eq!(inspect(folder).unwrap().unread, self.unread, "{}", self.name);
        }
    }
}

fn variants(which: impl Fn(&Case) -> bool) {
    let text = fs::read_to_string(fixtures().join("models/variants.json")).unwrap();
    let variants: Variants = serde_json::from_str(&text).unwrap();
    let mut seen = 0;
    for case in variants.cases.iter().filter(|case| which(case)) {
        case.check(&variants.rows);
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn an_absent_key_has_the_default_of_transformers() {
    variants(|case| !case.without.is_empty() && case.response.is_none());
}

#[test]
fn other_names_mean_the_same() {
    variants(|case| case.without.is_empty() && case.response.is_none() && case.field.is_none());
}

#[test]
fn each_field_acts_as_in_transformers_or_is_refused() {
    variants(|case| case.field.is_some());
}

#[test]
fn a_response_ends_where_that_of_transformers_ends() {
    variants(|case| case.response.is_some());
}

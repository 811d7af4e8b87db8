//! Heads on tokens, on the trunks of other tiny models: logits, gradients and files of transformers.

mod common;

use std::{collections::BTreeSet, fs};

use rlaif_lm::{Forward, Padding, SequenceClassifier, TokenBatch};
use rlaif_models::{Classifier, LoadOptions, SaveOptions, classifier_with_labels};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use common::{Goldens, close, gradient, model};

/// A folder as transformers saves the model: the trunk of another one, and a head.
fn folder(goldens: &Goldens, model_type: &str) -> tempfile::TempDir {
    let notes = &goldens.json["models"][model_type];
    let trunk = model(notes["trunk"].as_str().unwrap()).join("model.safetensors");
    let mut tensors: Vec<(String, Tensor)> = goldens
        .starting(&format!("{model_type}.head."))
        .into_iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()))
        .collect();
    let names: Vec<String> = serde_json::from_value(notes["tensors"].clone()).unwrap();
    for (name, tensor) in Tensor::read_safetensors(trunk).unwrap() {
        // T5's class calls its trunk so.
        let inner = format!("transformer.{name}");
        let name = if names.contains(&inner) { inner } else { name };
        if names.contains(&name) && tensors.iter().all(|(own, _)| *own != name) {
            tensors.push((name, tensor));
        }
    }
    assert_eq!(tensors.len(), names.len(), "{model_type}");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), notes["config"].to_string()).unwrap();
    Tensor::write_safetensors(&tensors, folder.path().join("model.safetensors")).unwrap();
    folder
}

/// Families whose class reads the encoder of a model that has a decoder as well.
const ENCODERS_OF: [&str; 2] = ["t5", "mt5"];

fn rows(notes: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(notes["rows"].clone()).unwrap()
}

fn logits(model: &Classifier, rows: Vec<Vec<u32>>, padding: Padding) -> Tensor {
    let batch = TokenBatch::collate(rows, model.spec(), padding).unwrap();
    model.logits(&batch, None, Forward::default()).unwrap()
}

/// The families, whose classes end in `ForTokenClassification`.
fn families(goldens: &Goldens) -> Vec<&String> {
    goldens.json["models"].as_object().unwrap().keys().collect()
}

/// The last token of each row is read, as transformers reads it; in a decoder, the last token of each beginning of
/// a row as well: its logits in the whole row.
#[test]
fn the_last_token_has_the_logits_of_transformers() {
    let goldens = Goldens::read(&model("tokens"));
    let families = families(&goldens);
    assert_eq!(families.len(), 23);
    for model_type in families {
        let notes = &goldens.json["models"][model_type];
        let folder = folder(&goldens, model_type);
        let loaded = Classifier::load(folder.path(), LoadOptions::default()).unwrap();
        assert!(loaded.has_token_head() && loaded.unread().is_empty(), "{model_type}");
        assert_eq!(loaded.labels(), ["wrong", "neutral", "right"]);
        let rows = rows(notes);
        let every = goldens.get(&format!("{model_type}.logits"));
        let mut ends: Vec<i64> = Vec::new();
        for row in &rows {
            ends.push(ends.last().map_or(-1, |end| *end) + row.len() as i64);
        }
        let want = every.index_select(0, &Tensor::from_slice(&ends));
        for padding in [Padding::Right, Padding::Left] {
            close(model_type, &logits(&loaded, rows.clone(), padding), &want, 1e-4);
        }
        if loaded.family().generates.is_some() && !ENCODERS_OF.contains(&model_type.as_str()) {
            let beginnings = (1..=rows[0].len()).map(|n| rows[0][..n].to_vec()).collect();
            let want = every.narrow(0, 0, rows[0].len() as i64);
            close(model_type, &logits(&loaded, beginnings, Padding::Right), &want, 1e-4);
        }

        loaded.parameters().train_where(|_| true);
        let labels: Vec<i64> = serde_json::from_value(goldens.json["labels"].clone()).unwrap();
        let labels = Tensor::from_slice(&labels);
        let loss = logits(&loaded, rows, Padding::Right).cross_entropy_for_logits(&labels);
        let of_transformers = notes["loss"].as_f64().unwrap();
        assert!((loss.double_value(&[]) - of_transformers).abs() < 1e-5, "{model_type}");
        loss.backward();
        for (name, want) in goldens.starting(&format!("{model_type}.grad.")) {
            close(name, &gradient(loaded.parameters(), name), want, 1e-4);
        }
    }
}

/// A saved folder has the tensors and the class that transformers would save, and gives the same logits again.
#[test]
fn a_saved_head_is_that_of_transformers() {
    let goldens = Goldens::read(&model("tokens"));
    for model_type in families(&goldens) {
        let notes = &goldens.json["models"][model_type];
        let folder = folder(&goldens, model_type);
        let loaded = Classifier::load(folder.path(), LoadOptions::default()).unwrap();
        let out = tempfile::tempdir().unwrap();
        let saved = out.path().join("saved");
        loaded.save(&saved, &SaveOptions::default()).unwrap();
        let config: Value =
            serde_json::from_slice(&fs::read(saved.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["architectures"], notes["config"]["architectures"]);
        let names: BTreeSet<String> = Tensor::read_safetensors(saved.join("model.safetensors"))
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let wanted: BTreeSet<String> = serde_json::from_value(notes["tensors"].clone()).unwrap();
        assert_eq!(names, wanted, "{model_type}");
        let again = Classifier::load(&saved, LoadOptions::default()).unwrap();
        let [first, second] =
            [&loaded, &again].map(|model| logits(model, rows(notes), Padding::Right));
        assert_eq!(first, second, "{model_type}");
    }
}

/// A training scores texts, so what starts from a head on tokens has a head on texts, with the tensors of the same name.
#[test]
fn a_training_that_starts_from_a_head_on_tokens_has_a_head_on_texts() {
    let goldens = Goldens::read(&model("tokens"));
    for model_type in families(&goldens) {
        let folder = folder(&goldens, model_type);
        let tokens = Classifier::load(folder.path(), LoadOptions::default()).unwrap();
        let labels = tokens.labels().to_vec();
        let texts = classifier_with_labels(folder.path(), &labels, LoadOptions::default());
        if ENCODERS_OF.contains(&model_type.as_str()) {
            // A head on texts would read a decoder, which is not there.
            let error = texts.unwrap_err().to_string();
            assert!(error.contains("`is_encoder_decoder` is `false`"), "{model_type}: {error}");
            continue;
        }
        let texts = texts.unwrap();
        assert!(tokens.has_token_head() && !texts.has_token_head(), "{model_type}");
        assert_eq!(texts.labels(), labels, "{model_type}");
        let kept = tokens.parameters().iter().filter(|(name, tensor)| {
            let same = texts.parameters().get(name).filter(|other| other.size() == tensor.size());
            same.is_some_and(|other| *tensor == other)
        });
        // The trunk is kept, and a head of one layer, which has the same name in both classes.
        let trunk = tokens.parameters().iter().count() - 2;
        assert!(kept.count() >= trunk, "{model_type}");
    }
}

/// Classes that transformers lacks are refused by name.
#[test]
fn other_heads_on_tokens_are_refused() {
    let goldens = Goldens::read(&model("tokens"));
    let refused = |model_type: &str, class: &str| {
        let config = json!({"model_type": model_type, "architectures": [class]});
        let config = rlaif_models::Config::from_value(config);
        let error = Classifier::random(config, Kind::Float, tch::Device::Cpu).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(&format!("`{class}` (field `architectures`)")), "{error}");
    };
    for model_type in goldens.json["without"].as_array().unwrap() {
        refused(model_type.as_str().unwrap(), "AnyForTokenClassification");
    }
}

//! The output of every layer, compared with transformers.
//!
//! A model returns only its last hidden states; so for each depth the checkpoint is cut to its
//! first layers, whose last hidden states are then the norm of the goldens for that layer. Run with
//! `--nocapture` to see the largest differences.

mod common;

use common::{
    CAUSAL, CAUSAL_CLASSIFIERS, ENCODER_CLASSIFIERS, Goldens, T5, close, model, real, real_encoded,
};
use rlaif_lm::{Forward, Padding, Policy, SequenceClassifier, TokenBatch};
use rlaif_models::{Architecture, Classifier, LanguageModel, LoadOptions};
use serde_json::Value;
use tch::{Kind, Tensor, no_grad};

const TOLERANCE: f64 = 1e-4;

/// A fixture without its upper layers.
struct Cut {
    folder: tempfile::TempDir,
    config: Value,
    weights: Vec<(String, Tensor)>,
}

impl Cut {
    /// Keeps the weights that `kept` selects, and changes fields of config.json.
    fn new(name: &str, fields: &[(&str, Value)], kept: impl Fn(&str) -> bool) -> Self {
        let config = std::fs::read_to_string(model(name).join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        for (field, value) in fields {
            config[field] = value.clone();
        }
        // One type for each layer that is left; transformers refuses more, too.
        let left = config["num_hidden_layers"].as_u64();
        if let (Some(types), Some(left)) = (config["layer_types"].as_array_mut(), left) {
            types.truncate(usize::try_from(left).unwrap());
        }
        let weights = Tensor::read_safetensors(model(name).join("model.safetensors")).unwrap();
        let weights: Vec<_> = weights.into_iter().filter(|(name, _)| kept(name)).collect();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Tensor::write_safetensors(&weights, folder.path().join("model.safetensors")).unwrap();
        Self { folder, config, weights }
    }

    fn language_model(&self) -> LanguageModel {
        LanguageModel::load(self.folder.path(), LoadOptions::default()).unwrap()
    }

    /// x / sqrt(mean(x²) + ε) · w over the last dimension, in f64.
    fn rms_norm(&self, x: &Tensor, weight: &str, epsilon: &str) -> Tensor {
        let (_, weight) = self.weights.iter().find(|(name, _)| name == weight).unwrap();
        let x = x.to_kind(Kind::Double);
        let square = x.square().mean_dim(-1, true, Kind::Double);
        x * (square + self.config[epsilon].as_f64().unwrap()).rsqrt() * weight
    }
}

/// The number after `before` in a weight's name.
fn layer(name: &str, before: &str) -> Option<usize> {
    let (_, rest) = name.split_once(before)?;
    rest.split('.').next()?.parse().ok()
}

/// Number of layers in the goldens of `prefix`: one less than the number of outputs.
fn depth(goldens: &Goldens, prefix: &str) -> usize {
    goldens.starting(prefix).len() - 1
}

#[test]
fn decoder_only() {
    for name in CAUSAL.into_iter().chain(CAUSAL_CLASSIFIERS) {
        let goldens = Goldens::read(&model(name));
        let normed = goldens.find("normed.0").is_some();
        for layers in 0..=depth(&goldens, if normed { "normed." } else { "hidden." }) {
            let field = if name.starts_with("gpt2") { "n_layer" } else { "num_hidden_layers" };
            let mut fields = vec![(field, layers.into())];
            if goldens.find("response_ids").is_none() {
                // A classifier's trunk, under a head that is not asked for.
                fields.push(("architectures", Value::Null));
                fields.push(("tie_word_embeddings", true.into()));
            }
            let cut = Cut::new(name, &fields, |weight| {
                weight != "score.weight"
                    && layer(weight, "layers.").is_none_or(|layer| layer < layers)
                    && layer(weight, "transformer.h.").is_none_or(|layer| layer < layers)
            });
            let policy = cut.language_model();
            let Architecture::DecoderOnly(causal) = policy.architecture() else { panic!("{name}") };
            let want = match goldens.find(&format!("normed.{layers}")) {
                Some(normed) => normed.shallow_clone(),
                None => {
                    let want = goldens.get(&format!("hidden.{layers}"));
                    cut.rms_norm(want, "model.norm.weight", "rms_norm_eps")
                }
            };
            for padding in [Padding::Right, Padding::Left] {
                let rows = goldens.rows("right");
                let batch = TokenBatch::collate(rows, policy.spec(), padding).unwrap();
                let got = no_grad(|| causal.hidden(&batch, Forward::default()).unwrap());
                let what = format!("{name}, layer {layers}, {padding:?}");
                println!("{what}: {:.1e}", close(&what, &real(&got, &batch), &want, TOLERANCE));
            }
        }
    }
}

#[test]
fn encoder_decoder() {
    for name in T5 {
        let goldens = Goldens::read(&model(name));
        let (encoder, decoder) = (depth(&goldens, "encoder.hidden."), depth(&goldens, "hidden."));
        // All depths of one stack, with the other stack complete.
        let depths = (0..=encoder).map(|layers| (layers, decoder));
        for (encoder, decoder) in depths.chain((0..decoder).map(|layers| (encoder, layers))) {
            let fields = [("num_layers", encoder.into()), ("num_decoder_layers", decoder.into())];
            let whole = encoder == depth(&goldens, "encoder.hidden.");
            let cut = Cut::new(name, &fields, |weight| {
                // The first block has the bias for all.
                weight.contains("relative_attention_bias")
                    || (layer(weight, "encoder.block.").is_none_or(|layer| layer < encoder)
                        && layer(weight, "decoder.block.").is_none_or(|layer| layer < decoder))
            });
            let policy = cut.language_model();
            let Architecture::EncoderDecoder(t5) = policy.architecture() else { panic!("{name}") };
            for padding in [Padding::Right, Padding::Left] {
                let rows = goldens.rows("encoder");
                let prompts = TokenBatch::collate(rows, policy.spec(), padding).unwrap();
                let inputs = goldens.rows("decoder");
                let inputs = TokenBatch::responses(inputs, policy.spec()).unwrap();
                let (encoded, decoded) = no_grad(|| {
                    let encoded = t5.encode(&prompts, Forward::default()).unwrap();
                    let decoded = t5.decode(inputs.ids(), &encoded, Forward::default()).unwrap();
                    (real_encoded(&encoded, &prompts), decoded)
                });
                let compare = |what: &str, got: Tensor, golden: String, weight: &str| {
                    let want = cut.rms_norm(goldens.get(&golden), weight, "layer_norm_epsilon");
                    let what = format!("{name}, {what}, {padding:?}");
                    println!("{what}: {:.1e}", close(&what, &got, &want, TOLERANCE));
                };
                compare(
                    &format!("encoder layer {encoder}"),
                    encoded,
                    format!("encoder.hidden.{encoder}"),
                    "encoder.final_layer_norm.weight",
                );
                if whole {
                    compare(
                        &format!("decoder layer {decoder}"),
                        real(&decoded, &inputs),
                        format!("hidden.{decoder}"),
                        "decoder.final_layer_norm.weight",
                    );
                }
            }
        }
    }
}

#[test]
fn encoder_only() {
    for name in ENCODER_CLASSIFIERS {
        let goldens = Goldens::read(&model(name));
        for layers in 0..=depth(&goldens, "hidden.") {
            if name == "albert" && layers % 2 == 1 {
                // Its layers fall into groups of two.
                continue;
            }
            let groups = (layers / 2).max(1);
            let field = if name == "distilbert" { "n_layers" } else { "num_hidden_layers" };
            let mut fields = vec![(field, layers.into())];
            if name == "albert" {
                fields.push(("num_hidden_groups", groups.into()));
            }
            if name.starts_with("modernbert") {
                let mut types = ["full_attention", "sliding_attention"];
                if name == "modernbert-mean" {
                    types.reverse();
                }
                fields.push(("layer_types", types[..layers].into()));
            }
            let cut = Cut::new(name, &fields, |weight| {
                layer(weight, "layer_groups.").is_none_or(|group| group < groups)
                    && layer(weight, "encoder.layer.").is_none_or(|layer| layer < layers)
                    && layer(weight, "model.layers.").is_none_or(|layer| layer < layers)
                    && layer(weight, "transformer.layer.").is_none_or(|layer| layer < layers)
            });
            let classifier = Classifier::load(cut.folder.path(), LoadOptions::default()).unwrap();
            let rows = goldens.rows("right");
            let starts = goldens.second_starts();
            for padding in [Padding::Right, Padding::Left] {
                let batch = TokenBatch::collate(rows.clone(), classifier.spec(), padding).unwrap();
                let forward = Forward::default();
                let got =
                    no_grad(|| classifier.hidden(&batch, starts.as_deref(), forward).unwrap());
                let what = format!("{name}, layer {layers}, {padding:?}");
                let want = goldens.get(&format!("hidden.{layers}"));
                println!("{what}: {:.1e}", close(&what, &real(&got, &batch), want, TOLERANCE));
            }
        }
    }
}

//! A family that this crate does not know, added by one row: `glimmer` is a Llama with other tensor
//! names and scaled embeddings.

mod common;

use std::{fs, num::NonZeroU32, path::Path};

use common::model;
use rlaif_core::Seed;
use rlaif_lm::{
    Adapters, CausalPolicy, Forward, Padding, Policy, Reference, SequenceClassifier, TokenBatch,
    generate::{Ask, Eos, GenerationConfig, Hooks, Sampling, generate},
    token_log_probs,
};
use rlaif_models::{
    Classifier, Config, Families, Family, LanguageModel, LoadOptions, Lora, MemoryPlan, ModelError,
    PolicySetup, Quantization, SaveOptions, classifier_with_labels,
    extend::{
        Classifies, Generates, Llama, LlamaClassifier, LlamaNames, LlamaVariant, as_read,
        llama_dimensions,
    },
    inspect_of, value_function,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

/// Differences between Glimmer and Llama.
const VARIANT: LlamaVariant = LlamaVariant {
    embedding_scale: |hidden| hidden as f64 / 8.,
    names: LlamaNames {
        trunk: "glimmer",
        embeddings: "tokens",
        layers: "blocks",
        norm: "last_norm",
        attention_norm: "mix_norm",
        attention: "mix",
        projections: ["query", "key", "value", "out"],
        feed_forward_norm: "wide_norm",
        feed_forward: "wide",
        feed_forward_layers: ["gate", "up", "down"],
        head: "readout",
        ..LlamaNames::HUGGING_FACE
    },
    ..LlamaVariant::LLAMA
};

/// The row of the family table.
const GLIMMER: Family = Family {
    model_type: "glimmer",
    generates: Some(Generates {
        class: "GlimmerWriter",
        head: "readout",
        build: |config, source| Ok(Box::new(CausalPolicy(Llama::build(config, source, &VARIANT)?))),
        gguf: None,
    }),
    classifies: Some(Classifies {
        class: "GlimmerJudge",
        head: &["score."],
        linear_head: Some("score.weight"),
        tokens: None,
        build: |config, labels, source| LlamaClassifier::build(config, labels, source, &VARIANT),
    }),
    dimensions: |config| llama_dimensions(config, &VARIANT),
    written: as_read,
};

const FAMILIES: Families = Families::with(&[GLIMMER]);

fn options() -> LoadOptions {
    LoadOptions { families: FAMILIES, ..LoadOptions::new(Device::Cpu, Kind::Float) }
}

/// A Llama with a separate head; the fixture's is tied.
fn llama(folder: &Path) -> Vec<(String, Tensor)> {
    let mut tensors = Tensor::read_safetensors(model("llama3").join("model.safetensors")).unwrap();
    let embeddings = tensors.iter().find(|(name, _)| name == "model.embed_tokens.weight");
    let head = embeddings.unwrap().1.copy();
    tensors.push(("lm_head.weight".to_owned(), head));
    write(folder, &json!({ "tie_word_embeddings": false }), &tensors);
    tensors
}

/// The same weights as a Glimmer, whose embeddings are smaller by the scale factor.
fn glimmer(folder: &Path, llama: &[(String, Tensor)]) {
    const NAMES: [(&str, &str); 14] = [
        ("model.embed_tokens", "glimmer.tokens"),
        ("model.norm", "glimmer.last_norm"),
        ("model.layers", "glimmer.blocks"),
        ("lm_head", "readout"),
        ("input_layernorm", "mix_norm"),
        ("post_attention_layernorm", "wide_norm"),
        ("self_attn.q_proj", "mix.query"),
        ("self_attn.k_proj", "mix.key"),
        ("self_attn.v_proj", "mix.value"),
        ("self_attn.o_proj", "mix.out"),
        ("mlp.gate_proj", "wide.gate"),
        ("mlp.up_proj", "wide.up"),
        ("mlp.down_proj", "wide.down"),
        ("model.", "glimmer."),
    ];
    let renamed =
        |name: &str| NAMES.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
    let tensors: Vec<(String, Tensor)> = llama
        .iter()
        .map(|(name, tensor)| match name.as_str() {
            "model.embed_tokens.weight" => (renamed(name), tensor / 4.),
            _ => (renamed(name), tensor.shallow_clone()),
        })
        .collect();
    let changes = json!({
        "model_type": "glimmer", "architectures": ["GlimmerWriter"], "tie_word_embeddings": false,
    });
    write(folder, &changes, &tensors);
}

/// A folder with these tensors and the fixture's config.json with some fields changed.
fn write(folder: &Path, changes: &Value, tensors: &[(String, Tensor)]) {
    fs::create_dir_all(folder).unwrap();
    let mut config = Config::read(&model("llama3")).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        config.set(field, value.clone());
    }
    let text = serde_json::to_string(config.fields()).unwrap();
    fs::write(folder.join("config.json"), text).unwrap();
    Tensor::write_safetensors(tensors, folder.join("model.safetensors")).unwrap();
}

fn both(root: &Path) -> (LanguageModel, LanguageModel) {
    let tensors = llama(&root.join("llama"));
    glimmer(&root.join("glimmer"), &tensors);
    let load = |name: &str| LanguageModel::load(&root.join(name), options()).unwrap();
    (load("llama"), load("glimmer"))
}

fn log_probs(policy: &LanguageModel, forward: Forward<'_>) -> Tensor {
    let spec = policy.spec();
    let prompts = vec![vec![5, 6, 7, 8, 9], vec![10, 11]];
    let prompts = TokenBatch::collate(prompts, spec, Padding::Right).unwrap();
    let responses = TokenBatch::responses(vec![vec![20, 21, 22], vec![23]], spec).unwrap();
    let hidden = policy.response_hidden(&prompts, &responses, forward).unwrap();
    let head = policy.head(forward).unwrap();
    token_log_probs(&head, &hidden, &responses, 1.).unwrap().log_probs
}

/// One step of gradient descent on the log-probabilities; returns their sums before and after.
fn learn(policy: &LanguageModel) -> (f64, f64) {
    let before = log_probs(policy, Forward::default()).sum(Kind::Float);
    before.backward();
    no_grad(|| {
        for (_, mut parameter) in policy.parameters().trainable() {
            let step = parameter.grad() * 0.01;
            let _ = parameter.g_add_(&step);
        }
    });
    let after = log_probs(policy, Forward::default()).sum(Kind::Float);
    (before.double_value(&[]), after.double_value(&[]))
}

#[test]
fn without_its_row_it_is_unknown() {
    let root = tempfile::tempdir().unwrap();
    let _models = both(root.path());
    let folder = root.path().join("glimmer");
    let error = LanguageModel::load(&folder, LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("unknown architecture `glimmer` (field `model_type`)"), "{error}");
    // With it, it is among those that are known.
    let config = Config::from_value(json!({ "model_type": "mamba" }));
    let error = FAMILIES.of(&config).unwrap_err().to_string();
    assert!(error.contains("known: GlimmerWriter, GlimmerJudge (glimmer); T5For"), "{error}");
    let error = Classifier::load(&folder, options()).unwrap_err();
    assert!(matches!(error, ModelError::WrongSort { .. }), "{error}");
}

#[test]
fn it_computes_and_generates_as_the_llama_it_is() {
    let root = tempfile::tempdir().unwrap();
    let (llama, glimmer) = both(root.path());
    let of = |policy| no_grad(|| log_probs(policy, Forward::default()));
    assert!(of(&llama).equal(&of(&glimmer)));
    let rows: Vec<Ask> = [vec![5, 6, 7, 8], vec![9]]
        .into_iter()
        .zip(0..)
        .map(|(prompt, id)| Ask { id, prompt, max_new_tokens: None })
        .collect();
    for sampling in [Sampling::Greedy, Sampling::at(1.)] {
        let config = GenerationConfig {
            max_new_tokens: 8,
            eos: Eos::Ignored,
            sampling,
            ..GenerationConfig::default()
        };
        let run = |policy: &LanguageModel| {
            let forward = Forward::default();
            let rows = generate(policy, &rows, &config, Seed::new(1), 0, forward, Hooks::default());
            rows.unwrap().into_iter().map(|row| row.ids).collect::<Vec<_>>()
        };
        assert_eq!(run(&llama), run(&glimmer));
    }
}

#[test]
fn its_head_is_that_of_its_row() {
    let root = tempfile::tempdir().unwrap();
    let (llama, glimmer) = both(root.path());
    let heads = |model: &LanguageModel| -> Vec<String> {
        let all = model.parameters().iter();
        all.filter(|(name, _)| model.parameters().is_of_vocab_head(name))
            .map(|(name, _)| name.to_owned())
            .collect()
    };
    assert_eq!(
        (heads(&llama), heads(&glimmer)),
        (vec!["lm_head.weight".to_owned()], vec!["readout.weight".to_owned()])
    );
    // A head is not quantized.
    let folder = root.path().join("glimmer");
    let narrow = LoadOptions { quantization: Some(Quantization::Int8), ..options() };
    let narrow = LanguageModel::load(&folder, narrow).unwrap();
    assert!(narrow.parameters().quantized().count() > 0);
    assert!(narrow.parameters().quantized().all(|name| !name.starts_with("readout")));
    // transformers 5 calls the heads of all families `lm_head`.
    let mut tensors = Tensor::read_safetensors(folder.join("model.safetensors")).unwrap();
    for (name, _) in &mut tensors {
        *name = name.replace("readout.", "lm_head.");
    }
    let common = root.path().join("common");
    write(&common, &json!({ "model_type": "glimmer", "tie_word_embeddings": false }), &tensors);
    let narrow = LoadOptions { quantization: Some(Quantization::Int8), ..options() };
    let narrow = LanguageModel::load(&common, narrow).unwrap();
    assert_eq!(heads(&narrow), ["lm_head.weight"]);
    assert!(narrow.parameters().quantized().all(|name| !name.starts_with("lm_head")));
    // Without a class, a folder with a head to the vocabulary generates, although it has a score's head.
    let mut tensors = Tensor::read_safetensors(folder.join("model.safetensors")).unwrap();
    let hidden = i64::from(u16::try_from(glimmer.spec().hidden_size).unwrap());
    tensors
        .push(("score.weight".to_owned(), Tensor::ones([1, hidden], (Kind::Float, Device::Cpu))));
    let mixed = root.path().join("mixed");
    let changes =
        json!({ "model_type": "glimmer", "architectures": [], "tie_word_embeddings": false });
    write(&mixed, &changes, &tensors);
    assert_eq!(inspect_of(FAMILIES, &mixed).unwrap().labels, Vec::<String>::new());
}

#[test]
fn it_learns_and_is_saved_and_loaded_again() {
    let root = tempfile::tempdir().unwrap();
    let (_, glimmer) = both(root.path());
    let (before, after) = learn(&glimmer);
    assert!(after > before, "{before} {after}");
    let saved = root.path().join("saved");
    glimmer.save(&saved, &SaveOptions::default()).unwrap();
    let again = LanguageModel::load(&saved, options()).unwrap();
    assert_eq!(again.config().text("model_type"), Some("glimmer"));
    let of = |policy| no_grad(|| log_probs(policy, Forward::default()));
    assert!(of(&glimmer).equal(&of(&again)));
    let summary = inspect_of(FAMILIES, &saved).unwrap();
    assert_eq!(summary.parameters, again.parameters().count());
    let plan = MemoryPlan {
        families: FAMILIES,
        microbatch_size: 2,
        tokens: 8,
        ..MemoryPlan::new(&saved, Kind::Float, Device::Cpu)
    };
    assert_eq!(plan.needed().unwrap().weights, summary.parameters as u64 * 4);
}

#[test]
fn an_adapter_on_it_learns_and_is_saved_and_loaded_again() {
    let root = tempfile::tempdir().unwrap();
    let _models = both(root.path());
    let folder = root.path().join("glimmer");
    let lora = Lora::new("small", NonZeroU32::new(4).unwrap());
    let setup = PolicySetup { lora: Some(lora), ..PolicySetup::new(&folder, options()) };
    let (mut policy, reference) = setup.load().unwrap();
    assert!(matches!(reference, Reference::AdaptersOff));
    let off = Forward { adapters: Adapters::Off, ..Forward::default() };
    let base = no_grad(|| log_probs(&policy, off));
    // B is zero at first, so that the second step is the first that moves both factors.
    let (before, _) = learn(&policy);
    let (_, after) = learn(&policy);
    assert!(after > before, "{before} {after}");
    assert!(no_grad(|| log_probs(&policy, off)).equal(&base), "the weights are as they were");
    let saved = root.path().join("adapter");
    policy.adapters().save("small", &saved).unwrap();
    let mut again = LanguageModel::load(&folder, options()).unwrap();
    again.adapters().load("small", &saved).unwrap();
    let of = |policy| no_grad(|| log_probs(policy, Forward::default()));
    assert!(of(&policy).equal(&of(&again)));
}

#[test]
fn its_trunk_takes_other_heads() {
    let root = tempfile::tempdir().unwrap();
    let _models = both(root.path());
    let labels = ["reward".to_owned()];
    tch::manual_seed(3);
    let folder = root.path().join("glimmer");
    let judge = classifier_with_labels(&folder, &labels, options()).unwrap();
    assert_eq!(judge.config().fields()["architectures"][0], "GlimmerJudge");
    let saved = root.path().join("judge");
    judge.save(&saved, &SaveOptions::default()).unwrap();
    let again = Classifier::load(&saved, options()).unwrap();
    assert_eq!(again.labels(), labels);
    let (trunk, _head) = value_function(&(&*saved).into(), options()).unwrap();
    assert_eq!(trunk.family().model_type, "glimmer");
}

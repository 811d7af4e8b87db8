//! Adapters that cannot be put on a base, and their errors.

use std::num::NonZeroU32;

use rlaif_lm::{Adapters, Forward, LmError, Policy};
use rlaif_models::{
    AdapterConfig, Classifier, Initialisation, LanguageModel, LoadOptions, ModelError, ModuleNames,
    TargetModules, TaskType, TensorProblem,
};
use tch::{Kind, Tensor};

use crate::common::{Goldens, model, spelled};
use crate::{adapter, language_model, logits, with};

#[test]
fn factors_that_cannot_begin_in_the_base_are_refused() {
    let mut policy = language_model("llama3");
    for (init, rank, targets) in
        [(Initialisation::Pissa, 2, "embed_tokens"), (Initialisation::Olora, 1000, "q_proj")]
    {
        let mut config = AdapterConfig::new(TaskType::CausalLm, NonZeroU32::new(rank).unwrap());
        config.init_lora_weights = init;
        config.target_modules =
            TargetModules::Named(ModuleNames::Suffixes(vec![targets.to_owned()]));
        let error = policy.adapters().add("new", config).unwrap_err();
        assert!(matches!(error, ModelError::AdapterStart { .. }), "{error}");
        assert!(error.to_string().contains(init.name()), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut policy = language_model("llama3");
    let count = policy.parameters().count();
    let config = |names: &[&str]| {
        let mut config = AdapterConfig::new(TaskType::CausalLm, NonZeroU32::new(2).unwrap());
        let names = names.iter().map(|&name| name.to_owned()).collect();
        config.target_modules = TargetModules::Named(ModuleNames::Suffixes(names));
        config
    };
    let error = policy.adapters().add("x", config(&["query"])).unwrap_err();
    assert!(matches!(error, ModelError::NoTarget { .. }));
    assert!(error.to_string().contains("q_proj"), "{error}");

    // flan's adapter has none of Llama's layers.
    let error = policy.adapters().load("x", &adapter("flan")).unwrap_err();
    assert!(matches!(error, ModelError::NoTarget { .. }), "{error}");

    // An adapter for another width: every tensor is named.
    let other = spelled("llama-head-dim", "config.json");
    let mut other = LanguageModel::load(other.path(), LoadOptions::default()).unwrap();
    let error = other.adapters().load("x", &adapter("llama3-a")).unwrap_err();
    let ModelError::Tensors { problems, .. } = &error else { panic!("{error}") };
    assert!(problems.iter().any(|p| matches!(p, TensorProblem::Shape { .. })), "{error}");
    assert_eq!(other.adapters().names(), Vec::<String>::new());

    // A module that replaces something other than a linear layer would be left out.
    for module in ["model.norm", "lm_hat"] {
        let mut config = config(&["q_proj"]);
        config.modules_to_save = vec![module.to_owned()];
        let error = policy.adapters().add("x", config).unwrap_err();
        assert!(matches!(error, ModelError::NoTarget { field: "modules_to_save", .. }), "{error}");
        assert!(error.to_string().contains(module), "{error}");
    }

    assert_eq!(policy.parameters().count(), count);
    policy.adapters().add("x", config(&["q_proj"])).unwrap();
    let error = policy.adapters().add("x", config(&["q_proj"])).unwrap_err();
    assert!(matches!(error, ModelError::AdapterExists { .. }), "{error}");
    let error = policy.adapters().unmerge().unwrap_err();
    assert!(matches!(error, ModelError::Merge { .. }), "{error}");
    policy.adapters().merge("x").unwrap();
    let error = policy.adapters().merge("x").unwrap_err();
    assert!(matches!(error, ModelError::Merge { .. }), "{error}");
    // The plain weights are out of reach while it is merged.
    let error = policy.head(with(Adapters::Off)).unwrap_err();
    assert!(matches!(error, LmError::AdapterMerged), "{error}");
}

#[test]
fn a_module_that_is_to_be_saved_whole_and_is_not_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let load = |base: &str, source: &str, modules: &[&str]| {
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(adapter(source).join(file), folder.path().join(file)).unwrap();
        }
        let path = folder.path().join("adapter_config.json");
        let mut config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["modules_to_save"] = modules.into();
        std::fs::write(&path, config.to_string()).unwrap();
        match base {
            "roberta" => Classifier::load(&model(base), LoadOptions::default())
                .unwrap()
                .adapters()
                .load("x", folder.path()),
            _ => language_model(base).adapters().load("x", folder.path()),
        }
    };
    // flan has no `final_layer`.
    for (base, source, module) in [
        ("llama3", "llama3-a", "lm_head"),
        ("llama3", "llama3-a", "model.embed_tokens"),
        ("llama3", "llama3-a", "model.norm"),
    ] {
        let error = load(base, source, &[module]).unwrap_err();
        let ModelError::Tensors { file, problems } = &error else { panic!("{error}") };
        assert!(file.ends_with("adapter_model.safetensors"), "{error}");
        assert_eq!(problems.len(), 1, "{error}");
        assert!(error.to_string().contains(module), "{error}");
    }
    // peft names both heads in the adapter of any classifier.
    load("roberta", "roberta", &["classifier", "score"]).unwrap();
    // A name that the model lacks has no effect in peft 0.21.2 (`PeftModel.from_pretrained`; recipes name
    // the heads of several architectures).
    load("roberta", "roberta", &["classifier", "pooler"]).unwrap();
    load("llama3", "llama3-a", &["embed_out", "score", "classifier"]).unwrap();
    let mut policy = language_model("llama3");
    policy.adapters().load("x", folder.path()).unwrap();
    let mut without = language_model("llama3");
    without.adapters().load("x", &adapter("llama3-a")).unwrap();
    let base = Goldens::read(&model("llama3"));
    let of = |policy: &LanguageModel| logits(policy, &base, Forward::default());
    assert_eq!(of(&policy), of(&without));
}

/// A copy of the base in an adapter's file is the base's, or the adapter was made on another one.
#[test]
fn weights_that_cannot_be_put_on_the_base_are_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |key: &str, shape: &[i64]| {
        let source = adapter("llama2-head");
        std::fs::copy(
            source.join("adapter_config.json"),
            folder.path().join("adapter_config.json"),
        )
        .unwrap();
        let mut tensors =
            Tensor::read_safetensors(source.join("adapter_model.safetensors")).unwrap();
        tensors.retain(|(name, _)| name != key);
        let cpu = (Kind::Float, tch::Device::Cpu);
        tensors.push((key.to_owned(), Tensor::zeros(shape, cpu)));
        let file = folder.path().join("adapter_model.safetensors");
        Tensor::write_safetensors(&tensors, file).unwrap();
        language_model("llama2").adapters().load("x", folder.path()).unwrap_err()
    };
    for (key, shape) in [
        ("base_model.model.model.norm.weight", [1, 32]),
        // Of another number of rows than the copy of the head beside it, or of another width.
        ("base_model.model.model.embed_tokens.weight", [100, 32]),
        ("base_model.model.model.embed_tokens.weight", [96, 16]),
        // On a layer that the configuration does not name.
        ("base_model.model.model.embed_tokens.lora_embedding_A", [2, 96]),
        ("base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector", [32, 1]),
    ] {
        let error = refused(key, &shape);
        assert!(matches!(error, ModelError::AdapterParts { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains(key) && said.contains("merge_and_unload"), "{said}");
    }
}

//! Mixtures of experts whose files have the experts of a layer in one tensor, as transformers 5 holds them.

use std::{fs, path::Path};

use rlaif_checkpoint::Checkpoint;
use rlaif_lm::{Policy, SequenceClassifier};
use rlaif_models::{
    LanguageModel, LoadOptions, ModelError, ModelFiles, Quantization, SaveOptions, TensorProblem,
    classifier_with_labels, inspect,
};
use rlaif_testing::drawn;
use tch::{Device, Kind, Tensor};

use crate::common::{fixtures, model};
use crate::{load, probe};

const MIXTURES: [&str; 3] = ["mixtral", "qwen3-moe", "qwen2-moe"];
const GATE_UP: &str = "model.layers.0.mlp.experts.gate_up_proj";
const DOWN: &str = "model.layers.0.mlp.experts.down_proj";

/// The folder of a mixture, with its experts as transformers 5 holds them.
fn fused(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(model(name).join("config.json"), folder.path().join("config.json")).unwrap();
    let weights = fixtures().join(format!("models/fused/{name}.safetensors"));
    fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    folder
}

/// The same with other tensors.
fn with(name: &str, change: impl FnOnce(&mut Vec<(String, Tensor)>)) -> tempfile::TempDir {
    let folder = fused(name);
    let path = folder.path().join("model.safetensors");
    let mut tensors = Tensor::read_safetensors(&path).unwrap();
    change(&mut tensors);
    Tensor::write_safetensors(&tensors, &path).unwrap();
    folder
}

fn same_weights(one: &LanguageModel, other: &LanguageModel) {
    let named = |model: &LanguageModel| -> Vec<(String, Tensor)> {
        model.parameters().iter().map(|(name, t)| (name.to_owned(), t.shallow_clone())).collect()
    };
    let (one, other) = (named(one), named(other));
    assert_eq!(one.len(), other.len());
    for ((name, tensor), (also, same)) in one.into_iter().zip(other) {
        assert_eq!(name, also);
        assert_eq!(tensor, same, "{name}");
    }
}

#[test]
fn both_forms_give_the_same_model() {
    for name in MIXTURES {
        let folder = fused(name);
        let (apart, joined) = (load(&model(name)).unwrap(), load(folder.path()).unwrap());
        same_weights(&apart, &joined);
        assert_eq!(probe(&apart), probe(&joined), "{name}");
        let [of_apart, of_joined] =
            [&model(name), folder.path()].map(|path| inspect(path).unwrap());
        assert_eq!(of_apart.parameters, of_joined.parameters);
        assert!(of_joined.unread.is_empty(), "{:?}", of_joined.unread);
        // Saved with a tensor for each expert.
        let saved = folder.path().join("saved");
        joined.save(&saved, &SaveOptions::default()).unwrap();
        let names = |path: &Path| {
            Checkpoint::open(path).unwrap().tensors().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&saved), names(&model(name)));
        same_weights(&apart, &load(&saved).unwrap());
    }
}

#[test]
fn quantized_weights_and_adapters_on_them_are_the_same() {
    for name in MIXTURES {
        let folder = fused(name);
        for how in [Quantization::Nf4, Quantization::Int8] {
            let options = LoadOptions { quantization: Some(how), ..LoadOptions::default() };
            let [apart, joined] = [&model(name), folder.path()]
                .map(|path| LanguageModel::load(path, options).unwrap());
            assert_eq!(
                apart.parameters().quantized().count(),
                joined.parameters().quantized().count()
            );
            assert_eq!(probe(&apart), probe(&joined), "{name} {how:?}");
        }
        let [apart, joined] = [model(name), folder.path().to_owned()].map(|folder| {
            let adapter = Some(fixtures().join("adapters").join(name));
            ModelFiles { folder, adapter }.language_model(LoadOptions::default()).unwrap()
        });
        assert_eq!(probe(&apart), probe(&joined), "{name}");
        assert_ne!(probe(&apart), probe(&load(&model(name)).unwrap()), "{name}");
    }
}

#[test]
fn a_head_is_put_on_the_trunk() {
    for name in MIXTURES {
        let folder = fused(name);
        let labels = ["reward".to_owned()];
        let [apart, joined] = [&model(name), folder.path()].map(|path| {
            drawn(3, || classifier_with_labels(path, &labels, LoadOptions::default()).unwrap())
        });
        for ((name, tensor), (_, other)) in
            apart.parameters().iter().zip(joined.parameters().iter())
        {
            assert_eq!(tensor, other, "{name}");
        }
    }
}

/// The problems of a folder, which loading and inspection report alike.
fn problems(folder: &Path) -> Vec<TensorProblem> {
    let errors = [load(folder).unwrap_err(), inspect(folder).unwrap_err()];
    let [of_load, of_inspect] = errors.map(|error| match error {
        ModelError::Tensors { problems, .. } => problems,
        error => panic!("{error}"),
    });
    assert_eq!(format!("{of_load:?}"), format!("{of_inspect:?}"));
    of_load
}

#[test]
fn experts_that_do_not_fit_are_named() {
    for name in MIXTURES {
        // One expert short, and matrices of another width.
        for narrowed in [0, 1, 2] {
            let folder = with(name, |tensors| {
                let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == GATE_UP).unwrap();
                let less = tensor.size()[narrowed] - 1;
                *tensor = tensor.narrow(narrowed as i64, 0, less).contiguous();
            });
            let [TensorProblem::Shape { name, expected, found }] = &problems(folder.path())[..]
            else {
                panic!("{name}")
            };
            assert_eq!(name, GATE_UP);
            assert_eq!(found[narrowed] as i64 + 1, expected[narrowed]);
        }
        let folder = with(name, |tensors| tensors.retain(|(name, _)| name != DOWN));
        let found = problems(folder.path());
        assert!(matches!(&found[..], [TensorProblem::Missing { name, .. }] if name == DOWN));
    }
}

#[test]
fn experts_in_both_forms_are_refused_and_layers_may_differ() {
    let apart = Tensor::read_safetensors(model("mixtral").join("model.safetensors")).unwrap();
    let experts = |layer: usize, tensors: &mut Vec<(String, Tensor)>| {
        let start = format!("model.layers.{layer}.block_sparse_moe.experts.");
        let of_layer = apart.iter().filter(|(name, _)| name.starts_with(&start));
        tensors.extend(of_layer.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())));
    };
    let folder = with("mixtral", |tensors| experts(0, tensors));
    let found = problems(folder.path());
    let [TensorProblem::TwoForms { name, other }, TensorProblem::TwoForms { other: down, .. }] =
        &found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!(name, "model.layers.0.block_sparse_moe.experts.0.w1.weight");
    assert_eq!([other, down], [GATE_UP, DOWN]);
    // One layer in one form, the next in the other.
    let folder = with("mixtral", |tensors| {
        tensors.retain(|(name, _)| !name.starts_with("model.layers.0.mlp.experts."));
        experts(0, tensors);
    });
    same_weights(&load(folder.path()).unwrap(), &load(&model("mixtral")).unwrap());
    // An expert that is missing where the others have tensors of their own.
    let folder = with("mixtral", |tensors| {
        tensors.retain(|(name, _)| !name.starts_with("model.layers.0.mlp.experts."));
        experts(0, tensors);
        tensors.retain(|(name, _)| !name.contains("experts.2.w3"));
    });
    let found = problems(folder.path());
    assert!(matches!(&found[..], [TensorProblem::Missing { name, .. }]
        if name == "model.layers.0.block_sparse_moe.experts.2.w3.weight"));
}

#[test]
fn a_number_that_is_not_finite_is_found_in_its_expert() {
    let folder = with("qwen3-moe", |tensors| {
        let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == GATE_UP).unwrap();
        let nan = Tensor::from_slice(&[f32::NAN]).to_device(Device::Cpu).to_kind(Kind::Float);
        tensor.select(0, 2).select(0, 20).narrow(0, 3, 1).copy_(&nan);
    });
    let error = load(folder.path()).unwrap_err();
    let ModelError::Tensors { problems, .. } = &error else { panic!("{error}") };
    assert!(
        matches!(&problems[..], [TensorProblem::NotFinite { name, count: 1, .. }]
        if *name == format!("{GATE_UP}[2]")),
        "{error}"
    );
}

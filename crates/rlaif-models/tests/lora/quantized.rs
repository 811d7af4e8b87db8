//! Bases in 4 and 8 bits against bitsandbytes: the same weights to the bit, LoRA on them, and bad files.

use std::{fs, path::Path};

use rlaif_lm::{Forward, Policy};
use rlaif_models::{
    LanguageModel, LoadOptions, Lora, ModelError, ModelFiles, PolicySetup, Quantization,
    SaveOptions, TensorProblem,
};
use rlaif_torch::{AdamW, AdamWOptions, ParamGroup, Quantized};
use tch::{Device, Kind, Tensor};

use super::{TOLERANCE, adapter, logits, loss, with};
use crate::common::{Goldens, close, model};

fn nf4() -> LoadOptions {
    LoadOptions { quantization: Some(Quantization::Nf4), ..LoadOptions::default() }
}

/// The dense weights after an adapter without effect was merged.
fn dequantized(folder: &Path, options: LoadOptions) -> LanguageModel {
    let mut policy = LanguageModel::load(folder, options).unwrap();
    Lora::new("none", 1.try_into().unwrap()).add_to(&mut policy).unwrap();
    policy.adapters().merge("none").unwrap();
    policy
}

#[test]
fn weights_are_those_of_bitsandbytes_to_the_bit() {
    for name in ["nf4-llama3", "nf4-single-qwen2", "nf4-gpt2", "int8-llama3"] {
        let goldens = Goldens::read(&model(name));
        let base = model(goldens.json["base"].as_str().unwrap());
        let mut folders = vec![(model(name), LoadOptions::default())];
        if ["nf4-llama3", "nf4-gpt2"].contains(&name) {
            // Quantized here, from the weights in f32.
            folders.push((base, nf4()));
        }
        for (folder, options) in folders {
            let policy = dequantized(&folder, options);
            let mut count = 0;
            for (parameter, want) in goldens.starting("dense.") {
                let got = policy.parameters().get(parameter).unwrap();
                assert_eq!(got, want, "{name} {parameter} of {}", folder.display());
                count += 1;
            }
            assert!(count >= 8, "{name}");
            assert_eq!(policy.parameters().quantized().count(), 0);
        }
    }
}

#[test]
fn a_matrix_with_several_blocks_of_scales_is_that_of_bitsandbytes() {
    let goldens = Goldens::read(&model("nf4-llama3"));
    let weight = goldens.get("matrix.weight");
    for (kind, name) in
        [(Kind::Float, "float32"), (Kind::BFloat16, "bfloat16"), (Kind::Half, "float16")]
    {
        let quantized = Quantized::new(&weight.to_kind(kind), Quantization::Nf4).unwrap();
        let want = goldens.get(&format!("matrix.{name}.dense"));
        assert_eq!(&quantized.dense(kind), want, "{name}");
    }
}

#[test]
fn a_quantized_model_computes_what_transformers_computes() {
    for name in ["nf4-llama3", "nf4-single-qwen2", "nf4-gpt2"] {
        let goldens = Goldens::read(&model(name));
        let base = Goldens::read(&model(goldens.json["base"].as_str().unwrap()));
        let policy = LanguageModel::load(&model(name), LoadOptions::default()).unwrap();
        let got = logits(&policy, &base, Forward::default());
        close(name, &got, goldens.get("logits"), TOLERANCE);
        super::greedy_is_the_forward_pass(&policy, &base);
    }
}

#[test]
fn losses_of_lora_on_a_quantized_base_are_those_of_peft() {
    let goldens = Goldens::read(&model("nf4-llama3"));
    let base = Goldens::read(&model("llama3"));
    let want: Vec<f64> = serde_json::from_value(goldens.json["losses"].clone()).unwrap();
    // From the checkpoint of bitsandbytes, and quantized here.
    for (folder, options) in
        [(model("nf4-llama3"), LoadOptions::default()), (model("llama3"), nf4())]
    {
        let files = ModelFiles { folder, adapter: Some(adapter("nf4-llama3")) };
        let policy = PolicySetup::new(files, options).policy().unwrap();
        let before = logits(&policy, &base, with(rlaif_lm::Adapters::Off));
        let options = AdamWOptions {
            lr: goldens.json["rate"].as_f64().unwrap(),
            weight_decay: 0.,
            ..AdamWOptions::default()
        };
        let params = policy.parameters().trainable();
        let mut optimizer = AdamW::new(vec![ParamGroup { params, options }]).unwrap();
        for (step, want) in want.iter().enumerate() {
            let loss = loss(&policy, &base, Forward::default());
            let got = loss.double_value(&[]);
            assert!((got - want).abs() < 1e-3, "step {step}: {got}, peft has {want}");
            loss.backward();
            optimizer.step().unwrap();
            optimizer.zero_grad().unwrap();
        }
        // The reference is the base, also after training.
        assert_eq!(logits(&policy, &base, with(rlaif_lm::Adapters::Off)), before);
    }
}

#[test]
fn quantized_weights_are_neither_trained_nor_saved() {
    let setup = PolicySetup::new(model("nf4-llama3"), LoadOptions::default());
    let error = setup.policy().unwrap_err();
    assert!(matches!(error, ModelError::QuantizedBase { what: "trained", .. }), "{error}");
    let policy = LanguageModel::load(&model("llama3"), nf4()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = policy.save(&folder.path().join("model"), &SaveOptions::default()).unwrap_err();
    assert!(error.to_string().contains("merge it"), "{error}");
    // A merged model is dense, and says so.
    let files = ModelFiles { folder: model("nf4-llama3"), adapter: Some(adapter("nf4-llama3")) };
    let merged = files.merged_language_model(LoadOptions::default()).unwrap();
    let saved = folder.path().join("merged");
    merged.save(&saved, &SaveOptions::default()).unwrap();
    let again = LanguageModel::load(&saved, LoadOptions::default()).unwrap();
    assert!(again.config().fields().get("quantization_config").is_none());
    let base = Goldens::read(&model("llama3"));
    let want = logits(&merged, &base, Forward::default());
    assert_eq!(logits(&again, &base, Forward::default()), want);
    let files = files.language_model(LoadOptions::default()).unwrap();
    close("merged", &logits(&files, &base, Forward::default()), &want, TOLERANCE);
}

/// Tensors of a file.
type Tensors = Vec<(String, Tensor)>;

/// A copy of a quantized model with some of its tensors changed.
fn changed(name: &str, change: impl Fn(&mut Tensors)) -> (tempfile::TempDir, ModelError) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(model(name).join("config.json"), folder.path().join("config.json")).unwrap();
    let mut tensors = Tensor::read_safetensors(model(name).join("model.safetensors")).unwrap();
    change(&mut tensors);
    Tensor::write_safetensors(&tensors, folder.path().join("model.safetensors")).unwrap();
    let error = LanguageModel::load(folder.path(), LoadOptions::default()).unwrap_err();
    (folder, error)
}

#[test]
fn bad_files_are_named() {
    const LAYER: &str = "model.layers.0.mlp.up_proj.weight";
    let state = format!("{LAYER}.quant_state.bitsandbytes__nf4");
    let with_state = |from: &str, to: &str| {
        let (from, to, state) = (from.to_owned(), to.to_owned(), state.clone());
        move |tensors: &mut Tensors| {
            let (_, tensor) = tensors.iter_mut().find(|(name, _)| *name == state).unwrap();
            let text = String::from_utf8(Vec::<u8>::try_from(&*tensor).unwrap()).unwrap();
            assert!(text.contains(&from), "{text}");
            *tensor = Tensor::from_slice(text.replace(&from, &to).as_bytes());
        }
    };
    let without = |ending: &str| {
        let name = format!("{LAYER}{ending}");
        move |tensors: &mut Tensors| tensors.retain(|(other, _)| *other != name)
    };
    let short = |tensors: &mut Tensors| {
        let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == LAYER).unwrap();
        *tensor = tensor.narrow(0, 0, 100).copy();
    };
    let of = |change: &dyn Fn(&mut Tensors)| changed("nf4-llama3", change).1;
    for (error, part, found) in [
        (of(&without(".absmax")), ".absmax", "missing"),
        (of(&without(".nested_absmax")), ".nested_absmax", "missing"),
        (of(&without(".quant_map")), ".quant_map", "missing"),
        (of(&without(".quant_state.bitsandbytes__nf4")), "bitsandbytes__nf4", "missing"),
        (of(&short), "up_proj.weight", "U8 of 100"),
        (of(&with_state("\"blocksize\": 64", "\"blocksize\": 60")), "bitsandbytes__nf4", "60"),
        (of(&with_state("\"blocksize\": 64", "\"blocksize\": 128")), ".absmax", "U8 of"),
        (of(&with_state("\"nf4\"", "\"fp4\"")), "bitsandbytes__nf4", "fp4"),
        (of(&with_state("{", "[")), "bitsandbytes__nf4", "line 1"),
    ] {
        let ModelError::Tensors { problems, .. } = &error else { panic!("{error}") };
        let named = problems.iter().any(|problem| match problem {
            TensorProblem::Quantized { name, found: is, .. } => {
                name.ends_with(part) && is.contains(found)
            }
            _ => false,
        });
        assert!(named, "{part} {found}: {error}");
    }
    let (_, error) = changed("int8-llama3", |tensors| {
        tensors.retain(|(name, _)| name != "model.layers.0.mlp.up_proj.SCB");
    });
    assert!(error.to_string().contains("up_proj.SCB"), "{error}");
    // A file that ends before its last tensor.
    let folder = tempfile::tempdir().unwrap();
    fs::copy(model("nf4-llama3").join("config.json"), folder.path().join("config.json")).unwrap();
    let bytes = fs::read(model("nf4-llama3").join("model.safetensors")).unwrap();
    fs::write(folder.path().join("model.safetensors"), &bytes[..bytes.len() - 100]).unwrap();
    let error = LanguageModel::load(folder.path(), LoadOptions::default()).unwrap_err();
    assert!(matches!(error, ModelError::Checkpoint(_)), "{error}");
}

#[test]
fn a_quantized_model_needs_less_memory() {
    use rlaif_models::{MemoryPlan, TrainedWeights};
    let plan = MemoryPlan {
        trained: TrainedWeights::Lora(2),
        ..MemoryPlan::new(model("llama3"), Kind::Float, Device::Cpu)
    };
    let dense = plan.needed().unwrap().weights;
    let plan = MemoryPlan { quantization: Some(Quantization::Nf4), ..plan };
    let narrow = plan.needed().unwrap().weights;
    assert!(narrow < dense / 2, "{narrow} of {dense}");
    // The same from a checkpoint that is quantized already.
    let saved = MemoryPlan { model: model("nf4-llama3"), quantization: None, ..plan };
    assert_eq!(saved.needed().unwrap().weights, narrow);
}

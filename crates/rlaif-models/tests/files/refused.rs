//! Configurations and tensors that cannot be, and their errors.

use std::fs;

use rlaif_lm::{Forward, LmError, Padding, Policy, SequenceClassifier, TokenBatch};
use rlaif_models::{
    Classifier, Config, LanguageModel, LoadOptions, ModelError, TensorProblem, inspect,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use crate::common::{model, spelled};
use crate::{changed, load};

#[test]
fn configurations_that_cannot_be_honoured_are_refused() {
    for (name, field, value, want) in [
        ("llama3", "model_type", json!("mamba"), "unknown architecture `mamba`"),
        ("llama3", "model_type", json!("mamba"), "LlamaForCausalLM"),
        ("llama3", "architectures", json!(["LlamaForQuestionAnswering"]), "unknown architecture"),
        ("llama3", "architectures", json!(["LlamaForSequenceClassification"]), "is not a language"),
        ("llama3", "hidden_act", json!("tanhshrink"), "`hidden_act` is `tanhshrink`"),
        (
            "llama31",
            "rope_scaling",
            json!({ "type": "spiral" }),
            "`spiral`, which is not supported",
        ),
        (
            "llama31",
            "rope_scaling",
            json!({ "type": "longrope" }),
            "`rope_scaling.short_factor` is missing, expected 4 numbers",
        ),
        (
            "gemma2",
            "use_bidirectional_attention",
            json!(true),
            "`use_bidirectional_attention` is `true`",
        ),
        ("gpt2", "add_cross_attention", json!(true), "`add_cross_attention` is `true`"),
        (
            "smollm3",
            "no_rope_layers",
            json!([1]),
            "`no_rope_layers` is 1, expected at least as many",
        ),
        ("phi3", "partial_rotary_factor", json!(0.9), "`head_dim` is 8 of which 0.9 is turned"),
        ("llama31", "rope_scaling", json!({ "type": "linear" }), "rope_scaling.factor"),
        ("llama3", "num_key_value_heads", json!(3), "a divisor of num_attention_heads"),
        ("llama3", "num_attention_heads", json!(0), "`num_attention_heads` is 0"),
        (
            "llama3",
            "vocab_size",
            json!("many"),
            "config.json, field `vocab_size`: found \"many\", expected an integer",
        ),
        (
            "llama3",
            "hidden_size",
            Value::Null,
            "field `hidden_size`: found null, expected an integer",
        ),
        ("llama3", "model_type", 5.into(), "field `model_type`: found 5, expected text"),
        ("llama3", "rope_parameters", "linear".into(), "expected an object with `rope_type`"),
        ("flan", "dense_act_fn", json!("swoosh"), "`dense_act_fn` is `swoosh`"),
        ("flan", "relative_attention_num_buckets", json!(2), "at least 4"),
        ("flan", "d_kv", json!(-1), "`d_kv` is -1"),
        ("flan", "d_kv", json!(1i64 << 62), "`d_kv` is 4611686018427387904, expected at most"),
        ("flan", "num_layers", json!(1_000_000_000), "`num_layers` is 1000000000"),
        ("flan", "num_decoder_layers", json!(1_000_000_000), "`num_decoder_layers` is 1000000000"),
        ("flan", "decoder_start_token_id", json!(9999), "`decoder_start_token_id` is 9999"),
        ("flan", "pad_token_id", json!(9999), "`pad_token_id` is 9999"),
        ("bart", "encoder_attention_heads", json!(5), "is 5, expected a divisor of d_model"),
        ("bart", "encoder_layerdrop", json!(0.1), "`encoder_layerdrop` is `0.1`"),
        ("bart", "forced_bos_token_id", json!(9999), "`forced_bos_token_id` is 9999"),
        ("bart", "forced_eos_token_id", json!([3, 4]), "`forced_eos_token_id` is `[3, 4]`"),
        ("llama3", "pad_token_id", json!(96), "`pad_token_id` is 96, expected an id below"),
        ("llama3", "num_hidden_layers", json!(1_000_000_000), "`num_hidden_layers` is 1000000000"),
        ("llama3", "num_attention_heads", json!(1i64 << 62), "`num_attention_heads` is 46116"),
        ("llama3", "head_dim", json!(1 << 30), "`head_dim` is 1073741824"),
    ] {
        let error = changed(name, "config.hub.json", &[(field, value)]).unwrap_err();
        assert!(error.to_string().contains(want), "{name} {field}: {error}");
    }
    for (name, field, value, want) in [
        ("bert", "pad_token_id", json!(96), "`pad_token_id` is 96"),
        ("llama-reward", "pad_token_id", json!(96), "`pad_token_id` is 96"),
        ("roberta", "num_hidden_layers", json!(1_000_000_000), "`num_hidden_layers` is 1000000000"),
        (
            "roberta",
            "id2label",
            json!({ "0": "hate", "1": "fine", "2": "hate" }),
            "`id2label` is `hate` for both 0 and 2, expected a unique name for each label",
        ),
    ] {
        let folder = spelled(name, "config.json");
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config[field] = value;
        fs::write(&path, config.to_string()).unwrap();
        let error = Classifier::load(folder.path(), LoadOptions::default()).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
    let error = LanguageModel::load(&model("roberta"), LoadOptions::default()).unwrap_err();
    assert!(matches!(error, ModelError::WrongSort { .. }), "{error}");
    let error = Classifier::load(&model("flan"), LoadOptions::default()).unwrap_err();
    assert!(matches!(error, ModelError::WrongSort { .. }), "{error}");
}

#[test]
fn a_section_that_cannot_be_honoured_is_named() {
    let folder = spelled("t5gemma", "config.json");
    let path = folder.path().join("config.json");
    let config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let dynamic = json!({ "rope_type": "dynamic", "factor": 2.0, "rope_theta": 20.0 });
    for (section, field, value, want) in [
        ("encoder", "num_attention_heads", json!(0), "`encoder`: `num_attention_heads` is 0"),
        (
            "decoder",
            "head_dim",
            json!("six"),
            "`decoder`, field `head_dim`: found \"six\", expected",
        ),
        (
            "decoder",
            "hidden_activation",
            json!("swoosh"),
            "`decoder`: `hidden_activation` is `swoosh`",
        ),
        ("encoder", "rope_parameters", dynamic, "`encoder`: `rope_type` is `dynamic or longrope`"),
        (
            "encoder",
            "vocab_size",
            json!(90),
            "`encoder.vocab_size` is 90, expected that of `decoder`",
        ),
        ("decoder", "bos_token_id", Value::Null, "`decoder.bos_token_id` is null"),
        ("decoder", "bos_token_id", json!(96), "`decoder_start_token_id` is 96"),
        ("decoder", "layer_types", json!(["full_attention"]), "`decoder`: `layer_types` is 1"),
    ] {
        let mut config = config.clone();
        config[section][field] = value;
        fs::write(&path, config.to_string()).unwrap();
        for error in [load(folder.path()).unwrap_err(), inspect(folder.path()).unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains(want), "{section} {field}: {error}");
            assert!(error.contains("config.json"), "{error}");
        }
    }
    for (field, value, want) in [
        ("encoder", json!(5), "config.json, `encoder`: found 5, expected an object"),
        ("is_encoder_decoder", json!(false), "`is_encoder_decoder` is `false`"),
        ("dropout_rate", json!(1.5), "`dropout_rate` is 1.5"),
        ("model_type", json!("t5gemma2"), "unknown architecture `t5gemma2`"),
    ] {
        let error = changed("t5gemma", "config.json", &[(field, value)]).unwrap_err().to_string();
        assert!(error.contains(want), "{field}: {error}");
    }
}

/// Missing, unexpected and mis-shaped tensors are all told at once.
#[test]
fn every_tensor_that_does_not_fit_is_named_at_once() {
    let folder = spelled("llama2", "config.hub.json");
    let weights = folder.path().join("model.safetensors");
    let mut tensors = Tensor::read_safetensors(&weights).unwrap();
    tensors.retain(|(name, _)| name != "lm_head.weight");
    for (name, tensor) in &mut tensors {
        if name == "model.norm.weight" {
            *tensor = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        }
    }
    tensors.push(("model.extra.weight".to_owned(), Tensor::zeros([2], (Kind::Float, Device::Cpu))));
    Tensor::write_safetensors(&tensors, &weights).unwrap();
    for error in [load(folder.path()).unwrap_err(), inspect(folder.path()).unwrap_err()] {
        let ModelError::Tensors { problems, .. } = &error else { panic!("{error}") };
        let has = |test: fn(&TensorProblem) -> bool| problems.iter().any(test);
        assert_eq!(problems.len(), 3, "{error}");
        assert!(has(
            |p| matches!(p, TensorProblem::Missing { name, .. } if name == "lm_head.weight")
        ));
        assert!(has(
            |p| matches!(p, TensorProblem::Unexpected { name, .. } if name == "model.extra.weight")
        ));
        assert!(has(|p| matches!(p, TensorProblem::Shape { name, found, .. }
            if name == "model.norm.weight" && found == &[3])));
    }
}

#[test]
fn a_value_that_is_out_of_range_is_named_with_its_file() {
    for (field, value, told) in [
        (
            "max_position_embeddings",
            json!(0),
            "`max_position_embeddings` is 0, expected at least 1",
        ),
        ("hidden_act", json!("foo"), "`hidden_act` is `foo`, which is not supported"),
    ] {
        let folder = spelled("llama3", "config.json");
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[field] = value;
        fs::write(&path, config.to_string()).unwrap();
        for error in [load(folder.path()).unwrap_err(), inspect(folder.path()).unwrap_err()] {
            let error = error.to_string();
            assert!(error.starts_with(&format!("{}: {told}", path.display())), "{error}");
        }
    }
}

#[test]
fn quantized_weights_are_refused_by_the_name_of_their_method() {
    for (section, method) in [
        (json!({ "quant_method": "gptq", "bits": 4 }), "gptq"),
        (json!({ "quant_method": "compressed-tensors" }), "compressed-tensors"),
        (json!({ "load_in_4bit": true }), "bitsandbytes"),
    ] {
        let error = changed("llama3", "config.json", &[("quantization_config", section)]);
        let error = error.unwrap_err();
        assert!(matches!(&error, ModelError::Quantized { .. }), "{error}");
        assert!(error.to_string().contains(method), "{error}");
    }
    assert!(changed("llama3", "config.json", &[("quantization_config", Value::Null)]).is_ok());

    // Older tools say it in a file of their own, or only by the names of the tensors.
    for (file, method) in [
        ("quantize_config.json", "by GPTQ"),
        ("quant_config.json", "by AWQ"),
        ("hf_quant_config.json", "by ModelOpt"),
    ] {
        let folder = spelled("llama3", "config.json");
        fs::write(folder.path().join(file), "{}").unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(method) && error.contains(file), "{error}");
    }
    for (ending, method) in [("qweight", "by GPTQ or AWQ"), ("gate_up_proj_blocks", "by MXFP4")] {
        let folder = spelled("llama3", "config.json");
        let path = folder.path().join("model.safetensors");
        let mut tensors = Tensor::read_safetensors(&path).unwrap();
        tensors[0].0 = format!("model.layers.0.mlp.{ending}");
        Tensor::write_safetensors(&tensors, &path).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(method), "{error}");
    }
}

#[test]
fn generation_settings_that_are_not_json_are_refused_when_the_model_is_loaded() {
    let folder = spelled("llama3", "config.json");
    fs::write(folder.path().join("generation_config.json"), "{").unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(error.to_string().contains("generation_config.json"), "{error}");
    fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": "x"}"#).unwrap();
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("field `eos_token_id`") && error.contains("a list"), "{error}");
}

/// Names as the file has them, found values, and types in the words of JSON.
#[test]
fn a_value_of_the_wrong_type_is_named_as_the_file_has_it() {
    for (name, field, value, want) in [
        ("gpt2", "n_embd", json!("24"), "field `n_embd`: found \"24\", expected an integer"),
        ("gpt2", "n_head", json!([4]), "field `n_head`: found [4], expected an integer"),
        ("gpt2", "n_layer", json!(2.5), "`n_layer`: found 2.5, expected an integer of at least 0"),
        ("gpt2", "activation_function", json!(3), "`activation_function`: found 3, expected text"),
        ("gpt2", "scale_attn_weights", json!("no"), "found \"no\", expected true or false"),
        ("llama3", "rms_norm_eps", json!({}), "field `rms_norm_eps`: found {}, expected a number"),
        (
            "gemma3",
            "hidden_activation",
            json!(1),
            "field `hidden_activation`: found 1, expected text",
        ),
        ("gemma3", "layer_types", json!("x"), "field `layer_types`: found \"x\", expected a list"),
        ("gemma3", "_sliding_window_pattern", json!("x"), "field `_sliding_window_pattern`: found"),
        ("gpt-neox", "layer_norm_eps", json!("e"), "field `layer_norm_eps`: found \"e\""),
        (
            "llama3",
            "rope_scaling",
            json!([1]),
            "field `rope_scaling`: found [1], expected an object with `rope_type`",
        ),
        (
            "llama3",
            "rope_scaling",
            json!({ "rope_type": "yarn", "factor": "4" }),
            "field `rope_scaling.factor`: found \"4\", expected a number",
        ),
        ("llama3", "architectures", json!("X"), "found \"X\", expected a list of class names"),
        ("llama3", "dtype", json!(5), "field `dtype`: found 5, expected text"),
        ("llama3", "torch_dtype", json!(5), "field `torch_dtype`: found 5, expected text"),
        ("llama3", "label2id", json!(5), "field `label2id`: found 5, expected an object"),
        ("mistral", "sliding_window", json!(-7), "`sliding_window` is -7, expected"),
    ] {
        let error = changed(name, "config.json", &[(field, value)]).unwrap_err().to_string();
        assert!(error.contains(want), "{name} {field}: {error}");
    }
    for (name, field, value, want) in [
        ("distilbert", "dim", json!("32"), "field `dim`: found \"32\", expected an integer"),
        (
            "roberta",
            "id2label",
            json!(["a"]),
            "field `id2label`: found [\"a\"], expected an object",
        ),
    ] {
        let folder = spelled(name, "config.json");
        let mut config = Config::read(folder.path()).unwrap();
        config.set(field, value);
        let text = serde_json::to_string(config.fields()).unwrap();
        fs::write(folder.path().join("config.json"), text).unwrap();
        let error = Classifier::load(folder.path(), LoadOptions::default()).unwrap_err();
        assert!(error.to_string().contains(want), "{name} {field}: {error}");
    }
    let folder = spelled("llama3", "config.json");
    for (text, want) in [
        ("[]", "generation_config.json: found [], expected an object"),
        (r#"{"eos_token_id": {"a": 1}}"#, "generation_config.json, field `eos_token_id`: found"),
        (
            r#"{"eos_token_id": [1, "a"]}"#,
            "field `eos_token_id[1]`: found \"a\", expected a token id",
        ),
    ] {
        fs::write(folder.path().join("generation_config.json"), text).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
}

/// Each number of each config.json at 0, below 0, and far above what it can be: an error that names the field or
/// the tensors that do not fit it, or a model that computes numbers.
#[test]
fn no_number_of_a_configuration_is_taken_amiss() {
    let of_language =
        ["llama3", "mistral", "qwen2-window", "qwen3", "gpt2", "gpt-neox", "gemma2", "gemma3"];
    let more = ["phi3", "smollm3", "granite", "t5-v1.0"];
    let classifiers = ["roberta", "distilbert", "albert", "llama-reward"];
    let mut wrong = Vec::new();
    for name in of_language.into_iter().chain(more).chain(classifiers) {
        let original = Config::read(&model(name)).unwrap();
        let fields: Vec<String> = original
            .fields()
            .iter()
            .filter(|(_, value)| value.is_number())
            .map(|(field, _)| field.clone())
            .collect();
        assert!(fields.len() > 6, "{name}: {fields:?}");
        let folder = spelled(name, "config.json");
        for field in fields {
            for value in [json!(0), json!(-1), json!(1_000_000_007)] {
                let mut config = original.clone();
                config.set(&field, value.clone());
                let text = serde_json::to_string(config.fields()).unwrap();
                fs::write(folder.path().join("config.json"), text).unwrap();
                let case = format!("{name}: {field} = {value}");
                let found = if classifiers.contains(&name) {
                    Classifier::load(folder.path(), LoadOptions::default()).map(|model| {
                        let rows = vec![vec![5, 6, 7]];
                        let batch =
                            TokenBatch::collate(rows, model.spec(), Padding::Right).unwrap();
                        no_grad(|| model.logits(&batch, None, Forward::default()))
                    })
                } else {
                    load(folder.path()).map(|model| {
                        let prompts = vec![vec![5, 6, 7]];
                        let prompts =
                            TokenBatch::collate(prompts, model.spec(), Padding::Right).unwrap();
                        let responses =
                            TokenBatch::responses(vec![vec![8, 9]], model.spec()).unwrap();
                        no_grad(|| {
                            let hidden =
                                model.response_hidden(&prompts, &responses, Forward::default())?;
                            Ok(model.head(Forward::default())?.logits(&hidden))
                        })
                    })
                };
                let good = match &found {
                    Ok(Ok(logits)) => logits.isfinite().all().int64_value(&[]) == 1,
                    // A text longer than what the field allows.
                    Ok(Err(error)) => matches!(error, LmError::TooLong { .. }),
                    Err(ModelError::Tensors { .. }) => true,
                    // Without a pad_token_id, that of the end is it.
                    Err(error) => {
                        let said = error.to_string();
                        said.contains(&field)
                            || (field == "eos_token_id" && said.contains("pad_token_id"))
                    }
                };
                if !good {
                    wrong.push(format!("{case}: {found:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_window_of_no_token_and_layers_of_another_number_are_refused_by_name() {
    let refused = |name: &str, changes: Value| {
        let folder = spelled(name, "config.json");
        let mut config = Config::read(folder.path()).unwrap();
        for (field, value) in changes.as_object().unwrap() {
            config.set(field, value.clone());
        }
        let text = serde_json::to_string(config.fields()).unwrap();
        fs::write(folder.path().join("config.json"), text).unwrap();
        load(folder.path()).unwrap_err().to_string()
    };
    for (name, changes, wanted) in [
        ("mistral", json!({ "sliding_window": 0 }), "`sliding_window` is 0, expected at least 1"),
        ("gemma2", json!({ "sliding_window": -4 }), "`sliding_window` is -4, expected at least 1"),
        (
            "qwen2-window",
            json!({ "layer_types": ["full_attention"] }),
            "`layer_types` is 1, expected",
        ),
        (
            "llama3",
            json!({ "num_key_value_heads": 8 }),
            "`num_key_value_heads` is 8, expected a divisor",
        ),
        ("llama3", json!({ "rms_norm_eps": -1e-6 }), "`rms_norm_eps` is -0.000001, expected"),
        (
            "llama3",
            json!({ "rope_parameters": { "rope_theta": 0. } }),
            "`rope_parameters.rope_theta` is 0",
        ),
        ("gpt2", json!({ "n_head": 0 }), "`n_head` is 0, expected at least 1"),
        ("gpt2", json!({ "n_head": 7 }), "`n_embd` is 24, expected a multiple of n_head, 7"),
        ("gpt2", json!({ "resid_pdrop": 1.5 }), "`resid_pdrop` is 1.5, expected"),
        ("granite", json!({ "logits_scaling": 0. }), "`logits_scaling` is 0, expected"),
        (
            "gemma2",
            json!({ "attn_logit_softcapping": 0. }),
            "`attn_logit_softcapping` is 0, expected",
        ),
        ("flan", json!({ "layer_norm_epsilon": -1. }), "`layer_norm_epsilon` is -1, expected"),
        ("flan", json!({ "dropout_rate": 2. }), "`dropout_rate` is 2, expected"),
    ] {
        let said = refused(name, changes);
        assert!(said.contains(wanted), "{said}");
    }
    // A window that is switched off has no number to be wrong.
    let folder = spelled("qwen2", "config.json");
    let mut config = Config::read(folder.path()).unwrap();
    config.set("sliding_window", json!(0));
    config.set("use_sliding_window", json!(false));
    fs::write(folder.path().join("config.json"), serde_json::to_string(config.fields()).unwrap())
        .unwrap();
    load(folder.path()).unwrap();
}

//! Value heads that TRL 0.11.4 saved with their model: `fixtures/trl/export_value_heads.py`.

use std::{fs, path::PathBuf};

use rlaif_lm::{Forward, Padding, Policy, TokenBatch};
use rlaif_models::{LanguageModel, LoadOptions, saved_value_head};
use serde::Deserialize;
use tch::{Device, Tensor};

#[derive(Deserialize)]
struct Golden {
    prompt: Vec<u32>,
    response: Vec<u32>,
    values: Vec<f64>,
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/trl")).join(name)
}

#[test]
fn a_value_head_of_trl_gives_the_values_of_trl() {
    for name in ["llama-safetensors", "llama-bin", "t5-safetensors", "t5-bin"] {
        let folder = folder(name);
        let golden: Golden =
            serde_json::from_slice(&fs::read(folder.join("values.json")).unwrap()).unwrap();
        let policy = LanguageModel::load(&folder, LoadOptions::default()).unwrap();
        assert!(policy.unread().iter().all(|tensor| tensor.starts_with("v_head.")), "{name}");
        let head = saved_value_head(&folder, policy.spec().hidden_size, Device::Cpu).unwrap();
        let prompts =
            TokenBatch::collate(vec![golden.prompt], policy.spec(), Padding::Right).unwrap();
        let responses = TokenBatch::responses(vec![golden.response], policy.spec()).unwrap();
        let hidden = policy.response_hidden(&prompts, &responses, Forward::default()).unwrap();
        let values = Vec::<f64>::try_from(head.forward(&hidden).view(-1)).unwrap();
        for (found, expected) in values.iter().zip(&golden.values) {
            assert!((found - expected).abs() < 1e-5, "{name}: {values:?}, {:?}", golden.values);
        }
        assert_eq!(values.len(), golden.values.len(), "{name}");
    }
}

#[test]
fn a_file_without_a_head_and_a_head_of_another_width_are_refused() {
    let trl = folder("llama-safetensors");
    let error = saved_value_head(&trl, 8, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("`v_head.summary.weight`") && error.contains("[1, 16]"), "{error}");
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("head.safetensors");
    Tensor::write_safetensors(&[("score.weight", Tensor::from_slice(&[1f32]))], &file).unwrap();
    let error = saved_value_head(&file, 16, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("has no `v_head.summary.weight`"), "{error}");
    let error = saved_value_head(&place.path().join("nowhere"), 16, Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

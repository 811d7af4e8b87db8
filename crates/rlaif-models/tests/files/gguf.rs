//! GGUF files against gguf's own dequantization and transformers.

use std::fs;

use rlaif_checkpoint::{CheckpointError, Gguf, GgufSpec, GgufType, write_gguf};
use rlaif_lm::{Forward, Padding, Policy, TokenBatch};
use rlaif_models::{
    Architecture, Families, GgufFormat, GgufTokenizer, LanguageModel, LoadOptions, ModelError,
    export_gguf, import_gguf,
};
use serde_json::{Value, json};
use tch::{Kind, Tensor, no_grad};

use crate::common::{Goldens, close, model, real};

#[test]
fn blocks_are_dequantized_as_by_gguf() {
    let folder = model("gguf-blocks");
    let file = Gguf::open(&folder.join("blocks.gguf")).unwrap();
    let goldens = Tensor::read_safetensors(folder.join("goldens.safetensors")).unwrap();
    let read = goldens.iter().filter(|(name, _)| file.tensors().contains_key(name));
    assert_eq!(read.clone().count(), 11);
    for (name, want) in read {
        let got = Tensor::from_slice(&file.read(name).unwrap()).view_as(want);
        // The order of f32 products may differ from gguf's.
        let distance = (&got - want).abs().max().double_value(&[]);
        let scale = want.abs().max().double_value(&[]);
        assert!(distance <= 1e-6 * scale, "{name}: {distance} of {scale}");
    }
}

#[test]
fn an_imported_model_computes_what_transformers_computes() {
    for name in NAMES {
        let goldens = Goldens::read(&model(name));
        let base = Goldens::read(&model(goldens.json["base"].as_str().unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model");
        import_gguf(&model(name).join("model.gguf"), &out, Kind::Float, Families::BUILT_IN)
            .unwrap();
        let policy = LanguageModel::load(&out, LoadOptions::default()).unwrap();
        close(name, &logits(&policy, &base), goldens.get("logits"), 1e-4);
    }
}

const NAMES: [&str; 6] =
    ["gguf-llama", "gguf-llama31", "gguf-qwen2", "gguf-qwen3", "gguf-gemma2", "gguf-gemma3"];

/// The logits of a model for the rows of a golden.
fn logits(policy: &LanguageModel, goldens: &Goldens) -> Tensor {
    let batch = TokenBatch::collate(goldens.rows("right"), policy.spec(), Padding::Right).unwrap();
    let Architecture::DecoderOnly(layers) = policy.architecture() else { panic!("an encoder") };
    let forward = Forward::default();
    no_grad(|| {
        let hidden = real(&layers.hidden(&batch, forward).unwrap(), &batch);
        policy.head(forward).unwrap().logits(&hidden)
    })
}

#[test]
fn blocks_are_written_as_by_gguf() {
    let goldens =
        Tensor::read_safetensors(model("gguf-blocks").join("goldens.safetensors")).unwrap();
    let golden = |name: &str| &goldens.iter().find(|(known, _)| known == name).unwrap().1;
    let numbers = Vec::<f32>::try_from(golden("numbers").reshape([-1])).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for kind in [GgufType::F16, GgufType::BF16, GgufType::Q8_0] {
        let path = folder.path().join(kind.name());
        let spec = [GgufSpec { name: "numbers".to_owned(), shape: vec![2, 96], kind }];
        write_gguf(&path, &[], &spec, |_| Ok(numbers.clone())).unwrap();
        let want = Vec::<u8>::try_from(golden(&format!("written.{}", kind.name()))).unwrap();
        let bytes = fs::read(&path).unwrap();
        // Of 384 or 204 bytes; the tensor begins at a multiple of 32, and ends in padding up to the next.
        let begin = bytes.len() - want.len().next_multiple_of(32);
        assert_eq!(bytes[begin..begin + want.len()], want, "{kind:?}");
    }
    let spec = [GgufSpec { name: "numbers".to_owned(), shape: vec![2, 96], kind: GgufType::Q4_0 }];
    let path = folder.path().join("other");
    let error = write_gguf(&path, &[], &spec, |_| Ok(numbers.clone())).unwrap_err();
    assert!(error.to_string().contains("Q4_0"), "{error}");
    assert!(!path.exists());
}

/// A tokenizer.json of three tokens.
fn tokenizer() -> Value {
    json!({
        "added_tokens": [{"id": 2, "content": "</s>", "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "post_processor": null,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 3}, "merges": [["a", "b"]]},
    })
}

fn written(json: &Value) -> GgufTokenizer<'_> {
    GgufTokenizer {
        json,
        bos: None,
        eos: Some(2),
        unk: None,
        pad: None,
        chat_template: Some("{{ x }}"),
    }
}

#[test]
fn an_exported_model_is_the_same_when_it_is_imported() {
    let json = tokenizer();
    let folder = tempfile::tempdir().unwrap();
    for name in NAMES {
        let goldens = Goldens::read(&model(name));
        let base = Goldens::read(&model(goldens.json["base"].as_str().unwrap()));
        let place = |part: &str| folder.path().join(format!("{name}-{part}"));
        let options = LoadOptions::default();
        // Of Gemma 3 the base has other layers than llama.cpp.
        import_gguf(
            &model(name).join("model.gguf"),
            &place("start"),
            Kind::Float,
            options.families,
        )
        .unwrap();
        let start = LanguageModel::load(&place("start"), options).unwrap();
        let file = place("model.gguf");
        export_gguf(&start, &written(&json), &file, GgufFormat::F32, options.families).unwrap();
        import_gguf(&file, &place("end"), Kind::Float, options.families).unwrap();
        let end = LanguageModel::load(&place("end"), options).unwrap();
        let distance = (logits(&start, &base) - logits(&end, &base)).abs().max();
        // 1 is added to the factors of Gemma's norms, and taken away again.
        assert!(distance.double_value(&[]) <= 1e-5, "{name}: {distance:?}");
        let ends: Value =
            serde_json::from_slice(&fs::read(place("end").join("generation_config.json")).unwrap())
                .unwrap();
        assert_eq!(ends["eos_token_id"], json!([2]));
        let config: Value =
            serde_json::from_slice(&fs::read(place("end").join("tokenizer_config.json")).unwrap())
                .unwrap();
        assert_eq!(
            (&config["eos_token"], &config["chat_template"]),
            (&json!("</s>"), &json!("{{ x }}"))
        );
    }
}

#[test]
fn what_a_gguf_file_cannot_state_is_refused() {
    let json = tokenizer();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.gguf");
    let export = |name: &str, json: &Value| {
        let policy = LanguageModel::load(&model(name), LoadOptions::default()).unwrap();
        let error = export_gguf(&policy, &written(json), &out, GgufFormat::F16, Families::BUILT_IN);
        error.unwrap_err().to_string()
    };
    let t5 = export("flan", &json);
    assert!(t5.contains("llama, mistral, qwen2, qwen3, gemma2 and gemma3_text, found t5"), "{t5}");
    // llama.cpp takes the scalar of Gemma 2 for the size of a head.
    let gemma = export("gemma2", &json);
    assert!(gemma.contains("`query_pre_attn_scalar`") && !gemma.contains("`head_dim`"), "{gemma}");
    let mut other = tokenizer();
    other["pre_tokenizer"] = json!({"type": "Whitespace"});
    let pre = export("llama2", &other);
    assert!(
        pre.contains("llama-bpe, qwen2, gpt-2, smollm, found {\"type\":\"Whitespace\"}"),
        "{pre}"
    );
    other["model"] = json!({"type": "Unigram", "vocab": [["a", -1.0]]});
    let unigram = export("llama2", &other);
    assert!(unigram.contains("found Unigram"), "{unigram}");
    let mut large = tokenizer();
    large["model"]["vocab"]["c"] = json!(5000);
    let large = export("llama2", &large);
    assert!(large.contains("the token `c`"), "{large}");
    assert!(!out.exists());
}

#[test]
fn gguf_files_that_cannot_be_read_are_named() {
    let bytes = fs::read(model("gguf-llama").join("model.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        import_gguf(&path, &folder.path().join("out"), Kind::Float, Families::BUILT_IN).unwrap_err()
    };
    let replaced = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let cut = error(&bytes[..bytes.len() - 100]);
    assert!(matches!(cut, ModelError::Checkpoint(CheckpointError::FileLength { .. })), "{cut}");
    let cut = error(&bytes[..300]);
    assert!(cut.to_string().contains("the end of the file"), "{cut}");
    let magic = error(b"GGML and more");
    assert!(magic.to_string().contains("GGUF"), "{magic}");
    let architecture = error(&replaced("llama", "mamba"));
    assert!(architecture.to_string().contains("general.architecture"), "{architecture}");
    let tensor = error(&replaced("ffn_gate", "ffn_gone"));
    assert!(tensor.to_string().contains("ffn_gone"), "{tensor}");
    // The type of the first tensor's elements: after its name, dimensions and sizes.
    let name = b"token_embd.weight";
    let at = bytes.windows(name.len()).position(|part| part == name).unwrap() + name.len() + 20;
    let mut other = bytes.clone();
    assert_eq!(other[at..at + 4], [8, 0, 0, 0]);
    other[at] = 16;
    let unknown = error(&other);
    assert!(unknown.to_string().contains("IQ2_XXS"), "{unknown}");
    assert!(!folder.path().join("out").exists());
}

//! The memory of QLoRA on a model of the shape of Llama-3.1-8B, from models of one and of two of its layers.
//!
//! ```sh
//! cargo run -p rlaif-models --example qlora_memory
//! ```
//!
//! A child process for each number of layers loads zeros in bf16 as NF4, and makes one training step: LoRA of rank
//! 16 on every linear layer, one row of 512 tokens, gradient checkpointing. Its peak of resident memory counts, so
//! that loading, the libraries and the allocator are part of it.

use std::{error::Error, fs, fs::File, io::Write, path::Path, process::Command};

use rlaif_lm::{Activations, Forward, Padding, Policy, TokenBatch, token_log_probs};
use rlaif_models::{LanguageModel, LoadOptions, Lora, Quantization};
use rlaif_torch::{AdamW, AdamWOptions, ParamGroup};
use serde_json::{Map, Value, json};
use tch::{Device, Kind};

const LAYERS: u64 = 32;
const TOKENS: usize = 512;
const RANK: u32 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(layers) = std::env::args().nth(1) {
        println!("{}", step(layers.parse()?)?);
        return Ok(());
    }
    let mut peaks = [0u64; 2];
    for (layers, peak) in (1..).zip(&mut peaks) {
        let child = Command::new(std::env::current_exe()?).arg(layers.to_string()).output()?;
        if !child.status.success() {
            return Err(String::from_utf8_lossy(&child.stderr).into());
        }
        *peak = String::from_utf8(child.stdout)?.trim().parse()?;
        println!("{layers} of {LAYERS} layers: peak {}", gib(*peak));
    }
    let [one, two] = peaks;
    let layer = two.saturating_sub(one);
    println!("each layer: {}", gib(layer));
    println!("{LAYERS} layers: {}", gib(one + (LAYERS - 1) * layer));
    Ok(())
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

/// The peak of a process that loads a model and trains it for a step.
fn step(layers: u64) -> Result<u64, Box<dyn Error>> {
    rlaif_torch::keep_large_blocks()?;
    let folder = tempfile::tempdir()?;
    write_zeros(folder.path(), layers)?;
    let options = LoadOptions {
        quantization: Some(Quantization::Nf4),
        ..LoadOptions::new(Device::Cpu, Kind::BFloat16)
    };
    let mut policy = LanguageModel::load(folder.path(), options)?;
    Lora::new("default", RANK.try_into()?).add_to(&mut policy)?;
    let params = policy.parameters().trainable();
    let mut optimizer = AdamW::new(vec![ParamGroup { params, options: AdamWOptions::default() }])?;
    let prompts = TokenBatch::collate(vec![vec![7]], policy.spec(), Padding::Right)?;
    let responses = TokenBatch::responses(vec![vec![7; TOKENS - 1]], policy.spec())?;
    let forward = Forward { activations: Activations::Recompute, ..Forward::default() };
    let hidden = policy.response_hidden(&prompts, &responses, forward)?;
    let log_probs = token_log_probs(&policy.head(forward)?, &hidden, &responses, 1.)?.log_probs;
    (-responses.mask().mean(&log_probs)).backward();
    optimizer.step()?;
    Ok(rlaif_torch::host_memory().resident_peak.ok_or("the system does not tell the peak")?)
}

/// A checkpoint of zeros, which take no space on the disk.
fn write_zeros(folder: &Path, layers: u64) -> Result<(), Box<dyn Error>> {
    let (hidden, inner, keys, vocab) = (4096, 14336, 1024, 128_256);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": vocab, "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": false,
        "bos_token_id": 128_000, "eos_token_id": 128_001, "torch_dtype": "bfloat16",
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    let mut tensors: Vec<(String, Vec<u64>)> = vec![
        ("model.embed_tokens.weight".into(), vec![vocab, hidden]),
        ("model.norm.weight".into(), vec![hidden]),
        ("lm_head.weight".into(), vec![vocab, hidden]),
    ];
    for layer in 0..layers {
        for (name, shape) in [
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![keys, hidden]),
            ("self_attn.v_proj", vec![keys, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(folder.join("model.safetensors"))?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len(8 + header.len() as u64 + end)?;
    Ok(())
}

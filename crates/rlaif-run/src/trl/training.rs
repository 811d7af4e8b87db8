//! Fields that all trainers of TRL 1 share: `ModelConfig` and the used part of `TrainingArguments`.

use serde_json::Value;

use super::{TrlError, fields::Fields};

/// The section of the run file that has the optimizer and the update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// `[learn]`, of supervised training.
    Learn,
    /// `[dpo]`.
    Dpo,
    /// `[reinforce]`.
    Reinforce,
}

impl Section {
    pub(super) fn key(self, name: &str) -> String {
        let section = match self {
            Self::Learn => "learn",
            Self::Dpo => "dpo",
            Self::Reinforce => "reinforce",
        };
        format!("{section}.{name}")
    }
}

/// The model, its dtype, its quantization and its adapter. `dtype` is the name of that field.
pub(super) fn model(fields: &mut Fields, dtype: &'static str) -> Result<(), TrlError> {
    let path = fields.text("model_name_or_path")?;
    if path.is_empty() {
        fields.needs("model.path", "the configuration names no model");
    } else {
        fields.set("model.path", path);
    }
    fields.becomes("model_name_or_path", "model.path");
    let revision = fields.text("model_revision")?;
    if revision != "main" && !revision.is_empty() {
        fields.set("model.revision", revision);
    }
    fields.becomes("model_revision", "model.revision");
    dtype_of(fields, dtype)?;
    quantization(fields)?;
    adapter(fields)?;
    if fields.flag("trust_remote_code")? {
        fields.differs("trust_remote_code", "code of a model folder is never run");
    } else {
        fields.elsewhere("trust_remote_code", "code of a model folder is never run");
    }
    Ok(())
}

fn dtype_of(fields: &mut Fields, field: &'static str) -> Result<(), TrlError> {
    let mixed = fields.flag("bf16")?;
    let dtype = fields.text(field)?;
    match dtype.as_str() {
        "" | "auto" | "float32" => {}
        "bfloat16" => fields.set("model.dtype", "bf16"),
        "float16" => {}
        _ => return Err(fields.refused(field, "auto, float32, bfloat16 or float16")),
    }
    fields.becomes(field, "model.dtype");
    if dtype == "float16" {
        fields.differs(field, "weights are f32 or bf16 in training; f32 is used");
    }
    if mixed {
        fields.set("model.dtype", "bf16");
    }
    fields.becomes("bf16", "model.dtype");
    if fields.flag("fp16")? {
        fields.differs("fp16", "weights are f32 or bf16 in training: `model.dtype`");
    } else {
        fields.elsewhere("fp16", "weights are f32 or bf16 in training");
    }
    Ok(())
}

fn quantization(fields: &mut Fields) -> Result<(), TrlError> {
    let (four, eight) = (fields.flag("load_in_4bit")?, fields.flag("load_in_8bit")?);
    if four && eight {
        return Err(fields.refused("load_in_8bit", "false, because load_in_4bit is true"));
    }
    if four && fields.text("bnb_4bit_quant_type")? != "nf4" {
        return Err(fields.refused("bnb_4bit_quant_type", "nf4"));
    }
    if four || eight {
        fields.set("model.quantization", if four { "nf4" } else { "int8" });
    }
    for field in ["load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type"] {
        fields.becomes(field, "model.quantization");
    }
    let nested = "the scales of NF4 are always quantized a second time";
    if four && !fields.flag("use_bnb_nested_quant")? {
        fields.differs("use_bnb_nested_quant", nested);
    } else {
        fields.elsewhere("use_bnb_nested_quant", nested);
    }
    Ok(())
}

fn adapter(fields: &mut Fields) -> Result<(), TrlError> {
    let lora = fields.flag("use_peft")?;
    let (rank, alpha) = (fields.count("lora_r", 1)?, fields.number("lora_alpha")?);
    // rsLoRA divides α by √r instead of r.
    let scaled = fields.flag("use_rslora")?;
    let alpha = if scaled { alpha * (rank as f64).sqrt() } else { alpha };
    if lora {
        fields.set("model.lora.rank", rank as i64);
        fields.set("model.lora.alpha", alpha);
        let dropout = fields.number("lora_dropout")?;
        fields.set("model.lora.dropout", dropout);
        if let Some(targets) = targets(fields)? {
            fields.set("model.lora.targets", targets);
        }
        let saved = names(fields, "lora_modules_to_save")?;
        if !saved.is_empty() {
            fields.set("model.lora.modules_to_save", saved);
        }
        if fields.flag("use_dora")? {
            fields.set("model.lora.variant", "dora");
        }
    }
    fields.becomes("use_peft", "model.lora");
    fields.becomes("lora_r", "model.lora.rank");
    fields.becomes("lora_alpha", "model.lora.alpha");
    fields.becomes("use_rslora", "model.lora.alpha");
    fields.becomes("lora_dropout", "model.lora.dropout");
    fields.becomes("lora_target_modules", "model.lora.targets");
    fields.becomes("lora_modules_to_save", "model.lora.modules_to_save");
    fields.becomes("use_dora", "model.lora.variant");
    if lora && fields.value("lora_target_modules").is_null() {
        let difference = "peft has a default for each family; here all linear layers have an adapter: \
                          name them in `model.lora.targets`";
        fields.differs("lora_target_modules", difference);
    }
    Ok(())
}

fn targets(fields: &Fields) -> Result<Option<toml::Value>, TrlError> {
    let names = names(fields, "lora_target_modules")?;
    Ok(match names.as_slice() {
        [] => None,
        [name] if name.as_str() == Some("all-linear") => Some("all-linear".into()),
        _ => Some(names.into()),
    })
}

/// The names of layers in a list.
fn names(fields: &Fields, field: &'static str) -> Result<Vec<toml::Value>, TrlError> {
    let list = fields.list(field);
    let names: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
    let names = names.ok_or_else(|| fields.refused(field, "names of layers"))?;
    Ok(names.into_iter().map(toml::Value::from).collect())
}

/// The weight of the loss of routers; null is that of the model's configuration.
pub(super) fn router(fields: &mut Fields, section: Section) -> Result<(), TrlError> {
    let key = section.key("router_aux_loss_coef");
    if let Some(coefficient) = fields.maybe_number("router_aux_loss_coef")? {
        fields.set(&key, coefficient);
    }
    fields.becomes("router_aux_loss_coef", &key);
    Ok(())
}

/// The optimizer and its schedule. `steps` is the number of optimizer steps, if it is known.
pub(super) fn optimizer(
    fields: &mut Fields,
    section: Section,
    steps: Option<u64>,
) -> Result<(), TrlError> {
    let key = |name: &str| section.key(&format!("optimizer.{name}"));
    fields.copy("learning_rate", &key("lr"))?;
    fields.copy("weight_decay", &key("weight_decay"))?;
    fields.copy("adam_epsilon", &key("eps"))?;
    fields.copy("max_grad_norm", &key("max_grad_norm"))?;
    let betas = vec![fields.number("adam_beta1")?, fields.number("adam_beta2")?];
    fields.key("adam_beta1", &key("betas"), betas);
    fields.becomes("adam_beta2", &key("betas"));
    let schedule = fields.text("lr_scheduler_type")?;
    let ours = match schedule.as_str() {
        "constant" | "constant_with_warmup" => "constant",
        "linear" => "linear",
        "cosine" => "cosine",
        _ => {
            let expected = "constant, constant_with_warmup, linear or cosine";
            return Err(fields.refused("lr_scheduler_type", expected));
        }
    };
    fields.key("lr_scheduler_type", &key("schedule"), ours);
    let warmup = fields.number("warmup_steps")?;
    if warmup < 0. {
        return Err(fields.refused("warmup_steps", "a number of at least 0"));
    }
    fields.becomes("warmup_steps", &key("warmup_steps"));
    match steps {
        // transformers ignores the warm-up of `constant`.
        _ if schedule == "constant" => {}
        _ if warmup == 0. || warmup >= 1. => fields.set(&key("warmup_steps"), warmup as i64),
        Some(steps) => fields.set(&key("warmup_steps"), (warmup * steps as f64).ceil() as i64),
        None => fields.differs(
            "warmup_steps",
            format!(
                "{warmup} of the steps, whose number depends on the data: set `{}`",
                key("warmup_steps")
            ),
        ),
    }
    let adam = fields.text("optim")?;
    if matches!(adam.as_str(), "adamw_torch" | "adamw_torch_fused" | "adamw_hf") {
        fields.elsewhere("optim", "always AdamW");
    } else {
        fields.differs("optim", "always AdamW");
    }
    Ok(())
}

/// Batch sizes of supervised training: rows for each optimizer step, and for each pass.
pub(super) fn batch(fields: &mut Fields, section: Section) -> Result<(), TrlError> {
    let (rows, parts) = (
        fields.count("per_device_train_batch_size", 1)?,
        fields.count("gradient_accumulation_steps", 1)?,
    );
    let all = rows.checked_mul(parts).and_then(|all| all.checked_mul(fields.processes as u64));
    let all =
        all.ok_or_else(|| fields.refused("gradient_accumulation_steps", "a smaller number"))?;
    fields.key("per_device_train_batch_size", "train.batch_size", all as i64);
    fields.key("per_device_train_batch_size", &section.key("microbatch_size"), rows as i64);
    fields.becomes("gradient_accumulation_steps", "train.batch_size");
    Ok(())
}

/// The length of a supervised run. Returns the number of optimizer steps, if the configuration has it.
pub(super) fn length(fields: &mut Fields) -> Result<Option<u64>, TrlError> {
    let steps = fields.number("max_steps")?;
    fields.becomes("max_steps", "train.steps");
    fields.becomes("num_train_epochs", "train.epochs");
    if steps > 0. {
        let steps = fields.count("max_steps", 1)?;
        fields.set("train.steps", steps as i64);
        return Ok(Some(steps));
    }
    let epochs = fields.number("num_train_epochs")?;
    if epochs < 1. || epochs.fract() != 0. {
        let expected = "a whole number of epochs of at least 1, or `max_steps`";
        return Err(fields.refused("num_train_epochs", expected));
    }
    fields.set("train.epochs", epochs as i64);
    Ok(None)
}

/// Evaluations, checkpoints, and the choice of the result.
pub(super) fn marks(fields: &mut Fields, section: Section) -> Result<(), TrlError> {
    let of_step = |fields: &Fields, strategy: &str, steps: &str| -> Result<Option<u64>, TrlError> {
        match fields.text(strategy)?.as_str() {
            "no" | "" => Ok(Some(0)),
            "steps" if fields.value(steps).is_null() => Ok(Some(fields.count("logging_steps", 1)?)),
            "steps" => fields.count(steps, 1).map(Some),
            "epoch" | "best" => Ok(None),
            _ => Err(fields.refused(strategy, "no, steps or epoch")),
        }
    };
    let saved = of_step(fields, "save_strategy", "save_steps")?;
    for field in ["save_strategy", "save_steps"] {
        fields.becomes(field, "train.checkpoint_every");
    }
    match saved {
        Some(every) => fields.set("train.checkpoint_every", every as i64),
        None => fields.differs(
            "save_strategy",
            "checkpoints are saved every so many steps: set `train.checkpoint_every`",
        ),
    }
    let keep = fields.maybe_number("save_total_limit")?;
    fields.becomes("save_total_limit", "train.keep");
    if keep.is_some() {
        fields.copy_count("save_total_limit", "train.keep", 1)?;
    }
    if section == Section::Reinforce {
        return Ok(());
    }
    let evaluated = of_step(fields, "eval_strategy", "eval_steps")?;
    for field in ["eval_strategy", "eval_steps"] {
        fields.becomes(field, "train.eval_every");
    }
    match evaluated {
        Some(0) => {}
        Some(every) => {
            fields.set("train.eval_every", every as i64);
            fields.needs(
                "data.held_out",
                "evaluations need rows: a file, or `data.held_out_fraction`",
            );
        }
        None => {
            fields.differs(
                "eval_strategy",
                "the steps between two evaluations: set `train.eval_every`",
            );
        }
    }
    if fields.flag("load_best_model_at_end")? {
        fields.set("train.result", "best");
    }
    fields.becomes("load_best_model_at_end", "train.result");
    Ok(())
}

/// The seed, the device, dropout and gradient checkpointing.
pub(super) fn run(fields: &mut Fields, section: Section) -> Result<(), TrlError> {
    fields.copy_count("seed", "seed", 0)?;
    if fields.flag("use_cpu")? {
        fields.set("placement.device", "cpu");
    }
    fields.becomes("use_cpu", "placement.device");
    // On by default in TRL. It changes no number, and takes a third more time.
    if fields.is_given("gradient_checkpointing") && fields.flag("gradient_checkpointing")? {
        fields.set(&section.key("activations"), "recompute");
    }
    fields.becomes("gradient_checkpointing", &section.key("activations"));
    Ok(())
}

/// Dropout in updates, for trainers that can disable it.
pub(super) fn dropout(fields: &mut Fields, section: Section) -> Result<(), TrlError> {
    let dropout = if fields.flag("disable_dropout")? { "off" } else { "on" };
    fields.key("disable_dropout", &section.key("dropout"), dropout);
    Ok(())
}

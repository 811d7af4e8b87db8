//! `PPOConfig` of TRL 0.11.4.

use toml::toml;

use super::{TrlError, fields::Fields, training};

pub(super) fn import(fields: &mut Fields) -> Result<(), TrlError> {
    model(fields)?;
    sizes(fields)?;
    kl(fields)?;
    for (field, key) in [
        ("learning_rate", "ppo.optimizer.lr"),
        ("gamma", "ppo.gamma"),
        ("lam", "ppo.gae_lambda"),
        ("cliprange", "ppo.clip"),
        ("cliprange_value", "ppo.value_clip"),
        ("vf_coef", "ppo.value_coef"),
        ("ratio_threshold", "ppo.ratio_threshold"),
    ] {
        fields.copy(field, key)?;
    }
    fields.copy_count("seed", "seed", 0)?;
    let norm = fields.maybe_number("max_grad_norm")?;
    fields.key("max_grad_norm", "ppo.optimizer.max_grad_norm", norm.unwrap_or(0.));
    // `early_stopping` alone decides whether TRL looks at `target_kl`.
    if fields.flag("early_stopping")? {
        let target = fields.number("target_kl")?;
        fields.set("ppo.target_kl", target);
    }
    for field in ["early_stopping", "target_kl"] {
        fields.becomes(field, "ppo.target_kl");
    }
    scores(fields)?;
    if fields.flag("gradient_checkpointing")? {
        fields.set("ppo.activations", "recompute");
    }
    fields.becomes("gradient_checkpointing", "ppo.activations");
    // TRL 0.11 draws the value head as PyTorch draws a linear layer.
    fields.set("value.init", "pytorch");
    fields.needs("reward", "a reward of docs/rewards.md; TRL's is in the script");
    fields.elsewhere("reward_model", "`[reward]`");
    fields.needs("data.prompts", "a file of prompts; TRL's loop is in the script");
    fields.elsewhere("query_dataset", "`data.prompts`");
    fields.needs("ppo.steps", "the number of rollouts; TRL 0.11 does not read its own `steps`");
    fields.elsewhere("steps", "`ppo.steps`; TRL 0.11 does not read the field");
    Ok(())
}

/// A script has the name of the model in `PPOConfig` or in `ModelConfig`.
fn model(fields: &mut Fields) -> Result<(), TrlError> {
    if !fields.is_given("model_name_or_path") && fields.is_given("model_name") {
        fields.rename("model_name", "model_name_or_path");
    }
    fields.becomes("model_name", "model.path");
    training::model(fields, "torch_dtype")
}

fn sizes(fields: &mut Fields) -> Result<(), TrlError> {
    let (rows, parts) =
        (fields.count("mini_batch_size", 1)?, fields.count("gradient_accumulation_steps", 1)?);
    let processes = fields.processes as u64;
    let all = rows.checked_mul(parts).and_then(|all| all.checked_mul(processes));
    let all =
        all.ok_or_else(|| fields.refused("gradient_accumulation_steps", "a smaller number"))?;
    let batch = fields.count("batch_size", 1)?.saturating_mul(processes);
    if !batch.is_multiple_of(all) {
        let expected = format!("a multiple of the {all} rows of an optimizer step");
        return Err(fields.refused("batch_size", expected));
    }
    fields.key("batch_size", "ppo.batch_size", i64::try_from(batch).unwrap_or(i64::MAX));
    fields.key("mini_batch_size", "ppo.minibatch_size", all as i64);
    fields.key("mini_batch_size", "ppo.microbatch_size", rows as i64);
    fields.becomes("gradient_accumulation_steps", "ppo.minibatch_size");
    fields.copy_count("ppo_epochs", "ppo.epochs", 1)
}

fn kl(fields: &mut Fields) -> Result<(), TrlError> {
    let estimator = match fields.text("kl_penalty")?.as_str() {
        "kl" => "k1",
        "abs" => "abs",
        "mse" => "k2",
        "full" => "full",
        _ => return Err(fields.refused("kl_penalty", "kl, abs, mse or full")),
    };
    fields.key("kl_penalty", "ppo.kl.estimator", estimator);
    let init = fields.number("init_kl_coef")?;
    let control = if fields.flag("adap_kl_ctrl")? {
        let (target, horizon) = (fields.number("target")?, fields.number("horizon")?);
        toml! { adaptive = { init = init, target = target, horizon = horizon } }
    } else {
        toml! { fixed = { coef = init } }
    };
    fields.key("init_kl_coef", "ppo.kl.control", control);
    for field in ["adap_kl_ctrl", "target", "horizon"] {
        fields.becomes(field, "ppo.kl.control");
    }
    Ok(())
}

fn scores(fields: &mut Fields) -> Result<(), TrlError> {
    let scaling = match (fields.flag("use_score_scaling")?, fields.flag("use_score_norm")?) {
        (false, _) => "none",
        (true, false) => "scale",
        (true, true) => "normalize",
    };
    fields.key("use_score_scaling", "ppo.scores.scaling", scaling);
    fields.becomes("use_score_norm", "ppo.scores.scaling");
    if let Some(clip) = fields.maybe_number("score_clip")? {
        fields.set("ppo.scores.clip", clip);
    }
    fields.becomes("score_clip", "ppo.scores.clip");
    let whitening = if fields.flag("whiten_rewards")? { "batch" } else { "none" };
    fields.key("whiten_rewards", "ppo.reward_whitening", whitening);
    Ok(())
}

//! `GRPOConfig` and `RLOOConfig`.

use serde_json::Value;
use toml::{Table, toml};

use super::{
    TrlError,
    fields::Fields,
    training::{Section, dropout, marks, model, optimizer, router, run},
};

const EPS: f64 = 1e-4;

pub(super) fn import_grpo(fields: &mut Fields) -> Result<(), TrlError> {
    both(fields, "grpo")?;
    advantage(fields)?;
    let loss = fields.text("loss_type")?;
    let surrogate = surrogate_of(fields, &loss)?;
    fields.set("reinforce.surrogate", surrogate);
    let limit = fields.count("max_completion_length", 1)? as i64;
    let average: toml::Value = match loss.as_str() {
        "grpo" | "sapo" => "responses".into(),
        "dr_grpo" => toml! { constant = limit }.into(),
        _ => "tokens".into(),
    };
    fields.set("reinforce.average", average);
    for path in ["reinforce.surrogate", "reinforce.average"] {
        fields.becomes("loss_type", path);
    }
    if loss == "bnpo" && fields.count("gradient_accumulation_steps", 1)? > 1 {
        fields.differs(
            "loss_type",
            "the mean of bnpo is over the optimizer's batch, not over each part of it",
        );
    }
    for field in [
        "epsilon",
        "epsilon_high",
        "delta",
        "sapo_temperature_pos",
        "sapo_temperature_neg",
        "vespo_k_pos",
        "vespo_lambda_pos",
        "vespo_k_neg",
        "vespo_lambda_neg",
    ] {
        fields.becomes(field, "reinforce.surrogate");
    }
    let ratio = match (loss.as_str(), fields.text("importance_sampling_level")?.as_str()) {
        ("vespo", _) => "product",
        (_, "token") => "token",
        (_, "sequence") => "sequence",
        _ => return Err(fields.refused("importance_sampling_level", "token or sequence")),
    };
    fields.key("importance_sampling_level", "reinforce.ratio", ratio);
    let beta = fields.number("beta")?;
    let weight = if fields.flag("use_bias_correction_kl")? { "ratio" } else { "none" };
    let kl: toml::Value = match beta {
        0. => "none".into(),
        _ => toml! { loss = { coef = beta, estimator = "k3", weight = weight } }.into(),
    };
    fields.key("beta", "reinforce.kl", kl);
    fields.becomes("use_bias_correction_kl", "reinforce.kl");
    if let Some(most) = fields.maybe_number("off_policy_mask_threshold")? {
        fields.set("reinforce.off_policy.max_kl", most);
    }
    fields.becomes("off_policy_mask_threshold", "reinforce.off_policy.max_kl");
    for (field, off) in [("entropy_coef", 0.), ("top_entropy_quantile", 1.)] {
        if fields.number(field)? == off {
            fields.elsewhere(field, "the loss has no entropy");
        } else {
            fields.differs(field, "the loss has no entropy");
        }
    }
    Ok(())
}

pub(super) fn import_rloo(fields: &mut Fields) -> Result<(), TrlError> {
    both(fields, "rloo")?;
    let scale: toml::Value = match fields.flag("normalize_advantages")? {
        true => toml! { whitened = { eps = EPS } }.into(),
        false => "none".into(),
    };
    let advantage = toml! { leave_one_out = { scale = scale } };
    fields.key("normalize_advantages", "reinforce.advantage", advantage);
    let clipped = clipped(fields)?;
    fields.set("reinforce.surrogate", clipped);
    for field in ["epsilon", "epsilon_high"] {
        fields.becomes(field, "reinforce.surrogate");
    }
    fields.set("reinforce.average", "responses");
    fields.set("reinforce.ratio", "product");
    let beta = fields.number("beta")?;
    let kl: toml::Value = match beta {
        0. => "none".into(),
        _ => toml! { reward = { coef = beta, estimator = "k1" } }.into(),
    };
    fields.key("beta", "reinforce.kl", kl);
    fields.becomes("reward_clip_range", "reinforce.scores.clip");
    let range: Vec<f64> =
        fields.list("reward_clip_range").iter().filter_map(Value::as_f64).collect();
    match range.as_slice() {
        [] => {}
        [low, high] if *low == -*high => fields.set("reinforce.scores.clip", *high),
        _ => fields.differs("reward_clip_range", "scores are clipped to ±`reinforce.scores.clip`"),
    }
    Ok(())
}

/// The fields that both configurations have.
fn both(fields: &mut Fields, algorithm: &str) -> Result<(), TrlError> {
    model(fields, "dtype")?;
    fields.needs("data.prompts", "a file of prompts; a dataset of the hub is downloaded first");
    fields.elsewhere("dataset_name", "`data.prompts`, a file");
    fields.needs("reward", "TRL's rewards are functions of the script: docs/rewards.md");
    fields.elsewhere("reward_weights", "the weights of `[reward] kind = \"weighted-sum\"`");
    fields.set("reinforce.algorithm", algorithm);
    let steps = sizes(fields)?;
    optimizer(fields, Section::Reinforce, steps)?;
    marks(fields, Section::Reinforce)?;
    run(fields, Section::Reinforce)?;
    dropout(fields, Section::Reinforce)?;
    generation(fields)?;
    router(fields, Section::Reinforce)?;
    if fields.flag("mask_truncated_completions")? {
        let difference =
            "truncated responses count; `reinforce.scores.missing_eos_penalty` punishes them";
        fields.differs("mask_truncated_completions", difference);
    } else {
        fields.elsewhere("mask_truncated_completions", "truncated responses count");
    }
    let fixed = "the reference does not move";
    for field in ["sync_ref_model", "ref_model_sync_steps", "ref_model_mixup_alpha"] {
        fields.elsewhere(field, fixed);
    }
    if fields.flag("sync_ref_model")? {
        fields.differs("sync_ref_model", fixed);
    }
    Ok(())
}

/// Responses of a rollout, of an optimizer step and of a pass. Returns the number of optimizer steps.
///
/// TRL counts responses in `per_device_train_batch_size`, and samples those of `steps_per_generation` passes at once.
fn sizes(fields: &mut Fields) -> Result<Option<u64>, TrlError> {
    let rows = fields.count("per_device_train_batch_size", 1)?;
    let parts = fields.count("gradient_accumulation_steps", 1)?;
    let processes = fields.processes as u64;
    let of_step = rows.checked_mul(parts).and_then(|all| all.checked_mul(processes));
    let of_step =
        of_step.ok_or_else(|| fields.refused("gradient_accumulation_steps", "a smaller number"))?;
    let of_rollout =
        match (fields.is_given("generation_batch_size"), fields.is_given("steps_per_generation")) {
            (true, true) => {
                let expected = "null, because `steps_per_generation` is given";
                return Err(fields.refused("generation_batch_size", expected));
            }
            (true, false) => fields.count("generation_batch_size", 1)?,
            (false, true) => fields
                .count("steps_per_generation", 1)?
                .checked_mul(rows * processes)
                .ok_or_else(|| fields.refused("steps_per_generation", "a smaller number"))?,
            (false, false) => of_step,
        };
    if !of_rollout.is_multiple_of(of_step) {
        let field = if fields.is_given("generation_batch_size") {
            "generation_batch_size"
        } else {
            "steps_per_generation"
        };
        let expected =
            format!("a rollout of whole optimizer steps, which have {of_step} responses each");
        return Err(fields.refused(field, expected));
    }
    let group = fields.count("num_generations", 1)?;
    if !of_step.is_multiple_of(group) {
        let expected = format!("a divisor of the {of_step} responses of an optimizer step");
        return Err(fields.refused("num_generations", expected));
    }
    let epochs = fields.count("num_iterations", 1)?;
    fields.key("num_generations", "reinforce.group_size", group as i64);
    fields.key("num_iterations", "reinforce.epochs", epochs as i64);
    fields.key("generation_batch_size", "reinforce.batch_size", of_rollout as i64);
    fields.becomes("steps_per_generation", "reinforce.batch_size");
    fields.key("per_device_train_batch_size", "reinforce.minibatch_size", of_step as i64);
    fields.becomes("gradient_accumulation_steps", "reinforce.minibatch_size");
    // A part of TRL's may split a group; here it may only if it divides it.
    if rows.is_multiple_of(group) || group.is_multiple_of(rows) {
        fields.key("per_device_train_batch_size", "reinforce.microbatch_size", rows as i64);
    }
    let updates = of_rollout / of_step * epochs;
    fields.becomes("max_steps", "reinforce.steps");
    fields.becomes("num_train_epochs", "reinforce.steps");
    if fields.number("max_steps")? > 0. {
        let steps = fields.count("max_steps", 1)?;
        fields.set("reinforce.steps", steps.div_ceil(updates) as i64);
        return Ok(Some(steps));
    }
    let reason = "the number of rollouts is epochs × prompts × `group_size` / `batch_size`, and the configuration does \
                  not have the number of prompts";
    fields.needs("reinforce.steps", reason);
    Ok(None)
}

fn generation(fields: &mut Fields) -> Result<(), TrlError> {
    fields.copy_count("max_completion_length", "reinforce.generation.max_new_tokens", 1)?;
    let temperature = fields.number("temperature")?;
    let sampling = toml! { method = "sample" temperature = temperature };
    fields.key("temperature", "reinforce.generation.sampling", sampling);
    let whole = "rollouts sample from the whole distribution, whose log-probabilities are trained";
    for field in ["top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"] {
        if fields.is_changed(field) {
            fields.differs(field, whole);
        } else {
            fields.elsewhere(field, whole);
        }
    }
    let variables = fields.value("chat_template_kwargs").clone();
    fields.becomes("chat_template_kwargs", "prompt.chat_template_kwargs");
    if !variables.is_null() {
        let variables = toml::Value::try_from(variables)
            .map_err(|_| fields.refused("chat_template_kwargs", "a table without null"))?;
        fields.set("prompt.chat_template_kwargs", variables);
    }
    Ok(())
}

fn advantage(fields: &mut Fields) -> Result<(), TrlError> {
    let scale: toml::Value = match fields.value("scale_rewards") {
        Value::Bool(true) => toml! { group = { eps = EPS } }.into(),
        Value::Bool(false) => "none".into(),
        Value::String(text) if text == "group" => toml! { group = { eps = EPS } }.into(),
        Value::String(text) if text == "batch" => toml! { batch = { eps = EPS } }.into(),
        Value::String(text) if text == "none" => "none".into(),
        _ => return Err(fields.refused("scale_rewards", "group, batch or none")),
    };
    let advantage = toml! { group_mean = { scale = scale } };
    fields.key("scale_rewards", "reinforce.advantage", advantage);
    let sum = "scores are summed by `[reward]` before they are compared";
    if fields.text("multi_objective_aggregation")? == "sum_then_normalize" {
        fields.elsewhere("multi_objective_aggregation", sum);
    } else {
        fields.differs("multi_objective_aggregation", sum);
    }
    Ok(())
}

fn clipped(fields: &Fields) -> Result<Table, TrlError> {
    let low = fields.number("epsilon")?;
    let high = fields.maybe_number("epsilon_high")?.unwrap_or(low);
    Ok(toml! { clipped = { low = low, high = high } })
}

fn surrogate_of(fields: &Fields, loss: &str) -> Result<Table, TrlError> {
    Ok(match loss {
        "grpo" | "dapo" | "dr_grpo" | "bnpo" => {
            let mut clipped = clipped(fields)?;
            // TRL's upper bound of the ratio for negative advantages is the bound of the dual clip.
            if let (Some(bound), Some(table)) =
                (fields.maybe_number("delta")?, clipped["clipped"].as_table_mut())
            {
                table.insert("dual_clip".to_owned(), bound.into());
            }
            clipped
        }
        "cispo" => {
            let most = fields.maybe_number("epsilon_high")?;
            let most = most.ok_or_else(|| fields.refused("epsilon_high", "a number, for cispo"))?;
            toml! { truncated = { most = most } }
        }
        "sapo" => {
            let positive = fields.number("sapo_temperature_pos")?;
            let negative = fields.number("sapo_temperature_neg")?;
            toml! { soft_gate = { positive = positive, negative = negative } }
        }
        "vespo" => {
            let pair = |k, lambda| -> Result<Vec<f64>, TrlError> {
                Ok(vec![fields.number(k)?, fields.number(lambda)?])
            };
            let positive = pair("vespo_k_pos", "vespo_lambda_pos")?;
            let negative = pair("vespo_k_neg", "vespo_lambda_neg")?;
            toml! { gamma = { positive = positive, negative = negative } }
        }
        _ => {
            let expected = "grpo, dapo, dr_grpo, bnpo, cispo, sapo or vespo";
            return Err(fields.refused("loss_type", expected));
        }
    })
}

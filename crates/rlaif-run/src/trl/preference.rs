//! `DPOConfig` and `KTOConfig`.

use serde_json::Value;
use toml::{Table, toml};

use super::{
    TrlError,
    fields::Fields,
    supervised::{max_length, shared},
    training::{Section, dropout, router},
};

pub(super) fn import_dpo(fields: &mut Fields) -> Result<(), TrlError> {
    both(fields)?;
    let (types, weights) = (fields.list("loss_type"), fields.list("loss_weights"));
    if !weights.is_empty() && weights.len() != types.len() {
        return Err(fields.refused("loss_weights", "as many weights as losses"));
    }
    let mut terms = Vec::new();
    for (at, kind) in types.iter().enumerate() {
        let mut term = term(fields, kind)?;
        if let Some(weight) = weights.get(at) {
            let weight =
                weight.as_f64().ok_or_else(|| fields.refused("loss_weights", "numbers"))?;
            term.insert("weight".to_owned(), weight.into());
        }
        terms.push(toml::Value::Table(term));
    }
    let path = "dpo.objective.pairs.terms";
    fields.key("loss_type", path, terms);
    for field in ["loss_weights", "beta", "label_smoothing", "discopop_tau"] {
        fields.becomes(field, path);
    }
    divergence(fields)?;
    if let Some(weight) = fields.maybe_number("ld_alpha")? {
        fields.set("dpo.objective.pairs.tail_weight", weight);
    }
    fields.becomes("ld_alpha", "dpo.objective.pairs.tail_weight");
    if fields.flag("use_weighting")? {
        fields.set("dpo.objective.pairs.weighting", "wpo");
    }
    fields.becomes("use_weighting", "dpo.objective.pairs.weighting");
    let truncation = "a prompt loses its beginning before a response loses its end";
    if fields.text("truncation_mode")? == "keep_end" {
        fields.differs("truncation_mode", truncation);
    } else {
        fields.elsewhere("truncation_mode", truncation);
    }
    fields.elsewhere("padding_free", "decoder-only models compute pairs without padding");
    Ok(())
}

/// One loss, with the parameters that it reads.
fn term(fields: &Fields, kind: &Value) -> Result<Table, TrlError> {
    let (beta, smoothing) = (fields.number("beta")?, fields.number("label_smoothing")?);
    let of = |name: &str| toml! { type = name beta = beta };
    let smoothed = |name: &str| toml! { type = name beta = beta label_smoothing = smoothing };
    Ok(match kind.as_str().unwrap_or_default() {
        name @ ("sigmoid" | "robust" | "exo_pair" | "sigmoid_norm" | "aot" | "aot_unpaired") => {
            smoothed(name)
        }
        name @ ("hinge" | "nca_pair" | "sppo_hard" | "apo_zero" | "apo_down") => of(name),
        "ipo" => toml! { type = "ipo" beta = beta lengths = "averaged" },
        "bco_pair" => toml! { type = "bco_pair" beta = beta shift = "none" },
        "discopop" => {
            let tau = fields.number("discopop_tau")?;
            toml! { type = "discopop" beta = beta tau = tau }
        }
        "sft" => toml! { type = "nll" },
        _ => {
            let expected = "losses of TRL 1.16, such as sigmoid, ipo or apo_zero";
            return Err(fields.refused("loss_type", expected));
        }
    })
}

fn divergence(fields: &mut Fields) -> Result<(), TrlError> {
    let path = "dpo.objective.pairs.divergence";
    let divergence = match fields.text("f_divergence_type")?.as_str() {
        "reverse_kl" => toml! { type = "reverse_kl" },
        "forward_kl" => toml! { type = "forward_kl" },
        "js_divergence" => toml! { type = "jensen_shannon" },
        "alpha_divergence" => {
            let alpha = fields.number("f_alpha_divergence_coef")?;
            toml! { type = "alpha" alpha = alpha }
        }
        _ => {
            let expected = "reverse_kl, forward_kl, js_divergence or alpha_divergence";
            return Err(fields.refused("f_divergence_type", expected));
        }
    };
    fields.key("f_divergence_type", path, divergence);
    fields.becomes("f_alpha_divergence_coef", path);
    Ok(())
}

pub(super) fn import_kto(fields: &mut Fields) -> Result<(), TrlError> {
    both(fields)?;
    let beta = fields.number("beta")?;
    let (desirable, undesirable) =
        (fields.number("desirable_weight")?, fields.number("undesirable_weight")?);
    let loss = match fields.text("loss_type")?.as_str() {
        "kto" => toml! {
            type = "kto"
            beta = beta
            desirable_weight = desirable
            undesirable_weight = undesirable
        },
        "apo_zero_unpaired" => toml! { type = "apo_zero" beta = beta },
        _ => return Err(fields.refused("loss_type", "kto or apo_zero_unpaired")),
    };
    let path = "dpo.objective.unpaired";
    fields.key("loss_type", path, loss);
    for field in ["beta", "desirable_weight", "undesirable_weight"] {
        fields.becomes(field, path);
    }
    Ok(())
}

/// The fields that both configurations have.
fn both(fields: &mut Fields) -> Result<(), TrlError> {
    shared(fields, Section::Dpo)?;
    dropout(fields, Section::Dpo)?;
    max_length(fields, "data.max_tokens")?;
    if fields.flag("sync_ref_model")? {
        let (every, mixup) = (
            fields.count("ref_model_sync_steps", 1)? as i64,
            fields.number("ref_model_mixup_alpha")?,
        );
        let update = toml! { every = every mixup = mixup };
        fields.set("dpo.reference.type", "live");
        fields.set("dpo.reference.update", update);
    } else {
        fields.set("dpo.reference.type", "cached");
    }
    for field in ["sync_ref_model", "ref_model_sync_steps", "ref_model_mixup_alpha"] {
        fields.becomes(field, "dpo.reference");
    }
    let cached = "the reference's log-probabilities are always computed once, if it does not move";
    fields.elsewhere("precompute_ref_log_probs", cached);
    fields.elsewhere("precompute_ref_batch_size", cached);
    router(fields, Section::Dpo)
}

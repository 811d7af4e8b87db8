//! `SFTConfig` and `RewardConfig`.

use super::{
    TrlError,
    fields::Fields,
    training::{Section, batch, dropout, length, marks, model, optimizer, router, run},
};

/// Reads the fields that the trainers of fixed rows share.
pub(super) fn shared(fields: &mut Fields, section: Section) -> Result<(), TrlError> {
    model(fields, "dtype")?;
    fields.needs("data.train", "a file of rows; a dataset of the hub is downloaded first");
    fields.elsewhere("dataset_name", "`data.train`, a file");
    batch(fields, section)?;
    let steps = length(fields)?;
    optimizer(fields, section, steps)?;
    marks(fields, section)?;
    run(fields, section)
}

/// Maximum number of tokens of a row. Without one, TRL truncates nothing, and rlaif at the model's context.
pub(super) fn max_length(fields: &mut Fields, key: &str) -> Result<(), TrlError> {
    const CONTEXT: i64 = 1 << 20;
    let most = match fields.value("max_length").is_null() {
        true => CONTEXT,
        false => fields.count("max_length", 1)? as i64,
    };
    fields.key("max_length", key, most);
    Ok(())
}

pub(super) fn import_sft(fields: &mut Fields) -> Result<(), TrlError> {
    shared(fields, Section::Learn)?;
    max_length(fields, "data.max_tokens")?;
    if fields.text("truncation_mode")? == "keep_start" {
        fields.elsewhere("truncation_mode", "rows are truncated at the end");
    } else {
        fields.differs("truncation_mode", "rows are truncated at the end");
    }
    let column = fields.text("dataset_text_field")?;
    fields.key("dataset_text_field", "columns.text", column);
    let free = fields.flag("padding_free")?;
    if free {
        fields.set("learn.batching", "packed");
    }
    fields.becomes("padding_free", "learn.batching");
    if fields.flag("packing")? {
        let difference = "rows are not joined to blocks of `max_length`, so a step has `train.batch_size` rows; \
                          `learn.batching = \"packed\"` computes them without padding";
        fields.set("learn.batching", "packed");
        fields.differs("packing", difference);
    } else {
        fields.becomes("packing", "learn.batching");
    }
    match fields.text("loss_type")?.as_str() {
        "nll" | "chunked_nll" => fields.elsewhere("loss_type", "always the likelihood"),
        other => {
            let difference = format!("{other} is not supported; the loss is the likelihood");
            fields.differs("loss_type", difference);
        }
    }
    let responses = "the loss is that of responses, and of the whole row where it is one text";
    if fields.value("completion_only_loss") == false {
        fields.differs("completion_only_loss", responses);
    } else {
        fields.elsewhere("completion_only_loss", responses);
    }
    let turns = "conversations are learned at the assistant's turns, TRL's at all turns";
    if fields.flag("assistant_only_loss")? {
        fields.elsewhere("assistant_only_loss", turns);
    } else {
        fields.differs("assistant_only_loss", turns);
    }
    router(fields, Section::Learn)?;
    fields.set("learn.dropout", "on");
    Ok(())
}

pub(super) fn import_reward(fields: &mut Fields) -> Result<(), TrlError> {
    shared(fields, Section::Learn)?;
    dropout(fields, Section::Learn)?;
    max_length(fields, "data.max_tokens")?;
    let centring = fields.maybe_number("center_rewards_coefficient")?;
    fields.key("center_rewards_coefficient", "centring_coef", centring.unwrap_or(0.));
    Ok(())
}

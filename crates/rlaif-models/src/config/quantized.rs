//! Weights that a method of quantization has replaced, which are refused unless they can be read.

use rlaif_checkpoint::Checkpoint;
use serde_json::Value;

use super::Config;
use crate::error::ModelError;

impl Config {
    /// Refuses weights that a method of quantization has replaced by others, as config.json says, or a file
    /// beside it.
    pub(crate) fn check_weights(&self) -> Result<(), ModelError> {
        let section = ["quantization_config", "compression_config"]
            .into_iter()
            .find_map(|field| self.fields.get(field).filter(|value| !value.is_null()));
        let Some(section) = section else { return self.check_beside() };
        let text = |field: &str| section.get(field).and_then(Value::as_str);
        let on = |field: &str| section.get(field) == Some(&Value::Bool(true));
        let method = match text("quant_method").or_else(|| text("quant_type")) {
            Some(method) => method,
            // bitsandbytes in files of before `quant_method`.
            None if on("load_in_4bit") || on("load_in_8bit") => "bitsandbytes",
            None => "a method that it does not name",
        };
        let four = text("bnb_4bit_quant_type").unwrap_or("fp4");
        let method = match method {
            "bitsandbytes" if on("load_in_8bit") || on("_load_in_8bit") => return Ok(()),
            "bitsandbytes" if four == "nf4" => return Ok(()),
            "bitsandbytes" => format!("bitsandbytes' {four}"),
            other => other.to_owned(),
        };
        Err(ModelError::Quantized { file: self.path.clone(), method })
    }

    /// The files in which older tools describe their quantization.
    fn check_beside(&self) -> Result<(), ModelError> {
        const FILES: [(&str, &str); 3] = [
            ("quantize_config.json", "GPTQ"),
            ("quant_config.json", "AWQ"),
            ("hf_quant_config.json", "ModelOpt"),
        ];
        let beside =
            |(name, method): (&str, &str)| (self.path.with_file_name(name), method.to_owned());
        match FILES.into_iter().map(beside).find(|(file, _)| file.is_file()) {
            Some((file, method)) => Err(ModelError::Quantized { file, method }),
            None => Ok(()),
        }
    }
}

/// Refuses a checkpoint whose tensors have names of quantized weights, although no file says so.
pub(crate) fn check_names(checkpoint: &Checkpoint) -> Result<(), ModelError> {
    const ENDINGS: [(&str, &str); 3] = [
        (".qweight", "GPTQ or AWQ"),
        (".quant_state.bitsandbytes__fp4", "bitsandbytes' fp4"),
        ("_proj_blocks", "MXFP4"),
    ];
    let names = || checkpoint.tensors().keys();
    match ENDINGS.into_iter().find(|(ending, _)| names().any(|name| name.ends_with(ending))) {
        Some((_, method)) => Err(ModelError::Quantized {
            file: checkpoint.origin().to_owned(),
            method: method.to_owned(),
        }),
        None => Ok(()),
    }
}

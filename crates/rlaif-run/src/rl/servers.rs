//! Sampling on servers.

use std::path::Path;

use rlaif_core::{BadSetting, TextCodec};
use rlaif_engine::{VllmConfig, VllmSampler};
use rlaif_lm::Policy;
use rlaif_models::{LanguageModel, WeightsWriter};

use crate::{error::RunError, model::ModelSection};

/// The name of the folder of weights in a run's folder.
const FOLDER: &str = "sampler";

/// The sampler over the servers of a run file, and a sentence about it. The weights of the policy pass through the run's
/// folder if the run file names no other.
pub(crate) fn servers<'a>(
    config: Option<&VllmConfig>,
    policy: &mut LanguageModel,
    codec: &'a dyn TextCodec,
    (model, folder): (&ModelSection, &Path),
) -> Result<Option<(VllmSampler<'a>, String)>, RunError> {
    let Some(config) = config else { return Ok(None) };
    let tokenizer = model.files()?.folder;
    let writer = WeightsWriter::new(policy, Some(&tokenizer))?;
    if writer.adapter().is_some()
        && let Some(weights) = policy.parameters().trained_base()
    {
        let found = format!("given, while `{weights}` is trained beside an adapter");
        let expected = "used with an adapter alone, or without one: servers load one or the other";
        return Err(BadSetting::new("vllm", found, expected).into());
    }
    let weights = match writer.adapter() {
        Some(_) => "an adapter",
        None => "whole weights",
    };
    let told = format!(
        "responses are sampled by vLLM at {}, to which {weights} go",
        config.urls.join(", ")
    );
    let spec = policy.spec().clone();
    let environment = |name: &str| std::env::var(name).ok();
    let place = folder.join(FOLDER);
    let sampler =
        VllmSampler::connect(config.clone(), (&spec, writer), codec, &place, &environment)
            .map_err(|error| RunError::from(error).within("vllm"))?;
    Ok(Some((sampler, told)))
}

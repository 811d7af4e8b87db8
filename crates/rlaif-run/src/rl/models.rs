//! The policy of a run, its reference, and models that read the policy's ids.

use rlaif_lm::{Policy, Reference};
use rlaif_models::{LanguageModel, LoadOptions, ModelFiles, ModelNames, PolicySetup};
use rlaif_train::Trainable;

use crate::{
    error::RunError,
    fetch::{FetchError, model_files},
    model::ModelSection,
    vocabulary::{same_vocabulary, tokenizer_if_present},
};

/// Loads the policy and its reference: a model of its own, a copy of the policy, or with LoRA the
/// policy without its adapter. Fresh weights are drawn from libtorch's generator.
pub(crate) fn policy_and_reference(
    model: &ModelSection,
    trainable: &Trainable,
    reference: Option<&String>,
    options: LoadOptions,
) -> Result<(LanguageModel, Reference), RunError> {
    let use_ = ("the reference reads the ids of the policy", "name one of the policy's vocabulary");
    check_vocabulary(model, reference, use_)?;
    let reference = reference.map(files_of).transpose()?;
    let setup = PolicySetup { reference, ..model.setup(options)? };
    let policy = model.language_model(options)?;
    trainable.select(policy.parameters())?;
    let reference = match setup.reference_of(policy.parameters())? {
        Some(reference) => Reference::Frozen(Box::new(reference)),
        None => Reference::AdaptersOff,
    };
    Ok((policy, reference))
}

/// Refuses another model that reads the policy's ids as other tokens; `use_` has its use of them, and
/// the way out.
pub(crate) fn check_vocabulary(
    model: &ModelSection,
    other: Option<&String>,
    use_: (&'static str, &'static str),
) -> Result<(), RunError> {
    let Some(other) = other else { return Ok(()) };
    let policy = tokenizer_if_present(&model.files()?)?;
    let others = tokenizer_if_present(&files_of(other)?)?;
    let (Some(policy), Some(others)) = (policy, others) else { return Ok(()) };
    let policy = (model.path.as_str(), &policy);
    Ok(same_vocabulary(policy, (other.as_str(), &others), use_)?)
}

/// The files of a reference or of a value function: a model's, or an adapter's and its base's.
pub(crate) fn files_of(location: impl AsRef<str>) -> Result<ModelFiles, FetchError> {
    model_files(&ModelNames { model: location.as_ref(), ..ModelNames::default() })
}

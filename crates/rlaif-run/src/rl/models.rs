//! The policy of a run, its reference, and models that share the policy's vocabulary.

use rlaif_core::say;
use rlaif_lm::{Policy, Reference};
use rlaif_models::{LanguageModel, LoadOptions, ModelFiles, ModelNames, PolicySetup};
use rlaif_train::Trainable;

use crate::{
    error::RunError,
    fetch::{FetchError, model_files},
    model::ModelSection,
    vocabulary::{same_vocabulary, tokenizer_if_present},
};

/// Loads the policy. New weights are drawn from libtorch's generator.
pub(crate) fn policy(
    model: &ModelSection,
    trainable: &Trainable,
    options: LoadOptions,
) -> Result<LanguageModel, RunError> {
    let policy = model.language_model(options)?;
    trainable.select(policy.parameters())?;
    Ok(policy)
}

/// Loads the policy and its reference: another model, a copy of the policy, or with LoRA the policy
/// without its adapter. New weights are drawn from libtorch's generator.
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
    let policy = policy(model, trainable, options)?;
    let reference = setup.reference_of(policy.parameters())?;
    Ok((policy, reference))
}

/// Refuses another model whose token ids differ from the policy's; `use_` has the model's purpose,
/// and the remedy.
pub(crate) fn check_vocabulary(
    model: &ModelSection,
    other: Option<&String>,
    use_: (&'static str, &'static str),
) -> Result<(), RunError> {
    let Some(other) = other else { return Ok(()) };
    let policy = tokenizer_if_present(&model.files()?)?;
    let others = tokenizer_if_present(&files_of(other)?)?;
    let (Some(policy), Some(others)) = (&policy, &others) else {
        let without = if policy.is_none() { &model.path } else { other };
        say(format_args!(
            "{without} has no tokenizer, so the vocabularies of {} and {other} are not compared: {}",
            model.path, use_.0
        ));
        return Ok(());
    };
    let policy = (model.path.as_str(), policy);
    Ok(same_vocabulary(policy, (other.as_str(), others), use_)?)
}

/// The files of a reference or of a value function: those of a model, or of an adapter and its
/// base.
pub(crate) fn files_of(location: impl AsRef<str>) -> Result<ModelFiles, FetchError> {
    model_files(&ModelNames { model: location.as_ref(), ..ModelNames::default() })
}

//! Calls of a combinator's members, and their states.

use rlaif_core::{BadSetting, Exchange, RewardError, RewardModel, Score, Scores};

use crate::ProviderError;

/// Scores of a member, after a check of their number.
pub(super) fn checked(
    model: &dyn RewardModel,
    batch: &[Exchange<'_>],
) -> Result<Scores, RewardError> {
    model.score(batch)?.check(model.name(), batch.len())
}

pub(super) fn finite(value: f32, model: &str, row: usize) -> Result<Score, RewardError> {
    Score::new(value).map_err(|source| RewardError::non_finite(model, row, source))
}

pub(super) fn finite_setting(setting: &'static str, value: f32) -> Result<f32, ProviderError> {
    if value.is_finite() {
        return Ok(value);
    }
    Err(ProviderError::Setting(BadSetting::new(setting, value, "a finite number")))
}

/// The states of several members: an array in their order, or null if none has a state.
pub(super) fn joined_state<'a>(
    members: impl IntoIterator<Item = &'a dyn RewardModel>,
) -> serde_json::Value {
    let states: Vec<_> = members.into_iter().map(RewardModel::state).collect();
    if states.iter().all(serde_json::Value::is_null) {
        return serde_json::Value::Null;
    }
    serde_json::Value::Array(states)
}

/// The inverse of [`joined_state`].
pub(super) fn restore_joined(
    name: &str,
    members: &[&dyn RewardModel],
    state: &serde_json::Value,
) -> Result<(), RewardError> {
    if state.is_null() {
        return members.iter().try_for_each(|member| member.restore(state));
    }
    let found = state.as_array().filter(|states| states.len() == members.len());
    let Some(states) = found else {
        return Err(RewardError::State {
            model: name.to_owned(),
            expected: format!("a list of {} states, one per part", members.len()),
            found: state.to_string(),
        });
    };
    members.iter().zip(states).try_for_each(|(member, state)| member.restore(state))
}

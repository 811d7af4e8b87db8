//! The settings that advice may name.

/// Keys of settings that only some algorithms have, relative to their section of a run file. Advice
/// names only these keys and those that every algorithm has: `generation`, `optimizer`, `epochs` and
/// `minibatch_size`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AdviceKeys {
    /// The KL penalty's coefficient.
    pub kl_coef: Option<&'static str>,
    /// The estimator of the KL.
    pub kl_estimator: Option<&'static str>,
    /// The weight of the entropy bonus.
    pub entropy_coef: Option<&'static str>,
    /// The weight of the value loss.
    pub value_coef: Option<&'static str>,
    /// The KL at which an update ends.
    pub update_limit: Option<&'static str>,
    /// The penalty of a response without an end of sequence.
    pub missing_eos_penalty: Option<&'static str>,
    /// The bound of scores.
    pub score_clip: Option<&'static str>,
    /// The metric that ends a run.
    pub stop: Option<&'static str>,
}

impl AdviceKeys {
    /// The keys of [`crate::ScoreConfig`] and [`crate::StopConfig`], in the sections `scores` and `stop`.
    pub const SCORES_AND_STOP: Self = Self {
        kl_coef: None,
        kl_estimator: None,
        entropy_coef: None,
        value_coef: None,
        update_limit: None,
        missing_eos_penalty: Some("scores.missing_eos_penalty"),
        score_clip: Some("scores.clip"),
        stop: Some("stop.metric"),
    };
}

/// The remedies that an algorithm has, as `a, b or c`.
pub(super) fn listed(ways: impl IntoIterator<Item = Option<String>>) -> String {
    let mut ways: Vec<String> = ways.into_iter().flatten().collect();
    match (ways.pop(), ways.is_empty()) {
        (None, _) => String::new(),
        (Some(only), true) => only,
        (Some(last), false) => format!("{} or {last}", ways.join(", ")),
    }
}

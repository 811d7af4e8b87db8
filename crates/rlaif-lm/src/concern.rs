//! Settings of generation that harm training on the responses.

/// A setting of generation that does harm in a rollout: [`RolloutConcern::setting`] is its name,
/// and the message gives the reason.
///
/// Policy gradients compare log-probabilities of the sampled tokens under the old and the new
/// policy. Both are taken from the whole softmax, so the tokens must have been drawn from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutConcern {
    /// Refused: greedy responses.
    #[error(
        "is greedy: nothing is explored, and the responses are not a sample of the policy; use \
         the method `sample`"
    )]
    Greedy,
    /// Refused: a cut distribution.
    #[error(
        "cuts tokens off before the draw, but log-probabilities are taken from the whole softmax: \
         the ratio of new to old policy is then wrong by the mass that was kept; leave it out"
    )]
    Truncated {
        /// `sampling.top_k`, `sampling.top_p` or `sampling.min_p`.
        setting: &'static str,
    },
    /// Refused: repetition penalty.
    #[error(
        "changes the distribution that tokens are drawn from, but not the one whose \
         log-probabilities are compared; set it to 1, and penalise repetition in the reward"
    )]
    RepetitionPenalty,
    /// Refused: forbidden tokens.
    #[error(
        "forbids tokens in the draw, but not in the log-probabilities that are compared; leave it \
         empty, and penalise them in the reward"
    )]
    ForbiddenTokens,
    /// Refused: only the limit ends a response, and that was not asked for.
    #[error(
        "is empty, and the policy's config.json names no end of sequence that the vocabulary has, \
         so that only `max_new_tokens` ends a response: name the ids that end one, or set `eos` \
         to `ignored` for responses of full length"
    )]
    Endless,
    /// A warning: end of sequence suppressed.
    #[error(
        "is {min}: before that the end of sequence is never drawn however probable it is, which \
         makes the KL negative and rewards the policy for it; set it to 0, or use \
         `eos = \"ignored\"` for responses of a fixed length"
    )]
    LeastLength {
        /// The setting.
        min: usize,
    },
    /// A warning: the model's generation settings prescribe a token.
    #[error(
        "is {id}: generation puts this token into the response however probable it is, and training treats \
         it as if it had been drawn; delete the key to let the policy choose"
    )]
    Forced {
        /// The key of generation_config.json, or of config.json in its absence.
        key: &'static str,
        /// The token.
        id: u32,
    },
    /// A warning: the pad id ends responses.
    #[error(
        "is {pad}, which is an end-of-sequence id as well. rlaif does not find the end of a \
         response by it, but programs that do will not train the end of sequence; give the model \
         another pad id"
    )]
    PadEndsSequence {
        /// The pad id.
        pad: u32,
    },
}

impl RolloutConcern {
    /// The setting by its path in [`crate::generate::GenerationConfig`]; `pad_token_id` and forced ids are the
    /// model's.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Greedy => "sampling",
            Self::Truncated { setting } => setting,
            Self::RepetitionPenalty => "repetition_penalty",
            Self::ForbiddenTokens => "bad_ids",
            Self::Endless => "stop_ids",
            Self::LeastLength { .. } => "min_new_tokens",
            Self::Forced { key, .. } => key,
            Self::PadEndsSequence { .. } => "pad_token_id",
        }
    }

    /// `true` if the setting is refused; the others are warnings.
    pub fn is_refused(&self) -> bool {
        !matches!(
            self,
            Self::PadEndsSequence { .. } | Self::LeastLength { .. } | Self::Forced { .. }
        )
    }
}

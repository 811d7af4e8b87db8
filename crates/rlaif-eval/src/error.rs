use std::path::PathBuf;

use rlaif_core::{BadSetting, Fault, FileAction, RewardError, Seed};

/// Errors of measuring, comparing and writing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// An interval or a test needs more values than were given.
    #[error("{what}: {found} given, at least {needed} are needed; evaluate on more prompts")]
    TooFew {
        /// The quantity to compute, and its input.
        what: String,
        /// The minimum.
        needed: usize,
        /// The number given.
        found: usize,
    },
    /// Two lists that belong together differ in length.
    #[error("{what}: expected {expected} values, one for each row, found {found}")]
    Count {
        /// The list.
        what: String,
        /// The expected number.
        expected: usize,
        /// The number given.
        found: usize,
    },
    /// NaN or infinity where a number belongs.
    #[error(
        "metric `{metric}` gave {value} for prompt `{id}`; every score must be a finite number, \
         or absent"
    )]
    NotFinite {
        /// The metric.
        metric: String,
        /// The prompt's id, or the row if it has none.
        id: String,
        /// The value that the metric returned.
        value: f64,
    },
    /// A response without a score.
    #[error(
        "metric `{metric}` has no score for a response to prompt `{id}` ({reason}); score it \
         again, or leave such prompts out on both sides (`missing = \"drop_prompt\"`, in code \
         `Missing::DropPrompt`)"
    )]
    MissingScore {
        /// The metric.
        metric: String,
        /// The prompt's id.
        id: String,
        /// The metric's reason.
        reason: String,
    },
    /// A metric that compares with a reference response met a prompt without one.
    #[error(
        "metric `{metric}` compares with a reference response, and row {row} has none; evaluate \
         on prompts that carry `reference`, or leave the metric out"
    )]
    NoReference {
        /// The metric.
        metric: String,
        /// Row of the batch, from 0.
        row: usize,
    },
    /// The two policies answered different prompts.
    #[error(
        "before and after answer different prompts: {only_before} only before (first: {first_before:?}), \
         {only_after} only after (first: {first_after:?}); generate both from the same held-out prompts"
    )]
    PromptsDiffer {
        /// Number of ids that only the baseline has.
        only_before: usize,
        /// The first id that only the baseline has.
        first_before: Option<String>,
        /// Number of ids that only the tuned policy has.
        only_after: usize,
        /// The first id that only the tuned policy has.
        first_after: Option<String>,
    },
    /// One id, two texts.
    #[error(
        "prompt `{id}` reads differently before and after, from character {at} on; generate both \
         from the same file with the same template"
    )]
    PromptTextDiffers {
        /// The id.
        id: String,
        /// The first character that differs, from 0.
        at: usize,
    },
    /// Not the same number of responses to a prompt on both sides.
    #[error(
        "prompt `{id}` has {before} responses before and {after} after; sample the same number \
         on both sides"
    )]
    ResponsesDiffer {
        /// The id.
        id: String,
        /// Responses of the baseline.
        before: usize,
        /// Responses of the tuned policy.
        after: usize,
    },
    /// The two sides were sampled from different seeds.
    #[error(
        "before was sampled with seed {} and after with seed {}; generate both with the same \
         seed, so that chance is the same on both sides", before.get(), after.get()
    )]
    SeedsDiffer {
        /// The baseline's.
        before: Seed,
        /// The tuned policy's.
        after: Seed,
    },
    /// No metric of that name.
    #[error("no metric is called `{name}`; the metrics are {known}")]
    UnknownMetric {
        /// The requested name.
        name: String,
        /// The existing names.
        known: String,
    },
    /// Two metrics of one name.
    #[error("two metrics are called `{name}`; give one of them another name")]
    DuplicateMetric {
        /// The name.
        name: String,
    },
    /// The two sides were measured differently.
    #[error(
        "`{metric}` was not measured in the same way before and after ({what}); measure both with \
         the same metrics"
    )]
    MetricsDiffer {
        /// The metric.
        metric: String,
        /// The difference.
        what: &'static str,
    },
    /// A setting outside its range.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// Length alone separates wins from losses, or all lengths are equal: no finite fit exists.
    #[error(
        "the length-controlled win rate has no finite fit on {n} pairs: {why}; it needs wins and \
         losses both above and below equal length"
    )]
    NoFit {
        /// Number of pairs.
        n: usize,
        /// The reason.
        why: &'static str,
    },
    /// A reward model failed.
    #[error("metric `{metric}`: {source}")]
    Reward {
        /// The metric.
        metric: String,
        /// The reward model's error.
        #[source]
        source: RewardError,
    },
    /// A metric of the user's own failed.
    #[error("metric `{metric}` failed: {source}")]
    Metric {
        /// The metric.
        metric: String,
        /// The metric's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation.
        action: FileAction,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// Another process adds to a file of measured values.
    #[error(
        "{} is in use by another process; wait for its end, or choose another folder", path.display()
    )]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{}, line {line}: {source}; expected {expected}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The expected content.
        expected: &'static str,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// A report of a version that this program does not know.
    #[error(
        "{} is a report of version {found}, and this program reads version {expected}; write it \
         again with `rlaif eval`", path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version this program reads.
        expected: u32,
        /// The version of the file.
        found: u32,
    },
}

impl Fault for EvalError {
    fn is_users(&self) -> bool {
        match self {
            Self::Io { action, source, .. } => action.is_users(source),
            // Prompts, responses and settings that do not fit each other.
            Self::TooFew { .. }
            | Self::MissingScore { .. }
            | Self::NoReference { .. }
            | Self::PromptsDiffer { .. }
            | Self::PromptTextDiffers { .. }
            | Self::ResponsesDiffer { .. }
            | Self::SeedsDiffer { .. }
            | Self::UnknownMetric { .. }
            | Self::DuplicateMetric { .. }
            | Self::MetricsDiffer { .. }
            | Self::NoFit { .. }
            | Self::Format { .. }
            | Self::Version { .. } => true,
            Self::Setting(error) => error.is_users(),
            // A metric that breaks its contract.
            Self::Count { .. } | Self::NotFinite { .. } => false,
            Self::Reward { source, .. } => source.is_users(),
            Self::Metric { .. } => false,
            // The same command succeeds when the other process has ended.
            Self::Busy { .. } => false,
        }
    }
}

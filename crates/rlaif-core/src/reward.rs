//! Reward models: what gives a response its score.

use crate::record::Exchange;

/// The verdict on a whole response. Finite by construction.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Score(f32);

/// A number that cannot be a score: NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("a score is a finite number, this one is {0}")]
pub struct NonFinite(pub f32);

impl Score {
    /// A score of `value`.
    ///
    /// # Errors
    /// [`NonFinite`] for NaN and the infinities.
    ///
    /// ```
    /// use rlaif_core::Score;
    /// assert_eq!(Score::new(4.5)?.get(), 4.5);
    /// assert!(Score::new(f32::NAN).is_err());
    /// # Ok::<(), rlaif_core::NonFinite>(())
    /// ```
    pub fn new(value: f32) -> Result<Self, NonFinite> {
        if value.is_finite() { Ok(Self(value)) } else { Err(NonFinite(value)) }
    }

    /// The number.
    pub fn get(self) -> f32 {
        self.0
    }
}

/// The verdicts on a batch, in its order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scores {
    /// One per row. `None`: no verdict, an unparsable judge for one; what follows is the
    /// trainer's configuration.
    pub total: Vec<Option<Score>>,
    /// What the total is made of, by name; each column is as long as `total`.
    pub parts: Vec<(String, Vec<Option<Score>>)>,
    /// Why a row has no verdict, by row.
    pub reasons: Vec<(usize, String)>,
}

impl Scores {
    /// Scores without parts.
    pub fn new(total: Vec<Option<Score>>) -> Self {
        Self { total, ..Self::default() }
    }

    /// A score for every row.
    ///
    /// # Errors
    /// [`RewardError::NonFinite`] names the row of the first number that is not finite.
    pub fn from_values(model: &str, values: &[f32]) -> Result<Self, RewardError> {
        let total = values.iter().enumerate().map(|(row, &value)| match Score::new(value) {
            Ok(score) => Ok(Some(score)),
            Err(source) => Err(RewardError::NonFinite { model: model.to_owned(), row, source }),
        });
        Ok(Self::new(total.collect::<Result<_, _>>()?))
    }

    /// Checks that there is one verdict, or none, for each of `rows` rows, in every column.
    ///
    /// # Errors
    /// [`RewardError::Count`].
    pub fn check(self, model: &str, rows: usize) -> Result<Self, RewardError> {
        let columns = self.parts.iter().map(|(name, part)| (name.as_str(), part.len()));
        for (column, found) in columns.chain([("total", self.total.len())]) {
            if found != rows {
                return Err(RewardError::Count {
                    model: model.to_owned(),
                    column: column.to_owned(),
                    expected: rows,
                    found,
                });
            }
        }
        Ok(self)
    }
}

/// Why a batch could not be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// One verdict per row was expected.
    #[error(
        "reward `{model}` gave {found} scores in `{column}` for {expected} responses; a reward \
         gives exactly one per response, in their order"
    )]
    Count {
        /// The reward model.
        model: String,
        /// `total`, or the part.
        column: String,
        /// Responses given.
        expected: usize,
        /// Scores returned.
        found: usize,
    },
    /// A score that is no number.
    #[error("reward `{model}`, response {row}: {source}")]
    NonFinite {
        /// The reward model.
        model: String,
        /// Row of the batch, from 0.
        row: usize,
        /// The number.
        #[source]
        source: NonFinite,
    },
    /// The reward model failed.
    #[error("reward `{model}` failed: {source}")]
    Failed {
        /// The reward model.
        model: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A checkpoint's state belongs to another reward model, or to another make-up of this one.
    #[error(
        "reward `{model}` cannot take up the state of the checkpoint: expected {expected}, found \
         {found}; configure the rewards as they were when the checkpoint was written"
    )]
    State {
        /// The reward model.
        model: String,
        /// What a state of this model is.
        expected: String,
        /// What the checkpoint has.
        found: String,
    },
}

/// Gives responses their scores: a classifier, a judge, a rule, or any function.
///
/// A closure over the batch is a reward model:
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// let brevity = |batch: &[Exchange<'_>]| -> Vec<f32> {
///     batch.iter().map(|x| -(x.response.len() as f32)).collect()
/// };
/// let batch = [Exchange::new("Say hello.", "Hi!")];
/// assert_eq!(brevity.score(&batch)?.total[0].unwrap().get(), -3.);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
///
/// `Send` and not `Sync`, because libtorch's tensors are.
pub trait RewardModel: Send {
    /// What logs, metrics and errors call it.
    fn name(&self) -> &str;

    /// One verdict, or none, for each exchange, in their order.
    ///
    /// # Errors
    /// [`RewardError`] when the batch as a whole could not be scored.
    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError>;

    /// What it has to say of itself for the run's metrics, since it was made: requests, tokens,
    /// cost, a running mean. Most have nothing.
    fn metrics(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// What a checkpoint must keep for scoring to go on as if it had never stopped; null for the
    /// many that remember nothing.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes up a state that [`RewardModel::state`] gave.
    ///
    /// # Errors
    /// [`RewardError::State`] when the state is not one of this model's.
    fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
        if state.is_null() {
            return Ok(());
        }
        Err(RewardError::State {
            model: self.name().to_owned(),
            expected: "no state".to_owned(),
            found: state.to_string(),
        })
    }
}

impl<F> RewardModel for F
where
    F: Fn(&[Exchange<'_>]) -> Vec<f32> + Send,
{
    fn name(&self) -> &'static str {
        "function"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        Scores::from_values("function", &self(batch))?.check("function", batch.len())
    }
}

impl RewardModel for Box<dyn RewardModel> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        (**self).score(batch)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        (**self).metrics()
    }

    fn state(&self) -> serde_json::Value {
        (**self).state()
    }

    fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
        (**self).restore(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closure_that_gives_too_few_scores_or_nan_is_an_error() {
        let batch = [Exchange::new("p", "a"), Exchange::new("p", "b")];
        let short = |_: &[Exchange<'_>]| vec![1.];
        let error = short.score(&batch).unwrap_err();
        assert!(matches!(error, RewardError::Count { expected: 2, found: 1, .. }), "{error}");
        let nan = |_: &[Exchange<'_>]| vec![0., f32::NAN];
        let error = nan.score(&batch).unwrap_err();
        assert!(matches!(error, RewardError::NonFinite { row: 1, .. }), "{error}");
    }

    #[test]
    fn a_reward_that_remembers_nothing_refuses_a_state() {
        let boxed: Box<dyn RewardModel> = Box::new(|batch: &[Exchange<'_>]| vec![2.; batch.len()]);
        assert!(boxed.state().is_null());
        boxed.restore(&serde_json::Value::Null).unwrap();
        let error = boxed.restore(&serde_json::json!({"mean": 1.})).unwrap_err();
        assert!(matches!(error, RewardError::State { .. }), "{error}");
    }

    #[test]
    fn a_boxed_reward_is_a_reward() {
        let boxed: Box<dyn RewardModel> = Box::new(|batch: &[Exchange<'_>]| vec![2.; batch.len()]);
        let scores = boxed.score(&[Exchange::new("p", "y")]).unwrap();
        assert_eq!(scores, Scores::new(vec![Some(Score(2.))]));
    }
}

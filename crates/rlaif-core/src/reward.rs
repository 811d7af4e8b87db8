//! Reward models: what gives a response its score.

use std::ops::ControlFlow;

use crate::{Interrupted, record::Exchange};

/// The verdict on a whole response. Finite by construction.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Score(f32);

/// A number that cannot be a score: NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("a score must be a finite number, found {0}")]
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
    /// Parts of the total, by name; each column is as long as `total`.
    pub parts: Vec<(String, Vec<Option<Score>>)>,
    /// Reasons for missing verdicts, by row.
    pub reasons: Vec<(usize, String)>,
    /// Verdicts on the steps of responses, by row, from a model that scores steps.
    pub steps: Vec<(usize, Vec<StepScore>)>,
}

/// The verdict on one step of a response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepScore {
    /// The end of the step, in bytes from the start of the response's text.
    pub end: usize,
    /// The verdict.
    pub score: Score,
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
            Err(source) => Err(RewardError::non_finite(model, row, source)),
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

    /// The verdicts on some rows of a batch of `n`, in their places in that batch: verdict i belongs
    /// to row `rows[i]`. All other rows have no verdict and no reason.
    ///
    /// # Panics
    /// As [`Scores::fill_from`].
    ///
    /// ```
    /// use rlaif_core::{Score, Scores};
    /// let of_two = Scores::from_values("r", &[1., 2.])?.scatter(&[3, 0], 4);
    /// let total: Vec<_> = of_two.total.iter().map(|score| score.map(Score::get)).collect();
    /// assert_eq!(total, [Some(2.), None, None, Some(1.)]);
    /// # Ok::<(), rlaif_core::RewardError>(())
    /// ```
    #[must_use]
    pub fn scatter(self, rows: &[usize], n: usize) -> Self {
        let mut all = Self::new(vec![None; n]);
        all.fill_from(self, rows);
        all
    }

    /// Puts another model's verdicts in their places: verdict i of `other` replaces that on row
    /// `rows[i]`, with its steps.
    ///
    /// Parts of the same name share a column, in which the rows of `other` have its numbers. A row
    /// that has a verdict now loses the reason why it had none; one that still has none keeps that
    /// reason, and the other's is added after a semicolon. A reason of `other` for a row beyond its
    /// last has no place here and is dropped.
    ///
    /// # Panics
    /// When there is not one of `rows` for each verdict of `other`, or a row is beyond the batch.
    /// [`Scores::check`] comes first for scores of any model.
    ///
    /// ```
    /// use rlaif_core::{Score, Scores};
    /// let mut scores = Scores::new(vec![Score::new(1.).ok(), None]);
    /// scores.reasons.push((1, "no number".to_owned()));
    /// scores.fill_from(Scores::new(vec![Score::new(0.5).ok()]), &[1]);
    /// assert_eq!(scores.total[1].map(Score::get), Some(0.5));
    /// assert!(scores.reasons.is_empty());
    /// ```
    pub fn fill_from(&mut self, other: Self, rows: &[usize]) {
        fill(&mut self.total, &other.total, rows);
        // The first column of a name goes into the first one of that name here, the second into the
        // second: no column is lost where a model gives a name twice.
        let mut filled = Vec::with_capacity(other.parts.len());
        for (name, column) in other.parts {
            let same = |at: &usize| self.parts[*at].0 == name && !filled.contains(at);
            let at = (0..self.parts.len()).find(same).unwrap_or_else(|| {
                self.parts.push((name.clone(), vec![None; self.total.len()]));
                self.parts.len() - 1
            });
            fill(&mut self.parts[at].1, &column, rows);
            filled.push(at);
        }
        let total = &self.total;
        self.reasons.retain(|(row, _)| {
            !(rows.contains(row) && total.get(*row).is_some_and(Option::is_some))
        });
        for (at, reason) in other.reasons {
            let Some(&row) = rows.get(at) else { continue };
            match self.reasons.iter_mut().find(|(known, _)| *known == row) {
                Some((_, known)) => *known = format!("{known}; {reason}"),
                None => self.reasons.push((row, reason)),
            }
        }
        self.reasons.sort_by_key(|(row, _)| *row);
        self.steps.retain(|(row, _)| !rows.contains(row));
        let steps = other.steps.into_iter();
        self.steps.extend(steps.filter_map(|(at, steps)| Some((*rows.get(at)?, steps))));
        self.steps.sort_by_key(|(row, _)| *row);
    }

    /// The verdicts on these rows, in this order; a row may be named several times.
    ///
    /// # Panics
    /// When a row is beyond the batch.
    ///
    /// ```
    /// use rlaif_core::{Score, Scores};
    /// let scores = Scores::from_values("r", &[1., 2.])?.gather(&[1, 0, 1]);
    /// let total: Vec<_> = scores.total.iter().flatten().map(|score| score.get()).collect();
    /// assert_eq!(total, [2., 1., 2.]);
    /// # Ok::<(), rlaif_core::RewardError>(())
    /// ```
    #[must_use]
    pub fn gather(&self, rows: &[usize]) -> Self {
        let pick = |column: &[Option<Score>]| rows.iter().map(|&row| column[row]).collect();
        let (mut reasons, mut steps) = (Vec::new(), Vec::new());
        for (at, row) in rows.iter().enumerate() {
            let of_row = self.reasons.iter().filter(|(known, _)| known == row);
            reasons.extend(of_row.map(|(_, reason)| (at, reason.clone())));
            let of_row = self.steps.iter().filter(|(known, _)| known == row);
            steps.extend(of_row.map(|(_, of_row)| (at, of_row.clone())));
        }
        Self {
            total: pick(&self.total),
            parts: self.parts.iter().map(|(name, part)| (name.clone(), pick(part))).collect(),
            reasons,
            steps,
        }
    }
}

fn fill(column: &mut [Option<Score>], with: &[Option<Score>], rows: &[usize]) {
    assert_eq!(with.len(), rows.len(), "one row for each verdict");
    for (&row, score) in rows.iter().zip(with) {
        column[row] = *score;
    }
}

impl RewardError {
    /// Fails once the user has asked for the end.
    ///
    /// # Errors
    /// [`RewardError::Interrupted`] of the reward model of this name.
    pub fn if_interrupted(model: &str) -> Result<(), Self> {
        Interrupted::check().map_err(|source| Self::Interrupted { model: model.to_owned(), source })
    }
}

/// Errors of scoring a batch.
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
    /// A score that is not a number.
    #[error(
        "reward `{model}`, {}: {source}; the weights of a model contain such numbers, or its \
         activations overflow", place(*row, named.as_deref())
    )]
    NonFinite {
        /// The reward model.
        model: String,
        /// Row of the batch, from 0.
        row: usize,
        /// The row as the user knows it, where the caller of the reward said so
        /// ([`RewardError::in_row`]).
        named: Option<String>,
        /// The number.
        #[source]
        source: NonFinite,
    },
    /// The reward model failed.
    #[error("reward `{model}` failed: {source}")]
    Failed {
        /// The reward model.
        model: String,
        /// The error message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user asked for the end.
    #[error("reward `{model}` was interrupted")]
    Interrupted {
        /// The reward model.
        model: String,
        /// The mark of all such errors.
        #[source]
        source: Interrupted,
    },
    /// A checkpoint's state belongs to another reward model, or to another make-up of this one.
    #[error(
        "reward `{model}` cannot restore its state from the checkpoint: expected {expected}, \
         found {found}; configure the rewards as they were when the checkpoint was written"
    )]
    State {
        /// The reward model.
        model: String,
        /// Form of a state of this model.
        expected: String,
        /// The state in the checkpoint.
        found: String,
    },
}

fn place(row: usize, known: Option<&str>) -> String {
    match known {
        Some(place) => place.to_owned(),
        None => format!("row {} of those that are scored together", row + 1),
    }
}

impl RewardError {
    /// A score that is not a number, of a row of the batch.
    pub fn non_finite(model: impl Into<String>, row: usize, source: NonFinite) -> Self {
        Self::NonFinite { model: model.into(), row, named: None, source }
    }

    /// The same error among all rows, of a batch that consists of `rows` of them.
    ///
    /// ```
    /// use rlaif_core::{RewardError, Score};
    /// let error = RewardError::non_finite("brief", 1, Score::new(f32::NAN).unwrap_err());
    /// assert!(matches!(error.among(&[4, 9]), RewardError::NonFinite { row: 9, .. }));
    /// ```
    #[must_use]
    pub fn among(mut self, rows: &[usize]) -> Self {
        if let Self::NonFinite { row, .. } = &mut self {
            *row = rows.get(*row).copied().unwrap_or(*row);
        }
        self
    }

    /// The same error with the row named as the user knows it, for example by its record
    /// ([`crate::PromptRecord::place`]). An error that names it already, or has no row, is unchanged.
    ///
    /// ```
    /// use rlaif_core::{RewardError, Score};
    /// let error = RewardError::non_finite("brief", 2, Score::new(f32::NAN).unwrap_err());
    /// let error = error.in_row(|row| format!("rows.jsonl, line {}", row + 1));
    /// assert!(error.to_string().starts_with("reward `brief`, rows.jsonl, line 3: a score must be"));
    /// ```
    #[must_use]
    pub fn in_row(mut self, place: impl FnOnce(usize) -> String) -> Self {
        if let Self::NonFinite { row, named, .. } = &mut self
            && named.is_none()
        {
            *named = Some(place(*row));
        }
        self
    }
}

/// Takes the verdict on a row: its place in the batch, and scores of one row.
pub type Tell<'a> = dyn FnMut(usize, Scores) -> ControlFlow<()> + 'a;

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
    /// Name in logs, metrics and errors.
    fn name(&self) -> &str;

    /// One verdict, or none, for each exchange, in their order.
    ///
    /// # Errors
    /// [`RewardError`] when the batch as a whole could not be scored.
    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError>;

    /// Scores the batch, and passes each row's score on as soon as it is available, with its index:
    /// in any order, including rows that came before an error. A `Break` stops the work.
    ///
    /// All rows are told at the end by default. A reward whose answers cost money tells them one by
    /// one, so that a program that is killed has what it paid for.
    ///
    /// # Errors
    /// As [`RewardModel::score`].
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use rlaif_core::{Exchange, RewardModel, Scores};
    /// let brevity = |batch: &[Exchange<'_>]| -> Vec<f32> {
    ///     batch.iter().map(|x| -(x.response.len() as f32)).collect()
    /// };
    /// let mut told = Vec::new();
    /// let mut tell = |row: usize, scores: Scores| {
    ///     told.push((row, scores.total[0].unwrap().get()));
    ///     ControlFlow::Continue(())
    /// };
    /// brevity.score_each(&[Exchange::new("Say hello.", "Hi!")], &mut tell)?;
    /// assert_eq!(told, [(0, -3.)]);
    /// # Ok::<(), rlaif_core::RewardError>(())
    /// ```
    fn score_each(&self, batch: &[Exchange<'_>], tell: &mut Tell<'_>) -> Result<(), RewardError> {
        let scores = self.score(batch)?.check(self.name(), batch.len())?;
        for row in 0..batch.len() {
            if tell(row, scores.gather(&[row])).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Numbers about the model itself for the run's metrics, since it was made: requests, tokens,
    /// cost, a running mean. Most have nothing.
    fn metrics(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// State kept in a checkpoint, so that scoring resumes as if it had never stopped; null for
    /// reward models without state.
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

/// Does work in which a reward scores; if the user interrupts it, the reward remembers nothing of it.
///
/// A part of a reward, such as a running mean, may have seen responses of a step that is not made.
///
/// # Errors
/// Those of `work`, and of [`RewardModel::restore`].
pub fn undone_if_interrupted<T, E>(
    reward: &dyn RewardModel,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E>
where
    E: std::error::Error + From<RewardError> + 'static,
{
    let before = reward.state();
    work().or_else(|error| {
        if Interrupted::ended(&error) {
            reward.restore(&before)?;
        }
        Err(error)
    })
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

    fn score_each(&self, batch: &[Exchange<'_>], tell: &mut Tell<'_>) -> Result<(), RewardError> {
        (**self).score_each(batch, tell)
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

    fn score(value: f32) -> Option<Score> {
        Some(Score(value))
    }

    fn steps(value: f32) -> Vec<StepScore> {
        vec![StepScore { end: 3, score: Score(value) }]
    }

    #[test]
    fn scattered_scores_keep_every_part_and_every_reason() {
        let of_three = Scores {
            total: vec![score(1.), None, score(3.)],
            parts: vec![
                ("coverage".to_owned(), vec![score(0.5), score(0.1), None]),
                ("coverage".to_owned(), vec![None, None, score(0.7)]),
            ],
            reasons: vec![(1, "too little".to_owned()), (9, "no such row".to_owned())],
            steps: vec![(0, steps(1.)), (2, steps(3.))],
        };
        let scattered = of_three.clone().scatter(&[4, 0, 2], 5);
        assert_eq!(scattered.total, [None, None, score(3.), None, score(1.)]);
        let parts = [
            ("coverage".to_owned(), vec![score(0.1), None, None, None, score(0.5)]),
            ("coverage".to_owned(), vec![None, None, score(0.7), None, None]),
        ];
        assert_eq!(scattered.parts, parts);
        assert_eq!(scattered.reasons, [(0, "too little".to_owned())]);
        assert_eq!(scattered.steps, [(2, steps(3.)), (4, steps(1.))]);
        // There and back again.
        let back = scattered.gather(&[4, 0, 2]);
        assert_eq!(back, Scores { reasons: vec![(1, "too little".to_owned())], ..of_three });
        assert_eq!(Scores::default().scatter(&[], 2), Scores::new(vec![None, None]));
    }

    #[test]
    fn filled_in_scores_replace_rows_and_join_reasons() {
        let mut scores = Scores {
            total: vec![score(1.), None, None],
            parts: vec![("a".to_owned(), vec![score(1.), score(2.), None])],
            reasons: vec![(2, "first".to_owned()), (1, "first".to_owned())],
            steps: vec![(0, steps(1.)), (1, steps(2.))],
        };
        let other = Scores {
            total: vec![None, score(7.)],
            parts: vec![
                ("a".to_owned(), vec![None, score(3.)]),
                ("b".to_owned(), vec![score(4.), None]),
            ],
            reasons: vec![(0, "second".to_owned())],
            steps: vec![(1, steps(7.))],
        };
        scores.fill_from(other, &[2, 1]);
        assert_eq!(scores.total, [score(1.), score(7.), None]);
        let parts = [
            ("a".to_owned(), vec![score(1.), score(3.), None]),
            ("b".to_owned(), vec![None, None, score(4.)]),
        ];
        assert_eq!(scores.parts, parts);
        assert_eq!(scores.reasons, [(2, "first; second".to_owned())]);
        assert_eq!(scores.steps, [(0, steps(1.)), (1, steps(7.))]);
    }

    #[test]
    #[should_panic(expected = "one row for each verdict")]
    fn scores_of_another_number_of_rows_are_not_scattered() {
        let _ = Scores::new(vec![None]).scatter(&[0, 1], 2);
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

//! One score from several models that run at the same time.

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard};

use rlaif_core::{
    BadSetting, Exchange, RewardError, RewardModel, Score, Scores, Tell, stats::mean_std,
};

use super::member::{checked, finite, joined_state, restore_joined};
use crate::ProviderError;
use crate::sync::lock;

/// Members, each asked on its own thread. A mutex makes a model that is `Send` but not `Sync`
/// usable from another thread.
struct Members(Vec<Mutex<Box<dyn RewardModel>>>);

impl Members {
    fn push(&mut self, model: impl RewardModel + 'static) {
        self.0.push(Mutex::new(Box::new(model)));
    }

    fn lock(&self) -> Vec<MutexGuard<'_, Box<dyn RewardModel>>> {
        self.0.iter().map(lock).collect()
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Vec<Scores>, RewardError> {
        let ask = |member: &Mutex<Box<dyn RewardModel>>| checked(&**lock(member), batch);
        if let [only] = self.0.as_slice() {
            return Ok(vec![ask(only)?]);
        }
        std::thread::scope(|scope| {
            let asked: Vec<_> = self.0.iter().map(|m| scope.spawn(move || ask(m))).collect();
            asked
                .into_iter()
                .map(|thread| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        })
    }

    /// Scores of the whole batch at once.
    fn join(
        &self,
        name: &str,
        batch: &[Exchange<'_>],
        total: impl Fn(&[f32]) -> f32,
    ) -> Result<Scores, RewardError> {
        let columns = self.score(batch)?;
        joined(name, &self.names(), columns, batch.len(), 0, total)
    }

    /// Scores of each row as soon as every member has told it. The first error ends the others at
    /// their next row.
    fn join_each(
        &self,
        name: &str,
        batch: &[Exchange<'_>],
        total: impl Fn(&[f32]) -> f32,
        tell: &mut Tell<'_>,
    ) -> Result<(), RewardError> {
        let names = self.names();
        if names.is_empty() {
            // Nobody tells a row.
            for row in 0..batch.len() {
                if tell(row, joined(name, &names, Vec::new(), 1, row, &total)?).is_break() {
                    break;
                }
            }
            return Ok(());
        }
        let mut waiting: Vec<Vec<Option<Scores>>> = vec![vec![None; names.len()]; batch.len()];
        std::thread::scope(|scope| {
            let (sender, told) = mpsc::channel();
            for (at, member) in self.0.iter().enumerate() {
                let sender = sender.clone();
                scope.spawn(move || {
                    let asked = lock(member).score_each(batch, &mut |row, scores| {
                        match sender.send(Ok((at, row, scores))) {
                            Ok(()) => ControlFlow::Continue(()),
                            // Nobody listens any more.
                            Err(_) => ControlFlow::Break(()),
                        }
                    });
                    if let Err(error) = asked {
                        let _ = sender.send(Err(error));
                    }
                });
            }
            drop(sender);
            for told in told {
                let (at, row, scores) = told?;
                let of_row = &mut waiting[row];
                let Some(place) = of_row.get_mut(at) else { continue };
                *place = Some(scores);
                if of_row.iter().any(Option::is_none) {
                    continue;
                }
                let columns = of_row.drain(..).flatten().collect();
                if tell(row, joined(name, &names, columns, 1, row, &total)?).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn names(&self) -> Vec<String> {
        distinct(self.lock().iter().map(|m| m.name().to_owned()).collect())
    }
}

/// Joins the members' columns, and makes each row's total of its parts by `total`; a row that a
/// member has no verdict on has none. `first` is the place of the first row in its batch.
fn joined(
    name: &str,
    names: &[String],
    columns: Vec<Scores>,
    rows: usize,
    first: usize,
    total: impl Fn(&[f32]) -> f32,
) -> Result<Scores, RewardError> {
    let mut scores = Scores::default();
    for row in 0..rows {
        let parts: Option<Vec<f32>> =
            columns.iter().map(|column| column.total[row].map(Score::get)).collect();
        let sum = parts.map(|parts| finite(total(&parts), name, first + row)).transpose()?;
        if sum.is_none() {
            scores.reasons.push((row, missing(names, &columns, row)));
        }
        scores.total.push(sum);
    }
    for (name, column) in names.iter().zip(columns) {
        let inner = column.parts.into_iter().map(|(part, c)| (format!("{name}/{part}"), c));
        scores.parts.extend(std::iter::once((name.clone(), column.total)).chain(inner));
    }
    Ok(scores)
}

fn missing(names: &[String], columns: &[Scores], row: usize) -> String {
    let reasons = names.iter().zip(columns).filter(|(_, c)| c.total[row].is_none());
    let reasons = reasons.map(|(name, column)| {
        let reason = column.reasons.iter().find(|(at, _)| *at == row);
        format!("{name}: {}", reason.map_or("no verdict", |(_, reason)| reason))
    });
    reasons.collect::<Vec<_>>().join("; ")
}

/// Appends a number to names that occurred before, so that columns are distinguishable.
fn distinct(mut names: Vec<String>) -> Vec<String> {
    for at in 1..names.len() {
        let base = names[at].clone();
        let mut count = 2;
        while names[..at].contains(&names[at]) {
            names[at] = format!("{base} {count}");
            count += 1;
        }
    }
    names
}

/// The score of a combination, from those of its members.
pub trait CombinedScore: Send {
    /// The combination's name, for `Debug`.
    const NAME: &'static str;

    /// The score of a row, from one score of each member.
    fn of(&self, scores: &[f32]) -> f32;
}

/// Several models that run at the same time, and one score of all; each member's score is a part of the
/// scores. A row that a member has no verdict on has none.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::{Combined, CombinedScore};
///
/// struct Highest;
///
/// impl CombinedScore for Highest {
///     const NAME: &'static str = "Highest";
///     fn of(&self, scores: &[f32]) -> f32 {
///         scores.iter().copied().fold(f32::NEG_INFINITY, f32::max)
///     }
/// }
/// let reward = Combined::by("best", Highest)
///     .and(|batch: &[Exchange<'_>]| vec![1.; batch.len()])
///     .and(|batch: &[Exchange<'_>]| vec![4.; batch.len()]);
/// assert_eq!(reward.score(&[Exchange::new("p", "y")])?.total[0].unwrap().get(), 4.);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
pub struct Combined<T> {
    name: String,
    total: T,
    members: Members,
}

impl<T: CombinedScore> Combined<T> {
    /// A combination without members.
    pub fn by(name: impl Into<String>, total: T) -> Self {
        Self { name: name.into(), total, members: Members(Vec::new()) }
    }

    /// Adds a model.
    #[must_use]
    pub fn and(mut self, model: impl RewardModel + 'static) -> Self {
        self.members.push(model);
        self
    }
}

impl<T: CombinedScore> RewardModel for Combined<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        self.members.join(&self.name, batch, |scores| self.total.of(scores))
    }

    fn score_each(&self, batch: &[Exchange<'_>], tell: &mut Tell<'_>) -> Result<(), RewardError> {
        self.members.join_each(&self.name, batch, |scores| self.total.of(scores), tell)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        self.members.lock().iter().flat_map(|m| m.metrics()).collect()
    }

    fn state(&self) -> serde_json::Value {
        joined_state(self.members.lock().iter().map(|m| &***m as &dyn RewardModel))
    }

    fn restore(&self, state: &serde_json::Value) -> Result<(), RewardError> {
        let members = self.members.lock();
        let members: Vec<_> = members.iter().map(|m| &***m as &dyn RewardModel).collect();
        restore_joined(&self.name, &members, state)
    }
}

impl<T: CombinedScore> std::fmt::Debug for Combined<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members = self.members.lock();
        let names: Vec<_> = members.iter().map(|m| m.name()).collect();
        f.debug_struct(T::NAME)
            .field("name", &self.name)
            .field("members", &names)
            .finish_non_exhaustive()
    }
}

/// Σ wᵢ·sᵢ over several models, which run at the same time; each sᵢ is a part of the scores.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::WeightedSum;
/// let reward = WeightedSum::new("sum")
///     .term(2., |batch: &[Exchange<'_>]| vec![3.; batch.len()])
///     .term(-1., |batch: &[Exchange<'_>]| vec![1.; batch.len()]);
/// let scores = reward.score(&[Exchange::new("p", "y")])?;
/// assert_eq!(scores.total[0].unwrap().get(), 5.);
/// assert_eq!(scores.parts[0].1[0].unwrap().get(), 3.);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
pub type WeightedSum = Combined<SumOfTerms>;

/// The score of [`WeightedSum`].
#[derive(Debug, Clone, Default)]
pub struct SumOfTerms {
    weights: Vec<f32>,
}

impl WeightedSum {
    /// A sum without terms, with value 0.
    pub fn new(name: impl Into<String>) -> Self {
        Self::by(name, SumOfTerms::default())
    }

    /// Adds a term to the sum.
    #[must_use]
    pub fn term(mut self, weight: f32, model: impl RewardModel + 'static) -> Self {
        self.total.weights.push(weight);
        self.and(model)
    }
}

impl CombinedScore for SumOfTerms {
    const NAME: &'static str = "WeightedSum";

    fn of(&self, scores: &[f32]) -> f32 {
        self.weights.iter().zip(scores).map(|(w, s)| w * s).sum()
    }
}

/// The mean of several models' scores; the models run at the same time.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::Mean;
/// let reward = Mean::new("mean", |batch: &[Exchange<'_>]| vec![1.; batch.len()])
///     .and(|batch: &[Exchange<'_>]| vec![4.; batch.len()]);
/// assert_eq!(reward.score(&[Exchange::new("p", "y")])?.total[0].unwrap().get(), 2.5);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
pub type Mean = Combined<MeanOfScores>;

/// The score of [`Mean`].
#[derive(Debug, Clone, Copy, Default)]
pub struct MeanOfScores;

impl CombinedScore for MeanOfScores {
    const NAME: &'static str = "Mean";

    fn of(&self, scores: &[f32]) -> f32 {
        scores.iter().sum::<f32>() / scores.len() as f32
    }
}

/// The lowest of several models' scores; the models run at the same time.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::Minimum;
/// let reward = Minimum::new("worst", |batch: &[Exchange<'_>]| vec![1.; batch.len()])
///     .and(|batch: &[Exchange<'_>]| vec![-4.; batch.len()]);
/// assert_eq!(reward.score(&[Exchange::new("p", "y")])?.total[0].unwrap().get(), -4.);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
pub type Minimum = Combined<LowestScore>;

/// The score of [`Minimum`].
#[derive(Debug, Clone, Copy, Default)]
pub struct LowestScore;

impl CombinedScore for LowestScore {
    const NAME: &'static str = "Minimum";

    fn of(&self, scores: &[f32]) -> f32 {
        scores.iter().copied().fold(f32::INFINITY, f32::min)
    }
}

/// A score that is defined for one member or more, and has no settings.
pub trait OfOneOrMore: CombinedScore + Default {}

impl OfOneOrMore for MeanOfScores {}
impl OfOneOrMore for LowestScore {}

impl<T: OfOneOrMore> Combined<T> {
    /// Begins a combination with one model.
    pub fn new(name: impl Into<String>, first: impl RewardModel + 'static) -> Self {
        Self::by(name, T::default()).and(first)
    }

    /// Combines these models; `None` without any.
    pub fn of(
        name: impl Into<String>,
        models: impl IntoIterator<Item = impl RewardModel + 'static>,
    ) -> Option<Self> {
        let mut models = models.into_iter();
        let first = Self::new(name, models.next()?);
        Some(models.fold(first, Self::and))
    }
}

/// The mean of several models' scores less `deviations` times their standard deviation (with Bessel's
/// correction): where models of an ensemble disagree, a policy that is trained on one of them tends to
/// exploit its mistakes ([Coste et al. 2023](https://arxiv.org/abs/2310.02743)). The models are asked at the
/// same time.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::LowerBound;
/// let reward = LowerBound::new("careful", 2., |batch: &[Exchange<'_>]| vec![1.; batch.len()])?
///     .and(|batch: &[Exchange<'_>]| vec![3.; batch.len()]);
/// let score = reward.score(&[Exchange::new("p", "y")])?.total[0].unwrap().get();
/// assert!((score - (2. - 2. * 2f32.sqrt())).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type LowerBound = Combined<MeanLessDeviations>;

/// The score of [`LowerBound`].
#[derive(Debug, Clone, Copy)]
pub struct MeanLessDeviations {
    deviations: f32,
}

impl LowerBound {
    /// Begins a combination with one model.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for a negative number of deviations, or one that is not finite.
    pub fn new(
        name: impl Into<String>,
        deviations: f32,
        first: impl RewardModel + 'static,
    ) -> Result<Self, ProviderError> {
        if !(deviations >= 0. && deviations.is_finite()) {
            return Err(ProviderError::Setting(BadSetting::new(
                "deviations",
                deviations,
                "a finite number of at least 0",
            )));
        }
        Ok(Self::by(name, MeanLessDeviations { deviations }).and(first))
    }
}

impl CombinedScore for MeanLessDeviations {
    const NAME: &'static str = "LowerBound";

    fn of(&self, scores: &[f32]) -> f32 {
        let scores: Vec<f64> = scores.iter().map(|score| f64::from(*score)).collect();
        let (mean, deviation) = mean_std(&scores);
        (mean - f64::from(self.deviations) * deviation) as f32
    }
}

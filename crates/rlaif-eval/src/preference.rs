//! Preferences of judges between two responses, and their agreement with people.

use rlaif_core::{
    AskedPair, BadSetting, Exchange, PairJudge, RewardError, RewardModel, Sample, Seed, ShownPair,
    stats::wilson,
};
use serde::{Deserialize, Serialize};

use crate::pair::{PromptPair, pair_up};
use crate::stats::{
    Interval, IntervalMethod, check_resamples, fit_logistic, interval_of, mean, quantile, resample,
    weighted_mean,
};
use crate::text::LengthUnit;
use crate::{EvalError, Missing};

/// A reward model as a judge of pairs: the higher score wins.
///
/// ```
/// use rlaif_core::{Exchange, PairJudge, ShownPair};
/// use rlaif_eval::ScoreJudge;
/// let judge = ScoreJudge(|batch: &[Exchange<'_>]| -> Vec<f32> {
///     batch.iter().map(|x| x.response.len() as f32).collect()
/// });
/// assert_eq!(judge.prefer(&[ShownPair::new("Why?", "Because.", "No.")])?, [Some(1.)]);
/// # Ok::<(), rlaif_core::RewardError>(())
/// ```
pub struct ScoreJudge<R>(pub R);

impl<R: RewardModel> PairJudge for ScoreJudge<R> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn prefer(&self, batch: &[ShownPair<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        let exchanges: Vec<Exchange<'_>> =
            batch.iter().flat_map(|shown| [shown.first, shown.second]).collect();
        let pairs: Vec<usize> = (0..exchanges.len()).map(|response| response / 2).collect();
        let scores = score(&self.0, &exchanges).map_err(|error| error.among(&pairs))?;
        Ok(scores.chunks_exact(2).map(|pair| Some(win_of(pair[0]?, pair[1]?))).collect())
    }
}

fn score(model: &dyn RewardModel, batch: &[Exchange<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
    RewardError::if_interrupted(model.name())?;
    let scores = model.score(batch).and_then(|scores| scores.check(model.name(), batch.len()))?;
    Ok(scores.total.iter().map(|s| s.map(|s| f64::from(s.get()))).collect())
}

fn failed(judge: &str, source: RewardError) -> EvalError {
    EvalError::Reward { metric: judge.to_owned(), source }
}

fn win_of(ours: f64, theirs: f64) -> f64 {
    if ours > theirs {
        1.
    } else if ours < theirs {
        0.
    } else {
        0.5
    }
}

/// A judge's preference for the tuned policy's responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// The judge.
    pub judge: String,
    /// Number of prompts.
    pub n: usize,
    /// Number of prompts left out because of a missing verdict.
    pub dropped: usize,
    /// The mean probability that `after` is the better one, both orders averaged; a tie is half
    /// a win.
    pub rate: f64,
    /// The interval of the rate, over prompts.
    pub ci95: Interval,
    /// Share of pairs that `after` wins: preferred when both orders are averaged.
    pub wins: f64,
    /// Share of pairs that neither side wins.
    pub ties: f64,
    /// Share of pairs that `before` wins.
    pub losses: f64,
    /// Share of first-shown responses among those preferred; 0.5 for a judge without position bias.
    pub first_rate: f64,
    /// Share of pairs on which both orders give the same winner, or both a tie.
    pub consistent: f64,
    /// The rate if both responses were equally long; `None` where lengths do not allow a fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_controlled: Option<LengthControlled>,
}

/// A win rate with the effect of length taken out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LengthControlled {
    /// The rate at equal length.
    pub rate: f64,
    /// The interval of the rate, over prompts; `None` if the fit fails on most resamples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<Interval>,
    /// Increase of the log-odds of winning for each further multiple of the baseline's length.
    pub slope: f64,
}

/// Options of a win rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WinRateOptions {
    /// The seed of the bootstrap.
    pub seed: Seed,
    /// Number of bootstrap resamples.
    pub resamples: usize,
    /// Number of pairs that the judge gets at once, each in both orders.
    pub batch: usize,
    /// Treatment of pairs without a verdict.
    pub missing: Missing,
}

impl Default for WinRateOptions {
    fn default() -> Self {
        Self { seed: Seed::new(0), resamples: 1_000, batch: 64, missing: Missing::Refuse }
    }
}

/// Share of prompts on which `judge` prefers `after` to `before`, asked in both orders.
///
/// # Errors
/// [`EvalError::PromptsDiffer`] and its kin if the two sides do not answer the same prompts,
/// [`EvalError::MissingScore`] for a pair without a verdict unless `missing` says to drop it,
/// [`EvalError::NotFinite`] for a verdict outside 0 to 1, [`EvalError::TooFew`] for fewer than two
/// prompts, and any error of the judge.
///
/// ```
/// use rlaif_core::{Exchange, PromptRecord, Sample};
/// use rlaif_eval::{ScoreJudge, WinRateOptions, win_rate};
/// let answer = |id: &str, response: &str| Sample {
///     record: PromptRecord::new(id, "Why?"),
///     response: response.into(),
/// };
/// let before = [answer("a", "So."), answer("b", "So."), answer("c", "Because I say so.")];
/// let after = [answer("a", "Because."), answer("b", "Because."), answer("c", "So.")];
/// let longer = ScoreJudge(|batch: &[Exchange<'_>]| -> Vec<f32> {
///     batch.iter().map(|x| x.response.len() as f32).collect()
/// });
/// let found = win_rate(&longer, &before, &after, &WinRateOptions::default())?;
/// assert_eq!((found.n, found.rate, found.first_rate), (3, 2. / 3., 0.5));
/// // Length decides alone here, so there is nothing left to say once it is taken out.
/// assert_eq!(found.length_controlled, None);
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn win_rate(
    judge: &dyn PairJudge,
    before: &[Sample],
    after: &[Sample],
    options: &WinRateOptions,
) -> Result<WinRate, EvalError> {
    check_resamples(options.resamples)?;
    if options.batch == 0 {
        return Err(EvalError::Setting(BadSetting::new("batch", "0", "at least 1")));
    }
    let prompts = pair_up(before, after)?;
    let pairs: Vec<(&Sample, &Sample)> = prompts
        .iter()
        .flat_map(|prompt| prompt.before.iter().zip(&prompt.after))
        .map(|(&b, &a)| (&before[b], &after[a]))
        .collect();
    let verdicts = ask_both_orders(judge, &pairs, options)?;
    let kept = keep_complete(&prompts, &verdicts);
    let dropped = prompts.len() - kept.len();
    if kept.len() < 2 {
        return Err(EvalError::TooFew {
            what: format!("prompts with a verdict of judge `{}`", judge.name()),
            needed: 2,
            found: kept.len(),
        });
    }
    summarise(judge.name(), &pairs, &kept, dropped, options)
}

/// The probability that `after` is better: judged with `after` first, and with `after` second.
#[derive(Debug, Clone, Copy)]
struct BothOrders {
    first: f64,
    second: f64,
}

impl BothOrders {
    fn both(self) -> f64 {
        f64::midpoint(self.first, self.second)
    }
}

fn ask_both_orders(
    judge: &dyn PairJudge,
    pairs: &[(&Sample, &Sample)],
    options: &WinRateOptions,
) -> Result<Vec<Option<BothOrders>>, EvalError> {
    let mut verdicts = Vec::with_capacity(pairs.len());
    for batch in pairs.chunks(options.batch) {
        let shown: Vec<ShownPair<'_>> = batch
            .iter()
            .flat_map(|(b, a)| {
                // Of one prompt, as the baseline's side has it.
                let [before, after] = [&b.response, &a.response].map(|r| b.record.answered(r));
                let shown = |first, second| ShownPair { first, second };
                [shown(after, before), shown(before, after)]
            })
            .collect();
        let said = RewardError::if_interrupted(judge.name()).and_then(|()| judge.prefer(&shown));
        let said = said.map_err(|source| {
            let source = source.in_row(|row| match batch.get(row / 2) {
                Some((sample, _)) => sample.record.place(),
                None => format!("pair {row}"),
            });
            failed(judge.name(), source)
        })?;
        if said.len() != shown.len() {
            return Err(EvalError::Count {
                what: format!("judge `{}`", judge.name()),
                expected: shown.len(),
                found: said.len(),
            });
        }
        for ((b, _), orders) in batch.iter().zip(said.chunks_exact(2)) {
            let id = || b.record.id.clone();
            if let Some(value) = orders.iter().flatten().find(|p| !(0. ..=1.).contains(*p)) {
                let metric = judge.name().to_owned();
                return Err(EvalError::NotFinite { metric, id: id(), value: *value });
            }
            verdicts.push(match (orders[0], orders[1], options.missing) {
                (Some(first), Some(second), _) => Some(BothOrders { first, second: 1. - second }),
                (_, _, Missing::DropPrompt) => None,
                (_, _, Missing::Refuse) => {
                    return Err(EvalError::MissingScore {
                        metric: judge.name().to_owned(),
                        id: id(),
                        reason: "no verdict in one of the two orders".into(),
                    });
                }
            });
        }
    }
    Ok(verdicts)
}

/// The numbers and verdicts of all pairs, for each prompt whose pairs all have verdicts.
fn keep_complete(
    prompts: &[PromptPair],
    verdicts: &[Option<BothOrders>],
) -> Vec<Vec<(usize, BothOrders)>> {
    let mut kept = Vec::new();
    let mut next = 0;
    for prompt in prompts {
        let rows = next..next + prompt.before.len();
        next = rows.end;
        if let Some(complete) = rows.map(|row| Some((row, verdicts[row]?))).collect() {
            kept.push(complete);
        }
    }
    kept
}

fn summarise(
    judge: &str,
    pairs: &[(&Sample, &Sample)],
    kept: &[Vec<(usize, BothOrders)>],
    dropped: usize,
    options: &WinRateOptions,
) -> Result<WinRate, EvalError> {
    let seed = options.seed.derive("win rate", 0);
    let all: Vec<BothOrders> = kept.iter().flatten().map(|(_, verdict)| *verdict).collect();
    let share = |holds: &dyn Fn(&BothOrders) -> bool| {
        all.iter().filter(|v| holds(v)).count() as f64 / all.len() as f64
    };
    let by_prompt: Vec<f64> = kept
        .iter()
        .map(|pairs| mean(&pairs.iter().map(|(_, v)| v.both()).collect::<Vec<_>>()))
        .collect();
    let drawn = resample(by_prompt.len(), options.resamples, seed, |counts| {
        weighted_mean(&by_prompt, counts)
    });
    let outcome = |p: f64| win_of(p, 0.5);
    Ok(WinRate {
        judge: judge.to_owned(),
        n: kept.len(),
        dropped,
        rate: mean(&by_prompt),
        ci95: interval_of(&by_prompt, &drawn, 0.95, IntervalMethod::Percentile)?,
        wins: share(&|v| v.both() > 0.5),
        ties: share(&|v| v.both() == 0.5),
        losses: share(&|v| v.both() < 0.5),
        first_rate: mean(
            &all.iter().map(|v| f64::midpoint(v.first, 1. - v.second)).collect::<Vec<_>>(),
        ),
        consistent: share(&|v| outcome(v.first) == outcome(v.second)),
        length_controlled: length_controlled(pairs, kept, options.resamples, seed),
    })
}

fn length_controlled(
    pairs: &[(&Sample, &Sample)],
    kept: &[Vec<(usize, BothOrders)>],
    resamples: usize,
    seed: Seed,
) -> Option<LengthControlled> {
    let length = |sample: &Sample| LengthUnit::Characters.of(&sample.response.text).max(1) as f64;
    let ratio: Vec<f64> = pairs.iter().map(|(b, a)| length(a) / length(b)).collect();
    let rows =
        || kept.iter().enumerate().flat_map(|(at, prompt)| prompt.iter().map(move |p| (at, p)));
    let ratios: Vec<f64> = rows().map(|(_, (pair, _))| ratio[*pair]).collect();
    let wins: Vec<f64> = rows().map(|(_, (_, verdict))| verdict.both()).collect();
    let prompts: Vec<usize> = rows().map(|(at, _)| at).collect();
    let fit = fit_logistic(&wins, &ratios, &vec![1.; wins.len()], None).ok()?;
    let drawn = resample(kept.len(), resamples, seed, |counts| {
        let weights: Vec<f64> = prompts.iter().map(|&at| counts[at]).collect();
        fit_logistic(&wins, &ratios, &weights, Some(fit)).ok().map(|fit| fit.at_equal_length())
    });
    let mut fitted: Vec<f64> = drawn.into_iter().flatten().collect();
    fitted.sort_by(f64::total_cmp);
    let ci95 = (fitted.len() * 10 >= resamples * 9)
        .then(|| Interval { low: quantile(&fitted, 0.025), high: quantile(&fitted, 0.975) });
    Some(LengthControlled { rate: fit.at_equal_length(), ci95, slope: fit.slope })
}

/// Agreement of a reward model with human preferences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreferenceAccuracy {
    /// The reward model.
    pub model: String,
    /// Number of pairs.
    pub n: usize,
    /// Number of pairs left out because of a missing score.
    pub dropped: usize,
    /// Share of pairs whose chosen response scores strictly higher.
    pub accuracy: f64,
    /// Wilson's interval of the accuracy.
    pub ci95: Interval,
    /// Share of pairs with equal scores; they count as wrong.
    pub ties: f64,
}

/// Share of preference pairs whose chosen response `model` scores higher than the rejected one,
/// `batch` pairs at a time.
///
/// # Errors
/// [`EvalError::TooFew`] for no pairs, [`EvalError::MissingScore`] for a response without a score
/// unless `missing` says to drop it, [`EvalError::Setting`] for an empty batch, and any error of
/// the reward model.
///
/// ```
/// use rlaif_core::{AskedPair, Exchange};
/// use rlaif_eval::{Missing, preference_accuracy};
/// let pair = |chosen, rejected| AskedPair::new("a", "Why?", chosen, rejected);
/// let longer = |batch: &[Exchange<'_>]| -> Vec<f32> {
///     batch.iter().map(|x| x.response.len() as f32).collect()
/// };
/// let pairs = [pair("Because.", "No."), pair("Yes", "Indeed"), pair("So", "No")];
/// let found = preference_accuracy(&longer, &pairs, 16, Missing::Refuse)?;
/// assert_eq!((found.accuracy, found.ties), (1. / 3., 1. / 3.));
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn preference_accuracy(
    model: &dyn RewardModel,
    pairs: &[AskedPair],
    batch: usize,
    missing: Missing,
) -> Result<PreferenceAccuracy, EvalError> {
    if batch == 0 {
        return Err(EvalError::Setting(BadSetting::new("batch", "0", "at least 1")));
    }
    let (mut correct, mut ties, mut n) = (0usize, 0usize, 0usize);
    for rows in pairs.chunks(batch) {
        let exchanges: Vec<Exchange<'_>> = rows.iter().flat_map(AskedPair::exchanges).collect();
        let scores = score(model, &exchanges).map_err(|source| {
            let source = source.in_row(|row| match rows.get(row / 2) {
                Some(pair) => pair.record.place(),
                None => format!("response {row}"),
            });
            failed(model.name(), source)
        })?;
        for (row, pair) in rows.iter().zip(scores.chunks_exact(2)) {
            match (pair[0], pair[1], missing) {
                (Some(chosen), Some(rejected), _) => {
                    n += 1;
                    correct += usize::from(chosen > rejected);
                    ties += usize::from(chosen == rejected);
                }
                (_, _, Missing::DropPrompt) => {}
                (_, _, Missing::Refuse) => {
                    return Err(EvalError::MissingScore {
                        metric: model.name().to_owned(),
                        id: row.record.id.clone(),
                        reason: "no score for one of the pair".into(),
                    });
                }
            }
        }
    }
    if n == 0 {
        return Err(EvalError::TooFew {
            what: format!("preference pairs scored by `{}`", model.name()),
            needed: 1,
            found: 0,
        });
    }
    Ok(PreferenceAccuracy {
        model: model.name().to_owned(),
        n,
        dropped: pairs.len() - n,
        accuracy: correct as f64 / n as f64,
        ci95: interval_of_share(correct as f64 / n as f64, n),
        ties: ties as f64 / n as f64,
    })
}

fn interval_of_share(share: f64, n: usize) -> Interval {
    let (low, high) = wilson(share, n);
    Interval { low, high }
}

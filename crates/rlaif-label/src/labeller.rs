//! Questions about pairs, and the labels that their answers make.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use rlaif_core::{Exchange, Interrupted, PromptRecord, Reply, RewardModel, Seed, ShownPair};
use rlaif_rewards::Surroundings;
use rlaif_rewards::judge::{Comparer, ComparerConfig, PairVerdict, Unanswered};
use rlaif_rewards::rubric::{PairAnswer, PairRubric, Question};
use serde::{Deserialize, Serialize};

use crate::constitution::{Principle, draw};
use crate::error::LabelError;
use crate::settings::{FacetCombination, FacetConfig, LabelSettings, Orders};

/// Questions that are asked in one call: a reward that tells nothing before its end tells so many at
/// once.
const AT_ONCE: usize = 4_096;

/// The reason for a question that the work ended before.
const NOT_ASKED: &str = "it was not asked";

/// Two responses to a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelPair {
    /// The prompt, with the pair's identity.
    pub record: PromptRecord,
    /// The responses; with [`Orders::One`] shown in this order.
    pub responses: [Reply; 2],
}

impl LabelPair {
    /// Two responses to a prompt that is a text.
    pub fn new(
        id: impl Into<String>,
        prompt: impl Into<String>,
        first: impl Into<Reply>,
        second: impl Into<Reply>,
    ) -> Self {
        let record = PromptRecord::new(id, prompt);
        Self { record, responses: [first.into(), second.into()] }
    }

    /// The prompt with each response, as judges and rewards read it.
    fn exchanges(&self) -> [Exchange<'_>; 2] {
        [&self.responses[0], &self.responses[1]].map(|reply| self.record.answered(reply))
    }
}

/// The answer to a question about a pair, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opinion {
    /// For a judge of pairs, the probability that the response shown first is the better one; for a
    /// reward, the score of one response; `None` without a verdict.
    pub value: Option<f64>,
    /// The total probability of the two labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<f64>,
    /// True where the judge gives no probabilities.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimate: bool,
    /// The judge's explanation; without a verdict, why there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The cost, where prices are configured; that of answers without a verdict as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
}

impl Opinion {
    fn of(verdict: Result<PairVerdict, Unanswered>) -> Self {
        match verdict {
            Ok(PairVerdict { first, coverage, is_estimate, reason, cost }) => {
                Self { value: Some(first), coverage, estimate: is_estimate, reason, cost }
            }
            Err(Unanswered { reason, cost }) => Self { cost, ..Self::missing(reason) },
        }
    }

    fn missing(reason: String) -> Self {
        Self { value: None, coverage: None, estimate: false, reason, cost: None }
    }
}

/// A soft label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Label {
    /// The probability that the first response is the better one.
    pub first: f64,
    /// The same by facet.
    pub facets: Vec<(String, f64)>,
    /// True if any of it is an estimate of judges that give no probabilities.
    pub estimate: bool,
    /// The explanation of the first judge that gives one.
    pub reason: String,
    /// The cost of all its questions, where prices are configured.
    pub cost: Option<f64>,
}

/// A question to a judge of pairs with its right answer, for the judge's training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// The pair, the facet, and the place of the right response.
    pub id: String,
    /// The question.
    pub question: Question,
    /// The answer, as a continuation of the question.
    pub answer: String,
}

/// A question: which facet of which pair, and which of the facet's two questions about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The pair.
    pub pair: usize,
    /// The facet.
    pub facet: usize,
    /// The question about the pair.
    pub about: FacetQuestion,
}

/// The two questions of a facet about a pair: which response a judge of pairs is shown first, or which one
/// a reward scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FacetQuestion {
    /// The first response of the pair.
    First,
    /// The second response of the pair.
    Second,
}

impl FacetQuestion {
    const BOTH: [Self; 2] = [Self::First, Self::Second];
}

enum By {
    /// A judge of pairs, by its place, and its comparisons: one of them, drawn for each pair.
    Judge {
        judge: usize,
        rubrics: Vec<PairRubric>,
        /// The names of the principles of a constitution.
        principles: Vec<String>,
    },
    Reward {
        reward: Box<dyn RewardModel>,
        temperature: f64,
    },
}

struct Facet {
    name: String,
    weight: f64,
    clamp: Option<(f64, f64)>,
    by: By,
}

/// Labels pairs.
pub struct Labeller {
    judges: Vec<Comparer>,
    facets: Vec<Facet>,
    combine: FacetCombination,
    orders: Orders,
    clamp: Option<(f64, f64)>,
    seed: Seed,
}

/// The range of labels of a constitution whose judge explains first.
const EXPLAINED: (f64, f64) = (0.4, 0.6);

impl Labeller {
    /// The labeller of these settings. Facets with the same judge share it, its budget included.
    ///
    /// # Errors
    /// [`LabelError::Setting`], [`LabelError::Constitution`], [`LabelError::Provider`].
    pub fn new(settings: &LabelSettings, around: &Surroundings<'_>) -> Result<Self, LabelError> {
        settings.check()?;
        let settings = &settings.clone().resolved()?;
        let mut built: Vec<(&ComparerConfig, Comparer)> = Vec::new();
        let mut facets = Vec::new();
        for facet in &settings.facets {
            let name = facet.name().to_owned();
            let failed =
                |source| LabelError::Provider { facet: name.clone(), source: Box::new(source) };
            let config = facet.judge.as_deref().or(settings.judge.as_ref());
            let by = match (&facet.reward, config) {
                (Some(reward), _) => By::Reward {
                    reward: reward.build(around).map_err(failed)?,
                    temperature: facet.temperature,
                },
                (None, Some(config)) => {
                    let known = built.iter().position(|(known, _)| *known == config);
                    let judge = match known {
                        Some(at) => at,
                        None => {
                            built.push((config, config.build(around).map_err(failed)?));
                            built.len() - 1
                        }
                    };
                    let rubrics = rubrics(facet).and_then(|rubrics| {
                        rubrics.into_iter().map(|rubric| config.rubric(rubric)).collect()
                    });
                    let name = |principle: &Principle| principle.name.clone();
                    let principles = facet.principles.iter().map(name).collect();
                    By::Judge { judge, rubrics: rubrics.map_err(failed)?, principles }
                }
                // `check` refuses it.
                (None, None) => continue,
            };
            let explains = config.is_some_and(|config| config.answer == PairAnswer::Explained);
            let by_default = (explains && facet.has_constitution()).then_some(EXPLAINED);
            let clamp = facet.clamp.or(by_default);
            facets.push(Facet { name, weight: facet.weight, clamp, by });
        }
        Ok(Self {
            judges: built.into_iter().map(|(_, judge)| judge).collect(),
            facets,
            combine: settings.combine,
            orders: settings.orders,
            clamp: settings.clamp,
            seed: settings.seed,
        })
    }

    /// A labeller by one facet and a judge at hand, in both orders.
    pub fn of_judge(judge: Comparer, facet: impl Into<String>, rubric: PairRubric) -> Self {
        let by = By::Judge { judge: 0, rubrics: vec![rubric], principles: Vec::new() };
        Self {
            judges: vec![judge],
            facets: vec![Facet { name: facet.into(), weight: 1., clamp: None, by }],
            combine: FacetCombination::Mean,
            orders: Orders::Both,
            clamp: None,
            seed: Seed::default(),
        }
    }

    /// The same labeller with other orders.
    #[must_use]
    pub fn shown_in(self, orders: Orders) -> Self {
        Self { orders, ..self }
    }

    /// The names of the judges and rewards, in the order of the facets.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for facet in &self.facets {
            let this = match &facet.by {
                By::Judge { judge, .. } => self.judges[*judge].name(),
                By::Reward { reward, .. } => reward.name(),
            };
            if !names.contains(&this) {
                names.push(this);
            }
        }
        names
    }

    /// The facets with true for those that a judge of pairs compares.
    pub fn facets(&self) -> impl Iterator<Item = (&str, bool)> {
        let compared = |facet: &Facet| matches!(facet.by, By::Judge { .. });
        self.facets.iter().map(move |facet| (facet.name.as_str(), compared(facet)))
    }

    /// Numbers about judges and rewards: requests, tokens, cost.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let mut metrics = Vec::new();
        for judge in &self.judges {
            let Some(usage) = judge.usage() else { continue };
            let numbers = [
                ("requests", Some(usage.requests as f64)),
                ("retries", Some(usage.retries as f64)),
                ("cached", Some(usage.cached as f64)),
                ("input_tokens", Some(usage.input_tokens as f64)),
                ("output_tokens", Some(usage.output_tokens as f64)),
                ("cost", usage.cost),
            ];
            metrics.extend(
                numbers.into_iter().filter_map(|(name, number)| {
                    Some((format!("{}/{name}", judge.name()), number?))
                }),
            );
        }
        for facet in &self.facets {
            if let By::Reward { reward, .. } = &facet.by {
                metrics.extend(reward.metrics());
            }
        }
        metrics
    }

    /// Number of questions about one pair.
    fn per_pair(&self) -> usize {
        2 * self.facets.len()
    }

    /// The questions about these pairs, by their numbers. A number is the question's place with both orders,
    /// so that it stays the same with one.
    pub fn questions(&self, pairs: usize) -> impl Iterator<Item = (usize, Asked)> + '_ {
        (0..pairs * self.per_pair()).filter_map(|number| {
            let asked = self.asked(number);
            let judged = matches!(self.facets[asked.facet].by, By::Judge { .. });
            let left_out =
                judged && asked.about == FacetQuestion::Second && self.orders == Orders::One;
            (!left_out).then_some((number, asked))
        })
    }

    fn asked(&self, number: usize) -> Asked {
        let (pair, rest) = (number / self.per_pair(), number % self.per_pair());
        let about = match rest % 2 {
            0 => FacetQuestion::First,
            _ => FacetQuestion::Second,
        };
        Asked { pair, facet: rest / 2, about }
    }

    fn number(&self, pair: usize, facet: usize, about: FacetQuestion) -> usize {
        let nth = match about {
            FacetQuestion::First => 0,
            FacetQuestion::Second => 1,
        };
        pair * self.per_pair() + 2 * facet + nth
    }

    /// Asks the questions about these pairs that have no answer among `known`, and tells each answer by
    /// the number of its question as soon as it is there. Equal questions are asked once. A `Break` ends
    /// the work.
    ///
    /// # Errors
    /// [`LabelError::Judge`]; what was told before it holds.
    pub fn ask(
        &self,
        pairs: &[LabelPair],
        known: &BTreeMap<usize, Opinion>,
        tell: &mut dyn FnMut(usize, Opinion) -> ControlFlow<()>,
    ) -> Result<(), LabelError> {
        let parts = self.facets.iter().enumerate().flat_map(|(at, facet)| {
            let rubrics = match &facet.by {
                By::Judge { rubrics, .. } => rubrics.len(),
                By::Reward { .. } => 1,
            };
            (0..rubrics).map(move |drawn| (at, facet, drawn))
        });
        for (at, facet, drawn) in parts {
            let of_facet: Vec<(usize, Asked)> = self
                .questions(pairs.len())
                .filter(|(_, asked)| {
                    asked.facet == at && self.drawn(at, &pairs[asked.pair]) == drawn
                })
                .collect();
            let mut answered: HashMap<ShownPair<'_>, &Opinion> = HashMap::new();
            for (number, asked) in &of_facet {
                if let Some(opinion) = known.get(number).filter(|o| o.value.is_some()) {
                    answered.insert(self.shown(pairs, *asked), opinion);
                }
            }
            // Questions that are open, equal ones together.
            let mut open: Vec<(ShownPair<'_>, Vec<usize>)> = Vec::new();
            let mut place: HashMap<ShownPair<'_>, usize> = HashMap::new();
            for (number, asked) in &of_facet {
                if known.get(number).is_some_and(|opinion| opinion.value.is_some()) {
                    continue;
                }
                let shown = self.shown(pairs, *asked);
                if let Some(opinion) = answered.get(&shown) {
                    // It was paid for once.
                    let cost = opinion.cost.map(|_| 0.);
                    if tell(*number, Opinion { cost, ..(*opinion).clone() }).is_break() {
                        return Ok(());
                    }
                    continue;
                }
                let at = *place.entry(shown).or_insert_with(|| {
                    open.push((shown, Vec::new()));
                    open.len() - 1
                });
                open[at].1.push(*number);
            }
            for chunk in open.chunks(AT_ONCE) {
                let mut ended = false;
                let mut tell_all = |at: usize, opinion: Opinion| {
                    for (nth, number) in chunk[at].1.iter().enumerate() {
                        // It is paid for once.
                        let cost = opinion.cost.map(|cost| if nth == 0 { cost } else { 0. });
                        if tell(*number, Opinion { cost, ..opinion.clone() }).is_break() {
                            ended = true;
                            return ControlFlow::Break(());
                        }
                    }
                    ControlFlow::Continue(())
                };
                let asked = match &facet.by {
                    By::Judge { judge, rubrics, .. } => {
                        let rubric = &rubrics[drawn];
                        let batch: Vec<ShownPair<'_>> =
                            chunk.iter().map(|(shown, _)| *shown).collect();
                        self.judges[*judge].compare_each(rubric, &batch, &mut |at, verdict| {
                            tell_all(at, Opinion::of(verdict))
                        })
                    }
                    By::Reward { reward, .. } => {
                        let batch: Vec<Exchange<'_>> =
                            chunk.iter().map(|(shown, _)| shown.first).collect();
                        reward.score_each(&batch, &mut |at, scores| {
                            let score = scores.total.first().copied().flatten();
                            let reason = scores.reasons.first().map(|(_, reason)| reason.clone());
                            let missing = Opinion::missing(reason.unwrap_or_default());
                            let value = score.map(|score| f64::from(score.get()));
                            let reason = if value.is_some() {
                                String::new()
                            } else {
                                missing.reason.clone()
                            };
                            tell_all(at, Opinion { value, reason, ..missing })
                        })
                    }
                };
                let failed = |source| LabelError::Judge {
                    facet: facet.name.clone(),
                    source: Box::new(source),
                };
                let place = |row: usize| match chunk.get(row).and_then(|(_, all)| all.first()) {
                    Some(&number) => pairs[self.asked(number).pair].record.place(),
                    None => format!("response {row}"),
                };
                asked.map_err(|error| failed(error.in_row(place)))?;
                if ended || Interrupted::check().is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The comparison of a facet that is drawn for a pair, by its place.
    fn drawn(&self, facet: usize, pair: &LabelPair) -> usize {
        match &self.facets[facet].by {
            By::Judge { rubrics, .. } => {
                draw(self.seed, &pair.record.id, 0, rubrics.len()).unwrap_or(0)
            }
            By::Reward { .. } => 0,
        }
    }

    /// The principles that pairs are compared by, for facets with a constitution: the facet's name, and the
    /// principle that is drawn for this pair.
    pub fn principles<'a>(
        &'a self,
        pair: &'a LabelPair,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.facets.iter().enumerate().filter_map(|(at, facet)| {
            let By::Judge { principles, .. } = &facet.by else { return None };
            let principle = principles.get(self.drawn(at, pair))?;
            Some((facet.name.as_str(), principle.as_str()))
        })
    }

    /// The exchanges that a question is about: both in their order, or twice the one that a reward
    /// scores.
    fn shown<'a>(&self, pairs: &'a [LabelPair], asked: Asked) -> ShownPair<'a> {
        let [first, second] = pairs[asked.pair].exchanges();
        let (one, other) = match asked.about {
            FacetQuestion::First => (first, second),
            FacetQuestion::Second => (second, first),
        };
        match self.facets[asked.facet].by {
            By::Judge { .. } => ShownPair { first: one, second: other },
            By::Reward { .. } => ShownPair { first: one, second: one },
        }
    }

    /// The probability that the first response is better by a facet, from the answers to both of its
    /// questions, and those answers.
    ///
    /// # Errors
    /// Why there is none, with the facet's name.
    fn of_facet<'o>(
        &self,
        pair: usize,
        facet: usize,
        opinions: &'o BTreeMap<usize, Opinion>,
    ) -> Result<(f64, Vec<&'o Opinion>), String> {
        let Facet { name, by, clamp, .. } = &self.facets[facet];
        let one = matches!(by, By::Judge { .. }) && self.orders == Orders::One;
        let mut all = Vec::new();
        let mut values = Vec::new();
        for about in &FacetQuestion::BOTH[..if one { 1 } else { 2 }] {
            let opinion = opinions.get(&self.number(pair, facet, *about));
            let opinion = opinion.ok_or_else(|| format!("{name}: {NOT_ASKED}"))?;
            values.push(opinion.value.ok_or_else(|| format!("{name}: {}", opinion.reason))?);
            all.push(opinion);
        }
        let first = match (by, values.as_slice()) {
            (By::Judge { .. }, [first]) => *first,
            // In the other order, what is shown first is the second response.
            (By::Judge { .. }, values) => f64::midpoint(values[0], 1. - values[1]),
            (By::Reward { temperature, .. }, values) => {
                1. / (1. + ((values[1] - values[0]) / temperature).exp())
            }
        };
        let (low, high) = clamp.unwrap_or((0., 1.));
        Ok((first.clamp(low, high), all))
    }

    /// The label of a pair, from the answers to all questions about it.
    ///
    /// # Errors
    /// Why it has none: the facet, and the reason of its judge. A pair of which one order has no verdict
    /// has no label, since the other would bring its position's bias.
    pub fn label(&self, pair: usize, opinions: &BTreeMap<usize, Opinion>) -> Result<Label, String> {
        let (mut sum, mut weights) = (0., 0.);
        let mut label = Label {
            first: 0.5,
            facets: Vec::new(),
            estimate: false,
            reason: String::new(),
            cost: None,
        };
        for (at, Facet { name, weight, .. }) in self.facets.iter().enumerate() {
            let (first, answers) = self.of_facet(pair, at, opinions)?;
            label.facets.push((name.clone(), first));
            let vote = match self.combine {
                FacetCombination::Mean => first,
                FacetCombination::Vote if first == 0.5 => 0.5,
                FacetCombination::Vote => f64::from(u8::from(first > 0.5)),
            };
            sum += weight * vote;
            weights += weight;
            for answer in answers {
                label.estimate |= answer.estimate;
                if label.reason.is_empty() {
                    label.reason.clone_from(&answer.reason);
                }
                label.cost = match (label.cost, answer.cost) {
                    (None, None) => None,
                    (a, b) => Some(a.unwrap_or(0.) + b.unwrap_or(0.)),
                };
            }
        }
        let (low, high) = self.clamp.unwrap_or((0., 1.));
        label.first = (sum / weights).clamp(low, high);
        Ok(label)
    }

    /// The right answers of judges of pairs, from which a judge learns to judge
    /// ([Wang et al. 2024](https://arxiv.org/abs/2408.02666)): each is of one order of a pair.
    /// `first_is_right` has the right response of each pair.
    ///
    /// As many of them have the right response in the first place as in the second, so that no position is
    /// taught: the more frequent place loses some, drawn by the seed and the pair.
    pub fn lessons(
        &self,
        pairs: &[LabelPair],
        first_is_right: &[bool],
        opinions: &BTreeMap<usize, Opinion>,
    ) -> Vec<Lesson> {
        // By the place of the right response: a draw, the number of the question, the lesson.
        let mut by_place: [Vec<(u64, usize, Lesson)>; 2] = [Vec::new(), Vec::new()];
        for (number, asked) in self.questions(pairs.len()) {
            let Facet { name, by, .. } = &self.facets[asked.facet];
            let By::Judge { rubrics, .. } = by else { continue };
            let (pair, Some(opinion)) = (&pairs[asked.pair], opinions.get(&number)) else {
                continue;
            };
            let own_order = asked.about == FacetQuestion::First;
            let right_is_first = first_is_right[asked.pair] == own_order;
            let is_right = match opinion.value {
                Some(p) => (p > 0.5) == right_is_first && p != 0.5,
                None => false,
            };
            if !is_right {
                continue;
            }
            let rubric = &rubrics[self.drawn(asked.facet, pair)];
            let place = usize::from(!right_is_first);
            let id = format!("{}:{name}:{}", pair.record.id, rubric.labels()[place]);
            let lesson = Lesson {
                question: rubric.ask(&self.shown(pairs, asked)),
                answer: rubric.taught(right_is_first, &opinion.reason),
                id,
            };
            let drawn = self.seed.derive(&lesson.id, 0).get();
            by_place[place].push((drawn, number, lesson));
        }
        let of_each = by_place.iter().map(Vec::len).min().unwrap_or(0);
        let mut kept: Vec<(u64, usize, Lesson)> = Vec::new();
        for mut lessons in by_place {
            lessons.sort_by_key(|(drawn, number, _)| (*drawn, *number));
            kept.extend(lessons.into_iter().take(of_each));
        }
        kept.sort_by_key(|(_, number, _)| *number);
        kept.into_iter().map(|(_, _, lesson)| lesson).collect()
    }

    /// The probabilities that a judge of pairs gave the response it was shown first, or the reasons why
    /// it gave none: in the pair's own order, and in the other.
    pub fn shown_first<'o>(
        &self,
        pair: usize,
        facet: usize,
        opinions: &'o BTreeMap<usize, Opinion>,
    ) -> [Result<f64, &'o str>; 2] {
        FacetQuestion::BOTH.map(|about| {
            let opinion = opinions.get(&self.number(pair, facet, about));
            let opinion = opinion.ok_or(NOT_ASKED)?;
            opinion.value.ok_or(opinion.reason.as_str())
        })
    }
}

/// The comparisons of a facet: one, or those of the principles of its constitution.
fn rubrics(facet: &FacetConfig) -> Result<Vec<PairRubric>, rlaif_rewards::ProviderError> {
    let rubrics = match (&facet.facet, &facet.preamble) {
        (Some(name), _) => vec![PairRubric::preset(name)?],
        (None, Some(preamble)) => vec![PairRubric::new(preamble)],
        (None, None) => {
            let compare =
                facet.principles.iter().filter_map(|principle| principle.compare.as_ref());
            compare.map(PairRubric::new).collect()
        }
    };
    let with_examples = |rubric: PairRubric| rubric.with_examples(facet.examples.clone());
    Ok(rubrics.into_iter().map(with_examples).collect())
}

impl std::fmt::Debug for Labeller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let facets: Vec<&str> = self.facets.iter().map(|facet| facet.name.as_str()).collect();
        f.debug_struct("Labeller")
            .field("judges", &self.judges)
            .field("facets", &facets)
            .field("combine", &self.combine)
            .field("orders", &self.orders)
            .field("clamp", &self.clamp)
            .finish()
    }
}

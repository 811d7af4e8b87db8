//! Questions about pairs and lists, and the labels that the answers about pairs make.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use rlaif_core::{
    BadSetting, Exchange, Interrupted, PromptRecord, Reply, RewardModel, Seed, ShownPair,
};
use rlaif_rewards::judge::{
    Comparer, ComparerConfig, Judgement, ListVerdict, PairVerdict, Unanswered,
};
use rlaif_rewards::rubric::{ListRubric, PairAnswer, PairRubric, Question};
use rlaif_rewards::{ProviderError, Surroundings};
use serde::{Deserialize, Serialize};

use crate::constitution::{Principle, draw};
use crate::error::LabelError;
use crate::settings::{FacetCombination, FacetConfig, LabelSettings, Orders, Questions};

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
}

/// Responses to a prompt that a judge is shown at once: a pair, or a list.
pub trait Subject {
    /// The form of its questions.
    const FORM: Questions;

    /// The prompt, with the identity of the pair or list.
    fn record(&self) -> &PromptRecord;

    /// The responses.
    fn responses(&self) -> &[Reply];
}

impl Subject for LabelPair {
    const FORM: Questions = Questions::Pairs;

    fn record(&self) -> &PromptRecord {
        &self.record
    }

    fn responses(&self) -> &[Reply] {
        &self.responses
    }
}

/// The answer to a question about a pair or a list, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opinion {
    /// For a judge, the probability that the response shown first is the better one, or the best of a list; for
    /// a reward, the score of one response; `None` without a verdict.
    pub value: Option<f64>,
    /// For a list, the probabilities of the responses behind the first, in the order shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<f64>,
    /// The total probability of the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<f64>,
    /// True where the judge gives no probabilities.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimate: bool,
    /// The judge's explanation; without a verdict, why there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The answers whose mean this is, where a judge of pairs is asked several times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judgements: Vec<Judgement>,
    /// The cost, where prices are configured; that of answers without a verdict as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
}

impl Opinion {
    fn of(verdict: Result<PairVerdict, Unanswered>) -> Self {
        match verdict {
            Ok(PairVerdict { first, coverage, is_estimate, reason, judgements, cost }) => {
                let (value, others) = (Some(first), Vec::new());
                Self { value, others, coverage, estimate: is_estimate, reason, judgements, cost }
            }
            Err(Unanswered { reason, cost }) => Self { cost, ..Self::missing(reason) },
        }
    }

    fn of_list(verdict: Result<ListVerdict, Unanswered>) -> Self {
        match verdict {
            Ok(verdict) => {
                let others = verdict.shares.get(1..).unwrap_or_default().to_vec();
                Self { others, judgements: Vec::new(), ..Self::of(Ok(verdict.into())) }
            }
            Err(unanswered) => Self::of(Err(unanswered)),
        }
    }

    fn missing(reason: String) -> Self {
        let (others, judgements) = (Vec::new(), Vec::new());
        let (value, coverage, estimate, cost) = (None, None, false, None);
        Self { value, others, coverage, estimate, reason, judgements, cost }
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

/// The lessons from answers about pairs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LessonSet {
    /// The lessons.
    pub lessons: Vec<Lesson>,
    /// The pairs without a right judgement, by their places, and why.
    pub without: Vec<(usize, String)>,
}

/// A question: which facet of which pair or list, and in which turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The pair or list.
    pub item: usize,
    /// The facet.
    pub facet: usize,
    /// The place of the response that a judge is shown first, followed by those behind it and then by those
    /// before it, or that a reward scores.
    pub turn: usize,
}

/// The numbers of questions. A number is the question's place with all turns, so that it stays the same with
/// fewer.
struct Numbers {
    /// For each pair or list, the number of responses of those before it.
    starts: Vec<usize>,
    responses: usize,
    facets: usize,
}

impl Numbers {
    fn of(items: &[impl Subject], facets: usize) -> Self {
        let mut responses = 0;
        let start = |item: &_| {
            let start = responses;
            responses += Subject::responses(item).len();
            start
        };
        let starts = items.iter().map(start).collect();
        Self { starts, responses, facets }
    }

    fn len(&self) -> usize {
        self.responses * self.facets
    }

    fn asked(&self, number: usize) -> Asked {
        let item = self.starts.partition_point(|start| start * self.facets <= number) - 1;
        let start = self.starts[item];
        let end = self.starts.get(item + 1).copied().unwrap_or(self.responses);
        let rest = number - start * self.facets;
        Asked { item, facet: rest / (end - start), turn: rest % (end - start) }
    }
}

enum By {
    /// A judge, by its place, and its comparisons: one of them, drawn for each pair or list.
    Judge {
        judge: usize,
        rubrics: Rubrics,
        /// The names of the principles of a constitution.
        principles: Vec<String>,
    },
    Reward {
        reward: Box<dyn RewardModel>,
        temperature: f64,
    },
}

/// The comparisons of a facet, more than one for a constitution.
enum Rubrics {
    Pairs(Vec<PairRubric>),
    Lists(Vec<ListRubric>),
}

impl Rubrics {
    fn len(&self) -> usize {
        match self {
            Self::Pairs(all) => all.len(),
            Self::Lists(all) => all.len(),
        }
    }
}

pub(crate) struct Facet {
    pub(crate) name: String,
    pub(crate) weight: f64,
    pub(crate) clamp: Option<(f64, f64)>,
    by: By,
}

impl Facet {
    /// For a reward, the difference of scores that counts as one nat.
    pub(crate) fn temperature(&self) -> Option<f64> {
        match self.by {
            By::Judge { .. } => None,
            By::Reward { temperature, .. } => Some(temperature),
        }
    }
}

/// Labels pairs, or lists.
pub struct Labeller {
    judges: Vec<Comparer>,
    pub(crate) facets: Vec<Facet>,
    pub(crate) combine: FacetCombination,
    questions: Questions,
    orders: Orders,
    rotations: Option<usize>,
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
                    let rubrics =
                        match settings.questions {
                            Questions::Pairs => rubrics(facet, PairRubric::preset, |text: &str| {
                                PairRubric::new(text)
                            })
                            .and_then(|all| {
                                let asked = |rubric: PairRubric| {
                                    config.rubric(rubric.with_examples(facet.examples.clone()))
                                };
                                all.into_iter().map(asked).collect()
                            })
                            .map(Rubrics::Pairs),
                            Questions::Lists => rubrics(facet, ListRubric::preset, |text: &str| {
                                ListRubric::new(text)
                            })
                            .and_then(|all| {
                                let asked = |rubric: ListRubric| {
                                    config.list_rubric(rubric.with_examples(facet.examples.clone()))
                                };
                                all.into_iter().map(asked).collect()
                            })
                            .map(Rubrics::Lists),
                        };
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
            questions: settings.questions,
            orders: settings.orders,
            rotations: settings.rotations,
            clamp: settings.clamp,
            seed: settings.seed,
        })
    }

    /// A labeller of pairs by one facet and a judge at hand, in both orders.
    pub fn of_judge(judge: Comparer, facet: impl Into<String>, rubric: PairRubric) -> Self {
        Self::of_rubrics(judge, facet.into(), Questions::Pairs, Rubrics::Pairs(vec![rubric]))
    }

    /// A labeller of lists by one facet and a judge at hand, in all rotations.
    pub fn of_list_judge(judge: Comparer, facet: impl Into<String>, rubric: ListRubric) -> Self {
        Self::of_rubrics(judge, facet.into(), Questions::Lists, Rubrics::Lists(vec![rubric]))
    }

    fn of_rubrics(judge: Comparer, name: String, questions: Questions, rubrics: Rubrics) -> Self {
        let by = By::Judge { judge: 0, rubrics, principles: Vec::new() };
        Self {
            judges: vec![judge],
            facets: vec![Facet { name, weight: 1., clamp: None, by }],
            combine: FacetCombination::Mean,
            questions,
            orders: Orders::Both,
            rotations: None,
            clamp: None,
            seed: Seed::default(),
        }
    }

    /// The same labeller with another number of rotations of lists; `None` for all.
    #[must_use]
    pub fn rotated(self, rotations: Option<usize>) -> Self {
        Self { rotations, ..self }
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

    /// The questions about these pairs or lists, by their numbers. A number is the question's place with all
    /// orders or rotations, so that it stays the same with fewer.
    pub fn questions<T: Subject>(&self, items: &[T]) -> Vec<(usize, Asked)> {
        let numbers = Numbers::of(items, self.facets.len());
        let asked = |number| {
            let asked = numbers.asked(number);
            let turns = self.turns(asked.facet, items[asked.item].responses().len(), T::FORM);
            turns.contains(&asked.turn).then_some((number, asked))
        };
        (0..numbers.len()).filter_map(asked).collect()
    }

    /// The turns of a facet's questions about so many responses. A part of the rotations of a list is evenly
    /// spread over them, from the list's own order on.
    fn turns(&self, facet: usize, responses: usize, form: Questions) -> Vec<usize> {
        if self.facets[facet].temperature().is_some() {
            return (0..responses).collect();
        }
        let of_all = match (form, self.orders) {
            (Questions::Pairs, Orders::Both) => responses,
            (Questions::Pairs, Orders::One) => 1,
            (Questions::Lists, _) => self.rotations.map_or(responses, |n| n.min(responses)),
        };
        (0..of_all).map(|nth| nth * responses / of_all).collect()
    }

    /// The answers of a facet to the questions about the responses `start ..` of all pairs or lists, with
    /// their turns.
    ///
    /// # Errors
    /// Why there is none of them, with the facet's name.
    pub(crate) fn answers<'o>(
        &self,
        (start, responses, form): (usize, usize, Questions),
        facet: usize,
        opinions: &'o BTreeMap<usize, Opinion>,
    ) -> Result<Vec<(usize, f64, &'o Opinion)>, String> {
        let name = &self.facets[facet].name;
        let answer = |turn: usize| {
            let number = start * self.facets.len() + responses * facet + turn;
            let opinion = opinions.get(&number).ok_or_else(|| format!("{name}: {NOT_ASKED}"))?;
            let value = opinion.value.ok_or_else(|| format!("{name}: {}", opinion.reason))?;
            Ok((turn, value, opinion))
        };
        self.turns(facet, responses, form).into_iter().map(answer).collect()
    }

    /// The number of labels of the judge of a facet of lists: the least of its comparisons.
    pub(crate) fn labels(&self, facet: usize) -> Option<usize> {
        match &self.facets[facet].by {
            By::Judge { rubrics: Rubrics::Lists(rubrics), .. } => {
                rubrics.iter().map(|rubric| rubric.labels().len()).min()
            }
            By::Judge { .. } | By::Reward { .. } => None,
        }
    }

    /// Asks the questions about these pairs or lists that have no answer among `known`, and tells each answer
    /// by the number of its question as soon as it is there. Equal questions are asked once. A `Break` ends
    /// the work.
    ///
    /// # Errors
    /// [`LabelError::Judge`]; what was told before it holds. [`LabelError::Setting`] for pairs where
    /// `questions` are lists, and for lists where they are pairs.
    pub fn ask<T: Subject>(
        &self,
        items: &[T],
        known: &BTreeMap<usize, Opinion>,
        tell: &mut dyn FnMut(usize, Opinion) -> ControlFlow<()>,
    ) -> Result<(), LabelError> {
        if T::FORM != self.questions {
            let (found, expected) = match self.questions {
                Questions::Pairs => ("`pairs` for lists", "`lists`"),
                Questions::Lists => ("`lists` for pairs", "`pairs`"),
            };
            return Err(BadSetting::new("questions", found, expected).into());
        }
        let numbers = Numbers::of(items, self.facets.len());
        let questions = self.questions(items);
        let parts = self.facets.iter().enumerate().flat_map(|(at, facet)| {
            let rubrics = match &facet.by {
                By::Judge { rubrics, .. } => rubrics.len(),
                By::Reward { .. } => 1,
            };
            (0..rubrics).map(move |drawn| (at, facet, drawn))
        });
        for (at, facet, drawn) in parts {
            let of_facet: Vec<(usize, Asked)> = questions
                .iter()
                .filter(|(_, asked)| {
                    asked.facet == at && self.drawn(at, &items[asked.item]) == drawn
                })
                .copied()
                .collect();
            let mut answered: HashMap<Vec<Exchange<'_>>, &Opinion> = HashMap::new();
            for (number, asked) in &of_facet {
                if let Some(opinion) = known.get(number).filter(|o| o.value.is_some()) {
                    answered.insert(self.shown(&items[asked.item], *asked), opinion);
                }
            }
            // Questions that are open, equal ones together.
            let mut open: Vec<(Vec<Exchange<'_>>, Vec<usize>)> = Vec::new();
            let mut place: HashMap<Vec<Exchange<'_>>, usize> = HashMap::new();
            for (number, asked) in &of_facet {
                if known.get(number).is_some_and(|opinion| opinion.value.is_some()) {
                    continue;
                }
                let shown = self.shown(&items[asked.item], *asked);
                if let Some(opinion) = answered.get(&shown) {
                    // It was paid for once.
                    let cost = opinion.cost.map(|_| 0.);
                    if tell(*number, Opinion { cost, ..(*opinion).clone() }).is_break() {
                        return Ok(());
                    }
                    continue;
                }
                let at = *place.entry(shown).or_insert_with_key(|shown| {
                    open.push((shown.clone(), Vec::new()));
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
                        let (judge, batch) = (&self.judges[*judge], chunk.iter());
                        match rubrics {
                            Rubrics::Pairs(rubrics) => {
                                let batch: Vec<ShownPair<'_>> =
                                    batch.map(|(shown, _)| pair_of(shown)).collect();
                                judge.compare_each(&rubrics[drawn], &batch, &mut |at, verdict| {
                                    tell_all(at, Opinion::of(verdict))
                                })
                            }
                            Rubrics::Lists(rubrics) => {
                                let batch: Vec<Vec<Exchange<'_>>> =
                                    batch.map(|(shown, _)| shown.clone()).collect();
                                judge.choose_each_list(
                                    &rubrics[drawn],
                                    &batch,
                                    &mut |at, verdict| tell_all(at, Opinion::of_list(verdict)),
                                )
                            }
                        }
                    }
                    By::Reward { reward, .. } => {
                        let batch: Vec<Exchange<'_>> =
                            chunk.iter().map(|(shown, _)| shown[0]).collect();
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
                    Some(&number) => items[numbers.asked(number).item].record().place(),
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

    /// The comparison of a facet that is drawn for a pair or list, by its place.
    fn drawn(&self, facet: usize, item: &impl Subject) -> usize {
        match &self.facets[facet].by {
            By::Judge { rubrics, .. } => {
                draw(self.seed, &item.record().id, 0, rubrics.len()).unwrap_or(0)
            }
            By::Reward { .. } => 0,
        }
    }

    /// The principles of comparisons, for facets with a constitution: the facet's name, and the principle that is
    /// drawn for this pair or list.
    pub fn principles<'a>(
        &'a self,
        item: &'a impl Subject,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.facets.iter().enumerate().filter_map(|(at, facet)| {
            let By::Judge { principles, .. } = &facet.by else { return None };
            let principle = principles.get(self.drawn(at, item))?;
            Some((facet.name.as_str(), principle.as_str()))
        })
    }

    /// The exchanges that a question is about: all in the order shown, or the one that a reward scores.
    fn shown<'a>(&self, item: &'a impl Subject, asked: Asked) -> Vec<Exchange<'a>> {
        let replies = item.responses();
        let of_turn = match self.facets[asked.facet].by {
            By::Judge { .. } => replies.len(),
            By::Reward { .. } => 1,
        };
        let rotated = replies[asked.turn..].iter().chain(&replies[..asked.turn]);
        rotated.take(of_turn).map(|reply| item.record().answered(reply)).collect()
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
        let answers = self.answers((2 * pair, 2, Questions::Pairs), facet, opinions)?;
        let values: Vec<f64> = answers.iter().map(|(_, value, _)| *value).collect();
        let first = match (self.facets[facet].temperature(), values.as_slice()) {
            (None, [first]) => *first,
            // In the other order, what is shown first is the second response.
            (None, values) => f64::midpoint(values[0], 1. - values[1]),
            (Some(temperature), values) => {
                1. / (1. + ((values[1] - values[0]) / temperature).exp())
            }
        };
        Ok((first, answers.into_iter().map(|(_, _, opinion)| opinion).collect()))
    }

    /// The label of a pair, from the answers to all questions about it.
    ///
    /// # Errors
    /// Why it has none: the facet, and the reason of its judge. A pair of which one order has no verdict
    /// has no label, since the other would bring its position's bias.
    pub fn label(&self, pair: usize, opinions: &BTreeMap<usize, Opinion>) -> Result<Label, String> {
        let (mut all, mut answers) = (Vec::new(), Vec::new());
        for facet in 0..self.facets.len() {
            let (first, of_facet) = self.of_facet(pair, facet, opinions)?;
            all.push(first);
            answers.extend(of_facet);
        }
        let mut label = self.combined(all);
        for answer in answers {
            label.estimate |= answer.estimate;
            if label.reason.is_empty() {
                label.reason.clone_from(&answer.reason);
            }
            add_cost(&mut label.cost, answer.cost);
        }
        Ok(label)
    }

    /// The label of these probabilities by facet that the first response is better, without estimate, reason and
    /// cost.
    pub(crate) fn combined(&self, facets: Vec<f64>) -> Label {
        let (mut sum, mut weights) = (0., 0.);
        let mut of_facets = Vec::with_capacity(facets.len());
        for (Facet { name, weight, clamp, .. }, first) in self.facets.iter().zip(facets) {
            let (low, high) = clamp.unwrap_or((0., 1.));
            let first = first.clamp(low, high);
            of_facets.push((name.clone(), first));
            let vote = match self.combine {
                FacetCombination::Mean => first,
                FacetCombination::Vote if first == 0.5 => 0.5,
                FacetCombination::Vote => f64::from(u8::from(first > 0.5)),
            };
            sum += weight * vote;
            weights += weight;
        }
        let (low, high) = self.clamp.unwrap_or((0., 1.));
        Label {
            first: (sum / weights).clamp(low, high),
            facets: of_facets,
            estimate: false,
            reason: String::new(),
            cost: None,
        }
    }

    /// The right answers of judges of pairs, from which a judge learns to judge
    /// ([Wang et al. 2024](https://arxiv.org/abs/2408.02666)): each is of one order of a pair.
    /// `first_is_right` has the right response of each pair.
    ///
    /// Of several judgements on one question, a right one is drawn by the seed. As many lessons have the right
    /// response in the first place as in the second, so that no position is taught: the more frequent place
    /// loses some, drawn by the seed and the pair.
    pub fn lessons(
        &self,
        pairs: &[LabelPair],
        first_is_right: &[bool],
        opinions: &BTreeMap<usize, Opinion>,
    ) -> LessonSet {
        // By the place of the right response: a draw, the number of the question, the lesson.
        let mut by_place: [Vec<(u64, usize, Lesson)>; 2] = [Vec::new(), Vec::new()];
        // For each pair its right judgements and all of them, and the first reason for none.
        let mut judged: Vec<(usize, usize, Option<&str>)> = vec![(0, 0, None); pairs.len()];
        for (number, asked) in self.questions(pairs) {
            let Facet { name, by, .. } = &self.facets[asked.facet];
            let By::Judge { rubrics: Rubrics::Pairs(rubrics), .. } = by else { continue };
            let (pair, Some(opinion)) = (&pairs[asked.item], opinions.get(&number)) else {
                continue;
            };
            let right_is_first = first_is_right[asked.item] == (asked.turn == 0);
            let single = opinion.value.map(|first| (first, opinion.reason.as_str()));
            let all: Vec<(f64, &str)> = match opinion.judgements.as_slice() {
                [] => single.into_iter().collect(),
                all => all.iter().map(|one| (one.first, one.reason.as_str())).collect(),
            };
            let right: Vec<&str> = all
                .iter()
                .filter(|(first, _)| (*first > 0.5) == right_is_first && *first != 0.5)
                .map(|(_, reason)| *reason)
                .collect();
            let (of_right, of_all, why) = &mut judged[asked.item];
            *of_right += right.len();
            *of_all += all.len();
            if opinion.value.is_none() {
                why.get_or_insert(&opinion.reason);
            }
            let rubric = &rubrics[self.drawn(asked.facet, pair)];
            let place = usize::from(!right_is_first);
            let id = format!("{}:{name}:{}", pair.record.id, rubric.labels()[place]);
            let Some(nth) = self.seed.derive(&id, 1).get().checked_rem(right.len() as u64) else {
                continue;
            };
            let lesson = Lesson {
                question: rubric.ask(&pair_of(&self.shown(pair, asked))),
                answer: rubric.taught(right_is_first, right[nth as usize]),
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
        let lessons = kept.into_iter().map(|(_, _, lesson)| lesson).collect();
        let without = judged.into_iter().enumerate().filter(|(_, (right, _, _))| *right == 0);
        let why = |(of_right, of_all, why): (usize, usize, Option<&str>)| match (of_all, why) {
            (0, Some(why)) => why.to_owned(),
            (0, None) => NOT_ASKED.to_owned(),
            (all, _) => format!("{of_right} of {all} judgements are right"),
        };
        let without = without.map(|(pair, counts)| (pair, why(counts))).collect();
        LessonSet { lessons, without }
    }

    /// The probabilities that a judge of pairs gave the response it was shown first, or the reasons why
    /// it gave none: in the pair's own order, and in the other.
    pub fn shown_first<'o>(
        &self,
        pair: usize,
        facet: usize,
        opinions: &'o BTreeMap<usize, Opinion>,
    ) -> [Result<f64, &'o str>; 2] {
        [0, 1].map(|turn| {
            let opinion = opinions.get(&(2 * (pair * self.facets.len() + facet) + turn));
            let opinion = opinion.ok_or(NOT_ASKED)?;
            opinion.value.ok_or(opinion.reason.as_str())
        })
    }
}

/// The comparisons of a facet: one, or those of the principles of its constitution.
fn rubrics<R>(
    facet: &FacetConfig,
    preset: impl Fn(&str) -> Result<R, ProviderError>,
    new: impl Fn(&str) -> R,
) -> Result<Vec<R>, ProviderError> {
    match (&facet.facet, &facet.preamble) {
        (Some(name), _) => Ok(vec![preset(name)?]),
        (None, Some(preamble)) => Ok(vec![new(preamble)]),
        (None, None) => {
            let compare =
                facet.principles.iter().filter_map(|principle| principle.compare.as_deref());
            Ok(compare.map(new).collect())
        }
    }
}

fn pair_of<'a>(shown: &[Exchange<'a>]) -> ShownPair<'a> {
    ShownPair { first: shown[0], second: shown[1] }
}

pub(crate) fn add_cost(sum: &mut Option<f64>, cost: Option<f64>) {
    *sum = match (*sum, cost) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0.) + b.unwrap_or(0.)),
    };
}

impl std::fmt::Debug for Labeller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let facets: Vec<&str> = self.facets.iter().map(|facet| facet.name.as_str()).collect();
        f.debug_struct("Labeller")
            .field("judges", &self.judges)
            .field("facets", &facets)
            .field("combine", &self.combine)
            .field("questions", &self.questions)
            .field("orders", &self.orders)
            .field("rotations", &self.rotations)
            .field("clamp", &self.clamp)
            .finish()
    }
}

//! Judges of pairs and lists: a language model that is shown two responses, or several.

use std::ops::ControlFlow;

use rlaif_core::{BadSetting, Exchange, PairJudge, RewardError, ShownPair};
#[cfg(feature = "neural")]
use rlaif_core::{Interrupted, Seed};
#[cfg(feature = "neural")]
use rlaif_lm::{
    Draw, RowIds,
    generate::{Ask, GenerationConfig, Sampling},
};
use serde::{Deserialize, Serialize};

use super::client::{LlmAsk, LlmClient, Unanswered};
use super::config::{ApiConfig, LlmApi};
use super::keys::{at_least_one, with_service_keys};
#[cfg(feature = "neural")]
use super::local::{LocalLlm, failed};
use super::spending::Usage;
#[cfg(feature = "neural")]
use crate::neural::{
    LocalModel,
    asker::{Labels, PolicyAsker},
};
#[cfg(feature = "neural")]
use crate::rubric::ENDING;
use crate::rubric::{Answer, Comparison, ListChoice, ListRubric, PairAnswer, PairRubric, Question};
use crate::{ProviderError, Surroundings};

/// The longest explanation of a policy, in tokens, by default.
#[cfg(feature = "neural")]
const MAX_TOKENS: u32 = 128;

with_service_keys! {
/// A judge of pairs: who judges, and how it is asked. What makes a response the better one is a
/// [`PairRubric`].
pub struct ComparerConfig {
    /// Name in reports and rows; the model's by default.
    pub name: Option<String>,
    /// The form of the answer: the label of the better response alone, or an explanation before it.
    #[serde(default)]
    pub answer: PairAnswer,
    /// The labels of responses: two for pairs, `1` and `2` by default; for lists at least as many as a prompt has
    /// responses, `A` to `Z` by default.
    pub labels: Option<Vec<String>>,
    /// The least probability on the labels, where the judge gives probabilities; 0.5 by default.
    pub min_coverage: Option<f64>,
    /// Number of answers to each question, whose mean counts, where the judge gives no probabilities or explains
    /// first; 1 by default. Several need a temperature.
    pub samples: Option<u32>,
    /// Number of times that an answer without a label is asked for again; 1 by default.
    pub reasks: Option<u32>,
}
/// The judge; not a reward server, which compares nothing.
api: ApiConfig
}

impl ComparerConfig {
    /// The policy that judges, if it is one.
    #[cfg(feature = "neural")]
    pub fn local_model(&self) -> Option<LocalModel<'_>> {
        let explanation = self.sampling.max_new_tokens.unwrap_or(MAX_TOKENS);
        self.api.local_model(match self.answer {
            PairAnswer::Label => None,
            PairAnswer::Explained => Some(explanation),
        })
    }

    /// Every setting that may name a folder on this disk.
    pub fn locations(&mut self) -> Vec<&mut String> {
        self.api.locations()
    }

    /// A rubric as this judge is asked by it.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for labels or a coverage that cannot be.
    pub fn rubric(&self, rubric: PairRubric) -> Result<PairRubric, ProviderError> {
        let mut rubric = rubric.answering(self.answer);
        if let Some(labels) = &self.labels {
            let two = <[String; 2]>::try_from(labels.clone()).map_err(|labels| {
                let found = format!("{} labels", labels.len());
                let expected = "the labels of two responses; more of them are for lists";
                ProviderError::Setting(BadSetting::new("labels", found, expected))
            })?;
            rubric = rubric.labelled(two)?;
        }
        if let Some(least) = self.min_coverage {
            rubric = rubric.with_min_coverage(least)?;
        }
        Ok(rubric)
    }

    /// A rubric of lists as this judge is asked by it.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] for labels or a coverage that cannot be.
    pub fn list_rubric(&self, rubric: ListRubric) -> Result<ListRubric, ProviderError> {
        let mut rubric = rubric.answering(self.answer);
        if let Some(labels) = &self.labels {
            rubric = rubric.labelled(labels.clone())?;
        }
        if let Some(least) = self.min_coverage {
            rubric = rubric.with_min_coverage(least)?;
        }
        Ok(rubric)
    }

    /// The judge that this describes.
    ///
    /// # Errors
    /// [`ProviderError`] for an unavailable judge, and for settings without effect on it.
    pub fn build(&self, around: &Surroundings<'_>) -> Result<Comparer, ProviderError> {
        let service = self.service(around.folder());
        service.check()?;
        let samples = self.samples.unwrap_or(1);
        at_least_one("samples", samples as usize, 1_000)?;
        let refused = |setting: &'static str, expected: &'static str, found: String| {
            Err(ProviderError::Setting(BadSetting::new(setting, found, expected)))
        };
        if samples > 1 && self.sampling.temperature.is_none_or(|temperature| temperature == 0.) {
            let expected = "1, or more where `sampling.temperature` is above 0";
            return refused("samples", expected, samples.to_string());
        }
        let (backend, model) = match &self.api {
            ApiConfig::Llm(api) => {
                // Several samples are for judges without probabilities.
                let log_probs = matches!(api, LlmApi::OpenAi(_)) && samples == 1;
                let client = LlmClient::of(&service, api, log_probs, around.keys())?;
                let model = client.model().to_owned();
                (Backend::Llm { client: Box::new(client), log_probs }, model)
            }
            ApiConfig::RewardServer(_) => {
                let expected = "a language model, which compares two responses";
                return refused("api.kind", expected, "`reward-server`".to_owned());
            }
            #[cfg(feature = "neural")]
            ApiConfig::Policy(api) => {
                if samples > 1 && self.answer == PairAnswer::Label {
                    let expected = "1 for a policy without explanations, whose probabilities are \
                                    known, or `answer = \"explained\"`";
                    return refused("samples", expected, samples.to_string());
                }
                let local = LocalLlm::build(&service, api, MAX_TOKENS, around)?;
                (Backend::Policy(Box::new(local)), api.model.clone())
            }
        };
        Ok(Comparer { name: self.name.clone().unwrap_or(model), samples, backend })
    }
}

/// One of several answers to a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The probability that the response shown first is the better one, or the best of a list.
    pub first: f64,
    /// The explanation, if the judge gives one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A verdict on a pair.
#[derive(Debug, Clone, PartialEq)]
pub struct PairVerdict {
    /// The probability that the response shown first is the better one.
    pub first: f64,
    /// The total probability of the two labels; `None` for an estimate.
    pub coverage: Option<f64>,
    /// True where the judge gave no probabilities, and `first` is the share of its answers.
    pub is_estimate: bool,
    /// The judge's explanation, if it gives one.
    pub reason: String,
    /// The answers whose mean this is, where there are several.
    pub judgements: Vec<Judgement>,
    /// The cost, where prices are configured.
    pub cost: Option<f64>,
}

impl From<ListVerdict> for PairVerdict {
    fn from(verdict: ListVerdict) -> Self {
        let ListVerdict { shares, coverage, is_estimate, reason, judgements, cost } = verdict;
        let first = shares.first().copied().unwrap_or(0.5);
        Self { first, coverage, is_estimate, reason, judgements, cost }
    }
}

/// A verdict on several responses.
#[derive(Debug, Clone, PartialEq)]
pub struct ListVerdict {
    /// For each response, in the order shown, the probability that it is the best one.
    pub shares: Vec<f64>,
    /// The total probability of the labels; `None` for an estimate.
    pub coverage: Option<f64>,
    /// True where the judge gave no probabilities, and `shares` are those of its answers.
    pub is_estimate: bool,
    /// The judge's explanation, if it gives one.
    pub reason: String,
    /// The answers whose mean this is, where there are several.
    pub judgements: Vec<Judgement>,
    /// The cost, where prices are configured.
    pub cost: Option<f64>,
}

/// Takes the verdict on a list, by its place.
pub type TellList<'a> = dyn FnMut(usize, Result<ListVerdict, Unanswered>) -> ControlFlow<()> + 'a;

/// Takes the verdict on a pair, by its place.
pub type TellVerdict<'a> =
    dyn FnMut(usize, Result<PairVerdict, Unanswered>) -> ControlFlow<()> + 'a;

/// A language model that compares two responses, behind an API or of this library.
#[derive(Debug)]
pub struct Comparer {
    name: String,
    samples: u32,
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    Llm {
        client: Box<LlmClient>,
        log_probs: bool,
    },
    #[cfg(feature = "neural")]
    Policy(Box<LocalLlm>),
}

impl Comparer {
    /// A policy of this library, which reads and writes by `codec`.
    #[cfg(feature = "neural")]
    pub fn of_policy(
        name: impl Into<String>,
        policy: impl rlaif_lm::Policy + 'static,
        codec: impl rlaif_core::TextCodec + 'static,
    ) -> Self {
        let how = GenerationConfig {
            max_new_tokens: MAX_TOKENS as usize,
            sampling: Sampling::Greedy,
            ..GenerationConfig::default()
        };
        let asker = PolicyAsker::new(policy, codec);
        let local = LocalLlm { asker, how, seed: Seed::new(0) };
        Self { name: name.into(), samples: 1, backend: Backend::Policy(Box::new(local)) }
    }

    /// The name in reports and rows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Usage so far, of a judge behind an API.
    pub fn usage(&self) -> Option<Usage> {
        match &self.backend {
            Backend::Llm { client, .. } => Some(client.usage()),
            #[cfg(feature = "neural")]
            Backend::Policy(_) => None,
        }
    }

    /// Compares pairs, in the order in which each is given, and tells each verdict as soon as it is
    /// there. A `Break` ends the work.
    ///
    /// # Errors
    /// [`RewardError`] when no pair can be compared; what was told before it holds.
    pub fn compare_each(
        &self,
        rubric: &PairRubric,
        batch: &[ShownPair<'_>],
        tell: &mut TellVerdict<'_>,
    ) -> Result<(), RewardError> {
        let shown: Vec<(&str, Vec<&str>)> = batch
            .iter()
            .map(|ShownPair { first, second }| {
                (first.prompt, vec![first.response, second.response])
            })
            .collect();
        self.choose_each(rubric.comparison(), &shown, &mut |at, verdict| {
            tell(at, verdict.map(PairVerdict::from))
        })?;
        RewardError::if_interrupted(&self.name)
    }

    /// Chooses among several responses to each prompt, in the order in which they are given, and tells each
    /// verdict as soon as it is there. A `Break` ends the work.
    ///
    /// # Errors
    /// [`RewardError`] when no question can be asked, such as for more responses than labels; what was told
    /// before it holds.
    pub fn choose_each_list(
        &self,
        rubric: &ListRubric,
        batch: &[Vec<Exchange<'_>>],
        tell: &mut TellList<'_>,
    ) -> Result<(), RewardError> {
        let failed = |error: BadSetting| RewardError::Failed {
            model: self.name.clone(),
            source: Box::new(ProviderError::Setting(error)),
        };
        let mut sizes: Vec<usize> = batch.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            let known = rubric.labels().len();
            if !(2..=known).contains(&size) {
                let expected = format!("2 to {known} responses, as many as there are labels");
                return Err(failed(BadSetting::new("responses", size, expected)));
            }
            let of_size = batch.iter().enumerate().filter(|(_, list)| list.len() == size);
            let (places, shown): (Vec<usize>, Vec<(&str, Vec<&str>)>) = of_size
                .map(|(at, list)| {
                    (at, (list[0].prompt, list.iter().map(|shown| shown.response).collect()))
                })
                .unzip();
            let mut ended = false;
            self.choose_each(&rubric.comparison().of(size), &shown, &mut |at, verdict| {
                let flow = tell(places[at], verdict);
                ended |= flow.is_break();
                flow
            })?;
            RewardError::if_interrupted(&self.name)?;
            if ended {
                break;
            }
        }
        Ok(())
    }

    /// The choices among as many responses to each prompt as the comparison has labels.
    fn choose_each(
        &self,
        comparison: &Comparison,
        shown: &[(&str, Vec<&str>)],
        tell: &mut TellList<'_>,
    ) -> Result<(), RewardError> {
        let questions = |comparison: &Comparison| -> Vec<Question> {
            shown.iter().map(|(prompt, responses)| comparison.ask(prompt, responses)).collect()
        };
        match &self.backend {
            Backend::Llm { client, log_probs } => {
                self.ask_each(client, *log_probs, comparison, questions(comparison), tell)
            }
            #[cfg(feature = "neural")]
            Backend::Policy(local) => {
                let comparison = comparison.breaking_up(local.asker.controls());
                let questions = questions(&comparison);
                local.choose_each(&self.name, (&comparison, self.samples), &questions, tell)
            }
        }
    }

    fn ask_each(
        &self,
        client: &LlmClient,
        log_probs: bool,
        comparison: &Comparison,
        questions: Vec<Question>,
        tell: &mut TellList<'_>,
    ) -> Result<(), RewardError> {
        let samples = self.samples as usize;
        let mut told: Vec<Vec<Sampled>> = vec![Vec::new(); questions.len()];
        let shape = comparison.shape(log_probs);
        let asks: Vec<LlmAsk> = questions
            .into_iter()
            .flat_map(|question| {
                (0..self.samples).map(move |sample| LlmAsk {
                    question: question.clone(),
                    shape,
                    sample,
                })
            })
            .collect();
        let read = |answer: &Answer| comparison.read(answer);
        client
            .ask_each(&asks, &read, &mut |ask, answer| {
                let list = ask / samples;
                told[list].push(match answer {
                    Ok(answer) => Sampled { choice: Ok(answer.value), cost: answer.cost },
                    Err(Unanswered { reason, cost }) => Sampled { choice: Err(reason), cost },
                });
                if told[list].len() < samples {
                    return ControlFlow::Continue(());
                }
                tell(list, verdict(&told[list]))
            })
            .map_err(|source| RewardError::Failed {
                model: self.name.clone(),
                source: Box::new(source),
            })
    }
}

/// One answer of several to a question.
#[derive(Debug, Clone)]
struct Sampled {
    choice: Result<ListChoice, String>,
    cost: Option<f64>,
}

/// The mean of the answers that have a label, or why none has; the cost is that of all answers.
fn verdict(answers: &[Sampled]) -> Result<ListVerdict, Unanswered> {
    let cost = answers.iter().filter_map(|answer| answer.cost).reduce(|a, b| a + b);
    let choices: Vec<&ListChoice> =
        answers.iter().filter_map(|answer| answer.choice.as_ref().ok()).collect();
    let Some(some) = choices.first() else {
        let reason = answers.iter().find_map(|answer| answer.choice.as_ref().err());
        return Err(Unanswered { reason: reason.cloned().unwrap_or_default(), cost });
    };
    let mean = |at: usize| {
        choices.iter().map(|choice| choice.shares[at]).sum::<f64>() / choices.len() as f64
    };
    let judgement = |choice: &&ListChoice| Judgement {
        first: choice.shares.first().copied().unwrap_or(0.5),
        reason: choice.reason.clone(),
    };
    let judgements = match answers {
        [_] => Vec::new(),
        _ => choices.iter().map(judgement).collect(),
    };
    Ok(ListVerdict {
        shares: (0..some.shares.len()).map(mean).collect(),
        coverage: some.coverage,
        is_estimate: some.coverage.is_none(),
        reason: some.reason.clone(),
        judgements,
        cost,
    })
}

#[cfg(feature = "neural")]
impl LocalLlm {
    fn choose_each(
        &self,
        name: &str,
        (comparison, samples): (&Comparison, u32),
        questions: &[Question],
        tell: &mut TellList<'_>,
    ) -> Result<(), RewardError> {
        let asker = &self.asker;
        let labels = Labels::of(asker, comparison.labels()).map_err(failed(name))?;
        if let Some(label) = labels.missing() {
            return Err(failed(name)(ProviderError::Setting(BadSetting::new(
                "labels",
                format!("`{}`", comparison.labels()[label]),
                "labels that the judge's tokenizer can write",
            ))));
        }
        let new = if comparison.explains() { self.how.max_new_tokens } else { 0 };
        let mut open: Vec<(usize, u32, Vec<u32>)> = Vec::new();
        for (at, question) in questions.iter().enumerate() {
            let ids = asker.encode(question, "").map_err(failed(name))?;
            match asker.fits(&ids, new + labels.longest()) {
                Ok(()) => open.extend((0..samples).map(|sample| (at, sample, ids.clone()))),
                Err(reason) => {
                    if tell(at, Err(reason.into())).is_break() {
                        return Ok(());
                    }
                }
            }
        }
        let mut answers: Vec<Vec<Sampled>> = vec![Vec::new(); questions.len()];
        let mut take = |at: usize, choice: Result<ListChoice, String>| {
            answers[at].push(Sampled { choice, cost: None });
            match answers[at].len() == samples as usize {
                true => tell(at, verdict(&answers[at])),
                false => ControlFlow::Continue(()),
            }
        };
        for rows in open.chunks(self.how.batch_size) {
            if Interrupted::check().is_err() {
                return Ok(());
            }
            let (prompts, reasons) = if comparison.explains() {
                self.explained(rows).map_err(failed(name))?
            } else {
                let prompts = rows.iter().map(|(_, _, ids)| ids.clone()).collect();
                (prompts, vec![String::new(); rows.len()])
            };
            let mut asked = Vec::with_capacity(rows.len());
            let mut fitting = Vec::with_capacity(rows.len());
            for (((at, _, _), ids), reason) in rows.iter().zip(prompts).zip(reasons) {
                // An explanation may have more tokens when it is encoded again.
                match asker.fits(&ids, labels.longest()) {
                    Ok(()) => {
                        asked.push((at, reason));
                        fitting.push(ids);
                    }
                    Err(why) => {
                        if take(*at, Err(why)).is_break() {
                            return Ok(());
                        }
                    }
                }
            }
            if fitting.is_empty() {
                continue;
            }
            let masses = asker.label_masses(&fitting, &labels).map_err(failed(name))?;
            for ((at, reason), masses) in asked.into_iter().zip(masses) {
                let choice = comparison.choose(&masses, reason);
                if take(*at, choice.map_err(|unread| unread.to_string())).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Prompts with the policy's explanations and the words that a label follows, and the explanations. Each
    /// prompt has the number of its sample.
    fn explained(
        &self,
        prompts: &[(usize, u32, Vec<u32>)],
    ) -> Result<(Vec<Vec<u32>>, Vec<String>), rlaif_lm::LmError> {
        let rows: Vec<Ask> = prompts
            .iter()
            .map(|(_, sample, ids)| Ask {
                id: RowIds::of_tokens(ids, *sample),
                prompt: ids.clone(),
                max_new_tokens: None,
            })
            .collect();
        let draw = Draw { seed: self.seed, step: 0 };
        let written = self.asker.write(&rows, &self.how, draw)?;
        let mut longer = Vec::with_capacity(prompts.len());
        let mut reasons = Vec::with_capacity(prompts.len());
        for ((_, _, ids), written) in prompts.iter().zip(written) {
            // It may have given its verdict already: that is asked for by its probability.
            let lower = written.text.to_ascii_lowercase();
            let end = lower.find("preferred response=");
            let end = end.or_else(|| lower.rfind("preferred response"));
            let end = end.unwrap_or(written.text.len());
            let reason = written.text[..end].trim().to_owned();
            let more = format!(" {reason}\n{ENDING}");
            let more = self.asker.codec().encode(&more, rlaif_core::Specials::Exclude)?;
            longer.push(ids.iter().copied().chain(more).collect());
            reasons.push(reason);
        }
        Ok((longer, reasons))
    }
}

/// A judge of pairs with what it is asked by, for evaluations.
#[derive(Debug)]
pub struct RubricJudge {
    /// The judge.
    pub judge: Comparer,
    /// The comparison.
    pub rubric: PairRubric,
}

impl PairJudge for RubricJudge {
    fn name(&self) -> &str {
        self.judge.name()
    }

    fn prefer(&self, batch: &[ShownPair<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        let mut all = vec![None; batch.len()];
        self.judge.compare_each(&self.rubric, batch, &mut |at, verdict| {
            all[at] = verdict.ok().map(|verdict| verdict.first);
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }
}

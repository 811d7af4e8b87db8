//! `rlaif label`: preference pairs labelled by judges and rewards.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rlaif_core::{
    AskedPair, BadSetting, ExamName, ExamQuestion, PairRow, PromptRecord, Rendering, Reply, Seed,
    TextOrMessages, Ties, Unread, say,
};
use rlaif_data::{Import, ImportColumns, Reader};
use rlaif_eval::{ExamOptions, ExamReport, ExamVerdict, grade};
use rlaif_label::{
    FacetCombination, FacetConfig, Group, GroupPairs, Label, LabelPair, LabelSettings, Labeller,
    Lesson, LessonSet, ListLabel, Opinion, Orders, Pairing, PlaceShares, Questions, Subject,
};
use rlaif_rewards::{RewardInput, judge::ComparerConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    error::RunError,
    file::RunFile,
    groups::{Groups, as_written, groups},
    journal::{Costed, Header, Journal, Kept},
    model::Placement,
    results::ResultFile,
    rewards::surroundings,
    source::source,
    verdicts::texts_of,
    work::Work,
};

/// The file of `rlaif label`. `docs/feedback.md` describes every key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelFile {
    /// The seed of the order in which the responses of a file's preferences are shown, and of the principles
    /// that are drawn from constitutions.
    #[serde(default)]
    pub seed: Seed,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The pairs.
    pub data: LabelData,
    /// The judge of pairs, for facets without one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<ComparerConfig>,
    /// The facets, at least one.
    pub facets: Vec<FacetConfig>,
    /// The way from facets to a label.
    #[serde(default)]
    pub combine: FacetCombination,
    /// The responses that a judge is shown at once: two, or all of a prompt.
    #[serde(default, skip_serializing_if = "Questions::are_pairs")]
    pub questions: Questions,
    /// The orders in which the responses of a pair are shown.
    #[serde(default)]
    pub orders: Orders,
    /// The number of rotations in which a list is shown; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotations: Option<usize>,
    /// The least and the greatest probability of a label, such as `[0.4, 0.6]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<(f64, f64)>,
    /// Treatment of pairs of which neither response is better.
    #[serde(default)]
    pub ties: Ties,
    /// The form of lessons for a judge, beside the labels: its right answers, where the right response is known.
    #[serde(default, skip_serializing_if = "Lessons::are_none")]
    pub lessons: Lessons,
}

/// The form of a judge's questions and right answers, as rows for fine-tuning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Lessons {
    /// No lessons.
    #[default]
    None,
    /// Questions as messages, for models with a chat template.
    Messages,
    /// Questions as texts, for other models.
    Text,
}

impl Lessons {
    fn are_none(&self) -> bool {
        *self == Self::None
    }

    fn row(self, lesson: &Lesson) -> Value {
        let Lesson { id, question, answer } = lesson;
        match self {
            Self::Text | Self::None => {
                json!({"id": id, "prompt": question.text(), "response": answer})
            }
            Self::Messages => {
                let prompt = [("system", &question.system), ("user", &question.user)]
                    .map(|(role, content)| json!({"role": role, "content": content}));
                json!({"id": id, "prompt": prompt, "response": answer.trim_start()})
            }
        }
    }
}

/// The end of the name of the file of lessons, in place of `jsonl`.
const LESSONS: &str = "lessons.jsonl";

/// The end of the name of the file of lists, in place of `jsonl`.
const LISTS: &str = "lists.jsonl";

/// The pairs to be labelled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelData {
    /// A file, or a pattern: rows of `prompt` and `responses` (texts, or tables of `text` and `maker`),
    /// or preference pairs in any form, whose own preferences are compared with the labels.
    pub file: String,
    /// The first so many rows.
    pub take: Option<usize>,
    /// The column of reference responses, for rewards that compare with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_column: Option<String>,
    /// The pairs that are made of several responses.
    #[serde(default)]
    pub pairing: Pairing,
    /// The maker whose responses are known to be the better ones, for rows of `prompt` and `responses`: the pairs
    /// are those of its responses with the others, and the labels are compared with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub better_maker: Option<String>,
}

/// Counts of pairs, by outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LabelSummary {
    /// Pairs that were asked about, or that lists make.
    pub pairs: usize,
    /// Lists that were asked about, where `questions` are lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lists: Option<usize>,
    /// Pairs in the file of labels.
    pub labelled: usize,
    /// Pairs of which neither response is better.
    pub ties: usize,
    /// Pairs without a label, or lists without one; `OUT.missing` has their reasons.
    pub missing: usize,
    /// The reason of the first of them.
    pub first_missing: Option<String>,
    /// True if any label is an estimate of judges that give no probabilities.
    pub estimate: bool,
    /// The cost of all questions to judges of pairs, with prices: those of earlier runs and those without
    /// an answer included.
    pub cost: Option<f64>,
    /// Lessons for a judge, in OUT with the ending `lessons.jsonl`, where the run file asks for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lessons: Option<usize>,
    /// Pairs without a right judgement, which have no lesson; the file of lessons with the ending `.missing` has
    /// their reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lessons_missing: Option<usize>,
    /// True where the file has preferences of its own.
    pub has_preferences: bool,
    /// For each facet that a judge of pairs compares, its habits; where the file has preferences, its
    /// agreement with them.
    pub facets: BTreeMap<String, ExamReport>,
    /// For each facet that a judge of lists was asked about in all rotations, the probabilities that it gave to
    /// places.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<String, PlaceShares>,
    /// Requests, tokens and cost of this run.
    pub usage: Vec<(String, f64)>,
}

/// A row of the file of labels.
#[derive(Serialize)]
struct LabelRow<'a> {
    id: &'a str,
    prompt: &'a TextOrMessages,
    chosen: &'a TextOrMessages,
    rejected: &'a TextOrMessages,
    /// The probability that the chosen response is the better one.
    probability: f64,
    /// By how much it is more probable than the other.
    margin: f64,
    facets: Map<String, Value>,
    /// For facets that a judge compares in both orders, the probability that the chosen response is the
    /// better one: shown first, and shown second.
    #[serde(skip_serializing_if = "Map::is_empty")]
    verdicts: Map<String, Value>,
    /// For facets with a constitution, the principle that was drawn.
    #[serde(skip_serializing_if = "Map::is_empty")]
    principles: Map<String, Value>,
    labeller: String,
    /// The orders of a pair, or `rotations` of a list.
    order: &'static str,
    estimate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen_maker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected_maker: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
}

/// A row of the file of lists: that of the file of candidates, with a probability for each response.
#[derive(Serialize)]
struct ListRow<'a> {
    id: &'a str,
    prompt: TextOrMessages,
    responses: &'a [Reply],
    /// For each response, the probability that it is the best one.
    probabilities: &'a [f64],
    facets: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    principles: Map<String, Value>,
    labeller: String,
    rotations: usize,
    estimate: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
}

/// The lists of a file, in place of its pairs.
struct Lists {
    /// The prompts with two different responses or more.
    lists: Vec<Group>,
    /// For each pair that is made of them its list.
    of_pairs: Vec<usize>,
    /// Prompts with one response.
    single: Vec<String>,
}

/// The answers about pairs, as labels.
struct Told {
    labels: Vec<Result<Label, String>>,
    /// Ids of what has no label, with the reasons.
    missing: Vec<(String, String)>,
    facets: BTreeMap<String, ExamReport>,
    places: BTreeMap<String, PlaceShares>,
}

/// The pairs of a file.
struct Pairs {
    pairs: Vec<LabelPair>,
    /// Prompt and responses of each pair as the file has them.
    texts: Vec<(TextOrMessages, [TextOrMessages; 2])>,
    /// For preference pairs, true where the first response is the preferred one.
    preferred: Option<Vec<bool>>,
    groups: Option<GroupPairs>,
    lists: Option<Lists>,
    /// Contents of messages that the text of the rows leaves out.
    unread: Unread,
}

impl LabelFile {
    fn settings(&self) -> LabelSettings {
        let Self { seed, judge, facets, combine, questions, orders, rotations, clamp, .. } =
            self.clone();
        LabelSettings { judge, facets, combine, questions, orders, rotations, clamp, seed }
    }

    /// The labels of pairs that were asked about.
    fn told_of_pairs(
        &self,
        labeller: &Labeller,
        data: &Pairs,
        opinions: &BTreeMap<usize, Opinion>,
    ) -> Result<Told, RunError> {
        let labels: Vec<Result<Label, String>> =
            (0..data.pairs.len()).map(|pair| labeller.label(pair, opinions)).collect();
        let missing = data.pairs.iter().zip(&labels).filter_map(|(pair, label)| {
            Some((pair.record.id.clone(), label.as_ref().err()?.clone()))
        });
        let missing = missing.collect();
        let facets = facet_reports(labeller, data, opinions, self.orders)?;
        Ok(Told { labels, missing, facets, places: BTreeMap::new() })
    }

    /// The labels of the pairs of lists. The lists are written beside them.
    fn told_of_lists(
        &self,
        labeller: &Labeller,
        lists: &Lists,
        groups: &GroupPairs,
        opinions: &BTreeMap<usize, Opinion>,
        out: &ResultFile<'_>,
    ) -> Result<Told, RunError> {
        let Lists { lists, of_pairs, single } = lists;
        let found = labeller.list_labels(lists, opinions);
        let rows = lists
            .iter()
            .zip(&found)
            .filter_map(|(list, label)| Some(self.list_row(labeller, list, label.as_ref().ok()?)));
        out.write_beside(LISTS, rows)?;
        let label = |(pair, list): (usize, &usize)| {
            let (_, places) = groups.place(pair).unwrap_or((*list, [0, 1]));
            found[*list].as_ref().map(|of_list| labeller.pair_of_list(of_list, places))
        };
        let labels = of_pairs.iter().enumerate().map(label);
        let labels = labels.map(|label| label.map_err(String::clone)).collect();
        let single = single.iter().map(|id| (id.clone(), ONE_RESPONSE.to_owned()));
        let missing = lists.iter().zip(&found).filter_map(|(list, label)| {
            Some((list.record.id.clone(), label.as_ref().err()?.clone()))
        });
        let missing = single.chain(missing).collect();
        let places = labeller.facets().enumerate().filter_map(|(at, (name, _))| {
            Some((name.to_owned(), labeller.place_shares(lists, at, opinions)?))
        });
        Ok(Told { labels, missing, facets: BTreeMap::new(), places: places.collect() })
    }

    fn list_row<'a>(
        &self,
        labeller: &Labeller,
        list: &'a Group,
        label: &'a ListLabel,
    ) -> ListRow<'a> {
        let facets = label.facets.iter().map(|(name, shares)| (name.clone(), json!(shares)));
        let n = list.responses.len();
        ListRow {
            id: &list.record.id,
            prompt: as_written(&list.record),
            responses: &list.responses,
            probabilities: &label.probabilities,
            facets: facets.collect(),
            principles: principles(labeller, list),
            labeller: labeller.names().join(", "),
            rotations: self.rotations.map_or(n, |rotations| rotations.min(n)),
            estimate: label.estimate,
            reason: &label.reason,
            cost: label.cost,
        }
    }

    fn write(
        &self,
        labeller: &Labeller,
        data: &Pairs,
        Kept { results: opinions, cost }: &Kept<Opinion>,
        out: &ResultFile<'_>,
    ) -> Result<LabelSummary, RunError> {
        let Told { mut labels, missing, facets, places } = match (&data.lists, &data.groups) {
            (Some(lists), Some(groups)) => {
                self.told_of_lists(labeller, lists, groups, opinions, out)?
            }
            _ => self.told_of_pairs(labeller, data, opinions)?,
        };
        let first: Vec<Option<f64>> =
            labels.iter().map(|label| Some(label.as_ref().ok()?.first)).collect();
        let kept = match &data.groups {
            Some(groups) => groups.kept(&first),
            None => (0..labels.len()).filter(|&pair| first[pair].is_some()).collect(),
        };
        let ties = kept.iter().filter(|&&pair| first[pair] == Some(0.5)).count();
        let rows: Vec<usize> = kept
            .into_iter()
            .filter(|&pair| self.ties == Ties::Keep || first[pair] != Some(0.5))
            .collect();
        if let Some(lists) = &data.lists {
            // The cost of a list is that of its rows together.
            let mut rows_of = vec![0usize; lists.lists.len()];
            rows.iter().for_each(|&pair| rows_of[lists.of_pairs[pair]] += 1);
            for &pair in &rows {
                if let Ok(Label { cost: Some(cost), .. }) = &mut labels[pair] {
                    *cost /= rows_of[lists.of_pairs[pair]] as f64;
                }
            }
        }
        if rows.is_empty() {
            let first = missing.first().map(|(_, why)| why);
            return Err(nothing(labeller, data, &facets, &places, first));
        }
        let labelled = rows.iter().filter_map(|&pair| {
            let label = labels[pair].as_ref().ok()?;
            let verdicts = match &data.lists {
                Some(_) => Map::new(),
                None => verdicts(labeller, pair, opinions, label.first >= 0.5),
            };
            let principles = match &data.lists {
                Some(lists) => principles(labeller, &lists.lists[lists.of_pairs[pair]]),
                None => principles(labeller, &data.pairs[pair]),
            };
            let told = (label, verdicts, principles);
            Some(self.row(labeller, &data.pairs[pair], &data.texts[pair], told))
        });
        let reasons: Vec<Value> =
            missing.iter().map(|(id, reason)| json!({"id": id, "reason": reason})).collect();
        let lessons = match (&data.preferred, self.lessons) {
            (_, Lessons::None) | (None, _) => None,
            (Some(preferred), form) => {
                let LessonSet { lessons, without } =
                    labeller.lessons(&data.pairs, preferred, opinions);
                out.write_beside(LESSONS, lessons.iter().map(|lesson| form.row(lesson)))?;
                let reasons = without.iter().map(
                    |(pair, reason)| json!({"id": data.pairs[*pair].record.id, "reason": reason}),
                );
                out.write_missing_beside(LESSONS, &reasons.collect::<Vec<_>>())?;
                Some((lessons.len(), without.len()))
            }
        };
        out.write(labelled, &reasons)?;
        Ok(LabelSummary {
            pairs: data.pairs.len(),
            lists: data.lists.as_ref().map(|lists| lists.lists.len() + lists.single.len()),
            labelled: rows.len(),
            ties,
            missing: missing.len(),
            first_missing: missing.first().map(|(_, reason)| reason.clone()),
            estimate: opinions.values().any(|opinion| opinion.estimate),
            cost: *cost,
            lessons: lessons.map(|(lessons, _)| lessons),
            lessons_missing: lessons.map(|(_, without)| without),
            has_preferences: data.preferred.is_some(),
            facets,
            places,
            usage: labeller.metrics(),
        })
    }

    fn row<'a>(
        &self,
        labeller: &Labeller,
        pair: &'a LabelPair,
        (prompt, responses): &'a (TextOrMessages, [TextOrMessages; 2]),
        (label, verdicts, principles): (&'a Label, Map<String, Value>, Map<String, Value>),
    ) -> LabelRow<'a> {
        let chosen = usize::from(label.first < 0.5);
        let of_chosen = |first: f64| if chosen == 0 { first } else { 1. - first };
        let probability = of_chosen(label.first);
        let facets = label.facets.iter().map(|(name, p)| (name.clone(), of_chosen(*p).into()));
        let order = match (self.questions, self.orders) {
            (Questions::Lists, _) => "rotations",
            (Questions::Pairs, Orders::Both) => "both",
            (Questions::Pairs, Orders::One) => "one",
        };
        LabelRow {
            id: &pair.record.id,
            prompt,
            chosen: &responses[chosen],
            rejected: &responses[1 - chosen],
            probability,
            margin: 2. * probability - 1.,
            facets: facets.collect(),
            verdicts,
            principles,
            labeller: labeller.names().join(", "),
            order,
            estimate: label.estimate,
            chosen_maker: pair.responses[chosen].maker.as_deref(),
            rejected_maker: pair.responses[1 - chosen].maker.as_deref(),
            reason: &label.reason,
            cost: label.cost,
        }
    }
}

/// The reason for a prompt without a list.
const ONE_RESPONSE: &str = "it has one response, and a list has two or more different ones";

/// For facets with a constitution, the principle that was drawn.
fn principles(labeller: &Labeller, item: &impl Subject) -> Map<String, Value> {
    let drawn = labeller.principles(item);
    drawn.map(|(facet, name)| (facet.to_owned(), Value::from(name))).collect()
}

/// The verdicts of both orders, by facet. The chosen response is the pair's first one, or its second.
fn verdicts(
    labeller: &Labeller,
    pair: usize,
    opinions: &BTreeMap<usize, Opinion>,
    first_is_chosen: bool,
) -> Map<String, Value> {
    let judged = labeller.facets().enumerate().filter(|(_, (_, compared))| *compared);
    let orders = judged.filter_map(|(at, (name, _))| {
        let shown_first = labeller.shown_first(pair, at, opinions);
        match verdict(shown_first, first_is_chosen, Orders::Both) {
            ExamVerdict::Orders { right_first, right_second } => Some((
                name.to_owned(),
                json!({"chosen_first": right_first, "chosen_second": right_second}),
            )),
            ExamVerdict::Scores(_) | ExamVerdict::OneOrder { .. } | ExamVerdict::Missing(_) => None,
        }
    });
    orders.collect()
}

/// The reason why no pair has a label, with the judge that always names one position, if there is one.
fn nothing(
    labeller: &Labeller,
    data: &Pairs,
    facets: &BTreeMap<String, ExamReport>,
    places: &BTreeMap<String, PlaceShares>,
    first: Option<&String>,
) -> RunError {
    let names = labeller.names().join(", ");
    let one_place = places.iter().find_map(|(facet, of_judge)| {
        let place = of_judge.shares.iter().position(|share| *share > 0.999)?;
        Some((facet, place + 1))
    });
    if let Some((facet, place)) = one_place {
        let why = format!(
            "`{names}` always prefers the response in place {place} of a list (facet `{facet}`); choose \
             another judge, or let it explain first (`judge.answer = \"explained\"`)"
        );
        return RunError::NoLabels { pairs: data.pairs.len(), why };
    }
    let one_position = facets.iter().find(|(_, report)| report.habits.always_one_position);
    let why = match (one_position, first) {
        (Some((facet, report)), _) => {
            let which = match report.habits.first_wins {
                Some(share) if share.share > 0.5 => "first",
                _ => "second",
            };
            format!(
                "`{names}` always prefers the response that it is shown {which} (facet `{facet}`); \
                 choose another judge, or let it explain first (`judge.answer = \"explained\"`)"
            )
        }
        // A fault of the service, not of the pairs.
        (None, Some(first)) => {
            let why = format!("`{names}`: {first}");
            return RunError::NoVerdicts { what: "pairs", count: data.pairs.len(), why };
        }
        (None, None) => {
            format!("`{names}` prefers neither response; `ties = \"keep\"` keeps these pairs")
        }
    };
    RunError::NoLabels { pairs: data.pairs.len(), why }
}

/// Habits of the facets that a judge of pairs compares, and agreement with the file's preferences.
fn facet_reports(
    labeller: &Labeller,
    data: &Pairs,
    opinions: &BTreeMap<usize, Opinion>,
    orders: Orders,
) -> Result<BTreeMap<String, ExamReport>, RunError> {
    let mut reports = BTreeMap::new();
    for (at, (name, compared)) in labeller.facets().enumerate() {
        if !compared || data.pairs.is_empty() {
            continue;
        }
        let (mut questions, mut verdicts) = (Vec::new(), Vec::new());
        for (n, pair) in data.pairs.iter().enumerate() {
            let right = data.preferred.as_ref().is_none_or(|preferred| preferred[n]);
            let (one, other) = if right { (0, 1) } else { (1, 0) };
            let [chosen, rejected] = [one, other].map(|at| pair.responses[at].clone());
            let question = AskedPair { record: pair.record.clone(), chosen, rejected };
            questions.push(ExamQuestion { right_is_first: Some(right), ..question.into() });
            verdicts.push(verdict(labeller.shown_first(n, at, opinions), right, orders));
        }
        let report = grade(ExamName::Pairs, name, &questions, &verdicts, &ExamOptions::default())?;
        reports.insert(name.to_owned(), report);
    }
    Ok(reports)
}

/// The verdict of a judge that gave these probabilities to what it was shown first, or none for these
/// reasons, in the pair's own order and in the other. The right response is the pair's first one, or its
/// second.
pub(crate) fn verdict(
    shown_first: [Result<f64, &str>; 2],
    first_is_right: bool,
    orders: Orders,
) -> ExamVerdict {
    let [own, other] = shown_first;
    let (right_first, right_second) = if first_is_right { (own, other) } else { (other, own) };
    match (right_first, right_second.map(|p| 1. - p)) {
        (Ok(right_first), Ok(right_second)) => ExamVerdict::Orders { right_first, right_second },
        (Ok(probability), Err(missing)) | (Err(missing), Ok(probability)) => {
            let missing = (orders == Orders::Both).then(|| missing.to_owned());
            ExamVerdict::OneOrder { probability, missing }
        }
        (Err(reason), Err(_)) => ExamVerdict::Missing(reason.to_owned()),
    }
}

/// The answers to all questions about pairs or lists, each kept in the file `path` as soon as it is there. The same
/// call asks again for the questions without an answer alone.
///
/// # Errors
/// Those of [`Journal::kept`], and [`RunError::Label`].
pub(crate) fn opinions_kept<T: Subject>(
    section: &'static str,
    settings: &impl Serialize,
    labeller: &Labeller,
    items: &[T],
    path: Option<&Path>,
) -> Result<Kept<Opinion>, RunError> {
    let rows = labeller.questions(items).last().map_or(0, |(number, _)| number + 1);
    let texts = items.iter().flat_map(|item| {
        let replies: Vec<&Reply> = item.responses().iter().collect();
        let mut texts = texts_of(item.record(), &replies);
        // Without reference and columns, the hash of pairs is that of earlier versions.
        let record = item.record();
        if T::FORM == Questions::Pairs && record.reference.is_none() && record.metadata.is_empty() {
            texts.drain(3..5);
        }
        texts
    });
    let texts: Vec<String> = texts.collect();
    let header = Header::new(section, settings, rows, texts.iter().map(String::as_str))?;
    let is_kept = |row: &Map<String, Value>| row.get("value").is_some_and(Value::is_number);
    Journal::kept(path, &header, is_kept, |known, tell| labeller.ask(items, known, tell))
}

/// The place of the better response of a pair, which says nothing about it.
fn is_shown_first(seed: Seed, pair: &str) -> bool {
    seed.derive(pair, 0).get() & 1 == 0
}

impl RunFile for LabelFile {
    const COMMAND: &'static str = "label";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = vec![&mut self.data.file];
        all.extend(self.judge.iter_mut().flat_map(|judge| judge.locations()));
        all.extend(self.facets.iter_mut().flat_map(|facet| facet.locations()));
        all
    }
}

impl Work for LabelFile {
    const OUT: &'static str = "the file of labelled pairs";
    const KEEPS: &'static str = "answers";
    type Out = PathBuf;
    type Summary = LabelSummary;
    type Error = RunError;

    /// Labels the pairs into the file `out`. Paths of caches are relative to `base`.
    ///
    /// Until the last answer has come, answers are in `OUT.unordered`, each as soon as it is there. The
    /// same call after an interruption takes up what is there, and asks what has no answer alone.
    fn work(&self, base: &Path, out: &PathBuf) -> Result<LabelSummary, RunError> {
        let out = ResultFile::new(out)?;
        let settings = self.settings();
        settings.check()?;
        let settings = settings.resolved()?;
        let device = self.placement.device()?;
        self.placement.check_models(device, [], settings.local_models())?;
        let data = self.data.pairs(self.seed, settings.columns(), self.questions)?;
        if self.lessons != Lessons::None && data.preferred.is_none() {
            let found = format!("given, and {} has no known preferences", self.data.file);
            let expected = "preference pairs, or `data.better_maker`";
            return Err(BadSetting::new("lessons", found, expected).into());
        }
        if settings.input() != RewardInput::Messages {
            data.unread.sentences("judges and rewards").iter().for_each(say);
        }
        let journal = out.journal();
        let labeller =
            surroundings(base, device, Some(&journal), |around| Labeller::new(&settings, around))?;
        let journal = Some(journal.as_path());
        let opinions = match &data.lists {
            Some(Lists { lists, .. }) => {
                labeller.check_lists(lists)?;
                opinions_kept("label", &settings, &labeller, lists, journal)?
            }
            None => opinions_kept("label", &settings, &labeller, &data.pairs, journal)?,
        };
        self.write(&labeller, &data, &opinions, &out)
    }
}

impl Costed for Opinion {
    fn cost(&self) -> Option<f64> {
        self.cost
    }
}

impl LabelData {
    /// The pairs of each response of the better maker with each other one.
    fn pairs_with(&self, maker: &str, read: Groups, seed: Seed) -> Result<Pairs, RunError> {
        if self.pairing != Pairing::default() {
            let found = "given beside `data.better_maker`";
            let expected = "no value: each response of that maker is paired with each other one";
            return Err(BadSetting::new("data.pairing", found, expected).into());
        }
        let mut data = Pairs {
            pairs: Vec::new(),
            texts: Vec::new(),
            preferred: None,
            groups: None,
            lists: None,
            unread: read.unread,
        };
        let mut preferred = Vec::new();
        for Group { record, responses } in &read.groups {
            let (better, worse): (Vec<&Reply>, Vec<&Reply>) =
                responses.iter().partition(|reply| reply.maker.as_deref() == Some(maker));
            for (one, better) in better.iter().enumerate() {
                let differ = worse.iter().enumerate().filter(|(_, reply)| !reply.says_as(better));
                for (other, worse) in differ {
                    let id = format!("{}:{one}-{other}", record.id);
                    let first = is_shown_first(seed, &id);
                    let both = if first { [*better, *worse] } else { [*worse, *better] };
                    let responses = both.map(Reply::clone);
                    let texts = responses.clone().map(TextOrMessages::from);
                    data.texts.push((as_written(record), texts));
                    let record = PromptRecord { id, ..record.clone() };
                    data.pairs.push(LabelPair { record, responses });
                    preferred.push(first);
                }
            }
        }
        if data.pairs.is_empty() {
            let found =
                format!("`{maker}`, which wrote no response of {} beside others", self.file);
            let expected = "the maker of some of the responses";
            return Err(BadSetting::new("data.better_maker", found, expected).into());
        }
        data.preferred = Some(preferred);
        Ok(data)
    }

    /// The prompts as lists, and as the pairs that they make.
    fn lists(&self, groups: &[Group]) -> (Lists, GroupPairs) {
        let (lists, single): (Vec<Group>, Vec<Group>) =
            groups.iter().map(Group::distinct).partition(|group| group.responses.len() > 1);
        let made = GroupPairs::of(&lists, self.pairing);
        let of_pairs = (0..made.pairs.len()).filter_map(|pair| made.place(pair));
        let of_pairs = of_pairs.map(|(list, _)| list).collect();
        let single = single.into_iter().map(|group| group.record.id).collect();
        (Lists { lists, of_pairs, single }, made)
    }

    fn pairs(
        &self,
        seed: Seed,
        mut columns: Vec<String>,
        questions: Questions,
    ) -> Result<Pairs, RunError> {
        let pairs_only = |found: String| {
            let expected =
                "`pairs`, or rows of `prompt` and `responses` without `data.better_maker`";
            BadSetting::new("questions", found, expected)
        };
        let most = self.take.unwrap_or(usize::MAX);
        if let Some(read) = groups(&self.file, self.reference_column.as_deref(), &columns, most)? {
            if let Some(maker) = &self.better_maker {
                if questions == Questions::Lists {
                    return Err(pairs_only(format!("`lists` beside `{maker}`")).into());
                }
                return self.pairs_with(maker, read, seed);
            }
            let Groups { groups, unread } = read;
            let (lists, made) = match questions {
                Questions::Pairs => (None, GroupPairs::of(&groups, self.pairing)),
                Questions::Lists => {
                    let (lists, made) = self.lists(&groups);
                    (Some(lists), made)
                }
            };
            let texts = made.pairs.iter().map(|LabelPair { record, responses }| {
                (as_written(record), responses.clone().map(TextOrMessages::from))
            });
            let texts = texts.collect();
            if made.pairs.is_empty() {
                let found = format!("`{}`, without two different responses to a prompt", self.file);
                return Err(BadSetting::new("data.file", found, "pairs to label").into());
            }
            let pairs = made.pairs.clone();
            let groups = Some(made);
            return Ok(Pairs { pairs, texts, preferred: None, groups, lists, unread });
        }
        if questions == Questions::Lists {
            let found = format!("`lists` for the preference pairs of {}", self.file);
            return Err(pairs_only(found).into());
        }
        if let Some(maker) = &self.better_maker {
            let found = format!("`{maker}` for the preference pairs of {}", self.file);
            let expected = "no value: it is for rows of `prompt` and `responses`";
            return Err(BadSetting::new("data.better_maker", found, expected).into());
        }
        if self.pairing != Pairing::default() {
            let found = format!("given for the preference pairs of {}", self.file);
            let expected = "no value: it is for rows of `prompt` and `responses`";
            return Err(BadSetting::new("data.pairing", found, expected).into());
        }
        let source = source(&self.file)?;
        columns.extend(self.reference_column.clone());
        let columns = ImportColumns { metadata: columns, ..ImportColumns::default() };
        let import = Import::find_named(&source, columns)?;
        let rows = import.pairs(Reader::new(source))?.into_records();
        let mut data = Pairs {
            pairs: Vec::new(),
            texts: Vec::new(),
            preferred: Some(Vec::new()),
            groups: None,
            lists: None,
            unread: Unread::default(),
        };
        for row in rows.into_iter().take(most) {
            data.unread.add([&row.prompt, &row.chosen, &row.rejected]);
            let PairRow { prompt, chosen, rejected, .. } = row.clone();
            let asked = row.asked(&Rendering::default(), self.reference_column.as_deref())?;
            let AskedPair { record, chosen: better, rejected: worse } = asked;
            let first = is_shown_first(seed, &record.id);
            let (texts, responses) = match first {
                true => ([chosen, rejected], [better, worse]),
                false => ([rejected, chosen], [worse, better]),
            };
            data.pairs.push(LabelPair { record, responses });
            data.texts.push((prompt, texts));
            data.preferred.get_or_insert_default().push(first);
        }
        Ok(data)
    }
}

//! `rlaif exam`: grades a reward model or a judge on questions with known right answers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rlaif_core::{
    AskedPair, BadSetting, ExamName, ExamQuestion, PairRow, Rendering, Reply, RewardModel, Sample,
    Seed, Unread, say,
};
use rlaif_data::{Import, ImportColumns, Reader, corpora::Exams};
use rlaif_eval::{ExamOptions, ExamReport, ExamVerdict, grade};
use rlaif_label::{FacetConfig, LabelPair, LabelSettings, Labeller, Orders};
use rlaif_rewards::{RewardConfig, RewardInput, judge::ComparerConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Device;

use crate::{
    error::RunError,
    file::RunFile,
    label::{opinions_kept, verdict},
    model::Placement,
    rewards::{rewards_beside, surroundings},
    source::source,
    verdicts::scores_kept,
    work::Work,
};

/// The file of `rlaif exam`. `docs/feedback.md` describes every key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExamFile {
    /// The exam; by default, recognised by the columns of the file.
    pub exam: Option<ExamName>,
    /// Seed of resampling, and of the order of answers without an order.
    #[serde(default)]
    pub seed: Seed,
    /// The folder of verdicts and result; `--out` overrides it. Without a folder nothing is
    /// written.
    pub out: Option<PathBuf>,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// Words in the names of models from the examinee's family, such as `gpt`.
    #[serde(default)]
    pub family: Vec<String>,
    /// Bootstrap resamples.
    #[serde(default = "ExamFile::resamples")]
    pub resamples: usize,
    /// The questions.
    pub data: ExamData,
    /// The reward that is examined; `docs/rewards.md` has every key.
    pub reward: Option<RewardConfig>,
    /// Or the judge of pairs, which sees each pair in both orders.
    pub judge: Option<ComparerConfig>,
    /// The facet that a judge of pairs compares by: `helpful`, `honest`, `harmless` or `summary`;
    /// `helpful` by default.
    pub facet: Option<String>,
    /// A custom facet instead: a description of the better response.
    pub preamble: Option<String>,
}

/// The questions of an exam.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExamData {
    /// A file, or a pattern: of a known exam, or of preference pairs in any form.
    pub file: String,
    /// Maximum number of questions: the first ones.
    pub take: Option<usize>,
    /// The column of reference responses, for preference pairs.
    pub reference_column: Option<String>,
    /// The column of subsets, for preference pairs.
    pub subset: Option<String>,
    /// The column of the model that wrote the preferred response, for preference pairs.
    pub chosen_maker: Option<String>,
    /// The column of the model that wrote the other response, for preference pairs.
    pub rejected_maker: Option<String>,
    /// The column of people's verdicts, for preference pairs: a number or a list of numbers, above
    /// 0 for the preferred response, below 0 for the other one, 0 for a tie.
    pub votes: Option<String>,
}

/// The questions of an exam.
pub(crate) struct Questions {
    exam: ExamName,
    questions: Vec<ExamQuestion>,
    /// Contents of messages that the text of the rows leaves out.
    unread: Unread,
}

/// Settings of an exam, without its questions and its examinee.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExamSettings {
    /// The exam; by default, recognised by the columns of the file.
    pub exam: Option<ExamName>,
    /// Settings of the grading.
    pub options: ExamOptions,
}

impl RunFile for ExamFile {
    const COMMAND: &'static str = "exam";

    fn locations(&mut self) -> Vec<&mut String> {
        let Self { data, reward, judge, .. } = self;
        let mut all = vec![&mut data.file];
        all.extend(reward.iter_mut().flat_map(|reward| reward.locations()));
        all.extend(judge.iter_mut().flat_map(|judge| judge.locations()));
        all
    }
}

impl Work for ExamFile {
    const OUT: &'static str = "the folder of the verdicts and of exam.json";
    const KEEPS: &'static str = "verdicts";
    type Out = Option<PathBuf>;
    type Summary = ExamReport;
    type Error = RunError;

    fn out(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// Examines the reward. Paths of the reward's caches are relative to `base`. With a folder,
    /// each verdict is written to its `verdicts.jsonl` as it arrives, the same call after an
    /// interruption continues, and the result is in `exam.json`.
    fn work(&self, base: &Path, out: &Option<PathBuf>) -> Result<ExamReport, RunError> {
        let out = out.as_deref();
        // Before any question is paid for.
        if self.resamples < 100 {
            return Err(BadSetting::new("resamples", self.resamples, "at least 100").into());
        }
        let device = self.placement.device()?;
        let reward = self.reward.iter().flat_map(RewardConfig::local_models);
        let judge = self.judge.iter().filter_map(ComparerConfig::local_model);
        self.placement.check_models(device, [], reward.chain(judge))?;
        let report = match (&self.reward, &self.judge) {
            (Some(config), None) => {
                let facets =
                    [("facet", self.facet.is_some()), ("preamble", self.preamble.is_some())];
                if let Some((key, _)) = facets.iter().find(|(_, given)| *given) {
                    let expected = "no value: only a judge of pairs compares by it";
                    return Err(BadSetting::new(*key, "given beside `reward`", expected).into());
                }
                let journal = kept_in(out)?;
                let reward = rewards_beside(config, base, device, journal.as_deref())?;
                let how = Rendering::default();
                self.settings().of_reward(&self.data, config, &*reward, &how, out)?
            }
            (None, Some(judge)) => self.of_judge(judge, base, device, out)?,
            (found, _) => {
                let found = match found {
                    Some(_) => "given together with `judge`",
                    None => "missing, and so is `judge`",
                };
                return Err(BadSetting::new("reward", found, "one of `reward` and `judge`").into());
            }
        };
        if let Some(out) = out {
            rlaif_checkpoint::write_json(&out.join("exam.json"), &report)?;
        }
        Ok(report)
    }
}

impl ExamFile {
    fn resamples() -> usize {
        ExamOptions::default().resamples
    }

    fn settings(&self) -> ExamSettings {
        let Self { exam, seed, family, resamples, .. } = self;
        let (seed, family, resamples) = (*seed, family.clone(), *resamples);
        ExamSettings { exam: *exam, options: ExamOptions { seed, resamples, family } }
    }

    /// Examines a judge of pairs.
    fn of_judge(
        &self,
        judge: &ComparerConfig,
        base: &Path,
        device: Device,
        out: Option<&Path>,
    ) -> Result<ExamReport, RunError> {
        let settings = self.settings();
        let how = Rendering::default();
        let Questions { exam, questions, unread } =
            self.data.questions(settings.exam, Vec::new(), &how)?;
        unread.sentences("judges").iter().for_each(say);
        if exam == ExamName::RewardBench2 {
            return Err(BadSetting::new(
                "exam",
                "`reward-bench-2` for a judge of pairs",
                "an exam of pairs, or a `reward`: RewardBench 2 scores every answer by itself",
            )
            .into());
        }
        let facet = match (&self.facet, &self.preamble) {
            (None, None) => Some("helpful".to_owned()),
            (facet, _) => facet.clone(),
        };
        let facet = FacetConfig {
            name: self.preamble.as_ref().map(|_| "preamble".to_owned()),
            facet,
            preamble: self.preamble.clone(),
            ..FacetConfig::default()
        };
        let label = LabelSettings {
            judge: Some(judge.clone()),
            facets: vec![facet],
            ..LabelSettings::default()
        };
        let labeller = surroundings(base, device, None, |around| Labeller::new(&label, around))?;
        let pairs: Vec<LabelPair> = questions
            .iter()
            .map(|question| {
                let responses = [question.right[0].clone(), question.wrong[0].clone()];
                LabelPair { record: question.record.clone(), responses }
            })
            .collect();
        let kept = kept_in(out)?;
        let opinions = opinions_kept("label", &label, &labeller, &pairs, kept.as_deref())?.results;
        let verdicts: Vec<ExamVerdict> = (0..pairs.len())
            .map(|pair| verdict(labeller.shown_first(pair, 0, &opinions), true, Orders::Both))
            .collect();
        let examinee = labeller.names().join(", ");
        any_verdict(&verdicts)?;
        Ok(grade(exam, &examinee, &questions, &verdicts, &settings.options)?)
    }
}

/// Checks that at least one question has a verdict: an exam without any has no grade.
fn any_verdict(verdicts: &[ExamVerdict]) -> Result<(), RunError> {
    let mut reasons = verdicts.iter().map(|verdict| match verdict {
        ExamVerdict::Missing(why) => Some(why),
        ExamVerdict::Scores(_) | ExamVerdict::Orders { .. } | ExamVerdict::OneOrder { .. } => None,
    });
    match reasons.next().flatten() {
        Some(why) if reasons.all(|why| why.is_some()) => {
            let (count, why) = (verdicts.len(), why.clone());
            Err(RunError::NoVerdicts { what: "questions", count, why })
        }
        _ => Ok(()),
    }
}

/// The file of verdicts in a folder, which is made if it is not there.
fn kept_in(out: Option<&Path>) -> Result<Option<PathBuf>, RunError> {
    let Some(out) = out else { return Ok(None) };
    fs::create_dir_all(out).map_err(|source| RunError::Write { path: out.to_owned(), source })?;
    Ok(Some(out.join("verdicts.jsonl")))
}

impl ExamSettings {
    /// Examines the reward of `config`, which reads prompts by this rendering.
    pub(crate) fn of_reward(
        &self,
        data: &ExamData,
        config: &RewardConfig,
        reward: &dyn RewardModel,
        how: &Rendering,
        out: Option<&Path>,
    ) -> Result<ExamReport, RunError> {
        let Questions { exam, questions, unread } =
            data.questions(self.exam, config.columns(), how)?;
        if config.input() != RewardInput::Messages {
            unread.sentences("rewards").iter().for_each(say);
        }
        let sample = |question: &ExamQuestion, response: &Reply| Sample {
            record: question.record.clone(),
            response: response.clone(),
        };
        let rows: Vec<Sample> = questions
            .iter()
            .flat_map(|question| {
                let replies = question.right.iter().chain(&question.wrong);
                replies.map(|reply| sample(question, reply))
            })
            .collect();
        let kept = kept_in(out)?;
        let mut scores = scores_kept(config, reward, &rows, kept.as_deref())?.into_iter();
        let verdicts: Vec<ExamVerdict> = questions
            .iter()
            .map(|question| {
                let answers = question.right.len() + question.wrong.len();
                // All answers of a question are taken before an error ends it.
                let scores: Vec<Result<f64, String>> = scores.by_ref().take(answers).collect();
                let scores: Result<Vec<f64>, String> = scores.into_iter().collect();
                scores.map_or_else(ExamVerdict::Missing, ExamVerdict::Scores)
            })
            .collect();
        any_verdict(&verdicts)?;
        Ok(grade(exam, reward.name(), &questions, &verdicts, &self.options)?)
    }
}

impl ExamData {
    /// The questions of a file.
    pub fn of(file: impl Into<String>) -> Self {
        Self { file: file.into(), ..Self::default() }
    }

    /// The questions, and their exam, with prompts by this rendering, and the columns that a reward
    /// reads.
    ///
    /// # Errors
    /// [`RunError::Data`]; [`RunError::Setting`] for votes that are not numbers, and for columns of
    /// pairs in a file of another exam.
    pub(crate) fn questions(
        &self,
        exam: Option<ExamName>,
        columns: Vec<String>,
        how: &Rendering,
    ) -> Result<Questions, RunError> {
        let mut unread = Unread::default();
        let source = source(&self.file)?;
        let exam = match exam {
            Some(exam) => exam,
            None => Exams::find(&source)?.unwrap_or(ExamName::Pairs),
        };
        let mut questions = match exam {
            ExamName::Pairs => self.pairs(columns, &mut unread)?,
            exam @ (ExamName::RewardBench
            | ExamName::RewardBench2
            | ExamName::JudgeBench
            | ExamName::Hhh) => {
                let columns = [
                    ("data.subset", &self.subset),
                    ("data.chosen_maker", &self.chosen_maker),
                    ("data.rejected_maker", &self.rejected_maker),
                    ("data.votes", &self.votes),
                    ("data.reference_column", &self.reference_column),
                ];
                if let Some((key, _)) = columns.iter().find(|(_, column)| column.is_some()) {
                    let found = format!("given for {}, read as {}", self.file, exam.title());
                    let expected = "no value: it names a column of preference pairs (or set \
                                    `exam = \"pairs\"`)";
                    return Err(BadSetting::new(*key, found, expected).into());
                }
                Reader::new(source).dataset(Exams::of(exam))?.into_records()
            }
        };
        questions.truncate(self.take.unwrap_or(usize::MAX));
        for question in &mut questions {
            question.record = question.record.clone().asked_by(how)?;
        }
        Ok(Questions { exam, questions, unread })
    }

    fn pairs(
        &self,
        mut columns: Vec<String>,
        unread: &mut Unread,
    ) -> Result<Vec<ExamQuestion>, RunError> {
        let Self { file, take, reference_column, subset, chosen_maker, rejected_maker, votes } =
            self;
        let source = source(file)?;
        let named =
            [reference_column, subset, chosen_maker, rejected_maker, votes].into_iter().flatten();
        columns.extend(named.cloned());
        let columns = ImportColumns { metadata: columns, ..ImportColumns::default() };
        let import = Import::find_named(&source, columns)?;
        let rows = import.pairs(Reader::new(source))?.into_records();
        let rows = rows.into_iter().take(take.unwrap_or(usize::MAX));
        rows.map(|row| {
            unread.add([&row.prompt, &row.chosen, &row.rejected]);
            self.question(row)
        })
        .collect()
    }

    fn question(&self, row: PairRow) -> Result<ExamQuestion, RunError> {
        let AskedPair { record, chosen, rejected } =
            row.asked(&Rendering::default(), self.reference_column.as_deref())?;
        let (id, metadata) = (&record.id, &record.metadata);
        let of = |column: &Option<String>| column.as_ref().and_then(|name| metadata.get(name));
        let text = |column| {
            of(column).map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
        };
        let chosen = chosen.by(text(&self.chosen_maker));
        let rejected = rejected.by(text(&self.rejected_maker));
        let number =
            |vote: &Value| vote.as_f64().or_else(|| vote.as_str()?.trim().parse::<f64>().ok());
        let votes: Option<Vec<f64>> = match of(&self.votes) {
            None => Some(Vec::new()),
            Some(Value::Array(votes)) => votes.iter().map(number).collect(),
            Some(vote) => number(vote).map(|vote| vec![vote]),
        };
        let votes = votes.filter(|votes| votes.iter().all(|vote| vote.is_finite()));
        let votes = votes.ok_or_else(|| {
            let vote = of(&self.votes).unwrap_or(&Value::Null);
            let found = format!("a column with {vote} in row `{id}`");
            BadSetting::new("data.votes", found, "a number or a list of numbers in each row")
        })?;
        let subset = text(&self.subset).unwrap_or_default();
        let pair = AskedPair { record, chosen, rejected };
        Ok(ExamQuestion { subset, votes, ..pair.into() })
    }
}

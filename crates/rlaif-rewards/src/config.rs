//! Rewards from a configuration: a file of their own, or the `[reward]` table of a run file.

use std::path::{Path, PathBuf};

use rlaif_eval::text::LengthUnit;
use rlaif_sandbox::interpreter_path;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ProviderError;
use crate::combine::{Centring, StepTotal, StepView};
use crate::demand::ExamDemand;
use crate::file;
use crate::input::RewardInput;
#[cfg(feature = "judge")]
use crate::judge::JudgeConfig;
#[cfg(feature = "neural")]
use crate::neural::{ClassifierConfig, Input, LocalModel};
use crate::rules::{Against, OverlapMeasure};
use crate::verify::{
    AnswerPlace, InstructionCheck, SandboxLimits, TestScore, TextComparison, Truth,
};

/// One reward, and those it is made of. `docs/rewards.md` describes every key.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::{RewardConfig, Surroundings};
/// let config: RewardConfig = toml::from_str(r#"
///     kind = "weighted-sum"
///     name = "manners"
///     [[terms]]
///     weight = 1.0
///     reward = { kind = "forbidden-words", words = ["darn"] }
///     [[terms]]
///     weight = 0.5
///     reward = { kind = "length", longest = 3, per = 2.0 }
/// "#)?;
/// let reward = config.build(&Surroundings::default())?;
/// let scores = reward.score(&[Exchange::new("Greet me.", "Darn, you are early again!")])?;
/// assert_eq!(scores.total[0].unwrap().get(), -1.5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RewardConfig {
    /// A sequence classifier or a reward model with a scalar head.
    #[cfg(feature = "neural")]
    Classifier(Box<ClassifierConfig>),
    /// A judge behind an API, a reward server, or a policy of this library as the judge.
    #[cfg(feature = "judge")]
    Judge(Box<JudgeConfig>),
    /// [`crate::Length`].
    Length {
        /// The least that is not penalised.
        #[serde(default)]
        shortest: usize,
        /// The most that is not penalised.
        longest: usize,
        /// The distance from the range that costs 1.
        per: f32,
        /// The unit of lengths.
        #[serde(default)]
        unit: LengthUnit,
    },
    /// [`crate::Repetition`].
    Repetition {
        /// The length of the runs of words.
        n: usize,
    },
    /// [`crate::Format`].
    Format {
        /// The regular expression.
        pattern: String,
    },
    /// [`crate::Words::forbidden`].
    ForbiddenWords {
        /// The words.
        words: Vec<String>,
    },
    /// [`crate::Overlap`].
    Overlap {
        /// The measure of overlap.
        measure: OverlapMeasure,
        /// With what.
        #[serde(default)]
        against: Against,
    },
    /// 1 if the answer is the right one as mathematics.
    MathAnswer {
        /// The column with the right answer, or a path such as `reward_model.ground_truth`; by default the
        /// reference.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
        /// The part of a response that counts as its answer.
        #[serde(default)]
        place: AnswerPlace,
    },
    /// 1 if the answer is the right one as text.
    TextAnswer {
        /// The column with the right answer, or a path; by default the reference.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
        /// A regular expression whose first group is the answer in a response; by default the whole
        /// response is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pattern: Option<String>,
        /// Differences that do not count.
        #[serde(default)]
        comparison: TextComparison,
    },
    /// 1 if the response is JSON of a schema.
    JsonSchema {
        /// The schema, as a table.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schema: Option<Map<String, Value>>,
        /// The column with the schema of each row, or a path, instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
    },
    /// Tests that the program in the response passes, in a sandbox.
    CodeTests {
        /// The column with the tests, or a path; by default the reference.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
        /// The column with the name of the function that tests of HumanEval's form check.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entry_point: Option<String>,
        /// The score by the tests that pass.
        #[serde(default)]
        score: TestScore,
        /// The interpreter: a name on the path, or a file.
        #[serde(default = "python")]
        python: String,
        /// Limits of a program.
        #[serde(default)]
        limits: SandboxLimits,
        /// Programs that run at a time.
        #[serde(default = "concurrency")]
        concurrency: usize,
    },
    /// Instructions of IFEval's list that the response follows.
    Instructions {
        /// The score by the instructions that are followed.
        #[serde(default)]
        score: TestScore,
        /// Strict or loose, as in IFEval's two accuracies.
        #[serde(default)]
        check: InstructionCheck,
    },
    /// A reward that the running program has registered ([`crate::register`]).
    Own {
        /// The name under which the program registered it.
        name: String,
        /// Settings, with keys of the program.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        settings: Map<String, Value>,
        /// The columns of rows that it reads as metadata.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        columns: Vec<String>,
    },
    /// [`crate::Constant`].
    Constant {
        /// The score.
        value: f32,
    },
    /// [`crate::WeightedSum`].
    WeightedSum {
        /// Name in metrics.
        name: String,
        /// The terms of the sum.
        terms: Vec<Term>,
    },
    /// [`crate::Mean`].
    Mean {
        /// Name in metrics.
        name: String,
        /// The combined rewards.
        of: Vec<Self>,
    },
    /// [`crate::Minimum`].
    Minimum {
        /// Name in metrics.
        name: String,
        /// The combined rewards.
        of: Vec<Self>,
    },
    /// [`crate::LowerBound`].
    LowerBound {
        /// Name in metrics.
        name: String,
        /// Number of standard deviations below the mean.
        deviations: f32,
        /// The combined rewards.
        of: Vec<Self>,
    },
    /// [`crate::Scaled`].
    Scaled {
        /// Factor of the score.
        factor: f32,
        /// Number added after the multiplication.
        #[serde(default)]
        offset: f32,
        /// The reward to scale.
        of: Box<Self>,
    },
    /// [`crate::Clipped`].
    Clipped {
        /// The least score.
        low: f32,
        /// The greatest score.
        high: f32,
        /// The reward to clip.
        of: Box<Self>,
    },
    /// [`crate::Normalised`].
    Normalised {
        /// Treatment of the mean.
        centring: Centring,
        /// The reward to normalise.
        of: Box<Self>,
    },
    /// [`crate::Gated`].
    Gated {
        /// The reward that decides.
        gate: Box<Self>,
        /// From which of its scores on the other one counts.
        threshold: f32,
        /// The score where it does not.
        otherwise: f32,
        /// The reward that counts.
        of: Box<Self>,
    },
    /// [`crate::OrElse`].
    OrElse {
        /// The reward that is asked where the first has no verdict.
        other: Box<Self>,
        /// The first.
        of: Box<Self>,
    },
    /// [`crate::ProcessReward`].
    Process {
        /// The text at which a step ends.
        #[serde(default = "separator")]
        separator: String,
        /// The text that the reward of steps reads.
        #[serde(default)]
        view: StepView,
        /// The score of a response.
        #[serde(default)]
        total: StepTotal,
        /// The most steps of a response; what follows belongs to the last one.
        #[serde(default = "max_steps")]
        max_steps: usize,
        /// The reward that scores steps.
        of: Box<Self>,
    },
    /// [`crate::Cached`].
    Cached {
        /// Number of verdicts that are remembered.
        capacity: usize,
        /// The reward to cache.
        of: Box<Self>,
    },
}

fn python() -> String {
    "python3".to_owned()
}

fn concurrency() -> usize {
    2
}

fn separator() -> String {
    "\n\n".to_owned()
}

fn max_steps() -> usize {
    64
}

/// One term of a weighted sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// The weight.
    pub weight: f32,
    /// The reward.
    pub reward: RewardConfig,
}

impl RewardConfig {
    /// A configuration of this text; `origin` names it in errors. Without a `kind` it is that of a
    /// judge.
    ///
    /// # Errors
    /// [`ProviderError::Config`] names the unknown key and the nearest known one.
    ///
    /// ```
    /// use rlaif_rewards::RewardConfig;
    /// let wrong = RewardConfig::from_toml("kind = 'repetition'\nm = 2", "reward.toml").unwrap_err();
    /// assert!(wrong.to_string().contains("unknown key `m`"));
    /// ```
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, ProviderError> {
        #[cfg(feature = "judge")]
        if !file::parse::<toml::Table>(text, origin)?.contains_key("kind") {
            return Ok(Self::Judge(Box::new(JudgeConfig::from_toml(text, origin)?)));
        }
        file::parse(text, origin)
    }

    /// A configuration of this file, and the folder that its relative paths start from.
    ///
    /// # Errors
    /// [`ProviderError::File`] when it cannot be read, else as [`RewardConfig::from_toml`].
    pub fn from_file(path: &Path) -> Result<(Self, PathBuf), ProviderError> {
        let config = Self::from_toml(&file::read(path)?, &path.display().to_string())?;
        Ok((config, path.parent().map_or_else(PathBuf::new, Path::to_owned)))
    }

    /// Every setting that may name a folder or file on this disk: the models of classifiers and of policies
    /// that judge, and interpreters that are paths. A program that is to find them from another folder makes the local ones absolute.
    ///
    /// The files that judges keep answers in are not among them: they are made where they do not
    /// exist, in the folder of [`crate::Surroundings`].
    ///
    /// ```
    /// use rlaif_rewards::RewardConfig;
    /// let mut config = RewardConfig::from_toml("kind = 'repetition'\nn = 2", "reward.toml")?;
    /// assert!(config.locations().is_empty());
    /// # Ok::<(), rlaif_rewards::ProviderError>(())
    /// ```
    pub fn locations(&mut self) -> Vec<&mut String> {
        // Without a wildcard: a new kind of reward has to say where its files are.
        match self {
            #[cfg(feature = "neural")]
            Self::Classifier(config) => config.locations(),
            #[cfg(feature = "judge")]
            Self::Judge(config) => config.locations(),
            Self::Length { .. }
            | Self::Repetition { .. }
            | Self::Format { .. }
            | Self::ForbiddenWords { .. }
            | Self::Overlap { .. }
            | Self::MathAnswer { .. }
            | Self::TextAnswer { .. }
            | Self::JsonSchema { .. }
            | Self::Instructions { .. }
            | Self::Own { .. }
            | Self::Constant { .. } => Vec::new(),
            Self::CodeTests {
                python,
                answer: _,
                entry_point: _,
                score: _,
                limits: _,
                concurrency: _,
            } => interpreter_path(python).into_iter().collect(),
            Self::WeightedSum { name: _, terms } => {
                terms.iter_mut().flat_map(|term| term.reward.locations()).collect()
            }
            Self::Mean { name: _, of }
            | Self::Minimum { name: _, of }
            | Self::LowerBound { name: _, deviations: _, of } => {
                of.iter_mut().flat_map(Self::locations).collect()
            }
            Self::Scaled { of, factor: _, offset: _ }
            | Self::Clipped { of, low: _, high: _ }
            | Self::Normalised { of, centring: _ }
            | Self::Process { of, separator: _, view: _, total: _, max_steps: _ }
            | Self::Cached { of, capacity: _ } => of.locations(),
            Self::Gated { gate, of, threshold: _, otherwise: _ } => {
                let mut all = gate.locations();
                all.extend(of.locations());
                all
            }
            Self::OrElse { other, of } => {
                let mut all = other.locations();
                all.extend(of.locations());
                all
            }
        }
    }

    /// The models that it runs in this process: classifiers, and policies that judge.
    ///
    /// ```
    /// use rlaif_rewards::RewardConfig;
    /// let text = "kind = 'scaled'\nfactor = 2.0\nof = { kind = 'classifier', preset = 'hate' }";
    /// let config = RewardConfig::from_toml(text, "reward.toml")?;
    /// assert_eq!(config.local_models()[0].names.model, rlaif_rewards::neural::NOT_HATE_MODEL);
    /// # Ok::<(), rlaif_rewards::ProviderError>(())
    /// ```
    #[cfg(feature = "neural")]
    pub fn local_models(&self) -> Vec<LocalModel<'_>> {
        let Node { parts, model, .. } = self.node();
        model.into_iter().chain(parts.into_iter().flat_map(Self::local_models)).collect()
    }

    /// The columns of rows that it reads beside prompt, response and reference: a program that reads rows
    /// for it makes them metadata.
    ///
    /// ```
    /// use rlaif_rewards::RewardConfig;
    /// let text = "kind = 'math-answer'\nanswer = 'reward_model.ground_truth'";
    /// let config = RewardConfig::from_toml(text, "reward.toml")?;
    /// assert_eq!(config.columns(), ["reward_model"]);
    /// # Ok::<(), rlaif_rewards::ProviderError>(())
    /// ```
    pub fn columns(&self) -> Vec<String> {
        let Node { parts, mut columns, .. } = self.node();
        columns.extend(parts.into_iter().flat_map(Self::columns));
        columns.sort();
        columns.dedup();
        columns
    }

    /// The input of its parts: the most that one of them reads.
    ///
    /// ```
    /// use rlaif_rewards::{RewardConfig, RewardInput};
    /// let config = RewardConfig::from_toml("kind = 'repetition'\nn = 2", "reward.toml")?;
    /// assert_eq!(config.input(), RewardInput::Rules);
    /// # Ok::<(), rlaif_rewards::ProviderError>(())
    /// ```
    pub fn input(&self) -> RewardInput {
        let Node { parts, input, .. } = self.node();
        parts.into_iter().map(Self::input).fold(input, RewardInput::max)
    }

    /// Returns `true` if scores depend on those of other rows: a part is `normalised`.
    ///
    /// ```
    /// use rlaif_rewards::RewardConfig;
    /// let text = "kind = 'normalised'\ncentring = 'centred'\nof = { kind = 'repetition', n = 2 }";
    /// assert!(RewardConfig::from_toml(text, "reward.toml")?.depends_on_other_rows());
    /// # Ok::<(), rlaif_rewards::ProviderError>(())
    /// ```
    pub fn depends_on_other_rows(&self) -> bool {
        let Node { parts, depends_on_other_rows, .. } = self.node();
        depends_on_other_rows || parts.into_iter().any(Self::depends_on_other_rows)
    }

    /// The grades that parts of this reward must have before a training starts, each with the part.
    ///
    /// ```
    /// # #[cfg(feature = "neural")] {
    /// use rlaif_rewards::RewardConfig;
    /// let text = "kind = 'classifier'\nmodel = 'm'\nexam = { file = 'pairs.jsonl', at_least = 0.7 }";
    /// let config = RewardConfig::from_toml(text, "reward.toml")?;
    /// assert_eq!(config.demands()[0].1.at_least, 0.7);
    /// # }
    /// # Ok::<(), rlaif_rewards::ProviderError>(())
    /// ```
    pub fn demands(&self) -> Vec<(&Self, &ExamDemand)> {
        let Node { parts, exam, .. } = self.node();
        let own = exam.map(|exam| (self, exam));
        own.into_iter().chain(parts.into_iter().flat_map(Self::demands)).collect()
    }

    /// The parts of this reward that do not depend on how it is walked.
    fn node(&self) -> Node<'_> {
        let of_columns = |paths: &[&Option<String>]| {
            let column =
                |path: &&Option<String>| Truth::named(path.as_deref()).column().map(str::to_owned);
            Node { columns: paths.iter().filter_map(column).collect(), ..Node::default() }
        };
        match self {
            #[cfg(feature = "neural")]
            Self::Classifier(config) => Node {
                model: config.local_model(),
                exam: config.exam.as_deref(),
                input: match config.input {
                    None | Some(Input::Response) => RewardInput::Rules,
                    Some(Input::Pair) => RewardInput::Text,
                    // With a chat template.
                    Some(Input::Chat | Input::PromptAndResponse) => RewardInput::Messages,
                },
                ..Node::default()
            },
            #[cfg(feature = "judge")]
            Self::Judge(config) => Node {
                #[cfg(feature = "neural")]
                model: config.local_model(),
                exam: config.exam.as_deref(),
                input: config.input(),
                ..Node::default()
            },
            Self::MathAnswer { answer, .. }
            | Self::TextAnswer { answer, .. }
            | Self::JsonSchema { answer, .. } => of_columns(&[answer]),
            Self::CodeTests { answer, entry_point, .. } => of_columns(&[answer, entry_point]),
            Self::Instructions { .. } => {
                let columns = ["instruction_id_list", "kwargs"].map(str::to_owned).into();
                Node { columns, ..Node::default() }
            }
            // The reward may read anything.
            Self::Own { columns, .. } => {
                Node { columns: columns.clone(), input: RewardInput::Messages, ..Node::default() }
            }
            Self::Length { .. }
            | Self::Repetition { .. }
            | Self::Format { .. }
            | Self::ForbiddenWords { .. }
            | Self::Overlap { .. }
            | Self::Constant { .. } => Node::default(),
            Self::WeightedSum { terms, .. } => {
                Node::of(terms.iter().map(|term| &term.reward).collect())
            }
            Self::Mean { of, .. } | Self::Minimum { of, .. } | Self::LowerBound { of, .. } => {
                Node::of(of.iter().collect())
            }
            Self::Scaled { of, .. }
            | Self::Clipped { of, .. }
            | Self::Process { of, .. }
            | Self::Cached { of, .. } => Node::of(vec![of]),
            Self::Normalised { of, .. } => {
                Node { depends_on_other_rows: true, ..Node::of(vec![of]) }
            }
            Self::Gated { gate: other, of, .. } | Self::OrElse { other, of } => {
                Node::of(vec![other, of])
            }
        }
    }
}

/// One reward of a configuration.
#[derive(Default)]
struct Node<'a> {
    /// The rewards that it is made of.
    parts: Vec<&'a RewardConfig>,
    /// The columns that it reads beside prompt, response and reference.
    columns: Vec<String>,
    /// The part of a row that it reads.
    input: RewardInput,
    /// The model that it runs in this process.
    #[cfg(feature = "neural")]
    model: Option<LocalModel<'a>>,
    /// The grade that it must have.
    exam: Option<&'a ExamDemand>,
    /// `true` if its scores depend on those of other rows.
    depends_on_other_rows: bool,
}

impl<'a> Node<'a> {
    fn of(parts: Vec<&'a RewardConfig>) -> Self {
        Self { parts, ..Self::default() }
    }
}

#[cfg(all(test, feature = "judge", feature = "neural"))]
mod tests {
    use super::*;
    use crate::neural::Copies;

    #[test]
    fn every_model_and_interpreter_of_a_reward_is_among_its_locations() {
        let classifier = |model: &str| format!("{{ kind = \"classifier\", model = \"{model}\" }}");
        let judge = |model: &str| {
            format!(
                "{{ kind = \"judge\", rubric = \"toxicity\", cache = \"answers.sqlite\", \
                 api = {{ kind = \"policy\", model = \"{model}\" }} }}"
            )
        };
        let served =
            "{ kind = \"judge\", api = { kind = \"reward-server\", url = \"http://h/r\" } }";
        let asked = "{ kind = \"judge\", rubric = \"toxicity\", \
                     api = { kind = \"anthropic\", model = \"claude\" } }";
        let rule = "{ kind = \"format\", pattern = \"x\" }";
        let preset = "{ kind = \"classifier\", preset = \"hate\" }";
        let text = format!(
            "kind = \"weighted-sum\"\nname = \"all\"\nterms = [\n\
             {{ weight = 1.0, reward = {{ kind = \"mean\", name = \"m\", of = [{}, {rule}] }} }},\n\
             {{ weight = 1.0, reward = {{ kind = \"minimum\", name = \"n\", of = [{served}, {}] }} }},\n\
             {{ weight = 1.0, reward = {{ kind = \"gated\", gate = {}, threshold = 0.0, otherwise = 0.0, of = {} }} }},\n\
             {{ weight = 1.0, reward = {{ kind = \"or-else\", other = {}, of = {asked} }} }},\n\
             {{ weight = 1.0, reward = {{ kind = \"cached\", capacity = 1, of = {{ kind = \"scaled\", \
             factor = 1.0, of = {{ kind = \"clipped\", low = 0.0, high = 1.0, of = {{ kind = \"normalised\", \
             centring = \"centred\", of = {} }} }} }} }} }},\n\
             {{ weight = 1.0, reward = {preset} }},\n\
             {{ weight = 1.0, reward = {{ kind = \"code-tests\", python = \"./python\" }} }},\n\
             {{ weight = 1.0, reward = {{ kind = \"code-tests\", python = \"python3.12\" }} }},\n]\n",
            classifier("a"),
            judge("b"),
            judge("c"),
            classifier("d"),
            judge("e"),
            judge("f"),
        );
        let mut config = RewardConfig::from_toml(&text, "reward.toml").unwrap();
        let mut found: Vec<String> = config.locations().into_iter().map(std::mem::take).collect();
        found.sort();
        assert_eq!(found, ["./python", "a", "b", "c", "d", "e", "f"]);

        let config = RewardConfig::from_toml(&text, "reward.toml").unwrap();
        let mut found: Vec<(&str, Copies)> =
            config.local_models().iter().map(|model| (model.names.model, model.copies)).collect();
        found.sort_by_key(|(model, _)| *model);
        let own = ["b", "c", "e", "f"].map(|model| (model, Copies::Own));
        let mut shared =
            ["a", "d", crate::neural::NOT_HATE_MODEL].map(|model| (model, Copies::Shared)).to_vec();
        shared.extend(own);
        shared.sort_by_key(|(model, _)| *model);
        assert_eq!(found, shared);
    }
}

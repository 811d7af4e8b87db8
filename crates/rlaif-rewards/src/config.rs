//! Rewards from a configuration: a file of their own, or the `[reward]` table of a run file.

#[cfg(feature = "neural")]
use std::cell::RefCell;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use rlaif_core::RewardModel;
use serde::{Deserialize, Serialize};

use crate::combine::Centring;
use crate::file;
#[cfg(feature = "judge")]
use crate::judge::{self, JudgeConfig};
#[cfg(feature = "neural")]
use crate::neural::{ClassifierConfig, Loaded, ModelFolder};
use crate::rules::{Against, OverlapMeasure, Unit};
use crate::{
    Constant, Format, Length, Mean, Minimum, Overlap, ProviderError, Repetition, RewardExt,
    WeightedSum, Words,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RewardConfig {
    /// A sequence classifier or a reward model with a scalar head.
    #[cfg(feature = "neural")]
    Classifier(Box<ClassifierConfig>),
    /// A judge behind an API, a reward server, or a policy of this library as the judge.
    #[cfg(feature = "judge")]
    Judge(Box<JudgeConfig>),
    /// [`Length`].
    Length {
        /// The least that is not penalised.
        #[serde(default)]
        shortest: usize,
        /// The most that is not penalised.
        longest: usize,
        /// How far off costs 1.
        per: f32,
        /// What is counted.
        #[serde(default)]
        unit: Unit,
    },
    /// [`Repetition`].
    Repetition {
        /// The length of the runs of words.
        n: usize,
    },
    /// [`Format`].
    Format {
        /// The regular expression.
        pattern: String,
    },
    /// [`Words::forbidden`].
    ForbiddenWords {
        /// The words.
        words: Vec<String>,
    },
    /// [`Overlap`].
    Overlap {
        /// Which overlap.
        measure: OverlapMeasure,
        /// With what.
        #[serde(default)]
        against: Against,
    },
    /// [`Constant`].
    Constant {
        /// The score.
        value: f32,
    },
    /// [`WeightedSum`].
    WeightedSum {
        /// What metrics call it.
        name: String,
        /// What is summed.
        terms: Vec<Term>,
    },
    /// [`Mean`].
    Mean {
        /// What metrics call it.
        name: String,
        /// Of which rewards.
        of: Vec<Self>,
    },
    /// [`Minimum`].
    Minimum {
        /// What metrics call it.
        name: String,
        /// Of which rewards.
        of: Vec<Self>,
    },
    /// [`crate::Scaled`].
    Scaled {
        /// What the score is multiplied by.
        factor: f32,
        /// What is added then.
        #[serde(default)]
        offset: f32,
        /// Which reward's score.
        of: Box<Self>,
    },
    /// [`crate::Clipped`].
    Clipped {
        /// The least score.
        low: f32,
        /// The greatest score.
        high: f32,
        /// Which reward's score.
        of: Box<Self>,
    },
    /// [`crate::Normalised`].
    Normalised {
        /// Whether the mean goes.
        centring: Centring,
        /// Which reward's score.
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
    /// [`crate::Cached`].
    Cached {
        /// How many verdicts are remembered.
        capacity: usize,
        /// Which reward's.
        of: Box<Self>,
    },
}

/// One term of a weighted sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// Its weight.
    pub weight: f32,
    /// The reward.
    pub reward: RewardConfig,
}

/// What a configured reward needs besides its configuration.
///
/// ```
/// use rlaif_rewards::Surroundings;
/// let beside_the_run_file = Surroundings::of_folder("runs");
/// ```
pub struct Surroundings<'a> {
    folder: PathBuf,
    /// Which of the borrowed things below there are hangs on the features.
    borrowed: PhantomData<&'a ()>,
    #[cfg(feature = "judge")]
    pub(crate) environment: judge::Environment<'a>,
    #[cfg(feature = "neural")]
    models: &'a ModelFolder<'a>,
    #[cfg(feature = "neural")]
    device: tch::Device,
    /// Classifiers that were loaded, so that rewards of the same weights share them.
    #[cfg(feature = "neural")]
    pub(crate) loaded: RefCell<Vec<Loaded>>,
}

impl Default for Surroundings<'_> {
    fn default() -> Self {
        Self::of_folder("")
    }
}

impl<'a> Surroundings<'a> {
    /// Relative caches are in `folder`. Keys come from the environment of the process; models are
    /// folders on this disk, and run on the CPU.
    pub fn of_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            borrowed: PhantomData,
            #[cfg(feature = "judge")]
            environment: &judge::process_environment,
            #[cfg(feature = "neural")]
            models: &|location, _| Ok(PathBuf::from(location)),
            #[cfg(feature = "neural")]
            device: tch::Device::Cpu,
            #[cfg(feature = "neural")]
            loaded: RefCell::default(),
        }
    }

    /// The folder that relative paths start from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keys from elsewhere than the environment of the process.
    #[cfg(feature = "judge")]
    #[must_use]
    pub fn environment(mut self, environment: judge::Environment<'a>) -> Self {
        self.environment = environment;
        self
    }

    /// How the folder of a model is found from its location and revision: hub ids, say.
    #[cfg(feature = "neural")]
    #[must_use]
    pub fn models(mut self, models: &'a ModelFolder<'a>) -> Self {
        self.models = models;
        self
    }

    /// Where models run that say nothing else.
    #[cfg(feature = "neural")]
    #[must_use]
    pub fn device(mut self, device: tch::Device) -> Self {
        self.device = device;
        self
    }

    #[cfg(feature = "neural")]
    pub(crate) fn default_device(&self) -> tch::Device {
        self.device
    }

    #[cfg(feature = "neural")]
    pub(crate) fn model_folder(
        &self,
        location: &str,
        revision: Option<&str>,
    ) -> Result<PathBuf, ProviderError> {
        (self.models)(location, revision)
    }
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

    /// Every setting that may name a folder on this disk: the models of classifiers and of policies
    /// that judge. A program that is to find them from another folder makes the local ones absolute.
    ///
    /// The files that judges keep answers in are not among them: they are made where they do not
    /// exist, in the folder of [`Surroundings`].
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
            | Self::Constant { .. } => Vec::new(),
            Self::WeightedSum { name: _, terms } => {
                terms.iter_mut().flat_map(|term| term.reward.locations()).collect()
            }
            Self::Mean { name: _, of } | Self::Minimum { name: _, of } => {
                of.iter_mut().flat_map(Self::locations).collect()
            }
            Self::Scaled { of, factor: _, offset: _ }
            | Self::Clipped { of, low: _, high: _ }
            | Self::Normalised { of, centring: _ }
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

    /// The reward that this describes.
    ///
    /// # Errors
    /// [`ProviderError`] of whatever cannot be built.
    // Rules and combinators need nothing around them.
    #[cfg_attr(
        not(any(feature = "judge", feature = "neural")),
        allow(clippy::only_used_in_recursion)
    )]
    pub fn build(&self, around: &Surroundings<'_>) -> Result<Box<dyn RewardModel>, ProviderError> {
        Ok(match self {
            #[cfg(feature = "neural")]
            Self::Classifier(config) => Box::new(config.build(around)?),
            #[cfg(feature = "judge")]
            Self::Judge(config) => {
                let mut config = (**config).clone();
                if let Some(cache) = &mut config.cache {
                    *cache = around.folder().join(&*cache);
                }
                judge::build(&config, around)?
            }
            Self::Length { shortest, longest, per, unit } => {
                Box::new(Length::within(*shortest, *longest, *per)?.counted_in(*unit))
            }
            Self::Repetition { n } => Box::new(Repetition::of_words(*n)?),
            Self::Format { pattern } => Box::new(Format::new(pattern)?),
            Self::ForbiddenWords { words } => Box::new(Words::forbidden(words)?),
            Self::Overlap { measure, against } => Box::new(Overlap::new(*measure, *against)),
            Self::Constant { value } => Box::new(Constant::new(*value)?),
            Self::WeightedSum { name, terms } => {
                some("terms", terms)?;
                let mut sum = WeightedSum::new(name);
                for term in terms {
                    sum = sum.term(term.weight, term.reward.build(around)?);
                }
                Box::new(sum)
            }
            Self::Mean { name, of } => {
                let (first, others) = some("of", of)?;
                let mut mean = Mean::new(name, first.build(around)?);
                for other in others {
                    mean = mean.and(other.build(around)?);
                }
                Box::new(mean)
            }
            Self::Minimum { name, of } => {
                let (first, others) = some("of", of)?;
                let mut minimum = Minimum::new(name, first.build(around)?);
                for other in others {
                    minimum = minimum.and(other.build(around)?);
                }
                Box::new(minimum)
            }
            Self::Scaled { factor, offset, of } => {
                Box::new(of.build(around)?.scaled(*factor, *offset)?)
            }
            Self::Clipped { low, high, of } => Box::new(of.build(around)?.clipped(*low, *high)?),
            Self::Normalised { centring, of } => Box::new(of.build(around)?.normalised(*centring)),
            Self::Gated { gate, threshold, otherwise, of } => {
                let gate = gate.build(around)?;
                Box::new(of.build(around)?.only_when(gate, *threshold, *otherwise)?)
            }
            Self::OrElse { other, of } => Box::new(of.build(around)?.or_else(other.build(around)?)),
            Self::Cached { capacity, of } => Box::new(of.build(around)?.cached(*capacity)),
        })
    }
}

/// At least one, apart from the others.
fn some<'a, T>(setting: &'static str, list: &'a [T]) -> Result<(&'a T, &'a [T]), ProviderError> {
    list.split_first().ok_or_else(|| ProviderError::Setting {
        setting,
        expected: "at least one reward".to_owned(),
        found: "none".to_owned(),
    })
}

#[cfg(all(test, feature = "judge", feature = "neural"))]
mod tests {
    use super::*;

    #[test]
    fn every_model_of_a_reward_is_among_its_locations() {
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
             {{ weight = 1.0, reward = {preset} }},\n]\n",
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
        assert_eq!(found, ["a", "b", "c", "d", "e", "f"]);
    }
}

//! Rewards from their configurations: the one place that knows of every kind.

#[cfg(feature = "neural")]
use std::cell::RefCell;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use rlaif_core::{BadSetting, RewardModel};
#[cfg(all(feature = "judge", feature = "neural"))]
use rlaif_core::{ChatOptions, Seed};
#[cfg(all(feature = "judge", feature = "neural"))]
use rlaif_lm::generate::{GenerationConfig, Sampling};
#[cfg(all(feature = "judge", feature = "neural"))]
use rlaif_models::LanguageModel;
#[cfg(feature = "neural")]
use rlaif_models::{LoadOptions, ModelFiles, ModelNames};
#[cfg(all(feature = "judge", feature = "neural"))]
use rlaif_text::HfTokenizer;
#[cfg(feature = "neural")]
use tch::{Device, Kind};

use crate::combine::Keeping;
#[cfg(feature = "judge")]
use crate::judge::{ApiConfig, EnvVars, JudgeConfig, LlmJudge, RemoteReward, process_environment};
#[cfg(all(feature = "judge", feature = "neural"))]
use crate::judge::{PolicyApi, SamplingConfig};
#[cfg(feature = "neural")]
use crate::neural::{ClassifierConfig, ClassifierReward, FindModel, LocalModel};
#[cfg(all(feature = "judge", feature = "neural"))]
use crate::neural::{PolicyJudge, tokenizer_folder};
use crate::verify::{
    CodeTests, Instructions, JsonSchemaCheck, MathAnswer, Sandbox, TextAnswer, Truth,
};
use crate::{
    Constant, Format, Length, LowerBound, Mean, Minimum, Overlap, ProcessReward, ProviderError,
    Repetition, RewardConfig, RewardExt, WeightedSum, Words, own,
};

/// Everything that a configured reward needs besides its configuration: a folder, keys, models.
///
/// ```
/// use rlaif_rewards::Surroundings;
/// let beside_the_run_file = Surroundings::of_folder("runs");
/// ```
pub struct Surroundings<'a> {
    folder: PathBuf,
    /// The file of verdicts of rewards whose scores come only at the end of a batch.
    keeping: Keeping,
    /// Keeps `'a` in use when neither `judge` nor `neural`, whose fields borrow, is enabled.
    borrowed: PhantomData<&'a ()>,
    #[cfg(feature = "judge")]
    environment: EnvVars<'a>,
    #[cfg(feature = "neural")]
    models: &'a FindModel<'a>,
    #[cfg(feature = "neural")]
    device: Device,
    /// Classifiers that were loaded, so that rewards of the same weights share them.
    #[cfg(feature = "neural")]
    loaded: RefCell<Vec<Loaded>>,
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
            keeping: Keeping::default(),
            borrowed: PhantomData,
            #[cfg(feature = "judge")]
            environment: &process_environment,
            #[cfg(feature = "neural")]
            models: &|names| Ok(on_this_disk(names)),
            #[cfg(feature = "neural")]
            device: Device::Cpu,
            #[cfg(feature = "neural")]
            loaded: RefCell::default(),
        }
    }

    /// The folder that relative paths start from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps the verdicts behind `normalised` rewards in this file, each as soon as it is there: their
    /// scores come only at the end of a batch, and an interruption would lose what was paid for.
    /// Rewards that are built with the same file and the same configuration do not ask for them again.
    #[must_use]
    pub fn keeping(mut self, path: impl Into<PathBuf>) -> Self {
        self.keeping = Keeping::at(path.into());
        self
    }

    /// Keys from elsewhere than the environment of the process.
    #[cfg(feature = "judge")]
    #[must_use]
    pub fn environment(mut self, environment: EnvVars<'a>) -> Self {
        self.environment = environment;
        self
    }

    /// The source of keys.
    #[cfg(feature = "judge")]
    pub(crate) fn keys(&self) -> EnvVars<'a> {
        self.environment
    }

    /// Finds the files of a model by its names: hub ids, say.
    #[cfg(feature = "neural")]
    #[must_use]
    pub fn models(mut self, models: &'a FindModel<'a>) -> Self {
        self.models = models;
        self
    }

    /// Sets the default device of models.
    #[cfg(feature = "neural")]
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }
}

/// The files of names that are folders.
#[cfg(feature = "neural")]
fn on_this_disk(names: &ModelNames<'_>) -> ModelFiles {
    let ModelNames { model, adapter, base, .. } = names;
    match (base, adapter) {
        (Some(base), _) => ModelFiles { folder: base.into(), adapter: Some(model.into()) },
        (None, adapter) => ModelFiles { folder: model.into(), adapter: adapter.map(PathBuf::from) },
    }
}

impl RewardConfig {
    /// The reward that this describes.
    ///
    /// # Errors
    /// [`ProviderError`] of the part that cannot be built.
    // Rules and combinators need nothing around them.
    #[cfg_attr(
        not(any(feature = "judge", feature = "neural")),
        allow(clippy::only_used_in_recursion)
    )]
    pub fn build(&self, around: &Surroundings<'_>) -> Result<Box<dyn RewardModel>, ProviderError> {
        Ok(match self {
            #[cfg(feature = "neural")]
            Self::Classifier(config) => Box::new(classifier(config, around)?),
            #[cfg(feature = "judge")]
            Self::Judge(config) => {
                let mut config = (**config).clone();
                if let Some(cache) = &mut config.cache {
                    *cache = around.folder().join(&*cache);
                }
                judge(&config, around)?
            }
            Self::Length { shortest, longest, per, unit } => {
                Box::new(Length::within(*shortest, *longest, *per)?.counted_in(*unit))
            }
            Self::Repetition { n } => Box::new(Repetition::of_words(*n)?),
            Self::Format { pattern } => Box::new(Format::new(pattern)?),
            Self::ForbiddenWords { words } => Box::new(Words::forbidden(words)?),
            Self::Overlap { measure, against } => Box::new(Overlap::new(*measure, *against)),
            Self::MathAnswer { answer, place } => {
                Box::new(MathAnswer::new(Truth::named(answer.as_deref()), *place))
            }
            Self::TextAnswer { answer, pattern, comparison } => {
                let reward = TextAnswer::new(Truth::named(answer.as_deref()), *comparison);
                Box::new(match pattern {
                    Some(pattern) => reward.found_by(pattern)?,
                    None => reward,
                })
            }
            Self::JsonSchema { schema, answer } => Box::new(match (schema, answer) {
                (Some(schema), None) => JsonSchemaCheck::new(&schema.clone().into())?,
                (None, Some(_)) => JsonSchemaCheck::of_rows(Truth::named(answer.as_deref())),
                (schema, _) => {
                    let found = if schema.is_some() { "both" } else { "neither" };
                    return Err(ProviderError::Setting(BadSetting::new(
                        "schema",
                        found,
                        "given, or `answer` in its place",
                    )));
                }
            }),
            Self::CodeTests { answer, entry_point, score, python, limits, concurrency } => {
                let sandbox = Sandbox::new(python, *limits)?;
                let reward = CodeTests::new(sandbox, Truth::named(answer.as_deref()), *score)
                    .concurrency(*concurrency)?;
                Box::new(match entry_point {
                    Some(name) => reward.checking(Truth::named(Some(name))),
                    None => reward,
                })
            }
            Self::Instructions { score, check } => {
                Box::new(Instructions::new(*score).check(*check))
            }
            Self::Own { name, settings, columns: _ } => own::build(name, settings)?,
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
            Self::LowerBound { name, deviations, of } => {
                let (first, others) = some("of", of)?;
                let mut bound = LowerBound::new(name, *deviations, first.build(around)?)?;
                for other in others {
                    bound = bound.and(other.build(around)?);
                }
                Box::new(bound)
            }
            Self::Scaled { factor, offset, of } => {
                Box::new(of.build(around)?.scaled(*factor, *offset)?)
            }
            Self::Clipped { low, high, of } => Box::new(of.build(around)?.clipped(*low, *high)?),
            Self::Normalised { centring, of } => {
                Box::new(around.keeping.kept(of.build(around)?)?.normalised(*centring))
            }
            Self::Gated { gate, threshold, otherwise, of } => {
                let gate = gate.build(around)?;
                Box::new(of.build(around)?.only_when(gate, *threshold, *otherwise)?)
            }
            Self::OrElse { other, of } => Box::new(of.build(around)?.or_else(other.build(around)?)),
            Self::Process { separator, view, total, max_steps, of } => {
                let steps = ProcessReward::new(of.build(around)?, separator)?;
                Box::new(steps.view(*view).total(*total).max_steps(*max_steps)?)
            }
            Self::Cached { capacity, of } => Box::new(of.build(around)?.cached(*capacity)),
        })
    }
}

/// At least one, apart from the others.
fn some<'a, T>(setting: &'static str, list: &'a [T]) -> Result<(&'a T, &'a [T]), ProviderError> {
    list.split_first().ok_or_else(|| {
        ProviderError::Setting(BadSetting::new(setting, "none", "at least one reward"))
    })
}

/// The judge of a configuration, of any kind.
#[cfg(feature = "judge")]
fn judge(
    config: &JudgeConfig,
    around: &Surroundings<'_>,
) -> Result<Box<dyn RewardModel>, ProviderError> {
    Ok(match &config.api {
        ApiConfig::Llm(api) => Box::new(LlmJudge::of(config, api, around.environment)?),
        ApiConfig::RewardServer(api) => {
            Box::new(RemoteReward::of(config, api, around.environment)?)
        }
        #[cfg(feature = "neural")]
        ApiConfig::Policy(api) => Box::new(policy_judge(config, api, around)?),
    })
}

/// Loaded weights, told apart by files, device and kind.
#[cfg(feature = "neural")]
type Loaded = ((ModelFiles, Device, Option<Kind>), ClassifierReward);

/// Device and dtype of a configured model.
#[cfg(feature = "neural")]
fn load_options(
    model: LocalModel<'_>,
    around: &Surroundings<'_>,
) -> Result<LoadOptions, ProviderError> {
    let options = LoadOptions::new(model.on(around.device)?, model.dtype.map(Kind::from));
    Ok(LoadOptions { quantization: model.quantization, ..options })
}

/// The reward, whose weights are shared with those that `around` built of them before.
#[cfg(feature = "neural")]
fn classifier(
    config: &ClassifierConfig,
    around: &Surroundings<'_>,
) -> Result<ClassifierReward, ProviderError> {
    let Some(model) = config.local_model() else {
        return Err(ProviderError::Setting(BadSetting::new(
            "model",
            "nothing",
            "a folder or a hub id, unless there is a `preset`",
        )));
    };
    let files = (around.models)(&model.names)?;
    let load = load_options(model, around)?;
    let key = (files, load.device, load.kind);
    let mut loaded = around.loaded.borrow_mut();
    if let Some((_, same)) = loaded.iter().find(|(known, _)| *known == key) {
        return same.with(config.options());
    }
    let reward = ClassifierReward::load(key.0.clone(), load, config.options())?;
    loaded.push((key, reward.with(config.options())?));
    Ok(reward)
}
/// The policy of this library that a configuration makes a judge.
#[cfg(all(feature = "judge", feature = "neural"))]
fn policy_judge<A>(
    config: &JudgeConfig<A>,
    api: &PolicyApi,
    around: &Surroundings<'_>,
) -> Result<PolicyJudge, ProviderError> {
    config.check()?;
    config.service(around.folder()).check_for_policy()?;
    let rubric = config.rubric()?;
    let (policy, codec) = policy_of(api, around)?;
    let judge = PolicyJudge::new(rubric, policy, codec)?.asked_with(chat_of(api))?;
    let sampling = sampling_of(&config.sampling)?.unwrap_or(Sampling::Greedy);
    let SamplingConfig { max_new_tokens, seed, .. } = &config.sampling;
    let default = judge.generation().clone();
    let judge = judge.named(&config.name).writing(GenerationConfig {
        max_new_tokens: max_new_tokens.map_or(default.max_new_tokens, |tokens| tokens as usize),
        batch_size: api.batch_size.unwrap_or(default.batch_size),
        sampling,
        ..default
    })?;
    judge.samples(config.samples.unwrap_or(1), Seed::new(seed.unwrap_or(0)))
}

/// The policy that a configuration names, with its tokenizer.
#[cfg(all(feature = "judge", feature = "neural"))]
pub(crate) fn policy_of(
    api: &PolicyApi,
    around: &Surroundings<'_>,
) -> Result<(LanguageModel, HfTokenizer), ProviderError> {
    let model = api.local_model(None);
    let files = (around.models)(&model.names)?;
    let load = load_options(model, around)?;
    let codec = HfTokenizer::from_folder(tokenizer_folder(&files))?;
    Ok((files.language_model(load)?, codec))
}

/// The options of a policy's chat template.
#[cfg(all(feature = "judge", feature = "neural"))]
pub(crate) fn chat_of(api: &PolicyApi) -> ChatOptions {
    ChatOptions {
        template: api.chat_template.clone(),
        kwargs: api.chat_template_kwargs.clone(),
        ..ChatOptions::default()
    }
}

/// The sampling of a policy; nothing where no temperature is given.
#[cfg(all(feature = "judge", feature = "neural"))]
pub(crate) fn sampling_of(config: &SamplingConfig) -> Result<Option<Sampling>, ProviderError> {
    let SamplingConfig { temperature, top_p, top_k, .. } = config;
    match temperature {
        Some(temperature) if *temperature != 0. => Ok(Some(Sampling::Sample {
            temperature: *temperature,
            top_k: top_k.map(|k| k as usize),
            top_p: *top_p,
            min_p: None,
        })),
        _ if top_p.is_some() || top_k.is_some() => Err(ProviderError::Setting(BadSetting::new(
            "sampling.temperature",
            "nothing",
            "given together with `top_p` or `top_k`",
        ))),
        _ => Ok(None),
    }
}

//! Rewards of other programs, by the names that their run files use.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, PoisonError, RwLock},
};

use rlaif_core::{BadSetting, RewardModel, with_causes};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{ProviderError, file::describe_toml};

/// The settings of a reward, as its run file has them.
type Settings = Map<String, Value>;

/// Makes a reward of its settings.
type Make = dyn Fn(&Settings) -> Result<Box<dyn RewardModel>, ProviderError> + Send + Sync;

/// The rewards of this program.
static OWN: RwLock<BTreeMap<String, Arc<Make>>> = RwLock::new(BTreeMap::new());

/// Makes a reward of your own available to run files as `kind = "own"`, in every command that reads a reward: training,
/// evaluation, judging, labelling. `make` gets the table `settings` of the run file as a type of yours, and is called once for each
/// place that names the reward.
///
/// The names are those of the process, because a run file is read far from `main`, and again when its run is resumed.
/// A program registers its rewards first, and then runs the command:
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::{Length, RewardConfig, Surroundings, register};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Brevity {
///     words: usize,
/// }
///
/// register("brevity", |settings: Brevity| Ok(Length::at_most(settings.words, 10.)?))?;
/// let config = RewardConfig::from_toml(
///     "kind = 'own'\nname = 'brevity'\nsettings = { words = 2 }",
///     "run.toml",
/// )?;
/// let reward = config.build(&Surroundings::default())?;
/// let scores = reward.score(&[Exchange::new("Why?", "It was ever so.")])?;
/// assert_eq!(scores.total[0].unwrap().get(), -0.2);
///
/// let config = RewardConfig::from_toml("kind = 'own'\nname = 'brevty'", "run.toml")?;
/// let error = config.build(&Surroundings::default()).err().unwrap().to_string();
/// assert!(error.contains("did you mean `brevity`?"), "{error}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ProviderError::Setting`] for a name that is registered already.
pub fn register<S, R>(
    name: &str,
    make: impl Fn(S) -> Result<R, Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
) -> Result<(), ProviderError>
where
    S: DeserializeOwned,
    R: RewardModel + 'static,
{
    let called = name.to_owned();
    let made = move |settings: &Settings| -> Result<Box<dyn RewardModel>, ProviderError> {
        let settings = Value::Object(settings.clone());
        let settings = serde_path_to_error::deserialize(settings).map_err(|error| {
            let path = match error.path().to_string().as_str() {
                "." => String::new(),
                path => format!("`settings.{path}`: "),
            };
            let problem = path + &describe_toml(&error.into_inner().to_string());
            ProviderError::OwnSettings { name: called.clone(), problem }
        })?;
        let made = make(settings).map_err(|error| {
            let problem = with_causes(&*error);
            ProviderError::OwnSettings { name: called.clone(), problem }
        })?;
        Ok(Box::new(made))
    };
    let mut own = OWN.write().unwrap_or_else(PoisonError::into_inner);
    if own.contains_key(name) {
        let found = format!("`{name}`, which is registered already");
        return Err(BadSetting::new("name", found, "a name of its own for each reward").into());
    }
    own.insert(name.to_owned(), Arc::new(made));
    Ok(())
}

/// The reward that this program registered under the name.
pub(crate) fn build(
    name: &str,
    settings: &Settings,
) -> Result<Box<dyn RewardModel>, ProviderError> {
    let own = OWN.read().unwrap_or_else(PoisonError::into_inner);
    let Some(make) = own.get(name).cloned() else {
        let known = own.keys().cloned().collect();
        return Err(ProviderError::Own { name: name.to_owned(), known });
    };
    // `make` may build rewards that are registered themselves.
    drop(own);
    make(settings)
}

#[cfg(test)]
mod tests {
    use rlaif_core::{Exchange, Fault};
    use serde::Deserialize;

    use super::*;
    use crate::{Constant, RewardConfig, Surroundings};

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fixed {
        value: f32,
    }

    fn built(text: &str) -> Result<Box<dyn RewardModel>, ProviderError> {
        RewardConfig::from_toml(text, "r.toml").unwrap().build(&Surroundings::default())
    }

    fn refused(text: &str) -> String {
        let error = built(text).err().unwrap();
        assert!(error.is_users(), "{error}");
        error.to_string()
    }

    #[test]
    fn own_rewards_stand_beside_others_and_say_what_is_wrong() {
        register("fixed", |fixed: Fixed| Ok(Constant::new(fixed.value)?)).unwrap();
        let own = "{ kind = 'own', name = 'fixed', settings = { value = 2.5 } }";
        let reward = built(&format!("kind = 'scaled'\nfactor = 2.0\nof = {own}")).unwrap();
        let scores = reward.score(&[Exchange::new("p", "r")]).unwrap();
        assert_eq!(scores.total[0].unwrap().get(), 5.);

        let of = |settings: &str| format!("kind = 'own'\nname = 'fixed'\nsettings = {settings}");
        assert_eq!(
            refused(&of("{ valeu = 1.0 }")),
            "reward `fixed`: `settings.valeu`: unknown key `valeu`; did you mean `value`? (known: `value`)"
        );
        assert_eq!(
            refused(&of("{ value = 'much' }")),
            "reward `fixed`: `settings.value`: found a string, expected a number"
        );
        assert!(refused(&of("{}")).contains("missing field `value`"));
        assert!(refused("kind = 'own'\nname = 'fixd'").contains("did you mean `fixed`?"));

        let twice = register("fixed", |fixed: Fixed| Ok(Constant::new(fixed.value)?)).unwrap_err();
        assert!(twice.to_string().contains("registered already"), "{twice}");
    }

    #[test]
    fn a_reward_that_cannot_be_made_says_why() {
        register("broken", |_: Map<String, Value>| -> Result<Constant, _> {
            Err("the list of words is empty".into())
        })
        .unwrap();
        assert_eq!(
            refused("kind = 'own'\nname = 'broken'"),
            "reward `broken`: the list of words is empty"
        );
    }

    #[test]
    fn its_columns_are_read_with_the_rows() {
        let text = "kind = 'own'\nname = 'x'\ncolumns = ['topic', 'difficulty']";
        let config = RewardConfig::from_toml(text, "r.toml").unwrap();
        assert_eq!(config.columns(), ["difficulty", "topic"]);
    }
}

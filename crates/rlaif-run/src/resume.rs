//! The difference between a run's file and the one given when it is resumed: which changes are allowed.

mod keys;

use std::fmt;

use toml::{Table, Value};

use AtResume::{Always, Fixed, FromHere, IfLast, Longer};
pub use keys::AtResume;
use keys::{KEYS, LISTS, REWARD_KEYS, REWARDS, SERVICES, found};

/// A key whose value differs from that at the start of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The path, with dots; elements of lists by their index.
    pub key: String,
    /// The value of the run; `None` where the key was absent.
    pub before: Option<Value>,
    /// The requested value.
    pub now: Option<Value>,
    /// The reason for a refusal, if it is not obvious, or the extent of a change.
    because: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<Value>| match value {
            None => "not set".to_owned(),
            Some(value) => {
                let text = value.to_string();
                match text.char_indices().nth(80) {
                    Some((end, _)) => format!("{} ..", &text[..end]),
                    None => text,
                }
            }
        };
        write!(f, "`{}`: {} -> {}", self.key, value(&self.before), value(&self.now))?;
        match &self.because {
            Some(because) => write!(f, " ({because})"),
            None => Ok(()),
        }
    }
}

/// Differences between a run's file and the file given at `--resume`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    /// Allowed changes.
    pub(crate) allowed: Vec<Change>,
    /// Changes that would make it a different run.
    pub(crate) refused: Vec<Change>,
}

/// Compares the file of a run with the file given at `--resume`; `own` decides about keys of
/// commands outside this library.
pub(crate) fn compare(
    before: &Table,
    now: &Table,
    own: impl Fn(&str) -> Option<AtResume>,
) -> Changes {
    let mut all = Vec::new();
    tables(["", ""], before, now, &mut all);
    let mut changes = Changes::default();
    for (mut change, answer) in all {
        let answer = answer.or_else(|| own(&change.key)).unwrap_or(Fixed);
        match refusal(answer, &change, now) {
            None => {
                if answer == FromHere {
                    change.because = Some("for the steps from here on".to_owned());
                }
                changes.allowed.push(change);
            }
            Some(because) => {
                change.because = because;
                changes.refused.push(change);
            }
        }
    }
    changes
}

/// Returns whether a change is refused, with the reason if it is not obvious.
fn refusal(answer: AtResume, change: &Change, now: &Table) -> Option<Option<String>> {
    let value = |path: &str| {
        let (table, key) = path.rsplit_once('.')?;
        lookup(now, table)?.get(key)
    };
    match answer {
        Always | FromHere => None,
        Fixed => Some(None),
        IfLast => {
            let decides = value("train.result").is_some_and(|v| v.as_str() == Some("best"))
                || value("train.patience").is_some_and(|v| v.as_integer() != Some(0));
            decides.then(|| Some("evaluations decide about the result of this run".to_owned()))
        }
        Longer => {
            let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_integer);
            let longer = match (number(&change.before), number(&change.now)) {
                (Some(before), Some(now)) => now > before,
                _ => false,
            };
            if !longer {
                return Some(Some("a run may become longer, not shorter".to_owned()));
            }
            let schedule = now.iter().find_map(|(section, table)| {
                Some((section, table.get("optimizer")?.get("schedule")?.as_str()?))
            });
            let (section, schedule) = schedule.filter(|(_, schedule)| *schedule != "constant")?;
            Some(Some(format!(
                "`{section}.optimizer.schedule` is \"{schedule}\": a longer run has other learning \
                 rates from its beginning"
            )))
        }
    }
}

/// The settings without those that may always change at `--resume`, on which the result does not depend.
/// Paths of rows stay.
pub(crate) fn without_always(settings: &Table) -> Table {
    fn walk(path: &str, table: &Table) -> Table {
        let kept = table.iter().filter_map(|(key, value)| {
            let path = joined(path, key);
            let is_always = matches!(found(KEYS, &path), Some(Always));
            let value = match value {
                Value::Table(below) => Value::Table(walk(&path, below)),
                value => value.clone(),
            };
            let is_kept = !is_always || matches!(path.as_str(), "data.train" | "data.prompts");
            is_kept.then(|| (key.clone(), value))
        });
        kept.collect()
    }
    walk("", settings)
}

/// The table at a path; an empty path is the table itself.
pub(crate) fn lookup<'t>(table: &'t Table, path: &str) -> Option<&'t Table> {
    let mut parts = path.split('.').filter(|part| !part.is_empty());
    parts.try_fold(table, |table, part| table.get(part)?.as_table())
}

type Found = Vec<(Change, Option<AtResume>)>;

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The keys of two tables, without duplicates.
fn keys_of<'t>(before: &'t Table, now: &'t Table) -> Vec<&'t String> {
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Compares two tables at a path, whose name is the path without the indices of lists.
fn tables([path, name]: [&str; 2], before: &Table, now: &Table, all: &mut Found) {
    for key in keys_of(before, now) {
        let (path, name) = (joined(path, key), joined(name, key));
        values([&path, &name], before.get(key), now.get(key), all);
    }
}

fn values([path, name]: [&str; 2], before: Option<&Value>, now: Option<&Value>, all: &mut Found) {
    match (before, now) {
        (Some(Value::Table(before)), Some(Value::Table(now))) if REWARDS.contains(&name) => {
            rewards(path, before, now, all);
        }
        (Some(Value::Table(_)), Some(Value::Table(_))) if SERVICES.contains(&name) => {
            parts(path, "judge", before, now, all);
        }
        (Some(Value::Table(before)), Some(Value::Table(now))) => {
            tables([path, name], before, now, all);
        }
        (Some(Value::Array(before)), Some(Value::Array(now)))
            if LISTS.contains(&name) && are_alike(before, now) =>
        {
            for (at, (before, now)) in before.iter().zip(now).enumerate() {
                values([&format!("{path}[{at}]"), name], Some(before), Some(now), all);
            }
        }
        (before, now) if before != now => {
            add(path.to_owned(), before, now, found(KEYS, name), all);
        }
        _ => {}
    }
}

/// `true` for two lists of equally many tables.
fn are_alike(before: &[Value], now: &[Value]) -> bool {
    before.len() == now.len() && before.iter().chain(now).all(Value::is_table)
}

fn add(
    key: String,
    before: Option<&Value>,
    now: Option<&Value>,
    answer: Option<AtResume>,
    all: &mut Found,
) {
    let change = Change { key, before: before.cloned(), now: now.cloned(), because: None };
    all.push((change, answer));
}

/// Compares two rewards, including their inner rewards.
fn rewards(path: &str, before: &Table, now: &Table, all: &mut Found) {
    let kind = |table: &Table| table.get("kind").and_then(Value::as_str).map(str::to_owned);
    let Some(kind) = kind(before).filter(|before| Some(before) == kind(now).as_ref()) else {
        return add(joined(path, "kind"), before.get("kind"), now.get("kind"), Some(Fixed), all);
    };
    for key in keys_of(before, now) {
        parts(&joined(path, key), &format!("{kind}.{key}"), before.get(key), now.get(key), all);
    }
}

/// Compares one key of a reward: a reward, a list or a table of rewards, or a value.
fn parts(path: &str, name: &str, before: Option<&Value>, now: Option<&Value>, all: &mut Found) {
    match (before, now) {
        (Some(Value::Table(before)), Some(Value::Table(now))) if is_reward(name) => {
            rewards(path, before, now, all);
        }
        (Some(Value::Table(before)), Some(Value::Table(now))) => {
            for key in keys_of(before, now) {
                let name = format!("{name}.{key}");
                parts(&joined(path, key), &name, before.get(key), now.get(key), all);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(now))) if are_alike(before, now) => {
            for (at, (before, now)) in before.iter().zip(now).enumerate() {
                parts(&format!("{path}[{at}]"), name, Some(before), Some(now), all);
            }
        }
        (before, now) if before != now => {
            add(path.to_owned(), before, now, found(REWARD_KEYS, name), all);
        }
        _ => {}
    }
}

/// `true` if the value of this key of a reward is a reward.
fn is_reward(name: &str) -> bool {
    // Not below: a JSON schema or variables of a chat template may have keys of these names.
    let of_kind = |(_, part)| matches!(part, "of" | "gate" | "other");
    name == "weighted-sum.terms.reward" || name.split_once('.').is_some_and(of_kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(before: &str, now: &str) -> (Vec<String>, Vec<String>) {
        let parse = |text: &str| text.parse::<Table>().unwrap();
        let Changes { allowed, refused } =
            compare(&parse(before), &parse(now), |key| (key == "echo.times").then_some(Always));
        let told = |all: Vec<Change>| all.iter().map(ToString::to_string).collect();
        (told(allowed), told(refused))
    }

    #[test]
    fn what_the_result_depends_on_is_refused_with_both_values() {
        let judge = |url: &str, model: &str, weight: f32| {
            format!(
                "[[reward.terms]]\nweight = {weight:?}\n[reward.terms.reward]\nkind = 'judge'\n\
                 limits = {{ retries = 1 }}\n\
                 api = {{ kind = 'openai', base_url = '{url}', model = '{model}' }}\n\
                 [reward]\nkind = 'weighted-sum'\n"
            )
        };
        let (allowed, refused) = changes(&judge("http://a", "m", 1.), &judge("http://b", "m", 1.));
        let key = "reward.terms[0].reward.api.base_url";
        assert_eq!(allowed, [format!("`{key}`: \"http://a\" -> \"http://b\"")]);
        assert_eq!(refused, [""; 0]);
        let (_, refused) = changes(&judge("u", "m", 1.), &judge("u", "n", 2.));
        assert_eq!(
            refused,
            [
                "`reward.terms[0].reward.api.model`: \"m\" -> \"n\"",
                "`reward.terms[0].weight`: 1.0 -> 2.0"
            ]
        );
        let (_, refused) =
            changes("[reward]\nkind = 'length'\nper = 1", "[reward]\nkind = 'judge'");
        assert_eq!(refused, ["`reward.kind`: \"length\" -> \"judge\""]);

        let (allowed, refused) = changes(
            "seed = 1\n[placement]\nthreads = 1\n[echo]\ntimes = 1\nlouder = true",
            "[placement]\nthreads = 2\nmemory_gib = 3.5\n[echo]\ntimes = 2\nlouder = false",
        );
        assert_eq!(
            allowed,
            [
                "`echo.times`: 1 -> 2",
                "`placement.memory_gib`: not set -> 3.5",
                "`placement.threads`: 1 -> 2"
            ]
        );
        assert_eq!(refused, ["`echo.louder`: true -> false", "`seed`: 1 -> not set"]);
    }

    #[test]
    fn labels_and_candidates_take_another_address_but_not_another_model() {
        let judge = |url: &str, extra: u64| {
            format!(
                "api = {{ kind = 'openai', model = 'm', base_url = '{url}', extra_body = {{ \
                 price = {extra}, chat_template_kwargs = {{ limits = {extra} }} }} }}\n\
                 price = {{ input_per_million = {extra}.0, output_per_million = 1.0 }}\n\
                 limits = {{ retries = {extra} }}\n"
            )
        };
        let schema = |extra: u64| {
            format!(
                "kind = 'json-schema'\nschema = {{ properties = {{ price = {{ minimum = {extra} }}, \
                 of = {{ minimum = {extra} }} }} }}\n"
            )
        };
        let file = |url: &str, extra: u64| {
            format!(
                "[label.judge]\n{}[[label.facets]]\nfacet = 'helpful'\n[label.facets.judge]\n{}\
                 [[label.facets]]\nname = 'json'\n[label.facets.reward]\n{}\
                 [[candidates.writers]]\n{}",
                judge(url, extra),
                judge(url, extra),
                schema(extra),
                judge(url, extra),
            )
        };
        let (allowed, refused) = changes(&file("a", 1), &file("b", 1));
        assert_eq!(refused, [""; 0]);
        let of = ["candidates.writers[0]", "label.facets[0].judge", "label.judge"];
        assert_eq!(allowed, of.map(|at| format!("`{at}.api.base_url`: \"a\" -> \"b\"")));

        let (allowed, refused) = changes(&file("a", 1), &file("a", 2));
        assert_eq!(allowed.len(), 6, "the price and the limits of each service: {allowed:?}");
        let mut below: Vec<String> = of
            .iter()
            .flat_map(|at| {
                let at = format!("`{at}.api.extra_body");
                [
                    format!("{at}.chat_template_kwargs.limits`: 1 -> 2"),
                    format!("{at}.price`: 1 -> 2"),
                ]
            })
            .collect();
        let schema = "`label.facets[1].reward.schema.properties";
        below.insert(4, format!("{schema}.of.minimum`: 1 -> 2"));
        below.insert(5, format!("{schema}.price.minimum`: 1 -> 2"));
        assert_eq!(refused, below);
    }

    #[test]
    fn what_becomes_of_missing_scores_may_change_for_the_steps_to_come() {
        for algorithm in ["ppo", "reinforce"] {
            let before = format!("[{algorithm}.scores]\nmissing = 'error'");
            let now = format!("[{algorithm}.scores]\nmissing = 'drop'");
            let told = format!(
                "`{algorithm}.scores.missing`: \"error\" -> \"drop\" (for the steps from here on)"
            );
            assert_eq!(changes(&before, &now), (vec![told], Vec::new()));
        }
    }

    #[test]
    fn a_run_may_become_longer_where_its_rates_stay_the_same() {
        for of in ["ppo", "reinforce", "distill"] {
            let file = |steps: u64, schedule: &str| {
                format!("[{of}]\nsteps = {steps}\n[{of}.optimizer]\nschedule = '{schedule}'")
            };
            let (allowed, refused) = changes(&file(4, "constant"), &file(6, "constant"));
            assert_eq!(allowed, [format!("`{of}.steps`: 4 -> 6")]);
            assert_eq!(refused, [""; 0]);
            let (_, refused) = changes(&file(4, "constant"), &file(3, "constant"));
            let shorter = "4 -> 3 (a run may become longer, not shorter)";
            assert_eq!(refused, [format!("`{of}.steps`: {shorter}")]);
            let (_, refused) = changes(&file(4, "linear"), &file(6, "linear"));
            let rates = format!("`{of}.optimizer.schedule` is \"linear\"");
            assert!(refused[0].contains(&rates), "{refused:?}");
        }
    }

    #[test]
    fn evaluations_may_change_where_they_decide_about_nothing() {
        let file = |every: u64, more: &str| format!("[train]\neval_every = {every}\n{more}");
        assert_eq!(changes(&file(1, ""), &file(2, "")).1, [""; 0]);
        for more in ["result = 'best'", "patience = 2"] {
            assert_eq!(changes(&file(1, more), &file(2, more)).1.len(), 1, "{more}");
        }
    }
}

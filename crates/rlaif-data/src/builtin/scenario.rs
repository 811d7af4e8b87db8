//! The hand-written scenarios, in a small notation.
//!
//! ```text
//! @ topic/name
//! $ slot = value | value                        what {slot} stands for
//! $ slot,other = value ; value | value ; value  two that go together
//! U user's turn                                 lines that follow one another: other wordings
//! A a good answer
//! R a rude or unhelpful one (optional)
//! S what the summary says of this exchange
//! ?                                             the next exchange may be left out
//! ```

use std::sync::LazyLock;

/// The topic of a dialogue, and alternative wordings of its turns.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) topic: &'static str,
    /// `topic/name`.
    pub(super) name: &'static str,
    pub(super) slots: Vec<Slots>,
    pub(super) exchanges: Vec<Exchange>,
}

/// Names whose values are chosen together.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) names: Vec<&'static str>,
    pub(super) choices: Vec<Vec<&'static str>>,
}

/// A user's turn and the assistant's, each in several wordings.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) optional: bool,
    pub(super) user: Vec<&'static str>,
    pub(super) answers: Vec<&'static str>,
    pub(super) rude: Vec<&'static str>,
    pub(super) summary: &'static str,
}

const FILES: [&str; 5] = [
    include_str!("scenarios/kitchen_and_garden.txt"),
    include_str!("scenarios/travel_and_money.txt"),
    include_str!("scenarios/home_and_repair.txt"),
    include_str!("scenarios/people_and_work.txt"),
    include_str!("scenarios/body_and_leisure.txt"),
];

impl Scenario {
    pub(super) fn all() -> &'static [Self] {
        static ALL: LazyLock<Vec<Scenario>> = LazyLock::new(|| {
            let read = FILES.into_iter().map(read).collect::<Result<Vec<_>, _>>();
            read.expect("the scenarios are part of the program: a test reads them").concat()
        });
        &ALL
    }
}

fn read(text: &'static str) -> Result<Vec<Scenario>, String> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    let mut optional = false;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (kind, rest) = line.split_at(1);
        let rest = rest.trim();
        if kind == "@" {
            let topic = rest.split('/').next().unwrap_or(rest);
            scenarios.push(Scenario { topic, name: rest, ..Scenario::default() });
            continue;
        }
        let scenario =
            scenarios.last_mut().ok_or_else(|| format!("before any scenario: {line}"))?;
        match kind {
            "$" => scenario.slots.push(slots(rest)?),
            "?" => optional = true,
            "U" => {
                let begun = scenario.exchanges.last_mut().filter(|last| last.answers.is_empty());
                match begun {
                    Some(exchange) => exchange.user.push(rest),
                    None => scenario.exchanges.push(Exchange {
                        optional: std::mem::take(&mut optional),
                        user: vec![rest],
                        ..Exchange::default()
                    }),
                }
            }
            "A" | "R" | "S" => {
                let exchange = scenario.exchanges.last_mut();
                let exchange = exchange.ok_or_else(|| format!("before any U: {line}"))?;
                match kind {
                    "A" => exchange.answers.push(rest),
                    "R" => exchange.rude.push(rest),
                    _ => exchange.summary = rest,
                }
            }
            _ => return Err(format!("not in the notation: {line}")),
        }
    }
    Ok(scenarios)
}

fn slots(line: &'static str) -> Result<Slots, String> {
    let (names, choices) = line.split_once('=').ok_or_else(|| format!("no values: {line}"))?;
    let names: Vec<_> = names.split(',').map(str::trim).collect();
    let choices: Vec<Vec<_>> =
        choices.split('|').map(|choice| choice.split(';').map(str::trim).collect()).collect();
    if choices.iter().any(|choice| choice.len() != names.len()) {
        return Err(format!("not as many values as names: {line}"));
    }
    Ok(Slots { names, choices })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_scenario_is_complete_and_uses_the_slots_it_has() {
        let scenarios: Vec<_> = FILES.into_iter().flat_map(|file| read(file).unwrap()).collect();
        let names: BTreeSet<_> = scenarios.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), scenarios.len());
        assert!(names.len() >= 60, "{}", names.len());
        for scenario in &scenarios {
            assert!(!scenario.exchanges.is_empty(), "{}", scenario.name);
            assert!(!scenario.exchanges[0].optional, "{}", scenario.name);
            let known: BTreeSet<_> = scenario.slots.iter().flat_map(|s| s.names.clone()).collect();
            let mut used = BTreeSet::new();
            for exchange in &scenario.exchanges {
                assert!(!exchange.user.is_empty() && !exchange.answers.is_empty());
                assert!(!exchange.summary.is_empty(), "{}", scenario.name);
                let lines =
                    [&exchange.user, &exchange.answers, &exchange.rude].into_iter().flatten();
                for line in lines.chain([&exchange.summary]) {
                    used.extend(line.split('{').skip(1).filter_map(|rest| rest.split('}').next()));
                }
            }
            assert_eq!(used, known, "{}", scenario.name);
        }
    }

    #[test]
    fn mistakes_in_the_notation_are_told() {
        for wrong in [
            "U before",
            "@ a/b\nA before a user",
            "@ a/b\nX what",
            "@ a/b\n$ x",
            "@ a/b\n$ x,y = 1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

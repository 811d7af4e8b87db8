//! Expands a scenario into dialogues: every choice is drawn from a seed.

use std::collections::HashSet;

use rlaif_core::{PreferencePair, Seed};

use super::dialogue::{BuiltinDialogue, Mood};
use super::mood;
use super::scenario::{Exchange, Scenario};
use crate::row::content_id;
use crate::turns::Speaker;

/// Different dialogues of one scenario: `count` of them, or as many as the scenario allows.
pub(super) fn variants(scenario: &Scenario, seed: Seed, count: usize) -> Vec<BuiltinDialogue> {
    let mut seen = HashSet::new();
    (0..20 * count as u64)
        .map(|attempt| dialogue(scenario, seed.derive(scenario.name, attempt)))
        .filter(|record| seen.insert(record.dialogue.to_lowercase()))
        .take(count)
        .collect()
}

/// Consecutive random draws from one seed.
struct Draw {
    seed: Seed,
    drawn: u64,
}

impl Draw {
    fn below(&mut self, count: usize) -> usize {
        self.drawn += 1;
        (self.seed.derive("draw", self.drawn).get() % count as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// A user's style of typing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Typing {
    Careful,
    /// No capitals, no full stop at the end.
    Hasty,
    /// Hasty, and with the abbreviations of text messages.
    Texting,
    /// Several question and exclamation marks.
    Loud,
}

const MOODS: [(Mood, usize); 5] = [
    (Mood::Friendly, 25),
    (Mood::Plain, 30),
    (Mood::HostileUser, 27),
    (Mood::Quarrel, 12),
    (Mood::RudeAssistant, 6),
];

struct Telling<'a> {
    draw: Draw,
    mood: Mood,
    typing: Typing,
    slots: Vec<(&'a str, &'a str)>,
    text: String,
    /// The kind and the rude assistant's words in the last turn so far, and the start of that turn.
    last: (String, String, usize),
}

fn dialogue(scenario: &Scenario, seed: Seed) -> BuiltinDialogue {
    let mut draw = Draw { seed, drawn: 0 };
    let mut point = draw.below(100);
    let mood = MOODS
        .into_iter()
        .find(|(_, share)| {
            let here = point < *share;
            point = point.saturating_sub(*share);
            here
        })
        .map_or(Mood::Plain, |(mood, _)| mood);
    let typing = match draw.below(100) {
        0..55 => Typing::Careful,
        55..78 => Typing::Hasty,
        78..90 => Typing::Texting,
        _ => Typing::Loud,
    };
    let mut slots = Vec::new();
    for group in &scenario.slots {
        let values = &group.choices[draw.below(group.choices.len())];
        slots.extend(group.names.iter().copied().zip(values.iter().copied()));
    }
    let mut exchanges: Vec<&Exchange> = Vec::new();
    for exchange in &scenario.exchanges {
        if !exchange.optional || draw.percent(60) {
            exchanges.push(exchange);
        }
    }
    let last = (String::new(), String::new(), 0);
    let mut telling = Telling { draw, mood, typing, slots, text: String::new(), last };

    let mut summary: Vec<String> = Vec::new();
    // A hostile user is hostile at least once.
    let hostile_at = telling.draw.below(exchanges.len());
    for (at, exchange) in exchanges.iter().enumerate() {
        let told = telling.exchange(exchange, at, at == hostile_at);
        summary.push(sentences(&telling.fill(&told, Person::Third)));
        let more_room = at + 1 < exchanges.len() || exchanges.len() == 1;
        if telling.user_is_hostile() && more_room && telling.draw.percent(25) {
            telling.outburst();
        }
    }
    let (draw, hostile) = (&mut telling.draw, matches!(mood, Mood::HostileUser | Mood::Quarrel));
    if mood == Mood::Friendly && draw.percent(35) {
        let (user, assistant) = draw.one(mood::WARM_ENDS);
        let rude = draw.one(mood::UNHELPFUL);
        telling.aside(user, assistant, rude);
        let about = telling.draw.one(mood::ABOUT_WARM_END);
        summary.push(about.to_owned());
    } else if hostile && draw.percent(20) {
        let (user, calm, sharp) = draw.one(mood::SOUR_ENDS);
        telling.aside(user, calm, sharp);
    }
    let about = match mood {
        Mood::HostileUser => Some(mood::ABOUT_HOSTILE_USER),
        Mood::Quarrel => Some(mood::ABOUT_QUARREL),
        Mood::RudeAssistant => Some(mood::ABOUT_RUDE_ASSISTANT),
        Mood::Friendly | Mood::Plain => None,
    };
    summary.extend(about.map(|about| telling.draw.one(about).to_owned()));

    let Telling { text: dialogue, last: (kind, rude, start), .. } = telling;
    let id = content_id(&[&dialogue]);
    let pair =
        PreferencePair::new(id.clone(), &dialogue[..start], format!(" {kind}"), format!(" {rude}"));
    BuiltinDialogue {
        id,
        topic: scenario.topic.to_owned(),
        scenario: scenario.name.to_owned(),
        mood,
        dialogue,
        summary: summary.join(" "),
        pair,
    }
}

impl Telling<'_> {
    fn user_is_hostile(&self) -> bool {
        matches!(self.mood, Mood::HostileUser | Mood::Quarrel)
    }

    /// Writes an exchange; returns its part of the summary.
    fn exchange(&mut self, exchange: &Exchange, at: usize, surely_hostile: bool) -> String {
        let asked = self.draw.one(&exchange.user);
        let mut asked = self.fill(asked, Person::First);
        let hostile = self.user_is_hostile() && (surely_hostile || self.draw.percent(35));
        if hostile {
            asked = match self.draw.below(3) {
                0 => format!("{} {asked}", self.draw.one(mood::INSULTS_BEFORE)),
                1 => format!("{asked} {}", self.draw.one(mood::INSULTS_AFTER)),
                _ => {
                    let before = self.draw.one(mood::INSULTS_BEFORE);
                    format!("{before} {asked} {}", self.draw.one(mood::INSULTS_AFTER))
                }
            };
        } else if self.mood == Mood::Friendly && at == 0 && self.draw.percent(60) {
            asked = format!("{} {asked}", self.draw.one(mood::GREETINGS));
        }
        self.user(&asked);

        let answer = self.draw.one(&exchange.answers);
        let answer = self.fill(answer, Person::First);
        let kind = match self.mood {
            Mood::HostileUser | Mood::Quarrel if hostile && self.draw.percent(60) => {
                format!("{} {answer}", self.draw.one(mood::CALM_LEADS))
            }
            Mood::Friendly if self.draw.percent(35) => {
                format!("{} {answer}", self.draw.one(mood::KIND_LEADS))
            }
            _ => answer.clone(),
        };
        let sharp = format!("{} {answer}", self.draw.one(mood::SHARP_LEADS));
        let unhelpful = match self.draw.below(exchange.rude.len() + 1) {
            0 => self.draw.one(mood::UNHELPFUL),
            nth => exchange.rude[nth - 1],
        };
        let unhelpful = self.fill(unhelpful, Person::First);
        let rude = if self.draw.percent(33) { sharp.clone() } else { unhelpful };
        // An unhelpful answer is allowed only where the summary can leave it out.
        let question = exchange.summary.split_once(", and the assistant").map(|(before, _)| before);
        let (said, told) = match question {
            _ if !self.assistant_is_rude() => (kind.clone(), exchange.summary.to_owned()),
            Some(question) if rude != sharp => {
                (rude.clone(), format!("{question}, but the assistant gives no useful answer."))
            }
            _ => (sharp, exchange.summary.to_owned()),
        };
        self.assistant(&said, &kind, &rude);
        told
    }

    fn assistant_is_rude(&self) -> bool {
        matches!(self.mood, Mood::Quarrel | Mood::RudeAssistant)
    }

    /// Writes an exchange outside the scenario.
    fn aside(&mut self, user: &str, calm: &str, sharp: &str) {
        self.user(user);
        let said = if self.assistant_is_rude() { sharp } else { calm };
        self.assistant(said, calm, sharp);
    }

    fn outburst(&mut self) {
        let user = self.draw.one(mood::OUTBURSTS);
        let (calm, sharp) = (self.draw.one(mood::CALM_REPLIES), self.draw.one(mood::SHARP_REPLIES));
        self.aside(user, calm, sharp);
    }

    fn user(&mut self, said: &str) {
        let typed = typed(&sentences(said), self.typing);
        self.text.extend([Speaker::Human.marker(), " ", &typed]);
    }

    fn assistant(&mut self, said: &str, kind: &str, rude: &str) {
        self.text.push_str(Speaker::Assistant.marker());
        let start = self.text.len();
        self.text.extend([" ", &sentences(said)]);
        self.last = (sentences(kind), sentences(rude), start);
    }

    fn fill(&self, line: &str, person: Person) -> String {
        self.slots.iter().fold(line.to_owned(), |line, (name, value)| {
            let value = match person {
                Person::First => (*value).to_owned(),
                Person::Third => in_third_person(value),
            };
            line.replace(&format!("{{{name}}}"), &value)
        })
    }
}

/// The perspective from which a slot's value is worded.
#[derive(Clone, Copy)]
enum Person {
    /// The user's.
    First,
    /// The summary's.
    Third,
}

fn in_third_person(value: &str) -> String {
    replace_words(value, &[("my", "their"), ("our", "their"), ("I", "they"), ("me", "them")])
}

fn replace_words(text: &str, words: &[(&str, &str)]) -> String {
    let replaced = text.split(' ').map(|word| {
        let bare = word.trim_end_matches(['.', ',', '!', '?']);
        match words.iter().find(|(from, _)| *from == bare) {
            Some((_, to)) => format!("{to}{}", &word[bare.len()..]),
            None => word.to_owned(),
        }
    });
    replaced.collect::<Vec<_>>().join(" ")
}

/// The text with a capital at the beginning of each sentence.
fn sentences(text: &str) -> String {
    let mut begins = true;
    let mut behind_stop = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if begins && c.is_alphanumeric() {
            out.extend(c.to_uppercase());
            begins = false;
        } else {
            out.push(c);
        }
        begins |= behind_stop && c == ' ';
        behind_stop = matches!(c, '.' | '!' | '?');
    }
    out
}

fn typed(text: &str, typing: Typing) -> String {
    match typing {
        Typing::Careful => text.to_owned(),
        Typing::Hasty => text.to_lowercase().trim_end_matches('.').to_owned(),
        Typing::Texting => {
            let abbreviations = [
                ("you", "u"),
                ("your", "ur"),
                ("are", "r"),
                ("please", "pls"),
                ("thanks", "thx"),
                ("because", "bc"),
                ("tonight", "tonite"),
                ("why", "y"),
            ];
            replace_words(text.to_lowercase().trim_end_matches('.'), &abbreviations)
        }
        Typing::Loud => {
            let (body, end) = text.split_at(text.len() - 1);
            match end {
                "?" => format!("{body}???"),
                "." | "!" => format!("{body}!!"),
                _ => text.to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_begin_with_capitals_and_numbers_stay() {
        assert_eq!(
            sentences("my cousin called. he left! 3 times. ok"),
            "My cousin called. He left! 3 times. Ok"
        );
    }

    #[test]
    fn users_type_in_their_ways() {
        let said = "Are you sure? I am not.";
        assert_eq!(typed(said, Typing::Hasty), "are you sure? i am not");
        assert_eq!(typed(said, Typing::Texting), "r u sure? i am not");
        assert_eq!(typed(said, Typing::Loud), "Are you sure? I am not!!");
    }

    #[test]
    fn summaries_speak_of_the_user() {
        assert_eq!(
            in_third_person("eats my lunch, and I see it"),
            "eats their lunch, and they see it"
        );
    }
}

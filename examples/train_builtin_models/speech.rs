//! Reported speech by rules: converts a person's words into a sentence about the person.
//!
//! The built-in summarisers are trained on summaries that these rules write, for any dialogue: "How
//! do I mend my jeans?" becomes "asks how to mend their jeans". Sentences that fit no rule are
//! quoted.

use std::sync::LazyLock;

use regex::Regex;
use rlaif::data::turns::Speaker;

/// The sentences of a turn, without numbering and surrounding space.
pub(crate) fn sentences(text: &str) -> Vec<&str> {
    static END: LazyLock<Regex> = LazyLock::new(|| pattern(r#"[.!?]+["”')]*\s+|\n+"#));
    let mut sentences = Vec::new();
    let mut start = 0;
    for end in END.find_iter(text) {
        sentences.push(&text[start..end.end()]);
        start = end.end();
    }
    sentences.push(&text[start..]);
    sentences
        .into_iter()
        .map(|sentence| {
            let bullets = |c: char| c.is_ascii_digit() || matches!(c, '.' | ')' | '-' | '*' | '•');
            let sentence = sentence.trim();
            let bare = sentence.trim_start_matches(bullets);
            if bare.starts_with(' ') { bare.trim() } else { sentence }
        })
        .filter(|sentence| sentence.contains(|c: char| c.is_alphabetic()))
        .collect()
}

/// Number of words in a text.
pub(crate) fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// The content of `sentence`, said by `speaker`, as a clause that follows "the user" or "the
/// assistant".
pub(crate) fn reported(speaker: Speaker, sentence: &str, limit: usize) -> String {
    static LEAD: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)^(?:hi|hey|hello|ok|okay|so|well|um|uh|oh|yes|yeah|no|sure|please|and|but|great|wow|thanks|thank you|sorry|right|also|hm+|good question|of course|all right|gladly|happy to help|i see|oh, i see|good morning|good evening)(?: there)?(?:[,.!:;]\s+|\s*-+\s+)",
        )
    });
    let mut said = sentence.trim();
    while let Some(lead) = LEAD.find(said) {
        if words(&said[lead.end()..]) < 3 {
            break;
        }
        said = said[lead.end()..].trim_start();
    }
    let question = sentence.trim_end().ends_with('?');
    let bare = said.trim_end_matches(['.', '!', '?', ' ', ':', ';', ',']);
    let clipped = clip(bare, limit);
    let clause = match speaker {
        Speaker::Human => by_user(&clipped, question),
        Speaker::Assistant => by_assistant(&clipped, question),
    };
    clause.unwrap_or_else(|| quoted(&clipped, question))
}

/// A quotation.
fn quoted(said: &str, question: bool) -> String {
    let said = capital(said);
    if question { format!("asks, \"{said}?\"") } else { format!("says, \"{said}.\"") }
}

/// Rewrites the parts that a pattern matched, already in the third person.
type Report = fn(&[String]) -> String;

/// Patterns in the order in which they are tried, each with the rewriting of its parts.
struct Rules(Vec<(Regex, Report)>);

impl Rules {
    fn compile(written: &[(&str, Report)]) -> Self {
        Self(
            written
                .iter()
                .map(|(text, report)| (pattern(&format!("(?i){text}")), *report))
                .collect(),
        )
    }

    /// Applies the first rule that fits.
    fn apply(&self, said: &str, person: fn(&str) -> String) -> Option<String> {
        self.0.iter().find_map(|(pattern, report)| {
            let found = pattern.captures(said)?;
            let parts: Vec<String> = found
                .iter()
                .skip(1)
                .map(|part| part.map_or_else(String::new, |part| person(part.as_str())))
                .collect();
            let whole = [person(&found[0])];
            Some(report(if parts.is_empty() { &whole } else { &parts }))
        })
    }
}

fn by_user(said: &str, question: bool) -> Option<String> {
    static ASKED: LazyLock<Rules> = LazyLock::new(|| {
        Rules::compile(&[
            (
                r"^(how|where|what|when) (?:do|does|can|could|should|would|might|must) (?:i|we|you|one|someone|a person) (?:best |go about )?(.+)$",
                |c| format!("asks {} to {}", c[0].to_lowercase(), c[1]),
            ),
            (r"^how to (.+)$", |c| format!("asks how to {}", c[0])),
            (
                r"^(?:what is|what's|whats|what are|what were|what was|who is|who's|who was|who are|how is|how are) (the .+|a .+|an .+|some .+|my .+|your .+|good .+|\S+(?: \S+){0,4})$",
                |c| format!("asks about {}", c[0]),
            ),
            (r"^what (.+ )(?:do|does|can|could|should|would) (?:i|we|you) (.+)$", |c| {
                format!("asks what {}to {}", c[0], c[1])
            }),
            (r"^(?:what|how) about (.+)$", |c| format!("asks about {}", c[0])),
            (
                r"^(?:can|could|would|will|won't) (?:you|u) (?:please |pls |kindly )?(?:tell me|explain|say) (?:how to|how i can|how i could|how i would|how do i) (.+)$",
                |c| format!("asks how to {}", c[0]),
            ),
            (
                r"^(?:can|could|would|will) (?:you|u) (?:please |pls |kindly |maybe )?(tell|give|show|help|explain|find|recommend|suggest|write|make|name|list|describe|teach|do|get|check|look|let|book|play|add|reserve|buy|search|answer|describe|share|point|talk|walk)\b(.*)$",
                |c| format!("asks the assistant to {}{}", c[0].to_lowercase(), c[1]),
            ),
            (
                r"^(tell|give|show|help|explain|find|recommend|suggest|write|make|name|list|describe|teach|let|search|book|play|add|reserve|answer|say|repeat|stop|keep|get|look)\b(.*)$",
                |c| format!("asks the assistant to {}{}", c[0].to_lowercase(), c[1]),
            ),
            (r"^i(?: would|'d) (?:like|love) (?:you )?to (.+)$", |c| {
                format!("would like to {}", c[0])
            }),
            (r"^i(?:'m| am) (?:trying|looking|going|planning|hoping) (to|for) (.+)$", |c| {
                format!(
                    "wants {}",
                    if c[0].eq_ignore_ascii_case("to") {
                        format!("to {}", c[1])
                    } else {
                        c[1].clone()
                    }
                )
            }),
            (r"^i(?: just| really|'d)?(?: want| need| wanna) (.+)$", |c| format!("wants {}", c[0])),
            (r"^why (?:do|would|should|did) (i|we|you|they|people)\b(.+)$", |c| {
                format!("asks why {}{}", c[0], c[1])
            }),
            (r"^(?:can|could|may) i (?:please )?(?:get|have|order) (.+?)(?:,? please)?$", |c| {
                format!("asks for {}", c[0])
            }),
            (r"^(?:can|could|should|may|must|do|would) i (.+)$", |c| {
                format!("asks whether to {}", c[0])
            }),
            (
                r"^(is|are|was|were|can|could|will|would|should|has|have) (it|there|this|that|they|he|she|these|those|we) (.+)$",
                |c| {
                    format!("asks whether {} {} {}", c[1].to_lowercase(), c[0].to_lowercase(), c[2])
                },
            ),
            (
                r"^do you (know|think|like|have|want|believe|remember|mean|watch|play|enjoy|need|feel|see|understand|listen)\b(.*)$",
                |c| format!("asks whether the assistant {}{}", third(&c[0].to_lowercase()), c[1]),
            ),
            (r"^have you (ever )?(.+)$", |c| {
                format!("asks whether the assistant has {}{}", c[0].to_lowercase(), c[1])
            }),
            (r"^are you (.+)$", |c| format!("asks whether the assistant is {}", c[0])),
            (r"^did you (know|see|hear|watch|read|like)\b(.*)$", |c| {
                format!("asks whether the assistant {}{}", past(&c[0].to_lowercase()), c[1])
            }),
        ])
    });
    if let Some(clause) = ASKED.apply(said, Person::user) {
        return Some(clause);
    }
    if question {
        return None;
    }
    static PLAIN: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)^(?:i|i'm|i've|i'd|i'll|my|we|we're|the|there|it|it's|this|that|that's|a|an|he|she|they|some|someone|people|her|his|our|one)\b",
        )
    });
    PLAIN.is_match(said).then(|| format!("says that {}", Person::user(&small(said))))
}

fn by_assistant(said: &str, question: bool) -> Option<String> {
    static ANSWERED: LazyLock<Rules> = LazyLock::new(|| {
        Rules::compile(&[
            (
                r"^(?:are you|do you|have you|did you|would you|were you|can you|could you) .+$",
                |c| whether(&c[0]),
            ),
            (
                r"^(what|which|where|when|how|why|who)((?: \w+)?) (do|did|are|would|have|can|will|were) you\b(.*)$",
                |c| {
                    let verb = c[2].to_lowercase();
                    let verb = if matches!(verb.as_str(), "do" | "did") {
                        String::new()
                    } else {
                        format!(" {verb}")
                    };
                    format!("asks {}{} they{verb}{}", c[0].to_lowercase(), c[1], c[3])
                },
            ),
            (
                r"^(?:you|people|we) (?:can|could|should|may|might|need to|have to|must|will need to|will want to|might want to|may want to)(?: also| just| simply| always)? (?:want to |try to )?(.+)$",
                |c| format!("advises them to {}", c[0]),
            ),
            (
                r"^(?:i(?: would|'d|) (?:suggest|recommend|advise)) (?:that you |you |to )?(.+)$",
                |c| format!("suggests {}", c[0]),
            ),
            (r"^how about (.+)$", |c| format!("suggests {}", c[0])),
            (r"^(?:don't|do not) (.+)$", |c| format!("advises them not to {}", c[0])),
            (
                r"^(?:first,? |then,? |just |simply |next,? )?(add|allow|apply|ask|avoid|bake|be|begin|boil|bring|brush|buy|call|change|check|choose|clean|close|collect|combine|consider|contact|cook|cool|count|cover|cut|dip|do|drain|draw|drink|drive|drop|dry|eat|empty|fill|find|fold|follow|freeze|get|give|go|grab|hang|have|heat|hold|imagine|keep|lay|learn|leave|let|lift|listen|look|make|mark|mash|measure|melt|mix|move|offer|open|pack|pay|peel|pick|place|plan|plant|play|pour|practice|press|pull|push|put|read|remove|rinse|roll|rub|run|save|say|scrub|search|see|sell|send|set|shake|show|sit|skip|slice|soak|spray|spread|stand|start|stay|stick|stir|stop|store|take|talk|tell|think|throw|tie|touch|treat|try|turn|unscrew|use|visit|wait|walk|warm|wash|watch|wear|wipe|work|wrap|write)\b (.+)$",
                |c| format!("advises them to {} {}", c[0].to_lowercase(), c[1]),
            ),
        ])
    });
    if let Some(clause) = ANSWERED.apply(said, Person::assistant) {
        return Some(clause);
    }
    if question {
        return None;
    }
    static PLAIN: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)^(?:i|i'm|i’m|i've|i'd|i'll|you|you're|your|my|we|we're|the|there|there's|it|it's|it’s|this|that|that's|these|those|a|an|he|she|they|they're|some|someone|people|most|many|all|if|in|one|another|usually|yes)\b",
        )
    });
    PLAIN.is_match(said).then(|| format!("says that {}", Person::assistant(&small(said))))
}

/// "are you looking .." to "asks whether they are looking ..".
fn whether(said: &str) -> String {
    let (verb, rest) = said.split_once(' ').unwrap_or((said, ""));
    let rest = rest.trim_start_matches("they").trim_start_matches("you");
    match verb.to_lowercase().as_str() {
        "do" => format!("asks whether they{rest}"),
        "did" => format!("asks whether they did{rest}"),
        verb => format!("asks whether they {verb}{rest}"),
    }
}

/// The speaker, who determines the replacements of "I" and "you".
struct Person;

impl Person {
    fn user(said: &str) -> String {
        replaced(said, |word, subject| {
            Some(match word {
                "i" => "they",
                "i'm" | "i’m" | "im" => "they are",
                "i've" | "i’ve" | "ive" => "they have",
                "i'd" | "i’d" => "they would",
                "i'll" | "i’ll" => "they will",
                "am" if subject => "are",
                "my" => "their",
                "me" => "them",
                "mine" => "theirs",
                "myself" => "themselves",
                "you" | "u" => "the assistant",
                "your" | "ur" => "its",
                _ => return None,
            })
        })
    }

    fn assistant(said: &str) -> String {
        replaced(said, |word, subject| {
            Some(match word {
                "i" => "it",
                "i'm" | "i’m" => "it is",
                "i've" | "i’ve" => "it has",
                "i'd" | "i’d" => "it would",
                "i'll" | "i’ll" => "it will",
                "am" if subject => "is",
                "my" => "its",
                "me" => "it",
                "myself" => "itself",
                "you" if subject => "they",
                "you" => "them",
                "you're" | "you’re" => "they are",
                "you've" | "you’ve" => "they have",
                "you'll" | "you’ll" => "they will",
                "you'd" | "you’d" => "they would",
                "your" => "their",
                "yours" => "theirs",
                "yourself" => "themselves",
                _ => return None,
            })
        })
        .replace("it have ", "it has ")
        .replace("it actually have ", "it actually has ")
        .replace("it also have ", "it also has ")
        .replace("it don’t ", "it does not ")
        .replace("it don't ", "it does not ")
        .replace("it do not ", "it does not ")
        .replace("it think ", "it thinks ")
        .replace("it hope ", "it hopes ")
        .replace("it know ", "it knows ")
        .replace("it love ", "it loves ")
        .replace("it like ", "it likes ")
    }
}

/// Replaces every word by its third person. The second argument of `person` tells if a "you" is a
/// subject.
fn replaced(said: &str, person: impl Fn(&str, bool) -> Option<&'static str>) -> String {
    static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"[A-Za-z]+(?:['’][A-Za-z]+)?"));
    let mut out = String::with_capacity(said.len());
    let mut copied = 0;
    let mut before = String::new();
    for found in WORD.find_iter(said) {
        let word = found.as_str().to_lowercase();
        let after = WORD.find(&said[found.end()..]).map(|next| next.as_str().to_lowercase());
        // For "you": is it a subject? For "am": is it a verb, not a time of day?
        let opens = before.is_empty()
            || matches!(
                before.as_str(),
                "if" | "when"
                    | "that"
                    | "what"
                    | "how"
                    | "as"
                    | "because"
                    | "whether"
                    | "where"
                    | "until"
                    | "so"
                    | "before"
                    | "after"
                    | "why"
                    | "do"
                    | "are"
                    | "have"
                    | "once"
            );
        let acts = after.is_some_and(|next| {
            matches!(
                next.as_str(),
                "can"
                    | "could"
                    | "should"
                    | "are"
                    | "were"
                    | "have"
                    | "want"
                    | "need"
                    | "may"
                    | "might"
                    | "will"
                    | "would"
                    | "do"
                    | "did"
                    | "don't"
                    | "like"
                    | "think"
                    | "know"
                    | "get"
                    | "use"
                    | "feel"
                    | "see"
                    | "mean"
                    | "go"
                    | "must"
                    | "had"
                    | "make"
                    | "say"
                    | "look"
                    | "find"
                    | "enjoy"
                    | "love"
                    | "already"
            )
        });
        out.push_str(&said[copied..found.start()]);
        let subject = if word == "am" { before == "i" } else { opens || acts };
        match person(&word, subject) {
            Some(other) => out.push_str(other),
            None => out.push_str(found.as_str()),
        }
        copied = found.end();
        before = word;
    }
    out.push_str(&said[copied..]);
    out
}

/// At most `limit` words, cut at a comma or a conjunction if there is one.
fn clip(said: &str, limit: usize) -> String {
    let list: Vec<&str> = said.split_whitespace().collect();
    if list.len() <= limit {
        return list.join(" ");
    }
    let breaks = |at: &usize| {
        list[at - 1].ends_with([',', ';', ':'])
            || matches!(
                list[*at],
                "and" | "but" | "because" | "so" | "which" | "or" | "if" | "when"
            )
    };
    let at = (limit / 2..=limit).rev().find(breaks).unwrap_or(limit);
    // A sentence does not end with a word that points at the next one.
    let mut end = at;
    while end > 3
        && matches!(
            list[end - 1].to_lowercase().as_str(),
            "the"
                | "a"
                | "an"
                | "of"
                | "to"
                | "in"
                | "and"
                | "or"
                | "with"
                | "for"
                | "my"
                | "your"
                | "is"
                | "are"
                | "on"
                | "at"
                | "from"
                | "that"
                | "i"
                | "it's"
                | "you"
                | "by"
                | "as"
                | "be"
                | "but"
        )
    {
        end -= 1;
    }
    list[..end].join(" ").trim_end_matches([',', ';', ':']).to_owned()
}

/// With a capital at the beginning.
pub(crate) fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// Without a capital at the beginning, unless the first word is all capitals.
fn small(text: &str) -> String {
    let mut characters = text.chars();
    let Some(first) = characters.next() else { return String::new() };
    if characters.clone().next().is_some_and(char::is_uppercase) {
        return text.to_owned();
    }
    first.to_lowercase().chain(characters).collect()
}

fn third(verb: &str) -> String {
    match verb {
        "have" => "has".to_owned(),
        "watch" => "watches".to_owned(),
        verb => format!("{verb}s"),
    }
}

fn past(verb: &str) -> &str {
    match verb {
        "know" => "knew",
        "see" => "saw",
        "hear" => "heard",
        "watch" => "watched",
        "like" => "liked",
        other => other,
    }
}

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of this file")
}

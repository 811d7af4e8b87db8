//! Reasoning before a verdict, which is not part of the verdict.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// Tags of reasoning, in the ways that models write them, opening and closing.
static TAG: LazyLock<Regex> = LazyLock::new(|| {
    let names = "think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad|analysis|\
                 rationale|explanation|justification|cot|inner_monologue|critique|feedback";
    let marks = [
        format!(r"<\s*(?P<a>/?)\s*(?:[a-z]+:)?(?:{names})\b[^<>]{{0,80}}>"),
        format!(r"\[(?P<b>/?)(?:{names})\]"),
        r"<\|(?P<c>/|end_of_|end_)?(?:begin_of_|start_)?(?:think|thinking|thought)\|>".to_owned(),
        r"◁(?P<d>/?)think▷".to_owned(),
        r"<unused9(?P<e>[45])>".to_owned(),
    ];
    Regex::new(&format!("(?i){}", marks.join("|"))).expect("a valid pattern")
});

/// The headers of harmony's channels.
static CHANNEL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)<\|channel\|>\s*(\w+)[^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>")
        .expect("a valid pattern")
});

/// The parts of an answer that are outside its reasoning, in their order; nothing when the answer
/// ends within it.
///
/// Blocks in balance are left out where they are. Where they are not, what follows the last
/// closing tag counts: templates open the block in the prompt, and models write about tags.
pub(super) fn outside(text: &str) -> Option<Vec<Range<usize>>> {
    if let Some(last) = CHANNEL.captures_iter(text).last() {
        let (header, name) = (last.get(0)?, last.get(1)?.as_str());
        let rest = header.end()..text.len();
        return name.eq_ignore_ascii_case("final").then(|| vec![rest]);
    }
    let closes = |captures: &regex::Captures<'_>| {
        let closing = ["a", "b", "c", "d"].iter().filter_map(|name| captures.name(name));
        closing.into_iter().any(|mark| !mark.is_empty())
            || captures.name("e").is_some_and(|mark| mark.as_str() == "5")
    };
    let (mut kept, mut depth, mut from, mut balanced) = (Vec::new(), 0_usize, 0, true);
    let mut last = None;
    for captures in TAG.captures_iter(text) {
        let tag = captures.get(0)?;
        let closing = closes(&captures);
        match (closing, depth) {
            (false, 0) => {
                kept.push(from..tag.start());
                depth = 1;
            }
            (false, _) => depth += 1,
            (true, 0) => balanced = false,
            (true, _) => depth -= 1,
        }
        from = tag.end();
        last = Some((closing, tag.end()));
    }
    match last {
        Some((false, _)) => None,
        Some((true, end)) if !balanced || depth > 0 => {
            Some(std::iter::once(end..text.len()).collect())
        }
        _ => {
            kept.push(from..text.len());
            Some(kept)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_the_reasoning_is_kept() {
        let cases = [
            ("8", Some("8")),
            ("<think>2 or 3</think>8", Some("8")),
            ("<THINK >\n2\n</ think>\n\n8", Some("\n\n8")),
            ("2 or 3</think>8", Some("8")),
            ("<think>I write <think> here, 2</think>8", Some("8")),
            ("<think>a <think>2</think> 3</think>8", Some("8")),
            ("<think>2</think>8<reasoning>3</reasoning>", Some("8")),
            ("<think>2", None),
            ("7 <think>2", None),
            ("<seed:think>2</seed:think>8", Some("8")),
            ("[THINK]2[/THINK]8", Some("8")),
            ("◁think▷2◁/think▷8", Some("8")),
            ("<|begin_of_thought|>2<|end_of_thought|>8", Some("8")),
            ("<unused94>thought\n2<unused95>8", Some("8")),
            (
                "<|channel|>analysis<|message|>2<|end|><|start|>assistant<|channel|>final<|message|>8",
                Some("8"),
            ),
            ("<|channel|>analysis<|message|>2", None),
            ("I think 8", Some("I think 8")),
        ];
        for (text, expected) in cases {
            let found = outside(text)
                .map(|kept| kept.into_iter().map(|range| &text[range]).collect::<String>());
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
    }
}

//! The common parts of all pages: head, style, script, and the display of foreign text.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use rlaif_core::Metadata;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::contents::Report;
use super::words;
use crate::Better;
use crate::comparison::SampleRow;

/// The style of reports, for pages that look like them.
pub const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Limit on the characters of a text shown in a cell.
const MOST_CHARACTERS: usize = 4_000;

/// A self-contained page.
pub(crate) struct Page<'a> {
    pub(crate) title: &'a str,
    pub(crate) body: Markup,
}

impl Page<'_> {
    /// Renders the page. Its content security policy admits this style and this script, by their
    /// hashes, and nothing else: even a text that escaped from its cell could neither run nor load
    /// anything.
    pub(crate) fn render(self) -> String {
        let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; \
             base-uri 'none'; form-action 'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="referrer" content="no-referrer";
                    // Without this, browsers request an icon.
                    link rel="icon" href="data:,";
                    title { (words::one_line(self.title)) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main { (self.body) }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        }
        .into_string()
    }
}

/// Foreign text (from a model or a file): unchanged, in its own direction, unable to change the
/// direction of its surroundings, hidden characters shown as codes.
pub(crate) fn foreign(text: &str) -> Markup {
    let (shown, more) = words::clip(text, MOST_CHARACTERS);
    let mut parts: Vec<(Option<String>, &str)> = Vec::new();
    let mut start = 0;
    for (at, c) in shown.char_indices() {
        if let Some(code) = rlaif_core::hidden(c) {
            parts.push((Some(code), &shown[start..at]));
            start = at + c.len_utf8();
        }
    }
    parts.push((None, &shown[start..]));
    html! {
        bdi.text dir="auto" {
            @for (code, before) in parts {
                (before)
                @if let Some(code) = code { span.code title="a character that cannot be seen" { (code) } }
            }
        }
        @if more > 0 { " " span.note { "… " (more) " more characters in report.json" } }
    }
}

/// `foreign`, folded if there is a reason `why`; the reason contains nothing of the text.
pub(crate) fn folded(text: &str, why: Option<&str>) -> Markup {
    match why {
        Some(why) => html! { details.fold { summary { "folded: " (why) } (foreign(text)) } },
        None => foreign(text),
    }
}

/// Samples to show, with the reason for each: a third that improved most, a third that got worst,
/// and a random third, so that the choice favours neither.
pub(crate) fn choose(report: &Report, most: usize) -> Vec<(&SampleRow, &'static str)> {
    let samples = &report.comparison().samples;
    if samples.len() <= most {
        return samples.iter().map(|sample| (sample, "all are shown")).collect();
    }
    let sign = if report.headline().better == Better::Lower { -1. } else { 1. };
    let gain = |at: usize| sign * (samples[at].score_after - samples[at].score_before);
    let mut by_gain: Vec<usize> = (0..samples.len()).collect();
    by_gain.sort_by(|&a, &b| gain(b).total_cmp(&gain(a)).then(a.cmp(&b)));
    let third = most / 3;
    let mut middle = by_gain.split_off(third);
    let worst = middle.split_off(middle.len() - third);
    // The same for the same report, so that two renderings of it are identical.
    let mut random = Xoshiro256PlusPlus::seed_from_u64(samples.len() as u64);
    let drawn = (0..most - 2 * third).map(|_| {
        let at = (random.next_u64() % middle.len() as u64) as usize;
        middle.swap_remove(at)
    });
    let drawn: Vec<usize> = drawn.collect();
    let named = |rows: Vec<usize>, why| rows.into_iter().map(move |row| (&samples[row], why));
    let better = named(by_gain, "improved most");
    let worse = named(worst.into_iter().rev().collect(), "got worst");
    better.chain(worse).chain(named(drawn, "by chance")).collect()
}

/// Nested settings as lines: `ppo.kl_coef` and its value.
pub(crate) fn flatten(settings: &Metadata) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for (key, value) in settings {
        match value {
            Value::Object(inner) => {
                let inner = flatten(inner).into_iter();
                lines.extend(inner.map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            Value::String(text) => lines.push((key.clone(), text.clone())),
            other => lines.push((key.clone(), other.to_string())),
        }
    }
    lines
}

//! Conversations as transformers renders and masks them, and as TRL parts them into prompt and
//! responses (`fixtures/rendering/export.py`).

use std::collections::BTreeMap;
use std::path::Path;

use rlaif_core::{
    ChatOptions, DemonstrationRow, GenerationPrompt, Message, PairRow, PromptRow, Rendering,
    TextCodec, TextKind, TextOrMessages,
};
use rlaif_text::{HfTokenizer, LearnedTurns, MaskError};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Golden {
    bos: String,
    eos: String,
    templates: BTreeMap<String, String>,
    marked: BTreeMap<String, String>,
    renderings: Vec<RenderingRow>,
    masks: Vec<MaskRow>,
    exchanges: Vec<ExchangeRow>,
}

#[derive(Deserialize)]
struct RenderingRow {
    template: String,
    chat: String,
    messages: Vec<Message>,
    options: ChatOptions,
    asked: Option<String>,
    whole: Option<String>,
}

#[derive(Deserialize)]
struct MaskRow {
    template: String,
    chat: String,
    messages: Vec<Message>,
    text: String,
    learned: Vec<String>,
    /// In characters.
    starts: Vec<usize>,
    plain: bool,
}

#[derive(Deserialize)]
struct ExchangeRow {
    template: String,
    example: Example,
    found: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct Example {
    prompt: TextOrMessages,
    chosen: Option<TextOrMessages>,
    rejected: Option<TextOrMessages>,
    completion: Option<TextOrMessages>,
    #[serde(default)]
    chat_template_kwargs: serde_json::Map<String, Value>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rendering/golden.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The small tokenizer of `chatml` with other templates.
fn tokenizer(golden: &Golden, template: &str) -> HfTokenizer {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chatml");
    std::fs::copy(fixture.join("tokenizer.json"), at("tokenizer.json")).unwrap();
    let config = serde_json::json!({"bos_token": golden.bos, "eos_token": golden.eos});
    std::fs::write(at("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(at("chat_template.jinja"), template).unwrap();
    HfTokenizer::from_folder(folder.path()).unwrap().named("t")
}

fn by_name<'a>(
    golden: &Golden,
    templates: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> BTreeMap<String, HfTokenizer> {
    templates.into_iter().map(|(name, text)| (name.clone(), tokenizer(golden, text))).collect()
}

#[test]
fn every_key_of_a_message_and_every_option_reaches_the_template() {
    let golden = golden();
    let tokenizers = by_name(&golden, &golden.templates);
    let mut wrong = Vec::new();
    for row in &golden.renderings {
        for (prompt, expected) in
            [(GenerationPrompt::Add, &row.asked), (GenerationPrompt::Omit, &row.whole)]
        {
            let found =
                tokenizers[&row.template].render_chat_with(&row.messages, prompt, &row.options);
            if found.as_ref().ok() != expected.as_ref() {
                wrong.push(format!(
                    "{} {} {:?} {prompt:?}\n  found    {found:?}\n  expected {expected:?}",
                    row.template, row.chat, row.options
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn prompts_and_responses_part_as_in_trl() {
    let golden = golden();
    let tokenizers = by_name(&golden, &golden.templates);
    let mut wrong = Vec::new();
    for row in &golden.exchanges {
        let codec = &tokenizers[&row.template];
        let chat = ChatOptions {
            kwargs: row.example.chat_template_kwargs.clone(),
            ..ChatOptions::default()
        };
        let (id, prompt, how) = (String::new(), row.example.prompt.clone(), Rendering::default());
        let Example { chosen, rejected, completion, .. } = &row.example;
        let found = if let (Some(chosen), Some(rejected)) = (chosen, rejected) {
            let pair = PairRow {
                id,
                prompt,
                chosen: chosen.clone(),
                rejected: rejected.clone(),
                margin: None,
                chat,
                metadata: serde_json::Map::new(),
            };
            pair.render(codec, &how).map(|pair| {
                assert_eq!(pair.kind, TextKind::Rendered);
                vec![("prompt", pair.prompt), ("chosen", pair.chosen), ("rejected", pair.rejected)]
            })
        } else if let Some(response) = completion {
            let demonstration = DemonstrationRow { id, prompt, response: response.clone(), chat };
            demonstration
                .render(codec, &how)
                .map(|row| vec![("prompt", row.prompt), ("completion", row.response)])
        } else {
            let metadata = serde_json::Map::new();
            let row = PromptRow { id, prompt, reference: None, chat, metadata };
            row.render(codec, &how).map(|row| vec![("prompt", row.prompt)])
        };
        let same = match (&found, &row.found) {
            (Ok(found), Some(expected)) => {
                found.iter().all(|(name, text)| expected[*name] == text.as_str())
            }
            (Err(_), None) => true,
            _ => false,
        };
        if !same {
            wrong.push(format!(
                "{}\n  found    {found:?}\n  expected {:?}",
                row.template, row.found
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Ranges that touch are one; and what the header writes that makes the assistant answer is not
/// learned, where TRL's marks stand before a part of it.
fn as_generated(template: &str, marked: Vec<(usize, String)>) -> Vec<(usize, String)> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    for (start, text) in marked {
        match joined.last_mut() {
            Some((from, before)) if *from + before.chars().count() == start => {
                before.push_str(&text);
            }
            _ => joined.push((start, text)),
        }
    }
    let headers: &[&str] = match template {
        "qwen2_5" => &["\n"],
        "qwen3_5_think" => &["<think>\n"],
        "deepseek_r1_distill" => &["<｜Assistant｜>", "<｜tool▁outputs▁end｜>"],
        _ => &[],
    };
    for (start, text) in &mut joined {
        for header in headers {
            if let Some(rest) = text.strip_prefix(*header) {
                *start += header.chars().count();
                *text = rest.to_owned();
                break;
            }
        }
    }
    joined
}

#[test]
fn what_the_assistant_says_is_learned_with_marks_and_without() {
    let golden = golden();
    let marked = by_name(&golden, &golden.marked);
    let plain = by_name(&golden, &golden.templates);
    let mut wrong = Vec::new();
    for row in &golden.masks {
        let mut codecs = vec![&marked[&row.template]];
        if row.plain {
            codecs.push(&plain[row.template.trim_end_matches(" marked")]);
        }
        for (i, codec) in codecs.into_iter().enumerate() {
            let found = codec.mask_chat(&row.messages, &ChatOptions::default(), LearnedTurns::All);
            let expected: Vec<(usize, String)> =
                row.starts.iter().copied().zip(row.learned.iter().cloned()).collect();
            let expected = if i == 0 { expected } else { as_generated(&row.template, expected) };
            let same = match &found {
                Ok(found) => {
                    let said: Vec<(usize, String)> = found
                        .learned
                        .iter()
                        .map(|range| {
                            let start = found.text[..range.start].chars().count();
                            (start, found.text[range.clone()].to_owned())
                        })
                        .collect();
                    found.text == row.text && said == expected
                }
                Err(MaskError::NothingSaid) => row.learned.is_empty(),
                Err(_) => false,
            };
            if !same {
                wrong.push(format!(
                    "{} {} ({})\n  found    {:?}\n  expected {:?} at {:?}",
                    row.template,
                    row.chat,
                    if i == 0 { "marked" } else { "compared" },
                    found.map(|f| f
                        .learned
                        .iter()
                        .map(|r| (r.start, f.text[r.clone()].to_owned()))
                        .collect::<Vec<_>>()),
                    expected,
                    i
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_turn_that_cannot_be_found_is_a_reason_and_not_the_end() {
    let golden = golden();
    // The whole is written backwards: no turn is where it would be.
    let template =
        "{% for m in messages | reverse %}{{ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}";
    let codec = tokenizer(&golden, template);
    let chat = [
        Message::new("user", "a"),
        Message::new("assistant", "b"),
        Message::new("user", "c"),
        Message::new("assistant", "d"),
    ];
    let options = ChatOptions::default();
    let error = codec.mask_chat(&chat, &options, LearnedTurns::All).unwrap_err();
    assert!(error.is_of_the_row(), "{error}");
    let none = codec.mask_chat(&chat[..1], &options, LearnedTurns::All).unwrap_err();
    assert!(matches!(none, MaskError::NothingSaid));
    let refusing = tokenizer(&golden, "{{ raise_exception('no') }}");
    let error = refusing.mask_chat(&chat, &options, LearnedTurns::All).unwrap_err();
    assert!(error.is_of_the_row() && error.to_string().contains("no"), "{error}");
}

#[test]
fn keys_that_no_template_reads_are_told_once() {
    let golden = golden();
    let codec = tokenizer(&golden, &golden.templates["qwen3"]);
    let chat = [
        Message::new("user", "Hi").with("name", "Ann"),
        Message::new("assistant", "Hello.")
            .with("reasoning", "Polite.")
            .with("weight", Value::Null),
    ];
    for _ in 0..2 {
        codec.render_chat(&chat, GenerationPrompt::Omit).unwrap();
    }
    let notices = codec.take_notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("does not read `name` of the messages"), "{notices:?}");
    codec.render_chat(&chat, GenerationPrompt::Omit).unwrap();
    assert_eq!(codec.take_notices(), Vec::<String>::new());
}

#[test]
fn tools_and_variables_that_no_template_reads_are_told_once() {
    let golden = golden();
    let chat = [Message::new("user", "Hi")];
    let options = ChatOptions {
        tools: Some(vec![serde_json::json!({"name": "clock"})]),
        ..ChatOptions::default().with("enable_thinking", false).with("no_such", Value::Null)
    };
    let told = |template: &str| {
        let codec = tokenizer(&golden, template);
        for _ in 0..2 {
            codec.render_chat_with(&chat, GenerationPrompt::Add, &options).unwrap();
        }
        let notices = codec.take_notices();
        let named = |name: &&str| notices.iter().any(|told| told.contains(&format!("`{name}`")));
        ["tools", "enable_thinking", "no_such"].into_iter().filter(named).collect::<Vec<_>>()
    };
    assert_eq!(told("{{ messages[0].content }}"), ["tools", "enable_thinking"]);
    assert_eq!(told(&golden.templates["qwen3"]), Vec::<&str>::new());
    // Templates that set a variable where it is not given read it.
    let sets = "{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}";
    assert_eq!(told(sets), ["enable_thinking"]);
    for (name, template) in &golden.templates {
        let told = told(template);
        assert!(!told.contains(&"tools") || !template.contains(" tools "), "{name}: {told:?}");
    }
}

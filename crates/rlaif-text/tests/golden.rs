//! Every tokenizer in `fixtures` gives what transformers gave (`fixtures/export.py`).

use std::path::{Path, PathBuf};

use rlaif_core::{ChatOptions, GenerationPrompt, Message, Specials, TextCodec};
use rlaif_text::{HfTokenizer, SequenceSide, SpecialToken};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    vocab_size: usize,
    largest_id: usize,
    specials: Roles,
    padding_side: String,
    max_length: Option<usize>,
    texts: Vec<Text>,
    pairs: Vec<Pair>,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Roles {
    bos: Option<Role>,
    eos: Option<Role>,
    unk: Option<Role>,
    sep: Option<Role>,
    pad: Option<Role>,
    cls: Option<Role>,
    mask: Option<Role>,
}

#[derive(Deserialize)]
struct Role {
    text: String,
    id: u32,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    bare: Vec<u32>,
    decoded: String,
    decoded_bare: String,
}

#[derive(Deserialize)]
struct Pair {
    text: String,
    pair: Option<String>,
    max_length: usize,
    ids: Vec<u32>,
    type_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Chat {
    template: Option<String>,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    text: Option<String>,
    ids: Option<Vec<u32>>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Templates {
    now: String,
    rows: Vec<TemplateRow>,
}

#[derive(Deserialize)]
struct TemplateRow {
    template: String,
    messages: Vec<Message>,
    text: Option<String>,
    error: Option<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// transformers' ids of a text, where a special token that the text begins or ends with is not
/// there again: the one thing that is done otherwise here.
fn once(ids: &[u32], bare: &[u32]) -> Vec<u32> {
    let at = if bare.is_empty() { None } else { ids.windows(bare.len()).position(|w| w == bare) };
    let Some(at) = at else { return ids.to_vec() };
    let (before, behind) = (&ids[..at], &ids[at + bare.len()..]);
    let begins = !before.is_empty() && bare.starts_with(before);
    let rest = if begins { &bare[before.len()..] } else { bare };
    let ends = !behind.is_empty() && rest.ends_with(behind);
    let rest = if ends { &rest[..rest.len() - behind.len()] } else { rest };
    [before, rest, behind].concat()
}

/// Compares all results, and reports every difference.
fn check(name: &str) {
    let folder = fixtures().join(name);
    let golden: Golden = read(&folder.join("golden.json"));
    // The time that export.py pins.
    let tokenizer = HfTokenizer::from_folder(&folder).unwrap().at("2024-07-06T15:04:05").unwrap();
    let mut wrong = Vec::new();
    let mut compare = |what: String, found: String, expected: String| {
        if found != expected {
            wrong.push(format!("{what}\n  found    {found}\n  expected {expected}"));
        }
    };
    for row in &golden.texts {
        let ids = once(&row.ids, &row.bare);
        for (specials, expected) in [(Specials::Include, &ids), (Specials::Exclude, &row.bare)] {
            let found = tokenizer.encode(&row.text, specials).unwrap();
            let what = format!("encode {:?} {specials:?}", row.text);
            compare(what, format!("{found:?}"), format!("{expected:?}"));
        }
        let decoded = [(Specials::Include, &row.decoded), (Specials::Exclude, &row.decoded_bare)];
        for (specials, expected) in decoded {
            let found = tokenizer.decode(&row.ids, specials).unwrap();
            let what = format!("decode {:?} {specials:?}", row.text);
            compare(what, format!("{found:?}"), format!("{expected:?}"));
        }
    }
    for row in &golden.pairs {
        let found =
            tokenizer.encode_truncated(&row.text, row.pair.as_deref(), row.max_length).unwrap();
        let what = format!("pair {:?} {:?} to {}", row.text, row.pair, row.max_length);
        compare(what.clone(), format!("{:?}", found.ids), format!("{:?}", row.ids));
        compare(what, format!("{:?}", found.type_ids), format!("{:?}", row.type_ids));
    }
    for row in &golden.chats {
        let prompt =
            if row.add_generation_prompt { GenerationPrompt::Add } else { GenerationPrompt::Omit };
        let options = ChatOptions { template: row.template.clone(), ..ChatOptions::default() };
        let what = format!("chat {:?} {:?} {prompt:?}", row.messages, row.template);
        match tokenizer.render_chat_with(&row.messages, prompt, &options) {
            Ok(text) => {
                compare(what.clone(), format!("{:?}", Some(&text)), format!("{:?}", row.text));
                let ids = tokenizer.encode(&text, Specials::Exclude).unwrap();
                compare(what, format!("{:?}", Some(ids)), format!("{:?}", row.ids));
            }
            Err(error) => {
                let expected = row.error.clone().unwrap_or_else(|| "no error".to_owned());
                let found = error.to_string();
                let matches = found.contains(&expected);
                compare(what, if matches { expected.clone() } else { found }, expected);
            }
        }
    }
    let role = |role: &Option<Role>| {
        role.as_ref().map(|role| SpecialToken { text: role.text.clone(), id: role.id })
    };
    let specials = tokenizer.special_tokens();
    let expected = [
        ("bos", &specials.bos, role(&golden.specials.bos)),
        ("eos", &specials.eos, role(&golden.specials.eos)),
        ("unk", &specials.unk, role(&golden.specials.unk)),
        ("sep", &specials.sep, role(&golden.specials.sep)),
        ("pad", &specials.pad, role(&golden.specials.pad)),
        ("cls", &specials.cls, role(&golden.specials.cls)),
        ("mask", &specials.mask, role(&golden.specials.mask)),
    ];
    for (name, found, expected) in expected {
        compare(name.to_owned(), format!("{found:?}"), format!("{expected:?}"));
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(tokenizer.vocab_size(), golden.vocab_size);
    assert_eq!(tokenizer.embedding_rows(), golden.largest_id + 1);
    let side = if golden.padding_side == "left" { SequenceSide::Left } else { SequenceSide::Right };
    assert_eq!(tokenizer.padding_side(), side);
    assert_eq!(tokenizer.max_length(), golden.max_length);

    let texts: Vec<&str> = golden.texts.iter().map(|row| row.text.as_str()).collect();
    let batch = tokenizer.encode_batch(&texts, Specials::Include).unwrap();
    assert!(batch.iter().zip(&golden.texts).all(|(ids, row)| *ids == once(&row.ids, &row.bare)));
    let rows: Vec<_> =
        golden.pairs.iter().map(|row| (row.text.as_str(), row.pair.as_deref())).collect();
    let batch = tokenizer.encode_truncated_batch(&rows, 12).unwrap();
    for (row, (text, pair)) in batch.iter().zip(rows) {
        assert_eq!(*row, tokenizer.encode_truncated(text, pair, 12).unwrap());
    }
}

#[test]
fn llama_3_as_transformers() {
    check("llama3");
}

#[test]
fn chatml_as_transformers() {
    check("chatml");
}

#[test]
fn mistral_as_transformers() {
    check("mistral");
}

#[test]
fn t5_as_transformers() {
    check("t5");
}

#[test]
fn roberta_without_tokenizer_json_as_transformers() {
    check("roberta");
}

#[test]
fn tokenizers_without_tokenizer_json_as_transformers() {
    for name in [
        "llama_spm",
        "llama_spm_eos",
        "t5_spm",
        "xlm_roberta_spm",
        "bert_vocab",
        "bert_vocab_cased",
        "qwen2_slow",
        "mt5_spm",
        "albert_spm",
        "albert_spm_cased",
        "deberta_spm",
        "deberta_spm_punctuation",
        "gemma_spm",
        "gpt_neox_slow",
    ] {
        check(name);
    }
}

/// As Git checks a file out on Windows: Python reads it in text mode.
#[test]
fn a_vocabulary_with_other_line_ends_is_the_same() {
    let (from, folder) = (fixtures().join("bert_vocab"), tempfile::tempdir().unwrap());
    let config = "tokenizer_config.json";
    std::fs::copy(from.join(config), folder.path().join(config)).unwrap();
    let vocab = std::fs::read_to_string(from.join("vocab.txt")).unwrap();
    std::fs::write(folder.path().join("vocab.txt"), vocab.replace('\n', "\r\n")).unwrap();
    let [unix, windows] =
        [from.as_path(), folder.path()].map(|folder| HfTokenizer::from_folder(folder).unwrap());
    let text = "Hello, unaffable world! \u{e9}";
    let ids = |tokenizer: &HfTokenizer| tokenizer.encode(text, Specials::Include).unwrap();
    assert_eq!(ids(&unix), ids(&windows));
}

#[test]
fn bert_as_transformers() {
    check("bert");
}

#[test]
fn templates_as_jinja_in_transformers() {
    let golden: Templates = read(&fixtures().join("templates.json"));
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixtures().join("chatml").join(file), folder.path().join(file)).unwrap();
    }
    let mut wrong = Vec::new();
    for row in &golden.rows {
        std::fs::write(folder.path().join("chat_template.jinja"), &row.template).unwrap();
        let tokenizer = HfTokenizer::from_folder(folder.path()).unwrap().at(&golden.now).unwrap();
        let found = tokenizer.render_chat(&row.messages, GenerationPrompt::Omit);
        let same = match (&found, &row.text, &row.error) {
            (Ok(found), Some(expected), None) => found == expected,
            (Err(_), None, Some(_)) => true,
            _ => false,
        };
        if !same {
            let found = found.map_err(|error| error.to_string());
            let expected = row.text.as_ref().or(row.error.as_ref());
            wrong
                .push(format!("{:?}\n  found    {found:?}\n  expected {expected:?}", row.template));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), golden.rows.len(), wrong.join("\n"));
}

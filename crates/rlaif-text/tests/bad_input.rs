//! Folders that are not a tokenizer, and texts and conversations that cannot be.

use std::error::Error;
use std::fs;
use std::path::Path;

use rlaif_core::{ChatOptions, CodecError, GenerationPrompt, Message, Specials, TextCodec};
use rlaif_text::{HfTokenizer, SequenceSide, TextError};

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder with these files of a fixture.
fn copy(name: &str, files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn chatml(template: &str) -> HfTokenizer {
    let folder = copy("chatml", &["tokenizer.json", "tokenizer_config.json"]);
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    HfTokenizer::from_folder(folder.path()).unwrap()
}

#[test]
fn a_folder_without_a_tokenizer_says_what_was_looked_for() {
    let folder = copy("roberta", &["vocab.json", "config.json"]);
    let error = HfTokenizer::from_folder(folder.path()).unwrap_err();
    assert!(matches!(error, TextError::NoTokenizer { .. }), "{error}");
    let text = error.to_string();
    for part in ["tokenizer.json", "vocab.json", "merges.txt", "`config.json`", "save_pretrained"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let nowhere = HfTokenizer::from_folder("no/such/folder").unwrap_err();
    assert!(nowhere.to_string().contains("nothing"), "{nowhere}");
}

#[test]
fn a_vocabulary_of_an_unknown_class_lists_the_known_ones() {
    let folder = copy("roberta", &["vocab.json", "merges.txt"]);
    let error = HfTokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not named") && error.contains("RobertaTokenizer"), "{error}");
    let config = "{\"tokenizer_class\": \"CLIPTokenizer\"}";
    fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let error = HfTokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(error.contains("`CLIPTokenizer`"), "{error}");
    // config.json names the model where tokenizer_config.json names no class.
    fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    fs::write(folder.path().join("config.json"), "{\"model_type\": \"roberta\"}").unwrap();
    let roberta = HfTokenizer::from_folder(folder.path()).unwrap();
    let ids = roberta.encode("a <mask>", Specials::Include).unwrap();
    let whole = HfTokenizer::from_folder(fixture("roberta")).unwrap();
    assert_eq!(ids, whole.encode("a <mask>", Specials::Include).unwrap());
}

/// Without a class, `AutoTokenizer` (transformers 5.23) reads "Hello" as "H", "e", .. and not "▁H", "e", ..
#[test]
fn a_sentencepiece_model_of_no_class_is_refused_by_name() {
    let folder = copy("llama_spm", &["tokenizer.model"]);
    for model in ["llama", "mistral"] {
        let config = format!("{{\"model_type\": \"{model}\"}}");
        fs::write(folder.path().join("config.json"), config).unwrap();
        let error = HfTokenizer::from_folder(folder.path()).unwrap_err().to_string();
        let parts = ["tokenizer.model", model, "`tokenizer_class` in tokenizer_config.json"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn gpt2_has_no_tokens_around_texts() {
    let folder = copy("roberta", &["vocab.json", "merges.txt"]);
    let config = "{\"tokenizer_class\": \"GPT2Tokenizer\"}";
    fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let gpt2 = HfTokenizer::from_folder(folder.path()).unwrap();
    let ids = gpt2.encode("Is honey safe?", Specials::Include).unwrap();
    assert_eq!(ids, gpt2.encode("Is honey safe?", Specials::Exclude).unwrap());
    // Its one special token is not in this vocabulary, and is added behind it.
    assert_eq!(gpt2.special_tokens().eos.as_ref().unwrap().id, 401);
}

#[test]
fn damaged_files_are_named() {
    for (file, content) in [
        ("tokenizer.json", "{\"model\": {"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "{\"padding_side\": \"up\"}"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", "{\"chat_template\": 3}"),
        ("tokenizer_config.json", "{\"added_tokens_decoder\": {\"x\": \"y\"}}"),
        ("special_tokens_map.json", "{\"additional_special_tokens\": [3]}"),
        ("added_tokens.json", "{\"<x>\": -1}"),
    ] {
        let folder = copy("mistral", &["tokenizer.json"]);
        fs::write(folder.path().join(file), content).unwrap();
        let error = HfTokenizer::from_folder(folder.path()).unwrap_err();
        assert!(error.to_string().contains(file), "{file} {content}: {error}");
        assert!(error.source().is_some(), "{error}");
    }
    // Damage that the library finds only in use, or by a panic of its own.
    for (name, good, bad) in [
        ("llama3", "\"<|begin_of_text|>\": {\"id\"", "\"<|begin|>\": {\"id\""),
        ("t5", "precompiled_charsmap", "compiled_charsmap"),
    ] {
        let folder = copy(name, &["tokenizer.json"]);
        let path = folder.path().join("tokenizer.json");
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let text = serde_json::to_string(&json).unwrap().replace("\":{", "\": {");
        let changed = text.replace(good, bad);
        assert_ne!(changed, text, "{name}");
        fs::write(&path, changed).unwrap();
        let error = HfTokenizer::from_folder(folder.path()).unwrap_err();
        assert!(matches!(error, TextError::Build { .. }), "{name}: {error}");
    }
    for (file, content) in [
        ("vocab.json", "{\"a\": \"b\"}"),
        ("vocab.json", "{\"a\": 0}"), // no merge fits
        ("merges.txt", "#version: 0.2\nonlyone\n"),
    ] {
        let folder = copy("roberta", &["vocab.json", "merges.txt", "tokenizer_config.json"]);
        fs::write(folder.path().join(file), content).unwrap();
        let error = HfTokenizer::from_folder(folder.path()).unwrap_err();
        assert!(matches!(error, TextError::Build { .. }), "{file} {content}: {error}");
    }
}

#[test]
fn what_the_configuration_says_has_an_effect() {
    // A role's text, its template variable, and the id of a token that the vocabulary lacks.
    let folder = copy("llama3", &["tokenizer.json"]);
    let config = folder.path().join("tokenizer_config.json");
    let write = |text: &str| fs::write(&config, text).unwrap();
    let open = || HfTokenizer::from_folder(folder.path()).unwrap();
    write("{}");
    let plain = open();
    assert_eq!((plain.padding_side(), plain.max_length()), (SequenceSide::Right, None));
    assert_eq!(plain.special_tokens().pad, None);
    write(
        "{\"pad_token\": \"<|pad|>\", \"padding_side\": \"left\", \"model_max_length\": 77, \
         \"image_token\": \"<|image|>\", \"chat_template\": \"{{ pad_token ~ image_token }}\"}",
    );
    let configured = open();
    let pad = configured.special_tokens().pad.clone().unwrap();
    assert_eq!(pad.id as usize, plain.vocab_size());
    assert_eq!(configured.encode("<|pad|>", Specials::Exclude).unwrap(), [pad.id]);
    assert_eq!(configured.decode(&[pad.id], Specials::Exclude).unwrap(), "");
    assert_eq!(
        (configured.padding_side(), configured.max_length()),
        (SequenceSide::Left, Some(77))
    );
    let chat = [Message::new("user", "x")];
    let text = configured.render_chat(&chat, GenerationPrompt::Omit).unwrap();
    assert_eq!(text, "<|pad|><|image|>");
    // add_prefix_space of a vocabulary without tokenizer.json.
    let folder = copy("roberta", &["vocab.json", "merges.txt", "tokenizer_config.json"]);
    let config = folder.path().join("tokenizer_config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"add_prefix_space\": false", "\"add_prefix_space\": true"))
        .unwrap();
    let prefixed = HfTokenizer::from_folder(folder.path()).unwrap();
    let roberta = HfTokenizer::from_folder(fixture("roberta")).unwrap();
    let with = prefixed.encode("honey", Specials::Include).unwrap();
    assert_eq!(with, roberta.encode(" honey", Specials::Include).unwrap());
    assert_ne!(with, roberta.encode("honey", Specials::Include).unwrap());
}

#[test]
fn a_length_without_room_for_text_is_refused() {
    let roberta = HfTokenizer::from_folder(fixture("roberta")).unwrap();
    let error = roberta.encode_truncated("honey", None, 2).unwrap_err();
    assert!(matches!(error, TextError::TooShort { added: 2, max_length: 2, .. }), "{error}");
    assert!(roberta.encode_truncated("honey", Some("tea"), 4).is_err());
    let one = roberta.encode_truncated("honey and tea", None, 3).unwrap();
    assert_eq!(one.ids.len(), 3);
    let all = roberta.encode("honey and tea", Specials::Exclude).unwrap().len();
    assert_eq!(one.dropped, all - 1);
}

#[test]
fn a_chat_is_refused_with_the_reason_and_the_line() {
    let chat = [Message::new("tool", "x")];
    let render = |tokenizer: &HfTokenizer, chat: &[Message]| {
        tokenizer.render_chat(chat, GenerationPrompt::Add).unwrap_err()
    };
    let roberta = HfTokenizer::from_folder(fixture("roberta")).unwrap();
    let none = render(&roberta, &chat);
    assert!(matches!(none, CodecError::NoChatTemplate { .. }), "{none}");
    let raised = render(&chatml("a\n{{ raise_exception('no role ' + messages[0].role) }}"), &chat);
    assert!(raised.to_string().contains("no role tool (in chat_template:2)"), "{raised}");
    let syntax = render(&chatml("a\n\n{% if %}"), &chat);
    assert!(syntax.to_string().contains("syntax error"), "{syntax}");
    assert!(syntax.to_string().contains("chat_template:3"), "{syntax}");
    let empty = render(&chatml("a"), &[]);
    assert!(empty.to_string().contains("at least one message"), "{empty}");
    let mistral = HfTokenizer::from_folder(fixture("mistral")).unwrap();
    let options = ChatOptions { template: Some("tool_use".into()), ..ChatOptions::default() };
    let unnamed = mistral
        .render_chat_with(&[Message::new("user", "x")], GenerationPrompt::Add, &options)
        .unwrap_err();
    assert!(unnamed.to_string().contains("only default, rag"), "{unnamed}");
    let date = render(&chatml("{{ strftime_now('%Q') }}"), &chat);
    assert!(date.to_string().contains("strftime_now"), "{date}");
    assert!(matches!(chatml("a").at("yesterday"), Err(TextError::Date { .. })));
}

#[test]
fn a_template_without_an_end_is_stopped() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let chat = [Message::new("user", "x")];
    let error = chatml(endless).render_chat(&chat, GenerationPrompt::Add).unwrap_err();
    assert!(error.to_string().contains("fuel"), "{error}");
}

#[test]
fn the_date_is_todays_unless_it_is_pinned() {
    let chat = [Message::new("user", "x")];
    let template = "{{ strftime_now('%Y-%m-%d') }}";
    let today = || {
        let now = jiff::ZonedDateTime::now().datetime();
        now.date().to_string()
    };
    let before = today();
    let text = chatml(template).render_chat(&chat, GenerationPrompt::Add).unwrap();
    assert!(text == before || text == today(), "{text}");
    let pinned = chatml(template).at("2024-07-26").unwrap();
    assert_eq!(pinned.render_chat(&chat, GenerationPrompt::Add).unwrap(), "2024-07-26");
}

#[test]
fn a_rendered_chat_has_one_bos() {
    let llama = HfTokenizer::from_folder(fixture("llama3")).unwrap();
    let bos = llama.special_tokens().bos.clone().unwrap().id;
    let chat = [Message::new("user", "Is honey safe?")];
    let ids = llama.encode_chat(&chat, GenerationPrompt::Add).unwrap();
    assert_eq!(ids.iter().filter(|id| **id == bos).count(), 1);
    assert_eq!(ids[0], bos);
}

#[test]
fn templates_of_any_depth_are_an_error_or_rendered_and_never_the_end_of_the_process() {
    let chat = [Message::new("user", "x")];
    let many = |part: &str, n: usize| part.repeat(n);
    for (what, template) in [
        ("operators", format!("{{{{ 1{} }}}}", many(" + 1", 20_000))),
        ("concatenation", format!("{{{{ 'a'{} }}}}", many(" ~ 'a'", 20_000))),
        ("filters", format!("{{{{ 'a'{} }}}}", many("|upper", 20_000))),
        ("attributes", format!("{{{{ messages{} }}}}", many(".a", 20_000))),
        ("calls", format!("{{{{ messages{} }}}}", many("()", 20_000))),
        ("items", format!("{{{{ messages{} }}}}", many("[0]", 20_000))),
        ("not", format!("{{{{ {}1 }}}}", many("not ", 20_000))),
        ("minus", format!("{{{{ {}1 }}}}", many("-", 20_000))),
        ("parentheses", format!("{{{{ {}1{} }}}}", many("(", 20_000), many(")", 20_000))),
        ("lists", format!("{{{{ {}{} }}}}", many("[", 20_000), many("]", 20_000))),
        ("conditions", format!("{{{{ {}1 }}}}", many("1 if 0 else ", 20_000))),
        ("comparisons", format!("{{{{ 1{} }}}}", many(" < 2", 20_000))),
        ("and", format!("{{{{ 1{} }}}}", many(" and 1", 20_000))),
        ("tests", format!("{{{{ 1{} }}}}", many(" is odd", 20_000))),
        ("elif", format!("{{% if 0 %}}{}{{% endif %}}", many("{% elif 0 %}", 20_000))),
        ("if", format!("{}{}", many("{% if 1 %}", 20_000), many("{% endif %}", 20_000))),
        ("for", format!("{}{}", many("{% for a in b %}", 20_000), many("{% endfor %}", 20_000))),
        // What hides a tag's end or its begin from a reader that is not the engine's.
        ("after a dictionary", format!("{{{{ {{'a': {{}}}}{} }}}}", many(" + 1", 20_000))),
        ("after a comment", format!("{{# {{{{ ' #}}{{{{ 1{} }}}}{{# ' #}}", many("+1", 20_000))),
        (
            "after a raw block",
            format!("{{% raw %}}{{{{ '{{% endraw %}}{{{{ 1{} }}}}{{# ' #}}", many("+1", 20_000)),
        ),
        ("between quotes", format!("{{{{ '{{#' }}}}{{{{ 1{} }}}}", many("+1", 20_000))),
        ("a long template", "x".repeat(2 << 20)),
        // Within the bounds, on the deep stack.
        ("some operators", format!("{{{{ 1{} }}}}", many(" + 1", 2_000))),
        ("some filters", format!("{{{{ 'a'{} }}}}", many("|upper", 2_000))),
        ("some attributes", format!("{{{{ messages{} }}}}", many("[0]", 1_000))),
        ("some elif", format!("{{% if 0 %}}{}{{% endif %}}", many("{% elif 0 %}", 2_000))),
        ("a macro that calls itself", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}".to_owned()),
    ] {
        let found = chatml(&template).render_chat(&chat, GenerationPrompt::Add);
        let fine = ["some operators", "some filters", "some elif"].contains(&what);
        assert_eq!(found.is_ok(), fine, "{what}: {found:?}");
    }
}

#[test]
fn values_of_any_depth_and_texts_of_any_length_end_a_rendering_and_not_the_process() {
    let chat = [Message::new("user", "x")];
    let nested = "{% set n = namespace(x=[]) %}\
                  {% for i in range(N) %}{% set n.x = [n.x] %}{% endfor %}";
    for (template, fine) in [
        // To compare, to print and to drop them needs a stack of their depth.
        ("{{ n.x == [n.x] }}", true),
        ("{% set y = n.x|string %}", true),
        ("", true),
        ("{{ n.x|tojson }}", false),
    ] {
        let loops = |n: &str| format!("{}{template}", nested.replace('N', n));
        let found = chatml(&loops("20000")).render_chat(&chat, GenerationPrompt::Add);
        assert_eq!(found.is_ok(), fine, "{template}: {found:?}");
        // As deep as the cost of a rendering allows.
        let _ = chatml(&loops("100000")).render_chat(&chat, GenerationPrompt::Add);
    }
    for template in [
        "{% for i in range(3000) %}{{ 'a' * 1000 }}{% endfor %}",
        "{{ ('a' * 3000000)|list|join('') }}",
        "{{ strftime_now('%Y' * 1000000) }}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    ] {
        let error = chatml(template).render_chat(&chat, GenerationPrompt::Add).unwrap_err();
        assert!(matches!(error, CodecError::ChatTemplate { .. }), "{error}");
    }
    // The bound grows with the conversation: what users bring is theirs.
    let long = [Message::new("user", "y".repeat(3 << 20))];
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let text = chatml(template).render_chat(&long, GenerationPrompt::Add).unwrap();
    assert_eq!(text.len(), 3 << 20);
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_any_file_is_refused_at_once() {
    let files = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
    let slow = ["vocab.json", "merges.txt"];
    for (fixtures, names) in [("llama3", &files[..]), ("qwen2_slow", &slow[..])] {
        for name in names {
            let folder = tempfile::tempdir().unwrap();
            for entry in fs::read_dir(fixture(fixtures)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
            let path = folder.path().join(name);
            let _ = fs::remove_file(&path);
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            let error = HfTokenizer::from_folder(folder.path()).unwrap_err();
            let said = format!("{error} {:?}", error.source());
            // A folder without a vocabulary has no tokenizer.
            let none = matches!(error, TextError::NoTokenizer { .. });
            assert!(said.contains(name) && (none || said.contains("named pipe")), "{said}");
        }
    }
}

#[test]
fn tokenizers_that_multiply_a_text_are_refused() {
    let json = fs::read_to_string(fixture("llama3").join("tokenizer.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let replace = |content: &str| serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": content});
    let doubling = vec![replace("aa"); 40];
    let piece = serde_json::json!({"Sequence": {"id": "A", "type_id": 0}});
    let template = serde_json::json!({
        "type": "TemplateProcessing", "single": vec![piece.clone(); 100_000], "pair": [piece],
        "special_tokens": {},
    });
    let sequence = |key: &str, step: serde_json::Value, n: usize| serde_json::json!({"type": "Sequence", key: vec![step; n]});
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false});
    for (part, value) in [
        ("normalizer", serde_json::json!({"type": "Sequence", "normalizers": doubling})),
        ("normalizer", replace(&"b".repeat(1_000_000))),
        ("normalizer", serde_json::json!({"type": "Prepend", "prepend": "b".repeat(1_000_000)})),
        ("decoder", serde_json::json!({"type": "Sequence", "decoders": doubling})),
        ("post_processor", template),
        // Each step adds little; all of them much.
        ("normalizer", sequence("normalizers", serde_json::json!({"type": "ByteLevel"}), 40)),
        (
            "normalizer",
            sequence(
                "normalizers",
                serde_json::json!({"type": "Prepend", "prepend": "bc"}),
                20_000,
            ),
        ),
        ("pre_tokenizer", sequence("pretokenizers", byte_level, 40)),
    ] {
        let mut changed = json.clone();
        changed[part] = value;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), changed.to_string()).unwrap();
        let error = HfTokenizer::from_folder(folder.path()).unwrap_err();
        let said = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(said.contains(&format!("its {part}")), "{part}: {error}: {said}");
    }
}

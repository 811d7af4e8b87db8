//! Bounds on what files may ask for: a small tokenizer.json can multiply a text, and a small
//! template can need a stack of any depth.

use serde_json::Value;

/// The most times longer that a text may become on its way to tokens or back.
const GROWTH: f64 = 256.0;
/// The most steps of a normalizer, a pre-tokenizer or a decoder.
const STEPS: usize = 64;
/// The longest token, in bytes.
const TOKEN: usize = 1 << 16;
/// Pieces of a post-processor's template, and how often the text may be among them.
const PIECES: usize = 64;
const TEXTS: usize = 4;

/// Refuses a tokenizer.json that multiplies texts; what is wrong with it otherwise is for the
/// library to say.
pub(crate) fn tokenizer(json: &[u8]) -> tokenizers::Result<()> {
    let Ok(json) = serde_json::from_slice::<Value>(json) else { return Ok(()) };
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        if steps(&json[part]) > STEPS {
            return Err(format!("its {part} has more than {STEPS} steps").into());
        }
        let growth = growth(&json[part]);
        if growth > GROWTH {
            let message = format!(
                "its {part} can make a text {growth:.0} times longer; at most {GROWTH} is allowed"
            );
            return Err(message.into());
        }
    }
    let processors = templates(&json["post_processor"]);
    if processors > 1.0 {
        let message = format!(
            "its post_processor repeats a text, or puts more than {PIECES} tokens around it"
        );
        return Err(message.into());
    }
    let longest = match &json["model"]["vocab"] {
        Value::Object(vocab) => vocab.keys().map(String::len).max(),
        Value::Array(vocab) => vocab.iter().filter_map(|t| t[0].as_str()).map(str::len).max(),
        _ => None,
    };
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let added = added.filter_map(|token| token["content"].as_str()).map(str::len).max();
    if longest.max(added).is_some_and(|longest| longest > TOKEN) {
        return Err(format!("it has a token of more than {TOKEN} bytes").into());
    }
    Ok(())
}

/// The most times longer that one step, or a sequence of steps, can make a text.
fn growth(step: &Value) -> f64 {
    let text = |key: &str| step[key].as_str().unwrap_or_default().len() as f64;
    match step["type"].as_str() {
        Some("Sequence") => ["normalizers", "pretokenizers", "decoders"]
            .iter()
            .filter_map(|key| step[*key].as_array())
            .flatten()
            .map(growth)
            .product(),
        Some("Replace") => {
            let pattern = match step["pattern"]["String"].as_str() {
                Some(pattern) if !pattern.is_empty() => pattern.len() as f64,
                // An expression may match a letter, or nothing between two.
                _ => 0.5,
            };
            (text("content") / pattern).max(1.0)
        }
        Some("Prepend") => (text("prepend") / 1024.0).max(1.0),
        // A byte becomes a character of two, and a word may get a space before it.
        Some("ByteLevel" | "Metaspace") => 4.0,
        _ => 1.0,
    }
}

/// Number of single steps.
fn steps(step: &Value) -> usize {
    match step["type"].as_str() {
        Some("Sequence") => ["normalizers", "pretokenizers", "decoders"]
            .iter()
            .filter_map(|key| step[*key].as_array())
            .flatten()
            .map(steps)
            .sum(),
        _ => 1,
    }
}

/// More than one where templates of a post-processor are too long, or have the text too often.
fn templates(step: &Value) -> f64 {
    match step["type"].as_str() {
        Some("Sequence") => {
            let steps: Vec<&Value> = step["processors"].as_array().into_iter().flatten().collect();
            // Each puts tokens around what the one before made.
            if steps.len() > PIECES {
                2.0
            } else {
                steps.into_iter().map(templates).fold(0.0, f64::max)
            }
        }
        Some("TemplateProcessing") => {
            let bad = ["single", "pair"].iter().any(|template| {
                let pieces = step[*template].as_array().map_or(&[][..], Vec::as_slice);
                let texts = pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
                pieces.len() > PIECES || texts > TEXTS
            });
            let many = |token: &Value| token["ids"].as_array().map_or(0, Vec::len) > PIECES;
            let tokens = step["special_tokens"].as_object();
            if bad || tokens.into_iter().flatten().any(|(_, token)| many(token)) {
                2.0
            } else {
                0.0
            }
        }
        _ => 0.0,
    }
}

/// The longest template, in bytes.
const TEMPLATE: usize = 1 << 20;
/// Parts of one tag of a template.
const PARTS: usize = 4096;
/// Tags that open or continue a block.
const TAGS: usize = 4096;
/// Bytes of a rendered text, beside [`REPEATS`] times those of the conversation.
const RENDERED: usize = 1 << 20;
const REPEATS: usize = 16;
/// The stack that templates within the bounds are compiled on.
const STACK: usize = 512 << 20;

/// Refuses templates whose compilation would need more than the stack that it has.
pub(crate) fn template(source: &str) -> Result<(), String> {
    if source.len() > TEMPLATE {
        return Err(format!("it has {} bytes, more than the {TEMPLATE} allowed", source.len()));
    }
    let (mut at, mut tags) = (0, 0);
    while let Some(start) = source[at..].find('{').map(|found| at + found) {
        // As the engine finds them, so that no text, comment or raw block hides one.
        at = match &source.as_bytes()[start + 1..] {
            [b'#', ..] => match source[start + 2..].find("#}") {
                Some(length) => start + 2 + length + 2,
                None => break,
            },
            [b'%', ..] => {
                tags += 1;
                match raw(source, start + 2) {
                    Some(end) => end,
                    None => tag(source, start, b'%')?,
                }
            }
            [b'{', ..] => tag(source, start, b'}')?,
            _ => start + 1,
        };
    }
    if tags > TAGS {
        return Err(format!("it has {tags} block tags, more than the {TAGS} that are allowed"));
    }
    Ok(())
}

/// The end of a raw block, if the tag whose content begins at `from` opens one.
fn raw(source: &str, from: usize) -> Option<usize> {
    let mut at = from + basic(&source[from..], "raw")?;
    while let Some(found) = source[at..].find("{%") {
        at += found + 2;
        if let Some(length) = basic(&source[at..], "endraw") {
            return Some(at + length);
        }
    }
    Some(source.len())
}

/// Length of the rest of a tag that consists of this word.
fn basic(rest: &str, word: &str) -> Option<usize> {
    let space = |c: char| c.is_ascii_whitespace();
    let open = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start_matches(space);
    let close = open.strip_prefix(word)?.trim_start_matches(space);
    let close = close.strip_prefix(['-', '+']).unwrap_or(close).strip_prefix("%}")?;
    Some(rest.len() - close.len())
}

/// The end of the tag that begins at `start`; an error if it has too many words, numbers and signs. A
/// text in quotes is one.
fn tag(source: &str, start: usize, closes: u8) -> Result<usize, String> {
    let bytes = source.as_bytes();
    let (mut at, mut parts, mut depth) = (start + 2, 0, 0usize);
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
    while at < bytes.len() {
        match bytes[at] {
            byte if byte == closes && depth == 0 && bytes.get(at + 1) == Some(&b'}') => {
                return Ok(at + 2);
            }
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
                parts += 1;
            }
            byte if is_word(&byte) => {
                at += bytes[at..].iter().take_while(|byte| is_word(byte)).count();
                parts += 1;
            }
            byte => {
                match byte {
                    b'(' | b'[' | b'{' => depth += 1,
                    b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                parts += usize::from(!byte.is_ascii_whitespace());
                at += 1;
            }
        }
        if parts > PARTS {
            let line = source[..start].lines().count().max(1);
            return Err(format!(
                "the expression on line {line} has more than {PARTS} parts; no template needs that"
            ));
        }
    }
    Ok(bytes.len())
}

/// Refuses a rendered text that is out of proportion to the conversation of this many bytes.
pub(crate) fn rendered(text: &str, given: usize) -> Result<(), String> {
    let most = RENDERED.saturating_add(given.saturating_mul(REPEATS));
    if text.len() > most {
        return Err(format!(
            "it makes a text of {} bytes of a conversation of {given}; at most {most} are allowed",
            text.len()
        ));
    }
    Ok(())
}

/// Runs `call` on a stack that is deep enough for everything within the bounds.
pub(crate) fn on_deep_stack<T: Send>(call: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, call)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

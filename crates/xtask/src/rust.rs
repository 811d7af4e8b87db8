//! A reader of Rust that knows enough to follow paths: names, imports and items of one file.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

/// One file, as far as paths are concerned.
#[derive(Debug, Default)]
pub(crate) struct Module {
    pub(crate) imports: Vec<Import>,
    /// Items that are defined at the top of the file.
    pub(crate) items: BTreeSet<String>,
    /// Paths in code that begin with `crate`, `self` or `super`, or with a child module.
    pub(crate) paths: Vec<Vec<String>>,
    /// Names in code, outside of imports, that may name an item.
    pub(crate) words: BTreeSet<String>,
}

/// One leaf of a `use` tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// `*` as the last part takes all.
    pub(crate) path: Vec<String>,
    /// The name in this module, if there is one.
    pub(crate) name: Option<String>,
    /// Re-exports, and imports inside of functions, are not names for the module itself.
    pub(crate) public: bool,
}

/// Words that begin an item, whose name is the next word.
const ITEMS: [&str; 8] = ["fn", "struct", "enum", "trait", "type", "const", "static", "union"];

/// Reads one file. What only tests compile is left out.
pub(crate) fn read(text: &str) -> Module {
    let tokens = without_tests(&tokens(text));
    let mut module = Module::default();
    let mut children = BTreeSet::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let next = tokens.get(at + 1).map_or("", String::as_str);
        let before = if at == 0 { "" } else { tokens[at - 1].as_str() };
        match &**token {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            "use" => {
                let public = matches!(before, "pub" | ")");
                let end = at + tokens[at..].iter().take_while(|token| *token != ";").count();
                tree(&tokens[at + 1..end], &[], public && depth == 0, &mut module.imports);
                at = end;
            }
            "mod" if depth == 0 => {
                children.insert(next.to_owned());
                at += 1;
            }
            word if ITEMS.contains(&word) && depth == 0 && is_name(next) => {
                module.items.insert(next.to_owned());
            }
            "macro_rules" if depth == 0 => {
                module.items.extend(tokens.get(at + 2).cloned());
            }
            // `pub(in crate::a)` names a module and uses nothing of it.
            "in" if before == "(" && at > 1 && tokens[at - 2] == "pub" => {
                at += 2 * path(&tokens[at + 1..]).len() - 1;
            }
            word if is_name(word) && !matches!(before, "." | "::" | "$") => {
                module.words.insert(word.to_owned());
                if next == "::" {
                    module.paths.push(path(&tokens[at..]));
                }
            }
            _ => {}
        }
        at += 1;
    }
    // Other paths begin with a type or with another crate.
    let roots = ["crate", "self", "super"];
    let here = |first: &String| roots.contains(&&**first) || children.contains(first);
    module.paths.retain(|path| path.first().is_some_and(here));
    let imported = |import: &Import| import.path.first().is_some_and(here);
    module.imports.retain(imported);
    module
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The names of a path at the beginning of `tokens`.
fn path(tokens: &[String]) -> Vec<String> {
    let mut path = vec![];
    let mut rest = tokens;
    while let Some(name) = rest.first().filter(|name| is_name(name)) {
        path.push(name.clone());
        match rest.get(1) {
            Some(colons) if colons == "::" => rest = &rest[2..],
            _ => break,
        }
    }
    path
}

/// Adds the leaves of a `use` tree, whose paths begin with `before`.
fn tree(tokens: &[String], before: &[String], public: bool, imports: &mut Vec<Import>) {
    let mut depth = 0_usize;
    let branches = tokens.split(|token| {
        match &**token {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        token == "," && depth == 0
    });
    // A comma may stand behind the last branch.
    for branch in branches.filter(|branch| !branch.is_empty()) {
        let mut path = before.to_owned();
        let mut rest = branch;
        while let Some(name) = rest.first() {
            match &**name {
                "::" => {}
                "{" => {
                    tree(&rest[1..rest.len() - 1], &path, public, imports);
                    path.clear();
                    break;
                }
                "as" => break,
                name => path.push(name.to_owned()),
            }
            rest = &rest[1..];
        }
        // `a::b::{self, c}` imports `a::b`.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = match rest {
            [keyword, name] if keyword == "as" => Some(name.clone()),
            _ => path.last().filter(|last| *last != "*").cloned(),
        };
        if !path.is_empty() {
            imports.push(Import { path, name, public });
        }
    }
}

/// Leaves out items behind `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = vec![];
    let mut rest = tokens;
    while let Some((first, others)) = rest.split_first() {
        if !rest.iter().take(TEST.len()).eq(TEST.iter()) {
            kept.push(first.clone());
            rest = others;
            continue;
        }
        rest = &rest[TEST.len()..];
        let mut depth = 0_usize;
        while let Some((token, others)) = rest.split_first() {
            rest = others;
            match &**token {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (token == "}" || token == ";" || token == ",") {
                break;
            }
        }
        // `use a::{b, c};` ends with its semicolon.
        if rest.first().is_some_and(|token| token == ";") {
            rest = &rest[1..];
        }
    }
    kept
}

/// Names, `::` and single signs; comments, texts and characters are left out.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = vec![];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let next = chars.peek().copied();
        match c {
            '/' if next == Some('/') => {
                chars.by_ref().take_while(|c| *c != '\n').for_each(drop);
            }
            '/' if next == Some('*') => comment(&mut chars),
            '"' => string(&mut chars),
            '\'' => quote(&mut chars),
            ':' if next == Some(':') => {
                chars.next();
                tokens.push("::".to_owned());
            }
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = c.to_string();
                while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                match (&*word, chars.peek()) {
                    ("r" | "br", Some('"' | '#')) => raw(&mut chars),
                    ("b" | "c", Some('"' | '\'')) => {}
                    _ => tokens.push(word),
                }
            }
            c if c.is_whitespace() => {}
            c => tokens.push(c.to_string()),
        }
    }
    tokens
}

/// Skips a block comment, which may hold others, behind its slash.
fn comment(chars: &mut Peekable<Chars<'_>>) {
    let mut depth = 0_usize;
    let mut last = '/';
    for c in chars.by_ref() {
        match (last, c) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                last = c;
                continue;
            }
        }
        if depth == 0 {
            break;
        }
        last = ' ';
    }
}

/// Skips a text behind its opening quotation mark.
fn string(chars: &mut Peekable<Chars<'_>>) {
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '"' => break,
            _ => {}
        }
    }
}

/// Skips a raw text behind its `r`; a raw name stays.
fn raw(chars: &mut Peekable<Chars<'_>>) {
    let mut hashes = 0;
    while chars.next_if_eq(&'#').is_some() {
        hashes += 1;
    }
    if chars.next_if_eq(&'"').is_none() {
        return;
    }
    let mut closing = None;
    for c in chars.by_ref() {
        closing = match (c, closing) {
            ('"', _) => Some(0),
            ('#', Some(n)) => Some(n + 1),
            _ => None,
        };
        if closing == Some(hashes) {
            break;
        }
    }
}

/// Skips a character behind its quotation mark; a lifetime is left out as well.
fn quote(chars: &mut Peekable<Chars<'_>>) {
    match chars.next() {
        Some('\\') => {
            chars.next();
            chars.by_ref().take_while(|c| *c != '\'').for_each(drop);
        }
        Some(c) if c.is_alphanumeric() || c == '_' => {
            if chars.next_if_eq(&'\'').is_none() {
                while chars.next_if(|c| c.is_alphanumeric() || *c == '_').is_some() {}
            }
        }
        _ => drop(chars.next()),
    }
}

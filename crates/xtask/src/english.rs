//! Turns of phrase that readers stumble over, and misspellings: counted in comments, in error texts, in
//! `--help` and in the documentation.
//!
//! The counts are a ratchet: `english.txt` has one for each crate, and it may only fall.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::error::Error;

const FILE: &str = "crates/xtask/english.txt";
const HEADER: &str = "\
# Turns of phrase of CONTRIBUTING.md's list, by crate. The numbers may only fall;
# `cargo xtask docs` lowers them.
";

/// First words that make a doc comment a clause instead of a statement.
const CLAUSES: [&str; 11] = [
    "What", "Whatever", "Whether", "Who", "Whoever", "Whose", "Which", "How", "Where", "When",
    "Why",
];

/// First words that refer to a noun which a reader of this comment does not see, and the preposition of
/// inverted phrases.
const PRONOUNS: [&str; 8] = ["It", "Its", "They", "Their", "That", "Those", "These", "Of"];

/// Idioms, and prose for standard terms, that have a plain equivalent.
const IDIOMS: [&str; 22] = [
    "hang on",
    "hangs on",
    "whatever",
    "whichever",
    "whoever",
    "unless told",
    "goes by",
    "go by",
    "goes on",
    "go on",
    "went on",
    "nothing but",
    "but for",
    "of one's own",
    "what became of",
    "what becomes of",
    "be had",
    "as it stands",
    "anew",
    "learnt",
    "likeliest",
    "filled up",
];

/// Common misspellings, and spellings other than this project's.
const MISSPELLINGS: &str = include_str!("misspellings.txt");

/// Verbs of `is no X`, which means `is not an X`.
const VERBS: [&str; 4] = ["is", "are", "was", "were"];

/// Words after `is no` that make the phrase plain English.
const PLAIN: [&str; 9] =
    ["longer", "more", "less", "fewer", "better", "worse", "larger", "smaller", "different"];

/// Attributes with text that users read: errors, and `--help`.
const TEXTS: [&str; 5] = ["#[error(", "#[command(", "#[arg(", "#[value(", "#[group("];

/// Pages in the root.
const PAGES: [&str; 4] = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"];

/// Endings of files with comments or prose.
const PROSE: [&str; 5] = [".rs", ".md", ".cpp", ".hpp", ".h"];

/// Counts of findings by crate or folder of documentation.
type Counts = BTreeMap<String, usize>;

/// Fails if a crate has more findings than its committed number, or fewer: the number must then be
/// lowered.
pub(crate) fn check(root: &Path) -> Result<(), Error> {
    let (findings, allowed) = (findings(root)?, allowed(root)?);
    compare(&findings, &allowed).map_err(Error::English)
}

/// Rewrites the numbers.
pub(crate) fn lower(root: &Path) -> Result<(), Error> {
    let mut text = HEADER.to_owned();
    for (place, n) in lowered(&findings(root)?, &allowed(root)?) {
        let _ = writeln!(text, "{place} {n}");
    }
    let file = root.join(FILE);
    fs::write(&file, text).map_err(|source| Error::Write { file, source })
}

fn compare(findings: &BTreeMap<String, Vec<String>>, allowed: &Counts) -> Result<(), String> {
    let mut faults = vec![];
    for (place, found) in findings {
        let allowed = allowed.get(place).copied().unwrap_or(0);
        if found.len() > allowed {
            let more = found.len() - allowed;
            faults.push(format!("{place}: {} of {allowed}, so {more} too many among", found.len()));
            faults.extend(found.iter().map(|line| format!("  {line}")));
        } else if found.len() < allowed {
            let n = found.len();
            faults
                .push(format!("{place}: {n} are left of {allowed}; `cargo xtask docs` lowers it"));
        }
    }
    let gone = allowed.keys().filter(|place| !findings.contains_key(*place));
    faults.extend(gone.map(|place| format!("{place}: is gone; `cargo xtask docs` removes it")));
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// The committed numbers, lowered to the present ones. A crate's number rises only if the sum of all
/// does not: text that moves to another crate takes its findings along.
fn lowered(findings: &BTreeMap<String, Vec<String>>, allowed: &Counts) -> Counts {
    let total: usize = findings.values().map(Vec::len).sum();
    let moved = total <= allowed.values().sum();
    let number = |(place, found): (&String, &Vec<String>)| {
        let most = if moved { usize::MAX } else { allowed.get(place).copied().unwrap_or(0) };
        (place.clone(), found.len().min(most))
    };
    findings.iter().map(number).collect()
}

fn allowed(root: &Path) -> Result<Counts, Error> {
    let lines = read(&root.join(FILE))?;
    let lines = lines.lines().filter(|line| !line.starts_with('#'));
    Ok(lines
        .filter_map(|line| {
            let (place, n) = line.split_once(' ')?;
            Some((place.to_owned(), n.parse().ok()?))
        })
        .collect())
}

fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|source| Error::Read { file: file.to_owned(), source })
}

/// The findings of each crate, and of `docs` and the root's own pages.
fn findings(root: &Path) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let mut places = BTreeMap::<String, Vec<String>>::new();
    for crates in children(&root.join("crates"))? {
        let name = crates.rsplit('/').next().unwrap_or_default().to_owned();
        walk(root, &crates, places.entry(name).or_default())?;
    }
    for name in ["benches", "docs", "examples", "models", "tests"] {
        walk(root, &root.join(name).to_string_lossy(), places.entry(name.to_owned()).or_default())?;
    }
    let top = places.entry("README".to_owned()).or_default();
    for page in PAGES {
        collect(page, &read(&root.join(page))?, top);
    }
    Ok(places)
}

/// Paths in a folder, in order.
fn children(folder: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Read { file: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

fn walk(root: &Path, folder: &str, found: &mut Vec<String>) -> Result<(), Error> {
    for path in children(Path::new(folder))? {
        let file = Path::new(&path);
        if file.is_dir() {
            walk(root, &path, found)?;
        } else if PROSE.iter().any(|ending| path.ends_with(ending)) {
            let shown = file.strip_prefix(root).unwrap_or(file).to_string_lossy();
            collect(&shown, &read(file)?, found);
        }
    }
    Ok(())
}

/// Adds the findings of one file, as `file:line: the words`.
fn collect(file: &str, text: &str, found: &mut Vec<String>) {
    let page = file.ends_with(".md");
    let (mut code, mut inside, mut told) = (false, false, false);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        let (prose, first) = match doc {
            _ if page => (line, false),
            Some(doc) => (doc.trim_start(), !inside),
            None => {
                let opening = TEXTS.iter().find_map(|attribute| line.strip_prefix(attribute));
                told |= opening.is_some();
                let prose = match opening {
                    Some(rest) => rest,
                    None if told => line,
                    None => line.strip_prefix("//").unwrap_or_default(),
                };
                told &= !line.ends_with(")]");
                code = false;
                (prose, false)
            }
        };
        if prose.starts_with("```") {
            code = !code;
        } else if !code {
            let words = stumbling(prose, first);
            found.extend(words.iter().map(|words| format!("{file}:{}: {words}", number + 1)));
        }
        inside = doc.is_some();
    }
}

/// The turns of phrase and misspellings in one line of prose; `first` if it opens a doc comment.
fn stumbling(line: &str, first: bool) -> Vec<String> {
    let mut found = vec![];
    let trim = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
    // Text quoted as code is not prose.
    let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`code`");
    let words: Vec<String> = prose.split_whitespace().map(trim).collect();
    if let Some(opening) = words.first().filter(|_| first).map(String::as_str) {
        if CLAUSES.contains(&opening) {
            found.push(format!("a comment that begins with \"{opening}\""));
        } else if PRONOUNS.contains(&opening) {
            found.push(format!("a comment that begins with \"{opening}\" instead of a noun"));
        }
    }
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    for idiom in IDIOMS {
        let idiom: Vec<&str> = idiom.split(' ').collect();
        // The opening was counted above.
        let from = usize::from(!found.is_empty());
        let windows = lower.get(from..).unwrap_or_default().windows(idiom.len());
        let times = windows.filter(|words| words.iter().eq(idiom.iter())).count();
        found.extend((0..times).map(|_| format!("\"{}\"", idiom.join(" "))));
    }
    for (at, pair) in lower.windows(2).enumerate() {
        let negates = VERBS.contains(&pair[0].as_str()) && ["no", "none"].contains(&&*pair[1]);
        let there = at > 0 && lower[at - 1] == "there";
        let plain = lower.get(at + 2).is_some_and(|next| PLAIN.contains(&next.as_str()));
        if negates && !there && !plain {
            found.push(format!("\"{} {}\"", pair[0], pair[1]));
        }
    }
    let misspelled = MISSPELLINGS.lines().filter_map(|line| line.split_once(' '));
    for (wrong, right) in misspelled {
        let times = lower.iter().filter(|word| *word == wrong).count();
        found.extend((0..times).map(|_| format!("\"{wrong}\" instead of \"{right}\"")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_found_where_they_stand() {
        let text = concat!(
            "//! Whatever a folder holds.\n\n",
            "/// What it hangs on; a row goes by its id,\n",
            "/// whatever it is, and is no sum unless told.\n",
            "///\n",
            "/// What a second paragraph says. There is no other, and it is no longer one.\n",
            "/// ```\n/// // whatever is code\n/// ```\n",
            "/// `whatever` is code as well.\n",
            "fn f() { /* hangs on */ }\n",
            "// Whatever: a comment.\n",
            "/// Counts of rows.\n",
            "#[error(\n    \"{file} is no folder, \\\n     and recieved nothing\"\n)]\n",
            "let text = \"it is no error text\";\n",
            "#[command(\n    about = \"Whatever\",\n    after_help = \"A file, \\\n    whatever it is\",\n)]\n",
            "#[arg(long, help = \"goes by the name\")]\nlet text = \"whatever\";\n",
            "/// Its name.\n",
            "/// A word.\n",
        );
        let mut found = vec![];
        collect("a.rs", text, &mut found);
        assert_eq!(
            found,
            [
                "a.rs:1: a comment that begins with \"Whatever\"",
                "a.rs:3: a comment that begins with \"What\"",
                "a.rs:3: \"hangs on\"",
                "a.rs:3: \"goes by\"",
                "a.rs:4: \"whatever\"",
                "a.rs:4: \"unless told\"",
                "a.rs:4: \"is no\"",
                "a.rs:12: \"whatever\"",
                "a.rs:15: \"is no\"",
                "a.rs:16: \"recieved\" instead of \"received\"",
                "a.rs:20: \"whatever\"",
                "a.rs:22: \"whatever\"",
                "a.rs:24: \"goes by\"",
                "a.rs:26: a comment that begins with \"Its\" instead of a noun",
            ]
        );
        let mut page = vec![];
        collect("a.md", "What it is.\n\n```text\nwhatever\n```\nIt hangs on that.\n", &mut page);
        assert_eq!(page, ["a.md:6: \"hangs on\""]);
        let mut native = vec![];
        collect(
            "a.cpp",
            "// The same, whatever the size.\nauto text = \"whatever\";\n",
            &mut native,
        );
        assert_eq!(native, ["a.cpp:1: \"whatever\""]);
    }

    #[test]
    fn misspellings_are_pairs_of_words() {
        for line in MISSPELLINGS.lines() {
            let (wrong, right) = line.split_once(' ').unwrap();
            assert!(wrong != right && wrong == wrong.to_lowercase() && !right.is_empty(), "{line}");
        }
    }

    #[test]
    fn a_planted_phrase_fails_and_a_mended_one_asks_to_lower_the_number() {
        let planted =
            |n| BTreeMap::from([("rlaif-x".to_owned(), vec!["a.rs:1: \"is no\"".to_owned(); n])]);
        let allowed = Counts::from([("rlaif-x".to_owned(), 1)]);
        assert_eq!(compare(&planted(1), &allowed), Ok(()));
        let more = compare(&planted(2), &allowed).unwrap_err();
        assert!(more.starts_with("rlaif-x: 2 of 1, so 1 too many among\n  a.rs:1"), "{more}");
        let fewer = compare(&planted(0), &allowed).unwrap_err();
        assert!(fewer.contains("0 are left of 1; `cargo xtask docs` lowers it"), "{fewer}");
        let unknown = compare(&planted(1), &Counts::new()).unwrap_err();
        assert!(unknown.contains("1 of 0"), "{unknown}");
        let gone = compare(&BTreeMap::new(), &allowed).unwrap_err();
        assert!(gone.contains("is gone"), "{gone}");
    }

    #[test]
    fn numbers_fall_or_move_and_do_not_rise() {
        let found = |x, y| {
            let lines = |n| vec!["a.rs:1: \"is no\"".to_owned(); n];
            BTreeMap::from([("x".to_owned(), lines(x)), ("y".to_owned(), lines(y))])
        };
        let counts = |x, y| Counts::from([("x".to_owned(), x), ("y".to_owned(), y)]);
        let committed = Counts::from([("x".to_owned(), 5)]);
        assert_eq!(lowered(&found(2, 0), &committed), counts(2, 0));
        assert_eq!(lowered(&found(2, 3), &committed), counts(2, 3));
        assert_eq!(lowered(&found(4, 3), &committed), counts(4, 0));
        assert_eq!(lowered(&found(9, 0), &committed), counts(5, 0));
    }
}

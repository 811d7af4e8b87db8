//! The commands on a page.

use std::fs;
use std::path::{Path, PathBuf};

use crate::place::repository;

/// First words of a command: programs that a page asks its reader to run.
const PROGRAMS: [&str; 22] = [
    ".ci/run",
    "apt",
    "aws",
    "bash",
    "cargo",
    "curl",
    "docker",
    "echo",
    "eval",
    "export",
    "git",
    "grep",
    "mdbook",
    "nvidia-smi",
    "pip",
    "pip3",
    "python",
    "python3",
    "rlaif",
    "rustup",
    "sh",
    "tensorboard",
];

/// Strings that occur on a page only in a command.
const SIGNS: [&str; 25] = [
    "cargo bench ",
    "cargo build ",
    "cargo doc ",
    "cargo run ",
    "cargo test ",
    "cargo xtask ",
    "curl ",
    "pip install ",
    "python -",
    "python benches",
    "python export",
    "python3 ",
    "rlaif bench ",
    "rlaif classifier -",
    "rlaif dpo -",
    "rlaif eval -",
    "rlaif generate -",
    "rlaif judge -",
    "rlaif logprobs -",
    "rlaif ppo -",
    "rlaif reinforce -",
    "rlaif report ",
    "rlaif reward -",
    "rlaif score -",
    "rlaif sft -",
];

/// A page of the repository.
pub(crate) struct Page {
    /// The path from the repository's root.
    pub(crate) name: String,
    /// The text.
    pub(crate) text: String,
}

/// A command as written on its page, continued lines joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// The command with its trailing comment.
    pub(crate) typed: String,
    /// The line of the page, from 1.
    pub(crate) line: usize,
    /// `true` in running text, where a name alone may stand for a command.
    pub(crate) inline: bool,
}

impl Command {
    /// The command without comment and with single spaces.
    pub(crate) fn plain(&self) -> String {
        let code = self.typed.split(" #").next().unwrap_or_default();
        code.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Page {
    /// Reads a Markdown file, or the module documentation of a Rust file.
    pub(crate) fn read(name: &str) -> Self {
        let mut text = fs::read_to_string(repository().join(name)).unwrap();
        if name.ends_with(".rs") {
            let line = |line: &str| {
                let said = line.strip_prefix("//!").unwrap_or_default();
                format!("{}\n", said.strip_prefix(' ').unwrap_or(said))
            };
            text = text.lines().map(line).collect();
        }
        Self { name: name.to_owned(), text }
    }

    /// Panics if the page has commands that [`Page::commands`] does not find: in a comment, in
    /// plain words, behind an unknown fence.
    pub(crate) fn check_that_none_escapes(&self) {
        let text = self.text.replace("\\\n", " ");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let commands = self.commands();
        for sign in SIGNS {
            let said = text.matches(sign).count();
            let found = commands.iter().map(|command| command.plain().matches(sign).count());
            let found: usize = found.sum();
            assert_eq!(
                said, found,
                "{}: where `{sign}` stands is no command that is run",
                self.name
            );
        }
    }

    /// The fenced blocks in `language`, in order.
    pub(crate) fn blocks(&self, language: &str) -> Vec<String> {
        let fence = format!("\n```{language}\n");
        let parts = self.text.split(&fence).skip(1);
        parts.map(|part| part.split("\n```").next().unwrap_or_default().to_owned()).collect()
    }

    /// All commands, in the order of the page: the lines of shell blocks and of indented blocks,
    /// and command-like text in prose or in a block of another language.
    pub(crate) fn commands(&self) -> Vec<Command> {
        let mut found = Vec::new();
        let mut prose = String::new();
        let mut after_a_gap = true;
        let mut started = 1;
        let mut lines = self.text.lines().zip(1..).peekable();
        while let Some((line, at)) = lines.next() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                inline(&prose, started, &mut found);
                (prose, started) = (String::new(), at);
                let inside = lines.by_ref().take_while(|(line, _)| !line.trim().starts_with("```"));
                block(inside, language, &mut found);
            } else if line.starts_with("    ") && after_a_gap {
                inline(&prose, started, &mut found);
                (prose, started) = (String::new(), at);
                let mut inside = vec![(line, at)];
                while let Some(next) = lines.next_if(|(line, _)| line.starts_with("    ")) {
                    inside.push(next);
                }
                block(inside.into_iter(), "sh", &mut found);
            } else {
                if prose.is_empty() {
                    started = at;
                }
                after_a_gap = line.trim().is_empty() || line.starts_with('#');
                prose += line;
                prose.push('\n');
            }
        }
        inline(&prose, started, &mut found);
        found
    }
}

/// The commands of a block whose fence names `language`.
fn block<'a>(
    lines: impl Iterator<Item = (&'a str, usize)>,
    language: &str,
    found: &mut Vec<Command>,
) {
    let shell = matches!(language, "sh" | "bash" | "shell" | "console");
    assert!(
        shell || matches!(language, "" | "json" | "python" | "rust" | "text" | "toml"),
        "a block in `{language}`: has it commands?"
    );
    let mut typed = String::new();
    for (line, at) in lines {
        let text = line.trim().trim_start_matches("$ ");
        if !shell {
            if matches!(language, "" | "text") && begins_a_command(text) {
                found.push(Command { typed: text.to_owned(), line: at, inline: false });
            }
            continue;
        }
        if typed.is_empty() && (text.is_empty() || text.starts_with('#')) {
            continue;
        }
        if let Some(continued) = text.strip_suffix('\\') {
            typed += continued;
        } else {
            typed += text;
            found.push(Command { typed: std::mem::take(&mut typed), line: at, inline: false });
        }
    }
    assert!(typed.is_empty(), "nothing follows the `\\` of `{typed}`");
}

/// The commands between backticks.
fn inline(prose: &str, started: usize, found: &mut Vec<Command>) {
    let mut line = started;
    for (n, part) in prose.split('`').enumerate() {
        let text = part.split_whitespace().collect::<Vec<_>>().join(" ");
        if n % 2 == 1 && begins_a_command(&text) {
            found.push(Command { typed: text, line, inline: true });
        }
        line += part.matches('\n').count();
    }
}

/// `true` for a program of [`PROGRAMS`] or of a folder, with or without variables in front, and an
/// argument.
fn begins_a_command(text: &str) -> bool {
    let set = |word: &&str| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        })
    };
    let mut words = text.split_whitespace().skip_while(set);
    let Some(program) = words.next() else { return false };
    let in_a_folder = ["target/", "./", ".ci/"].iter().any(|start| program.starts_with(start));
    (PROGRAMS.contains(&program) || in_a_folder) && words.next().is_some_and(|word| word != "->")
}

/// All pages of the repository except the changelog, which describes the past, and all examples:
/// paths from the repository's root.
pub(crate) fn all() -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                walk(&path, found);
            } else if name.ends_with(".md") && name != "CHANGELOG.md" || example(&path) {
                found.push(path);
            }
        }
    }
    fn example(path: &Path) -> bool {
        let folder = path.parent().and_then(|path| path.strip_prefix(repository()).ok());
        let program = path.extension().is_some_and(|end| end == "rs");
        program
            && folder.is_some_and(|path| {
                path == Path::new("examples") || path == Path::new("examples/train_builtin_models")
            })
    }
    let root = repository();
    let mut found = Vec::new();
    walk(&root, &mut found);
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    let mut names: Vec<String> = found.iter().map(name).collect();
    names.sort();
    names
}

#[test]
fn commands_are_found_in_every_sort_of_block() {
    let text = "# A page\n\nOne: `rlaif\ninspect MODEL`, not `rlaif` and not `rlaif-core`.\n\n\
                ```sh\n# said\ncargo run \\\n    -- a # why\n\n```\n\n    python x.py\n    pip y\n\n\
                - a list\n    that goes on\n\n```text\nsome text\ncargo bench z\n```\n\n\
                ```console\n$ rlaif a | b\n```\nLast, `A=b .ci/run c`.\n";
    let page = Page { name: String::new(), text: text.to_owned() };
    let commands = page.commands();
    let plain: Vec<String> = commands.iter().map(Command::plain).collect();
    assert_eq!(
        plain,
        [
            "rlaif inspect MODEL",
            "cargo run -- a",
            "python x.py",
            "pip y",
            "cargo bench z",
            "rlaif a | b",
            "A=b .ci/run c"
        ]
    );
    let lines: Vec<usize> = commands.iter().map(|command| command.line).collect();
    assert_eq!(lines, [3, 9, 13, 14, 21, 25, 27]);
}

#[test]
fn what_is_no_command_that_is_found_is_told() {
    let page = |text: &str| Page { name: String::new(), text: text.to_owned() };
    page("`cargo run --a` and\n\n```sh\ncargo run \\\n  --b # c\n```\n").check_that_none_escapes();
    for text in [
        "Type cargo xtask test now.",
        "```sh\n# Or cargo run --b\nls\n```\n",
        "```sh\nls # or cargo run --b\n```\n",
        "```toml\n# rlaif dpo --config x\n```\n",
        "```zsh\ncargo run --b\n```\n",
        "```sh\ncargo run --b \\\n```\n",
        "An odd ` and `cargo run --b`.",
        "Two ``cargo run --b``.",
        "First `cd x && cargo run --b`.",
        "~~~sh\ncargo run --b\n~~~\n",
        "<pre>cargo run --b</pre>",
    ] {
        let told = std::panic::catch_unwind(|| page(text).check_that_none_escapes());
        assert!(told.is_err(), "{text}");
    }
}

//! Starting programs: each is printed before it runs.

use std::path::Path;
use std::process::Command;

use cargo_metadata::{Metadata, MetadataCommand};

use crate::error::Error;

/// A command that runs in the root of the workspace.
pub(crate) struct Run {
    command: Command,
    shown: String,
}

impl Run {
    /// A program, with its arguments separated by spaces.
    pub(crate) fn new(root: &Path, line: &str) -> Self {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        command.current_dir(root);
        Self { command, shown: line.to_owned() }.args_unshown(words)
    }

    /// A program at a path, with its arguments separated by spaces.
    pub(crate) fn of(root: &Path, program: &Path, arguments: &str) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root);
        let shown = format!("{} {arguments}", quoted(&program.to_string_lossy()));
        Self { command, shown }.args_unshown(arguments.split(' '))
    }

    fn args_unshown<'a>(mut self, args: impl Iterator<Item = &'a str>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds arguments that may contain spaces.
    pub(crate) fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        for arg in args {
            self.command.arg(arg);
            self.shown += &format!(" {}", quoted(arg));
        }
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self.shown = format!("{name}={} {}", quoted(value), self.shown);
        self
    }

    /// Takes an environment variable away.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Prints the command, runs it, and waits for its success.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        eprintln!("$ {}", self.shown);
        let status = self.command.status().map_err(|source| self.start_error(source))?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::Failed { command: self.shown, status }),
        }
    }

    /// Runs the command and reads what `cargo metadata` prints.
    pub(crate) fn metadata(mut self) -> Result<Metadata, Error> {
        self.command.stderr(std::process::Stdio::inherit());
        let output = self.command.output().map_err(|source| self.start_error(source))?;
        if !output.status.success() {
            return Err(Error::Failed { command: self.shown, status: output.status });
        }
        MetadataCommand::parse(String::from_utf8_lossy(&output.stdout))
            .map_err(|source| Error::Output { command: self.shown, source })
    }

    fn start_error(&self, source: std::io::Error) -> Error {
        let program = self.command.get_program().to_string_lossy().into_owned();
        Error::Start { program, source }
    }
}

fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+".contains(c);
    match !arg.is_empty() && arg.chars().all(plain) {
        true => arg.to_owned(),
        false => format!("'{}'", arg.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed() {
        let run = Run::new(Path::new("/"), "cargo test").args(["--", "a b", "it's"]);
        assert_eq!(
            run.env("FLAGS", "-D warnings").shown,
            r"FLAGS='-D warnings' cargo test -- 'a b' 'it'\''s'"
        );
    }

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = Run::new(Path::new("/"), "false").run().unwrap_err().to_string();
        assert!(error.starts_with("`false` failed (exit status: 1)"), "{error}");
        let error = Run::new(Path::new("/"), "no-such-program x").run().unwrap_err().to_string();
        assert!(error.starts_with("cannot start `no-such-program`"), "{error}");
    }
}

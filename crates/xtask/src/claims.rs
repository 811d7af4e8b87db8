//! Tests that SECURITY.md and docs/trl.md name as the proof of their claims.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::error::Error;

/// The files, with the first cell of the table whose last column has tests.
const FILES: [(&str, &str); 2] = [("SECURITY.md", "| claim |"), ("docs/trl.md", "| defect |")];

/// Fails with the names for which there is no test.
pub(crate) fn check(root: &Path) -> Result<(), Error> {
    let mut functions = BTreeSet::new();
    collect(&root.join("crates"), &mut functions)?;
    let mut missing = Vec::new();
    for (name, first) in FILES {
        let file = root.join(name);
        let text = fs::read_to_string(&file).map_err(|source| Error::Read { file, source })?;
        let absent = named(&text, first).filter(|test| !functions.contains(*test));
        missing.extend(absent.map(|test| format!("{name}: {test}")));
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::Claims(missing.join("\n"))) }
}

/// The names in the last column of the table that begins with the cell `first`.
fn named<'a>(text: &'a str, first: &str) -> impl Iterator<Item = &'a str> {
    let rows = text.lines().skip_while(move |line| !line.starts_with(first)).skip(2);
    let cells = rows
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_end_matches('|').rsplit('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2))
}

/// The names of all functions below a folder.
fn collect(folder: &Path, functions: &mut BTreeSet<String>) -> Result<(), Error> {
    let failed = |source| Error::Read { file: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            collect(&path, functions)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            let failed = |source| Error::Read { file: path.clone(), source };
            let text = fs::read_to_string(&path).map_err(failed)?;
            let names = text.lines().filter_map(|line| {
                let name = line.trim_start().strip_prefix("fn ")?;
                name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
            });
            functions.extend(names.map(str::to_owned));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_column_of_claims_names_tests() {
        let text = "| a | b |\n|---|---|\n| `no` | `no` |\n\n| claim | test |\n|---|---|\n\
                    | `x` is y | `one`, `two` |\n| z | `three` |\n\n`no`\n";
        assert_eq!(named(text, "| claim |").collect::<Vec<_>>(), ["one", "two", "three"]);
    }

    #[test]
    fn every_claim_has_its_test() {
        check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap();
    }
}

//! Names of public types: a reader never meets two of one name with different meanings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::error::Error;

/// Names that several types have, each with the reason.
const ALLOWED: [(&str, &str); 0] = [];

/// The places where each name is declared.
type Places = BTreeMap<String, BTreeSet<String>>;

/// Fails with the places of each name that two public types of the library have.
pub(crate) fn check(root: &Path) -> Result<(), Error> {
    let mut places = Places::new();
    let crates = root.join("crates");
    collect(&crates, &crates, &mut places)?;
    let faults = faults(&places, &ALLOWED);
    if faults.is_empty() { Ok(()) } else { Err(Error::Names(faults.join("\n"))) }
}

/// Reads the sources below `folder`; those of `xtask`, a program, are left out.
fn collect(crates: &Path, folder: &Path, places: &mut Places) -> Result<(), Error> {
    let failed = |source| Error::Read { file: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let inside = path.strip_prefix(crates).unwrap_or(&path);
        let mut parts = inside.components().map(|part| part.as_os_str());
        let (first, second) = (parts.next(), parts.next());
        let is_source = second.is_none_or(|part| part == "src") && first != Some("xtask".as_ref());
        if path.is_dir() && is_source {
            collect(crates, &path, places)?;
        } else if is_source && path.extension().is_some_and(|end| end == "rs") {
            let failed = |source| Error::Read { file: path.clone(), source };
            let text = fs::read_to_string(&path).map_err(failed)?;
            for name in public_types(&text) {
                let place = inside.display().to_string();
                places.entry(name.to_owned()).or_default().insert(place);
            }
        }
    }
    Ok(())
}

/// The public types that a file declares, its tests left out.
fn public_types(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("\nmod tests {").next().unwrap_or(text);
    code.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("pub ")?;
        let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
        let name = kinds.iter().find_map(|kind| rest.strip_prefix(kind))?;
        name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
    })
}

fn faults(places: &Places, allowed: &[(&str, &str)]) -> Vec<String> {
    let several = |name: &str| places.get(name).is_some_and(|at| at.len() > 1);
    let is_allowed = |name: &str| allowed.iter().any(|(known, _)| *known == name);
    let new = places.iter().filter(|(name, _)| several(name) && !is_allowed(name));
    let new = new.map(|(name, at)| {
        let at: Vec<&str> = at.iter().map(String::as_str).collect();
        format!("{name}: {}", at.join(", "))
    });
    let gone = allowed.iter().filter(|(name, _)| !several(name));
    let gone = gone.map(|(name, _)| format!("{name} is allowed and has one type"));
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_types_are_found_outside_tests() {
        let text = "pub struct A;\npub(crate) struct B;\n    pub enum C<T> {\n/// pub struct D\n\
                    pub fn e() {}\npub trait F: G {\n\nmod tests {\n pub struct H;\n";
        assert_eq!(public_types(text).collect::<Vec<_>>(), ["A", "C", "F"]);
    }

    #[test]
    fn a_second_type_of_a_name_is_a_fault_as_is_a_stale_reason() {
        let place = |at: &[&str]| at.iter().map(|at| (*at).to_owned()).collect();
        let places = Places::from([
            ("One".to_owned(), place(&["a/src/lib.rs"])),
            ("Two".to_owned(), place(&["a/src/lib.rs", "b/src/x.rs"])),
        ]);
        assert_eq!(faults(&places, &[]), ["Two: a/src/lib.rs, b/src/x.rs"]);
        assert_eq!(faults(&places, &[("Two", "why")]), Vec::<String>::new());
        let stale = [("Two", "why"), ("One", "why")];
        assert_eq!(faults(&places, &stale), ["One is allowed and has one type"]);
    }
}

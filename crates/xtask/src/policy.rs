//! Which dependencies may come in: their licences, and how often each.

use crate::error::Error;
use crate::workspace::Workspace;

/// Licences that MIT or Apache-2.0 code may be distributed with.
const LICENCES: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    // Copyleft of its own files alone; linking does not spread it.
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Exceptions to them, which only permit more.
const EXCEPTIONS: [&str; 1] = ["LLVM-exception"];

/// Dependencies that others bring in several versions.
const TWICE: [&str; 28] = [
    // tch is on thiserror 1, ndarray 0.16, safetensors 0.3 and zip 0.6, which brings older hashes
    // and zstd.
    "thiserror",
    "thiserror-impl",
    "block-buffer",
    "constant_time_eq",
    "cpufeatures",
    "crypto-common",
    "digest",
    "hmac",
    "ndarray",
    "safetensors",
    "sha2",
    "zip",
    "zstd",
    "zstd-safe",
    // tch is on rand 0.8, hf-hub on 0.9, proptest on 0.10.
    "getrandom",
    "r-efi",
    "rand",
    "rand_chacha",
    "rand_core",
    // tokenizers' precompiled normaliser is on the older base64, its fancy-regex on the older sets.
    "base64",
    "bit-set",
    "bit-vec",
    // criterion is on the older, tokenizers on the newer.
    "itertools",
    // safetensors is on the older.
    "hashbrown",
    // Some derive macros are on syn 3, others still on 2.
    "syn",
    // Behind features that are off: the conversions of statrs' linear algebra.
    "glam",
    "num-bigint",
    // For Windows alone.
    "windows-sys",
];

/// Checks the dependencies of the workspace.
pub(crate) fn check(workspace: &Workspace) -> Result<(), Error> {
    let mut faults = vec![];
    for package in workspace.dependencies() {
        let licence = package.license.as_deref();
        if !licence.is_some_and(is_permitted) {
            let licence = licence.unwrap_or("no licence");
            faults.push(format!("{} {} has {licence}", package.name, package.version));
        }
    }
    let duplicates = workspace.duplicates();
    for (name, versions) in &duplicates {
        if !TWICE.contains(name) {
            let versions: Vec<_> = versions.iter().copied().collect();
            faults.push(format!("{name} is there as {}", versions.join(" and ")));
        }
    }
    for name in TWICE.iter().filter(|name| !duplicates.contains_key(*name)) {
        faults.push(format!("{name} is allowed twice and is not there twice"));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::Policy(format!(
        "the dependencies do not fit the lists in crates/xtask/src/policy.rs: {}; choose other \
         dependencies or versions, or add to a list with a reason",
        faults.join("; ")
    )))
}

/// Whether an SPDX expression leaves a way to use the package under our list. `/` is the old way
/// to write OR.
fn is_permitted(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let permitted = any(&mut words);
    // Words left over: an expression that this does not understand is not permitted.
    permitted == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>) -> Option<bool> {
    let mut permitted = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        permitted |= all(words)?;
    }
    Some(permitted)
}

fn all(words: &mut Words<'_>) -> Option<bool> {
    let mut permitted = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        permitted &= one(words)?;
    }
    Some(permitted)
}

fn one(words: &mut Words<'_>) -> Option<bool> {
    if words.next_if_eq(&"(").is_some() {
        let permitted = any(words)?;
        return words.next_if_eq(&")").map(|_| permitted);
    }
    let mut permitted = LICENCES.contains(&words.next()?);
    if words.next_if_eq(&"WITH").is_some() {
        permitted &= EXCEPTIONS.contains(&words.next()?);
    }
    Some(permitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_permitted_way_is_enough() {
        for expression in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        ] {
            assert!(is_permitted(expression), "{expression}");
        }
    }

    #[test]
    fn what_is_not_listed_or_not_understood_is_refused() {
        for expression in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "(MIT OR Apache-2.0) AND GPL-2.0-only",
            "MIT WITH Font-exception",
            "MIT Apache-2.0",
            "(MIT",
            "MIT OR",
            "",
        ] {
            assert!(!is_permitted(expression), "{expression}");
        }
    }
}

//! Circles of modules inside a crate, against those that `docs/architecture.md` allows.
//!
//! The reader knows enough of Rust to follow paths: `use` trees, paths in code that begin with `crate`, `self`,
//! `super` or a child's name, and names that a module re-exports. Tests are left out. Methods that are defined
//! in another file are not seen, nor is anything that a macro writes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::rust::{self, Import, Module};

/// The page whose section lists the circles that stay, each with its reason.
const FILE: &str = "docs/architecture.md";
const HEADING: &str = "## Circles of modules that stay";

/// The modules of one crate by path, the root's being empty: `["judge", "api"]`.
type Modules = BTreeMap<Vec<String>, Module>;

/// The modules that a module uses, each with the name that it uses first.
type Edges = BTreeMap<Vec<String>, BTreeMap<Vec<String>, String>>;

/// One circle: its modules, and sentences on their uses of each other.
#[derive(Debug, PartialEq, Eq)]
struct Circle {
    modules: BTreeSet<String>,
    uses: Vec<String>,
}

/// Fails with the names of the modules if a crate has a circle that is not allowed, or if one that is allowed
/// is gone.
pub(crate) fn check(root: &Path) -> Result<(), Error> {
    let page = read(&root.join(FILE))?;
    let mut circles = BTreeMap::new();
    let crates = root.join("crates");
    for name in children(&crates)? {
        let source = crates.join(&name).join("src");
        if source.is_dir() {
            let mut modules = Modules::new();
            collect(&source, &[], &mut modules)?;
            circles.insert(name, found(&modules));
        }
    }
    let faults = compare(&circles, &allowed(&page));
    if faults.is_empty() { Ok(()) } else { Err(Error::Circles(faults.join("\n"))) }
}

fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|source| Error::Read { file: file.to_owned(), source })
}

/// Names in a folder, in order.
fn children(folder: &Path) -> Result<BTreeSet<String>, Error> {
    let failed = |source| Error::Read { file: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(failed)?;
    let names = entries.map(|e| Ok(e.map_err(failed)?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// Reads the modules of a folder, whose own module is `at`.
fn collect(folder: &Path, at: &[String], modules: &mut Modules) -> Result<(), Error> {
    for name in children(folder)? {
        let path = folder.join(&name);
        let stem = name.strip_suffix(".rs").unwrap_or(&name).to_owned();
        let inside = || [at, std::slice::from_ref(&stem)].concat();
        if path.is_dir() {
            collect(&path, &inside(), modules)?;
        } else if name.ends_with(".rs") {
            let own = matches!(&*stem, "lib" | "main") && at.is_empty() || stem == "mod";
            let module = if own { at.to_owned() } else { inside() };
            modules.insert(module, rust::read(&read(&path)?));
        }
    }
    Ok(())
}

/// The circles that the page allows, by crate, each with its modules.
fn allowed(page: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let section = page.split_once(HEADING).map_or("", |(_, rest)| rest);
    let section = section.split("\n## ").next().unwrap_or("");
    let rows = section.lines().filter_map(|line| line.strip_prefix("- ")?.split_once(": "));
    let rows = rows.filter_map(|(names, _)| {
        let mut names = names.split('`').skip(1).step_by(2).map(str::to_owned);
        Some((names.next()?, names.collect()))
    });
    rows.collect()
}

fn compare(
    circles: &BTreeMap<String, Vec<Circle>>,
    allowed: &BTreeSet<(String, BTreeSet<String>)>,
) -> Vec<String> {
    let mut faults = vec![];
    let mut seen = BTreeSet::new();
    for (name, circles) in circles {
        for circle in circles {
            let key = (name.clone(), circle.modules.clone());
            if !allowed.contains(&key) {
                let modules: Vec<_> = circle.modules.iter().map(String::as_str).collect();
                faults.push(format!("{name}: {}", modules.join(", ")));
                faults.extend(circle.uses.iter().map(|line| format!("  {line}")));
            }
            seen.insert(key);
        }
    }
    let gone = allowed.difference(&seen);
    faults.extend(gone.map(|(name, modules)| {
        let modules: Vec<_> = modules.iter().map(String::as_str).collect();
        format!("{name}: {} is allowed in {FILE} and is gone", modules.join(", "))
    }));
    faults
}

/// The circles among modules.
fn found(modules: &Modules) -> Vec<Circle> {
    let mut edges = Edges::new();
    for at in modules.keys() {
        edges.insert(at.clone(), uses(modules, at));
    }
    let mut circles = vec![];
    let mut done = BTreeSet::new();
    for at in modules.keys() {
        if done.contains(at) {
            continue;
        }
        let below = reach(&edges, at);
        let circle: Vec<_> =
            below.into_iter().filter(|to| reach(&edges, to).contains(at)).collect();
        done.extend(circle.iter().cloned());
        if circle.len() > 1 {
            let inside = circle.iter().flat_map(|from| {
                let to = edges[from].iter().filter(|(to, _)| circle.contains(to));
                to.map(|(to, name)| format!("{} uses {name} of {}", shown(from), shown(to)))
            });
            circles.push(Circle {
                uses: inside.collect(),
                modules: circle.iter().map(|module| shown(module)).collect(),
            });
        }
    }
    circles
}

fn shown(module: &[String]) -> String {
    if module.is_empty() { "crate".to_owned() } else { module.join("::") }
}

/// The modules that can be reached from one, itself included if there is a way back.
fn reach(edges: &Edges, from: &[String]) -> BTreeSet<Vec<String>> {
    let mut reached = BTreeSet::new();
    let mut open = VecDeque::from([from.to_owned()]);
    while let Some(at) = open.pop_front() {
        for to in edges.get(&at).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(to.clone()) {
                open.push_back(to.clone());
            }
        }
    }
    reached
}

/// The other modules that one uses, each with a name that it takes from there. A re-export is not a use, but
/// a name that is re-exported and used as well is one.
fn uses(modules: &Modules, at: &[String]) -> BTreeMap<Vec<String>, String> {
    let module = &modules[at];
    let used = |import: &&Import| {
        let name = import.name.as_deref();
        !import.public || name.is_some_and(|name| module.words.contains(name))
    };
    let imports = module.imports.iter().filter(used).map(|import| &import.path);
    let mut found = BTreeMap::new();
    for path in imports.chain(&module.paths) {
        let names = if path.last().is_some_and(|name| name == "*") {
            // The names that the module takes from there.
            let all = path.len() - 1;
            let words = module.words.iter();
            words.map(|word| [&path[..all], std::slice::from_ref(word)].concat()).collect()
        } else {
            vec![path.clone()]
        };
        for path in names {
            if let Some((home, name)) = home(modules, at, &path, 0)
                && home != at
            {
                found.entry(home).or_insert(name);
            }
        }
    }
    found
}

/// The module that defines the item of a path in module `at`, with the item's name.
fn home(
    modules: &Modules,
    at: &[String],
    path: &[String],
    depth: usize,
) -> Option<(Vec<String>, String)> {
    let (mut place, mut rest) = (at.to_owned(), path);
    while let Some((first, others)) = rest.split_first() {
        match &**first {
            "crate" => place.clear(),
            "self" => {}
            "super" => {
                place.pop()?;
            }
            _ => break,
        }
        rest = others;
    }
    while let Some((first, others)) = rest.split_first() {
        let inside = [&place[..], std::slice::from_ref(first)].concat();
        if modules.contains_key(&inside) {
            (place, rest) = (inside, others);
            continue;
        }
        let module = modules.get(&place)?;
        if module.items.contains(first) {
            return Some((place, first.clone()));
        }
        // Two modules may import each other's names; a path that long is not one that compiles.
        if depth > 8 {
            return None;
        }
        let named = module.imports.iter().filter(|import| import.name.as_ref() == Some(first));
        let globs = module.imports.iter().filter(|import| import.name.is_none());
        let named = named.map(|import| import.path.clone());
        let globs = globs.filter_map(|import| {
            let (last, folder) = import.path.split_last()?;
            (last == "*").then(|| [folder, std::slice::from_ref(first)].concat())
        });
        let mut ways = named.chain(globs).map(|path| [&path[..], others].concat());
        return ways.find_map(|path| home(modules, &place, &path, depth + 1));
    }
    // A module itself is used through its items.
    let name = shown(&place);
    modules.contains_key(&place).then_some((place, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(files: &[(&str, &str)]) -> Modules {
        let path =
            |at: &str| at.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        files.iter().map(|(at, text)| (path(at), rust::read(text))).collect()
    }

    fn names(circles: &[Circle]) -> Vec<String> {
        let names = circles
            .iter()
            .map(|circle| circle.modules.iter().cloned().collect::<Vec<_>>().join(" "));
        names.collect()
    }

    #[test]
    fn a_planted_circle_is_found_with_the_names_that_make_it() {
        let planted = modules(&[
            ("", "mod error; mod read; mod table; pub use error::Error;"),
            ("error", "use crate::read::Form;\npub enum Error { Form(Form) }"),
            (
                "read",
                "use crate::Error;\npub enum Form {}\nfn read() -> Result<(), Error> { Ok(()) }",
            ),
            ("table", "fn draw() { crate::read::read() }"),
        ]);
        let circles = found(&planted);
        assert_eq!(names(&circles), ["error read"]);
        assert_eq!(circles[0].uses, ["error uses Form of read", "read uses Error of error"]);
    }

    #[test]
    fn a_parent_that_re_exports_makes_no_circle_and_one_that_uses_does() {
        let parent = "mod a; mod b; pub use a::{A, Make as Maker}; pub use b::*;";
        let rest = [
            ("p::a", "use super::B;\npub struct A(B);\npub trait Make {}"),
            ("p::b", "pub struct B;"),
        ];
        let of = |parent: &str| {
            let mut files = vec![("", "pub mod p;"), ("p", parent)];
            files.extend(rest);
            names(&found(&modules(&files)))
        };
        assert_eq!(of(parent), Vec::<String>::new());
        // The parent uses its child, but has nothing that the child uses.
        assert_eq!(of(&format!("{parent} fn f(_: A) {{}}")), Vec::<String>::new());
        let both = parent.replace("pub use b::*;", "pub struct B; fn f(_: A) {}");
        assert_eq!(of(&both), ["p p::a"]);
    }

    #[test]
    fn tests_comments_strings_and_macros_of_other_crates_are_not_read() {
        let quiet = "
            //! use crate::b::B;
            /* use crate::b::B; /* nested */ */
            pub struct A;
            const TEXT: &str = \"crate::b::B\"; const RAW: &str = r#\"crate::b::B\"#;
            const CHAR: char = '\"'; fn f<'a>(x: &'a str) {}
            macro_rules! m { () => { $crate::b::B } }
            #[cfg(test)] mod tests { use crate::b::B; }
            #[cfg(test)] use crate::b::B;
            pub(in crate::b) fn seen_from_b() {}
        ";
        let loud = format!("{quiet} fn g() {{ crate::b::B; }}");
        let of = |text: &str| {
            let files = [("", "mod a; mod b;"), ("a", text), ("b", "pub struct B(crate::a::A);")];
            names(&found(&modules(&files)))
        };
        assert_eq!(of(quiet), Vec::<String>::new());
        assert_eq!(of(&loud), ["a b"]);
    }

    #[test]
    fn circles_are_allowed_by_name_and_must_be_there() {
        let page = format!(
            "# A\n\n{HEADING}\n\nText.\n\n- `rlaif-x` `a`, `b::c`: a reason.\n\n## Next\n- `y`: no.\n"
        );
        let allowed = allowed(&page);
        let modules = BTreeSet::from(["a".to_owned(), "b::c".to_owned()]);
        assert_eq!(allowed, BTreeSet::from([("rlaif-x".to_owned(), modules.clone())]));
        let circle =
            || Circle { modules: modules.clone(), uses: vec!["a uses B of b::c".to_owned()] };
        let of =
            |name: &str, circles| compare(&BTreeMap::from([(name.to_owned(), circles)]), &allowed);
        assert_eq!(of("rlaif-x", vec![circle()]), Vec::<String>::new());
        assert_eq!(
            of("rlaif-x", vec![]),
            ["rlaif-x: a, b::c is allowed in docs/architecture.md and is gone"]
        );
        assert_eq!(of("rlaif-y", vec![circle()])[..2], ["rlaif-y: a, b::c", "  a uses B of b::c"]);
    }
}

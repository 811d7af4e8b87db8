//! The nearest of several names.

/// A question about the known name that is nearest to one that is not known; nothing where none is near.
pub(crate) fn did_you_mean(found: &str, known: &[impl AsRef<str>]) -> String {
    let near = |name: &&str| strsim::damerau_levenshtein(found, name);
    let nearest = known.iter().map(AsRef::as_ref).min_by_key(near);
    let nearest = nearest.filter(|name| near(name) <= name.len() / 2);
    nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"))
}

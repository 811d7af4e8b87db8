//! The model card of a hub repository: YAML that the hub reads, then Markdown for people.

use std::fmt::Write;

/// A model card, written as `README.md`.
///
/// Lists that are empty and fields that are `None` are left out.
///
/// ```
/// use rlaif_checkpoint::{CardSection, ModelCard};
///
/// let card = ModelCard {
///     title: "Less toxic summaries".to_owned(),
///     license: Some("apache-2.0".to_owned()),
///     base_model: vec!["google/flan-t5-base".to_owned()],
///     library_name: Some("transformers".to_owned()),
///     tags: vec!["rlaif".to_owned()],
///     sections: vec![CardSection {
///         title: "Training".to_owned(),
///         text: "PPO against a toxicity classifier.".to_owned(),
///     }],
///     ..ModelCard::default()
/// };
/// assert_eq!(
///     card.to_markdown(),
///     "---\nlicense: apache-2.0\nbase_model:\n- google/flan-t5-base\nlibrary_name: transformers\n\
///      tags:\n- rlaif\n---\n\n# Less toxic summaries\n\n## Training\n\n\
///      PPO against a toxicity classifier.\n"
/// );
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelCard {
    /// The heading.
    pub title: String,
    /// The hub's identifier of a licence, such as `apache-2.0`.
    pub license: Option<String>,
    /// Hub ids of the models this one was made from.
    pub base_model: Vec<String>,
    /// `transformers` for a whole model, `peft` for an adapter.
    pub library_name: Option<String>,
    /// The hub's task, such as `text-generation`.
    pub pipeline_tag: Option<String>,
    /// Free tags.
    pub tags: Vec<String>,
    /// Hub ids of the data sets it was trained on.
    pub datasets: Vec<String>,
    /// The hub's names of the metrics it was evaluated with.
    pub metrics: Vec<String>,
    /// The text, in order.
    pub sections: Vec<CardSection>,
}

/// A headed part of a [`ModelCard`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardSection {
    /// The heading.
    pub title: String,
    /// The Markdown text.
    pub text: String,
}

impl ModelCard {
    /// The whole file.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut yaml = String::new();
        scalar(&mut yaml, "license", self.license.as_deref());
        list(&mut yaml, "base_model", &self.base_model);
        scalar(&mut yaml, "library_name", self.library_name.as_deref());
        scalar(&mut yaml, "pipeline_tag", self.pipeline_tag.as_deref());
        list(&mut yaml, "tags", &self.tags);
        list(&mut yaml, "datasets", &self.datasets);
        list(&mut yaml, "metrics", &self.metrics);
        // A block of YAML without keys would be read as text.
        let mut card = if yaml.is_empty() { yaml } else { format!("---\n{yaml}---\n\n") };
        let _ = writeln!(card, "# {}", self.title);
        for CardSection { title, text } in &self.sections {
            let _ = write!(card, "\n## {title}\n\n{}\n", text.trim_end());
        }
        card
    }
}

fn scalar(yaml: &mut String, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        let _ = writeln!(yaml, "{key}: {}", quoted(value));
    }
}

fn list(yaml: &mut String, key: &str, values: &[String]) {
    if values.is_empty() {
        return;
    }
    let _ = writeln!(yaml, "{key}:");
    for value in values {
        let _ = writeln!(yaml, "- {}", quoted(value));
    }
}

/// A YAML string: bare where that cannot be read as anything else, quoted as in JSON otherwise.
fn quoted(value: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let bare = value.starts_with(|c: char| c.is_ascii_alphabetic())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !WORDS.contains(&value.to_ascii_lowercase().as_str());
    if bare { value.to_owned() } else { serde_json::Value::from(value).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_would_read_as_something_else_is_quoted() {
        for (value, want) in [
            ("apache-2.0", "apache-2.0"),
            ("no", "\"no\""),
            ("1.0", "\"1.0\""),
            ("a: b", "\"a: b\""),
            ("- x", "\"- x\""),
            ("", "\"\""),
            ("two\nlines", "\"two\\nlines\""),
        ] {
            assert_eq!(quoted(value), want);
        }
    }

    #[test]
    fn without_keys_there_is_no_front_matter() {
        let card = ModelCard { title: "T".to_owned(), ..ModelCard::default() };
        assert_eq!(card.to_markdown(), "# T\n");
    }
}

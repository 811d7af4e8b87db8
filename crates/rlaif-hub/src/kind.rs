//! The kinds of repositories that the hub has.

/// The content of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RepoKind {
    /// Weights, configuration, tokenizer.
    Model,
    /// Rows.
    Dataset,
}

impl RepoKind {
    /// `model` or `dataset`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    pub(crate) fn of_hf_hub(self) -> hf_hub::RepoType {
        match self {
            Self::Model => hf_hub::RepoType::Model,
            Self::Dataset => hf_hub::RepoType::Dataset,
        }
    }

    /// A repository's path on the hub's web site.
    pub(crate) fn path(self, id: &str) -> String {
        hf_hub::Repo::new(id.to_owned(), self.of_hf_hub()).url()
    }
}

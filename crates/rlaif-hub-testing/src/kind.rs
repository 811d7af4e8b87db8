//! Kinds of repositories.

/// The kind of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A model repository: `/{id}`.
    Model,
    /// A dataset repository: `/datasets/{id}`.
    Dataset,
}

//! Kinds of repositories.

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A model repository: `/{id}`.
    Model,
    /// A dataset repository: `/datasets/{id}`.
    Dataset,
}

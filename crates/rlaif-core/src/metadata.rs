//! Facts about a record that have no field of their own.

/// Further facts about a prompt: columns of its source that rewards or reports may need.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

//! Names of an adapter's tensors in its file.

use std::fmt;

const PREFIX: &str = "base_model.model.";
const LORA_A: &str = ".lora_A.weight";
const LORA_B: &str = ".lora_B.weight";
const EMBEDDING_A: &str = ".lora_embedding_A";
const EMBEDDING_B: &str = ".lora_embedding_B";
const MAGNITUDE: &str = ".lora_magnitude_vector";
const BASE_BIAS: &str = ".base_layer.bias";

/// A tensor of an adapter by its meaning.
///
/// Module and parameter paths are those of the base model in `transformers`. The adapter's own name
/// is not part of the key: peft leaves it out of files.
///
/// ```
/// use rlaif_checkpoint::AdapterKey;
///
/// let key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
/// let parsed = AdapterKey::parse(key).unwrap();
/// assert_eq!(parsed, AdapterKey::LoraA { module: "model.layers.0.self_attn.q_proj".to_owned() });
/// assert_eq!(parsed.to_string(), key);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AdapterKey {
    /// The factor that projects down, `[rank, in]`.
    LoraA {
        /// Path of the linear layer.
        module: String,
    },
    /// The factor that projects up, `[out, rank]`.
    LoraB {
        /// Path of the linear layer.
        module: String,
    },
    /// The factor of an embedding that maps ids to ranks, `[rank, ids]`.
    EmbeddingA {
        /// Path of the embedding.
        module: String,
    },
    /// The factor of an embedding that projects up, `[size, rank]`.
    EmbeddingB {
        /// Path of the embedding.
        module: String,
    },
    /// DoRA's magnitudes, `[out]`; of an embedding `[size]`.
    Magnitude {
        /// Path of the layer.
        module: String,
    },
    /// The bias of a layer with factors, trained with them (`bias = "lora_only"`).
    Bias {
        /// Path of the linear layer.
        module: String,
    },
    /// A parameter that was trained whole and is saved beside the factors (`modules_to_save`), or a copy of
    /// one of the base's.
    Saved {
        /// Path of the parameter, such as `score.weight`.
        parameter: String,
    },
}

impl AdapterKey {
    /// Reads a key; `None` if it belongs to something else than LoRA and DoRA, or has the adapter's name in it.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        let path = key.strip_prefix(PREFIX)?;
        let parsed = if let Some(module) = path.strip_suffix(LORA_A) {
            Self::LoraA { module: module.to_owned() }
        } else if let Some(module) = path.strip_suffix(LORA_B) {
            Self::LoraB { module: module.to_owned() }
        } else if let Some(module) = path.strip_suffix(EMBEDDING_A) {
            Self::EmbeddingA { module: module.to_owned() }
        } else if let Some(module) = path.strip_suffix(EMBEDDING_B) {
            Self::EmbeddingB { module: module.to_owned() }
        } else if let Some(module) = path.strip_suffix(MAGNITUDE) {
            Self::Magnitude { module: module.to_owned() }
        } else if let Some(module) = path.strip_suffix(BASE_BIAS) {
            Self::Bias { module: module.to_owned() }
        } else {
            Self::Saved { parameter: path.to_owned() }
        };
        // Segments that peft's own wrappers add; none may be left in a path of the base model.
        let foreign = |segment: &str| {
            segment.is_empty()
                || segment.starts_with("lora_")
                || ["base_layer", "original_module", "modules_to_save"].contains(&segment)
        };
        (!parsed.path().split('.').any(foreign)).then_some(parsed)
    }

    fn path(&self) -> &str {
        match self {
            Self::LoraA { module }
            | Self::LoraB { module }
            | Self::EmbeddingA { module }
            | Self::EmbeddingB { module }
            | Self::Magnitude { module }
            | Self::Bias { module } => module,
            Self::Saved { parameter } => parameter,
        }
    }
}

impl fmt::Display for AdapterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self {
            Self::LoraA { .. } => LORA_A,
            Self::LoraB { .. } => LORA_B,
            Self::EmbeddingA { .. } => EMBEDDING_A,
            Self::EmbeddingB { .. } => EMBEDDING_B,
            Self::Magnitude { .. } => MAGNITUDE,
            Self::Bias { .. } => BASE_BIAS,
            Self::Saved { .. } => "",
        };
        write!(f, "{PREFIX}{}{suffix}", self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_to_save_have_plain_keys() {
        let key = AdapterKey::parse("base_model.model.classifier.dense.weight").unwrap();
        assert_eq!(key, AdapterKey::Saved { parameter: "classifier.dense.weight".to_owned() });
        assert_eq!(key.to_string(), "base_model.model.classifier.dense.weight");
    }

    #[test]
    fn factors_of_embeddings_have_no_weight_in_their_keys() {
        let key = AdapterKey::parse("base_model.model.embed.lora_embedding_A").unwrap();
        assert_eq!(key, AdapterKey::EmbeddingA { module: "embed".to_owned() });
        assert_eq!(key.to_string(), "base_model.model.embed.lora_embedding_A");
    }

    #[test]
    fn keys_of_other_methods_are_refused() {
        for key in [
            "model.layers.0.q.lora_A.weight",
            "base_model.model.q.lora_A.default.weight",
            "base_model.model.q.lora_magnitude_vector.default",
            "base_model.model.embed.lora_embedding_A.default",
            "base_model.model.q.lora_B.bias",
            "base_model.model.q.base_layer.weight",
            "base_model.model.score.modules_to_save.weight",
            "base_model.model.",
            "base_model.model..lora_A.weight",
        ] {
            assert_eq!(AdapterKey::parse(key), None, "{key}");
        }
    }
}

//! Token ids in config.json.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

/// Tokens that a model itself puts into a batch.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct SpecialIds {
    #[serde(default, deserialize_with = "token_id")]
    pub(crate) pad_token_id: Option<u32>,
    #[serde(default, deserialize_with = "token_id")]
    pub(crate) bos_token_id: Option<u32>,
}

/// Token ids of a field that holds one, a list of them, or null. A negative id means none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenIds(pub(crate) Vec<u32>);

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;

        impl<'de> Visitor<'de> for Ids {
            type Value = TokenIds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token id, a list of token ids, or null")
            }

            fn visit_unit<E>(self) -> Result<TokenIds, E> {
                Ok(TokenIds::default())
            }

            fn visit_i64<E: serde::de::Error>(self, id: i64) -> Result<TokenIds, E> {
                if id < 0 {
                    return Ok(TokenIds::default());
                }
                self.visit_u64(id.unsigned_abs())
            }

            fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<TokenIds, E> {
                let id = u32::try_from(id)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(id), &self))?;
                Ok(TokenIds(vec![id]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<TokenIds, A::Error> {
                let mut all = Vec::new();
                while let Some(TokenIds(ids)) = items.next_element()? {
                    all.extend(ids);
                }
                Ok(TokenIds(all))
            }
        }

        deserializer.deserialize_any(Ids)
    }
}

/// A flag that is off if it is null; `None` if it is absent.
pub(crate) fn off_if_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<bool>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or(false)))
}

/// The first token id of a field, if it has one.
pub(crate) fn token_id<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    Ok(TokenIds::deserialize(deserializer)?.0.first().copied())
}

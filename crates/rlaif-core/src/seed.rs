//! The source of randomness.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A seed, from which every random stage of a run gets its own by name and step.
///
/// A stage that is replayed or resumed derives the same seed again, so nothing depends on how
/// many random numbers were drawn before it.
///
/// ```
/// use rlaif_core::Seed;
/// let run = Seed::new(42);
/// assert_eq!(run.derive("rollout", 3), run.derive("rollout", 3));
/// assert_ne!(run.derive("rollout", 3), run.derive("rollout", 4));
/// assert_ne!(run.derive("rollout", 3), run.derive("shuffle", 3));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Seed(u64);

impl Seed {
    /// The seed of that number.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself, for a generator that is to be seeded with it.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The seed of one step of one stage.
    ///
    /// m(m(m(seed) ⊕ f(stage)) ⊕ step), where f is FNV-1a (64 bits) of the name's UTF-8 bytes and
    /// m(z) the output of SplitMix64 in state z. This is a contract: a run that is resumed by a
    /// later version must meet the same seeds.
    #[must_use]
    pub fn derive(self, stage: &str, step: u64) -> Self {
        Self(mix(mix(mix(self.0) ^ fnv1a(stage.as_bytes())) ^ step))
    }

    /// The seed of one stage as libtorch's generators take it: the bits of
    /// `derive(stage, 0)` as a signed number.
    ///
    /// ```
    /// use rlaif_core::Seed;
    /// let seed = Seed::new(42);
    /// assert_eq!(seed.for_libtorch("init").cast_unsigned(), seed.derive("init", 0).get());
    /// ```
    #[must_use]
    pub fn for_libtorch(self, stage: &str) -> i64 {
        self.for_libtorch_at(stage, 0)
    }

    /// The seed of one step of a stage as libtorch's generators take it.
    #[must_use]
    pub fn for_libtorch_at(self, stage: &str, step: u64) -> i64 {
        self.derive(stage, step).0.cast_signed()
    }
}

/// SplitMix64's output in state `z` (Steele, Lea and Flood 2014): a bijection on 64 bits.
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_parts_give_their_published_values() {
        // SplitMix64 seeded with 0, first output; FNV-1a's published test vectors.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn derivation_is_the_documented_formula() {
        // The formula in `derive`'s documentation, computed with Python's integers.
        let golden = [
            (42, "rollout", 3, 0x8486_584c_fb9f_1e3a),
            (0, "", 0, 0xa6bb_c8dc_be30_928c),
            (u64::MAX, "shuffle", u64::MAX, 0xd2b6_f443_89fa_adc0),
        ];
        for (seed, stage, step, expected) in golden {
            assert_eq!(Seed::new(seed).derive(stage, step).get(), expected);
        }
    }

    #[test]
    fn stages_and_steps_do_not_collide() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..20 {
            for stage in ["rollout", "shuffle", "update", "eval", ""] {
                for step in 0..100 {
                    assert!(seen.insert(Seed::new(seed).derive(stage, step)));
                }
            }
        }
    }

    #[test]
    fn a_seed_is_written_as_its_number() {
        assert_eq!(serde_json::to_string(&Seed::new(u64::MAX)).unwrap(), u64::MAX.to_string());
    }
}

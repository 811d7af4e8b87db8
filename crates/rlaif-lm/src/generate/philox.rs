//! Random numbers that depend on where they are used, not on what was drawn before.

/// Philox4x32-10: a bijection of a counter of 128 bits under a key of 64
/// ([Salmon et al. 2011](https://doi.org/10.1145/2063384.2063405)).
pub(super) fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b] = [0xd251_1f53_u64, 0xcd9e_8d57];
        let (low, high) = (a * u64::from(counter[0]), b * u64::from(counter[2]));
        counter = [
            upper(high) ^ counter[1] ^ key[0],
            lower(high),
            upper(low) ^ counter[3] ^ key[1],
            lower(low),
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

fn upper(x: u64) -> u32 {
    (x >> 32) as u32
}

fn lower(x: u64) -> u32 {
    x as u32
}

/// The uniform number in [0, 1) that decides token `token` of the row `row`: the first 53 bits of
/// Philox under `key` for the counter (row, token).
pub(super) fn uniform(key: u64, row: u64, token: u64) -> f64 {
    let words = |x: u64| [lower(x), upper(x)];
    let ([r0, r1], [t0, t1]) = (words(row), words(token));
    let [a, b, ..] = philox4x32_10([r0, r1, t0, t1], words(key));
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    bits as f64 * (1. / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_published_vectors() {
        // kat_vectors of Random123, philox4x32 with 10 rounds.
        let ones = u32::MAX;
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([ones; 4], [ones; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniform_numbers_fill_the_unit_interval_evenly() {
        let mut counts = [0f64; 64];
        let n = 1 << 16;
        for i in 0..n {
            let u = uniform(7, i % 256, i / 256);
            assert!((0. ..1.).contains(&u));
            counts[(u * 64.) as usize] += 1.;
        }
        let want = n as f64 / 64.;
        let chi2: f64 = counts.iter().map(|c| (c - want).powi(2) / want).sum();
        // 63 degrees of freedom: 99.9 % lie below 103.
        assert!(chi2 < 103., "{chi2}");
    }
}

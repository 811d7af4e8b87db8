//! Blocks of quantized numbers as ggml lays them out.

use half::{bf16, f16};

/// An element type of GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgufType {
    /// f32.
    F32,
    /// f16.
    F16,
    /// bf16.
    BF16,
    /// 32 numbers of 4 bits with a scale.
    Q4_0,
    /// 32 numbers of 4 bits with a scale and a minimum.
    Q4_1,
    /// 32 numbers of 5 bits with a scale.
    Q5_0,
    /// 32 numbers of 5 bits with a scale and a minimum.
    Q5_1,
    /// 32 numbers of 8 bits with a scale.
    Q8_0,
    /// 256 numbers of 4 bits, 32 to a scale and a minimum of 6 bits each.
    Q4K,
    /// 256 numbers of 5 bits, 32 to a scale and a minimum of 6 bits each.
    Q5K,
    /// 256 numbers of 6 bits, 16 to a scale of 8 bits.
    Q6K,
}

impl GgufType {
    /// The type of ggml's number, or ggml's name of a type that is not read.
    pub(super) fn of(number: u32) -> Result<Self, String> {
        const OTHERS: [(u32, &str); 26] = [
            (9, "Q8_1"),
            (10, "Q2_K"),
            (11, "Q3_K"),
            (15, "Q8_K"),
            (16, "IQ2_XXS"),
            (17, "IQ2_XS"),
            (18, "IQ3_XXS"),
            (19, "IQ1_S"),
            (20, "IQ4_NL"),
            (21, "IQ3_S"),
            (22, "IQ2_S"),
            (23, "IQ4_XS"),
            (24, "I8"),
            (25, "I16"),
            (26, "I32"),
            (27, "I64"),
            (28, "F64"),
            (29, "IQ1_M"),
            (4, "Q4_2"),
            (5, "Q4_3"),
            (31, "Q4_0_4_4"),
            (32, "Q4_0_4_8"),
            (33, "Q4_0_8_8"),
            (34, "TQ1_0"),
            (35, "TQ2_0"),
            (39, "MXFP4"),
        ];
        Self::ALL.into_iter().find(|kind| kind.number() == number).ok_or_else(|| {
            let known = OTHERS.into_iter().find(|(other, _)| *other == number);
            known.map_or(format!("type {number}"), |(_, name)| name.to_owned())
        })
    }

    const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// ggml's number of the type.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::BF16 => 30,
        }
    }

    /// The blocks of these numbers; `None` for types that are only read.
    pub(crate) fn quantize(self, numbers: &[f32]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::F32 => out.extend(numbers.iter().flat_map(|x| x.to_le_bytes())),
            Self::F16 => out.extend(numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
            Self::BF16 => out.extend(numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
            Self::Q8_0 => {
                for block in numbers.chunks(32) {
                    let largest = block.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                    let scale = largest / 127.;
                    let inverse = if scale == 0. { 0. } else { 1. / scale };
                    out.extend(f16::from_f32(scale).to_le_bytes());
                    // Saturates: the product may round to a little more than 127.
                    out.extend(block.iter().map(|x| ((x * inverse).round() as i8).cast_unsigned()));
                }
            }
            Self::Q4_0
            | Self::Q4_1
            | Self::Q5_0
            | Self::Q5_1
            | Self::Q4K
            | Self::Q5K
            | Self::Q6K => return None,
        }
        Some(out)
    }

    /// ggml's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Numbers in a block, and its bytes.
    #[must_use]
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Writes the numbers of whole blocks to `out`.
    ///
    /// # Panics
    /// If `out` has another length than the blocks' numbers.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        let (numbers, size) = self.block();
        assert_eq!(bytes.len() / size * numbers, out.len(), "numbers of whole blocks");
        let write: fn(&[u8], &mut [f32]) = match self {
            Self::F32 => |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Self::F16 => |b, out| out[0] = half(b, 0),
            Self::BF16 => |b, out| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Self::Q4_0 => q4_0,
            Self::Q4_1 => q4_1,
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Q8_0 => q8_0,
            Self::Q4K => |b, out| k_quants(b, &[], &b[16..144], out),
            Self::Q5K => |b, out| k_quants(b, &b[16..48], &b[48..176], out),
            Self::Q6K => q6_k,
        };
        for (block, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(numbers)) {
            write(block, out);
        }
    }
}

/// The f16 at byte `at`.
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn q4_0(b: &[u8], out: &mut [f32]) {
    let scale = half(b, 0);
    for (i, &byte) in b[2..18].iter().enumerate() {
        out[i] = (f32::from(byte & 15) - 8.) * scale;
        out[i + 16] = (f32::from(byte >> 4) - 8.) * scale;
    }
}

fn q4_1(b: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(b, 0), half(b, 2));
    for (i, &byte) in b[4..20].iter().enumerate() {
        out[i] = f32::from(byte & 15) * scale + least;
        out[i + 16] = f32::from(byte >> 4) * scale + least;
    }
}

/// The fifth bit of number `i`, as 16 or 0.
fn fifth(high: &[u8], i: usize) -> u8 {
    ((high[i / 8] >> (i % 8)) & 1) << 4
}

fn q5_0(b: &[u8], out: &mut [f32]) {
    let scale = half(b, 0);
    let high = &b[2..6];
    for (i, &byte) in b[6..22].iter().enumerate() {
        out[i] = (f32::from((byte & 15) | fifth(high, i)) - 16.) * scale;
        out[i + 16] = (f32::from((byte >> 4) | fifth(high, i + 16)) - 16.) * scale;
    }
}

fn q5_1(b: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(b, 0), half(b, 2));
    let high = &b[4..8];
    for (i, &byte) in b[8..24].iter().enumerate() {
        out[i] = f32::from((byte & 15) | fifth(high, i)) * scale + least;
        out[i + 16] = f32::from((byte >> 4) | fifth(high, i + 16)) * scale + least;
    }
}

fn q8_0(b: &[u8], out: &mut [f32]) {
    let scale = half(b, 0);
    for (out, &byte) in out.iter_mut().zip(&b[2..34]) {
        *out = f32::from(byte.cast_signed()) * scale;
    }
}

/// Scale and minimum number `j` of 8, of 6 bits each, in 12 bytes.
fn scale_and_least(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        return (packed[j] & 63, packed[j + 4] & 63);
    }
    let scale = (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4);
    (scale, (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
}

/// Q4_K, and with the fifth bits Q5_K.
fn k_quants(b: &[u8], high: &[u8], low: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(b, 0), half(b, 2));
    let packed = &b[4..16];
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (of_scale, of_least) = scale_and_least(packed, j);
        let (scale, least) = (scale * f32::from(of_scale), least * f32::from(of_least));
        for (i, out) in out.iter_mut().enumerate() {
            let byte = low[j / 2 * 32 + i];
            let four = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
            let fifth = high.get(i).map_or(0, |bits| ((bits >> j) & 1) << 4);
            *out = scale * f32::from(four | fifth) - least;
        }
    }
}

fn q6_k(b: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&b[..128], &b[128..192], &b[192..208]);
    let scale = half(b, 208);
    for (i, out) in out.iter_mut().enumerate() {
        // Halves of 128 numbers, each in four quarters of 32.
        let (part, quarter, place) = (i / 128, i % 128 / 32, i % 32);
        let byte = low[part * 64 + quarter % 2 * 32 + place];
        let four = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let two = (high[part * 32 + place] >> (2 * quarter)) & 3;
        let number = f32::from(four | (two << 4)) - 32.;
        *out = scale * f32::from(scales[i / 16].cast_signed()) * number;
    }
}

//! Changes of inputs.

use fastrand::Rng;

/// The longest input, in bytes.
const LONGEST: usize = 1 << 20;

/// Words of the formats that readers know, and values at their limits.
const WORDS: &[&str] = &[
    "null",
    "true",
    "false",
    "NaN",
    "-Infinity",
    "1e999",
    "-1",
    "0",
    "-0.0",
    "1",
    "2147483648",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e-400",
    "0.1",
    "nan",
    "inf",
    "[]",
    "{}",
    "\"\"",
    "[[",
    "]]",
    "{\"",
    "\":",
    ",",
    "\"",
    "'",
    "\\",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{202e}",
    "\u{200d}",
    "é",
    "🚀",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "<",
    ">",
    "=",
    "#",
    "$",
    "%",
    "..",
    "/",
    "../../etc/passwd",
    "/dev/zero",
];

/// Draws changed inputs.
#[derive(Debug)]
pub struct Mutator {
    rng: Rng,
}

impl Mutator {
    /// A generator of this seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed) }
    }

    /// One of several.
    pub fn choose<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.rng.usize(..all.len())]
    }

    /// A changed copy of an input of the pool, with `words` of its format.
    pub fn next(&mut self, pool: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
        let mut input = self.choose(pool).clone();
        // Mostly one change: the rest of the input stays valid.
        let changes = 1 + (self.rng.u32(..) | 1 << 31).trailing_zeros() as usize;
        for _ in 0..changes {
            self.change(&mut input, pool, words);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>], words: &[&str]) {
        let at = self.rng.usize(..=input.len());
        let range = self.range(input.len());
        match self.rng.u8(..16) {
            0 if !input.is_empty() => {
                let at = at.min(input.len() - 1);
                input[at] ^= 1 << self.rng.u8(..8);
            }
            1 if !input.is_empty() => {
                let at = at.min(input.len() - 1);
                input[at] = self.rng.u8(..);
            }
            2 => drop(input.drain(range)),
            3 => input.truncate(at),
            4 => {
                // A piece again, often enough to be deep or long.
                let piece = input[range].to_vec();
                let most = (LONGEST / piece.len().max(1)).min(20_000);
                let times = match self.rng.u8(..8) {
                    0 => most,
                    1 => most.min(300),
                    _ => self.rng.usize(1..8),
                };
                splice(input, at, &piece.repeat(times));
            }
            5 => {
                let other = self.choose(pool);
                let range = self.range(other.len());
                splice(input, at, &other[range]);
            }
            6 => {
                let other = self.choose(pool);
                let from = self.rng.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 | 8 => self.number(input),
            9 => {
                // A number of the machine, as lengths and offsets of binary formats are.
                let number = match self.rng.u8(..6) {
                    0 => 0,
                    1 => u64::MAX,
                    2 => 1 << self.rng.u32(..64),
                    3 => (1 << self.rng.u32(..64)) - 1,
                    4 => input.len() as u64,
                    _ => self.rng.u64(..1000),
                };
                let bytes = number.to_le_bytes();
                let width = *self.choose(&[1, 2, 4, 8]);
                let end = (at + width).min(input.len());
                input.splice(at.min(end)..end, bytes[..width].iter().copied());
            }
            10 => input.splice(range, []).for_each(drop),
            11 if !words.is_empty() => {
                let word = *self.choose(words);
                input.splice(range, word.bytes());
            }
            12 | 13 if !words.is_empty() => {
                let word = *self.choose(words);
                splice(input, at, word.as_bytes());
            }
            14 => {
                let word = *self.choose(WORDS);
                input.splice(range, word.bytes());
            }
            _ => {
                let word = *self.choose(WORDS);
                splice(input, at, word.as_bytes());
            }
        }
    }

    /// Replaces a number that is written in digits.
    fn number(&mut self, input: &mut Vec<u8>) {
        let starts: Vec<usize> = (0..input.len())
            .filter(|&at| {
                input[at].is_ascii_digit() && (at == 0 || !input[at - 1].is_ascii_digit())
            })
            .take(4096)
            .collect();
        if starts.is_empty() {
            return;
        }
        let start = *self.choose(&starts);
        let digits = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let word = *self.choose(&WORDS[3..18]);
        input.splice(start..start + digits, word.bytes());
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.rng.usize(..=length);
        let most = if self.rng.bool() { 8 } else { length };
        let end = start + self.rng.usize(..=most.min(length - start));
        start..end
    }
}

fn splice(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    if input.len() + piece.len() <= LONGEST {
        input.splice(at..at, piece.iter().copied());
    }
}

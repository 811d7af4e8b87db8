//! Lengths of rows, for the benchmarks.

use std::str::FromStr;

use rlaif_core::Seed;

use crate::command::error::CommandError;

/// One length for all rows (`64`), one for each (`64,101,..`), or lengths drawn evenly from a range
/// (`8-256`).
#[derive(Debug, Clone)]
pub enum BenchLengths {
    /// The length of all rows.
    Same(usize),
    /// The length of each row.
    Each(Vec<usize>),
    /// The shortest and the longest.
    Range(usize, usize),
}

impl FromStr for BenchLengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.trim().parse() {
            Ok(0) => Err("a length is at least 1".to_owned()),
            Ok(n) => Ok(n),
            Err(_) => Err(format!("`{text}` is not a length; write 64, 64,101,.. or 8-256")),
        };
        if let Some((low, high)) = text.split_once('-') {
            let (low, high) = (number(low)?, number(high)?);
            return if low <= high {
                Ok(Self::Range(low, high))
            } else {
                Err(format!("{low} is above {high}"))
            };
        }
        let each = text.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
        Ok(if let [same] = each[..] { Self::Same(same) } else { Self::Each(each) })
    }
}

impl BenchLengths {
    /// Lengths of `rows` rows; `seed` and `flag` determine the random ones.
    pub(super) fn of(
        &self,
        flag: &'static str,
        rows: usize,
        seed: Seed,
    ) -> Result<Vec<usize>, CommandError> {
        match self {
            Self::Same(length) => Ok(vec![*length; rows]),
            Self::Each(lengths) if lengths.len() == rows => Ok(lengths.clone()),
            Self::Each(lengths) => Err(CommandError::setting(
                flag,
                format!("{} lengths for {rows} rows", lengths.len()),
                "one length, one for each row, or a range",
            )),
            Self::Range(low, high) => {
                let span = (high - low + 1) as u64;
                let draw = |row| low + (seed.derive(flag, row).get() % span) as usize;
                Ok((0..rows as u64).map(draw).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_one_each_or_drawn() {
        let of = |text: &str, rows| {
            text.parse::<BenchLengths>().unwrap().of("prompt-len", rows, Seed::new(1))
        };
        assert_eq!(of("7", 3).unwrap(), [7, 7, 7]);
        assert_eq!(of("7,8,9", 3).unwrap(), [7, 8, 9]);
        assert!(of("7,8", 3).is_err());
        let drawn = of("8-256", 400).unwrap();
        assert!(drawn.iter().all(|length| (8..=256).contains(length)));
        assert!(drawn.iter().any(|&length| length > 200) && drawn.iter().any(|&n| n < 60));
        for wrong in ["", "0", "x", "9-8", "3,", "1-2-3", "-3"] {
            assert!(wrong.parse::<BenchLengths>().is_err(), "{wrong}");
        }
    }
}

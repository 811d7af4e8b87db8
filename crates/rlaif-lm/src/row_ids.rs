//! Numbers of rows, from which their random numbers are derived.

use std::collections::HashMap;

use rlaif_core::Seed;

/// Gives rows numbers by the ids of their records, so that the tokens sampled for a row do not
/// depend on its place in the batch. The second response to a record gets another number than the
/// first.
///
/// ```
/// use rlaif_lm::RowIds;
/// let mut ids = RowIds::default();
/// let [first, second] = [ids.of("a"), ids.of("a")];
/// assert_ne!(first, second);
/// let mut others = RowIds::default();
/// assert_ne!(others.of("b"), first);
/// assert_eq!((others.of("a"), others.of("a")), (first, second));
/// ```
#[derive(Debug, Default)]
pub struct RowIds<'a>(HashMap<&'a str, u64>);

impl<'a> RowIds<'a> {
    /// The number of the next row of the record with this id.
    pub fn of(&mut self, record: &'a str) -> u64 {
        let times = self.0.entry(record).or_insert(0);
        *times += 1;
        Seed::new(0).derive(record, *times).get()
    }

    /// The number of a row that has no record, such as the question of a judge: it depends only on
    /// its tokens, and on the number of the sample.
    ///
    /// ```
    /// use rlaif_lm::RowIds;
    /// assert_eq!(RowIds::of_tokens(&[3, 4], 0), RowIds::of_tokens(&[3, 4], 0));
    /// assert_ne!(RowIds::of_tokens(&[3, 4], 0), RowIds::of_tokens(&[3, 4], 1));
    /// assert_ne!(RowIds::of_tokens(&[3, 4], 0), RowIds::of_tokens(&[4, 3], 0));
    /// ```
    pub fn of_tokens(ids: &[u32], sample: u32) -> u64 {
        let start = Seed::new(u64::from(sample));
        ids.iter().fold(start, |seed, &id| seed.derive("token", u64::from(id))).get()
    }
}

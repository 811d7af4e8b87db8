//! Checks of a classifier.

use rlaif_lm::{Forward, LmError, Padding, SequenceClassifier, TokenBatch};
use rlaif_models::Classifier;
use tch::no_grad;

use super::{
    check::{Check, rounding},
    peer::{Peer, PeerTask},
    policy::{Tell, alone, compared, differing, in_order, reversed},
};
use crate::command::{error::CommandError, matrix::rows_of};

/// Logits of each row, computed together.
fn logits(
    classifier: &Classifier,
    rows: &[Vec<u32>],
    padding: Padding,
) -> Result<Vec<Vec<f32>>, LmError> {
    let batch = TokenBatch::collate(rows.to_vec(), classifier.spec(), padding)?;
    Ok(rows_of(&no_grad(|| classifier.logits(&batch, None, Forward::default()))?))
}

/// Runs the checks.
pub(super) fn checks(
    classifier: &Classifier,
    rows: &[Vec<u32>],
    peer: Option<&Peer<'_>>,
    tell: Tell<'_>,
) -> Result<(), CommandError> {
    let bound = rounding(classifier.spec().kind);
    let right = |rows: &[Vec<u32>]| logits(classifier, rows, Padding::Right);
    let together = right(rows)?;
    let check = |name, about, got: &[Vec<f32>]| Check {
        name,
        about,
        largest: Some(compared(got, &together)),
        bound,
        unit: "logits",
        note: None,
    };
    tell(check("batch", "logits of rows alone, and together", &alone(rows, right)?));
    let backwards = in_order(right(&reversed(rows))?);
    tell(check("order", "logits of rows in order, and in reverse", &backwards));
    // A longer row gives all others more padding.
    let mut longer: Vec<Vec<u32>> = rows.to_vec();
    longer.push(rows.iter().flatten().copied().take(longest(classifier, rows)).collect());
    let mut padded = right(&longer)?;
    padded.truncate(rows.len());
    tell(check("padding", "logits with padding, and with more padding", &padded));
    tell(Check {
        bound: 0.,
        unit: "numbers that differ",
        largest: Some(differing(&right(rows)?, &together) as f64),
        ..check("repeated", "logits of the same pass, twice", &together)
    });
    if let Some(peer) = peer {
        let rows: Vec<_> = rows.iter().map(|row| (row.clone(), Vec::new())).collect();
        let (version, theirs) = peer.ask(PeerTask::Classifier, classifier.spec(), &rows)?;
        tell(Check {
            note: Some(version),
            ..check("transformers", "logits of rlaif, and of transformers", &theirs)
        });
    }
    Ok(())
}

/// Length of a row that is longer than all others, within the context.
fn longest(classifier: &Classifier, rows: &[Vec<u32>]) -> usize {
    let most = rows.iter().map(Vec::len).max().unwrap_or(1);
    classifier.spec().context.map_or(2 * most, |context| (2 * most).min(context))
}

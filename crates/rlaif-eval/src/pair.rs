//! Pairs of responses before and after, by prompt.

use std::collections::{BTreeSet, HashMap};

use rlaif_core::Sample;

use crate::EvalError;

/// One prompt, and the places of its responses on either side; the i-th before goes with the i-th
/// after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PromptPair {
    pub(crate) before: Vec<usize>,
    pub(crate) after: Vec<usize>,
}

/// Prompts in the order of `before`, paired by id.
///
/// # Errors
/// [`EvalError::PromptsDiffer`], [`EvalError::PromptTextDiffers`], [`EvalError::ResponsesDiffer`].
pub(crate) fn pair_up(before: &[Sample], after: &[Sample]) -> Result<Vec<PromptPair>, EvalError> {
    let mut pairs: Vec<PromptPair> = Vec::new();
    let mut place: HashMap<&str, usize> = HashMap::new();
    for (row, sample) in before.iter().enumerate() {
        let at = *place.entry(&sample.record.id).or_insert_with(|| {
            pairs.push(PromptPair { before: Vec::new(), after: Vec::new() });
            pairs.len() - 1
        });
        pairs[at].before.push(row);
    }
    let mut only_after: BTreeSet<&str> = BTreeSet::new();
    for (row, sample) in after.iter().enumerate() {
        let id = sample.record.id.as_str();
        match place.get(id) {
            Some(&at) => pairs[at].after.push(row),
            None => {
                only_after.insert(id);
            }
        }
    }
    let id = |pair: &PromptPair| &before[pair.before[0]].record.id;
    let only_before: Vec<&String> =
        pairs.iter().filter(|pair| pair.after.is_empty()).map(id).collect();
    if !only_before.is_empty() || !only_after.is_empty() {
        return Err(EvalError::PromptsDiffer {
            only_before: only_before.len(),
            first_before: only_before.first().map(|id| (*id).clone()),
            only_after: only_after.len(),
            first_after: only_after.first().map(|id| (*id).to_owned()),
        });
    }
    for pair in &pairs {
        if pair.before.len() != pair.after.len() {
            return Err(EvalError::ResponsesDiffer {
                id: id(pair).clone(),
                before: pair.before.len(),
                after: pair.after.len(),
            });
        }
        let text = &before[pair.before[0]].record.prompt;
        let rows = pair.before.iter().map(|&row| &before[row].record);
        for other in rows.chain(pair.after.iter().map(|&row| &after[row].record)) {
            if other.prompt != *text {
                let same = text.chars().zip(other.prompt.chars()).take_while(|(a, b)| a == b);
                return Err(EvalError::PromptTextDiffers {
                    id: id(pair).clone(),
                    at: same.count(),
                });
            }
        }
    }
    Ok(pairs)
}

//! Tensors that a checkpoint has in another place than under their own names.

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc};

use rlaif_checkpoint::Checkpoint;
use tch::Tensor;

use super::stored::{filled, finite, read_if_present};
use crate::error::{ModelError, TensorProblem};

/// The tensors that a checkpoint has in another place, by their names in the model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Rc<RefCell<BTreeMap<String, Place>>>);

impl Places {
    pub(super) fn get(&self, name: &str) -> Option<Place> {
        self.0.borrow().get(name).cloned()
    }

    pub(super) fn insert(&self, name: String, place: Place) {
        self.0.borrow_mut().insert(name, place);
    }

    /// Reads a tensor of any shape to the CPU; `None` if it does not exist, or has integers.
    pub(crate) fn read(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
    ) -> Result<Option<Tensor>, ModelError> {
        match self.get(name) {
            None => read_if_present(checkpoint, name),
            Some(Place::Renamed(other)) => read_if_present(checkpoint, &other),
            Some(Place::Reported) => Ok(None),
            Some(Place::Rows(rows)) => {
                rows.read(checkpoint, &rows.size).map(Some).map_err(|problem| ModelError::Tensors {
                    file: checkpoint.origin().to_owned(),
                    problems: vec![problem],
                })
            }
        }
    }
}

/// The place of a model's tensor in a checkpoint.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// Under another name.
    Renamed(String),
    /// Rows of one matrix of a stack.
    Rows(Rows),
    /// In a stack that is missing or has another shape, which has been reported.
    Reported,
}

/// Rows of one matrix of a tensor `[matrices, rows, columns]`.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// The tensor's name in the checkpoint.
    pub(super) stack: String,
    pub(super) matrix: usize,
    pub(super) rows: Range<usize>,
    /// Number of rows and of columns.
    pub(super) size: [i64; 2],
}

impl Rows {
    /// Reads the rows, of this shape, to the CPU.
    pub(super) fn read(
        &self,
        checkpoint: &Checkpoint,
        shape: &[i64],
    ) -> Result<Tensor, TensorProblem> {
        let Self { stack, matrix, rows, .. } = self;
        let name = format!("{stack}[{matrix}]");
        let expected = shape.to_vec();
        let Some(info) = checkpoint.tensors().get(stack) else {
            return Err(TensorProblem::Missing { name, shape: expected });
        };
        let read =
            |bytes: &mut [u8]| checkpoint.read_rows_into(stack, *matrix, rows.clone(), bytes);
        let tensor = filled(checkpoint, stack, shape, info.dtype, read).map_err(|source| {
            TensorProblem::Unreadable { name: name.clone(), source: Box::new(source) }
        })?;
        finite(checkpoint, stack, &name, &tensor)?;
        Ok(tensor)
    }
}

//! Tensors that hold the matrices of several layers.

use std::ops::Range;

use super::{
    ModelTensors, TensorTree,
    places::{Place, Rows},
    stored::{checked, stored},
};
use crate::error::TensorProblem;

/// A tensor `[matrices, rows, columns]` that a checkpoint may have in place of matrices.
#[derive(Clone, Copy)]
pub(crate) struct Stack<'a> {
    /// The tensor's name at its node.
    pub(crate) key: &'a str,
    /// The layers of one matrix, one below the other with equal numbers of rows.
    pub(crate) layers: &'a [&'static str],
    /// Matrices, rows, columns.
    pub(crate) size: [i64; 3],
}

impl Stack<'_> {
    /// The rows of each layer's weight, under its name at `node`.
    fn parts(&self, node: &TensorTree<'_>) -> Vec<(String, usize, Range<usize>)> {
        let [matrices, rows, _] = self.size.map(|size| usize::try_from(size).unwrap_or(0));
        let height = rows / self.layers.len();
        let of_matrix = |matrix| {
            let layers = (0..).zip(self.layers);
            layers.map(move |(i, layer)| {
                let name = node.at(matrix).at(layer).at("weight").path;
                (name, matrix, i * height..(i + 1) * height)
            })
        };
        (0..matrices).flat_map(of_matrix).collect()
    }
}

impl TensorTree<'_> {
    /// Declares that a checkpoint may have the layers at this node, numbered by matrix, in stacks at the node
    /// `other`. Each stack or its layers must be there, and not both.
    pub(crate) fn stacked(&self, other: &TensorTree<'_>, stacks: &[Stack<'_>]) {
        let source = self.source;
        let path = |stack: &Stack<'_>| other.at(stack.key).path;
        if !stacks.iter().any(|stack| source.is_in_file(&path(stack))) {
            return;
        }
        for stack in stacks {
            source.find_stack(&path(stack), stack, stack.parts(self));
        }
    }

    /// Declares that a checkpoint may have this node's weight at the node `other`.
    pub(crate) fn renamed(&self, other: &TensorTree<'_>) {
        let [own, other] = [self, other].map(|node| node.at("weight").path);
        if !self.source.is_in_file(&own) && self.source.is_in_file(&other) {
            self.source.places.insert(own, Place::Renamed(other));
        }
    }
}

impl ModelTensors<'_> {
    /// `true` if there is a checkpoint, and it contains this tensor.
    fn is_in_file(&self, name: &str) -> bool {
        self.is_of_files() && self.has(name)
    }

    fn find_stack(&self, path: &str, stack: &Stack<'_>, parts: Vec<(String, usize, Range<usize>)>) {
        let Some(checkpoint) = self.file() else { return };
        let apart: Vec<&String> =
            parts.iter().map(|(name, ..)| name).filter(|name| self.has(name)).collect();
        if !self.has(path) && !apart.is_empty() {
            return;
        }
        let found = checked(checkpoint, path, &stack.size).map(|(stored, _)| stored.to_owned());
        let found = match apart.first() {
            Some(&name) => {
                Err(TensorProblem::TwoForms { name: name.clone(), other: path.to_owned() })
            }
            None => found,
        };
        let mut state = self.state.borrow_mut();
        let all = apart.into_iter().map(String::as_str).chain([path]);
        state.used.extend(all.filter_map(|name| Some(stored(checkpoint, name)?.0.to_owned())));
        for (name, matrix, rows) in parts {
            let size = [rows.len() as i64, stack.size[2]];
            let place = match &found {
                Ok(stack) => Place::Rows(Rows { stack: stack.clone(), matrix, rows, size }),
                Err(_) => Place::Reported,
            };
            self.places.insert(name, place);
        }
        state.problems.extend(found.err());
    }
}

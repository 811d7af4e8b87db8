//! The part of a model beside its layers.

use rlaif_lm::{Forward, LmError, LmSpec, Parameters};

use crate::{
    adapter::{AdapterSet, Pass},
    config::Config,
    layers::{Embedding, Linear},
};

/// Description, parameters and adapters of a model.
#[derive(Debug)]
pub struct Frame {
    pub(crate) spec: LmSpec,
    pub(crate) config: Config,
    pub(crate) parameters: Parameters,
    pub(crate) adapters: AdapterSet,
}

impl Frame {
    /// Without adapters.
    pub fn new(spec: LmSpec, config: Config, parameters: Parameters) -> Self {
        Self { spec, config, parameters, adapters: AdapterSet::default() }
    }

    /// Sizes, limits and special tokens.
    pub fn spec(&self) -> &LmSpec {
        &self.spec
    }

    /// The parameters, adapters included.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The forward pass with its adapter looked up.
    ///
    /// # Errors
    /// [`LmError::UnknownAdapter`]; [`LmError::AdapterMerged`] if another one is merged.
    pub fn resolve(&self, forward: Forward<'_>) -> Result<Pass, LmError> {
        self.adapters.resolve(forward)
    }

    /// The parts that adapters change: this, and the linear layers of the trunk and of the head.
    pub fn parts<'a>(
        &'a mut self,
        linears: Vec<&'a mut Linear>,
        head: Vec<&'a mut Linear>,
    ) -> Parts<'a> {
        let Self { spec, config, parameters, adapters } = self;
        let untied = vec![("tie_word_embeddings", false)];
        let (words, tables) = (Vec::new(), Vec::new());
        Parts { linears, head, words, tables, spec, config, parameters, adapters, untied }
    }
}

/// The parts of a model that adapters change.
pub struct Parts<'a> {
    /// The linear layers of the trunk.
    pub(crate) linears: Vec<&'a mut Linear>,
    /// The layers of the head: vocabulary or classification. `all-linear` leaves them out.
    pub(crate) head: Vec<&'a mut Linear>,
    /// The embeddings of tokens.
    pub(crate) words: Vec<&'a mut Linear>,
    /// Other embeddings.
    pub(crate) tables: Vec<&'a mut Linear>,
    pub(crate) spec: &'a mut LmSpec,
    pub(crate) config: &'a mut Config,
    pub(crate) parameters: &'a mut Parameters,
    pub(crate) adapters: &'a mut AdapterSet,
    /// Fields of config.json, and their values once the head has a matrix of its own.
    pub(crate) untied: Vec<(&'static str, bool)>,
}

impl<'a> Parts<'a> {
    /// Adds the embeddings of tokens, and those of positions or segments.
    #[must_use]
    pub fn embeddings(
        mut self,
        words: Vec<&'a mut Embedding>,
        others: Vec<&'a mut Embedding>,
    ) -> Self {
        self.words.extend(words.into_iter().map(|embedding| &mut embedding.table));
        self.tables.extend(others.into_iter().map(|embedding| &mut embedding.table));
        self
    }

    /// All layers that adapters can be put on, embeddings first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Linear> {
        let all = [&self.words, &self.tables, &self.linears, &self.head];
        all.into_iter().flatten().map(|layer| &**layer)
    }

    /// The same, to change them.
    pub(crate) fn layers_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let Self { words, tables, linears, head, .. } = self;
        let all = words.iter_mut().chain(tables).chain(linears).chain(head);
        all.map(|layer| &mut **layer)
    }

    /// `true` for a layer of [`Self::layers`] by its number that is of the trunk and linear.
    pub(crate) fn is_of_trunk(&self, number: usize) -> bool {
        let first = self.words.len() + self.tables.len();
        (first..first + self.linears.len()).contains(&number)
    }
}

impl std::fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let paths = |layers: &[&mut Linear]| {
            layers.iter().map(|layer| layer.path.clone()).collect::<Vec<_>>()
        };
        f.debug_struct("Parts")
            .field("linears", &paths(&self.linears))
            .field("head", &paths(&self.head))
            .field("words", &paths(&self.words))
            .field("tables", &paths(&self.tables))
            .finish_non_exhaustive()
    }
}

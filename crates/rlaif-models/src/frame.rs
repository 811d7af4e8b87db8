//! The part of a model beside its layers.

use rlaif_lm::{Forward, LmError, LmSpec, Parameters};

use crate::{
    adapter::{AdapterSet, Pass},
    config::Config,
    layers::Linear,
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
        let Self { parameters, adapters, .. } = self;
        Parts { linears, head, parameters, adapters }
    }
}

/// The parts of a model that adapters change.
pub struct Parts<'a> {
    /// The linear layers of the trunk.
    pub(crate) linears: Vec<&'a mut Linear>,
    /// The layers of the head: vocabulary or classification. `all-linear` leaves them out.
    pub(crate) head: Vec<&'a mut Linear>,
    pub(crate) parameters: &'a mut Parameters,
    pub(crate) adapters: &'a mut AdapterSet,
}

impl std::fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let paths = |layers: &[&mut Linear]| {
            layers.iter().map(|layer| layer.path.clone()).collect::<Vec<_>>()
        };
        f.debug_struct("Parts")
            .field("linears", &paths(&self.linears))
            .field("head", &paths(&self.head))
            .finish_non_exhaustive()
    }
}

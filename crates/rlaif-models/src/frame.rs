//! What every model has beside its layers.

use rlaif_lm::{LmSpec, Parameters};

use crate::{
    adapt::{AdapterSet, Parts},
    config::Config,
    layers::Linear,
};

/// Description, parameters and adapters of a model.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) spec: LmSpec,
    pub(crate) config: Config,
    pub(crate) parameters: Parameters,
    pub(crate) adapters: AdapterSet,
}

impl Frame {
    pub(crate) fn new(spec: LmSpec, config: Config, parameters: Parameters) -> Self {
        Self { spec, config, parameters, adapters: AdapterSet::default() }
    }

    /// What adapters touch: this, and the linear layers of the trunk and of the head.
    pub(crate) fn parts<'a>(
        &'a mut self,
        linears: Vec<&'a mut Linear>,
        head: Vec<&'a mut Linear>,
    ) -> Parts<'a> {
        let Self { parameters, adapters, .. } = self;
        Parts { linears, head, parameters, adapters }
    }
}

//! The loss of routers as a setting of a training pass.

use rlaif_core::BadSetting;
use tch::Tensor;

use crate::{forward::Forward, routers::Routers};

/// The loss of routers in one training pass, which is added with a coefficient; disabled if that is 0.
///
/// ```
/// use rlaif_lm::{Forward, RouterLoss};
/// assert_eq!(RouterLoss::new(0.).collecting(Forward::default()), Forward::default());
/// assert!(RouterLoss::check(-1.).is_err());
/// ```
#[derive(Debug)]
pub struct RouterLoss {
    coefficient: f64,
    routers: Routers,
}

impl RouterLoss {
    /// Checks the setting `router_aux_loss_coef`.
    ///
    /// # Errors
    /// [`BadSetting`] for a coefficient that is not finite, or below 0.
    pub fn check(coefficient: f64) -> Result<(), BadSetting> {
        if coefficient.is_finite() && coefficient >= 0. {
            return Ok(());
        }
        Err(BadSetting::new("router_aux_loss_coef", coefficient, "a number of at least 0"))
    }

    /// The loss with this coefficient, for one pass.
    pub fn new(coefficient: f64) -> Self {
        Self { coefficient, routers: Routers::default() }
    }

    /// The forward pass whose routers are collected.
    pub fn collecting<'a>(&'a self, forward: Forward<'a>) -> Forward<'a> {
        let routers = (self.coefficient != 0.).then_some(&self.routers);
        Forward { routers, ..forward }
    }

    /// The loss of the pass without its coefficient, a scalar with its graph; `None` if it is disabled.
    ///
    /// # Errors
    /// [`BadSetting`] of `router_aux_loss_coef` if the model has no router.
    pub fn of_pass(&self) -> Result<Option<Tensor>, BadSetting> {
        if self.coefficient == 0. {
            return Ok(None);
        }
        let expected = "0: the model has no experts";
        let none = || BadSetting::new("router_aux_loss_coef", self.coefficient, expected);
        self.routers.loss().ok_or_else(none).map(Some)
    }
}

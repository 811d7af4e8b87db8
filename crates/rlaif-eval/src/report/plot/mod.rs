//! Plots as SVG. Colours are the page's, so that they follow its light and dark.

mod forest;
mod frame;
mod histogram;
mod line;
mod lines;
mod tradeoff;

pub(crate) use forest::{Whisker, forest};
pub(crate) use histogram::histogram;
pub(crate) use line::line;
pub(crate) use lines::{Series, lines, series};
pub(crate) use tradeoff::{Mark, scatter};

//! Axes.

use maud::{Markup, html};

use crate::report::words;

/// Map from numbers to positions along one axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Maps the numbers `low..=high` to the positions `from..=to`. An empty range is widened.
    pub(super) fn new(low: f64, high: f64, from: f64, to: f64) -> Self {
        let (low, high) = if high > low {
            (low, high)
        } else {
            let room = if low == 0. { 1. } else { low.abs() / 10. };
            ((low - room).max(f64::MIN), (low + room).min(f64::MAX))
        };
        Self { low, high, from, to }
    }

    /// The same with a margin at either end.
    pub(super) fn roomy(low: f64, high: f64, from: f64, to: f64) -> Self {
        let scale = Self::new(low, high, from, to);
        let room = scale.part(0.06);
        let (low, high) = ((scale.low - room).max(f64::MIN), (scale.high + room).min(f64::MAX));
        Self { low, high, ..scale }
    }

    /// This share of the range, which itself may be larger than any number.
    fn part(self, share: f64) -> f64 {
        match self.high - self.low {
            range if range.is_finite() => range * share,
            _ => self.high * share - self.low * share,
        }
    }

    pub(super) fn place(self, value: f64) -> f64 {
        let range = self.high - self.low;
        let share = if range.is_finite() {
            (value - self.low) / range
        } else {
            (value / 4. - self.low / 4.) / self.part(0.25)
        };
        self.from + share * (self.to - self.from)
    }

    /// Round numbers, about `count` of them.
    pub(super) fn ticks(self, count: usize) -> Vec<f64> {
        let raw = match (self.high - self.low) / count as f64 {
            raw if raw.is_finite() => raw,
            _ => self.part(1. / count as f64),
        };
        let magnitude = 10f64.powf(raw.log10().floor());
        // Heckbert's nice numbers, rounded.
        let step = magnitude
            * match raw / magnitude {
                factor if factor < 1.5 => 1.,
                factor if factor < 3. => 2.,
                factor if factor < 7. => 5.,
                _ => 10.,
            };
        let first = (self.low / step).ceil();
        (0..=2 * count)
            .map(|at| (first + at as f64) * step)
            .take_while(|tick| tick.is_finite() && *tick <= self.high + step * 1e-9)
            // Removes -0 and the rounding error near 0.
            .map(|tick| if tick.abs() < step * 1e-9 { 0. } else { tick })
            .collect()
    }
}

/// The numbers at the ticks, with just enough digits to tell them apart.
pub(super) fn labels(ticks: &[f64]) -> Vec<String> {
    let largest = ticks.iter().fold(0f64, |most, tick| most.max(tick.abs()));
    if largest >= 1e6 || (largest > 0. && largest < 1e-3) {
        return ticks.iter().map(|tick| words::number(*tick)).collect();
    }
    (0..=6)
        .map(|decimals| ticks.iter().map(|tick| format!("{tick:.decimals$}")).collect())
        .find(|labels: &Vec<String>| {
            labels.iter().zip(ticks).all(|(label, tick)| {
                label.parse::<f64>().is_ok_and(|read| (read - tick).abs() <= largest * 1e-6)
            })
        })
        .unwrap_or_else(|| ticks.iter().map(|tick| words::number(*tick)).collect())
}

/// A position with as many digits as a screen can show.
pub(super) fn at(place: f64) -> String {
    format!("{place:.1}")
}

/// Size and margins of the drawing area.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Frame {
    /// Small enough to be read at its own size on a phone.
    pub(super) const SMALL: Self =
        Self { width: 360., height: 210., left: 46., right: 350., top: 12., bottom: 182. };

    /// Both axes with their ticks.
    pub(super) fn axes(&self, x: Scale, y: Scale) -> Markup {
        let (x_ticks, y_ticks) = (x.ticks(5), y.ticks(4));
        html! {
            @for (tick, label) in y_ticks.iter().zip(labels(&y_ticks)) {
                @let place = at(y.place(*tick));
                line.axis x1=(at(self.left)) x2=(at(self.right)) y1=(place) y2=(place) {}
                text.tick x=(at(self.left - 5.)) y=(place) dy="3.5" text-anchor="end" { (label) }
            }
            (self.x_axis(x, &x_ticks))
        }
    }

    /// Only the lower axis.
    pub(super) fn x_axis(&self, x: Scale, ticks: &[f64]) -> Markup {
        let bottom = at(self.bottom);
        html! {
            line.axis x1=(at(self.left)) x2=(at(self.right)) y1=(bottom) y2=(bottom) {}
            @for (tick, label) in ticks.iter().zip(labels(ticks)) {
                @let place = at(x.place(*tick));
                line.axis x1=(place) x2=(place) y1=(bottom) y2=(at(self.bottom + 4.)) {}
                text.tick x=(place) y=(at(self.bottom + 15.)) text-anchor="middle" { (label) }
            }
        }
    }

    /// The drawing, with its description in words.
    pub(super) fn svg(&self, description: &str, drawing: &Markup) -> Markup {
        html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (self.width) " " (self.height) }
                role="img" aria-label=(words::one_line(description)) { (drawing) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(
            Scale::new(0., 1., 0., 100.).ticks(5),
            [0., 0.2, 0.4, 0.6000000000000001, 0.8, 1.]
        );
        assert_eq!(
            labels(&Scale::new(0., 1., 0., 1.).ticks(4)),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(labels(&[-0.25, 0., 0.25]), ["-0.25", "0.00", "0.25"]);
        for (low, high) in [(-3e-7, 2e-7), (5., 5.), (0., 0.), (-1e9, 1e9), (17., 23.)] {
            let scale = Scale::roomy(low, high, 0., 300.);
            let ticks = scale.ticks(5);
            assert!((1..=12).contains(&ticks.len()), "{ticks:?}");
            assert!(ticks.iter().all(|t| (-0.1..=300.1).contains(&scale.place(*t))), "{ticks:?}");
        }
    }
}

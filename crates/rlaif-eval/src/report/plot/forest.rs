use maud::{Markup, html};

use super::frame::{Frame, Scale, at};
use crate::report::words;
use crate::stats::Interval;

/// One line of a forest plot.
pub(crate) struct Whisker {
    pub(crate) label: String,
    /// Number of prompts.
    pub(crate) n: usize,
    pub(crate) mean: f64,
    pub(crate) ci95: Option<Interval>,
    /// `good`, `bad` or `plain`.
    pub(crate) tone: &'static str,
}

/// Differences with their intervals, one below the other, around zero.
pub(crate) fn forest(name: &str, rows: &[Whisker]) -> Markup {
    const ROW: f64 = 24.;
    let bottom = 8. + ROW * rows.len() as f64;
    let frame =
        Frame { width: 360., height: bottom + 26., left: 150., right: 350., top: 4., bottom };
    let ends = || {
        let of = |row: &Whisker| {
            let ci = row.ci95.unwrap_or(Interval { low: row.mean, high: row.mean });
            [ci.low, ci.high, row.mean]
        };
        rows.iter().flat_map(of).chain([0.])
    };
    let low = ends().fold(f64::INFINITY, f64::min);
    let high = ends().fold(f64::NEG_INFINITY, f64::max);
    let x = Scale::roomy(low, high, frame.left, frame.right);
    let zero = at(x.place(0.));
    frame.svg(
        &format!("Change of {name} with its 95 % interval, by slice"),
        &html! {
            (frame.x_axis(x, &x.ticks(3)))
            line.zero x1=(zero) x2=(zero) y1=(at(frame.top)) y2=(at(frame.bottom)) {}
            @for (place, row) in rows.iter().enumerate() {
                @let middle = at(8. + ROW * (place as f64 + 0.5));
                text x=(at(frame.left - 8.)) y=(middle) dy="3.5" text-anchor="end" {
                    (shortened(&row.label)) " (" (row.n) ")"
                    title { (words::one_line(&row.label)) }
                }
                @if let Some(ci) = row.ci95 {
                    line class={ "whisker " (row.tone) } x1=(at(x.place(ci.low)))
                        x2=(at(x.place(ci.high))) y1=(middle) y2=(middle) {}
                }
                circle class={ "dot-" (row.tone) } cx=(at(x.place(row.mean))) cy=(middle) r="3.5" {}
            }
        },
    )
}

/// The label, shortened to fit beside the plot together with the number of prompts.
fn shortened(label: &str) -> String {
    let label = words::one_line(label);
    match words::clip(&label, 16) {
        (_, 0) => label,
        (shown, _) => format!("{}…", shown.trim_end()),
    }
}

use maud::{Markup, html};

use super::frame::{Frame, Scale, at};
use crate::estimate::{Estimate, Standing};
use crate::report::words;
use crate::stats::Interval;

/// One point of the plot.
pub(crate) struct Mark<'a> {
    /// The label beside the point: its number in the table.
    pub(crate) number: String,
    pub(crate) label: &'a str,
    pub(crate) x: Estimate,
    pub(crate) y: Estimate,
    pub(crate) standing: Standing,
    pub(crate) is_baseline: bool,
}

/// Two numbers of each policy against each other, with their intervals, and the Pareto frontier.
pub(crate) fn scatter(x_title: &str, y_title: &str, marks: &[Mark<'_>]) -> Markup {
    let frame = Frame { width: 560., height: 400., left: 64., right: 546., top: 14., bottom: 344. };
    let bounds = |pick: fn(&Mark<'_>) -> Estimate| {
        let ends = marks.iter().map(pick).flat_map(|e| {
            let Interval { low, high } = e.ci95.unwrap_or(Interval { low: e.mean, high: e.mean });
            [low, high, e.mean]
        });
        ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    };
    if marks.is_empty() {
        return html! {};
    }
    let ((left, right), (low, high)) = (bounds(|m| m.x), bounds(|m| m.y));
    let x = Scale::roomy(left, right, frame.left, frame.right);
    let y = Scale::roomy(low, high, frame.bottom, frame.top);
    let mut frontier: Vec<(f64, f64)> = marks
        .iter()
        .filter(|mark| mark.standing == Standing::Frontier)
        .map(|mark| (x.place(mark.x.mean), y.place(mark.y.mean)))
        .collect();
    frontier.sort_by(|a, b| a.0.total_cmp(&b.0));
    let path: Vec<String> =
        frontier.iter().map(|(x, y)| format!("{},{}", at(*x), at(*y))).collect();
    frame.svg(
        &format!("{y_title} against {x_title}, one point for each policy"),
        &html! {
            (frame.axes(x, y))
            text x=(at(f64::midpoint(frame.left, frame.right))) y=(at(frame.bottom + 40.))
                text-anchor="middle" { (words::one_line(x_title)) }
            text transform={ "translate(14 " (at(f64::midpoint(frame.top, frame.bottom))) ") rotate(-90)" }
                text-anchor="middle" { (words::one_line(y_title)) }
            polyline.frontier points=(path.join(" ")) {}
            @for mark in marks {
                @let (cx, cy) = (x.place(mark.x.mean), y.place(mark.y.mean));
                g {
                    title { (words::one_line(mark.label)) }
                    @if let Some(ci) = mark.x.ci95 {
                        line.whisker x1=(at(x.place(ci.low))) x2=(at(x.place(ci.high))) y1=(at(cy)) y2=(at(cy)) {}
                    }
                    @if let Some(ci) = mark.y.ci95 {
                        line.whisker x1=(at(cx)) x2=(at(cx)) y1=(at(y.place(ci.low))) y2=(at(y.place(ci.high))) {}
                    }
                    @if mark.is_baseline {
                        rect.dot-before x=(at(cx - 4.5)) y=(at(cy - 4.5)) width="9" height="9" {}
                    } @else {
                        circle.dot cx=(at(cx)) cy=(at(cy)) r="5" {}
                    }
                    @if mark.standing == Standing::Frontier {
                        circle.ring cx=(at(cx)) cy=(at(cy)) r="9" {}
                    }
                    text.mark x=(at(cx + 9.)) y=(at(cy - 9.)) { (words::one_line(&mark.number)) }
                }
            }
        },
    )
}

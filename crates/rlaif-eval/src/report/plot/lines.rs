use maud::{Markup, html};

use super::frame::{Frame, Scale, at};

/// Colours of lines. Further lines have them again, with dashes and then with dots.
const COLOURS: usize = 6;

/// The classes of the line at this place: a colour, and dashes from the seventh line on.
pub(crate) fn series(place: usize) -> String {
    let dashes = match place / COLOURS % 3 {
        0 => "",
        1 => " dashed",
        _ => " dotted",
    };
    format!("s{}{dashes}", place % COLOURS)
}

/// A line among several: the run's name, its place among the runs, and step and value of each point.
pub(crate) type Series<'a> = (&'a str, usize, &'a [(f64, f64)]);

/// A number over the steps of training of several runs, on common axes.
pub(crate) fn lines(name: &str, series_of_runs: &[Series<'_>]) -> Markup {
    let frame = Frame::SMALL;
    let bounds = |pick: fn(&(f64, f64)) -> f64| {
        let values = || series_of_runs.iter().flat_map(|(.., points)| points.iter()).map(pick);
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
    };
    let ((left, right), (low, high)) = (bounds(|p| p.0), bounds(|p| p.1));
    if left > right {
        return html! {};
    }
    let x = Scale::new(left, right, frame.left, frame.right);
    let y = Scale::roomy(low, high, frame.bottom, frame.top);
    let place = |p: &(f64, f64)| (at(x.place(p.0)), at(y.place(p.1)));
    let points_of = |points: &[(f64, f64)]| {
        let places = points.iter().map(place).map(|(x, y)| format!("{x},{y}"));
        places.collect::<Vec<_>>().join(" ")
    };
    let runs: Vec<&str> = series_of_runs.iter().map(|(run, ..)| *run).collect();
    frame.svg(
        &format!("{name} over the steps of training of {}", runs.join(", ")),
        &html! {
            (frame.axes(x, y))
            @for (run, place_of_run, points) in series_of_runs {
                @if let [point] = points {
                    @let (cx, cy) = place(point);
                    circle class={ "dot " (series(*place_of_run)) } cx=(cx) cy=(cy) r="3" { title { (run) } }
                } @else {
                    polyline class={ "curve " (series(*place_of_run)) } points=(points_of(points)) { title { (run) } }
                }
            }
        },
    )
}

use maud::{Markup, html};

use super::frame::{Frame, Scale, at};

/// A number over the steps of training.
pub(crate) fn line(name: &str, points: &[(f64, f64)]) -> Markup {
    let frame = Frame::SMALL;
    let bounds = |pick: fn(&(f64, f64)) -> f64| {
        let values = || points.iter().map(pick);
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
    };
    let ((left, right), (low, high)) = (bounds(|p| p.0), bounds(|p| p.1));
    if points.is_empty() {
        return html! {};
    }
    let x = Scale::new(left, right, frame.left, frame.right);
    let y = Scale::roomy(low, high, frame.bottom, frame.top);
    let places: Vec<String> =
        points.iter().map(|p| format!("{},{}", at(x.place(p.0)), at(y.place(p.1)))).collect();
    frame.svg(
        &format!("{name} over the steps of training"),
        &html! {
            (frame.axes(x, y))
            @if let [point] = points {
                circle.dot cx=(at(x.place(point.0))) cy=(at(y.place(point.1))) r="3" {}
            } @else {
                polyline.curve points=(places.join(" ")) {}
            }
        },
    )
}

use maud::{Markup, html};

use super::frame::{Frame, Scale, at};
use crate::comparison::Histogram;

/// Bars after, an outline before: told apart without colour.
pub(crate) fn histogram(name: &str, data: &Histogram) -> Markup {
    let frame = Frame::SMALL;
    let bins = data.edges.windows(2).zip(data.before.iter().zip(&data.after));
    let share =
        |counts: &[u64], count: u64| count as f64 / counts.iter().sum::<u64>().max(1) as f64;
    let bins: Vec<(f64, f64, f64, f64)> = bins
        .map(|(edge, (b, a))| (edge[0], edge[1], share(&data.before, *b), share(&data.after, *a)))
        .collect();
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else {
        return html! {};
    };
    let most = bins.iter().fold(0f64, |most, bin| most.max(bin.2).max(bin.3));
    let x = Scale::new(first.0, last.1, frame.left, frame.right);
    let y = Scale::new(0., most, frame.bottom, frame.top);
    let mut outline = format!("M{} {}", at(frame.left), at(frame.bottom));
    for (low, high, before, _) in &bins {
        let height = at(y.place(*before));
        outline += &format!(" L{} {height} L{} {height}", at(x.place(*low)), at(x.place(*high)));
    }
    outline += &format!(" L{} {}", at(frame.right), at(frame.bottom));
    frame.svg(
        &format!("Histogram of {name}: share of responses before (outline) and after (bars)"),
        &html! {
            (frame.axes(x, y))
            @for (low, high, _, after) in &bins {
                @if *after > 0. {
                    @let (left, top) = (x.place(*low), y.place(*after));
                    rect.bar x=(at(left + 0.5)) y=(at(top)) width=(at(x.place(*high) - left - 1.))
                        height=(at(frame.bottom - top)) {}
                }
            }
            path.step d=(outline) {}
        },
    )
}

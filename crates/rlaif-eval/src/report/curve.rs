//! Training curves, from a run's `metrics.jsonl`.

use rlaif_core::FileAction;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use rlaif_files::open_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plot;
use crate::EvalError;

/// One number over the steps of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The trainer's name for the number.
    pub name: String,
    /// Step and value, ascending in step.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// The curve as an SVG, as reports draw it. Its colours are those of [`PAGE_STYLE`](crate::PAGE_STYLE).
    ///
    /// ```
    /// let curve = rlaif_eval::Curve { name: "loss".to_owned(), points: vec![(1., 2.), (2., 1.)] };
    /// assert!(curve.svg().starts_with("<svg") && curve.svg().contains("polyline"));
    /// ```
    #[must_use]
    pub fn svg(&self) -> String {
        plot::line(&self.name, &self.points).into_string()
    }
}

/// The curve of one of several runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunCurve<'a> {
    /// The run's name.
    pub run: &'a str,
    /// The run's place among those that are compared, which determines the colour.
    pub place: usize,
    /// The curve.
    pub curve: &'a Curve,
}

impl RunCurve<'_> {
    /// The classes of the line at this place, for a legend: `curve s0`.
    #[must_use]
    pub fn class(place: usize) -> String {
        format!("curve {}", plot::series(place))
    }

    /// The curves of one name as an SVG with common axes. Its colours are those of [`PAGE_STYLE`](crate::PAGE_STYLE):
    /// six, and from the seventh run on the same ones with dashes and dots.
    ///
    /// ```
    /// use rlaif_eval::{Curve, RunCurve};
    /// let of = |points: &[(f64, f64)]| Curve { name: "loss".to_owned(), points: points.to_vec() };
    /// let (one, other) = (of(&[(1., 2.), (2., 1.)]), of(&[(1., 8.), (4., 4.)]));
    /// let runs = [RunCurve { run: "a", place: 0, curve: &one }, RunCurve { run: "b", place: 1, curve: &other }];
    /// let svg = RunCurve::svg("loss", &runs);
    /// assert_eq!(svg.matches("polyline").count(), 4, "two lines with their names: {svg}");
    /// ```
    #[must_use]
    pub fn svg(name: &str, curves: &[Self]) -> String {
        let series: Vec<plot::Series<'_>> =
            curves.iter().map(|one| (one.run, one.place, one.curve.points.as_slice())).collect();
        plot::lines(name, &series).into_string()
    }
}

/// Reads all numbers that a trainer wrote: one JSON object per step, with the step in `step`, else
/// the line number. Neighbours are averaged to keep at most 500 points.
///
/// Values that are not finite numbers are left out. So is an incomplete last line, which a run in
/// progress may leave.
///
/// # Errors
/// [`EvalError::Io`]; [`EvalError::Format`] for a line that is not a JSON object.
///
/// ```
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("metrics.jsonl");
/// std::fs::write(&path, "{\"step\":1,\"objective/kl\":0.5}\n{\"step\":2,\"objective/kl\":0.7}\n").unwrap();
/// let curves = rlaif_eval::read_curves(&path)?;
/// assert_eq!((curves[0].name.as_str(), &curves[0].points), ("objective/kl", &vec![(1., 0.5), (2., 0.7)]));
/// # Ok::<(), rlaif_eval::EvalError>(())
/// ```
pub fn read_curves(path: &Path) -> Result<Vec<Curve>, EvalError> {
    const MOST: usize = 500;
    let io = |source| EvalError::Io { action: FileAction::Read, path: path.to_owned(), source };
    let mut lines = BufReader::new(open_file(path).map_err(io)?);
    let mut curves: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if lines.read_line(&mut line).map_err(io)? == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        let row: serde_json::Map<String, Value> = match serde_json::from_str(&line) {
            Ok(row) => row,
            Err(_) if !line.ends_with('\n') => break,
            Err(source) => {
                return Err(EvalError::Format {
                    path: path.to_owned(),
                    line: number,
                    expected: "a JSON object with the numbers of one step",
                    source,
                });
            }
        };
        let step = row.get("step").and_then(Value::as_f64).unwrap_or(number as f64);
        for (name, value) in row {
            if let Some(value) = value.as_f64().filter(|_| name != "step") {
                curves.entry(name).or_default().push((step, value));
            }
        }
    }
    let thin = |points: Vec<(f64, f64)>| {
        let together = points.len().div_ceil(MOST).max(1);
        let average = |points: &[(f64, f64)]| {
            let mean = |pick: fn(&(f64, f64)) -> f64| {
                let count = points.len() as f64;
                let sum: f64 = points.iter().map(pick).sum();
                // A sum of large numbers may be larger than any number; their mean is not.
                if sum.is_finite() {
                    sum / count
                } else {
                    points.iter().map(|point| pick(point) / count).sum()
                }
            };
            (mean(|point| point.0), mean(|point| point.1))
        };
        points.chunks(together).map(average).collect()
    };
    Ok(curves.into_iter().map(|(name, points)| Curve { name, points: thin(points) }).collect())
}

/// The most important curves, each with the names that trainers give it, the best name first.
pub(crate) const LEADING: [(&str, &[&str]); 5] = [
    ("Reward", &["env/reward_mean", "ppo/mean_scores", "rewards/margins", "reward"]),
    ("KL from the reference policy", &["objective/kl", "kl"]),
    ("Loss", &["ppo/loss/total", "loss", "train/loss"]),
    ("Entropy", &["objective/entropy", "ppo/policy/entropy", "entropy"]),
    ("Length of responses (tokens)", &["tokens/responses_len_mean", "completions/mean_length"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Curve>, EvalError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        read_curves(&path)
    }

    #[test]
    fn what_is_no_number_is_left_out_and_a_torn_last_line_as_well() {
        let found =
            read("{\"loss\":1,\"note\":\"a\",\"kl\":null}\n\n{\"loss\":2}\n{\"loss\":3,").unwrap();
        assert_eq!(found, [Curve { name: "loss".into(), points: vec![(1., 1.), (3., 2.)] }]);
        let error = read("{\"loss\":1}\nloss 2\n").unwrap_err();
        assert!(matches!(error, EvalError::Format { line: 2, .. }), "{error}");
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn runs_share_their_axes() {
        let of = |points: &[(f64, f64)]| Curve { name: "loss".into(), points: points.to_vec() };
        let curves = [of(&[(0., 0.), (10., 1.)]), of(&[(0., 2.), (20., 4.)]), of(&[(5., 3.)])];
        let runs: Vec<RunCurve<'_>> = ["a", "b <", "c"]
            .into_iter()
            .zip(&curves)
            .enumerate()
            .map(|(place, (run, curve))| RunCurve { run, place: 3 * place, curve })
            .collect();
        let svg = RunCurve::svg("loss", &runs);
        let points = |class: &str| -> Vec<f64> {
            let at = svg.split(&format!("class=\"{class}\" points=\"")).nth(1).unwrap();
            let numbers = at.split('"').next().unwrap().split([' ', ',']);
            numbers.map(|number| number.parse().unwrap()).collect()
        };
        let (a, b) = (points("curve s0"), points("curve s3"));
        // Equal steps have equal places, and 10 of 20 steps are half of the way.
        assert!((a[0] - b[0]).abs() < 0.11 && (a[2] - a[0] - (b[2] - b[0]) / 2.).abs() < 0.11);
        // Heights fall with the values 0, 1, 2, 4, in proportion.
        let unit = a[1] - a[3];
        assert!(unit > 10. && (a[1] - b[1] - 2. * unit).abs() < 0.3, "{a:?} {b:?}");
        assert!((a[1] - b[3] - 4. * unit).abs() < 0.3, "{a:?} {b:?}");
        assert!(svg.contains("class=\"dot s0 dashed\"") && svg.contains("<title>b &lt;</title>"));
        assert_eq!(RunCurve::svg("loss", &[]), "");
        assert_eq!(RunCurve::class(14), "curve s2 dotted");
    }

    #[test]
    fn long_curves_are_averaged_to_at_most_500_points() {
        let text: String = (0..1_200).map(|i| format!("{{\"step\":{i},\"x\":{i}}}\n")).collect();
        let found = read(&text).unwrap().remove(0).points;
        assert_eq!(found.len(), 400);
        assert_eq!((found[0], found[399]), ((1., 1.), (1_198., 1_198.)));
    }
}

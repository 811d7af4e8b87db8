//! Curves of training runs as pictures of the documentation.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use tempfile::TempDir;

const WIDTH: f64 = 250.;
const HEIGHT: f64 = 130.;
/// Colours of the runs of a panel, in order; the last is that of a control.
const COLORS: [&str; 4] = ["#0072b2", "#e69f00", "#009e73", "#777"];

/// The curves of some runs, one for each seed and one of a control.
#[derive(Debug, Clone)]
pub struct Panel {
    /// The words above.
    pub title: String,
    /// The vertical axis, from the lowest number to the highest.
    pub range: (f64, f64),
    /// A number with a dashed line.
    pub level: Option<f64>,
    /// The numbers of each run by step.
    pub runs: Vec<Vec<f64>>,
}

/// A picture of the documentation, `docs/NAME-learning.svg`, and the metrics that it is drawn from, in
/// `target/learning/NAME`. A debug build only tests the code: there both are in a temporary folder.
#[derive(Debug)]
pub struct Picture {
    name: &'static str,
    root: PathBuf,
    trial: Option<TempDir>,
}

impl Picture {
    /// The picture of this name.
    pub fn new(name: &'static str) -> Self {
        let trial = cfg!(debug_assertions).then(|| tempfile::tempdir().expect("a folder"));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = trial.as_ref().map_or(root, |folder| folder.path().to_owned());
        Self { name, root, trial }
    }

    /// True if a run needs only a few steps.
    pub fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Writes the metrics of each step of a run, and reads the curve of one of them.
    pub fn curve(&self, run: &str, steps: &[Vec<(String, f64)>], metric: &str) -> Vec<f64> {
        let folder = self.root.join("target/learning").join(self.name).join(run);
        write_metrics(&folder, steps);
        read_metric(&folder, metric)
    }

    /// Draws panels in rows.
    pub fn draw(&self, rows: &[Vec<Panel>]) {
        let docs = self.root.join("docs");
        fs::create_dir_all(&docs).expect("a folder");
        let file = docs.join(format!("{}-learning.svg", self.name));
        fs::write(file, svg(rows)).expect("a picture");
    }
}

/// A picture of panels in rows, as SVG.
fn svg(rows: &[Vec<Panel>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (30 + 290 * columns, 30 + 185 * rows.len());
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' \
         font-family='sans-serif' font-size='11'>\n\
         <rect width='{width}' height='{height}' fill='white'/>\n"
    );
    for (line, row) in rows.iter().enumerate() {
        for (column, panel) in row.iter().enumerate() {
            panel.draw(&mut svg, 40. + 290. * column as f64, 40. + 185. * line as f64);
        }
    }
    svg + "</svg>\n"
}

impl Panel {
    fn draw(&self, svg: &mut String, left: f64, top: f64) {
        let (low, high) = self.range;
        let y = |value: f64| top + HEIGHT * (high - value.clamp(low, high)) / (high - low);
        let steps = self.runs.iter().map(Vec::len).max().unwrap_or(0);
        let (right, bottom) = (left + WIDTH, top + HEIGHT);
        let mut parts = vec![
            format!("<text x='{left}' y='{}'>{}</text>", top - 8., self.title),
            format!(
                "<rect x='{left}' y='{top}' width='{WIDTH}' height='{HEIGHT}' fill='none' \
                 stroke='#999'/>"
            ),
            format!("<text x='{}' y='{}'>{steps} steps</text>", right - 48., bottom + 13.),
            format!("<text x='{}' y='{}' text-anchor='end'>{high}</text>", left - 4., top + 9.),
            format!("<text x='{}' y='{bottom}' text-anchor='end'>{low}</text>", left - 4.),
        ];
        if let Some(level) = self.level.map(y) {
            parts.push(format!(
                "<line x1='{left}' x2='{right}' y1='{level}' y2='{level}' stroke='#999' \
                 stroke-dasharray='4'/>"
            ));
        }
        for (run, color) in self.runs.iter().zip(COLORS.iter().cycle()) {
            let x = |step: usize| left + WIDTH * step as f64 / (steps.max(2) - 1) as f64;
            let points = run.iter().enumerate();
            let points = points.map(|(step, value)| format!("{:.1},{:.1}", x(step), y(*value)));
            let points = points.collect::<Vec<_>>().join(" ");
            parts.push(format!("<polyline points='{points}' fill='none' stroke='{color}'/>"));
        }
        for part in parts {
            writeln!(svg, "{part}").expect("a string takes everything");
        }
    }
}

/// Writes the metrics of a run's steps to `metrics.jsonl` in a folder, as runs do.
///
/// # Panics
/// If the file cannot be written.
fn write_metrics(folder: &Path, steps: &[Vec<(String, f64)>]) {
    fs::create_dir_all(folder).expect("a folder");
    let mut file = File::create(folder.join("metrics.jsonl")).expect("a file");
    for (step, metrics) in (1..).zip(steps) {
        let mut row = Map::from_iter([("step".to_owned(), Value::from(step))]);
        row.extend(metrics.iter().map(|(name, value)| (name.clone(), Value::from(*value))));
        writeln!(file, "{}", Value::Object(row)).expect("space on the disk");
    }
}

/// The numbers of one metric by step, from the `metrics.jsonl` in a folder; steps without it are
/// left out.
///
/// # Panics
/// If the file cannot be read.
fn read_metric(folder: &Path, name: &str) -> Vec<f64> {
    let file = File::open(folder.join("metrics.jsonl")).expect("metrics of a run");
    let number = |line: std::io::Result<String>| {
        let row: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        row[name].as_f64()
    };
    BufReader::new(file).lines().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_from_corner_to_corner() {
        let runs = vec![vec![0., 0.5, 1.], vec![]];
        let panel = Panel { title: "sums".to_owned(), range: (0., 1.), level: Some(0.5), runs };
        let picture = svg(&[vec![panel]]);
        assert!(picture.contains("points='40.0,170.0 165.0,105.0 290.0,40.0'"), "{picture}");
        assert!(picture.contains("y1='105'") && picture.contains("viewBox='0 0 320 215'"));
    }
}

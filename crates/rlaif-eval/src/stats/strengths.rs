//! Strengths of competitors from paired comparisons.

use serde::{Deserialize, Serialize};

use super::bootstrap::Interval;

/// The 97.5 % quantile of the standard normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;
/// Newton's method converges quadratically; far fewer steps are usual.
const MAX_STEPS: usize = 200;
/// Largest change of a strength in one step, in nats. The likelihood is flat far from its maximum.
const MAX_CHANGE: f64 = 2.;

/// The strength of one competitor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// The strength θ, in nats; all strengths have mean 0.
    pub theta: f64,
    /// Wald's 95 % interval of θ, from the Fisher information.
    pub ci95: Interval,
}

impl Strength {
    /// The strength on the scale of Elo ratings, 400 points for a factor of ten in the odds.
    ///
    /// ```
    /// use rlaif_eval::stats::{Interval, Strength};
    /// let strength = Strength { theta: 10f64.ln(), ci95: Interval { low: 0., high: 1. } };
    /// assert!((strength.elo() - 400.).abs() < 1e-9);
    /// ```
    #[must_use]
    pub fn elo(&self) -> f64 {
        self.theta * 400. / std::f64::consts::LN_10
    }
}

/// The reason why comparisons have no Bradley–Terry strengths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoStrengths {
    /// The table is empty, is not square, or has an entry that is negative or not finite.
    #[error("row {row} of the table of wins is not {expected} finite numbers of at least 0")]
    Table {
        /// The row, from 0.
        row: usize,
        /// The number of competitors.
        expected: usize,
    },
    /// Competitors fall into groups that were never compared with each other.
    #[error("{} groups were never compared with each other", .groups.len())]
    Apart {
        /// The groups, as places of competitors.
        groups: Vec<Vec<usize>>,
    },
    /// A group never won against the others, or never lost: its strength would be infinite.
    #[error("{} groups of which one never beat another", .groups.len())]
    OneSided {
        /// The groups within which everybody can be reached by wins, as places of competitors.
        groups: Vec<Vec<usize>>,
    },
}

impl NoStrengths {
    /// The groups of competitors that comparisons do not connect, or of which one never beat another; none for
    /// a table that is not one.
    pub fn groups(&self) -> &[Vec<usize>] {
        match self {
            Self::Table { .. } => &[],
            Self::Apart { groups } | Self::OneSided { groups } => groups,
        }
    }
}

/// Maximum-likelihood strengths θ of the model of
/// [Bradley and Terry 1952](https://doi.org/10.2307/2334029): competitor i beats j with probability
/// σ(θ_i − θ_j). `wins[i][j]` is the number of times that i beat j; a tie counts half for both.
///
/// `prior` adds so many wins and as many losses of each competitor against an imaginary one of
/// strength 0. With a prior above 0, strengths are finite for any table.
///
/// # Errors
/// [`NoStrengths`]; without a prior also for competitors that comparisons do not connect.
///
/// ```
/// use rlaif_eval::stats::{NoStrengths, bradley_terry};
/// let wins = [vec![0., 3.], vec![1., 0.]];
/// let found = bradley_terry(&wins, 0.)?;
/// assert!((found[0].theta - found[1].theta - 3f64.ln()).abs() < 1e-9);
/// let never_lost = [vec![0., 3.], vec![0., 0.]];
/// assert!(matches!(bradley_terry(&never_lost, 0.), Err(NoStrengths::OneSided { .. })));
/// assert!(bradley_terry(&never_lost, 0.5).is_ok());
/// # Ok::<(), NoStrengths>(())
/// ```
pub fn bradley_terry(wins: &[Vec<f64>], prior: f64) -> Result<Vec<Strength>, NoStrengths> {
    let n = wins.len();
    let bad = |row: &Vec<f64>| row.len() != n || row.iter().any(|w| !w.is_finite() || *w < 0.);
    if let Some(row) = wins.iter().position(bad) {
        return Err(NoStrengths::Table { row, expected: n });
    }
    if n == 0 {
        return Err(NoStrengths::Table { row: 0, expected: 0 });
    }
    if prior <= 0. {
        let apart = groups(n, |a, b| wins[a][b] > 0. || wins[b][a] > 0.);
        if apart.len() > 1 {
            return Err(NoStrengths::Apart { groups: apart });
        }
        let one_sided = groups(n, |a, b| wins[a][b] > 0.);
        if one_sided.len() > 1 {
            return Err(NoStrengths::OneSided { groups: one_sided });
        }
    }
    let prior = prior.max(0.);
    let mut theta = vec![0.; n];
    for _ in 0..MAX_STEPS {
        let (gradient, information) = derivatives(wins, prior, &theta);
        let inverse = inverse(information);
        let step: Vec<f64> =
            inverse.iter().map(|row| row.iter().zip(&gradient).map(|(a, g)| a * g).sum()).collect();
        let largest = step.iter().fold(0f64, |most, change: &f64| most.max(change.abs()));
        let scale = if largest > MAX_CHANGE { MAX_CHANGE / largest } else { 1. };
        theta.iter_mut().zip(&step).for_each(|(value, change)| *value += scale * change);
        if largest < 1e-12 {
            break;
        }
    }
    let (_, information) = derivatives(wins, prior, &theta);
    let covariance = centred(&inverse(information));
    let mean = theta.iter().sum::<f64>() / n as f64;
    let strength = |(at, value): (usize, &f64)| {
        let (theta, half) = (value - mean, Z_95 * covariance[at].max(0.).sqrt());
        Strength { theta, ci95: Interval { low: theta - half, high: theta + half } }
    };
    Ok(theta.iter().enumerate().map(strength).collect())
}

/// The gradient of the log-likelihood, and the Fisher information. Without a prior, 1/n is added to each
/// entry of the information: it is singular in the direction of the mean alone, which has no effect.
fn derivatives(wins: &[Vec<f64>], prior: f64, theta: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = theta.len();
    let sigmoid = |x: f64| 1. / (1. + (-x).exp());
    let mut gradient = vec![0.; n];
    let fill = if prior > 0. { 0. } else { 1. / n as f64 };
    let mut information = vec![vec![fill; n]; n];
    for i in 0..n {
        let p = sigmoid(theta[i]);
        gradient[i] += prior * (1. - 2. * p);
        information[i][i] += 2. * prior * p * (1. - p);
        for j in (0..n).filter(|&j| j != i) {
            let games = wins[i][j] + wins[j][i];
            let p = sigmoid(theta[i] - theta[j]);
            gradient[i] += wins[i][j] - games * p;
            information[i][i] += games * p * (1. - p);
            information[i][j] -= games * p * (1. - p);
        }
    }
    (gradient, information)
}

/// The diagonal of C A C, C being the matrix that subtracts the mean.
fn centred(matrix: &[Vec<f64>]) -> Vec<f64> {
    let n = matrix.len() as f64;
    let means: Vec<f64> = matrix.iter().map(|row| row.iter().sum::<f64>() / n).collect();
    let mean = means.iter().sum::<f64>() / n;
    matrix.iter().enumerate().map(|(at, row)| row[at] - 2. * means[at] + mean).collect()
}

/// The inverse of a positive definite matrix, by Gauss and Jordan's elimination.
fn inverse(mut matrix: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = matrix.len();
    for (at, row) in matrix.iter_mut().enumerate() {
        row.extend((0..n).map(|column| f64::from(u8::from(column == at))));
    }
    for at in 0..n {
        let pivot = matrix[at][at];
        matrix[at].iter_mut().for_each(|value| *value /= pivot);
        let own = matrix[at].clone();
        for row in (0..n).filter(|&row| row != at) {
            let factor = matrix[row][at];
            matrix[row].iter_mut().zip(&own).for_each(|(value, own)| *value -= factor * own);
        }
    }
    matrix.into_iter().map(|mut row| row.split_off(n)).collect()
}

/// The strongly connected components of a graph, each sorted, in the order of their first members.
fn groups(n: usize, edge: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    let reached = |from: usize, forward: bool| {
        let mut seen = vec![false; n];
        let mut open = vec![from];
        seen[from] = true;
        while let Some(at) = open.pop() {
            for (next, seen) in seen.iter_mut().enumerate() {
                let leads = if forward { edge(at, next) } else { edge(next, at) };
                if leads && !*seen {
                    *seen = true;
                    open.push(next);
                }
            }
        }
        seen
    };
    let mut found: Vec<Vec<usize>> = Vec::new();
    let mut known = vec![false; n];
    for from in 0..n {
        if known[from] {
            continue;
        }
        let (out, back) = (reached(from, true), reached(from, false));
        let group: Vec<usize> = (0..n).filter(|&at| out[at] && back[at]).collect();
        group.iter().for_each(|&at| known[at] = true);
        found.push(group);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_were_never_compared_or_never_lost_are_named() {
        let apart = [vec![0., 2., 0.], vec![1., 0., 0.], vec![0., 0., 0.]];
        let expected = NoStrengths::Apart { groups: vec![vec![0, 1], vec![2]] };
        assert_eq!(bradley_terry(&apart, 0.), Err(expected));
        let one_sided = [vec![0., 2., 1.], vec![1., 0., 0.], vec![0., 0., 0.]];
        let expected = NoStrengths::OneSided { groups: vec![vec![0, 1], vec![2]] };
        assert_eq!(bradley_terry(&one_sided, 0.), Err(expected));
        let found = bradley_terry(&one_sided, 0.5).unwrap();
        assert!(found.iter().all(|s| s.theta.is_finite() && s.ci95.contains(s.theta)));
        assert!(found[2].theta < found[1].theta && found[1].theta < found[0].theta);
    }

    #[test]
    fn a_table_that_is_none_is_refused() {
        let expected = NoStrengths::Table { row: 1, expected: 2 };
        assert_eq!(bradley_terry(&[vec![0., 1.], vec![f64::NAN, 0.]], 0.), Err(expected.clone()));
        assert_eq!(bradley_terry(&[vec![0., 1.], vec![1.]], 0.), Err(expected));
        assert!(bradley_terry(&[], 0.).is_err());
    }
}

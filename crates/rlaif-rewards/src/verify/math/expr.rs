//! Mathematical expressions as they are compared.

use std::collections::BTreeSet;

use super::number::{Complex, Function, Rational};

/// A relation between two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// `≈`: what follows is no more exact than what stands before.
    Approximately,
    /// `∈`.
    In,
}

impl Relation {
    /// The relation with its sides exchanged.
    fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessEqual => Self::GreaterEqual,
            Self::Greater => Self::Less,
            Self::GreaterEqual => Self::LessEqual,
            other => other,
        }
    }
}

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    /// A number; `decimal` if it was written with a point, and may be rounded.
    Number {
        value: Rational,
        decimal: bool,
    },
    Variable(String),
    Pi,
    Euler,
    Imaginary,
    Infinity,
    Sum(Box<Expr>, Box<Expr>),
    PlusMinus(Box<Expr>, Box<Expr>),
    Product(Box<Expr>, Box<Expr>),
    Quotient(Box<Expr>, Box<Expr>),
    Power(Box<Expr>, Box<Expr>),
    Root {
        index: Box<Expr>,
        of: Box<Expr>,
    },
    Log {
        base: Box<Expr>,
        of: Box<Expr>,
    },
    Binomial(Box<Expr>, Box<Expr>),
    Negative(Box<Expr>),
    Percent(Box<Expr>),
    Call(Function, Box<Expr>),
    /// `a, b` without brackets.
    List(Vec<Expr>),
    /// `{a, b}`.
    Set(Vec<Expr>),
    /// `(a, b]`: a tuple, a point or an interval.
    Bracketed {
        open: char,
        items: Vec<Expr>,
        close: char,
    },
    Union(Vec<Expr>),
    Matrix(Vec<Vec<Expr>>),
    Chain {
        first: Box<Expr>,
        rest: Vec<(Relation, Expr)>,
    },
    /// Words.
    Text(String),
}

/// Decimals in which a rounded number must agree with an exact one.
const DECIMALS: i32 = 6;
/// Relative difference of two expressions that are the same.
const ALIKE: f64 = 1e-9;
/// Values of the variables, one list for each comparison.
const POINTS: [[f64; 4]; 6] = [
    [0.731, 1.377, 2.203, 0.411],
    [1.919, 0.537, 1.273, 2.671],
    [2.417, 2.089, 0.613, 1.151],
    [-0.867, 1.733, 0.953, 2.039],
    [1.439, -1.249, 2.311, -0.577],
    [-1.613, -0.439, -2.137, 0.829],
];

impl Expr {
    pub(super) fn number(value: i128) -> Self {
        Self::Number { value: Rational::whole(value), decimal: false }
    }

    /// The two values of `±`, or the expression as it is.
    fn spread(&self) -> Vec<Self> {
        match self {
            Self::List(items) => items.iter().flat_map(Self::spread).collect(),
            Self::Set(items) => {
                vec![Self::Set(items.iter().flat_map(Self::spread).collect())]
            }
            other => match (other.resolved(true), other.resolved(false)) {
                (Some(plus), Some(minus)) => vec![plus, minus],
                _ => vec![other.clone()],
            },
        }
    }

    /// The expression with one sign for every `±`; `None` without one.
    fn resolved(&self, plus: bool) -> Option<Self> {
        let both = |a: &Self, b: &Self| match (a.resolved(plus), b.resolved(plus)) {
            (None, None) => None,
            (x, y) => Some((
                Box::new(x.unwrap_or_else(|| a.clone())),
                Box::new(y.unwrap_or_else(|| b.clone())),
            )),
        };
        let one = |a: &Self| a.resolved(plus).map(Box::new);
        match self {
            Self::PlusMinus(a, b) => {
                let a = a.resolved(plus).unwrap_or_else(|| (**a).clone());
                let b = b.resolved(plus).unwrap_or_else(|| (**b).clone());
                let b = if plus { b } else { Self::Negative(Box::new(b)) };
                Some(Self::Sum(Box::new(a), Box::new(b)))
            }
            Self::Sum(a, b) => both(a, b).map(|(a, b)| Self::Sum(a, b)),
            Self::Product(a, b) => both(a, b).map(|(a, b)| Self::Product(a, b)),
            Self::Quotient(a, b) => both(a, b).map(|(a, b)| Self::Quotient(a, b)),
            Self::Power(a, b) => both(a, b).map(|(a, b)| Self::Power(a, b)),
            Self::Root { index, of } => both(index, of).map(|(index, of)| Self::Root { index, of }),
            Self::Negative(a) => one(a).map(Self::Negative),
            Self::Call(function, a) => one(a).map(|a| Self::Call(*function, a)),
            Self::Chain { first, rest } => {
                let (relation, last) = rest.last()?;
                let last = last.resolved(plus)?;
                let mut rest = rest.clone();
                *rest.last_mut()? = (*relation, last);
                Some(Self::Chain { first: first.clone(), rest })
            }
            _ => None,
        }
    }

    /// The expressions that an operation is on.
    fn operands(&self) -> [Option<&Self>; 2] {
        match self {
            Self::Sum(a, b)
            | Self::PlusMinus(a, b)
            | Self::Product(a, b)
            | Self::Quotient(a, b)
            | Self::Power(a, b)
            | Self::Binomial(a, b)
            | Self::Root { index: a, of: b }
            | Self::Log { base: a, of: b } => [Some(a), Some(b)],
            Self::Negative(a) | Self::Percent(a) | Self::Call(_, a) => [Some(a), None],
            _ => [None, None],
        }
    }

    /// The names of the variables.
    fn variables(&self, found: &mut BTreeSet<String>) {
        match self {
            Self::Variable(name) => {
                found.insert(name.clone());
            }
            _ => self.operands().into_iter().flatten().for_each(|of| of.variables(found)),
        }
    }

    fn has_decimal(&self) -> bool {
        match self {
            Self::Number { decimal, .. } => *decimal,
            _ => self.operands().into_iter().flatten().any(Self::has_decimal),
        }
    }

    fn is_infinity(&self) -> bool {
        match self {
            Self::Infinity => true,
            Self::Negative(a) => a.is_infinity(),
            _ => false,
        }
    }

    /// The exact value of arithmetic on whole numbers and decimals.
    fn exact(&self) -> Option<Rational> {
        match self {
            Self::Number { value, .. } => Some(*value),
            Self::Sum(a, b) => a.exact()?.plus(b.exact()?),
            Self::Product(a, b) => a.exact()?.times(b.exact()?),
            Self::Quotient(a, b) => a.exact()?.over(b.exact()?),
            Self::Power(a, b) => a.exact()?.power(b.exact()?),
            Self::Negative(a) => a.exact()?.times(Rational::whole(-1)),
            Self::Percent(a) => a.exact()?.over(Rational::whole(100)),
            _ => None,
        }
    }

    /// The value at a point; `None` for what is not a number.
    fn value(&self, at: &dyn Fn(&str) -> f64) -> Option<Complex> {
        let value = |a: &Self| a.value(at);
        Some(match self {
            Self::Number { value, .. } => Complex::real(value.to_f64()),
            Self::Variable(name) => Complex::real(at(name)),
            Self::Pi => Complex::real(std::f64::consts::PI),
            Self::Euler => Complex::real(std::f64::consts::E),
            Self::Imaginary => Complex { re: 0., im: 1. },
            Self::Infinity => Complex::real(f64::INFINITY),
            Self::Sum(a, b) => value(a)?.plus(value(b)?),
            Self::Product(a, b) => value(a)?.times(value(b)?),
            Self::Quotient(a, b) => value(a)?.over(value(b)?),
            Self::Power(a, b) => value(a)?.power(value(b)?),
            Self::Negative(a) => value(a)?.times(Complex::real(-1.)),
            Self::Percent(a) => value(a)?.over(Complex::real(100.)),
            Self::Root { index, of } => {
                let (index, radicand) = (value(index)?, value(of)?);
                let mut variables = BTreeSet::new();
                of.variables(&mut variables);
                let odd = (index.re % 2.).abs() == 1.;
                if variables.is_empty() && radicand.is_real() && radicand.re < 0. && odd {
                    // The real one of its roots, as schools have it.
                    Complex::real(-(-radicand.re).powf(1. / index.re))
                } else {
                    radicand.power(Complex::real(1.).over(index))
                }
            }
            Self::Log { base, of } => value(of)?.ln().over(value(base)?.ln()),
            Self::Binomial(n, k) => {
                let (n, k) = (value(n)?.re, value(k)?.re);
                if !(0. ..=1000.).contains(&k) || k.fract() != 0. {
                    return None;
                }
                Complex::real(
                    (1..=k as u32)
                        .fold(1., |all, at| all * (n - k + f64::from(at)) / f64::from(at)),
                )
            }
            Self::Call(function, a) => value(a)?.call(*function)?,
            _ => return None,
        })
    }

    /// Compares two scalars.
    fn same_scalar(&self, other: &Self) -> bool {
        if let (Some(a), Some(b)) = (self.exact(), other.exact()) {
            let rounded = self.has_decimal() != other.has_decimal();
            return a == b || rounded && close_to_rounded(a.to_f64(), b.to_f64());
        }
        let rounded = self.has_decimal() != other.has_decimal();
        // What is too large for a float equals nothing; ∞ equals ∞.
        let infinite = self.is_infinity() && other.is_infinity();
        self.at_points(other, |a, b| {
            (infinite || a.is_finite()) && a.is_close(b, ALIKE)
                || rounded && a.is_real() && b.is_real() && close_to_rounded(a.re, b.re)
        })
    }

    /// True if `test` holds of both values at every point where there are any, one at least.
    fn at_points(&self, other: &Self, mut test: impl FnMut(Complex, Complex) -> bool) -> bool {
        let mut names = BTreeSet::new();
        self.variables(&mut names);
        other.variables(&mut names);
        let names: Vec<String> = names.into_iter().collect();
        let mut compared = 0;
        let points = if names.is_empty() { &POINTS[..1] } else { &POINTS[..] };
        for point in points {
            let at = |name: &str| {
                let place = names.iter().position(|known| known == name).unwrap_or_default();
                point[place % point.len()] + (place / point.len()) as f64 * 0.173
            };
            let (Some(a), Some(b)) = (self.value(&at), other.value(&at)) else { return false };
            if a.is_nan() && b.is_nan() {
                continue;
            }
            compared += 1;
            if !test(a, b) {
                return false;
            }
        }
        compared > 0
    }

    /// Compares an answer with the right one.
    pub(super) fn same(&self, right: &Self) -> bool {
        let (mine, rights) = (self.spread(), right.spread());
        if mine.len() > 1 || rights.len() > 1 {
            return same_items(&mine, &rights) || in_brackets(&mine, &rights);
        }
        let (Some(mine), Some(right)) = (mine.first(), rights.first()) else { return false };
        mine.same_single(right)
    }

    fn same_single(&self, right: &Self) -> bool {
        match (self, right) {
            (Self::Chain { .. }, Self::Chain { .. }) => self.same_chain(right),
            // `x = 3` is 3, unless the left side says more than a name.
            (Self::Chain { .. }, _) => self.result().is_some_and(|result| result.same(right)),
            (_, Self::Chain { .. }) => {
                right.result().is_some_and(|result| self.same(&result)) || self.is_of_bounds(right)
            }
            (Self::Percent(a), Self::Percent(b)) => a.same(b),
            (Self::Percent(a), b) | (b, Self::Percent(a)) => {
                a.same(b) || Self::Percent(a.clone()).same_scalar(b)
            }
            (Self::Text(a), Self::Text(b)) => plain(a) == plain(b),
            (Self::Text(a), Self::Variable(b)) | (Self::Variable(b), Self::Text(a)) => {
                plain(a) == plain(b)
            }
            (Self::Set(a), Self::Set(b)) => same_items(a, b),
            (Self::Set(a), b) | (b, Self::Set(a)) => match a.as_slice() {
                [only] => only.same(b),
                _ => false,
            },
            (Self::Union(a), Self::Union(b)) => same_items(a, b),
            (Self::Matrix(a), Self::Matrix(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_in_order(a, b))
            }
            (
                Self::Bracketed { open: a, items: of_a, close: a_end },
                Self::Bracketed { open: b, items: of_b, close: b_end },
            ) => (a, a_end) == (b, b_end) && same_in_order(of_a, of_b),
            _ => self == right || self.same_scalar(right),
        }
    }

    /// The value that a chain of equations leads to; `None` for a relation that is more than that.
    fn result(&self) -> Option<Self> {
        let Self::Chain { first, rest } = self else { return Some(self.clone()) };
        let mut last = None;
        for (relation, expr) in rest {
            match relation {
                Relation::In if rest.len() == 1 => return Some(expr.clone()),
                Relation::Equal => last = Some(expr),
                // Of `1/3 ≈ 0.33`, the exact one.
                Relation::Approximately if last.is_none() => last = Some(expr),
                Relation::Approximately => {}
                _ => return None,
            }
        }
        // `11a + c = 7` is an equation, `x = 7`, `f(x) = 7` and `1 + 1 = 2` are not.
        let computed = !matches!(**first, Self::Number { .. }) && first.exact().is_some();
        let is_result = first.is_name() || computed || rest.len() > 1;
        if is_result { last.cloned() } else { None }
    }

    /// True for what an equation gives a value to: `x`, `f(x)`, `(p, q)`, `AB : CD`.
    fn is_name(&self) -> bool {
        match self {
            Self::Variable(_) | Self::Text(_) => true,
            Self::Bracketed { items, .. } => items.iter().all(Self::is_name),
            _ => self.is_call() || self.is_of_points(),
        }
    }

    /// True for lengths and ratios of points, whose letters are capitals.
    fn is_of_points(&self) -> bool {
        match self {
            Self::Variable(name) => name.starts_with(|c: char| c.is_uppercase()),
            Self::Product(a, b) | Self::Quotient(a, b) => a.is_of_points() && b.is_of_points(),
            Self::Call(Function::Abs, a) => a.is_of_points(),
            _ => false,
        }
    }

    /// True for `f(x)`: a name next to brackets.
    fn is_call(&self) -> bool {
        match self {
            Self::Product(a, b) => {
                matches!(**a, Self::Variable(_)) && matches!(**b, Self::Variable(_))
            }
            _ => false,
        }
    }

    /// True if this is the interval that `a ≤ x < b` describes.
    fn is_of_bounds(&self, chain: &Self) -> bool {
        let Self::Chain { first, rest } = chain else { return false };
        let [(low, name), (high, last)] = rest.as_slice() else { return false };
        if !name.is_name() {
            return false;
        }
        let bracket = |relation: Relation, closed: char, open: char| match relation {
            Relation::LessEqual => Some(closed),
            Relation::Less => Some(open),
            _ => None,
        };
        let (Some(open), Some(close)) = (bracket(*low, '[', '('), bracket(*high, ']', ')')) else {
            return false;
        };
        let items = vec![(**first).clone(), last.clone()];
        self.same_single(&Self::Bracketed { open, items, close })
    }

    fn same_chain(&self, right: &Self) -> bool {
        let (Self::Chain { first: a, rest: of_a }, Self::Chain { first: b, rest: of_b }) =
            (self, right)
        else {
            return false;
        };
        if let (Some(mine), Some(other)) = (self.result(), right.result())
            && mine.same(&other)
        {
            return true;
        }
        if of_a.len() != of_b.len() {
            return false;
        }
        if let ([(is, left)], [(right_is, other)]) = (of_a.as_slice(), of_b.as_slice()) {
            return same_relation((a, *is, left), (b, *right_is, other));
        }
        let forwards = a.same(b)
            && of_a.iter().zip(of_b).all(|((is, x), (other, y))| is == other && x.same(y));
        let sides = |first: &Self, rest: &[(Relation, Self)]| -> Vec<Self> {
            [first.clone()].into_iter().chain(rest.iter().map(|(_, x)| x.clone())).collect()
        };
        let mut reversed = sides(b, of_b);
        reversed.reverse();
        let flipped = of_b.iter().rev().map(|(relation, _)| relation.flipped());
        let backwards = of_a.iter().map(|(relation, _)| *relation).eq(flipped)
            && same_in_order(&sides(a, of_a), &reversed);
        forwards || backwards
    }
}

/// Compares `a < b` with `c > d`: differences of their sides are the same up to a factor.
fn same_relation(mine: (&Expr, Relation, &Expr), right: (&Expr, Relation, &Expr)) -> bool {
    let difference = |(a, relation, b): (&Expr, Relation, &Expr)| {
        let (low, relation, high) = match relation {
            Relation::Greater | Relation::GreaterEqual => (b, relation.flipped(), a),
            _ => (a, relation, b),
        };
        let high = Box::new(Expr::Negative(Box::new(high.clone())));
        (relation, Expr::Sum(Box::new(low.clone()), high))
    };
    if !matches!(
        mine.1,
        Relation::Equal
            | Relation::NotEqual
            | Relation::Less
            | Relation::LessEqual
            | Relation::Greater
            | Relation::GreaterEqual
    ) {
        return mine.1 == right.1 && mine.0.same(right.0) && mine.2.same(right.2);
    }
    let ((is, a), (other, b)) = (difference(mine), difference(right));
    let directed = matches!(is, Relation::Less | Relation::LessEqual);
    let mut factor: Option<Complex> = None;
    is == other
        && a.at_points(&b, |a, b| {
            let ratio = a.over(b);
            let first = *factor.get_or_insert(ratio);
            let positive = !directed || first.re > 0.;
            !first.is_nan()
                && first.is_finite()
                && !first.is_zero()
                && positive
                && ratio.is_close(first, ALIKE)
        })
}

fn close_to_rounded(a: f64, b: f64) -> bool {
    let scale = 10f64.powi(DECIMALS);
    a == b || (a * scale).round() == (b * scale).round() && a.is_finite() && b.is_finite()
}

fn same_in_order(a: &[Expr], b: &[Expr]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
}

/// Compares as sets: order and repetition do not matter.
fn same_items(a: &[Expr], b: &[Expr]) -> bool {
    let a: Vec<Expr> = a.iter().flat_map(Expr::spread).collect();
    let b: Vec<Expr> = b.iter().flat_map(Expr::spread).collect();
    let among = |one: &Expr, all: &[Expr]| all.iter().any(|other| one.same(other));
    a.iter().all(|one| among(one, &b)) && b.iter().all(|one| among(one, &a))
}

/// Compares `a, b` with `(a, b)` and with `{a, b}`.
fn in_brackets(a: &[Expr], b: &[Expr]) -> bool {
    match (a, b) {
        ([Expr::Bracketed { items, .. }], list) | (list, [Expr::Bracketed { items, .. }]) => {
            list.len() > 1 && same_in_order(items, list)
        }
        ([Expr::Set(items)], list) | (list, [Expr::Set(items)]) => {
            list.len() > 1 && same_items(items, list)
        }
        _ => false,
    }
}

/// Words as they are compared: without case, brackets and what stands around them.
fn plain(text: &str) -> String {
    let letters = text.chars().filter(|c| c.is_alphanumeric() || *c == ' ');
    letters.collect::<String>().to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

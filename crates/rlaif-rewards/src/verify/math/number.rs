//! Exact fractions, and complex numbers.

/// Functions of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    Ln,
    Exp,
    Abs,
    Factorial,
    Floor,
    Ceil,
}

/// A fraction in lowest terms, whose denominator is above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rational {
    over: i128,
    under: i128,
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Rational {
    pub(super) fn whole(value: i128) -> Self {
        Self { over: value, under: 1 }
    }

    fn new(over: i128, under: i128) -> Option<Self> {
        if under == 0 {
            return None;
        }
        let divisor = i128::try_from(gcd(over.unsigned_abs(), under.unsigned_abs())).ok()?;
        let sign = under.signum();
        let signed = |part: i128| part.checked_div(divisor)?.checked_mul(sign);
        Some(Self { over: signed(over)?, under: signed(under)? })
    }

    /// A number of digits with a point among them; `None` for more digits than are exact.
    pub(super) fn of_digits(digits: &str) -> Option<Self> {
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let over: i128 = format!("{whole}{part}").parse().ok()?;
        let under = 10i128.checked_pow(u32::try_from(part.len()).ok()?)?;
        Self::new(over, under)
    }

    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let over = self.over.checked_mul(other.under)?;
        let over = over.checked_add(other.over.checked_mul(self.under)?)?;
        Self::new(over, self.under.checked_mul(other.under)?)
    }

    pub(super) fn times(self, other: Self) -> Option<Self> {
        Self::new(self.over.checked_mul(other.over)?, self.under.checked_mul(other.under)?)
    }

    pub(super) fn over(self, other: Self) -> Option<Self> {
        self.times(Self::new(other.under, other.over)?)
    }

    pub(super) fn power(self, by: Self) -> Option<Self> {
        if by.under != 1 {
            return None;
        }
        let exponent = u32::try_from(by.over.unsigned_abs()).ok()?;
        let (over, under) = (self.over.checked_pow(exponent)?, self.under.checked_pow(exponent)?);
        if by.over < 0 { Self::new(under, over) } else { Self::new(over, under) }
    }

    pub(super) fn to_f64(self) -> f64 {
        self.over as f64 / self.under as f64
    }

    pub(super) fn is_whole(self) -> bool {
        self.under == 1
    }
}

/// A complex number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Complex {
    pub(super) re: f64,
    pub(super) im: f64,
}

impl Complex {
    pub(super) fn real(re: f64) -> Self {
        Self { re, im: 0. }
    }

    pub(super) fn is_real(self) -> bool {
        self.im.abs() <= 1e-12 * self.re.abs().max(1.)
    }

    pub(super) fn is_nan(self) -> bool {
        self.re.is_nan() || self.im.is_nan()
    }

    pub(super) fn is_finite(self) -> bool {
        self.re.is_finite() && self.im.is_finite()
    }

    pub(super) fn is_zero(self) -> bool {
        self.size() == 0.
    }

    fn size(self) -> f64 {
        self.re.hypot(self.im)
    }

    pub(super) fn is_close(self, other: Self, tolerance: f64) -> bool {
        if self == other {
            return true;
        }
        if !(self.is_finite() && other.is_finite()) {
            return false;
        }
        let off = Self { re: self.re - other.re, im: self.im - other.im }.size();
        // Relative, except at 0: 1e-34 is not 1e-19, and the sine of pi is 0.
        off <= tolerance * self.size().max(other.size())
            || (self.is_zero() || other.is_zero()) && off <= f64::EPSILON
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { re: self.re + other.re, im: self.im + other.im }
    }

    pub(super) fn times(self, other: Self) -> Self {
        if self.im == 0. && other.im == 0. {
            return Self::real(self.re * other.re);
        }
        Self {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }

    pub(super) fn over(self, other: Self) -> Self {
        if self.im == 0. && other.im == 0. {
            return Self::real(self.re / other.re);
        }
        let size = other.re * other.re + other.im * other.im;
        let turned = self.times(Self { re: other.re, im: -other.im });
        Self { re: turned.re / size, im: turned.im / size }
    }

    pub(super) fn ln(self) -> Self {
        if self.im == 0. && self.re >= 0. {
            return Self::real(self.re.ln());
        }
        Self { re: self.size().ln(), im: self.im.atan2(self.re) }
    }

    fn exp(self) -> Self {
        if self.im == 0. {
            return Self::real(self.re.exp());
        }
        let size = self.re.exp();
        Self { re: size * self.im.cos(), im: size * self.im.sin() }
    }

    pub(super) fn power(self, by: Self) -> Self {
        if self.im == 0. && by.im == 0. && (self.re >= 0. || by.re.fract() == 0.) {
            return Self::real(self.re.powf(by.re));
        }
        if by.im == 0. && by.re.fract() == 0. && by.re.abs() <= 64. {
            let whole = (0..by.re.abs() as u32).fold(Self::real(1.), |all, _| all.times(self));
            return if by.re < 0. { Self::real(1.).over(whole) } else { whole };
        }
        self.ln().times(by).exp()
    }

    /// A function of a number; `None` where it is not defined here.
    pub(super) fn call(self, function: Function) -> Option<Self> {
        let one = Self::real(1.);
        let real = |f: fn(f64) -> f64| self.is_real().then(|| Self::real(f(self.re)));
        match function {
            Function::Exp => Some(self.exp()),
            Function::Ln => Some(self.ln()),
            Function::Abs => Some(Self::real(self.size())),
            Function::Sin => real(f64::sin),
            Function::Cos => real(f64::cos),
            Function::Tan => real(f64::tan),
            Function::Cot => real(f64::tan).map(|value| one.over(value)),
            Function::Sec => real(f64::cos).map(|value| one.over(value)),
            Function::Csc => real(f64::sin).map(|value| one.over(value)),
            Function::Arcsin => real(f64::asin),
            Function::Arccos => real(f64::acos),
            Function::Arctan => real(f64::atan),
            Function::Sinh => real(f64::sinh),
            Function::Cosh => real(f64::cosh),
            Function::Tanh => real(f64::tanh),
            Function::Floor => real(f64::floor),
            Function::Ceil => real(f64::ceil),
            Function::Factorial => {
                let whole =
                    self.is_real() && self.re.fract() == 0. && (0. ..=170.).contains(&self.re);
                let product = || (1..=self.re as u32).fold(1., |all, at| all * f64::from(at));
                whole.then(|| Self::real(product()))
            }
        }
    }
}

//! A check, and the report of all.

use rlaif_core::BadSetting;
use serde::{Serialize, Serializer};
use tch::Kind;

/// The result of one check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// The check's name.
    pub name: &'static str,
    /// The two things that are compared.
    pub about: &'static str,
    /// The largest deviation; NaN and infinity are texts in JSON. `None` for a check that does not
    /// apply.
    #[serde(serialize_with = "number")]
    pub largest: Option<f64>,
    /// The largest deviation at which the check holds.
    pub bound: f64,
    /// Unit of both numbers.
    pub unit: &'static str,
    /// Explanation: the reason why the check does not apply, or the version of the other program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Check {
    /// Returns `true` if the deviation is within the bound. A check that does not apply has no deviation.
    pub fn holds(&self) -> bool {
        self.largest.is_none_or(|largest| largest <= self.bound)
    }

    /// The check as one line of text.
    pub fn to_text(&self) -> String {
        let verdict = match self.largest {
            None => "skipped",
            Some(_) if self.holds() => "holds",
            Some(_) => "FAILS",
        };
        let Self { name, about, bound, unit, .. } = self;
        let measured = self.largest.map(|largest| match largest {
            0. => format!("0 {unit}, bound {bound}"),
            _ => format!("{largest:.1e} {unit}, bound {bound}"),
        });
        let note = self.note.iter().map(|note| format!(" ({note})"));
        let measured = measured.unwrap_or_default();
        format!("{verdict:<8} {name:<18} {measured:<38} {about}{}", note.collect::<String>())
    }
}

/// A number as JSON; one that is not finite as text.
fn number<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) if !number.is_finite() => number.to_string().serialize(serializer),
        other => other.serialize(serializer),
    }
}

/// The results of all checks of a model on this machine.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// The model as the user named it.
    pub model: String,
    /// The model's type in its configuration.
    pub model_type: String,
    /// The device.
    pub device: String,
    /// Dtype of the weights.
    pub dtype: &'static str,
    /// Threads of an operation on the CPU.
    pub threads: usize,
    /// The instruction set of kernels on the CPU.
    pub isa: &'static str,
    /// The checks, in their order.
    pub checks: Vec<Check>,
}

impl Verified {
    /// Names of the checks that do not hold.
    pub fn failed(&self) -> Vec<&'static str> {
        self.checks.iter().filter(|check| !check.holds()).map(|check| check.name).collect()
    }

    /// Description of model and machine, in one line.
    pub fn heading(&self) -> String {
        let Self { model, model_type, device, dtype, threads, isa, .. } = self;
        format!("{model} ({model_type}): {device}, {dtype}, {threads} threads, {isa}")
    }
}

/// The largest deviation, in nats or logits, that rounding explains: sums in another order differ
/// in the last bits, which the layers of a model carry on.
pub(super) fn rounding(kind: Kind) -> f64 {
    match kind {
        Kind::Double => 1e-9,
        Kind::Half => 0.05,
        Kind::BFloat16 => 0.25,
        _ => 1e-4,
    }
}

/// Name of a dtype as in `--dtype`.
pub(super) fn dtype(kind: Kind) -> &'static str {
    match kind {
        Kind::Half => "f16",
        Kind::BFloat16 => "bf16",
        Kind::Double => "f64",
        _ => "f32",
    }
}

/// The refusal of too few tokens.
pub(super) fn at_least(field: &'static str, found: usize, least: usize) -> Option<BadSetting> {
    (found < least).then(|| BadSetting::new(field, found, format!("at least {least}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(largest: Option<f64>) -> Check {
        Check { name: "order", about: "rows", largest, bound: 1e-4, unit: "nats", note: None }
    }

    #[test]
    fn what_is_not_a_number_does_not_hold_and_is_not_lost() {
        assert!(check(Some(1e-4)).holds() && check(None).holds());
        assert!(!check(Some(f64::NAN)).holds() && !check(Some(f64::INFINITY)).holds());
        let json = |largest| serde_json::to_value(check(largest)).unwrap()["largest"].clone();
        assert_eq!(json(Some(f64::NAN)), "NaN");
        assert_eq!(json(Some(0.5)), 0.5);
        assert!(json(None).is_null());
        assert!(check(Some(f64::NAN)).to_text().starts_with("FAILS"));
        assert!(check(None).to_text().starts_with("skipped"));
    }
}

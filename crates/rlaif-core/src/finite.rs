//! Numbers that JSON cannot hold, found before they are written as `null`.

use serde::{
    Serialize, Serializer,
    ser::{
        Error, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
        SerializeTupleStruct, SerializeTupleVariant,
    },
};

/// A NaN or an infinity in a value that is to be written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}{value} is not a finite number", at(.path))]
pub struct NotFinite {
    /// The place of the number, with dots and indices; empty for the value itself.
    pub path: String,
    /// The number.
    pub value: f64,
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("`{path}` = ") }
}

/// Checks that every number of `value` is finite.
///
/// JSON has no NaN and no infinity, and serde_json writes `null` for them: a result that nobody
/// computed. What is written is checked by this function first.
///
/// # Errors
/// [`NotFinite`] names the first number that is not.
///
/// ```
/// #[derive(serde::Serialize)]
/// struct Row { log_probs: Vec<f32> }
/// let error = rlaif_core::check_finite(&Row { log_probs: vec![-1., f32::NAN] }).unwrap_err();
/// assert_eq!(error.to_string(), "`log_probs[1]` = NaN is not a finite number");
/// assert!(rlaif_core::check_finite(&Row { log_probs: vec![-1.] }).is_ok());
/// ```
pub fn check_finite<T: Serialize + ?Sized>(value: &T) -> Result<(), NotFinite> {
    match value.serialize(Check) {
        // A value that cannot be serialised at all is reported by its writer.
        Ok(()) | Err(Fault::Other) => Ok(()),
        Err(Fault::Found(found)) => Err(found),
    }
}

/// A serializer that writes nothing and stops at a number that is not finite.
struct Check;

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Found(NotFinite),
    #[error("the value cannot be serialised")]
    Other,
}

impl Fault {
    /// The same, in the field `key`.
    fn within(self, key: &str) -> Self {
        let Self::Found(NotFinite { path, value }) = self else { return self };
        let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
        Self::Found(NotFinite { path: format!("{key}{dot}{path}"), value })
    }

    /// The same, in the element `index`.
    fn element(self, index: usize) -> Self {
        self.within(&format!("[{index}]"))
    }
}

impl Error for Fault {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self::Other
    }
}

/// The fields or elements of one value.
#[derive(Default)]
struct Parts {
    /// The variant that holds them, if any.
    within: &'static str,
    next: usize,
    key: String,
}

impl Parts {
    fn of(within: &'static str) -> Result<Self, Fault> {
        Ok(Self { within, ..Self::default() })
    }

    fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        let index = self.next;
        self.next += 1;
        value.serialize(Check).map_err(|fault| self.inside(fault.element(index)))
    }

    fn put<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<(), Fault> {
        value.serialize(Check).map_err(|fault| self.inside(fault.within(key)))
    }

    fn inside(&self, fault: Fault) -> Fault {
        if self.within.is_empty() { fault } else { fault.within(self.within) }
    }
}

macro_rules! nothing {
    ($($name:ident: $kind:ty),* $(,)?) => {
        $(fn $name(self, _: $kind) -> Result<(), Fault> { Ok(()) })*
    };
}

macro_rules! variants {
    ($($name:ident),*) => {
        $(fn $name(
            self,
            _: &str,
            _: u32,
            variant: &'static str,
            _: usize,
        ) -> Result<Parts, Fault> {
            Parts::of(variant)
        })*
    };
}

impl Serializer for Check {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Parts;
    type SerializeTuple = Parts;
    type SerializeTupleStruct = Parts;
    type SerializeTupleVariant = Parts;
    type SerializeMap = Parts;
    type SerializeStruct = Parts;
    type SerializeStructVariant = Parts;

    nothing! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
        serialize_u64: u64, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8],
        serialize_unit_struct: &'static str,
    }

    fn serialize_f32(self, value: f32) -> Result<(), Fault> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), Fault> {
        if value.is_finite() {
            return Ok(());
        }
        Err(Fault::Found(NotFinite { path: String::new(), value }))
    }

    fn serialize_none(self) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Fault> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &str, _: u32, _: &str) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &str,
        value: &T,
    ) -> Result<(), Fault> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &str,
        _: u32,
        variant: &str,
        value: &T,
    ) -> Result<(), Fault> {
        value.serialize(self).map_err(|fault| fault.within(variant))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts, Fault> {
        Parts::of("")
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts, Fault> {
        Parts::of("")
    }

    fn serialize_tuple_struct(self, _: &str, _: usize) -> Result<Parts, Fault> {
        Parts::of("")
    }

    variants!(serialize_tuple_variant, serialize_struct_variant);

    fn serialize_map(self, _: Option<usize>) -> Result<Parts, Fault> {
        Parts::of("")
    }

    fn serialize_struct(self, _: &str, _: usize) -> Result<Parts, Fault> {
        Parts::of("")
    }
}

macro_rules! elements {
    ($($kind:ident . $add:ident),*) => {
        $(impl $kind for Parts {
            type Ok = ();
            type Error = Fault;

            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
                self.add(value)
            }

            fn end(self) -> Result<(), Fault> {
                Ok(())
            }
        })*
    };
}

macro_rules! fields {
    ($($kind:ident),*) => {
        $(impl $kind for Parts {
            type Ok = ();
            type Error = Fault;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), Fault> {
                self.put(key, value)
            }

            fn end(self) -> Result<(), Fault> {
                Ok(())
            }
        })*
    };
}

elements!(
    SerializeSeq.serialize_element,
    SerializeTuple.serialize_element,
    SerializeTupleStruct.serialize_field,
    SerializeTupleVariant.serialize_field
);
fields!(SerializeStruct, SerializeStructVariant);

impl SerializeMap for Parts {
    type Ok = ();
    type Error = Fault;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Fault> {
        let key = serde_json::to_value(key).unwrap_or_default();
        self.key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        let key = std::mem::take(&mut self.key);
        self.put(&key, value)
    }

    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Serialize)]
    enum Form {
        Plain,
        One(f32),
        Two(u8, f64),
        Named { x: Option<f64> },
    }

    #[derive(Serialize)]
    struct Whole {
        forms: Vec<Form>,
        by_name: BTreeMap<u8, (f32, f32)>,
    }

    fn whole(form: Form, number: f32) -> Whole {
        Whole { forms: vec![Form::Plain, form], by_name: BTreeMap::from([(7, (1., number))]) }
    }

    #[test]
    fn a_number_is_found_wherever_it_stands_and_named_by_its_place() {
        let inf = f64::INFINITY;
        for (form, number, path) in [
            (Form::One(f32::NAN), 0., "forms[1].One"),
            (Form::Two(1, -inf), 0., "forms[1].Two[1]"),
            (Form::Named { x: Some(inf) }, 0., "forms[1].Named.x"),
            (Form::Named { x: None }, f32::NAN, "by_name.7[1]"),
        ] {
            assert_eq!(check_finite(&whole(form, number)).unwrap_err().path, path);
        }
        check_finite(&whole(Form::Named { x: Some(1e300) }, -1.)).unwrap();
        assert_eq!(check_finite(&f32::NAN).unwrap_err().to_string(), "NaN is not a finite number");
    }

    /// serde_json is the oracle: what it turns to null is found, and nothing else is.
    #[test]
    fn what_is_found_is_what_would_be_written_as_null() {
        for value in [0., -0., f64::MIN_POSITIVE, f64::MAX, f64::NAN, f64::INFINITY] {
            let lost = serde_json::to_string(&[value]).unwrap() == "[null]";
            assert_eq!(check_finite(&[value]).is_err(), lost, "{value}");
        }
    }
}

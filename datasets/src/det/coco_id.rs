//! Ids in COCO's files: whole numbers, also as `3.0`, or texts, as pycocotools takes them.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// An id of an image, a category or an annotation. Numbers come before texts; a number is never equal to a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CocoId {
    /// A number.
    Number(i64),
    /// A text.
    Text(Arc<str>),
}

impl From<i64> for CocoId {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl fmt::Display for CocoId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl Serialize for CocoId {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => json.serialize_i64(*number),
            Self::Text(text) => json.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for CocoId {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(IdVisitor)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = CocoId;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a whole number or a text")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<CocoId, E> {
        Ok(CocoId::Number(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<CocoId, E> {
        let wrong = |_| E::invalid_value(de::Unexpected::Unsigned(number), &self);
        i64::try_from(number).map(CocoId::Number).map_err(wrong)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<CocoId, E> {
        /// Beyond it not every whole number has a float of its own.
        const EXACT: f64 = (1u64 << 53) as f64;
        match number.fract() == 0.0 && number.abs() <= EXACT {
            true => Ok(CocoId::Number(number as i64)),
            false => Err(E::invalid_value(de::Unexpected::Float(number), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<CocoId, E> {
        Ok(CocoId::Text(text.into()))
    }
}

//! COCO's JSON files (<https://cocodataset.org/#format-data>): annotations and results. Keys that boxes do not need,
//! segmentations among them, are skipped whatever they hold.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

pub use super::coco_id::CocoId;

use crate::error::{DataError, Problem};
use crate::files;

/// An annotation file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CocoFile {
    /// Images, with or without boxes.
    pub images: Vec<CocoImage>,
    /// Boxes of all images; absent in files of unlabelled images.
    #[serde(default)]
    pub annotations: Vec<CocoAnnotation>,
    /// Classes.
    pub categories: Vec<CocoCategory>,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoImage {
    /// What annotations and results call it.
    pub id: CocoId,
    /// Width in pixels.
    #[serde(default, deserialize_with = "side", skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Height in pixels.
    #[serde(default, deserialize_with = "side", skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// File below the folder of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
}

/// A true box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoAnnotation {
    /// Number of the annotation, from 1: pycocotools takes 0 for "not matched".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CocoId>,
    /// Its image.
    pub image_id: CocoId,
    /// Its class.
    pub category_id: CocoId,
    /// Left, top, width, height in pixels from the image's upper left corner.
    pub bbox: [f64; 4],
    /// Area of the outline in square pixels; width times height where a file has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<f64>,
    /// Whether the box holds a group that is not told apart.
    #[serde(default, deserialize_with = "flag", serialize_with = "as_number")]
    pub iscrowd: bool,
    /// VOC's mark for objects that neither count as found nor as missed.
    #[serde(default, deserialize_with = "flag", skip_serializing_if = "is_false", serialize_with = "as_number")]
    pub difficult: bool,
    /// Another name of `difficult`. COCO's own metric does not look at it.
    #[serde(default, deserialize_with = "flag", skip_serializing_if = "is_false", serialize_with = "as_number")]
    pub ignore: bool,
}

impl CocoAnnotation {
    /// The area that sizes are told by.
    pub fn area(&self) -> f64 {
        self.area.unwrap_or(self.bbox[2] * self.bbox[3])
    }
}

/// A class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoCategory {
    /// What annotations and results call it; ids may have gaps.
    pub id: CocoId,
    /// Name.
    pub name: String,
}

/// A detection in a results file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoResult {
    /// Its image.
    pub image_id: CocoId,
    /// Its class.
    pub category_id: CocoId,
    /// Left, top, width, height in pixels of the original image.
    pub bbox: [f64; 4],
    /// Confidence.
    pub score: f64,
}

/// Largest JSON file. Its objects take about as much memory again.
const MAX_BYTES: u64 = 4 << 30;

/// Reads an annotation file; what does not fit is named by its place in the file, such as `annotations[3].bbox`.
pub fn read_annotations(path: &Path) -> Result<CocoFile, DataError> {
    const EXPECTED: &str = "COCO annotations {\"images\", \"annotations\", \"categories\"}";
    read(path, b'{', EXPECTED)
}

/// Reads a results file; what does not fit is named by its place in the file, such as `[3].bbox`.
pub fn read_results(path: &Path) -> Result<Vec<CocoResult>, DataError> {
    const EXPECTED: &str = "a list of detections [{\"image_id\", \"category_id\", \"bbox\", \"score\"}, ...]";
    read(path, b'[', EXPECTED)
}

/// Reads a JSON file whose outermost bracket is `opening`.
fn read<T: DeserializeOwned>(path: &Path, opening: u8, expected: &str) -> Result<T, DataError> {
    let problem = |found: String| Problem::new(path, found, expected);
    let bytes = files::read_data(path, MAX_BYTES, expected)?;
    let bytes = files::without_mark(bytes).map_err(problem)?;
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Err(problem("an empty file".into()).into()),
        Some(b'{') if opening != b'{' => return Err(problem("an object found".into()).into()),
        Some(b'[') if opening != b'[' => return Err(problem("a list found".into()).into()),
        Some(_) => {}
    }
    serde_json::from_slice(&bytes).map_err(|error| problem(place::<T>(&bytes, &error)).into())
}

/// Reads the bytes again, slower, for the place of the error.
fn place<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> String {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let found = constant(bytes, error).map(|found| format!("{found} found, expected a number"));
    match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Err(located) if located.path().iter().len() > 0 => {
            let found = found.unwrap_or_else(|| in_words(&located.inner().to_string()));
            format!("{}: {found}", located.path())
        }
        _ => found.unwrap_or_else(|| in_words(&error.to_string())),
    }
}

/// What Python writes for numbers that JSON does not have, if that is where the error is.
fn constant(bytes: &[u8], error: &serde_json::Error) -> Option<&'static str> {
    let line = bytes.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    let from = error.column().saturating_sub(2);
    let near = line.get(from..line.len().min(from + 12))?;
    let starts = |word: &&str| (0..3).any(|at| near.get(at..).is_some_and(|rest| rest.starts_with(word.as_bytes())));
    ["-Infinity", "Infinity", "NaN"].into_iter().find(starts)
}

/// serde's "invalid type: map, expected a sequence at line 1 column 0" in the words of JSON.
fn in_words(message: &str) -> String {
    let Some((_, rest)) = message.split_once("invalid type: ").or_else(|| message.split_once("invalid value: ")) else {
        return message.to_owned();
    };
    let (found, expected) = rest.split_once(", expected ").unwrap_or((rest, "something else"));
    let found = match found {
        "map" => "an object",
        "sequence" => "a list",
        "null" => "null",
        other => ["string ", "integer ", "floating point ", "boolean "]
            .iter()
            .find_map(|kind| other.strip_prefix(kind))
            .map_or(other, |value| value.trim_matches('`')),
    };
    let expected = expected.replace("a sequence", "a list");
    let expected = match expected.split_once("struct ") {
        Some((_, rest)) => format!("an object{}", rest.trim_start_matches(char::is_alphanumeric)),
        None => expected,
    };
    format!("{found} found, expected {expected}")
}

/// 0, 1, false or true; other numbers but 0 count as true, as in Python.
fn flag<'de, D: Deserializer<'de>>(json: D) -> Result<bool, D::Error> {
    struct Flag;

    impl Visitor<'_> for Flag {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("0 or 1")
        }

        fn visit_bool<E>(self, flag: bool) -> Result<bool, E> {
            Ok(flag)
        }

        fn visit_u64<E>(self, number: u64) -> Result<bool, E> {
            Ok(number != 0)
        }

        fn visit_i64<E>(self, number: i64) -> Result<bool, E> {
            Ok(number != 0)
        }

        fn visit_f64<E>(self, number: f64) -> Result<bool, E> {
            Ok(number != 0.0)
        }

        fn visit_unit<E>(self) -> Result<bool, E> {
            Ok(false)
        }
    }

    json.deserialize_any(Flag)
}

/// A side of an image, also as `640.0` or "640"; nothing where the file does not tell it in a way that could be checked.
fn side<'de, D: Deserializer<'de>>(json: D) -> Result<Option<u32>, D::Error> {
    let value = Value::deserialize(json)?;
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    Ok(number.filter(|side| side.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(side)).map(|side| side as u32))
}

fn as_number<S: serde::Serializer>(flag: &bool, json: S) -> Result<S::Ok, S::Error> {
    json.serialize_u8((*flag).into())
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T: DeserializeOwned>(json: &str) -> String {
        let error = serde_json::from_str::<T>(json).map(drop).unwrap_err();
        place::<T>(json.as_bytes(), &error)
    }

    #[test]
    fn ids_are_whole_numbers_or_texts() {
        let ids: Vec<CocoId> = serde_json::from_str(r#"[3, 3.0, 1e3, "0003", -1]"#).unwrap();
        let expected = [3.into(), 3.into(), 1000.into(), CocoId::Text("0003".into()), (-1).into()];
        assert_eq!(ids, expected);
        assert_eq!(serde_json::to_string(&ids).unwrap(), r#"[3,3,1000,"0003",-1]"#);
        assert!(error::<CocoId>("1.5").starts_with("1.5 found, expected a whole number or a text"));
        assert!(error::<CocoId>("true").starts_with("true found, expected a whole number or a text"));
        assert!(error::<CocoId>("18446744073709551615").contains("found, expected a whole number"));
    }

    #[test]
    fn errors_are_in_the_words_of_json() {
        fn annotation(key: &str, value: &str) -> String {
            let all = [("image_id", "1"), ("category_id", "1"), ("bbox", "[1,2,3,4]"), ("iscrowd", "0")];
            let pairs = all.map(|(k, v)| format!("\"{k}\":{}", if k == key { value } else { v }));
            format!("[{{{}}}]", pairs.join(","))
        }
        let error = |key: &str, value: &str| error::<Vec<CocoAnnotation>>(&annotation(key, value));
        assert!(error("iscrowd", "\"0\"").starts_with("[0].iscrowd: \"0\" found, expected 0 or 1"));
        assert!(error("bbox", "{}").starts_with("[0].bbox: an object found, expected an array of length 4"));
        for constant in ["NaN", "Infinity", "-Infinity"] {
            let bbox = format!("[0, {constant}, 1, 1]");
            let message = error("bbox", &bbox);
            assert_eq!(message, format!("[0].bbox[1]: {constant} found, expected a number"));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        for (text, found) in [("{\"annotations\": []}", "an object found, expected a list"), ("\n", "an empty file")] {
            std::fs::write(&path, text).unwrap();
            let message = read_results(&path).unwrap_err().to_string();
            assert!(message.contains(found), "{message}");
        }
        std::fs::write(&path, "[1]").unwrap();
        assert!(read_annotations(&path).unwrap_err().to_string().contains("a list found, expected COCO annotations"));
    }

    #[test]
    fn sides_that_cannot_be_read_are_not_checked() {
        let size =
            |json: &str| serde_json::from_str::<CocoImage>(&format!("{{\"id\":1,\"width\":{json}}}")).unwrap().width;
        assert_eq!(
            ["640", "640.0", "\"640\"", "null", "0", "-3", "\"?\""].map(size),
            [Some(640), Some(640), Some(640), None, None, None, None]
        );
    }
}

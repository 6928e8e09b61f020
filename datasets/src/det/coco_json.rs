//! COCO's JSON files (<https://cocodataset.org/#format-data>): annotations and results. Keys that boxes do not need,
//! segmentations among them, are skipped whatever they hold.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{DataError, Problem};

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
    pub id: i64,
    /// Width in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    pub id: Option<i64>,
    /// Its image.
    pub image_id: i64,
    /// Its class.
    pub category_id: i64,
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
    pub id: i64,
    /// Name.
    pub name: String,
}

/// A detection in a results file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoResult {
    /// Its image.
    pub image_id: i64,
    /// Its class.
    pub category_id: i64,
    /// Left, top, width, height in pixels of the original image.
    pub bbox: [f64; 4],
    /// Confidence.
    pub score: f64,
}

/// Reads a JSON file; what does not fit is named by its place in the file, such as `annotations[3].bbox`.
pub fn read<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<T, DataError> {
    let bytes = fs::read(path).map_err(|error| DataError::unreadable(path, &error, expected))?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::new(path, place::<T>(&bytes, &error), expected).into())
}

/// Reads the bytes again, slower, for the place of the error.
fn place<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> String {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Err(located) if located.path().iter().len() > 0 => format!("{}: {}", located.path(), located.inner()),
        _ => error.to_string(),
    }
}

/// 0, 1, false or true; other numbers but 0 count as true, as in Python.
fn flag<'de, D: Deserializer<'de>>(json: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Bool(bool),
        Number(f64),
        Null(()),
    }
    Ok(match Flag::deserialize(json)? {
        Flag::Bool(flag) => flag,
        Flag::Number(number) => number != 0.0,
        Flag::Null(()) => false,
    })
}

fn as_number<S: serde::Serializer>(flag: &bool, json: S) -> Result<S::Ok, S::Error> {
    json.serialize_u8((*flag).into())
}

fn is_false(flag: &bool) -> bool {
    !flag
}

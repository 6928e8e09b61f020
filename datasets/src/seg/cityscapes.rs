//! Cityscapes in its official layout (Cordts et al. 2016, <https://arxiv.org/abs/1604.01685>).
//!
//! Images are `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`. Labels are `gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png`
//! where somebody has made them, else the `*_gtFine_labelIds.png` of the download, whose 34 ids are mapped to the 19
//! train ids. The labels of the test split are dummies and are not read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_set::{FileSet, Label, LabelIds, Pair};
use super::palette;
use super::{Classes, IGNORE, SegDataset};
use crate::error::{DataError, Problem};
use crate::files;
use crate::split::Split;

const IMAGE_SUFFIX: &str = "_leftImg8bit.png";
const TRAIN_IDS_SUFFIX: &str = "_gtFine_labelTrainIds.png";
const LABEL_IDS_SUFFIX: &str = "_gtFine_labelIds.png";

/// Number of ids that a labelIds file may hold; the licence plate's -1 is stored as 255.
const NUM_LABEL_IDS: u8 = 34;

/// Opens one split of the set below `root`.
pub fn open(root: &Path, split: Split) -> Result<impl SegDataset + use<>, DataError> {
    let classes = palette::cityscapes();
    let images = root.join("leftImg8bit").join(split.as_str());
    let labels = root.join("gtFine").join(split.as_str());
    let decoders = (LabelIds::identity(classes.len()), label_ids(&classes.file_ids));
    let found = find(&images, IMAGE_SUFFIX)?;
    if found.is_empty() {
        return Err(Problem::new(&images, "no image", format!("CITY/*{IMAGE_SUFFIX}")).into());
    }
    if split == Split::Test {
        let pairs = found.into_iter().map(|Found { base, path, .. }| Pair { name: base, image: path, label: None });
        return Ok(FileSet::new(classes, pairs.collect(), Vec::new()));
    }
    let (mut train_ids, mut label_ids) =
        (by_place(find(&labels, TRAIN_IDS_SUFFIX)?), by_place(find(&labels, LABEL_IDS_SUFFIX)?));
    let pairs = found.into_iter().map(|Found { city, base, path }| {
        let missing = labels.join(&city).join(format!("{base}{LABEL_IDS_SUFFIX}"));
        let place = (city, base);
        let (ready, official) = (train_ids.remove(&place), label_ids.remove(&place));
        let label = match ready {
            Some(path) => Label { path, ids: decoders.0.clone() },
            None => Label { path: official.unwrap_or(missing), ids: decoders.1.clone() },
        };
        Pair { name: place.1, image: path, label: Some(label) }
    });
    let pairs = pairs.collect();
    let orphans = train_ids.into_iter().chain(label_ids).map(|((city, base), path)| {
        Problem::new(&path, "a label without image", format!("an image {city}/{base}{IMAGE_SUFFIX}"))
    });
    Ok(FileSet::new(classes, pairs, orphans.collect()))
}

/// Files by city and base.
fn by_place(found: Vec<Found>) -> BTreeMap<(String, String), PathBuf> {
    found.into_iter().map(|Found { city, base, path }| ((city, base), path)).collect()
}

/// What each value of a labelIds file is, by value: a train id, [`IGNORE`] for void, nothing for values that no such file
/// holds; and the classes.
pub fn cityscapes_label_ids() -> ([Option<u8>; 256], Classes) {
    let classes = palette::cityscapes();
    (*label_ids(&classes.file_ids).train_ids(), classes)
}

/// Meaning of labelIds files.
fn label_ids(file_ids: &[u8]) -> Arc<LabelIds> {
    let ignored = (0..NUM_LABEL_IDS).chain([255]).map(|id| (id, IGNORE));
    let evaluated = file_ids.iter().zip(0..).map(|(id, train_id)| (*id, train_id));
    LabelIds::new(ignored.chain(evaluated), "a Cityscapes label id 0..=33 or 255")
}

/// A file `CITY/BASE + suffix`.
struct Found {
    city: String,
    base: String,
    path: PathBuf,
}

/// The files below a folder that end in a suffix, in the order of cities and names.
fn find(folder: &Path, suffix: &str) -> Result<Vec<Found>, DataError> {
    let mut found = Vec::new();
    for city in files::list(folder, "a folder with one sub-folder per city")?.iter().filter(|path| path.is_dir()) {
        for path in files::list(city, "a readable folder")? {
            let name = file_name(&path);
            if let Some(base) = base(&name, suffix) {
                found.push(Found { city: file_name(city), base: base.to_owned(), path });
            }
        }
    }
    Ok(found)
}

/// A name without a suffix, whose case does not matter.
fn base<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let (base, end) = name.split_at_checked(name.len().checked_sub(suffix.len())?)?;
    (!base.is_empty() && end.eq_ignore_ascii_case(suffix)).then_some(base)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

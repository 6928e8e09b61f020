//! Cityscapes in its official layout (Cordts et al. 2016, <https://arxiv.org/abs/1604.01685>).
//!
//! Images are `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`. Labels are `gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png`
//! where somebody has made them, else the `*_gtFine_labelIds.png` of the download, whose 34 ids are mapped to the 19
//! train ids. The labels of the test split are dummies and are not read.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_set::{FileSet, Label, LabelIds, Pair};
use super::palette;
use super::{IGNORE, SegDataset};
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
    let pairs: Vec<Pair> = find(&images, &[IMAGE_SUFFIX])?
        .into_iter()
        .map(|Found { city, base, path }| {
            let file = |suffix| labels.join(&city).join(format!("{base}{suffix}"));
            let label = (split != Split::Test).then(|| match file(TRAIN_IDS_SUFFIX) {
                path if path.exists() => Label { path, ids: decoders.0.clone() },
                _ => Label { path: file(LABEL_IDS_SUFFIX), ids: decoders.1.clone() },
            });
            Pair { name: base, image: path, label }
        })
        .collect();
    if pairs.is_empty() {
        return Err(Problem::new(&images, "no image", format!("CITY/*{IMAGE_SUFFIX}")).into());
    }
    let orphans = if split == Split::Test { Vec::new() } else { labels_without_image(&labels, &pairs)? };
    Ok(FileSet { classes, pairs, orphans })
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

/// The files below a folder that end in one of the suffixes, in the order of cities and names.
fn find(folder: &Path, suffixes: &[&str]) -> Result<Vec<Found>, DataError> {
    let mut found = Vec::new();
    for city in files::list(folder, "a folder with one sub-folder per city")?.iter().filter(|path| path.is_dir()) {
        for path in files::list(city, "a readable folder")? {
            let name = file_name(&path);
            if let Some(base) = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)) {
                found.push(Found { city: file_name(city), base: base.to_owned(), path });
            }
        }
    }
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn labels_without_image(labels: &Path, pairs: &[Pair]) -> Result<Vec<Problem>, DataError> {
    let known: HashSet<&str> = pairs.iter().map(|pair| &*pair.name).collect();
    let mut found = find(labels, &[TRAIN_IDS_SUFFIX, LABEL_IDS_SUFFIX])?;
    found.retain(|label| !known.contains(&*label.base));
    let problem = |Found { city, base, path }: Found| {
        Problem::new(&path, "a label without image", format!("an image {city}/{base}{IMAGE_SUFFIX}"))
    };
    Ok(found.into_iter().map(problem).collect())
}

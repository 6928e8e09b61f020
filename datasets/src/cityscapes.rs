//! Cityscapes in its official layout (Cordts et al. 2016, <https://arxiv.org/abs/1604.01685>).
//!
//! Images are `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`. Labels are `gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png`
//! where somebody has made them, else the `*_gtFine_labelIds.png` of the download, whose 34 ids are mapped to the 19
//! train ids. The labels of the test split are dummies and are not read.

use std::collections::HashSet;
use std::path::Path;

use crate::dataset::{IGNORE, SegDataset, Split};
use crate::error::{DataError, Problem};
use crate::file_set::{FileSet, Label, LabelIds, Pair};
use crate::{files, palette};

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
    let mut pairs = Vec::new();
    for (city, base) in bases(&images, &[IMAGE_SUFFIX])? {
        let image = images.join(&city).join(format!("{base}{IMAGE_SUFFIX}"));
        let file = |suffix| labels.join(&city).join(format!("{base}{suffix}"));
        let label = (split != Split::Test).then(|| match file(TRAIN_IDS_SUFFIX) {
            path if path.exists() => Label {
                path,
                ids: decoders.0.clone(),
            },
            _ => Label {
                path: file(LABEL_IDS_SUFFIX),
                ids: decoders.1.clone(),
            },
        });
        pairs.push(Pair {
            name: base,
            image,
            label,
        });
    }
    if pairs.is_empty() {
        return Err(Problem::new(&images, "no image", format!("CITY/*{IMAGE_SUFFIX}")).into());
    }
    let orphans = if split == Split::Test {
        Vec::new()
    } else {
        labels_without_image(&labels, &pairs)?
    };
    Ok(FileSet {
        classes,
        pairs,
        orphans,
    })
}

/// Meaning of labelIds files.
fn label_ids(file_ids: &[u8]) -> std::sync::Arc<LabelIds> {
    let ignored = (0..NUM_LABEL_IDS).chain([255]).map(|id| (id, IGNORE));
    let evaluated = file_ids.iter().zip(0..).map(|(id, train_id)| (*id, train_id));
    LabelIds::new(ignored.chain(evaluated), "a Cityscapes label id 0..=33 or 255")
}

/// City and base name of every file `CITY/BASE + suffix` in a folder.
fn bases(folder: &Path, suffixes: &[&str]) -> Result<Vec<(String, String)>, DataError> {
    let mut found = Vec::new();
    for city in files::list(folder, "a folder with one sub-folder per city")?
        .iter()
        .filter(|path| path.is_dir())
    {
        let city_name = file_name(city);
        for file in files::list(city, "a readable folder")? {
            let name = file_name(&file);
            let base = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
            found.extend(base.map(|base| (city_name.clone(), base.to_owned())));
        }
    }
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn labels_without_image(labels: &Path, pairs: &[Pair]) -> Result<Vec<Problem>, DataError> {
    let known: HashSet<&str> = pairs.iter().map(|pair| &*pair.name).collect();
    let lost = bases(labels, &[TRAIN_IDS_SUFFIX, LABEL_IDS_SUFFIX])?
        .into_iter()
        .filter(|(_, base)| !known.contains(&**base));
    let problem = |(city, base)| {
        let path = labels.join(&city).join(format!("{base}_gtFine_*.png"));
        Problem::new(
            &path,
            "a label without image",
            format!("an image {city}/{base}{IMAGE_SUFFIX} beside it"),
        )
    };
    Ok(lost.map(problem).collect())
}

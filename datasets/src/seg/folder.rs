//! A plain folder set, for people's own data.
//!
//! `images/` holds PNG or JPEG files, `masks/` one-channel PNGs (grey or palette) of the same stem whose values are
//! class ids, `classes.txt` one name per line with an optional colour. Splits are either sub-folders `images/train`,
//! `masks/train`, `images/val`, ... or lists of stems `train.txt`, `val.txt`. Masks of the test split are optional.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_set::{FileSet, Label, LabelIds, Pair};
use super::palette;
use super::{Classes, IGNORE, SegDataset};
use crate::error::{DataError, Problem};
use crate::files;
use crate::split::Split;

const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Opens one split of the set below `root`.
pub fn open(root: &Path, split: Split) -> Result<impl SegDataset + use<>, DataError> {
    let classes = read_classes(&root.join("classes.txt"))?;
    let ids = LabelIds::identity(classes.len());
    let list = root.join(format!("{split}.txt"));
    let (pairs, orphans) = if list.exists() {
        (listed(root, &list, split, &ids)?, Vec::new())
    } else {
        sub_folders(&root.join("images").join(split.as_str()), &root.join("masks").join(split.as_str()), split, &ids)?
    };
    Ok(FileSet { classes, pairs, orphans })
}

/// Pairs of a list of stems.
fn listed(root: &Path, list: &Path, split: Split, ids: &Arc<LabelIds>) -> Result<Vec<Pair>, DataError> {
    let text = files::read_text(list, "a list of file stems")?;
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    for stem in text.lines().map(str::trim).filter(|stem| !stem.is_empty()) {
        if !seen.insert(stem) {
            return Err(Problem::new(list, format!("{stem} twice"), "every stem once").into());
        }
        pairs.push(pair(stem, listed_image(&root.join("images"), stem), &root.join("masks"), split, ids));
    }
    if pairs.is_empty() {
        return Err(Problem::new(list, "an empty list", "one file stem per line").into());
    }
    Ok(pairs)
}

/// The image file of a stem; where there is none, the PNG that should have been there.
fn listed_image(images: &Path, stem: &str) -> PathBuf {
    let candidates = EXTENSIONS.map(|extension| images.join(format!("{stem}.{extension}")));
    candidates.iter().find(|path| path.exists()).unwrap_or(&candidates[0]).clone()
}

fn pair(stem: &str, image: PathBuf, masks: &Path, split: Split, ids: &Arc<LabelIds>) -> Pair {
    let path = masks.join(format!("{stem}.png"));
    let has_label = split != Split::Test || path.exists();
    Pair { name: stem.to_owned(), image, label: has_label.then(|| Label { path, ids: ids.clone() }) }
}

/// Pairs of a folder of images and one of masks, and the masks that have no image.
fn sub_folders(
    images: &Path,
    masks: &Path,
    split: Split,
    ids: &Arc<LabelIds>,
) -> Result<(Vec<Pair>, Vec<Problem>), DataError> {
    let expected = format!("a folder of PNG or JPEG images (or a list {split}.txt of stems beside images/)");
    let stems = stems(images, &expected, &EXTENSIONS)?;
    if stems.is_empty() {
        return Err(Problem::new(images, "no image", expected).into());
    }
    let mut orphans = Vec::new();
    if split != Split::Test || masks.exists() {
        for (stem, mask) in self::stems(masks, "a folder of PNG masks", &EXTENSIONS[..1])? {
            if !stems.contains_key(&stem) {
                let partner = format!("an image {stem}.png or {stem}.jpg in {}", images.display());
                orphans.push(Problem::new(&mask, "a mask without image", partner));
            }
        }
    }
    let pairs = stems.into_iter().map(|(stem, image)| pair(&stem, image, masks, split, ids)).collect();
    Ok((pairs, orphans))
}

/// The files of a folder that have one of the extensions, by stem.
fn stems(folder: &Path, expected: &str, extensions: &[&str]) -> Result<BTreeMap<String, PathBuf>, DataError> {
    let mut found = BTreeMap::new();
    for path in files::list(folder, expected)? {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if !extensions.contains(&&*extension) {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(twin) = found.insert(stem, path.clone()) {
            let same = format!("the same stem as {}", twin.display());
            return Err(Problem::new(&path, same, "one file per stem").into());
        }
    }
    Ok(found)
}

fn read_classes(path: &Path) -> Result<Classes, DataError> {
    let text = files::read_text(path, "one class name per line, a colour `R G B` after it if wanted")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (names, colors): (Vec<_>, Vec<_>) = lines.enumerate().map(|(i, line)| parse_class(i, line)).unzip();
    if names.is_empty() || names.len() > usize::from(IGNORE) {
        return Err(Problem::new(path, format!("{} classes", names.len()), "1 to 255 class names, one per line").into());
    }
    let file_ids = (0..names.len() as u8).collect();
    Ok(Classes { names, colors, file_ids })
}

/// `traffic light 250 170 30`: a name, which may have blanks, and an optional colour.
fn parse_class(i: usize, line: &str) -> (String, [u8; 3]) {
    let words: Vec<&str> = line.split_whitespace().collect();
    if let [name @ .., r, g, b] = words.as_slice()
        && let (false, Ok(r), Ok(g), Ok(b)) = (name.is_empty(), r.parse(), g.parse(), b.parse())
    {
        return (name.join(" "), [r, g, b]);
    }
    (words.join(" "), palette::distinct(i))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_lines_may_carry_a_colour_and_blanks() {
        assert_eq!(parse_class(0, "traffic light\t250 170 30"), ("traffic light".to_owned(), [250, 170, 30]));
        assert_eq!(parse_class(1, "road"), ("road".to_owned(), palette::distinct(1)));
        assert_eq!(parse_class(2, "1 2 3"), ("1 2 3".to_owned(), palette::distinct(2)));
        assert_eq!(parse_class(0, "a 300 0 0").0, "a 300 0 0");
    }
}

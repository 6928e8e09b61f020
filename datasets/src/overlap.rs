//! Images that are trained on and scored on.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::files;
use crate::tally::Tally;

/// A warning about image files that both splits hold: the same file, or one of the same name with the same bytes.
pub fn shared_images<'a>(
    train: impl Iterator<Item = Option<&'a Path>>,
    val: impl Iterator<Item = Option<&'a Path>>,
) -> Option<String> {
    let mut by_name: HashMap<_, Vec<&Path>> = HashMap::new();
    for path in train.flatten() {
        by_name.entry(path.file_name()).or_default().push(path);
    }
    let (mut shared, mut warnings) = (Tally::default(), Vec::new());
    for path in val.flatten() {
        let twins = by_name.get(&path.file_name()).map_or(&[][..], Vec::as_slice);
        if let Some(twin) = twins.iter().find(|twin| is_same(twin, path)) {
            shared.add(|| match *twin == path {
                true => path.display().to_string(),
                false => format!("{} and {}", twin.display(), path.display()),
            });
        }
    }
    shared.report("images are in the train and in the val split, whose scores are then no measure", &mut warnings);
    warnings.pop()
}

fn is_same(a: &Path, b: &Path) -> bool {
    let length = |path| fs::metadata(path).ok().map(|file| file.len());
    let bytes = |path| files::read_bytes(path, crate::images::MAX_BYTES).ok();
    a == b || (length(a).is_some() && length(a) == length(b) && bytes(a).is_some() && bytes(a) == bytes(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_file_and_equal_copies_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let train = [file("train/a", "one"), file("train/b", "two"), file("all/c", "xyz")];
        let val = [file("val/a", "one"), file("val/b", "owt"), file("all/c", "xyz")];
        let all = |paths: &[_]| paths.iter().map(|path: &std::path::PathBuf| Some(path.clone())).collect::<Vec<_>>();
        let (train, val) = (all(&train), all(&val));
        let warn = |val: &[Option<std::path::PathBuf>]| {
            shared_images(train.iter().map(|path| path.as_deref()), val.iter().map(|path| path.as_deref()))
        };
        let warning = warn(&val).unwrap();
        assert!(
            warning.starts_with("2 images are in the train and in the val split") && warning.contains("train/a"),
            "{warning}"
        );
        assert_eq!(warn(&val[1..2]), None);
    }
}

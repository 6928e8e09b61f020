//! Image folders in ImageNet's layout: `train/CLASS/IMAGE`, `val/CLASS/IMAGE`. Classes are the sub-folders of `train` in the
//! order of their names.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use image::RgbImage;

use super::ClassifyDataset;
use crate::error::{DataError, Problem};
use crate::files::{self, IMAGE_EXTENSIONS};
use crate::images;
use crate::split::Split;

/// Images on disk.
struct ImageFolder {
    images: Vec<(PathBuf, u16)>,
    classes: Vec<String>,
    orphans: Vec<Problem>,
}

/// Opens one split of the set below `root`.
pub fn open(root: &Path, split: Split) -> Result<impl ClassifyDataset + use<>, DataError> {
    let train = root.join(Split::Train.as_str());
    let expected = "a folder with one sub-folder of images per class";
    let folders = sub_folders(&train, expected)?;
    if let Some(folder) = folders.iter().find(|folder| folder.to_str().is_none()) {
        return Err(Problem::new(folder, "a name that is no UTF-8", "the name of a class").into());
    }
    let classes: Vec<String> = folders.iter().map(|path| file_name(path)).collect();
    if classes.is_empty() || classes.len() > usize::from(u16::MAX) {
        return Err(Problem::new(&train, format!("{} sub-folders", classes.len()), expected).into());
    }
    let folder = root.join(split.as_str());
    let (mut images, mut orphans) = (Vec::new(), Vec::new());
    for path in sub_folders(&folder, expected)? {
        let Some(class) = classes.iter().position(|class| *class == file_name(&path)) else {
            let expected = format!("a class that {} has", train.display());
            return Err(Problem::new(&path, "an unknown class", expected).into());
        };
        for file in files::list(&path, "a folder of images")? {
            match files::has_extension(&file, &IMAGE_EXTENSIONS) {
                true => images.push((file, class as u16)),
                false => orphans.push(Problem::new(&file, "no image by its extension", "png, jpg or jpeg")),
            }
        }
    }
    if images.is_empty() {
        return Err(Problem::new(&folder, "no image", expected).into());
    }
    Ok(ImageFolder { images, classes, orphans })
}

fn sub_folders(folder: &Path, expected: &str) -> Result<Vec<PathBuf>, DataError> {
    Ok(files::list(folder, expected)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl ClassifyDataset for ImageFolder {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn name(&self, i: usize) -> Cow<'_, str> {
        let (path, class) = &self.images[i];
        format!("{}/{}", self.classes[usize::from(*class)], file_name(path)).into()
    }

    fn image(&self, i: usize) -> Result<RgbImage, DataError> {
        images::read_image(&self.images[i].0)
    }

    fn label(&self, i: usize) -> usize {
        self.images[i].1.into()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn orphans(&self) -> &[Problem] {
        &self.orphans
    }

    fn image_path(&self, i: usize) -> Option<&Path> {
        Some(&self.images[i].0)
    }
}

//! Synthetic street scenes with Cityscapes' classes: for demos, tests and timing without any download.
//!
//! Every image is a function of (seed, split, index). A scene has a road in perspective with pavements, house fronts,
//! trees and fences beside it, traffic and people at sizes that fit their distance, and weather. Colours overlap
//! between classes, so that place and shape matter, but a small network learns most of it in minutes.

mod scene;
mod things;

use std::fs;
use std::path::Path;

use image::{GrayImage, RgbImage};
use rayon::prelude::*;

use crate::error::{DataError, Problem};
use crate::rng;
use crate::seg::palette;
use crate::seg::{Classes, IGNORE, Sample, SegDataset};
use crate::size::Size;
use crate::split::Split;

/// The label id that unlabelled pixels get on disk: Cityscapes' "ego vehicle", which is what they show.
const IGNORED_LABEL_ID: u8 = 1;

/// Synthetic scenes, drawn when they are loaded.
pub struct SynthDataset {
    names: Vec<String>,
    size: Size,
    seed: u64,
    split: Split,
    classes: Classes,
}

impl SynthDataset {
    /// The first `len` scenes of a split.
    ///
    /// # Errors
    /// If `len` is zero.
    pub fn new(len: usize, size: Size, seed: u64, split: Split) -> Result<Self, DataError> {
        if len == 0 {
            let path = format!("synthetic {split} split");
            return Err(Problem::new(path.as_ref(), "no image", "at least one (the test split has none)").into());
        }
        let names = (0..len).map(name).collect();
        Ok(Self { names, size, seed, split, classes: palette::cityscapes() })
    }
}

/// Name of a scene in the manner of Cityscapes: city, sequence, frame.
fn name(i: usize) -> String {
    format!("synth_{:06}_{:06}", i / 1_000_000, i % 1_000_000)
}

impl SegDataset for SynthDataset {
    fn len(&self) -> usize {
        self.names.len()
    }

    fn name(&self, i: usize) -> &str {
        &self.names[i]
    }

    fn load(&self, i: usize) -> Result<Sample, DataError> {
        let mut rng = rng::stream(self.seed, &format!("synth/{}", self.split), i as u64);
        let (image, label) = scene::draw(self.size, &mut rng);
        Ok(Sample { image, label: Some(label) })
    }

    fn classes(&self) -> &Classes {
        &self.classes
    }

    fn has_labels(&self) -> bool {
        true
    }
}

/// Writes scenes of (height, width) `size` below `dir` in Cityscapes' layout. Reading them back gives the very samples
/// of [`SynthDataset`].
///
/// # Errors
/// If `dir` holds a set already, cannot be written to, or a number is zero.
pub fn write_cityscapes(
    dir: &Path,
    num_train: usize,
    num_val: usize,
    size: (u32, u32),
    seed: u64,
) -> Result<(), DataError> {
    if dir.join("leftImg8bit").exists() {
        return Err(Problem::new(dir, "a data set already (leftImg8bit)", "a new or empty folder").into());
    }
    let size = Size::checked(size.0, size.1).map_err(|_| DataError::Setting {
        key: "size",
        found: format!("{}x{}", size.0, size.1),
        expected: "at least 1 pixel each, and at most 67108864 in all",
    })?;
    for (split, len) in [(Split::Train, num_train), (Split::Val, num_val)] {
        let scenes = SynthDataset::new(len, size, seed, split)?;
        let images = dir.join("leftImg8bit").join(split.as_str()).join("synth");
        let labels = dir.join("gtFine").join(split.as_str()).join("synth");
        for folder in [&images, &labels] {
            fs::create_dir_all(folder).map_err(|error| DataError::write(folder, error))?;
        }
        (0..len).into_par_iter().try_for_each(|i| scenes.write(i, &images, &labels))?;
    }
    Ok(())
}

impl SynthDataset {
    fn write(&self, i: usize, images: &Path, labels: &Path) -> Result<(), DataError> {
        let Sample { image, label } = self.load(i)?;
        let label = label.map(|label| self.to_label_ids(label)).expect("scenes are labelled");
        let image_path = images.join(format!("{}_leftImg8bit.png", self.name(i)));
        let label_path = labels.join(format!("{}_gtFine_labelIds.png", self.name(i)));
        save(&image_path, |path| RgbImage::save(&image, path))?;
        save(&label_path, |path| GrayImage::save(&label, path))
    }

    fn to_label_ids(&self, mut label: GrayImage) -> GrayImage {
        for pixel in label.iter_mut() {
            *pixel = if *pixel == IGNORE { IGNORED_LABEL_ID } else { self.classes.file_ids[usize::from(*pixel)] };
        }
        label
    }
}

fn save(path: &Path, write: impl FnOnce(&Path) -> image::ImageResult<()>) -> Result<(), DataError> {
    write(path).map_err(|error| DataError::write(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenes(seed: u64, split: Split) -> SynthDataset {
        SynthDataset::new(40, Size::new(96, 192), seed, split).unwrap()
    }

    #[test]
    fn a_scene_is_a_function_of_seed_split_and_index() {
        let first = scenes(1, Split::Train).load(3).unwrap();
        assert_eq!(first, scenes(1, Split::Train).load(3).unwrap());
        for other in [scenes(2, Split::Train).load(3), scenes(1, Split::Val).load(3), scenes(1, Split::Train).load(4)] {
            assert_ne!(first.label, other.unwrap().label);
        }
    }

    #[test]
    fn forty_scenes_show_at_least_fourteen_classes_and_much_road() {
        let mut pixels = [0; 256];
        for i in 0..40 {
            scenes(0, Split::Train).load(i).unwrap().label.unwrap().iter().for_each(|id| pixels[usize::from(*id)] += 1);
        }
        let total: usize = pixels.iter().sum();
        assert!(pixels[..19].iter().filter(|count| **count > total / 2000).count() >= 14, "{:?}", &pixels[..19]);
        assert!(pixels[19..255].iter().all(|count| *count == 0));
        let percent = |id: usize| pixels[id] * 100 / total;
        assert!(percent(0) >= 15 && percent(255) < 10, "road {} %, ignored {} %", percent(0), percent(255));
    }

    #[test]
    fn scenes_of_any_size_can_be_drawn() {
        for (h, w) in [(1, 1), (2, 300), (300, 2), (33, 65)] {
            let sample = SynthDataset::new(1, Size::new(h, w), 0, Split::Train).unwrap().load(0).unwrap();
            assert_eq!(sample.image.dimensions(), (w, h));
        }
    }

    #[test]
    fn a_folder_that_holds_a_set_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        write_cityscapes(dir.path(), 1, 1, (8, 16), 0).unwrap();
        let error = write_cityscapes(dir.path(), 1, 1, (8, 16), 0).unwrap_err().to_string();
        assert!(error.contains(dir.path().to_str().unwrap()) && error.contains("new or empty folder"), "{error}");
    }
}

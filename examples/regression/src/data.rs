//! Images with a number each: `train.csv` and `val.csv` in a folder, with lines `FILE,NUMBER`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use image::imageops::FilterType;
use image::{RgbImage, imageops};
use nas_datasets::rng::ChaCha8Rng;
use nas_datasets::{DataError, Problem, SampleSet, Size, Source, Split, read_image, read_utf8};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The folder.
    pub root: PathBuf,
}

impl DataConfig {
    /// A split of the folder.
    pub fn open(&self, split: Split) -> Result<Set> {
        let list = self.root.join(format!("{split}.csv"));
        let text = read_utf8(&list, 1 << 28).with_context(|| list.display().to_string())?;
        let mut samples = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let at = || format!("{}: line {}: {line:?}, expected FILE,NUMBER", list.display(), i + 1);
            let (file, number) = line.rsplit_once(',').with_context(at)?;
            let number: f32 = number.trim().parse().ok().filter(|x: &f32| x.is_finite()).with_context(at)?;
            samples.push(Sample { path: self.root.join(file), number });
        }
        ensure!(!samples.is_empty(), "{}: no sample, expected lines FILE,NUMBER", list.display());
        Ok(Set(samples.into()))
    }
}

/// An image and its number.
#[derive(Clone, Debug)]
pub struct Sample {
    path: PathBuf,
    /// What is to be read from the image.
    pub number: f32,
}

/// A split.
#[derive(Clone, Debug)]
pub struct Set(Arc<[Sample]>);

impl Set {
    /// The number of a sample.
    pub fn number(&self, index: usize) -> f32 {
        self.0[index].number
    }

    /// The image of a sample.
    pub fn image(&self, index: usize) -> Result<RgbImage, DataError> {
        read_image(&self.0[index].path)
    }
}

impl SampleSet for Set {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn sample_name(&self, index: usize) -> String {
        self.0[index].path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    fn image_path(&self, index: usize) -> Option<&Path> {
        Some(&self.0[index].path)
    }

    fn subset(&self, mut indices: Vec<usize>) -> Self {
        indices.sort_unstable();
        Self(indices.into_iter().map(|i| self.0[i].clone()).collect())
    }

    fn problems(&self) -> Vec<Problem> {
        let broken = |i| match self.image(i) {
            Err(DataError::Invalid(problem)) => Some(problem),
            _ => None,
        };
        (0..self.len()).filter_map(broken).collect()
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// `[augment]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// What images are resized to, `[height, width]`.
    pub size: Size,
    /// Part of the images that are mirrored.
    pub flip: f64,
}

impl Default for Augment {
    fn default() -> Self {
        Self { size: Size::new(64, 64), flip: 0.5 }
    }
}

/// Pixels of -1 to 1, `[3, H, W]`.
pub fn pixels(image: &RgbImage, size: Size) -> Vec<f32> {
    let image = imageops::resize(image, size.width(), size.height(), FilterType::Triangle);
    (0..3)
        .flat_map(|c| image.pixels().map(move |pixel| f32::from(pixel.0[c]) / 127.5 - 1.0).collect::<Vec<_>>())
        .collect()
}

/// Images and their numbers.
#[derive(Debug)]
pub struct Batch {
    /// `[B, 3, H, W]`.
    pub images: Tensor,
    /// `[B]`.
    pub numbers: Tensor,
}

/// A set with its augmentation.
#[derive(Debug)]
pub struct Numbers {
    /// The set.
    pub set: Set,
    /// What is done to its images.
    pub augment: Augment,
}

impl Source for Numbers {
    type Item = Vec<f32>;
    type Batch = Batch;

    fn len(&self) -> usize {
        self.set.len()
    }

    fn name(&self, index: usize) -> Cow<'_, str> {
        self.set.sample_name(index).into()
    }

    fn draw(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Vec<f32>, DataError> {
        let mut image = self.set.image(index)?;
        if rng.random_bool(self.augment.flip) {
            imageops::flip_horizontal_in_place(&mut image);
        }
        Ok(pixels(&image, self.augment.size))
    }

    fn collate(&self, indices: Vec<usize>, items: Vec<Vec<f32>>, _rng: &mut ChaCha8Rng) -> Batch {
        let numbers: Vec<f32> = indices.iter().map(|i| self.set.number(*i)).collect();
        let size = self.augment.size;
        let shape = [indices.len() as i64, 3, size.height().into(), size.width().into()];
        Batch { images: Tensor::from_slice(&items.concat()).view(shape), numbers: Tensor::from_slice(&numbers) }
    }
}

//! What is done to a sample before a network sees it. Image and label always move together.

use std::fmt::Debug;

use image::{GrayImage, RgbImage};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::IGNORE;
use crate::axis::Axis;
use crate::error::DataError;
use crate::pixels::{self, ColorJitter, IMAGENET_MEAN, IMAGENET_STD, Normalize};
use crate::size::{Size, channels_last};

/// Random scale, crop, flip and colours of training samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainTransform {
    /// Size of the whole image that scales refer to; absent for the image's own. Pixels are resampled once, from the
    /// original to their final place, so that a scale above 1 shows detail instead of enlarging a reduced image.
    pub resize: Option<Size>,
    /// Smallest and largest scale.
    pub scale: [f64; 2],
    /// Distance of the scales to choose from (DeepLab: 0.25); 0 for any scale in between.
    pub scale_step: f64,
    /// Size of the result. Outside the image it holds the mean colour and label [`IGNORE`].
    pub crop: Size,
    /// Probability of a mirror image.
    pub flip: f64,
    /// Largest relative change of brightness, contrast and saturation, each; 0 for none.
    pub color_jitter: f64,
    /// Channel means, in units of 0..=1.
    pub mean: [f32; 3],
    /// Channel deviations, in units of 0..=1.
    pub std: [f32; 3],
}

impl Default for TrainTransform {
    /// DeepLab's augmentation at Auto-DeepLab's search crop, ImageNet's colours.
    fn default() -> Self {
        Self {
            resize: None,
            scale: [0.5, 2.0],
            scale_step: 0.0,
            crop: Size::new(321, 321),
            flip: 0.5,
            color_jitter: 0.0,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }
}

/// A transformed training sample.
#[derive(Debug, PartialEq)]
pub struct Cropped {
    /// Normalised colours, `[crop height, crop width, 3]`.
    pub image: Vec<f32>,
    /// Train ids, `[crop height, crop width]`.
    pub label: Vec<u8>,
}

impl TrainTransform {
    /// Refuses values that make no sense.
    pub(crate) fn validate(&self) -> Result<(), DataError> {
        let [low, high] = self.scale;
        let is_fraction = |value: f64| (0.0..=1.0).contains(&value);
        let settings: [(&'static str, &dyn Debug, bool, &'static str); 5] = [
            ("scale", &self.scale, 0.0 < low && low <= high && high.is_finite(), "[low, high] with 0 < low <= high"),
            ("scale_step", &self.scale_step, self.scale_step >= 0.0 && self.scale_step.is_finite(), "0 or more"),
            ("flip", &self.flip, is_fraction(self.flip), "a probability 0..=1"),
            ("color_jitter", &self.color_jitter, is_fraction(self.color_jitter), "0..=1"),
            ("std", &self.std, self.std.iter().all(|std| *std > 0.0), "three numbers above 0"),
        ];
        match settings.into_iter().find(|(.., is_sound, _)| !is_sound) {
            Some((key, found, _, expected)) => Err(DataError::Setting { key, found: format!("{found:?}"), expected }),
            None => Ok(()),
        }
    }

    /// Draws one crop of a sample whose image and label have the same size.
    pub(crate) fn apply(&self, image: &RgbImage, label: &GrayImage, rng: &mut impl Rng) -> Cropped {
        let nominal = self.resize.unwrap_or_else(|| Size::new(image.height(), image.width()));
        let scale = self.draw_scale(rng);
        let place = Placement {
            y: Axis::draw(image.height(), nominal.height(), scale, self.crop.height(), rng),
            x: Axis::draw(image.width(), nominal.width(), scale, self.crop.width(), rng),
            flip: rng.random::<f64>() < self.flip,
        };
        let jitter = (self.color_jitter > 0.0).then(|| ColorJitter::draw(self.color_jitter, rng));
        Cropped { image: self.crop_image(image, &place, jitter), label: self.crop_label(label, &place) }
    }

    fn draw_scale(&self, rng: &mut impl Rng) -> f64 {
        let [low, high] = self.scale;
        if self.scale_step == 0.0 {
            return low + (high - low) * rng.random::<f64>();
        }
        let steps = ((high - low) / self.scale_step + 1e-9) as u32;
        low + self.scale_step * f64::from(rng.random_range(0..=steps))
    }

    fn crop_image(&self, image: &RgbImage, place: &Placement, jitter: Option<ColorJitter>) -> Vec<f32> {
        let Placement { y, x, .. } = place;
        let bytes = pixels::resize(image, x.source_span(), y.source_span(), x.visible().len(), y.visible().len());
        let (normalize, colors) = (Normalize::new(self.mean, self.std), pixels::triples(&bytes));
        let padding = [0.0; 3]; // the mean colour
        let crop = match jitter.map(|jitter| jitter.over(&bytes)) {
            None => place.fill(self.crop, padding, colors.map(|pixel| normalize.apply(pixel))),
            Some(jitter) => place.fill(self.crop, padding, colors.map(|pixel| normalize.apply(jitter(pixel)))),
        };
        crop.into_flattened()
    }

    fn crop_label(&self, label: &GrayImage, place: &Placement) -> Vec<u8> {
        let (rows, columns) = (place.y.nearest(), place.x.nearest());
        let width = label.width() as usize;
        let ids = rows.iter().flat_map(|row| {
            let row = &label.as_raw()[row * width..][..width];
            columns.iter().map(|column| row[*column])
        });
        place.fill(self.crop, IGNORE, ids)
    }
}

/// Where the image lies in a crop.
struct Placement {
    y: Axis,
    x: Axis,
    flip: bool,
}

impl Placement {
    /// The crop `[height, width]`: the visible pixels, given row by row, in their place and padding everywhere else.
    fn fill<T: Copy>(&self, crop: Size, padding: T, mut pixels: impl Iterator<Item = T>) -> Vec<T> {
        let (height, width) = (crop.height() as usize, crop.width() as usize);
        let (rows, columns) = (self.y.visible(), self.x.visible());
        let mut values = vec![padding; height * width];
        for row in values.chunks_exact_mut(width).skip(rows.start).take(rows.len()) {
            // zip takes a target first, so that no pixel is lost at the end of a row.
            row[columns.clone()].iter_mut().zip(&mut pixels).for_each(|(target, pixel)| *target = pixel);
            if self.flip {
                row.reverse();
            }
        }
        values
    }
}

/// What evaluation does: the whole image, resized if wanted, normalised. Labels stay as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalTransform {
    /// Size to bring images to; absent for their own.
    pub resize: Option<Size>,
    /// Channel means, in units of 0..=1.
    pub mean: [f32; 3],
    /// Channel deviations, in units of 0..=1.
    pub std: [f32; 3],
}

impl EvalTransform {
    /// The evaluation that fits a training: the same normalisation.
    pub fn like(train: &TrainTransform, resize: Option<Size>) -> Self {
        Self { resize, mean: train.mean, std: train.std }
    }

    /// The network's input `[1, 3, H, W]`, channels-last in memory.
    pub fn apply(&self, image: &RgbImage) -> Tensor {
        let (w, h) = image.dimensions();
        let size = self.resize.unwrap_or_else(|| Size::new(h, w));
        let (height, width) = (size.height() as usize, size.width() as usize);
        let resized;
        let bytes: &[u8] = if size == Size::new(h, w) {
            image
        } else {
            resized = pixels::resize(image, (0.0, w.into()), (0.0, h.into()), width, height);
            &resized
        };
        let normalize = Normalize::new(self.mean, self.std);
        let values: Vec<[f32; 3]> = pixels::triples(bytes).map(|pixel| normalize.apply(pixel)).collect();
        channels_last(values.as_flattened(), 1, size)
    }
}

#[cfg(test)]
mod tests;

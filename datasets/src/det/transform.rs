//! What is done to an image and its boxes before a network sees them.

use std::fmt::Debug;

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DetSample, Object};
use crate::axis::Axis;
use crate::error::DataError;
use crate::images::MAX_PIXELS;
use crate::pixels::{self, ColorJitter, IMAGENET_MEAN, IMAGENET_STD, Normalize};
use crate::size::Size;

/// A box whose visible part is narrower or lower than this many pixels is dropped in training.
const MIN_SIDE: f64 = 1.0;

/// Resizing, and random scale, crop, flip and colours of training samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DetTransform {
    /// Pixels of the shorter side after resizing.
    pub short: u32,
    /// Most pixels of the longer side; the shorter one gives way.
    pub long: u32,
    /// Smallest and largest factor on top of the resizing. Pixels are resampled once.
    pub scale: [f64; 2],
    /// Largest size of a random cut from the scaled image; absent for all of it.
    pub crop: Option<Size>,
    /// Probability of a mirror image.
    pub flip: f64,
    /// Largest relative change of brightness, contrast and saturation, each; 0 for none.
    pub color_jitter: f64,
    /// Sides of a batch are multiples of this: the largest stride of the network.
    pub pad_multiple: u32,
    /// Channel means, in units of 0..=1.
    pub mean: [f32; 3],
    /// Channel deviations, in units of 0..=1.
    pub std: [f32; 3],
}

impl Default for DetTransform {
    /// The usual recipe on COCO: 800 by at most 1333 pixels, mirrored or not.
    fn default() -> Self {
        Self {
            short: 800,
            long: 1333,
            scale: [1.0, 1.0],
            crop: None,
            flip: 0.5,
            color_jitter: 0.0,
            pad_multiple: 32,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }
}

/// A sample that only lacks padding.
#[derive(Debug, PartialEq)]
pub struct Prepared {
    /// Normalised colours, `[height, width, 3]`.
    pub image: Vec<f32>,
    /// Height and width.
    pub size: Size,
    /// Left, top, right, bottom in pixels of this image, inside it.
    pub boxes: Vec<[f32; 4]>,
    /// Class indices.
    pub labels: Vec<i64>,
}

impl DetTransform {
    /// Refuses values that make no sense.
    pub(crate) fn validate(&self) -> Result<(), DataError> {
        let [low, high] = self.scale;
        let is_fraction = |value: f64| (0.0..=1.0).contains(&value);
        let settings: [(&'static str, &dyn Debug, bool, &'static str); 8] = [
            ("short", &self.short, self.short > 0, "1 or more"),
            ("long", &self.long, self.long >= self.short, "short or more"),
            ("scale", &self.scale, 0.0 < low && low <= high && high.is_finite(), "[low, high] with 0 < low <= high"),
            (
                "long, scale, crop, pad_multiple",
                &self.largest(),
                self.largest() <= MAX_PIXELS,
                "at most 67108864 pixels of an image in a batch",
            ),
            ("flip", &self.flip, is_fraction(self.flip), "a probability 0..=1"),
            ("color_jitter", &self.color_jitter, is_fraction(self.color_jitter), "0..=1"),
            ("pad_multiple", &self.pad_multiple, self.pad_multiple > 0, "1 or more"),
            ("std", &self.std, self.std.iter().all(|std| *std > 0.0), "three numbers above 0"),
        ];
        match settings.into_iter().find(|(.., is_sound, _)| !is_sound) {
            Some((key, found, _, expected)) => Err(DataError::Setting { key, found: format!("{found:?}"), expected }),
            None => Ok(()),
        }
    }

    /// Most pixels of an image in a batch that holds portraits and landscapes.
    fn largest(&self) -> u64 {
        let scaled = |scale: f64| (f64::from(self.long) * scale).round() as u64;
        let (whole, trained) = (scaled(1.0), scaled(self.scale[1]));
        let crop = self.crop.map_or([trained; 2], |crop| [crop.height().into(), crop.width().into()]);
        let padded = |side: u64| side.min(1 << 31).next_multiple_of(u64::from(self.pad_multiple).max(1));
        let pixels = |[h, w]: [u64; 2]| padded(h).saturating_mul(padded(w));
        pixels([whole; 2]).max(pixels(crop))
    }

    /// Draws a training sample. Crowds are dropped, and so are boxes that the cut leaves nothing of; an image without
    /// boxes stays.
    pub(crate) fn train(&self, sample: &DetSample, rng: &mut impl Rng) -> Prepared {
        let [low, high] = self.scale;
        let jitter = low + (high - low) * rng.random::<f64>();
        let crop = self.crop.map(|crop| (crop.height(), crop.width()));
        let view = View {
            y: self.axis(sample, jitter, sample.image.height(), crop.map(|crop| crop.0), rng),
            x: self.axis(sample, jitter, sample.image.width(), crop.map(|crop| crop.1), rng),
            flip: rng.random::<f64>() < self.flip,
        };
        let colors = (self.color_jitter > 0.0).then(|| ColorJitter::draw(self.color_jitter, rng));
        let objects = sample.objects.iter().filter(|object| !object.crowd);
        let (boxes, labels) = objects.filter_map(|object| Some((view.see(object)?, object.class as i64))).unzip();
        Prepared { image: self.render(sample, &view, colors), size: view.size(), boxes, labels }
    }

    /// The whole image, resized; boxes are scored in the original image and do not come along.
    pub(crate) fn eval(&self, sample: &DetSample) -> Prepared {
        let mut rng = crate::rng::stream(0, "unused", 0); // there is only one place for a crop of the whole image
        let mut axis = |side| self.axis(sample, 1.0, side, None, &mut rng);
        let view = View { y: axis(sample.image.height()), x: axis(sample.image.width()), flip: false };
        let image = self.render(sample, &view, None);
        Prepared { image, size: view.size(), boxes: Vec::new(), labels: Vec::new() }
    }

    fn axis(&self, sample: &DetSample, jitter: f64, side: u32, crop: Option<u32>, rng: &mut impl Rng) -> Axis {
        let (w, h) = sample.image.dimensions();
        let fit = (f64::from(self.short) / f64::from(w.min(h))).min(f64::from(self.long) / f64::from(w.max(h)));
        let scaled = ((f64::from(side) * fit * jitter).round() as u32).max(1);
        Axis::draw(side, scaled, 1.0, crop.map_or(scaled, |crop| crop.min(scaled)), rng)
    }

    fn render(&self, sample: &DetSample, view: &View, colors: Option<ColorJitter>) -> Vec<f32> {
        let View { y, x, flip } = view;
        let (height, width) = (y.visible().len(), x.visible().len());
        let bytes = pixels::resize(&sample.image, x.source_span(), y.source_span(), width, height);
        let (normalize, triples) = (Normalize::new(self.mean, self.std), pixels::triples(&bytes));
        let mut pixels: Vec<[f32; 3]> = match colors.map(|colors| colors.over(&bytes)) {
            None => triples.map(|pixel| normalize.apply(pixel)).collect(),
            Some(change) => triples.map(|pixel| normalize.apply(change(pixel))).collect(),
        };
        if *flip {
            pixels.chunks_exact_mut(width).for_each(<[_]>::reverse);
        }
        pixels.into_flattened()
    }
}

/// Which part of an image is seen, and how.
struct View {
    y: Axis,
    x: Axis,
    flip: bool,
}

impl View {
    fn size(&self) -> Size {
        Size::new(self.y.visible().len() as u32, self.x.visible().len() as u32)
    }

    /// The visible part of an object's box.
    fn see(&self, object: &Object) -> Option<[f32; 4]> {
        let size = self.size();
        let (width, height) = (f64::from(size.width()), f64::from(size.height()));
        let [x0, x1] = [0, 2].map(|i| self.x.place(object.bbox[i]).clamp(0.0, width));
        let [y0, y1] = [1, 3].map(|i| self.y.place(object.bbox[i]).clamp(0.0, height));
        let [x0, x1] = if self.flip { [width - x1, width - x0] } else { [x0, x1] };
        (x1 - x0 >= MIN_SIDE && y1 - y0 >= MIN_SIDE).then(|| [x0, y0, x1, y1].map(|value| value as f32))
    }
}

#[cfg(test)]
mod tests;

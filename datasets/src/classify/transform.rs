//! What is done to an image before a classifier sees it.

use std::fmt::Debug;

use image::{RgbImage, imageops};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{AutoAugment, RandAugment};
use crate::error::DataError;
use crate::pixels::{self, ColorJitter, IMAGENET_MEAN, IMAGENET_STD, Normalize};
use crate::rng::ChaCha8Rng;
use crate::size::{Size, channels_last};

/// How a training image comes to its size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Crop {
    /// The image, resized where its size differs, in a black frame of `padding` pixels; a part at any place of it.
    Pad {
        /// Pixels on each side.
        padding: u32,
    },
    /// A part of any size and aspect, resized (Szegedy et al. 2015; torchvision's `RandomResizedCrop`).
    Resized(ResizedCrop),
}

/// Bounds of [`Crop::Resized`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResizedCrop {
    /// Smallest and largest share of the image's area.
    pub scale: [f64; 2],
    /// Smallest and largest width by height.
    pub ratio: [f64; 2],
}

impl Default for ResizedCrop {
    fn default() -> Self {
        Self { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

/// Augmentation of training images, in the order of the fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifyTransform {
    /// Height and width of the result.
    pub size: Size,
    /// How an image comes to that size.
    pub crop: Crop,
    /// Probability of a mirror image.
    pub flip: f64,
    /// Operators on the pixels by a policy that was learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_augment: Option<AutoAugment>,
    /// Random operators on the pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rand_augment: Option<RandAugment>,
    /// Largest relative change of brightness, contrast and saturation, each; 0 for none.
    pub color_jitter: f64,
    /// Channel means, in units of 0..=1.
    pub mean: [f32; 3],
    /// Channel deviations, in units of 0..=1.
    pub std: [f32; 3],
    /// Side of a square of the mean colour around a point of the image (DeVries and Taylor 2017); 0 for none.
    pub cutout: u32,
    /// Parameter of the Beta distribution of mixup (Zhang et al. 2018); 0 for none.
    pub mixup: f64,
}

impl Default for ClassifyTransform {
    /// CIFAR's usual augmentation with ImageNet's colours.
    fn default() -> Self {
        Self {
            size: Size::new(32, 32),
            crop: Crop::Pad { padding: 4 },
            flip: 0.5,
            auto_augment: None,
            rand_augment: None,
            color_jitter: 0.0,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            cutout: 0,
            mixup: 0.0,
        }
    }
}

impl ClassifyTransform {
    /// Refuses values that make no sense.
    pub(super) fn validate(&self) -> Result<(), DataError> {
        let fraction = |value: f64| (0.0..=1.0).contains(&value);
        let ordered = |[low, high]: [f64; 2]| 0.0 < low && low <= high && high.is_finite();
        let crop = match &self.crop {
            Crop::Pad { padding } => *padding <= 1 << 12,
            Crop::Resized(ResizedCrop { scale, ratio }) => ordered(*scale) && ordered(*ratio) && scale[1] <= 1.0,
        };
        let magnitude = self.rand_augment.as_ref().is_none_or(RandAugment::is_sound);
        let settings: [(&'static str, &dyn Debug, bool, &'static str); 6] = [
            ("rand_augment", &self.rand_augment, magnitude, "a magnitude of 0..=30"),
            ("crop", &self.crop, crop, "a padding up to 4096, or 0 < low <= high for scale (at most 1) and ratio"),
            ("flip", &self.flip, fraction(self.flip), "a probability 0..=1"),
            ("color_jitter", &self.color_jitter, fraction(self.color_jitter), "0..=1"),
            ("std", &self.std, self.std.iter().all(|std| *std > 0.0), "three numbers above 0"),
            ("mixup", &self.mixup, self.mixup >= 0.0 && self.mixup.is_finite(), "0 or more"),
        ];
        match settings.into_iter().find(|(.., is_sound, _)| !is_sound) {
            Some((key, found, _, expected)) => Err(DataError::Setting { key, found: format!("{found:?}"), expected }),
            None => Ok(()),
        }
    }

    /// Draws one view of an image: normalised colours, `[H, W, 3]`.
    pub(super) fn apply(&self, image: &RgbImage, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let mut view = self.crop.apply(image, self.size, rng);
        if rng.random::<f64>() < self.flip {
            imageops::flip_horizontal_in_place(&mut view);
        }
        if let Some(augment) = self.auto_augment {
            view = augment.apply(view, rng);
        }
        if let Some(augment) = &self.rand_augment {
            view = augment.apply(view, rng);
        }
        let normalize = Normalize::new(self.mean, self.std);
        let colors = pixels::triples(&view);
        let mut values: Vec<[f32; 3]> = if self.color_jitter > 0.0 {
            let jitter = ColorJitter::draw(self.color_jitter, rng).over(&view);
            colors.map(|pixel| normalize.apply(jitter(pixel))).collect()
        } else {
            colors.map(|pixel| normalize.apply(pixel)).collect()
        };
        if self.cutout > 0 {
            cut_out(&mut values, self.size, self.cutout, rng);
        }
        values.into_flattened()
    }
}

impl Crop {
    /// A part of the image at `size`.
    fn apply(&self, image: &RgbImage, size: Size, rng: &mut ChaCha8Rng) -> RgbImage {
        let (w, h) = (size.width(), size.height());
        match self {
            Self::Pad { padding } => {
                let resized;
                let whole = if image.dimensions() == (w, h) {
                    image
                } else {
                    let (x, y) = ((0.0, image.width().into()), (0.0, image.height().into()));
                    resized = to_image(pixels::resize(image, x, y, w as usize, h as usize), size);
                    &resized
                };
                let mut shift = || i64::from(rng.random_range(0..=2 * padding)) - i64::from(*padding);
                let (dx, dy) = (shift(), shift());
                let mut part = RgbImage::new(w, h);
                imageops::replace(&mut part, whole, dx, dy);
                part
            }
            Self::Resized(bounds) => {
                let (x, y) = bounds.draw(image.width(), image.height(), rng);
                to_image(pixels::resize(image, x, y, w as usize, h as usize), size)
            }
        }
    }
}

fn to_image(bytes: Vec<u8>, size: Size) -> RgbImage {
    RgbImage::from_raw(size.width(), size.height(), bytes).expect("three bytes per pixel")
}

impl ResizedCrop {
    /// (left, width) and (top, height) of a part of a `w` x `h` image: the first of ten draws that fits, else the largest
    /// middle part within the bounds of the aspect.
    fn draw(&self, w: u32, h: u32, rng: &mut ChaCha8Rng) -> ((f64, f64), (f64, f64)) {
        let Self { scale: [small, large], ratio: [low, high] } = *self;
        for _ in 0..10 {
            let area = f64::from(w) * f64::from(h) * (small + (large - small) * rng.random::<f64>());
            let ratio = (low.ln() + (high / low).ln() * rng.random::<f64>()).exp();
            let (part_w, part_h) = ((area * ratio).sqrt().round() as u32, (area / ratio).sqrt().round() as u32);
            if (1..=w).contains(&part_w) && (1..=h).contains(&part_h) {
                let (top, left) = (rng.random_range(0..=h - part_h), rng.random_range(0..=w - part_w));
                return ((left.into(), part_w.into()), (top.into(), part_h.into()));
            }
        }
        let (w, h) = (f64::from(w), f64::from(h));
        let ratio = (w / h).clamp(low, high);
        let part_w = w.min((h * ratio).round().max(1.0));
        let part_h = h.min((w / ratio).round().max(1.0));
        ((((w - part_w) / 2.0).floor(), part_w), (((h - part_h) / 2.0).floor(), part_h))
    }
}

/// Blanks a square of side `cutout` whose middle is any pixel; what lies outside the image is lost.
fn cut_out(values: &mut [[f32; 3]], size: Size, cutout: u32, rng: &mut ChaCha8Rng) {
    let mut span = |length: u32| {
        let start = i64::from(rng.random_range(0..length)) - i64::from(cutout / 2);
        start.max(0) as usize..(start + i64::from(cutout)).min(length.into()) as usize
    };
    let (rows, columns) = (span(size.height()), span(size.width()));
    let width = size.width() as usize;
    values
        .chunks_exact_mut(width)
        .skip(rows.start)
        .take(rows.len())
        .for_each(|row| row[columns.clone()].fill([0.0; 3]));
}

/// What evaluation does: the shorter side resized, the middle cut out, colours normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassifyEvalTransform {
    /// Length of the shorter side before the cut; absent for the least that `size` allows.
    pub resize: Option<u32>,
    /// Height and width of the result.
    pub size: Size,
    /// Channel means, in units of 0..=1.
    pub mean: [f32; 3],
    /// Channel deviations, in units of 0..=1.
    pub std: [f32; 3],
}

impl ClassifyEvalTransform {
    /// The evaluation that fits a training: the same size and normalisation.
    ///
    /// # Errors
    /// If `resize` is less than the size asks for.
    pub fn like(train: &ClassifyTransform, resize: Option<u32>) -> Result<Self, DataError> {
        let least = train.size.height().max(train.size.width());
        if let Some(found) = resize.filter(|resize| *resize < least) {
            let expected = "at least the sides of augment.size";
            return Err(DataError::Setting { key: "eval.resize", found: found.to_string(), expected });
        }
        Ok(Self { resize, size: train.size, mean: train.mean, std: train.std })
    }

    /// Bytes of the image as the network will see it, `[H, W, 3]`.
    pub fn view(&self, image: &RgbImage) -> RgbImage {
        let (w, h) = (f64::from(image.width()), f64::from(image.height()));
        let (out_w, out_h) = (f64::from(self.size.width()), f64::from(self.size.height()));
        // Pixels of the image per pixel of the result; the least resize makes the image just cover the result.
        let step = match self.resize {
            Some(resize) => w.min(h) / f64::from(resize),
            None => (w / out_w).min(h / out_h),
        };
        let (part_w, part_h) = ((out_w * step).min(w), (out_h * step).min(h));
        if (part_w, part_h) == (w, h) && (w, h) == (out_w, out_h) {
            return image.clone();
        }
        // The cut starts at a whole pixel of the resized image, as if that had been made first.
        let start = |length: f64, part: f64| (((length - part) / 2.0 / step).round() * step).min(length - part);
        let (x, y) = ((start(w, part_w), part_w), (start(h, part_h), part_h));
        to_image(pixels::resize(image, x, y, out_w as usize, out_h as usize), self.size)
    }

    /// The network's input `[1, 3, H, W]`, channels-last in memory.
    pub fn apply(&self, image: &RgbImage) -> Tensor {
        channels_last(&self.values(image), 1, self.size)
    }

    /// Normalised colours, `[H, W, 3]`.
    pub(super) fn values(&self, image: &RgbImage) -> Vec<f32> {
        let normalize = Normalize::new(self.mean, self.std);
        let view = self.view(image);
        pixels::triples(&view).map(|pixel| normalize.apply(pixel)).collect::<Vec<_>>().into_flattened()
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::rng::stream;

    /// No change of values: what comes out are the bytes as floats.
    fn raw() -> ClassifyTransform {
        ClassifyTransform { mean: [0.0; 3], std: [1.0 / 255.0; 3], flip: 0.0, ..Default::default() }
    }

    /// Red and green tell column and row, blue marks the image.
    fn position_pattern(w: u32, h: u32) -> RgbImage {
        RgbImage::from_fn(w, h, |x, y| Rgb([x as u8, y as u8, 200]))
    }

    #[test]
    fn pad_crops_shift_by_at_most_the_padding_and_leave_black_behind() {
        let image = position_pattern(32, 32);
        let mut shifts = std::collections::HashSet::new();
        for id in 0..300 {
            let values = raw().apply(&image, &mut stream(0, "test", id));
            let pixels: Vec<[f32; 3]> = values.as_chunks::<3>().0.to_vec();
            let (x, y) = (pixels[16 * 32 + 16][0].round() as i32 - 16, pixels[16 * 32 + 16][1].round() as i32 - 16);
            assert!(x.abs() <= 4 && y.abs() <= 4);
            for (i, pixel) in pixels.iter().enumerate() {
                let (column, row) = ((i % 32) as i32 + x, (i / 32) as i32 + y);
                let inside = (0..32).contains(&column) && (0..32).contains(&row);
                let expected = if inside { [column as f32, row as f32, 200.0] } else { [0.0; 3] };
                assert!(pixel.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{pixel:?} {expected:?}");
            }
            shifts.insert((x, y));
        }
        assert!(shifts.len() > 70, "{} of 81 shifts", shifts.len());
    }

    #[test]
    fn half_of_all_views_are_mirrored() {
        let transform = ClassifyTransform { crop: Crop::Pad { padding: 0 }, flip: 0.5, ..raw() };
        let image = position_pattern(32, 32);
        let mirrored = (0..400).filter(|id| transform.apply(&image, &mut stream(0, "test", *id))[0] > 15.0).count();
        assert!((160..240).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn resized_crops_keep_within_their_bounds_and_fall_back_to_the_middle() {
        let bounds = ResizedCrop::default();
        let (mut smallest, mut largest) = (f64::MAX, 0.0f64);
        for id in 0..2000 {
            let ((left, w), (top, h)) = bounds.draw(200, 160, &mut stream(0, "test", id));
            assert!(left >= 0.0 && top >= 0.0 && left + w <= 200.0 && top + h <= 160.0);
            let (area, ratio) = (w * h / (200.0 * 160.0), w / h);
            assert!((0.07..=1.0).contains(&area) && (0.72..1.4).contains(&ratio), "{area} {ratio}");
            (smallest, largest) = (smallest.min(area), largest.max(area));
        }
        assert!(smallest < 0.1 && largest > 0.9, "{smallest} {largest}");
        // Aspect 10 never fits a share of the area near 1.
        let wide = ResizedCrop { scale: [1.0, 1.0], ..bounds };
        assert_eq!(wide.draw(1000, 100, &mut stream(0, "test", 0)), ((433.0, 133.0), (0.0, 100.0)));
    }

    #[test]
    fn cutout_blanks_a_square_that_may_cross_the_border() {
        let transform = ClassifyTransform { crop: Crop::Pad { padding: 0 }, cutout: 16, ..raw() };
        let image = RgbImage::from_pixel(32, 32, Rgb([9; 3]));
        let blank = |id| transform.apply(&image, &mut stream(0, "test", id)).iter().filter(|v| **v == 0.0).count() / 3;
        let counts: Vec<usize> = (0..200).map(blank).collect();
        assert_eq!(counts.iter().max(), Some(&256));
        assert!(counts.iter().all(|count| *count >= 64) && counts.iter().any(|count| *count < 128), "{counts:?}");
    }

    #[test]
    fn evaluation_cuts_the_middle_of_the_resized_image() {
        let eval =
            ClassifyEvalTransform::like(&ClassifyTransform { size: Size::new(40, 40), ..raw() }, Some(50)).unwrap();
        let view = eval.view(&position_pattern(100, 200));
        // Shorter side 100 becomes 50: one pixel of the view is two of the image, the cut starts at 5 and 30.
        for (x, y) in [(5, 5), (39, 5), (20, 33)] {
            let found = view.get_pixel(x, y).0.map(i32::from);
            assert!((found[0] - 2 * (x as i32 + 5)).abs() <= 1 && (found[1] - 2 * (y as i32 + 30)).abs() <= 1);
        }
        let same = ClassifyEvalTransform::like(&raw(), None).unwrap();
        assert_eq!(same.view(&position_pattern(32, 32)), position_pattern(32, 32));
        assert_eq!(same.view(&position_pattern(64, 96)).dimensions(), (32, 32));
        let error = ClassifyEvalTransform::like(&raw(), Some(31)).unwrap_err().to_string();
        assert!(error.contains("eval.resize = 31"), "{error}");
    }
}

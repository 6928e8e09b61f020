//! RandAugment (Cubuk et al. 2020, arXiv 1909.13719) with torchvision's 14 operators and magnitudes, on bytes as Pillow
//! computes them.

use image::{Rgb, RgbImage};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rng::ChaCha8Rng;

/// Steps of the scale of magnitudes.
const BINS: u32 = 31;

/// How much is done to an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// Operators one after the other.
    pub ops: usize,
    /// Their strength, 0 to 30.
    pub magnitude: u32,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { ops: 2, magnitude: 9 }
    }
}

/// An operator on the pixels of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Op {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
    /// Of AutoAugment alone.
    Invert,
}

const OPS: [Op; 14] = [
    Op::Identity,
    Op::ShearX,
    Op::ShearY,
    Op::TranslateX,
    Op::TranslateY,
    Op::Rotate,
    Op::Brightness,
    Op::Color,
    Op::Contrast,
    Op::Sharpness,
    Op::Posterize,
    Op::Solarize,
    Op::AutoContrast,
    Op::Equalize,
];

impl RandAugment {
    /// Whether the magnitude is on the scale.
    pub(super) fn is_sound(&self) -> bool {
        self.magnitude < BINS
    }

    /// Applies operators drawn evenly, mirrored ones with either sign.
    pub(super) fn apply(&self, mut image: RgbImage, rng: &mut ChaCha8Rng) -> RgbImage {
        for _ in 0..self.ops {
            let op = OPS[rng.random_range(0..OPS.len())];
            let level = Level { index: self.magnitude, bins: BINS };
            image = op.apply(&image, level, op.is_signed() && rng.random::<bool>());
        }
        image
    }
}

/// A step, from 0, of a scale of `bins`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub index: u32,
    pub bins: u32,
}

impl Level {
    /// The value between `start` and `end`, with the rounding of torch's `linspace`, which bytes depend on.
    fn between(self, start: f64, end: f64) -> f64 {
        let (start, end, last) = (start as f32, end as f32, self.bins - 1);
        let step = (end - start) / last as f32;
        let value = match self.index < self.bins / 2 {
            true => start + step * self.index as f32,
            false => end - step * (last - self.index) as f32,
        };
        f64::from(value)
    }
}

impl Op {
    /// Value at a step of the scale, for an image of width and height.
    fn magnitude(self, level: Level, (w, h): (u32, u32)) -> f64 {
        match self {
            Self::Identity | Self::AutoContrast | Self::Equalize | Self::Invert => 0.0,
            Self::ShearX | Self::ShearY => level.between(0.0, 0.3),
            Self::TranslateX => level.between(0.0, 150.0 / 331.0 * f64::from(w)),
            Self::TranslateY => level.between(0.0, 150.0 / 331.0 * f64::from(h)),
            Self::Rotate => level.between(0.0, 30.0),
            Self::Brightness | Self::Color | Self::Contrast | Self::Sharpness => level.between(0.0, 0.9),
            Self::Posterize => 8.0 - level.between(0.0, 4.0).round_ties_even(),
            Self::Solarize => level.between(255.0, 0.0),
        }
    }

    /// Whether the operator has a mirrored form.
    pub(super) fn is_signed(self) -> bool {
        use Op::*;
        !matches!(self, Identity | Posterize | Solarize | AutoContrast | Equalize | Invert)
    }

    /// Applies the operator at a step of its scale, mirrored where `negative`.
    pub(super) fn apply(self, image: &RgbImage, level: Level, negative: bool) -> RgbImage {
        let magnitude = self.magnitude(level, image.dimensions());
        let m = if negative { -magnitude } else { magnitude };
        match self {
            Self::Identity => image.clone(),
            Self::ShearX => affine(image, [1.0, m, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY => affine(image, [1.0, 0.0, 0.0, m, 1.0, 0.0]),
            Self::TranslateX => affine(image, [1.0, 0.0, -m.trunc(), 0.0, 1.0, 0.0]),
            Self::TranslateY => affine(image, [1.0, 0.0, 0.0, 0.0, 1.0, -m.trunc()]),
            Self::Rotate => rotate(image, m),
            Self::Brightness => blend(&RgbImage::new(image.width(), image.height()), image, 1.0 + m),
            Self::Color => blend(&map(image, |pixel| [grey(pixel); 3]), image, 1.0 + m),
            Self::Contrast => {
                let sum: f64 = image.pixels().map(|pixel| f64::from(grey(pixel.0))).sum();
                let mean = (sum / f64::from(image.width() * image.height()) + 0.5) as u8;
                blend(&map(image, |_| [mean; 3]), image, 1.0 + m)
            }
            Self::Sharpness => blend(&smooth(image), image, 1.0 + m),
            Self::Posterize => map(image, |pixel| pixel.map(|value| value & (0xff00u16 >> (m as u16)) as u8)),
            Self::Solarize => map(image, |pixel| pixel.map(|v| if f64::from(v) < m { v } else { 255 - v })),
            Self::AutoContrast => look_up(image, stretch),
            Self::Equalize => look_up(image, equalize),
            Self::Invert => map(image, |pixel| pixel.map(|value| 255 - value)),
        }
    }
}

fn map(image: &RgbImage, f: impl Fn([u8; 3]) -> [u8; 3]) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height(), |x, y| Rgb(f(image.get_pixel(x, y).0)))
}

/// Luma of ITU-R BT.601 in Pillow's integers.
fn grey([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// `a + share * (b - a)`, cut to bytes.
fn blend(a: &RgbImage, b: &RgbImage, share: f64) -> RgbImage {
    let share = share as f32;
    let mut out = a.clone();
    for (value, other) in out.iter_mut().zip(b.iter()) {
        let (a, b) = (f32::from(*value), f32::from(*other));
        *value = (a + share * (b - a)) as u8; // saturates
    }
    out
}

/// Each pixel from the place (a x + b y + c, d x + e y + f) of the image, nearest; black outside. Fixed point of 16 bits.
fn affine(image: &RgbImage, [a, b, c, d, e, f]: [f64; 6]) -> RgbImage {
    let fix = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let (w, h) = (i64::from(image.width()), i64::from(image.height()));
    let (x0, y0) = (fix(c + (a + b) * 0.5), fix(f + (d + e) * 0.5));
    let (a, b, d, e) = (fix(a), fix(b), fix(d), fix(e));
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let (x, y) = (i64::from(x), i64::from(y));
        let (x, y) = ((x0 + a * x + b * y) >> 16, (y0 + d * x + e * y) >> 16);
        let inside = (0..w).contains(&x) && (0..h).contains(&y);
        if inside { *image.get_pixel(x as u32, y as u32) } else { Rgb([0; 3]) }
    })
}

/// Counter-clockwise around the middle, in degrees.
fn rotate(image: &RgbImage, degrees: f64) -> RgbImage {
    let (sin, cos) = (-degrees.to_radians()).sin_cos();
    let (cx, cy) = (f64::from(image.width()) / 2.0, f64::from(image.height()) / 2.0);
    affine(image, [cos, sin, cx - cos * cx - sin * cy, -sin, cos, cy + sin * cx - cos * cy])
}

/// The mean of a pixel's neighbourhood in which it counts five times; the border stays.
fn smooth(image: &RgbImage) -> RgbImage {
    let (w, h) = image.dimensions();
    RgbImage::from_fn(w, h, |x, y| {
        let pixel = image.get_pixel(x, y);
        if x == 0 || y == 0 || x + 1 == w || y + 1 == h {
            return *pixel;
        }
        Rgb([0, 1, 2].map(|channel| {
            let around = (0..9).map(|i| u32::from(image.get_pixel(x + i % 3 - 1, y + i / 3 - 1)[channel]));
            ((around.sum::<u32>() + 4 * u32::from(pixel[channel])) as f32 / 13.0 + 0.5) as u8
        }))
    })
}

/// Replaces the values of each channel by a table made from its histogram.
fn look_up(image: &RgbImage, table: impl Fn(&[u32; 256]) -> Option<[u8; 256]>) -> RgbImage {
    let tables = [0, 1, 2].map(|channel| {
        let mut histogram = [0; 256];
        image.pixels().for_each(|pixel| histogram[usize::from(pixel[channel])] += 1);
        table(&histogram)
    });
    map(image, |pixel| {
        [0, 1, 2].map(|channel| tables[channel].map_or(pixel[channel], |table| table[usize::from(pixel[channel])]))
    })
}

/// Spreads the values evenly over 0..=255.
fn stretch(histogram: &[u32; 256]) -> Option<[u8; 256]> {
    let low = histogram.iter().position(|count| *count > 0)?;
    let high = histogram.iter().rposition(|count| *count > 0)?;
    let scale = 255.0 / (high.checked_sub(low).filter(|range| *range > 0)? as f64);
    Some(std::array::from_fn(|value| (value as f64 * scale - low as f64 * scale) as u8))
}

/// Makes all values about equally frequent.
fn equalize(histogram: &[u32; 256]) -> Option<[u8; 256]> {
    let last = histogram.iter().rposition(|count| *count > 0)?;
    let step = (histogram.iter().sum::<u32>() - histogram[last]) / 255;
    let mut sum = step / 2;
    (step > 0).then(|| {
        std::array::from_fn(|value| {
            let new = (sum / step).min(255) as u8;
            sum += histogram[value];
            new
        })
    })
}

/// An image, and what torchvision makes of it in each of `cases` (`tests/golden/rand_augment/`).
#[cfg(test)]
#[derive(Deserialize)]
pub(super) struct Golden<C> {
    width: u32,
    height: u32,
    image: Vec<u8>,
    cases: Vec<C>,
}

#[cfg(test)]
impl<C: serde::de::DeserializeOwned> Golden<C> {
    /// The image and the cases of a file.
    pub fn read(text: &str) -> (RgbImage, Vec<C>) {
        let Self { width, height, image, cases } = serde_json::from_str(text).unwrap();
        (RgbImage::from_raw(width, height, image).unwrap(), cases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Case {
        op: String,
        index: u32,
        sign: f64,
        magnitude: f64,
        pixels: Vec<u8>,
    }

    #[test]
    fn operators_and_magnitudes_are_torchvisions() {
        // tests/golden/rand_augment/make.py
        let golden = include_str!("../../../tests/golden/rand_augment/ops.json");
        let (image, cases) = Golden::<Case>::read(golden);
        let (width, height) = image.dimensions();
        let mut wrong = Vec::new();
        for Case { op, index, sign, magnitude, pixels } in cases {
            let ours = OPS.into_iter().find(|ours| format!("{ours:?}") == op).unwrap();
            let level = Level { index, bins: BINS };
            let value = sign * ours.magnitude(level, (width, height));
            assert!((value - magnitude).abs() < 1e-4, "{op} {index}: {value}, expected {magnitude}");
            let found = ours.apply(&image, level, sign < 0.0).into_raw();
            let differing = found.iter().zip(&pixels).filter(|(a, b)| a != b).count();
            if differing > 0 {
                wrong.push(format!("{op} {value}: {differing} of {} bytes", pixels.len()));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn every_operator_is_drawn_and_flat_images_survive() {
        let image = RgbImage::from_pixel(8, 8, Rgb([7, 80, 200]));
        let strongest = RandAugment { ops: 3, magnitude: 30 };
        for id in 0..200 {
            let out = strongest.apply(image.clone(), &mut crate::rng::stream(0, "test", id));
            assert_eq!(out.dimensions(), (8, 8));
        }
        assert!(strongest.is_sound() && !RandAugment { ops: 2, magnitude: 31 }.is_sound());
    }
}

//! Synthetic shapes in ten classes: for demos, tests and timing without any download.
//!
//! Every image is a function of (seed, split, index). A shape of any colour, size and place lies on noise of another colour,
//! so that only its form tells the class; a small network learns most of it in a minute.

use std::borrow::Cow;

use image::{Rgb, RgbImage};
use rand::Rng;

use super::ClassifyDataset;
use crate::error::{DataError, Problem};
use crate::rng::{self, ChaCha8Rng};
use crate::split::Split;

/// Whether a point (x, y) of the unit disc's square -1..=1 belongs to a shape.
type Inside = fn(f32, f32) -> bool;

const SHAPES: [(&str, Inside); 10] = [
    ("disc", |x, y| x * x + y * y < 1.0),
    ("ring", |x, y| (0.4..1.0).contains(&(x * x + y * y))),
    ("square", |x, y| x.abs().max(y.abs()) < 0.85),
    ("frame", |x, y| (0.5..0.9).contains(&x.abs().max(y.abs()))),
    ("triangle", |x, y| y < 0.8 && y > 2.0 * x.abs() - 0.9),
    ("plus", |x, y| x.abs().min(y.abs()) < 0.25 && x.abs().max(y.abs()) < 1.0),
    ("cross", |x, y| (x.abs() - y.abs()).abs() < 0.3 && x.abs().max(y.abs()) < 0.9),
    ("rows", |x, y| x.abs() < 0.9 && (y + 1.0) % 0.67 < 0.33 && y.abs() < 1.0),
    ("columns", |x, y| y.abs() < 0.9 && (x + 1.0) % 0.67 < 0.33 && x.abs() < 1.0),
    ("diamond", |x, y| x.abs() + y.abs() < 1.0),
];

/// Synthetic shapes, drawn when they are loaded.
pub struct Shapes {
    len: usize,
    side: u32,
    seed: u64,
    split: Split,
    classes: Vec<String>,
}

impl Shapes {
    /// The first `len` images of a split, `side` pixels square.
    ///
    /// # Errors
    /// If `len` is zero or `side` is not of 8 to 8192.
    pub fn new(len: usize, side: u32, seed: u64, split: Split) -> Result<Self, DataError> {
        if len == 0 {
            let path = format!("synthetic {split} split");
            return Err(Problem::new(path.as_ref(), "no image", "at least one").into());
        }
        if !(8..=8192).contains(&side) {
            let found = side.to_string();
            return Err(DataError::Setting { key: "data.side", found, expected: "8 to 8192 pixels" });
        }
        let classes = SHAPES.map(|(name, _)| name.to_owned()).to_vec();
        Ok(Self { len, side, seed, split, classes })
    }

    fn draw(&self, inside: Inside, rng: &mut ChaCha8Rng) -> RgbImage {
        let side = self.side as f32;
        let radius = side * rng.random_range(0.22..0.42);
        let (cx, cy) = (rng.random_range(radius..side - radius), rng.random_range(radius..side - radius));
        let (sin, cos) = rng.random_range(-0.25f32..0.25).sin_cos();
        let ground: [f32; 3] = rng.random();
        // A colour that is far enough from the ground's.
        let ink = loop {
            let ink: [f32; 3] = rng.random();
            if ink.iter().zip(ground).map(|(a, b)| (a - b).abs()).sum::<f32>() > 0.8 {
                break ink;
            }
        };
        RgbImage::from_fn(self.side, self.side, |x, y| {
            let (x, y) = ((x as f32 + 0.5 - cx) / radius, (y as f32 + 0.5 - cy) / radius);
            let color = if inside(cos * x - sin * y, sin * x + cos * y) { ink } else { ground };
            Rgb(color.map(|value| (255.0 * value + rng.random_range(-40.0..40.0)).clamp(0.0, 255.0) as u8))
        })
    }
}

impl ClassifyDataset for Shapes {
    fn len(&self) -> usize {
        self.len
    }

    fn name(&self, i: usize) -> Cow<'_, str> {
        format!("{}_{i:06}", SHAPES[self.label(i)].0).into()
    }

    fn image(&self, i: usize) -> Result<RgbImage, DataError> {
        let mut rng = rng::stream(self.seed, &format!("shapes/{}", self.split), i as u64);
        Ok(self.draw(SHAPES[self.label(i)].1, &mut rng))
    }

    fn label(&self, i: usize) -> usize {
        i % SHAPES.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

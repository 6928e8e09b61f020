//! Drawing of an image and its labels at once. Later shapes cover earlier ones.

use image::{GrayImage, Luma, Rgb, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::size::Size;

/// RGB in units of 0..=255, not yet clamped.
pub type Color = [f32; 3];

/// `a` where `t` is 0, `b` where it is 1.
pub fn blend(a: Color, b: Color, t: f32) -> Color {
    [0, 1, 2].map(|channel| a[channel] + (b[channel] - a[channel]) * t)
}

/// A colour made lighter or darker.
pub fn shade(color: Color, factor: f32) -> Color {
    color.map(|value| value * factor)
}

/// An axis-parallel box: left, top, right, bottom in pixels.
#[derive(Clone, Copy)]
pub struct Area {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
}

impl Area {
    /// A box that stands on `bottom` around the middle `x`.
    pub fn standing(x: f32, bottom: f32, width: f32, height: f32) -> Self {
        Self { left: x - width / 2.0, top: bottom - height, right: x + width / 2.0, bottom }
    }

    /// The part between fractions of the width and of the height, counted from the upper left.
    pub fn part(&self, x: [f32; 2], y: [f32; 2]) -> Self {
        let (width, height) = (self.right - self.left, self.bottom - self.top);
        Self {
            left: self.left + x[0] * width,
            top: self.top + y[0] * height,
            right: self.left + x[1] * width,
            bottom: self.top + y[1] * height,
        }
    }
}

/// An image and the class of each of its pixels.
pub struct Canvas {
    colors: Vec<Color>,
    labels: Vec<u8>,
    width: usize,
    height: usize,
}

impl Canvas {
    /// A black canvas of class 0.
    pub fn new(size: Size) -> Self {
        let (height, width) = (size.height() as usize, size.width() as usize);
        Self { colors: vec![[0.0; 3]; width * height], labels: vec![0; width * height], width, height }
    }

    /// Width in pixels.
    pub fn width(&self) -> f32 {
        self.width as f32
    }

    /// Height in pixels.
    pub fn height(&self) -> f32 {
        self.height as f32
    }

    /// Gives the pixels of `area` whose middle (x, y) gets a colour from `paint` that colour and the class.
    pub fn paint(&mut self, area: Area, class: u8, paint: impl Fn(f32, f32) -> Option<Color>) {
        let pixel = |edge: f32, end: usize| (edge - 0.5).ceil().clamp(0.0, end as f32) as usize;
        for row in pixel(area.top, self.height)..pixel(area.bottom, self.height) {
            for column in pixel(area.left, self.width)..pixel(area.right, self.width) {
                if let Some(color) = paint(column as f32 + 0.5, row as f32 + 0.5) {
                    self.colors[row * self.width + column] = color;
                    self.labels[row * self.width + column] = class;
                }
            }
        }
    }

    /// A box of one colour.
    pub fn rect(&mut self, area: Area, class: u8, color: Color) {
        self.paint(area, class, |_, _| Some(color));
    }

    /// The ellipse inside a box, lit from above.
    pub fn ellipse(&mut self, area: Area, class: u8, color: Color) {
        let (x, y) = ((area.left + area.right) / 2.0, (area.top + area.bottom) / 2.0);
        let (a, b) = ((area.right - area.left) / 2.0, (area.bottom - area.top) / 2.0);
        self.paint(area, class, |px, py| {
            let (u, v) = ((px - x) / a, (py - y) / b);
            (u * u + v * v <= 1.0).then(|| shade(color, 1.0 - 0.2 * v))
        });
    }

    /// The picture as a camera in light of this colour would see it, with noise.
    pub fn develop(self, light: Color, noise: f32, rng: &mut ChaCha8Rng) -> (RgbImage, GrayImage) {
        let width = self.width;
        let mut grain = || (rng.random::<f32>() + rng.random::<f32>() - 1.0) * noise;
        let image = RgbImage::from_fn(width as u32, self.height as u32, |x, y| {
            let color = self.colors[y as usize * width + x as usize];
            let luma = grain();
            Rgb([0, 1, 2].map(|channel| (color[channel] * light[channel] + luma + 0.5 * grain()).round() as u8))
        });
        let label = GrayImage::from_fn(width as u32, self.height as u32, |x, y| {
            Luma([self.labels[y as usize * width + x as usize]])
        });
        (image, label)
    }
}

//! Pixel work shared by the transforms: resampling, colour jitter, normalisation.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use rand::Rng;

/// Channel means of ImageNet, in units of 0..=1.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Channel deviations of ImageNet, in units of 0..=1.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Resamples a box of the image, (left, width) by (top, height) in source pixels, to `width` x `height` RGB bytes.
/// Bilinear when enlarging, a triangle filter as wide as the step when shrinking, so that nothing aliases. Pixels just
/// outside the box take part, which makes this the same as resizing the whole image and cutting out afterwards.
pub fn resize(image: &RgbImage, x: (f64, f64), y: (f64, f64), width: usize, height: usize) -> Vec<u8> {
    let mut pixels = vec![0; width * height * 3];
    let source =
        TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image).expect("three bytes per pixel");
    let target = TypedImage::<U8x3>::from_buffer(width as u32, height as u32, &mut pixels);
    let mut target = target.expect("three bytes per pixel");
    let filter = ResizeAlg::Convolution(FilterType::Bilinear);
    let options = ResizeOptions::new().resize_alg(filter).crop(x.0, y.0, x.1, y.1);
    // The untyped call compiles the kernels of all pixel types into this crate, which doubles its size.
    Resizer::new().resize_typed(&source, &mut target, &options).expect("a box inside the image");
    pixels
}

/// Mean and deviation of the channels, folded into one multiplication and addition on values 0..=255.
#[derive(Clone, Copy, Debug)]
pub struct Normalize {
    factor: [f32; 3],
    shift: [f32; 3],
}

impl Normalize {
    /// From mean and deviation in units of 0..=1.
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        let shift = [0, 1, 2].map(|channel| -mean[channel] / std[channel]);
        Self { factor: std.map(|std| 1.0 / (255.0 * std)), shift }
    }

    /// One pixel.
    pub fn apply(&self, pixel: [f32; 3]) -> [f32; 3] {
        [0, 1, 2].map(|channel| pixel[channel] * self.factor[channel] + self.shift[channel])
    }
}

/// The RGB triples of a byte buffer.
pub fn triples(bytes: &[u8]) -> impl ExactSizeIterator<Item = [f32; 3]> {
    bytes.as_chunks::<3>().0.iter().map(|pixel| pixel.map(f32::from))
}

/// Random brightness, contrast and saturation, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColorJitter {
    brightness: f32,
    contrast: f32,
    saturation: f32,
}

impl ColorJitter {
    /// Three factors, each even in `1 - strength ..= 1 + strength`.
    pub fn draw(strength: f64, rng: &mut impl Rng) -> Self {
        let mut factor = || (1.0 + strength * (2.0 * rng.random::<f64>() - 1.0)) as f32;
        Self { brightness: factor(), contrast: factor(), saturation: factor() }
    }

    /// The change for an image of these RGB bytes: contrast needs the image's mean grey.
    pub fn over(self, bytes: &[u8]) -> impl Fn([f32; 3]) -> [f32; 3] {
        let sum: f64 = triples(bytes).map(|pixel| f64::from(grey(pixel))).sum();
        let mean_grey = self.brightness * (sum / (bytes.len() / 3).max(1) as f64) as f32;
        move |pixel| {
            let contrasted = pixel.map(|v| self.contrast * (self.brightness * v - mean_grey) + mean_grey);
            let grey = grey(contrasted);
            contrasted.map(|v| (self.saturation * (v - grey) + grey).clamp(0.0, 255.0))
        }
    }
}

/// Luma of ITU-R BT.601.
fn grey([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn noise(width: u32, height: u32) -> RgbImage {
        let mut rng = rng::stream(3, "test", 0);
        RgbImage::from_fn(width, height, |_, _| image::Rgb(rng.random()))
    }

    #[test]
    fn resizing_a_part_equals_cutting_from_the_resized_whole() {
        let image = noise(40, 30);
        for (w, h) in [(80, 60), (20, 15)] {
            let whole = resize(&image, (0.0, 40.0), (0.0, 30.0), w, h);
            let part = resize(&image, (10.0, 20.0), (8.0, 12.0), w / 2, h * 12 / 30);
            let (left, top) = (w / 4, h * 8 / 30);
            for y in 0..h * 12 / 30 {
                let row = ((top + y) * w + left) * 3;
                assert_eq!(part[y * w / 2 * 3..][..w / 2 * 3], whole[row..][..w / 2 * 3], "row {y} at {w}x{h}");
            }
        }
    }

    #[test]
    fn normalisation_takes_the_mean_to_zero_and_one_deviation_to_one() {
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let normalize = Normalize::new(mean, std);
        let at = |k: f32| normalize.apply([0, 1, 2].map(|c| 255.0 * (mean[c] + k * std[c])));
        assert!(at(0.0).iter().all(|v| v.abs() < 1e-6) && at(1.0).iter().all(|v| (v - 1.0).abs() < 1e-6));
        // Black and white by torchvision's transforms.Normalize.
        let ends = [normalize.apply([0.0; 3]), normalize.apply([255.0; 3])];
        let golden = [[-2.117904, -2.0357144, -1.8044444], [2.2489083, 2.4285715, 2.64]];
        assert!(ends.as_flattened().iter().zip(golden.as_flattened()).all(|(a, b)| (a - b).abs() < 1e-5), "{ends:?}");
    }

    #[test]
    fn each_jitter_factor_does_what_its_name_says() {
        let neutral = ColorJitter { brightness: 1.0, contrast: 1.0, saturation: 1.0 };
        let bytes = [100, 100, 100, 40, 80, 120];
        let close = |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3);
        assert!(close(neutral.over(&bytes)([40.0, 80.0, 120.0]), [40.0, 80.0, 120.0]));
        let bright = ColorJitter { brightness: 2.5, ..neutral };
        assert!(close(bright.over(&bytes)([40.0, 80.0, 120.0]), [100.0, 200.0, 255.0]));
        let flat = ColorJitter { contrast: 0.0, ..neutral };
        let mean = (100.0 + grey([40.0, 80.0, 120.0])) / 2.0;
        assert!(close(flat.over(&bytes)([40.0, 80.0, 120.0]), [mean; 3]));
        let grey_only = ColorJitter { saturation: 0.0, ..neutral };
        assert!(close(grey_only.over(&bytes)([40.0, 80.0, 120.0]), [grey([40.0, 80.0, 120.0]); 3]));
    }
}

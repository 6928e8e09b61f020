//! The geometry of a random scale and crop along one axis: where in the source does each pixel of the crop come from?
//!
//! The crop is chosen in the frame of the scaled image, but that image is never made: only the part of the source that
//! the crop shows is resampled.

use std::ops::Range;

use rand::Rng;

/// One axis (height or width) of a random scale and crop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// Pixels of the source image.
    source: u32,
    /// Pixels of the scaled image.
    scaled: u32,
    /// Pixels of the crop.
    crop: u32,
    /// Where the crop starts in the scaled image; negative where the scaled image is smaller than the crop.
    offset: i64,
}

impl Axis {
    /// Scales `nominal` pixels by `scale` and places the crop with even probability: anywhere inside the scaled image,
    /// or, if that is the smaller one, the scaled image anywhere inside the crop.
    pub fn draw(source: u32, nominal: u32, scale: f64, crop: u32, rng: &mut impl Rng) -> Self {
        let scaled = ((f64::from(nominal) * scale).round() as u32).max(1);
        let slack = i64::from(scaled) - i64::from(crop);
        let offset = rng.random_range(slack.min(0)..=slack.max(0));
        Self { source, scaled, crop, offset }
    }

    /// Pixels of the crop that show the image; the others are padding.
    pub fn visible(&self) -> Range<usize> {
        let end = (i64::from(self.scaled) - self.offset).min(self.crop.into());
        (-self.offset).max(0) as usize..end as usize
    }

    /// Where in the crop a place of the source comes to lie, in pixels; it may be outside.
    pub fn place(&self, source: f64) -> f64 {
        source * f64::from(self.scaled) / f64::from(self.source) - self.offset as f64
    }

    /// Start and length, in source pixels, of what the visible pixels cover.
    pub fn source_span(&self) -> (f64, f64) {
        let (source, ratio) = (f64::from(self.source), f64::from(self.source) / f64::from(self.scaled));
        let visible = self.visible();
        let start = (self.offset + visible.start as i64) as f64 * ratio;
        let mut length = (visible.len() as f64 * ratio).min(source - start);
        while start + length > source {
            length = length.next_down(); // the sum was rounded up
        }
        (start, length)
    }

    /// The source pixel nearest to the middle of each visible pixel.
    pub fn nearest(&self) -> Vec<usize> {
        let (start, length) = self.source_span();
        let visible = self.visible().len();
        let step = length / visible as f64;
        let last = self.source as usize - 1;
        (0..visible).map(|i| ((start + (i as f64 + 0.5) * step) as usize).min(last)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng;

    #[test]
    fn an_image_smaller_than_the_crop_is_padded_and_a_larger_one_is_cut() {
        let small = Axis { source: 10, scaled: 5, crop: 8, offset: -2 };
        assert_eq!((small.visible(), small.source_span()), (2..7, (0.0, 10.0)));
        assert_eq!(small.nearest(), [1, 3, 5, 7, 9]);
        let large = Axis { source: 10, scaled: 20, crop: 4, offset: 15 };
        assert_eq!((large.visible(), large.source_span()), (0..4, (7.5, 2.0)));
        assert_eq!(large.nearest(), [7, 8, 8, 9]);
    }

    #[test]
    fn every_placement_is_drawn_equally_often() {
        let mut rng = rng::stream(0, "test", 0);
        let mut counts = [0; 5];
        for _ in 0..5000 {
            counts[Axis::draw(12, 12, 1.0, 8, &mut rng).offset as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn spans_and_indices_stay_inside_the_source(
            source in 1u32..3000, nominal in 1u32..3000, scale in 0.1..4.0f64, crop in 1u32..1500, seed in 0u64..1000,
        ) {
            let axis = Axis::draw(source, nominal, scale, crop, &mut rng::stream(seed, "test", 0));
            let ((start, length), visible) = (axis.source_span(), axis.visible());
            prop_assert!(start >= 0.0 && length > 0.0 && start + length <= f64::from(source));
            prop_assert_eq!(visible.len(), crop.min(axis.scaled) as usize);
            prop_assert!(visible.end <= crop as usize);
            prop_assert!(axis.nearest().is_sorted());
        }
    }
}

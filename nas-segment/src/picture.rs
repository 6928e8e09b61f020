//! Pictures of predictions: colour maps and overlays.

use image::{GrayImage, Rgb, RgbImage};
use nas_datasets::Classes;

/// Train ids as palette colours; pixels without a class are black.
pub fn colorize(labels: &GrayImage, classes: &Classes) -> RgbImage {
    let color = |id: u8| classes.colors.get(usize::from(id)).copied().unwrap_or_default();
    RgbImage::from_fn(labels.width(), labels.height(), |x, y| Rgb(color(labels.get_pixel(x, y)[0])))
}

/// The image with its labels' colours over it, half and half. Both have one size.
pub fn overlay(image: &RgbImage, labels: &GrayImage, classes: &Classes) -> RgbImage {
    let mut blended = colorize(labels, classes);
    for (pixel, photo) in blended.pixels_mut().zip(image.pixels()) {
        pixel.0.iter_mut().zip(photo.0).for_each(|(value, other)| *value = value.midpoint(other));
    }
    blended
}

/// The ids that the data set's own label files use, for benchmarks that score files.
pub fn to_file_ids(labels: &GrayImage, classes: &Classes) -> GrayImage {
    let file_id = |id: u8| classes.file_ids.get(usize::from(id)).copied().unwrap_or(id);
    GrayImage::from_fn(labels.width(), labels.height(), |x, y| [file_id(labels.get_pixel(x, y)[0])].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Classes {
        Classes {
            names: vec!["road".into(), "car".into()],
            colors: vec![[128, 64, 128], [0, 0, 142]],
            file_ids: vec![7, 26],
        }
    }

    #[test]
    fn pictures_carry_the_palette_and_files_the_official_ids() {
        let labels = GrayImage::from_raw(3, 1, vec![0, 1, 255]).unwrap();
        let colors = colorize(&labels, &classes());
        assert_eq!(colors.as_raw(), &[128, 64, 128, 0, 0, 142, 0, 0, 0]);
        assert_eq!(to_file_ids(&labels, &classes()).as_raw(), &[7, 26, 255]);
        let white = RgbImage::from_pixel(3, 1, Rgb([255; 3]));
        assert_eq!(overlay(&white, &labels, &classes()).get_pixel(1, 0).0, [127, 127, 198]);
        assert_eq!(nas_core::run::picture::side_by_side(&[white.clone(), colors]).dimensions(), (10, 1));
    }
}

//! Pictures of detections: boxes with class and score.

use font8x8::legacy::BASIC_LEGACY;
use image::{Rgb, RgbImage, imageops};
use nas_datasets::det::DetClasses;

use crate::task::evaluation::Found;

/// A box to draw, in pixels of the image.
#[derive(Clone, Debug, PartialEq)]
pub struct Marked {
    /// Left, top, right, bottom.
    pub bbox: [f64; 4],
    /// Class index, which chooses the colour.
    pub class: usize,
    /// What is written at the box.
    pub text: String,
}

/// Side of a letter in pixels.
const LETTER: u32 = 8;
/// An image whose shorter side is less is enlarged by a whole number, so that texts can be read.
const MIN_SIDE: u32 = 320;

/// The image, enlarged where it is small, with its boxes; the first ones on top.
pub fn draw(image: &RgbImage, boxes: &[Marked]) -> RgbImage {
    let (w, h) = image.dimensions();
    let scale = MIN_SIDE.div_ceil(w.min(h).max(1)).max(1);
    let mut picture = imageops::resize(image, w * scale, h * scale, imageops::FilterType::Nearest);
    for Marked { bbox, class, text } in boxes.iter().rev() {
        let [x0, y0, x1, y1] = bbox.map(|value| (value * f64::from(scale)).round() as i64);
        outline(&mut picture, [x0, y0, x1, y1], color(*class));
        // Above the box, or inside where there is no room above.
        let height = i64::from(LETTER) + 2;
        let top = if y0 >= height { y0 - height } else { y0.max(0) };
        label(&mut picture, (x0.max(0), top), text, color(*class));
    }
    picture
}

/// A colour of its own for each of the first classes: hues by the golden angle.
fn color(class: usize) -> Rgb<u8> {
    let hue = (class as f64 * 137.508) % 360.0 / 60.0;
    let channel = |shift: f64| {
        let k = (shift + hue) % 6.0;
        (230.0 * (1.0 - (k.min(4.0 - k)).clamp(0.0, 1.0))) as u8
    };
    Rgb([channel(5.0), channel(3.0), channel(1.0)])
}

fn put(picture: &mut RgbImage, x: i64, y: i64, color: Rgb<u8>) {
    if x >= 0 && y >= 0 && x < picture.width().into() && y < picture.height().into() {
        picture.put_pixel(x as u32, y as u32, color);
    }
}

/// Two pixels wide, inside the box.
fn outline(picture: &mut RgbImage, [x0, y0, x1, y1]: [i64; 4], color: Rgb<u8>) {
    for inset in 0..2 {
        for x in x0..x1 {
            put(picture, x, y0 + inset, color);
            put(picture, x, y1 - 1 - inset, color);
        }
        for y in y0..y1 {
            put(picture, x0 + inset, y, color);
            put(picture, x1 - 1 - inset, y, color);
        }
    }
}

/// White letters on a ground of `color`; letters that the font lacks are question marks.
fn label(picture: &mut RgbImage, (left, top): (i64, i64), text: &str, color: Rgb<u8>) {
    let letter = i64::from(LETTER);
    let count = text.chars().count() as i64;
    // Moved to the left where it would leave the picture.
    let left = left.min(i64::from(picture.width()) - count * letter - 2).max(0);
    for y in 0..letter + 2 {
        (0..count * letter + 2).for_each(|x| put(picture, left + x, top + y, color));
    }
    for (i, char) in text.chars().enumerate() {
        let glyph = BASIC_LEGACY.get(char as usize).unwrap_or(&BASIC_LEGACY[usize::from(b'?')]);
        for (y, row) in glyph.iter().enumerate() {
            for x in (0..LETTER).filter(|x| row >> x & 1 == 1) {
                put(picture, left + 1 + i as i64 * letter + i64::from(x), top + 1 + y as i64, Rgb([255; 3]));
            }
        }
    }
}

/// The boxes that are drawn: those of at least `min_score`, with class and score.
pub fn marked(found: &[Found], classes: &DetClasses, min_score: f64) -> Vec<Marked> {
    let drawn = found.iter().filter(|found| found.score >= min_score);
    let mark = |Found { bbox, class, score }: &Found| Marked {
        bbox: *bbox,
        class: *class,
        text: format!("{} {score:.2}", classes.names()[*class]),
    };
    drawn.map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_drawn_where_they_are_and_outside_nothing() {
        let black = RgbImage::new(400, 330);
        let marked = |bbox| Marked { bbox, class: 1, text: "x 0.90".into() };
        let picture = draw(&black, &[marked([50.0, 60.0, 90.0, 100.0])]);
        assert_eq!(picture.dimensions(), (400, 330));
        let drawn: Vec<_> = picture.enumerate_pixels().filter(|(.., pixel)| pixel.0 != [0; 3]).collect();
        let (x, y) = (drawn.iter().map(|p| p.0), drawn.iter().map(|p| p.1));
        assert_eq!((x.clone().min(), x.max(), y.clone().min(), y.max()), (Some(50), Some(99), Some(50), Some(99)));
        assert_eq!(picture.get_pixel(70, 80).0, [0; 3], "the inside is left as it is");
        assert_eq!(picture.get_pixel(51, 80), &color(1));
        let letters = drawn.iter().filter(|(_, y, pixel)| *y < 60 && pixel.0 == [255; 3]).count();
        assert!(letters > 30, "{letters}");
        // Beyond every border: clipped.
        draw(&black, &[marked([-20.0, -20.0, 1000.0, 1000.0])]);
    }

    #[test]
    fn small_images_are_enlarged_with_their_boxes() {
        let box_ = Marked { bbox: [10.0, 20.0, 40.0, 50.0], class: 0, text: String::new() };
        let picture = draw(&RgbImage::new(64, 100), &[box_]);
        assert_eq!(picture.dimensions(), (320, 500));
        assert_eq!(picture.get_pixel(50, 110), &color(0));
        assert_ne!(color(0), color(1));
        assert_eq!(nas_core::run::picture::side_by_side(&[picture.clone(), picture]).dimensions(), (644, 500));
    }
}

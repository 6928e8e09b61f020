use image::{Rgb, RgbImage};
use proptest::prelude::*;

use super::*;
use crate::rng;

fn object(bbox: [f64; 4]) -> Object {
    Object { bbox, class: 2, area: 1.0, crowd: false, difficult: false }
}

/// A black image with a white box.
fn sample(width: u32, height: u32, bbox: [u32; 4]) -> DetSample {
    let [x0, y0, x1, y1] = bbox;
    let inside = |x, y| (x0..x1).contains(&x) && (y0..y1).contains(&y);
    let image = RgbImage::from_fn(width, height, |x, y| Rgb([if inside(x, y) { 255 } else { 0 }; 3]));
    DetSample { image, objects: vec![object(bbox.map(f64::from))] }
}

fn plain() -> DetTransform {
    DetTransform { flip: 0.0, mean: [0.0; 3], std: [1.0; 3], ..DetTransform::default() }
}

#[test]
fn the_short_side_is_met_unless_the_long_one_gets_too_long() {
    let size = |transform: &DetTransform, w, h| <[u32; 2]>::from(transform.eval(&sample(w, h, [0; 4])).size);
    let transform = DetTransform { short: 20, long: 50, ..plain() };
    assert_eq!(size(&transform, 40, 80), [40, 20]);
    assert_eq!(size(&transform, 80, 40), [20, 40]);
    assert_eq!(size(&transform, 300, 40), [7, 50], "40 * 50 / 300 is 6.67");
    assert_eq!(size(&transform, 1000, 2), [1, 50], "no side vanishes");
}

#[test]
fn boxes_follow_the_rounded_size_and_are_clipped_or_dropped() {
    let mut wide = sample(40, 20, [0; 4]);
    let crowd = Object { crowd: true, ..object([0.0, 0.0, 40.0, 20.0]) };
    let boxes = [[-5.0, 5.0, 20.0, 25.0], [39.0, 0.0, 60.0, 9.0], [3.0, 3.0, 4.5, 9.0], [10.0, 0.0, 13.0, 3.0]];
    wide.objects = boxes.map(object).to_vec();
    wide.objects.push(crowd);
    let transform = DetTransform { short: 10, long: 15, ..plain() };
    let prepared = transform.train(&wide, &mut rng::stream(0, "test", 0));
    assert_eq!(prepared.size, Size::new(8, 15), "7.5 is rounded");
    assert_eq!(prepared.boxes, [[0.0, 2.0, 7.5, 8.0], [3.75, 0.0, 4.875, 1.2]]);
    assert_eq!(prepared.labels, [2, 2]);
    wide.objects.clear();
    let prepared = transform.train(&wide, &mut rng::stream(0, "test", 0));
    assert!(prepared.boxes.is_empty() && prepared.labels.is_empty());
}

#[test]
fn settings_without_sense_are_named() {
    let error = |transform: DetTransform| transform.validate().unwrap_err().to_string();
    assert_eq!(error(DetTransform { long: 10, ..plain() }), "long = 10, expected short or more");
    assert_eq!(error(DetTransform { pad_multiple: 0, ..plain() }), "pad_multiple = 0, expected 1 or more");
    assert!(error(DetTransform { scale: [0.0, f64::NAN], ..plain() }).starts_with("scale = [0.0, NaN]"));
    assert!(DetTransform::default().validate().is_ok());
    let text = toml::to_string(&DetTransform::default()).unwrap();
    assert_eq!(toml::from_str::<DetTransform>(&text).unwrap(), DetTransform::default());
    assert!(toml::from_str::<DetTransform>("shorter = 3").unwrap_err().to_string().contains("shorter"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Wherever a random view puts the white box, the bright pixels are there.
    #[test]
    fn the_box_stays_on_its_object(
        width in 60u32..150, height in 60u32..150, left in 0u32..50, top in 0u32..50, w in 20u32..60, h in 20u32..60,
        crop in 40u32..120, seed in 0u64..1000,
    ) {
        let sample = sample(width, height, [left, top, (left + w).min(width), (top + h).min(height)]);
        let most = Size::new(crop, 160 - crop);
        let transform = DetTransform { short: 90, long: 120, scale: [0.7, 1.5], crop: Some(most), flip: 0.5, ..plain() };
        let Prepared { image, size, boxes, .. } = transform.train(&sample, &mut rng::stream(seed, "test", 0));
        prop_assert!(size.height() <= most.height() && size.width() <= most.width());
        let columns = size.width() as usize;
        let bright = image.chunks_exact(3).enumerate().filter(|(_, pixel)| pixel[0] > 0.5);
        let places: Vec<(usize, usize)> = bright.map(|(i, _)| (i % columns, i / columns)).collect();
        let Some([x0, y0, x1, y1]) = boxes.first().copied() else {
            let columns: std::collections::BTreeSet<usize> = places.iter().map(|(x, _)| *x).collect();
            let rows: std::collections::BTreeSet<usize> = places.iter().map(|(_, y)| *y).collect();
            prop_assert!(columns.len() <= 2 || rows.len() <= 2, "an object of {}x{} got lost", columns.len(), rows.len());
            return Ok(());
        };
        let ends = |values: Vec<usize>| (*values.iter().min().unwrap() as f32, *values.iter().max().unwrap() as f32 + 1.0);
        let (left, right) = ends(places.iter().map(|(x, _)| *x).collect());
        let (top, bottom) = ends(places.iter().map(|(_, y)| *y).collect());
        let errors = [left - x0, top - y0, right - x1, bottom - y1];
        prop_assert!(errors.iter().all(|error| error.abs() <= 1.0), "{errors:?}");
    }
}

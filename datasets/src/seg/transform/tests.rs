use image::{Luma, Rgb};
use tch::Kind;

use super::*;
use crate::rng::stream;

/// No change of values: what comes out are the bytes as floats.
fn raw() -> TrainTransform {
    TrainTransform { mean: [0.0; 3], std: [1.0 / 255.0; 3], ..Default::default() }
}

/// Red and green tell the column and row, blue marks the image; the label tells the 16x16 block.
fn position_pattern() -> (RgbImage, GrayImage) {
    let image = RgbImage::from_fn(160, 96, |x, y| Rgb([x as u8, y as u8, 200]));
    let label = GrayImage::from_fn(160, 96, |x, y| Luma([(x / 16 + 16 * (y / 16)) as u8]));
    (image, label)
}

/// Whether a source position may carry a label: it lies in the label's block, give or take a pixel.
fn is_in_block(position: f32, block: u8) -> bool {
    let start = f32::from(block) * 16.0;
    (start - 1.0..=start + 16.0).contains(&position)
}

#[test]
fn image_and_label_move_together_under_every_draw() {
    let (image, label) = position_pattern();
    for (seed, resize) in [(0, None), (1, Some(Size::new(48, 80))), (2, Some(Size::new(100, 100)))] {
        let transform = TrainTransform { resize, scale: [0.4, 3.0], crop: Size::new(60, 70), ..raw() };
        let (mut shown, mut mirrored) = (0, 0);
        for id in 0..100 {
            let crop = transform.apply(&image, &label, &mut stream(seed, "test", id));
            let rows = crop.image.as_chunks::<3>().0.chunks_exact(70).zip(crop.label.chunks_exact(70));
            for (pixels, ids) in rows {
                for ([x, y, mark], id) in pixels.iter().zip(ids) {
                    assert!(if *id == IGNORE { *mark == 0.0 } else { *mark == 200.0 });
                    assert!(*id == IGNORE || is_in_block(*x, id % 16) && is_in_block(*y, id / 16), "{x} {y} {id}");
                    shown += usize::from(*id != IGNORE);
                }
                mirrored +=
                    usize::from(pixels.windows(2).any(|pair| pair[0][2] * pair[1][2] > 0.0 && pair[0][0] > pair[1][0]));
            }
        }
        assert!(shown > 100 * 60 * 70 / 3 && mirrored > 1000, "{shown} {mirrored}");
    }
}

#[test]
fn a_crop_of_the_whole_image_at_scale_one_changes_no_pixel() {
    let (image, label) = position_pattern();
    let identity = TrainTransform { scale: [1.0, 1.0], flip: 0.0, crop: Size::new(96, 160), ..raw() };
    let crop = identity.apply(&image, &label, &mut stream(0, "test", 0));
    assert!(crop.image.iter().zip(image.as_raw()).all(|(a, b)| (a - f32::from(*b)).abs() < 1e-3));
    assert_eq!(&crop.label, label.as_raw());
    let mirror = TrainTransform { flip: 1.0, ..identity }.apply(&image, &label, &mut stream(0, "test", 0));
    assert_eq!(mirror.label[..160].iter().rev().collect::<Vec<_>>(), label.as_raw()[..160].iter().collect::<Vec<_>>());
    assert!((mirror.image[0] - 159.0).abs() < 1e-3 && mirror.image[159 * 3].abs() < 1e-3);
}

#[test]
fn padding_is_the_mean_colour_and_the_ignored_label() {
    let (image, label) = position_pattern();
    let transform =
        TrainTransform { scale: [0.5, 0.5], crop: Size::new(100, 60), color_jitter: 0.5, ..Default::default() };
    for id in 0..20 {
        let crop = transform.apply(&image, &label, &mut stream(0, "test", id));
        let padded: Vec<bool> = crop.label.iter().map(|id| *id == IGNORE).collect();
        assert_eq!(padded.iter().filter(|padded| **padded).count(), (100 - 48) * 60); // 48x80 image
        let colors = crop.image.as_chunks::<3>().0;
        assert!(colors.iter().zip(&padded).all(|(color, padded)| (*color == [0.0; 3]) == *padded));
    }
}

#[test]
fn resize_is_the_size_that_scale_one_means() {
    let (image, label) = position_pattern();
    let half = Size::new(48, 80);
    let transform = TrainTransform { resize: Some(half), scale: [1.0, 1.0], crop: half, flip: 0.0, ..raw() };
    let crop = transform.apply(&image, &label, &mut stream(0, "test", 0));
    assert!(!crop.label.contains(&IGNORE));
    // Middle of the output pixel (10, 20) lies between the source pixels 20, 21 and 40, 41.
    let [x, y, _] = crop.image.as_chunks::<3>().0[10 * 80 + 20];
    assert!((x - 40.5).abs() <= 0.5 && (y - 20.5).abs() <= 0.5, "{x} {y}");
}

#[test]
fn stepped_scales_are_deeplabs_seven() {
    let transform = TrainTransform { scale_step: 0.25, ..Default::default() };
    let mut rng = stream(0, "test", 0);
    let mut quarters: Vec<u32> = (0..300).map(|_| (transform.draw_scale(&mut rng) * 4.0) as u32).collect();
    quarters.sort_unstable();
    quarters.dedup();
    assert_eq!(quarters, [2, 3, 4, 5, 6, 7, 8]);
    let continuous = TrainTransform::default();
    let mean = (0..2000).map(|_| continuous.draw_scale(&mut rng)).sum::<f64>() / 2000.0;
    assert!((mean - 1.25).abs() < 0.05, "{mean}");
}

#[test]
fn senseless_settings_are_refused_by_name() {
    let broken = [
        ("scale", TrainTransform { scale: [2.0, 0.5], ..Default::default() }),
        ("scale", TrainTransform { scale: [0.0, 1.0], ..Default::default() }),
        ("scale_step", TrainTransform { scale_step: -0.25, ..Default::default() }),
        ("flip", TrainTransform { flip: 1.5, ..Default::default() }),
        ("color_jitter", TrainTransform { color_jitter: f64::NAN, ..Default::default() }),
        ("std", TrainTransform { std: [0.2, 0.0, 0.2], ..Default::default() }),
    ];
    for (key, transform) in broken {
        let message = transform.validate().unwrap_err().to_string();
        assert!(message.starts_with(&format!("{key} = ")) && message.contains("expected"), "{message}");
    }
    TrainTransform::default().validate().unwrap();
}

#[test]
fn files_hold_sizes_as_height_and_width_and_no_unknown_key() {
    let transform: TrainTransform = toml::from_str("crop = [180, 240]\nresize = [360, 480]\nflip = 0.0").unwrap();
    assert_eq!((transform.crop, transform.resize), (Size::new(180, 240), Some(Size::new(360, 480))));
    assert_eq!((transform.crop.height(), transform.crop.width()), (180, 240));
    assert_eq!(toml::from_str::<TrainTransform>(&toml::to_string(&transform).unwrap()).unwrap(), transform);
    let error = toml::from_str::<TrainTransform>("crop = [0, 240]").unwrap_err().to_string();
    assert!(error.contains("expected [height, width] of at least 1"), "{error}");
    assert!(toml::from_str::<TrainTransform>("croop = [1, 1]").unwrap_err().to_string().contains("croop"));
}

#[test]
fn evaluation_normalises_the_whole_image_in_channels_last_memory() {
    let (image, _) = position_pattern();
    let transform = EvalTransform::like(&TrainTransform::default(), None);
    let xs = transform.apply(&image);
    assert_eq!((xs.size(), xs.kind()), (vec![1, 3, 96, 160], Kind::Float));
    assert_eq!(xs.stride(), [96 * 160 * 3, 1, 160 * 3, 3]);
    let expected = (200.0 / 255.0 - 0.406) / 0.225; // blue
    assert!((xs.double_value(&[0, 2, 50, 70]) - expected).abs() < 1e-5);
    let resized = EvalTransform { resize: Some(Size::new(48, 80)), ..transform }.apply(&image);
    assert_eq!(resized.size(), [1, 3, 48, 80]);
    let red = resized.double_value(&[0, 0, 10, 20]) * 0.229 + 0.485;
    assert!((red * 255.0 - 40.5).abs() < 0.6, "{red}");
}

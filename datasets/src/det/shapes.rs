//! Synthetic pictures of circles, squares and triangles: for demos, tests and timing without any download.
//!
//! Every picture is a function of (seed, split, index): 96 to 128 pixels high and wide, one to four shapes of 14 to 56
//! pixels on a background of soft gradients, with noise. Boxes are those of the visible pixels.

use std::fs;
use std::path::Path;

use image::{GrayImage, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{CocoId, DetClasses, DetDataset, DetSample, Object, coco};
use crate::canvas::{Area, Canvas, Color, blend, shade};
use crate::error::{DataError, Problem};
use crate::rng;
use crate::size::Size;
use crate::split::Split;

/// Sides of a picture in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 96..=128;
/// Places that are tried for a shape before it is given up.
const TRIES: usize = 20;

/// Pictures of shapes, drawn when they are loaded.
pub struct ShapesDataset {
    names: Vec<String>,
    seed: u64,
    split: Split,
    classes: DetClasses,
}

impl ShapesDataset {
    /// The first `len` pictures of a split.
    ///
    /// # Errors
    /// If `len` is zero.
    pub fn new(len: usize, seed: u64, split: Split) -> Result<Self, DataError> {
        if len == 0 {
            let path = format!("synthetic {split} split");
            return Err(Problem::new(path.as_ref(), "no image", "at least one (the test split has none)").into());
        }
        let classes = DetClasses::numbered(["circle", "square", "triangle"].map(str::to_owned));
        Ok(Self { names: (1..=len).map(|i| format!("{i:06}")).collect(), seed, split, classes })
    }
}

impl DetDataset for ShapesDataset {
    fn len(&self) -> usize {
        self.names.len()
    }

    fn name(&self, i: usize) -> &str {
        &self.names[i]
    }

    fn image_id(&self, i: usize) -> CocoId {
        (i as i64 + 1).into()
    }

    fn load(&self, i: usize) -> Result<DetSample, DataError> {
        Ok(draw(&mut rng::stream(self.seed, &format!("shapes/{}", self.split), i as u64)))
    }

    fn classes(&self) -> &DetClasses {
        &self.classes
    }
}

fn draw(rng: &mut ChaCha8Rng) -> DetSample {
    let size = Size::new(rng.random_range(SIDES), rng.random_range(SIDES));
    let mut canvas = Canvas::new(size);
    let (width, height) = (canvas.width(), canvas.height());
    let [from, to] = [0; 2].map(|_| color(rng));
    let whole = Area { left: 0.0, top: 0.0, right: width, bottom: height };
    canvas.paint(whole, 0, |x, y| Some(blend(from, to, (x / width + y / height) / 2.0)));
    let ground = blend(from, to, 0.5);
    let mut areas: Vec<Area> = Vec::new();
    let mut classes = Vec::new();
    for _ in 0..rng.random_range(1..=4) {
        let Some(area) = place(&areas, width, height, rng) else { continue };
        let (class, paint) = (rng.random_range(0..3), contrasting(ground, rng));
        classes.push(class);
        areas.push(area);
        shape(&mut canvas, area, class, classes.len() as u8, paint);
    }
    let (image, label) = canvas.develop([1.0; 3], rng.random_range(4.0..16.0), rng);
    let objects = classes.iter().zip(1..).filter_map(|(class, mark)| object(&label, mark, *class)).collect();
    DetSample { image: image as RgbImage, objects }
}

fn color(rng: &mut ChaCha8Rng) -> Color {
    [0; 3].map(|_| rng.random_range(30.0..225.0))
}

/// A colour that can be told from the background.
fn contrasting(ground: Color, rng: &mut ChaCha8Rng) -> Color {
    loop {
        let color = color(rng);
        if color.iter().zip(ground).map(|(a, b)| (a - b).abs()).sum::<f32>() > 150.0 {
            return color;
        }
    }
}

/// A square inside the picture that covers little of the others.
fn place(others: &[Area], width: f32, height: f32, rng: &mut ChaCha8Rng) -> Option<Area> {
    let mut candidates = (0..TRIES).map(|_| {
        let side = rng.random_range(14.0..56.0);
        let (left, top) = (rng.random_range(0.0..width - side), rng.random_range(0.0..height - side));
        Area { left, top, right: left + side, bottom: top + side }
    });
    candidates.find(|area| others.iter().all(|other| overlap(area, other) < 0.1))
}

/// Shared part of the smaller of two squares.
fn overlap(a: &Area, b: &Area) -> f32 {
    let (w, h) = (a.right.min(b.right) - a.left.max(b.left), a.bottom.min(b.bottom) - a.top.max(b.top));
    let smaller = (a.right - a.left).min(b.right - b.left);
    w.max(0.0) * h.max(0.0) / (smaller * smaller)
}

fn shape(canvas: &mut Canvas, area: Area, class: usize, mark: u8, color: Color) {
    let (x, side) = ((area.left + area.right) / 2.0, area.right - area.left);
    let radius = |px: f32, py: f32| ((px - x).powi(2) + (py - area.top - side / 2.0).powi(2)).sqrt();
    canvas.paint(area, mark, |px, py| {
        let inside = match class {
            0 => radius(px, py) <= side / 2.0,
            1 => true,
            _ => (px - x).abs() <= (py - area.top) / 2.0,
        };
        inside.then(|| shade(color, 1.1 - 0.2 * (py - area.top) / side))
    });
}

/// The object whose pixels have a mark.
fn object(label: &GrayImage, mark: u8, class: usize) -> Option<Object> {
    let (mut bbox, mut area) = ([u32::MAX, u32::MAX, 0, 0], 0.0);
    for (x, y, _) in label.enumerate_pixels().filter(|(.., pixel)| pixel[0] == mark) {
        bbox = [bbox[0].min(x), bbox[1].min(y), bbox[2].max(x + 1), bbox[3].max(y + 1)];
        area += 1.0;
    }
    (area > 0.0).then(|| Object { bbox: bbox.map(f64::from), class, area, crowd: false, difficult: false })
}

/// Writes pictures below `dir` in COCO's layout. Reading them back gives the very samples of [`ShapesDataset`].
///
/// # Errors
/// If `dir` holds a set already, cannot be written to, or a number is zero.
pub fn write_coco(dir: &Path, num_train: usize, num_val: usize, seed: u64) -> Result<(), DataError> {
    let splits = [(Split::Train, num_train), (Split::Val, num_val)];
    let sets = splits.map(|(split, len)| Ok((split, ShapesDataset::new(len, seed, split)?)));
    let sets = sets.into_iter().collect::<Result<Vec<_>, DataError>>()?;
    let annotations = dir.join("annotations");
    if annotations.exists() {
        return Err(Problem::new(&annotations, "already there", "a folder without a data set").into());
    }
    fs::create_dir_all(&annotations).map_err(|error| DataError::write(&annotations, error))?;
    for (split, set) in sets {
        let images = dir.join(format!("{split}2017"));
        fs::create_dir_all(&images).map_err(|error| DataError::write(&images, error))?;
        (0..set.len()).into_par_iter().try_for_each(|i| {
            let path = images.join(format!("{}.png", set.name(i)));
            set.load(i)?.image.save(&path).map_err(|error| DataError::write(&path, error))
        })?;
        let path = annotations.join(format!("instances_{split}2017.json"));
        let file = coco::annotations(&set, |name| format!("{name}.png"))?;
        let json = serde_json::to_vec(&file).map_err(|error| DataError::write(&path, error))?;
        fs::write(&path, json).map_err(|error| DataError::write(&path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::det::DetDataConfig;

    #[test]
    fn every_picture_is_a_function_of_seed_split_and_index() {
        let set = |seed, split| ShapesDataset::new(30, seed, split).unwrap().load(7).unwrap();
        assert_eq!(set(0, Split::Train), set(0, Split::Train));
        assert!(set(0, Split::Train) != set(1, Split::Train) && set(0, Split::Train) != set(0, Split::Val));
        assert!(ShapesDataset::new(0, 0, Split::Val).is_err());
    }

    #[test]
    fn pictures_hold_one_to_four_shapes_of_all_classes() {
        let set = ShapesDataset::new(60, 0, Split::Train).unwrap();
        let (mut counts, mut classes) = ([0; 5], [0; 3]);
        for i in 0..set.len() {
            let DetSample { image, objects } = set.load(i).unwrap();
            let (w, h) = image.dimensions();
            assert!(SIDES.contains(&w) && SIDES.contains(&h));
            counts[objects.len()] += 1;
            for Object { bbox: [x0, y0, x1, y1], class, area, .. } in objects {
                classes[class] += 1;
                assert!(x0 >= 0.0 && y0 >= 0.0 && x1 <= w.into() && y1 <= h.into());
                let share = area / ((x1 - x0) * (y1 - y0));
                // Of its box a circle fills pi / 4, a triangle half; others may cover a tenth of their own size.
                let (low, high) = [(0.6, 0.85), (0.7, 1.0), (0.35, 0.65)][class];
                assert!((low..=high).contains(&share), "class {class} fills {share} of its box");
            }
        }
        assert!(counts[0] == 0 && counts[1..].iter().all(|count| *count > 3), "{counts:?}");
        assert!(classes.iter().all(|count| *count > 20), "{classes:?}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        write_coco(dir.path(), 5, 2, 9).unwrap();
        let drawn = DetDataConfig::Shapes { num_images: 5, num_val: 2, seed: 9 };
        let read = DetDataConfig::Coco { root: dir.path().into() };
        for (split, len) in [(Split::Train, 5), (Split::Val, 2)] {
            let (drawn, read) = (drawn.open(split).unwrap(), read.open(split).unwrap());
            assert_eq!((drawn.len(), read.len(), drawn.classes()), (len, len, read.classes()));
            assert!(read.warnings().is_empty());
            for i in 0..len {
                assert_eq!(drawn.load(i).unwrap(), read.load(i).unwrap());
                assert_eq!((drawn.name(i), drawn.image_id(i)), (read.name(i), read.image_id(i)));
            }
        }
        assert!(write_coco(dir.path(), 1, 1, 0).unwrap_err().to_string().contains("annotations: already there"));
    }
}

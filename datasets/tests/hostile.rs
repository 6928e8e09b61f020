//! Damaged and hostile files of every format: a reader may refuse them, but it neither panics nor takes what a header claims.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{GrayImage, RgbImage};
use nas_datasets::classify::{self, ClassifyDataConfig};
use nas_datasets::det::{self, DetDataConfig};
use nas_datasets::{DataConfig, Split, check, read_image, read_label};
use proptest::prelude::*;

/// One change of a file.
#[derive(Clone, Debug)]
enum Change {
    /// A bit is turned, at a share of the length.
    Flip(f64, u8),
    /// Bytes are put in.
    Insert(f64, Vec<u8>),
    /// The rest is cut off.
    Cut(f64),
    /// A part is repeated.
    Repeat(f64, f64),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let interesting = prop_oneof![
        any::<[u8; 4]>().prop_map(Vec::from),
        Just(vec![0xff; 4]),
        Just(vec![0; 4]),
        Just(b"\xef\xbb\xbf".to_vec()),
        Just(b"../../".to_vec()),
        Just(b"1e999".to_vec()),
        Just(b"NaN".to_vec()),
        Just(b"-1".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"<!DOCTYPE a>".to_vec()),
        Just(b"[[[[[[[[".to_vec()),
    ];
    let change = prop_oneof![
        (0.0..1.0f64, 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (0.0..1.0f64, interesting).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (0.0..1.0f64).prop_map(Change::Cut),
        (0.0..1.0f64, 0.0..1.0f64).prop_map(|(from, to)| Change::Repeat(from, to)),
    ];
    prop::collection::vec(change, 1..4)
}

fn apply(bytes: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for change in changes {
        let place = |share: f64| (share * bytes.len() as f64) as usize;
        match change {
            Change::Flip(at, bit) => {
                let at = place(*at);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
            }
            Change::Insert(at, new) => {
                let at = place(*at);
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Cut(at) => bytes.truncate(place(*at)),
            Change::Repeat(a, b) => {
                let (a, b) = (place(a.min(*b)), place(a.max(*b)));
                bytes.extend_from_within(a..b);
            }
        }
    }
    bytes
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn noise() -> RgbImage {
    RgbImage::from_fn(12, 9, |x, y| image::Rgb([(x * 31) as u8, (y * 17) as u8, (x * y) as u8]))
}

const COCO: &str = r#"{"images": [{"id": 1, "width": 12, "height": 9, "file_name": "a.png"}], "annotations": [{"id": 1,
  "image_id": 1, "category_id": 2, "bbox": [1, 2, 3.5, 4], "area": 12, "iscrowd": 0}], "categories": [{"id": 2, "name": "x"}]}"#;

const VOC: &str = "<?xml version='1.0' encoding='ISO-8859-1'?><annotation><filename>a.png</filename><size><width>12</width>
  <height>9</height></size><object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>7</xmax><ymax>8</ymax></bndbox>
  </object></annotation>";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 32 } else { 192 }))]

    #[test]
    fn images_and_labels(changes in changes()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        put(&path, &apply(&png(&noise()), &changes));
        let _ = read_image(&path);
        GrayImage::from_fn(12, 9, |x, _| image::Luma([x as u8])).save(&path).unwrap();
        let label = fs::read(&path).unwrap();
        put(&path, &apply(&label, &changes));
        let _ = read_label(&path, "a label map");
        let path = dir.path().join("a.jpg");
        noise().save(&path).unwrap();
        let photo = fs::read(&path).unwrap();
        put(&path, &apply(&photo, &changes));
        let _ = read_image(&path);
    }

    #[test]
    fn lists_and_classes(changes in changes()) {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("classes.txt"), &apply(b"sky 1 2 3\nroad\n", &changes));
        put(&dir.path().join("train.txt"), &apply(b"a\nb c\n", &changes));
        put(&dir.path().join("images/a.png"), &png(&noise()));
        if let Ok(set) = (DataConfig::Folder { root: dir.path().into() }).open(Split::Train) {
            for i in 0..set.len() {
                let name = Path::new(set.name(i));
                prop_assert!(name.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
            check(&*set);
        }
        put(&dir.path().join("train.txt"), &apply(b"/S/train/a.png /S/trainannot/a.png\n", &changes));
        if let Ok(set) = (DataConfig::Camvid { root: dir.path().into() }).open(Split::Train) {
            check(&*set);
        }
    }

    #[test]
    fn coco_and_voc(changes in changes()) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(&root.join("annotations/instances_train2017.json"), &apply(COCO.as_bytes(), &changes));
        put(&root.join("train2017/a.png"), &png(&noise()));
        if let Ok(set) = (DetDataConfig::Coco { root: root.into() }).open(Split::Train) {
            prop_assert!((0..set.len()).all(|i| !set.name(i).contains('/')));
            det::check(&*set);
        }
        put(&root.join("ImageSets/Main/train.txt"), &apply(b"a\n", &changes));
        put(&root.join("Annotations/a.xml"), &apply(VOC.as_bytes(), &changes));
        put(&root.join("JPEGImages/a.png"), &png(&noise()));
        if let Ok(set) = (DetDataConfig::Voc { root: root.into(), classes: None }).open(Split::Train) {
            prop_assert!((0..set.len()).all(|i| !set.name(i).contains('/')));
            det::check(&*set);
        }
    }

    #[test]
    fn idx_and_cifar(changes in changes()) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let idx = |rank: u8, dims: &[u32], values: &[u8]| {
            let dims = dims.iter().flat_map(|dim| dim.to_be_bytes());
            [0, 0, 8, rank].into_iter().chain(dims).chain(values.iter().copied()).collect::<Vec<u8>>()
        };
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&apply(&idx(3, &[2, 3, 3], &[7; 18]), &changes)).unwrap();
        put(&root.join("train-images-idx3-ubyte.gz"), &apply(&packed.finish().unwrap(), &changes[1..]));
        put(&root.join("train-labels-idx1-ubyte"), &idx(1, &[2], &[3, 9]));
        if let Ok(set) = (ClassifyDataConfig::Mnist { root: root.into(), part: Default::default() }).open(Split::Train) {
            classify::check(&*set);
        }
        put(&root.join("batches.meta.txt"), &apply(b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n", &changes));
        put(&root.join("test_batch.bin"), &apply(&[3; 3073], &changes));
        if let Ok(set) = (ClassifyDataConfig::Cifar10 { root: root.into(), part: Default::default() }).open(Split::Val) {
            classify::check(&*set);
        }
    }
}

/// A PNG header with the given sides and no pixels.
fn lying_png(side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    let _ = encoder.write_header().unwrap();
    bytes
}

#[test]
fn claims_of_headers_are_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    for side in [8193, 60_000, 1_000_000] {
        put(&path, &lying_png(side));
        let size = format!("{side}x{side} pixels, more than 67108864");
        let label = read_label(&path, "a label map").unwrap_err().to_string();
        let image = read_image(&path).unwrap_err().to_string();
        assert!(
            label.contains(&size) && (image.contains(&size) || image.contains("cannot be decoded")),
            "{label} {image}"
        );
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&[0, 0, 8, 3, 0, 16, 0, 0, 0, 0, 0, 28, 0, 0, 0, 28]).unwrap();
    (0..64).for_each(|_| packed.write_all(&[0; 1 << 20]).unwrap());
    put(&dir.path().join("train-images-idx3-ubyte.gz"), &packed.finish().unwrap());
    let config = ClassifyDataConfig::Mnist { root: dir.path().into(), part: Default::default() };
    let error = config.open(Split::Train).map(drop).unwrap_err().to_string();
    assert!(error.contains("more values than the"), "{error}");
    let attributes: String = (0..20_000).map(|i| format!(" a{i}='1'")).collect();
    put(&dir.path().join("ImageSets/Main/train.txt"), b"a\n");
    put(&dir.path().join("Annotations/a.xml"), format!("<annotation{attributes}></annotation>").as_bytes());
    let classes = Some(vec!["cat".to_owned()]);
    let set = DetDataConfig::Voc { root: dir.path().into(), classes }.open(Split::Train).unwrap();
    assert!(det::check(&*set)[0].to_string().contains("a tag with 20000 attributes"));
}

//! Readers on tiny sets in their layouts, sound and broken, and on real ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use tempfile::TempDir;

use super::*;
use crate::split::Split;

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn write_image(path: PathBuf, width: u32, height: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(width, height, [9, 8, 7].into()).save(path).unwrap();
}

const COCO: &str = r#"{
  "info": {"year": 2017}, "licenses": [],
  "images": [
    {"id": 90, "width": 60, "height": 40, "file_name": "b.jpg", "coco_url": "http://x"},
    {"id": 7, "file_name": "sub/a.png"}
  ],
  "annotations": [
    {"id": 1, "image_id": 90, "category_id": 18, "bbox": [1.5, 2, 10, 20.25], "area": 150.5, "iscrowd": 0,
     "segmentation": [[1, 2, 3, 4, 5, 6]]},
    {"id": 2, "image_id": 90, "category_id": 3, "bbox": [0, 0, 60, 40], "area": 900, "iscrowd": 1,
     "segmentation": {"size": [40, 60], "counts": "abc"}},
    {"id": 3, "image_id": 90, "category_id": 3, "bbox": [0, 0, 5, 5], "segmentation": {"size": [40, 60], "counts": [1]}}
  ],
  "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "car"}]
}"#;

/// The set with a replacement in its annotations.
fn coco_with(from: &str, to: &str) -> (TempDir, Result<Arc<dyn DetDataset>, DataError>) {
    let dir = tempfile::tempdir().unwrap();
    assert!(COCO.contains(from));
    write(dir.path().join("annotations/instances_train2017.json"), &COCO.replacen(from, to, 1));
    write_image(dir.path().join("train2017/b.jpg"), 60, 40);
    write_image(dir.path().join("train2017/sub/a.png"), 5, 6);
    let dataset = DetDataConfig::Coco { root: dir.path().into() }.open(Split::Train);
    (dir, dataset)
}

fn error(result: Result<Arc<dyn DetDataset>, DataError>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn coco_files_give_boxes_by_class_index_and_images_without_boxes() {
    let (_dir, dataset) = coco_with("info", "info");
    let dataset = dataset.unwrap();
    assert_eq!((dataset.len(), dataset.image_id(0), dataset.image_id(1)), (2, 7.into(), 90.into()));
    assert_eq!((dataset.name(0), dataset.name(1)), ("sub_a", "b"));
    assert_eq!(
        (dataset.classes().names(), dataset.classes().ids()),
        (&["car".into(), "dog".into()][..], &[3.into(), 18.into()][..])
    );
    assert_eq!((dataset.classes().index(&18.into()), dataset.classes().index(&4.into())), (Some(1), None));
    assert!(dataset.load(0).unwrap().objects.is_empty());
    let plain = Object { bbox: [0.0, 0.0, 5.0, 5.0], class: 0, area: 25.0, crowd: false, difficult: false };
    let dog = Object { bbox: [1.5, 2.0, 11.5, 22.25], class: 1, area: 150.5, ..plain };
    let crowd = Object { bbox: [0.0, 0.0, 60.0, 40.0], area: 900.0, crowd: true, ..plain };
    assert_eq!(dataset.load(1).unwrap().objects, [dog, crowd, plain]);
    assert!(dataset.warnings().is_empty() && check(&*dataset).is_empty());
    let file = coco::annotations(&*dataset, |name| format!("{name}.png")).unwrap();
    assert_eq!(file.annotations[0].bbox, [1.5, 2.0, 10.0, 20.25]);
    assert_eq!((&file.annotations[0].id, &file.annotations[0].category_id), (&Some(1.into()), &18.into()));
    assert_eq!(file.images[0].file_name.as_deref(), Some("sub_a.png"));
}

#[test]
fn what_coco_files_get_wrong_is_counted_or_refused() {
    let warned = |from, to, expected: &str, left: usize| {
        let (_dir, dataset) = coco_with(from, to);
        let dataset = dataset.unwrap();
        assert!(
            dataset.warnings().len() == 1 && dataset.warnings()[0].starts_with(expected),
            "{:?}",
            dataset.warnings()
        );
        assert_eq!(dataset.load(1).unwrap().objects.len(), left);
    };
    warned("[1.5, 2, 10, 20.25]", "[1.5, 2, 0, 20.25]", "1 boxes have no width or no height", 2);
    warned("[1.5, 2, 10, 20.25]", "[1.5, 2, 10, -3]", "1 boxes have no width or no height", 2);
    warned("[1.5, 2, 10, 20.25]", "[60, 2, 10, 20]", "1 boxes lie outside their image", 2);
    warned("[1.5, 2, 10, 20.25]", "[55, 2, 10, 20]", "1 boxes reach out of their image", 3);
    warned("\"category_id\": 18", "\"category_id\": 1", "1 annotations of an unknown image or category", 2);
    warned("\"image_id\": 90", "\"image_id\": 91", "1 annotations of an unknown image or category", 2);
    warned("{\"id\": 1,", "{\"id\": 0,", "1 annotations have id 0", 3);

    let refused = |from, to, expected: &str| {
        let error = error(coco_with(from, to).1);
        assert!(error.contains("instances_train2017.json") && error.contains(expected), "{error}");
    };
    refused("\"id\": 90", "\"id\": 7", "image id 7 twice");
    refused("{\"id\": 18", "{\"id\": 3", "category id 3 twice");
    refused("[1.5, 2, 10, 20.25]", "[1.5, 2, 10]", "annotations[0].bbox");
    refused("[1.5, 2, 10, 20.25]", "[1.5, NaN, 10, 1]", "annotations[0].bbox[1]: NaN found, expected a number");
    refused("sub/a.png", "../a.png", "images[1].file_name: the name \"../a.png\"");
    refused("sub/a.png", "/etc/a.png", "images[1].file_name: the name \"/etc/a.png\"");
    refused("\"file_name\": \"sub/a.png\"", "\"name\": \"a\"", "images[1] without file_name");
    refused("\"categories\"", "\"kinds\"", "categories");

    let broken = |from, to, expected: &str| {
        let (_dir, dataset) = coco_with(from, to);
        let problems = check(&*dataset.unwrap());
        assert!(problems.len() == 1 && problems[0].to_string().contains(expected), "{problems:?}");
    };
    broken("\"width\": 60", "\"width\": 61", "b.jpg: 60x40 pixels, expected 61x40 pixels as in");
    broken("b.jpg", "c.jpg", "c.jpg: missing");
    let (dir, dataset) = coco_with("\"file_name\": \"sub/a.png\"", "\"file_name\": \"sub/a.png\"");
    let path = dir.path().join("train2017/b.jpg");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let problems = check(&*dataset.unwrap());
    assert!(problems[0].to_string().contains("b.jpg: a JPEG that ends in the middle"), "{problems:?}");
}

const VOC: &str = "<annotation><filename>a.jpg</filename><size><width>30</width><height>20</height></size>
  <object><name>salt &amp; pepper</name><bndbox><xmin>1</xmin><ymin>3</ymin><xmax>30</xmax><ymax>9</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>4</xmin></bndbox></part></object>
  <object><name>cup</name><difficult>1</difficult>
    <bndbox><ymax>8.5</ymax><xmin> 2 </xmin><ymin>4</ymin><xmax>6</xmax></bndbox></object>
</annotation>";

fn voc_with(from: &str, to: &str) -> (TempDir, Arc<dyn DetDataset>) {
    let dir = tempfile::tempdir().unwrap();
    assert!(VOC.contains(from));
    write(dir.path().join("ImageSets/Main/train.txt"), "a\nempty  1\n");
    write(dir.path().join("Annotations/a.xml"), &VOC.replacen(from, to, 1));
    write(dir.path().join("Annotations/empty.xml"), "<annotation/>");
    write(dir.path().join("Annotations/other.xml"), VOC);
    write_image(dir.path().join("JPEGImages/a.jpg"), 30, 20);
    write_image(dir.path().join("JPEGImages/empty.jpg"), 8, 8);
    let dataset = DetDataConfig::Voc { root: dir.path().into(), classes: None }.open(Split::Train).unwrap();
    (dir, dataset)
}

#[test]
fn voc_files_give_boxes_from_corners_that_belong_to_them() {
    let (_dir, dataset) = voc_with("cup", "cup");
    assert_eq!(dataset.classes().names(), ["cup", "salt & pepper"]);
    let shaker = Object { bbox: [0.0, 2.0, 30.0, 9.0], class: 1, area: 210.0, crowd: false, difficult: false };
    let cup = Object { bbox: [1.0, 3.0, 6.0, 8.5], class: 0, area: 27.5, difficult: true, ..shaker };
    assert_eq!(dataset.load(0).unwrap().objects, [shaker, cup]);
    assert!(dataset.load(1).unwrap().objects.is_empty());
    assert!(dataset.warnings().is_empty() && check(&*dataset).is_empty());
}

#[test]
fn what_voc_files_get_wrong_is_counted_or_refused() {
    let (_dir, dataset) = voc_with("<xmax>6</xmax>", "<xmax>2</xmax>");
    assert!(dataset.warnings()[0].starts_with("1 boxes have no width"), "{:?}", dataset.warnings());
    assert_eq!(dataset.load(0).unwrap().objects.len(), 1);

    let broken = |from, to, expected: &str| {
        let (_dir, dataset) = voc_with(from, to);
        let problems = check(&*dataset);
        let found = problems.first().map(ToString::to_string).unwrap_or_default();
        assert!(problems.len() == 1 && found.contains("a.xml") && found.contains(expected), "{problems:?}");
    };
    broken("<xmin> 2 </xmin>", "", "object 2 without <xmin>");
    broken("<name>cup</name>", "", "object 2 without <name>");
    broken("<xmin> 2 </xmin>", "<xmin>nan</xmin>", "object 2 with <xmin> \"nan\"");
    broken("<difficult>1</difficult>", "<difficult>yes</difficult>", "<difficult> \"yes\"");
    broken("salt &amp;", "salt &who;", "no XML");
    let bomb = "<!DOCTYPE a [<!ENTITY b \"bb\"><!ENTITY c \"&b;&b;\">]><annotation>";
    broken("<annotation>", bomb, "no XML");
    broken("</annotation>", "", "no XML");
    broken("<width>30</width>", "<width>31</width>", "30x20 pixels, expected 31x20 pixels");

    let dir = tempfile::tempdir().unwrap();
    let classes = Some(vec!["cup".to_owned()]);
    let config = DetDataConfig::Voc { root: dir.path().into(), classes };
    assert!(error(config.open(Split::Train)).contains("ImageSets/Main/train.txt: missing"));
    write(dir.path().join("ImageSets/Main/train.txt"), "a\nb");
    write(dir.path().join("Annotations/a.xml"), VOC);
    write_image(dir.path().join("JPEGImages/a.jpg"), 30, 20);
    let problems: Vec<String> = check(&*config.open(Split::Train).unwrap()).iter().map(ToString::to_string).collect();
    assert!(problems[0].contains("a.xml: object 1 of class \"salt & pepper\", expected one of cup"), "{problems:?}");
    assert!(problems[1].contains("b.xml: missing"), "{problems:?}");
}

/// A folder below `NAS_DATA`; says that the test was skipped where there is none.
fn real(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("NAS_DATA").map(|root| Path::new(&root).join(name)).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped: NAS_DATA has no {name}");
    }
    path
}

#[test]
fn real_sets_are_sound() {
    if let Some(root) = real("coco_tiny") {
        for (split, boxes, crowds) in [(Split::Train, 705, 6), (Split::Val, 815, 11)] {
            let dataset = DetDataConfig::Coco { root: root.clone() }.open(split).unwrap();
            assert_eq!((dataset.len(), dataset.classes().len()), (80, 80));
            assert!(dataset.warnings().is_empty(), "{:?}", dataset.warnings());
            let samples = (0..80).map(|i| dataset.load(i).unwrap().objects);
            let objects: Vec<Object> = samples.flatten().collect();
            assert_eq!((objects.len(), objects.iter().filter(|object| object.crowd).count()), (boxes, crowds));
        }
    }
    if let Some(root) = real("bccd") {
        let config = DetDataConfig::Voc { root, classes: None };
        let (train, val) = (config.open(Split::Train).unwrap(), config.open(Split::Val).unwrap());
        assert_eq!(train.classes().names(), ["Platelets", "RBC", "WBC"]);
        assert_eq!((train.len(), val.len(), train.classes()), (205, 87, val.classes()));
        let warnings = [train.warnings(), val.warnings()].concat();
        assert!(warnings.iter().all(|warning| warning.contains("no width or no height")), "{warnings:?}");
        assert!(!warnings.is_empty() && check(&*val).is_empty());
    }
}

#[test]
fn files_without_boxes_and_parts_of_sets_are_sets() {
    let temp = TempDir::new().unwrap();
    let paths = ["a/x.png", "b/y.png"].map(|name| temp.path().join(name));
    paths.iter().for_each(|path| write_image(path.clone(), 5, 4));
    let classes = DetClasses::numbered(["cat".to_string()]);
    let set: Arc<dyn DetDataset> = Arc::new(unlabelled(classes.clone(), &paths).unwrap());
    let part = crate::Subset::new(set, vec![1]);
    assert_eq!((part.len(), part.name(0), part.image_id(0)), (1, "y", 2.into()));
    assert_eq!(part.load(0).unwrap().objects, []);
    let twice = [paths[0].clone(), temp.path().join("c/x.png")];
    let error = unlabelled(classes.clone(), &twice).map(drop).unwrap_err().to_string();
    assert!(error.contains("c/x.png") && error.contains("a/x.png"), "{error}");
    let missing = unlabelled(classes.clone(), &[temp.path().join("z.png")]).unwrap();
    assert!(missing.load(0).unwrap_err().to_string().contains("z.png: missing"));
    assert!(unlabelled(classes, &[]).is_err());
}

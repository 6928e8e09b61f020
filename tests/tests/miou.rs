//! mIOU against torchmetrics and cityscapesScripts, numbers and maps by tests/golden/miou/generate.py; predictions without a run.

use std::fs;
use std::path::{Path, PathBuf};

use image::GrayImage;
use nas_core::train::read_tensors;
use nas_tests::{SEGMENT, assert_same_file, data, root};
use serde_json::Value;

fn golden() -> (PathBuf, Value) {
    let dir = root().join("tests/golden/miou");
    let text = fs::read_to_string(dir.join("golden.json")).unwrap();
    (dir, serde_json::from_str(&text).unwrap())
}

fn miou(args: &[&str]) -> Value {
    let args = [&["miou", "--format", "json", "--num-classes", "19"], args].concat();
    serde_json::from_str(&SEGMENT.succeed(&args)).unwrap()
}

fn close(found: &Value, expected: &Value, tolerance: f64) {
    match (found.as_f64(), expected.as_f64()) {
        (Some(found), Some(expected)) => assert!((found - expected).abs() <= tolerance, "{found} {expected}"),
        _ => assert_eq!(found, expected),
    }
}

#[test]
fn scores_equal_cityscapesscripts_and_torchmetrics() {
    let (dir, golden) = golden();
    let (pred, gt) = (dir.join("pred"), dir.join("gt"));
    let found = miou(&["--pred", pred.to_str().unwrap(), "--gt", gt.to_str().unwrap()]);
    // torchmetrics computes in f32.
    for (reference, tolerance) in [("cityscapesscripts", 1e-12), ("torchmetrics", 1e-7)] {
        close(&found["miou"], &golden[reference]["miou"], tolerance);
        let expected = golden[reference]["iou"].as_array().unwrap();
        assert_eq!(found["iou"].as_array().unwrap().len(), expected.len());
        found["iou"].as_array().unwrap().iter().zip(expected).for_each(|(f, e)| close(f, e, tolerance));
    }
    close(&found["pixel_acc"], &golden["torchmetrics"]["pixel_acc"], 1e-7);
    assert_eq!(golden["cityscapesscripts"]["iou"][18], Value::Null, "a class is absent");
    assert_eq!(golden["cityscapesscripts"]["iou"][16], 0.0, "a class is only predicted");
}

#[test]
fn files_that_cannot_be_scored_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let write = |name: &str, width, id| {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        GrayImage::from_pixel(width, 2, [id].into()).save(path(name)).unwrap();
    };
    let run = || {
        let (pred, gt) = (path("pred"), path("gt"));
        SEGMENT.fail(&["miou", "--num-classes", "3", "--pred", pred.to_str().unwrap(), "--gt", gt.to_str().unwrap()])
    };
    write("gt/a.png", 4, 1);
    write("pred/b.png", 4, 1);
    assert!(run().contains("gt/a.png: no prediction"));
    fs::rename(path("pred/b.png"), path("pred/a.png")).unwrap();
    write("pred/a.png", 5, 1);
    assert!(run().contains("pred/a.png: 5x2 pixels found, 4x2 expected"));
    write("pred/a.png", 4, 1);
    write("gt/a.png", 4, 7);
    assert!(run().contains("gt/a.png: id 7 found, expected 0..=2 or the ignored 255"));
    fs::write(path("gt/a.png"), b"no image").unwrap();
    assert!(run().contains("gt/a.png"));
}

/// The weights that come with the program are those of its authors, and need neither a run nor a data set.
#[test]
fn a_street_segmenter_is_there_from_the_start() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    SEGMENT.succeed(&["data", "synth", "--out", &at("streets"), "--images", "2", "--size", "64x128"]);
    let photos = at("streets/leftImg8bit/val");
    let photo = walk(Path::new(&photos)).into_iter().next().unwrap();
    fs::create_dir(at("photos")).unwrap();
    fs::copy(&photo, at("photos/my street.png")).unwrap();
    let model = ["predict", "--model", "squeezenas_mac_small", "--threads", "1", "--format", "json"];
    for (given, out) in [(at("photos"), "a"), (at("photos/my*.png"), "b"), (at("photos/my street.png"), "c")] {
        let said = SEGMENT.succeed(&[&model[..], &[&given, "--out", &at(out)]].concat());
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert!(said["predictions"][0]["image"].as_str().unwrap().ends_with("my street.png"), "{said}");
        let parts = said["predictions"][0]["classes"].as_object().unwrap();
        assert!((parts.values().map(|part| part.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-9, "{said}");
        assert!(Path::new(&at(&format!("{out}/overlays/my street.png"))).exists());
        assert_same_file(&temp.path().join("a/labels"), &temp.path().join(format!("{out}/labels")), "my street.png");
    }
    let error = SEGMENT.fail(&["predict", "--model", "squeezenas_lat_small", &at("photos"), "--out", &at("d")]);
    assert!(error.contains("no weights come with it; expected --weights FILE"), "{error}");
    let error = SEGMENT.fail(&[&model[..], &[&at("photos"), "--split", "val", "--out", &at("e")]].concat());
    assert!(error.contains("cannot be used with"), "{error}");

    SEGMENT.succeed(&["export", "--model", "squeezenas_mac_small", "--out", &at("w.safetensors"), "--size", "64x128"]);
    let Some(published) = data("squeezenas/mac_small.safetensors") else { return };
    let [shipped, published] = [Path::new(&at("w.safetensors")), &published].map(|file| read_tensors(file).unwrap());
    assert_eq!(shipped.len(), published.len());
    assert!(published.iter().all(|(name, tensor)| shipped[name] == *tensor));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

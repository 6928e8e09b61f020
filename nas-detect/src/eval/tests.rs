//! The evaluators against the golden numbers of tests/golden/coco (pycocotools) and tests/golden/voc.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::files::{EvalFiles, read};
use super::report::{CocoReport, VocReport};
use super::{Truth, coco};

fn golden(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(path)
}

fn json(path: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(golden(path)).unwrap()).unwrap()
}

fn fixture(name: &str) -> EvalFiles {
    read(&golden(&format!("coco/{name}gt.json")), &golden(&format!("coco/{name}dt.json"))).unwrap()
}

fn read_values(gt: &Value, dt: &Value) -> anyhow::Result<EvalFiles> {
    let dir = tempfile::tempdir().unwrap();
    let (gt_path, dt_path) = (dir.path().join("gt.json"), dir.path().join("dt.json"));
    fs::write(&gt_path, gt.to_string()).unwrap();
    fs::write(&dt_path, dt.to_string()).unwrap();
    read(&gt_path, &dt_path)
}

fn assert_close(found: &[f64], expected: &Value) {
    let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(found.len(), expected.len());
    let far = found.iter().zip(&expected).find(|(found, expected)| (*found - *expected).abs() > 1e-12);
    assert!(far.is_none(), "{far:?} in {found:?}, {expected:?} expected");
}

#[test]
fn the_twelve_numbers_equal_pycocotools() {
    let report = CocoReport::new(&fixture(""), &coco::MAX_DETS);
    assert_close(&report.stats, &json("coco/stats.json"));
    assert_eq!(report.names[..3], ["AP", "AP50", "AP75"]);
}

/// Class by class what pycocotools accumulates; those with nothing to find are left out.
#[test]
fn precision_over_recall_equals_pycocotools() {
    let curves = CocoReport::new(&fixture(""), &coco::MAX_DETS).curves;
    let expected = json("coco/curves.json");
    assert_eq!(curves.classes.len(), expected.as_object().unwrap().len());
    for (name, precisions) in curves.classes.iter().zip(&curves.precisions) {
        assert_close(precisions, &expected[name]);
    }
    assert_eq!(curves.recalls.len(), 101);
    assert!(curves.recalls.is_sorted() && curves.recalls[0] == 0.0 && curves.recalls[100] == 1.0);
}

/// A run that is killed behind its last validation writes them from what its checkpoint holds.
#[test]
fn curves_are_in_what_is_stored_and_not_in_what_is_printed() {
    let report = CocoReport::new(&fixture(""), &coco::MAX_DETS);
    let stored: CocoReport = serde_json::from_value(serde_json::to_value(&report).unwrap()).unwrap();
    assert_eq!(stored.curves, report.curves);
    assert!(serde_json::to_value(report.numbers()).unwrap().get("curves").is_none());
}

#[test]
fn annotation_id_0_counts_like_any_other() {
    // pycocotools takes 0 for "unmatched" and finds 0.330494 in this file.
    let mut gt = json("coco/gt.json");
    for annotation in gt["annotations"].as_array_mut().unwrap() {
        annotation["id"] = json!(annotation["id"].as_i64().unwrap() - 1);
    }
    let files = read_values(&gt, &json("coco/dt.json")).unwrap();
    assert_close(&CocoReport::new(&files, &coco::MAX_DETS).stats, &json("coco/stats.json"));
    assert_eq!(files.warnings.len(), 1);
    assert!(files.warnings[0].starts_with("1 annotations have id 0") && files.warnings[0].contains("annotations[0]"));
}

#[test]
fn no_detections_score_zero_and_no_truths_are_explained() {
    let files = read_values(&json("coco/gt.json"), &json!([])).unwrap();
    let report = CocoReport::new(&files, &coco::MAX_DETS);
    assert_eq!(report.stats, [0.0; 12]);
    assert_eq!(files.warnings, ["there are no detections at all"]);
    assert_eq!(report.per_class.iter().filter(|class| class.ap == -1.0).count(), 1, "one class has no truth");

    let gt = json!({"images": [{"id": 1}], "categories": [{"id": 5, "name": "a"}], "annotations": []});
    let dt = json!([{"image_id": 1, "category_id": 5, "bbox": [0, 0, 5, 5], "score": 0.5}]);
    let files = read_values(&gt, &dt).unwrap();
    let report = CocoReport::new(&files, &coco::MAX_DETS);
    assert_eq!(report.stats, [-1.0; 12]);
    assert!(report.notes[0].contains("no box to find"), "{:?}", report.notes);
    let report = VocReport::new(&files);
    assert_eq!((report.area, report.per_class[0].area), (None, None));
}

#[test]
fn missing_sizes_are_explained() {
    let truth = Truth { image: 0, class: 0, bbox: [0.0, 0.0, 5.0, 5.0], area: 25.0, crowd: false, difficult: false };
    let notes = coco::evaluate(&[truth], &[], 1, &[1, 10, 100]).explain();
    assert_eq!(notes.len(), 2);
    assert!(notes[0].starts_with("APm and ARm are -1: the ground truth has no medium object"), "{notes:?}");
}

#[test]
fn voc_scores_equal_the_golden_ones() {
    let golden = json("voc/voc_golden.json");
    let files = voc_files(&golden);
    let report = VocReport::new(&files);
    let expected = json!([golden["area"], golden["ap11"]]);
    assert_close(&[report.area.unwrap(), report.eleven_point.unwrap()], &expected);
    assert_eq!(report.per_class[1].area, None, "a class without truths does not count");
}

/// The golden boxes, whose corners are inclusive, as COCO files; `difficult` under three names.
fn voc_files(golden: &Value) -> EvalFiles {
    let bbox = |corners: &Value| {
        let at = |i: usize| corners[i].as_i64().unwrap();
        json!([at(0) - 1, at(1) - 1, at(2) - at(0) + 1, at(3) - at(1) + 1])
    };
    let ids = golden["gt"].as_object().unwrap().keys().map(|id| id.parse::<i64>().unwrap());
    let images: Vec<Value> = ids.map(|id| json!({"id": id})).collect();
    let mut annotations = Vec::new();
    for (image, boxes) in golden["gt"].as_object().unwrap() {
        for truth in boxes.as_array().unwrap() {
            let mark = ["difficult", "ignore", "iscrowd"][annotations.len() % 3];
            let (image, id) = (image.parse::<i64>().unwrap(), annotations.len() + 1);
            let bbox = bbox(&truth[0]);
            annotations.push(json!({"id": id, "image_id": image, "category_id": 3, "bbox": bbox, mark: truth[1]}));
        }
    }
    let found = golden["dt"].as_array().unwrap().iter();
    let result = |d: &Value| json!({"image_id": d[0], "category_id": 3, "bbox": bbox(&d[2]), "score": d[1]});
    let dt: Vec<Value> = found.map(result).collect();
    let categories = json!([{"id": 3, "name": "cell"}, {"id": 7, "name": "absent"}]);
    read_values(&json!({"images": images, "annotations": annotations, "categories": categories}), &json!(dt)).unwrap()
}

fn tiny() -> (Value, Value) {
    let gt = json!({
        "images": [{"id": 7}, {"id": 9}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 10, 40, 40]}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 90, "name": "brush"}],
    });
    (gt, json!([{"image_id": 7, "category_id": 18, "bbox": [10, 10, 40, 40], "score": 0.5}]))
}

#[test]
fn what_does_not_belong_together_is_refused_or_counted() {
    let (gt, dt) = tiny();
    let perfect = CocoReport::new(&read_values(&gt, &dt).unwrap(), &[1, 10, 100]);
    assert!(perfect.stats[0] > 1.0 - 1e-12, "{:?}", perfect.stats);

    let error = |gt: &Value, dt: &Value| format!("{:#}", read_values(gt, dt).unwrap_err());
    let mut other = dt.clone();
    other[0]["image_id"] = json!(8);
    assert!(error(&gt, &other).ends_with("[0].image_id: 8 found, expected the id of an image of the ground truth"));
    other[0]["image_id"] = json!("7");
    assert!(error(&gt, &other).ends_with("[0].image_id: \"7\" found, expected the id of an image of the ground truth"));
    other[0]["image_id"] = json!(7.5);
    assert!(error(&gt, &other).contains("[0].image_id: 7.5 found, expected a whole number or a text"));
    let mut other = dt.clone();
    other[0]["bbox"] = json!([1, 2, 3]);
    assert!(error(&gt, &other).contains("[0].bbox"), "{}", error(&gt, &other));
    let mut other = gt.clone();
    other["images"][1]["id"] = json!(7);
    assert!(error(&other, &dt).contains("image id 7 found twice"));
    let mut other = gt.clone();
    other["categories"][1]["id"] = json!(18);
    assert!(error(&other, &dt).contains("category id 18 found twice"));
    assert!(error(&json!([]), &dt).contains("gt.json"));

    let mut other = dt.clone();
    other[0]["category_id"] = json!(0);
    let files = read_values(&gt, &other).unwrap();
    assert!(files.detections.is_empty() && files.warnings[0].contains("ids are 18..=90"), "{:?}", files.warnings);
    let mut other = gt.clone();
    other["annotations"] = json!([
        {"id": 1, "image_id": 8, "category_id": 18, "bbox": [0, 0, 5, 5]},
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [0, 0, 0, 5]},
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [-20, 0, 10, 5]},
    ]);
    let files = read_values(&other, &dt).unwrap();
    assert_eq!(files.warnings.len(), 3, "{:?}", files.warnings);
    let report = CocoReport::new(&files, &[1, 10, 100]);
    assert!(report.stats.iter().all(|value| value.is_finite()));
    assert!(VocReport::new(&files).area.is_some_and(f64::is_finite));
}

/// Sets of tests/golden/coco/random_sets.py: ties, crowds, boxes without size, more detections than count.
#[test]
fn random_sets_equal_pycocotools() {
    for seed in 1..=4 {
        let files = fixture(&format!("random{seed}_"));
        let golden = json(&format!("coco/random{seed}_stats.json"));
        let report = CocoReport::new(&files, &coco::MAX_DETS);
        assert_close(&report.stats, &golden["stats"]);
        let per_class: Vec<f64> = report.per_class.iter().map(|class| class.ap).collect();
        assert_close(&per_class, &golden["per_class"]);
        assert_close(&CocoReport::new(&files, &[20, 2, 5]).stats, &golden["other_max_dets"]);
    }
}

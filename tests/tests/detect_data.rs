//! `nas-detect eval` and `nas-detect data` as people call them.

use std::fs;

use nas_tests::{DETECT, data, root};
use serde_json::Value;

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&DETECT.succeed(&[args, &["--format", "json"]].concat())).unwrap()
}

#[test]
fn eval_prints_pycocotools_twelve_numbers() {
    let golden = root().join("tests/golden/coco");
    let path = |name: &str| golden.join(name).to_str().unwrap().to_owned();
    let (gt, dt) = (path("gt.json"), path("dt.json"));
    let report = json(&["eval", "--gt", &gt, "--dt", &dt, "--metric", "coco"]);
    let expected: Vec<f64> = serde_json::from_str(&fs::read_to_string(path("stats.json")).unwrap()).unwrap();
    let stats = report["stats"].as_array().unwrap();
    assert_eq!(stats.len(), 12);
    for (found, expected) in stats.iter().zip(expected) {
        assert!((found.as_f64().unwrap() - expected).abs() < 1e-12, "{found} {expected}");
    }
    assert_eq!((report["per_class"].as_array().unwrap().len(), &report["per_class"][5]["ap"]), (6, &Value::from(-1.0)));
    let text = DETECT.succeed(&["eval", "--gt", &gt, "--dt", &dt, "--max-dets", "5"]);
    assert!(text.contains("AR5") && !text.contains("AR100"), "{text}");
    let voc = json(&["eval", "--gt", &gt, "--dt", &dt, "--metric", "voc"]);
    assert!(voc["area"].is_f64() && voc["per_class"][5]["area"].is_null());

    let error = DETECT.fail(&["eval", "--gt", &dt, "--dt", &gt]);
    assert!(error.contains("dt.json") && error.contains("expected COCO annotations"), "{error}");
    assert!(DETECT.fail(&["eval", "--gt", &gt, "--dt", &dt, "--max-dets", "0,1"]).contains("0 is not in 1..=1000000"));
}

#[test]
fn a_written_set_passes_its_check_until_a_file_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("shapes");
    let said = DETECT.succeed(&["data", "synth", "--out", out.to_str().unwrap(), "--images", "8"]);
    assert!(said.starts_with("8 train and 2 val images"), "{said}");
    let set = format!("data.root={}", out.display());
    let args = ["data", "check", "--set", "data.kind=coco", "--set", &set];
    let report = json(&args);
    assert_eq!(report["classes"], serde_json::json!(["circle", "square", "triangle"]));
    assert_eq!((&report["splits"][0]["samples"], &report["splits"][1]["samples"]), (&8.into(), &2.into()));
    fs::write(out.join("train2017/000003.png"), b"no image").unwrap();
    assert!(DETECT.fail(&args).contains("1 samples are broken"));
    assert!(DETECT.fail(&["data", "check"]).contains("no data set named"));
}

#[test]
fn real_sets_pass_their_check() {
    for (name, kind, samples) in [("coco_tiny", "coco", [80, 80]), ("bccd", "voc", [205, 87])] {
        let Some(path) = data(name) else { continue };
        let (kind, root) = (format!("data.kind={kind}"), format!("data.root={}", path.display()));
        let report = json(&["data", "check", "--set", &kind, "--set", &root]);
        for (split, samples) in report["splits"].as_array().unwrap().iter().zip(samples) {
            assert_eq!((&split["samples"], &split["problems"]), (&samples.into(), &serde_json::json!([])));
            let warnings = split["warnings"].as_array().unwrap();
            assert!(warnings.iter().all(|warning| warning.as_str().unwrap().contains("no width or no height")));
        }
    }
}

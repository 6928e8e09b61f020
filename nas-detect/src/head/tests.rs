//! Against torchvision 0.28 (tests/golden/det; inputs are closed formulas).

use serde_json::Value;
use tch::Device;
use tch::nn::VarStore;

use super::boxes::{giou_loss, pairwise_iou};
use super::focal::focal_loss;
use super::*;

const GRIDS: [(i64, i64); 5] = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 1)];
const SIZE: (i64, i64) = (128, 192);
const CLASSES: i64 = 3;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/det/golden.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn tensor(value: &Value) -> Tensor {
    Tensor::from_slice(&numbers(value)).to_kind(Kind::Float)
}

fn close(found: impl Into<f64>, expected: f64) {
    let found = found.into();
    assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{found} is not {expected}");
}

fn close_tensor(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.size(), expected.size());
    let error = ((found - expected) / expected.abs().clamp_min(1.0)).abs().max().double_value(&[]);
    assert!(error < 1e-4, "{found:?} is off by {error}");
}

fn targets() -> [DetTarget; 2] {
    let boxes = [[10.0, 12.0, 60.0, 70.0], [30.0, 20.0, 50.0, 44.0], [100.0, 5.0, 190.0, 120.0]];
    [DetTarget::new(&boxes, &[0, 2, 1]), DetTarget::new(&[], &[])]
}

/// `f(i)` for `i = 0, 1, ..` in the given shape.
fn wave(shape: &[i64], f: impl Fn(f64) -> f64) -> Tensor {
    let values: Vec<f64> = (0..shape.iter().product()).map(|i: i64| f(i as f64)).collect();
    Tensor::from_slice(&values).to_kind(Kind::Float).view(shape)
}

fn predictions(per_pixel: i64, regression: impl Fn(f64) -> f64, centerness: bool) -> Predictions {
    let n: i64 = GRIDS.iter().map(|(h, w)| h * w * per_pixel).sum();
    Predictions {
        logits: wave(&[2, n, CLASSES], |i| 3.0 * (0.7 * i + 0.1).sin() - 2.0),
        regression: wave(&[2, n, 4], regression),
        centerness: centerness.then(|| wave(&[2, n], |i| (0.9 * i).sin())),
        grids: GRIDS.to_vec(),
    }
}

fn head(config: HeadConfig) -> Head {
    let vs = VarStore::new(Device::Cpu);
    config.build(&VarBuilder::new(&vs), 64, Levels::default(), CLASSES).unwrap()
}

fn fcos(offset: f64) -> Fcos {
    let detect = DetectConfig { score: 0.2, ..FcosConfig::default().detect };
    match head(HeadConfig::Fcos(FcosConfig { offset, detect, ..Default::default() })) {
        Head::Fcos(head) => head,
        Head::Retina(_) => unreachable!(),
    }
}

fn retina(normalizer: Normalizer) -> Retina {
    let detect = DetectConfig { max: 300, ..RetinaConfig::default().detect };
    match head(HeadConfig::Retina(RetinaConfig { normalizer, detect, ..Default::default() })) {
        Head::Retina(head) => head,
        Head::Fcos(_) => unreachable!(),
    }
}

fn retina_predictions() -> Predictions {
    predictions(9, |i| 0.5 * (1.3 * i).sin(), false)
}

fn fcos_predictions() -> Predictions {
    predictions(1, |i| (2.0 + 2.0 * (1.3 * i).sin()).max(0.0), true)
}

fn check_detections(found: &Detections, golden: &Value) {
    assert_eq!(found.boxes.len() as u64, golden["dets_img0"].as_u64().unwrap());
    close(found.scores.iter().map(|score| f64::from(*score)).sum::<f64>(), golden["sum_scores"].as_f64().unwrap());
    let sum: f64 = found.boxes.iter().flatten().map(|corner| f64::from(*corner)).sum();
    close(sum, golden["sum_boxes"].as_f64().unwrap());
    // equal scores come in another order from torch's topk
    for expected in golden["top5"].as_array().unwrap().iter().map(numbers) {
        let is_expected = |i: &usize| {
            let near = |corner: (&f32, &f64)| (f64::from(*corner.0) - corner.1).abs() < 1e-4 * corner.1.abs().max(1.0);
            let corners = found.boxes[*i].iter().zip(&expected[2..]);
            found.labels[*i] as f64 == expected[0]
                && near((&found.scores[*i], &expected[1]))
                && corners.into_iter().all(near)
        };
        assert!((0..8).any(|i| is_expected(&i)), "{expected:?} is not among the best of {found:?}");
    }
    assert!(found.scores.is_sorted_by(|a, b| a >= b));
}

#[test]
fn focal_loss_is_torchvisions() {
    let golden = &golden()["focal"];
    let loss = focal_loss(&tensor(&golden["x"]), &tensor(&golden["t"]));
    let expected = tensor(&golden["loss"]);
    let error = ((loss - &expected) / expected).abs().max().double_value(&[]);
    assert!(error < 1e-4, "{error}");
}

#[test]
fn overlaps_and_their_loss_are_torchvisions() {
    let golden = &golden()["giou"];
    let [a, b] = ["a", "b"].map(|key| tensor(&golden[key]).view([-1, 4]));
    close_tensor(&giou_loss(&a, &b), &tensor(&golden["loss"]));
    close_tensor(&pairwise_iou(&a, &b).diag(0), &tensor(&golden["iou_diag"]));
    let none = Tensor::zeros([2, 4], (Kind::Float, Device::Cpu));
    assert_eq!(pairwise_iou(&none, &none).abs().max().double_value(&[]), 0.0, "boxes without size");
}

#[test]
fn anchors_are_torchvisions() {
    let golden = &golden()["retinanet"];
    let head = retina(Normalizer::Batch);
    let anchors = head.anchors(&GRIDS, SIZE, Device::Cpu);
    assert_eq!(anchors.size()[0], golden["num_anchors"].as_i64().unwrap());
    let cell = tensor(&golden["cell_anchors_P3"]).view([9, 4]);
    assert_eq!(anchors.narrow(0, 0, 9), cell);
    assert_eq!(anchors.get(0), tensor(&golden["first_anchor"]));
    assert_eq!(anchors.get(-1), tensor(&golden["last_anchor"]));
    // the second column, the second row
    let shift = |i: i64| (anchors.get(9 * i) - cell.get(0)).double_value(&[0]);
    assert_eq!((shift(1), shift(23), shift(24)), (8.0, 184.0, 0.0));
}

#[test]
fn retinanet_matches_as_torchvision() {
    let golden = &golden()["retinanet"];
    let head = retina(Normalizer::Batch);
    let anchors = head.anchors(&GRIDS, SIZE, Device::Cpu);
    let matched = head.targets(&anchors, &targets()[0]).matched;
    let count = |value: i64| matched.eq(value).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(matched.ge(0).sum(Kind::Int64).int64_value(&[]), golden["n_pos"].as_i64().unwrap());
    assert_eq!(count(-2), golden["n_ignored"].as_i64().unwrap());
    assert_eq!(count(-1), golden["n_neg"].as_i64().unwrap());
    assert_eq!(serde_json::json!([count(0), count(1), count(2)]), golden["pos_per_gt"]);
}

#[test]
fn retinanet_losses_and_detections_are_torchvisions() {
    let golden = &golden()["retinanet"];
    let predictions = retina_predictions();
    let losses = retina(Normalizer::Image).loss(&predictions, SIZE, &targets());
    close(losses.classification.double_value(&[]), golden["loss_cls"][0].as_f64().unwrap());
    close(losses.regression.double_value(&[]), golden["loss_reg"][0].as_f64().unwrap());
    check_detections(&retina(Normalizer::Image).detect(&predictions, SIZE)[0], golden);
}

#[test]
fn an_image_without_objects_does_not_dominate_by_default() {
    let predictions = retina_predictions();
    let losses = |normalizer| retina(normalizer).loss(&predictions, SIZE, &targets());
    let (batch, image) = (losses(Normalizer::Batch), losses(Normalizer::Image));
    assert_eq!(batch.positives, 69);
    // the empty image gives nothing to the boxes; the other's mean is halved by the count of images alone
    close(batch.regression.double_value(&[]), 2.0 * image.regression.double_value(&[]));
    assert!(batch.classification.double_value(&[]) < image.classification.double_value(&[]) / 10.0);
}

#[test]
fn fcos_locations_and_losses_are_torchvisions() {
    let golden = &golden()["fcos"];
    let head = fcos(0.0);
    let matched = head.targets(&GRIDS, &targets()[0], Device::Cpu).matched;
    assert_eq!(matched.size()[0], golden["num_locations"].as_i64().unwrap());
    let index = matched.ge(0).nonzero().reshape([-1]);
    let list = |xs: &Tensor| serde_json::json!(Vec::<i64>::try_from(xs).unwrap());
    assert_eq!(list(&index), golden["pos_index"]);
    assert_eq!(list(&matched.index_select(0, &index)), golden["pos_gt"]);
    let losses = head.loss(&fcos_predictions(), &targets());
    assert_eq!(losses.positives, golden["n_pos"].as_i64().unwrap());
    close(losses.classification.double_value(&[]), golden["loss_cls"][0].as_f64().unwrap());
    close(losses.regression.double_value(&[]), golden["loss_reg"][0].as_f64().unwrap());
    close(losses.centerness.unwrap().double_value(&[]), golden["loss_ctr"][0].as_f64().unwrap());
}

#[test]
fn fcos_detections_are_torchvisions() {
    check_detections(&fcos(0.0).detect(&fcos_predictions(), SIZE)[0], &golden()["fcos"]);
}

#[test]
fn locations_lie_in_the_middle_of_their_strides() {
    let head = fcos(0.5);
    // a box of 10 pixels around (20, 20): the pixel at (2.5, 2.5) strides of 8 is its centre
    let object = [15.0, 15.0, 25.0, 25.0];
    let matched = head.targets(&GRIDS, &DetTarget::new(&[object], &[1]), Device::Cpu).matched;
    let index = Vec::<i64>::try_from(matched.ge(0).nonzero().reshape([-1])).unwrap();
    assert_eq!(index, [2 * 24 + 2]);
    let mut predictions = predictions(1, |_| 0.625, true);
    predictions.logits = predictions.logits.zeros_like() - 20.0;
    let _ = predictions.logits.get(0).get(2 * 24 + 2).get(1).fill_(10.0);
    let found = head.detect(&predictions, SIZE);
    assert_eq!((&found[0].boxes[..], &found[0].labels[..]), (&[object][..], &[1][..]));
}

#[test]
fn batches_without_any_object_are_valid() {
    let empty = [DetTarget::new(&[], &[]), DetTarget::new(&[], &[])];
    for losses in [
        retina(Normalizer::Batch).loss(&retina_predictions(), SIZE, &empty),
        retina(Normalizer::Image).loss(&retina_predictions(), SIZE, &empty),
        fcos(0.5).loss(&fcos_predictions(), &empty),
    ] {
        assert_eq!(losses.positives, 0);
        assert_eq!(losses.regression.double_value(&[]), 0.0);
        assert!(losses.total().double_value(&[]).is_finite() && losses.classification.double_value(&[]) > 0.0);
    }
}

#[test]
fn boxes_without_size_or_outside_the_image_do_no_harm() {
    let boxes = [[20.0, 20.0, 20.0, 40.0], [500.0, 500.0, 600.0, 600.0], [-60.0, -60.0, -20.0, -20.0]];
    let targets = [DetTarget::new(&boxes, &[0, 1, 2]), DetTarget::new(&[], &[])];
    for losses in [
        retina(Normalizer::Batch).loss(&retina_predictions(), SIZE, &targets),
        fcos(0.5).loss(&fcos_predictions(), &targets),
    ] {
        assert!(losses.total().double_value(&[]).is_finite());
        assert!(losses.positives < 20, "{} anchors answer for a box that is not there", losses.positives);
    }
}

#[test]
fn nothing_above_the_threshold_is_no_detection() {
    let mut predictions = fcos_predictions();
    predictions.logits = predictions.logits.zeros_like() - 20.0;
    assert_eq!(fcos(0.5).detect(&predictions, SIZE), [Detections::default(), Detections::default()]);
}

#[test]
fn heads_count_what_torchvisions_have_and_what_they_allocate() {
    let golden = golden();
    let fcos = HeadConfig::Fcos(FcosConfig::default());
    let exp = HeadConfig::Fcos(FcosConfig { regression: Regression::Exp, ..Default::default() });
    let retina = HeadConfig::Retina(RetinaConfig::default());
    let grouped = HeadConfig::Retina(RetinaConfig { norm: TowerNorm::Group, ..Default::default() });
    let efficient =
        HeadConfig::Retina(RetinaConfig { separable: true, norm: TowerNorm::BatchPerLevel, ..Default::default() });
    let params = |config: &HeadConfig| {
        let vs = VarStore::new(Device::Cpu);
        let head = config.build(&VarBuilder::new(&vs), 64, Levels::default(), CLASSES).unwrap();
        let shapes = GRIDS.map(|(h, w)| Shape::new(64, h, w));
        let mut cost = Cost::default();
        head.cost(&shapes, &mut cost);
        let allocated: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
        assert_eq!(cost.params, allocated as u64, "{config:?}");
        let maps = GRIDS.map(|(h, w)| Tensor::randn([2, 64, h, w], (Kind::Float, Device::Cpu)));
        let found = head.forward(&maps, Mode::train(0.0));
        let per_pixel = if matches!(config, HeadConfig::Fcos(_)) { 1 } else { 9 };
        assert_eq!(found.logits.size(), [2, 511 * per_pixel, CLASSES]);
        assert_eq!(found.regression.size(), [2, 511 * per_pixel, 4]);
        let losses = head.loss(&found, SIZE, &targets());
        assert!(losses.total().double_value(&[]).is_finite());
        cost.params
    };
    assert_eq!(params(&fcos), golden["fcos_head_params_C64_K3"].as_u64().unwrap());
    assert_eq!(params(&exp), golden["fcos_head_params_C64_K3"].as_u64().unwrap() + 5);
    assert_eq!(params(&retina), golden["retina_head_params_C64_K3"].as_u64().unwrap());
    params(&grouped);
    params(&efficient);
}

#[test]
fn flattened_maps_are_in_the_order_of_the_anchors() {
    // two anchors of three classes on one row of two pixels: value = 100 anchor + 10 class + pixel
    let map = wave(&[1, 6, 1, 2], |i| (i / 6.0).floor() * 100.0 + ((i / 2.0) % 3.0).floor() * 10.0 + i % 2.0);
    let flat = Vec::<f32>::try_from(flatten(&map, 3).reshape([-1])).unwrap();
    assert_eq!(flat, [0.0, 10.0, 20.0, 100.0, 110.0, 120.0, 1.0, 11.0, 21.0, 101.0, 111.0, 121.0]);
}

/// What is found is among all scores and boxes, number for number.
#[test]
fn detections_are_rows_of_all_scores_and_boxes() {
    let fcos = (Head::Fcos(fcos(0.5)), fcos_predictions());
    let retina = (Head::Retina(retina(Normalizer::Image)), retina_predictions());
    for (head, predictions) in [fcos, retina] {
        let [scores, boxes] = head.scores_and_boxes(&predictions, SIZE);
        let found = head.detect(&predictions, SIZE);
        assert!(found.iter().all(|image| image.boxes.len() > 1));
        for (i, image) in found.iter().enumerate() {
            let (scores, boxes) = (scores.get(i as i64), boxes.get(i as i64));
            for ((bbox, score), label) in image.boxes.iter().zip(&image.scores).zip(&image.labels) {
                let same_score = scores.select(1, *label as i64).eq(f64::from(*score));
                let same_box = (&boxes - Tensor::from_slice(bbox)).abs().amax([1i64], false).lt(1e-4);
                assert!(bool::try_from(same_score.logical_and(&same_box).any()).unwrap(), "{bbox:?} {score}");
            }
        }
    }
}

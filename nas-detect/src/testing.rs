//! What tests against reference programs share: weights and inputs by formula, summaries of tensors.

use serde_json::Value;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// `sin(0.7 i + phase)` for `i = 0, 1, ..` in the given shape, in double precision.
pub fn wave(shape: &[i64], phase: i64) -> Tensor {
    let values: Vec<f64> = (0..shape.iter().product()).map(|i: i64| (0.7 * i as f64 + phase as f64).sin()).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Fills a store, in double precision, by the rule of the scripts in tests/golden/det; `phase` follows from name and size.
pub fn fill(vs: &mut VarStore, phase: impl Fn(&str, &Tensor) -> i64) {
    vs.double();
    tch::no_grad(|| {
        for (name, mut tensor) in vs.variables() {
            let size = tensor.size();
            let values = wave(&size, phase(&name, &tensor));
            let fan_in: i64 = size.iter().skip(1).product();
            tensor.copy_(&match size.len() {
                4 => values * (6.0 / fan_in as f64).sqrt(),
                _ if name.ends_with("weight") || name.ends_with("running_var") => values * 0.2 + 1.0,
                _ => values * 0.2,
            });
        }
    });
}

/// Checks shape, mean, norm and last value of `ys`, to `tolerance`.
pub fn assert_described(ys: &Tensor, golden: &Value, tolerance: f64, what: &str) {
    assert_eq!(serde_json::json!(ys.size()), golden["size"], "{what}");
    let ys = ys.to_kind(Kind::Double);
    let found = [ys.mean(Kind::Double), ys.norm(), ys.reshape([-1]).get(-1)];
    for (found, key) in found.iter().zip(["mean", "norm", "last"]) {
        let (found, expected) = (found.double_value(&[]), golden[key].as_f64().unwrap());
        assert!(
            (found - expected).abs() <= tolerance * expected.abs().max(1.0),
            "{what}, {key}: {found}, not {expected}"
        );
    }
}

//! ONNX files that compute in integers of 8 bits: the graph of [`super::write`], rounded after training.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::onnx::interpreter::Interpreter;
use super::onnx::quantize::{Ranges, WeightBits, quantize};
use super::onnx::{self, fold_batch_norms};
use super::{
    FileFormat, MAX_DIFFERENCE, Network, Outputs, Written, check_suppression, compare, images_to_compare, onnx_model,
    suppress, trace,
};

/// Writes `network` to `path` as an ONNX file whose convolutions and linear layers compute in integers ([`onnx::quantize`]), with
/// `metadata`. `calibrate` runs the images that the ranges of values are taken from through what it is given. The graph is compared
/// with the network before it is rounded; [`Written::max_difference`] is that difference.
pub fn write_int8(
    network: &Network,
    path: &Path,
    metadata: &[(String, String)],
    bits: WeightBits,
    calibrate: impl FnOnce(&Outputs) -> Result<()>,
) -> Result<Written> {
    ensure!(FileFormat::of(path)? == FileFormat::Onnx, "{}: int8 is written as .onnx alone", path.display());
    let traced = trace(network)?;
    let mut model = onnx_model(network, &traced, metadata)?;
    let folded = fold_batch_norms(model.graph.as_ref().context("a model without a graph")?)?;
    let interpreter = Interpreter::new(&folded)?;
    let compared = images_to_compare(network, traced.fixed.is_some());
    let difference = compare(network, &|images| interpreter.outputs(images, &mut |_, _| {}), &compared)?;
    if difference.relative > MAX_DIFFERENCE {
        bail!("outputs of the graph differ by {:e} from the network's; this is a bug", difference.absolute);
    }
    let ranges = RefCell::new(Ranges::asked_for(&folded));
    calibrate(&|images| interpreter.outputs(images, &mut |name, value| ranges.borrow_mut().see(name, value)))?;
    model.graph = Some(quantize(&folded, &ranges.into_inner(), bits)?);
    suppress(network, &mut model)?;
    onnx::write(path, &model)?;
    check_suppression(network, path, &compared)?;
    let (fixed_size, fixed_because) = traced.fixed.unzip();
    Ok(Written {
        files: vec![path.to_path_buf()],
        max_difference: Some(difference.absolute),
        compared,
        fixed_size,
        fixed_because,
    })
}

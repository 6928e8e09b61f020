//! Trained networks for other programs: ONNX, TorchScript, the source of a PyTorch module, weights alone.
//!
//! There is one forward pass per layer, its Rust code. What it does is taken from libtorch's tracer, whose TorchScript is a small
//! language of assignments ([`script`]), and brought into one graph ([`graph`]) that all formats are written from. The other way,
//! a tensor type that records, would have every layer written over a second type, and a table of operators beside libtorch's
//! own; the tracer sees what runs, whatever layer it came from. Its two gaps are closed in `trace`: weights keep their names,
//! and sizes are free.

pub mod channels;
pub mod graph;
mod int8;
pub mod onnx;
mod python;
pub mod script;
mod torchscript;
pub mod trace;

pub use int8::write_int8;
pub use trace::{Detect, Network, Suppressed, Traced, trace};

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use tch::{CModule, Device, IValue, Kind, Tensor};

use self::onnx::proto::ModelProto;
use self::onnx::{Extent, convert, interpreter};
use crate::run::run_dir::write_atomic;
use crate::run::tensor_file::write_tensors_about;
use crate::train::{read_tensors, write_tensors};

/// A network, or a file of it: its outputs in order for normalised images `[B, 3, H, W]`.
pub type Outputs<'a> = dyn Fn(&Tensor) -> Result<Vec<Tensor>> + 'a;

/// The largest difference to the network, in units of its largest output, with which a file is kept.
pub const MAX_DIFFERENCE: f64 = 1e-4;

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Written {
    /// The files.
    pub files: Vec<PathBuf>,
    /// The largest difference between outputs of the network and of the file, both on random images. Of the source of a PyTorch
    /// module, which is not run here, that of its graph; of weights alone none.
    pub max_difference: Option<f64>,
    /// Shapes of the images that were compared.
    pub compared: Vec<[i64; 4]>,
    /// Height and width, where they are not free.
    pub fixed_size: Option<(i64, i64)>,
    /// Why they are not.
    pub fixed_because: Option<String>,
}

/// A format, by the ending of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// ONNX.
    Onnx,
    /// TorchScript.
    TorchScript,
    /// The source of a PyTorch module, with its weights beside it.
    Python,
    /// Weights alone.
    Safetensors,
}

impl FileFormat {
    /// The format of a file.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("onnx") => Ok(Self::Onnx),
            Some("pt") => Ok(Self::TorchScript),
            Some("py") => Ok(Self::Python),
            Some("safetensors") => Ok(Self::Safetensors),
            other => bail!(
                "{}: the ending {:?} is no format; expected onnx, pt, py or safetensors",
                path.display(),
                other.unwrap_or_default()
            ),
        }
    }
}

/// Writes `network` to `path` in the format of its ending, `metadata` with it where the format has a place for it, reads the file
/// back and compares it with the network. A file that differs is an error and is removed.
pub fn write(network: &Network, path: &Path, metadata: &[(String, String)]) -> Result<Written> {
    let format = FileFormat::of(path)?;
    ensure!(
        network.suppressed.is_none() || format == FileFormat::Onnx,
        "{}: suppression of doubles is written as .onnx alone",
        path.display()
    );
    let mut written = Written {
        files: vec![path.to_path_buf()],
        max_difference: None,
        compared: Vec::new(),
        fixed_size: None,
        fixed_because: None,
    };
    if format == FileFormat::Safetensors {
        let copies = network.variables.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let about = metadata.iter().map(|(key, value)| (key.clone(), serde_json::json!(value)));
        write_tensors_about(path, copies.collect(), Some(&about.collect::<serde_json::Map<_, _>>().into()))?;
        return Ok(written);
    }
    let traced = trace(network)?;
    if let Some((size, because)) = &traced.fixed {
        (written.fixed_size, written.fixed_because) = (Some(*size), Some(because.clone()));
    }
    let run: Run = match format {
        FileFormat::Onnx => write_onnx(network, &traced, path, metadata)?,
        FileFormat::TorchScript => {
            torchscript::write(path, &traced.graph)?;
            let module = CModule::load_on_device(path, Device::Cpu).with_context(|| path.display().to_string())?;
            Box::new(move |images| outputs_of(module.forward_is(&[IValue::Tensor(images.shallow_clone())])?))
        }
        _ => {
            written.files.push(write_python(&traced, path, metadata)?);
            let graph = convert(&traced.graph)?;
            let names = network.outputs.clone();
            Box::new(move |images| pick(interpreter::run(&graph.graph, images)?, &names))
        }
    };
    written.compared = images_to_compare(network, traced.fixed.is_some());
    let difference = compare(network, &*run, &written.compared).with_context(|| path.display().to_string())?;
    if difference.relative > MAX_DIFFERENCE {
        std::fs::remove_file(path)?;
        bail!("{}: outputs differ by {:e} from the network's; this is a bug", path.display(), difference.absolute);
    }
    if format == FileFormat::Onnx {
        check_suppression(network, path, &written.compared)?;
    }
    written.max_difference = Some(difference.absolute);
    Ok(written)
}

type Run = Box<Outputs<'static>>;

fn write_onnx(network: &Network, traced: &Traced, path: &Path, metadata: &[(String, String)]) -> Result<Run> {
    let mut model = onnx_model(network, traced, metadata)?;
    suppress(network, &mut model)?;
    onnx::write(path, &model)?;
    let read = onnx::read(path)?;
    let names = network.outputs.clone();
    Ok(Box::new(move |images| {
        pick(interpreter::run(read.graph.as_ref().context("a model without a graph")?, images)?, &names)
    }))
}

/// Puts what makes detections of scores and boxes at the end of a detector's file, where that is asked for.
fn suppress(network: &Network, model: &mut ModelProto) -> Result<()> {
    let Some(Suppressed { suppression, .. }) = &network.suppressed else { return Ok(()) };
    onnx::append_suppression(model.graph.as_mut().context("a model without a graph")?, suppression)
}

/// Says when the detections of a file are not the program's own, of the file's scores and boxes for random images of `shapes`.
fn check_suppression(network: &Network, path: &Path, shapes: &[[i64; 4]]) -> Result<()> {
    let Some(Suppressed { detect, .. }) = &network.suppressed else { return Ok(()) };
    let model = onnx::read(path)?;
    let graph = model.graph.as_ref().context("a model without a graph")?;
    tch::manual_seed(0);
    for shape in shapes {
        let images = Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let values = interpreter::run(graph, &images)?;
        let value = |name: &str| values.get(name).with_context(|| format!("no value {name:?}"));
        let (scores, boxes) = (value(&network.outputs[0])?, value(&network.outputs[1])?);
        let room = value(onnx::DETECTIONS[1])?.size()[1];
        let expected = detect([scores, boxes], (shape[2], shape[3]), room)?;
        for (name, expected) in onnx::DETECTIONS.into_iter().zip(&expected) {
            if !value(name)?.equal(expected) {
                std::fs::remove_file(path)?;
                bail!("{}: {name} of images {shape:?} are not the network's; this is a bug", path.display());
            }
        }
    }
    Ok(())
}

/// The ONNX model of a traced network: its outputs, before any suppression.
pub fn onnx_model(network: &Network, traced: &Traced, metadata: &[(String, String)]) -> Result<ModelProto> {
    let free = |name: &str| Extent::Free(name.into());
    let (h, w) = match &traced.fixed {
        Some(((h, w), _)) => (Extent::Known(*h), Extent::Known(*w)),
        None => (free("height"), free("width")),
    };
    let input = [free("batch"), Extent::Known(3), h.clone(), w.clone()];
    let mut metadata = metadata.to_vec();
    if network.divisor > 1 && traced.fixed.is_none() {
        metadata.push(("size_divisor".into(), network.divisor.to_string()));
    }
    let shapes = [1, 2].map(|batch| output_shapes(network, traced, batch));
    let [one, two] = shapes;
    let (one, two) = (one?, two?);
    let outputs = traced.graph.outputs.iter().enumerate().map(|(i, (name, _))| {
        let extent = |dim: usize| match (one[i][dim] == two[i][dim], dim) {
            (true, _) => Extent::Known(one[i][dim]),
            (false, 0) => free("batch"),
            // Images of another size give as many pixels more, or as many predictions.
            (false, 2) if one[i].len() == 4 => h.clone(),
            (false, 3) if one[i].len() == 4 => w.clone(),
            (false, _) => free(&format!("{name}_{dim}")),
        };
        (name.clone(), (0..one[i].len()).map(extent).collect())
    });
    let outputs: Vec<(String, Vec<Extent>)> = outputs.collect();
    Ok(onnx::model(convert(&traced.graph)?, &input, &outputs, &metadata))
}

/// Shapes of the outputs for images of a batch, each of a size of its own where the size is free.
fn output_shapes(network: &Network, traced: &Traced, batch: i64) -> Result<Vec<Vec<i64>>> {
    let (h, w) = network.size;
    let grow = if traced.fixed.is_some() { 0 } else { (batch - 1) * network.divisor.max(8) };
    let images = Tensor::zeros([batch, 3, h + grow, w + 2 * grow], (Kind::Float, Device::Cpu));
    Ok(tch::no_grad(|| (network.forward)(&images)).iter().map(Tensor::size).collect())
}

/// Writes the source and, beside it, the weights; returns the latter's path.
fn write_python(traced: &Traced, path: &Path, metadata: &[(String, String)]) -> Result<PathBuf> {
    let weights = path.with_extension("safetensors");
    let name = weights.file_name().and_then(|name| name.to_str()).context("a file name that is not UTF-8")?;
    let mut about = vec!["A network, written by nas. `load()` gives it with its weights.".to_string(), String::new()];
    about.extend(metadata.iter().map(|(key, value)| format!("{key}: {}", value.replace(['\\', '"'], "'"))));
    let tensors = traced.graph.parameters.iter().map(|p| (p.name.clone(), p.tensor.shallow_clone()));
    write_tensors(&weights, tensors.collect())?;
    write_atomic(path, python::source(&traced.graph, name, &about).as_bytes())?;
    let saved = read_tensors(&weights)?.len();
    ensure!(saved == traced.graph.parameters.len(), "{}: {saved} tensors", weights.display());
    Ok(weights)
}

fn outputs_of(value: IValue) -> Result<Vec<Tensor>> {
    match value {
        IValue::Tensor(tensor) => Ok(vec![tensor]),
        IValue::Tuple(values) => Ok(values
            .into_iter()
            .map(outputs_of)
            .collect::<Result<Vec<Vec<Tensor>>>>()?
            .into_iter()
            .flatten()
            .collect()),
        other => bail!("a module that gives {other:?}"),
    }
}

fn pick(mut values: std::collections::HashMap<String, Tensor>, names: &[String]) -> Result<Vec<Tensor>> {
    names.iter().map(|name| values.remove(name).with_context(|| format!("no output {name:?}"))).collect()
}

/// Two batches: of the size of the training, and, where sizes are free, of another one.
fn images_to_compare(network: &Network, fixed: bool) -> Vec<[i64; 4]> {
    let (h, w) = network.size;
    let n = network.divisor;
    let other = if n == 1 { (h + 13, w + 6) } else { (h + n, w + 2 * n) };
    let (h2, w2) = if fixed { (h, w) } else { other };
    vec![[1, 3, h, w], [2, 3, h2, w2]]
}

struct Difference {
    absolute: f64,
    relative: f64,
}

fn compare(network: &Network, run: &Outputs, shapes: &[[i64; 4]]) -> Result<Difference> {
    let mut largest = Difference { absolute: 0.0, relative: 0.0 };
    tch::manual_seed(0);
    for shape in shapes {
        let images = Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (expected, found) = tch::no_grad(|| Ok::<_, anyhow::Error>(((network.forward)(&images), run(&images)?)))?;
        ensure!(expected.len() == found.len(), "{} outputs, expected {}", found.len(), expected.len());
        for (expected, found) in expected.iter().zip(&found) {
            let (a, b) = (expected.size(), found.size());
            ensure!(a == b, "an output of shape {b:?} for images {shape:?}, expected {a:?}");
            let largest_of = |xs: &Tensor| xs.abs().max().double_value(&[]);
            let difference = largest_of(&(expected - found));
            ensure!(difference.is_finite(), "outputs that are not finite numbers for images {shape:?}");
            largest.absolute = largest.absolute.max(difference);
            // Of outputs that are all zero nothing may differ.
            largest.relative = largest.relative.max(difference / largest_of(expected).max(f64::MIN_POSITIVE));
        }
    }
    Ok(largest)
}

#[cfg(test)]
mod tests;

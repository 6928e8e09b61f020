//! ONNX files (opset 17): the networks of this program in any runtime.

mod convert;
mod fold;
pub mod interpreter;
pub mod proto;
pub mod quantize;
mod suppress;

pub use convert::{Converted, INPUT, convert, tensor_proto};
pub use fold::fold_batch_norms;
pub use suppress::{DETECTIONS, PredictingLevel, Suppression, append as append_suppression};

use std::path::Path;

use anyhow::{Context, Result};
use prost::Message;

use self::proto::{
    Dimension, FLOAT, ModelProto, OperatorSetIdProto, Side, StringStringEntryProto, TensorShapeProto, TensorType,
    TypeProto, ValueInfoProto,
};
use crate::run::run_dir::write_atomic;

/// Version of the operators.
pub const OPSET: i64 = 17;

/// Version of the file format that came with it.
const IR_VERSION: i64 = 8;

/// A side of an input or output: known, or free by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A number.
    Known(i64),
    /// A name.
    Free(String),
}

/// The model of a converted graph: its inputs and outputs with their shapes, and what else is worth knowing.
pub fn model(
    converted: Converted,
    input: &[Extent],
    outputs: &[(String, Vec<Extent>)],
    metadata: &[(String, String)],
) -> ModelProto {
    let mut graph = converted.graph;
    graph.input = vec![value_info(INPUT, input)];
    graph.output = outputs.iter().map(|(name, shape)| value_info(name, shape)).collect();
    let entry =
        |(key, value): &(String, String)| StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) };
    ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("nas".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: metadata.iter().map(entry).collect(),
    }
}

fn value_info(name: &str, shape: &[Extent]) -> ValueInfoProto {
    value_info_of(name, shape, FLOAT)
}

fn value_info_of(name: &str, shape: &[Extent], elem_type: i32) -> ValueInfoProto {
    let side = |extent: &Extent| match extent {
        Extent::Known(n) => Side::Known(*n),
        Extent::Free(name) => Side::Free(name.clone()),
    };
    let dim = shape.iter().map(|extent| Dimension { value: Some(side(extent)) }).collect();
    let tensor_type = TensorType { elem_type: Some(elem_type), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

/// Writes a model.
pub fn write(path: &Path, model: &ModelProto) -> Result<()> {
    write_atomic(path, &model.encode_to_vec())
}

/// Reads a model.
pub fn read(path: &Path) -> Result<ModelProto> {
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot read", path.display()))?;
    ModelProto::decode(bytes.as_slice()).with_context(|| format!("{}: no ONNX model", path.display()))
}

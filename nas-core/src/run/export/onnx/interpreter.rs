//! ONNX by libtorch: runs what [`super::convert()`] writes, to check a file without another program, to learn the shapes of
//! its values, and to score it. It knows the operators that are written here, no others.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor};

use super::proto::{FLOAT, GraphProto, INT8, INT32, INT64, NodeProto, Side, TensorProto, UINT8, ValueInfoProto};

/// All values of a graph for one input.
pub fn run(graph: &GraphProto, images: &Tensor) -> Result<HashMap<String, Tensor>> {
    Interpreter::new(graph)?.run(images)
}

/// A graph with its tensors.
pub struct Interpreter<'a> {
    graph: &'a GraphProto,
    parameters: HashMap<String, Tensor>,
    /// The last node that reads a value.
    last_uses: HashMap<&'a str, usize>,
}

impl<'a> Interpreter<'a> {
    /// Reads the graph's tensors.
    pub fn new(graph: &'a GraphProto) -> Result<Self> {
        let read = |tensor: &TensorProto| Ok((tensor.name.clone().unwrap_or_default(), from_proto(tensor)?));
        let parameters = graph.initializer.iter().map(read).collect::<Result<_>>()?;
        let uses = graph.node.iter().enumerate();
        let uses = uses.flat_map(|(i, node)| node.input.iter().map(move |name| (name.as_str(), i)));
        let results = graph.output.iter().map(|output| (output.name(), usize::MAX));
        Ok(Self { graph, parameters, last_uses: uses.chain(results).collect() })
    }

    /// Every value of the graph for images `[B, C, H, W]`.
    pub fn run(&self, images: &Tensor) -> Result<HashMap<String, Tensor>> {
        let mut values = HashMap::from([(super::INPUT.to_string(), images.shallow_clone())]);
        self.graph.node.iter().try_for_each(|node| self.step(node, &mut values))?;
        Ok(values)
    }

    /// The outputs of the graph, in their order, for images of a shape that it takes. `see` is shown the images and every value;
    /// a value is let go after its last use.
    pub fn outputs(&self, images: &Tensor, see: &mut dyn FnMut(&str, &Tensor)) -> Result<Vec<Tensor>> {
        self.graph.input.iter().try_for_each(|input| check_shape(input, &images.size()))?;
        see(super::INPUT, images);
        let mut values = HashMap::from([(super::INPUT.to_string(), images.shallow_clone())]);
        for (i, node) in self.graph.node.iter().enumerate() {
            self.step(node, &mut values)?;
            node.output.iter().for_each(|name| see(name, &values[name]));
            values.retain(|name, _| self.last_uses.get(name.as_str()).is_some_and(|last| *last > i));
        }
        let output = |output: &ValueInfoProto| {
            values.remove(output.name()).with_context(|| format!("no output {:?}", output.name()))
        };
        self.graph.output.iter().map(output).collect()
    }

    /// Adds the results of a node to the values.
    fn step(&self, node: &NodeProto, values: &mut HashMap<String, Tensor>) -> Result<()> {
        let outputs = tch::no_grad(|| self.evaluate(node, values));
        let outputs = outputs.with_context(|| format!("ONNX node {}", node.name()))?;
        ensure!(outputs.len() == node.output.len(), "{:?} gave {} values", node.op_type, outputs.len());
        values.extend(node.output.iter().cloned().zip(outputs));
        Ok(())
    }

    fn evaluate(&self, node: &NodeProto, values: &HashMap<String, Tensor>) -> Result<Vec<Tensor>> {
        let op = node.op_type.as_deref().unwrap_or_default();
        let call = Call { node, values, parameters: &self.parameters };
        let one = |tensor: Tensor| Ok(vec![tensor]);
        match op {
            "Split" => call.split(),
            "TopK" => call.top(),
            "NonMaxSuppression" => one(call.suppress()?),
            "ScatterND" => one(call.scatter()?),
            "Conv" => one(call.conv()?),
            "MaxPool" | "AveragePool" => one(call.pool(op == "MaxPool")?),
            "Resize" => one(call.resize()?),
            "Slice" => one(call.slice()?),
            "Pad" => one(call.pad()?),
            "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceSum" => one(call.reduce(op)?),
            "BatchNormalization" => {
                let [w, b, mean, var] = [1, 2, 3, 4].map(|i| call.input(i));
                let (w, b, mean, var) = (w?, b?, mean?, var?);
                let eps = call.float("epsilon", 1e-5);
                one(call.input(0)?.f_batch_norm(Some(w), Some(b), Some(mean), Some(var), false, 0.0, eps, false)?)
            }
            "InstanceNormalization" => {
                let (w, b, eps) = (call.input(1)?, call.input(2)?, call.float("epsilon", 1e-5));
                let none: Option<&Tensor> = None;
                one(call.input(0)?.f_instance_norm(Some(w), Some(b), none, none, true, 0.0, eps, false)?)
            }
            "Gemm" => {
                ensure!(call.int("transB", 0) == 1, "only x Wᵀ + b");
                one(call.input(0)?.f_linear(call.input(1)?, call.maybe(2))?)
            }
            "QuantizeLinear" => one(call.quantize()?),
            "DequantizeLinear" => one(call.dequantize()?),
            _ => one(call.simple(op)?),
        }
    }
}

/// A tensor with its numbers.
pub fn from_proto(tensor: &TensorProto) -> Result<Tensor> {
    let kind = match tensor.data_type {
        Some(FLOAT) => Kind::Float,
        Some(INT64) => Kind::Int64,
        Some(INT32) => Kind::Int,
        Some(INT8) => Kind::Int8,
        Some(UINT8) => Kind::Uint8,
        other => bail!("a tensor of type {other:?}"),
    };
    let bytes = tensor.raw_data.as_deref().unwrap_or_default();
    Ok(Tensor::f_from_data_size(bytes, &tensor.dims, kind)?)
}

/// Says when images of a shape are not what the input is described to be.
fn check_shape(input: &ValueInfoProto, found: &[i64]) -> Result<()> {
    let shape = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()).and_then(|kind| kind.shape.as_ref());
    let Some(shape) = shape else { return Ok(()) };
    let sides = shape.dim.iter().map(|side| side.value.as_ref());
    let fits = |(side, n): (Option<&Side>, &i64)| !matches!(side, Some(Side::Known(known)) if known != n);
    let expected = || {
        sides.clone().map(|side| match side {
            Some(Side::Known(n)) => n.to_string(),
            Some(Side::Free(name)) => name.clone(),
            None => "any".into(),
        })
    };
    ensure!(
        shape.dim.len() == found.len() && sides.clone().zip(found).all(fits),
        "images of shape {found:?}; the file takes [{}]",
        expected().collect::<Vec<String>>().join(", ")
    );
    Ok(())
}

/// An operator with its inputs.
struct Call<'a> {
    node: &'a NodeProto,
    values: &'a HashMap<String, Tensor>,
    parameters: &'a HashMap<String, Tensor>,
}

impl Call<'_> {
    fn maybe(&self, i: usize) -> Option<&Tensor> {
        let name = self.node.input.get(i).filter(|name| !name.is_empty())?;
        self.values.get(name).or_else(|| self.parameters.get(name))
    }

    fn input(&self, i: usize) -> Result<&Tensor> {
        self.maybe(i).with_context(|| format!("input {i} ({:?}) has no value", self.node.input.get(i)))
    }

    fn list(&self, i: usize) -> Result<Vec<i64>> {
        Ok(Vec::<i64>::try_from(self.input(i)?.to_kind(Kind::Int64).reshape([-1]))?)
    }

    fn attribute(&self, name: &str) -> Option<&super::proto::AttributeProto> {
        self.node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|attribute| attribute.i).unwrap_or(default)
    }

    fn float(&self, name: &str, default: f64) -> f64 {
        self.attribute(name).and_then(|attribute| attribute.f).map_or(default, f64::from)
    }

    fn ints(&self, name: &str) -> Vec<i64> {
        self.attribute(name).map(|attribute| attribute.ints.clone()).unwrap_or_default()
    }

    fn text(&self, name: &str) -> String {
        let text = self.attribute(name).and_then(|attribute| attribute.s.clone()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The padding before, which must equal that after.
    fn pads(&self) -> Result<Vec<i64>> {
        let pads = self.ints("pads");
        let (before, after) = pads.split_at(pads.len() / 2);
        ensure!(before == after, "paddings {pads:?} of two sizes");
        Ok(before.to_vec())
    }

    fn conv(&self) -> Result<Tensor> {
        let (x, w) = (self.input(0)?, self.input(1)?);
        let (stride, pads, dilation) = (self.ints("strides"), self.pads()?, self.ints("dilations"));
        Ok(x.f_conv2d(w, self.maybe(2), stride, pads, dilation, self.int("group", 1))?)
    }

    fn pool(&self, max: bool) -> Result<Tensor> {
        let (kernel, stride, pads) = (self.ints("kernel_shape"), self.ints("strides"), self.pads()?);
        let (x, ceil) = (self.input(0)?, self.int("ceil_mode", 0) == 1);
        Ok(match max {
            true => x.f_max_pool2d(kernel, stride, pads, self.ints("dilations"), ceil)?,
            false => x.f_avg_pool2d(kernel, stride, pads, ceil, self.int("count_include_pad", 0) == 1, None::<i64>)?,
        })
    }

    fn resize(&self) -> Result<Tensor> {
        let (x, size) = (self.input(0)?, self.list(3)?);
        ensure!(size.len() == 4 && size[..2] == x.size()[..2], "a resize of other than height and width");
        let aligned = self.text("coordinate_transformation_mode") == "align_corners";
        Ok(match self.text("mode").as_str() {
            "linear" => x.f_upsample_bilinear2d(&size[2..], aligned, None, None)?,
            _ => x.f_upsample_nearest2d(&size[2..], None, None)?,
        })
    }

    fn slice(&self) -> Result<Tensor> {
        let [starts, ends, axes, steps] = [1, 2, 3, 4].map(|i| self.list(i));
        let (starts, ends, axes, steps) = (starts?, ends?, axes?, steps?);
        let mut x = self.input(0)?.shallow_clone();
        for i in 0..axes.len() {
            x = x.f_slice(axes[i], starts[i], ends[i], steps[i])?;
        }
        Ok(x)
    }

    fn pad(&self) -> Result<Tensor> {
        let (x, pads) = (self.input(0)?, self.list(1)?);
        let rank = pads.len() / 2;
        let torch: Vec<i64> = (0..rank).rev().flat_map(|dim| [pads[dim], pads[rank + dim]]).collect();
        let value = self.maybe(2).map_or(0.0, |value| value.double_value(&[]));
        Ok(x.f_pad(&torch, "constant", Some(value))?)
    }

    fn reduce(&self, op: &str) -> Result<Tensor> {
        let (x, keep) = (self.input(0)?, self.int("keepdims", 1) == 1);
        let mut axes = if op == "ReduceSum" && self.maybe(1).is_some() { self.list(1)? } else { self.ints("axes") };
        if axes.is_empty() {
            axes = (0..x.dim() as i64).collect();
        }
        Ok(match op {
            "ReduceMean" => x.f_mean_dim(axes.as_slice(), keep, None::<Kind>)?,
            "ReduceSum" => x.f_sum_dim_intlist(axes.as_slice(), keep, None::<Kind>)?,
            "ReduceMax" => x.f_amax(axes.as_slice(), keep)?,
            _ => x.f_amin(axes.as_slice(), keep)?,
        })
    }

    fn split(&self) -> Result<Vec<Tensor>> {
        let (x, axis) = (self.input(0)?, self.int("axis", 0));
        match self.maybe(1) {
            Some(_) => Ok(x.f_split_with_sizes(self.list(1)?, axis)?),
            None => Ok(x.f_chunk(self.node.output.len() as i64, axis)?),
        }
    }

    /// The largest of the last but one or last side, of equal ones the first, and their places.
    fn top(&self) -> Result<Vec<Tensor>> {
        let (x, k, axis) = (self.input(0)?, self.list(1)?, self.int("axis", -1));
        let (values, places) = x.f_sort_stable(true, axis, true)?;
        let k = k.first().context("no number of values")?;
        Ok(vec![values.f_narrow(axis, 0, *k)?, places.f_narrow(axis, 0, *k)?])
    }

    /// `[S, 3]`: image, class and place of every box that no better one of its class covers.
    fn suppress(&self) -> Result<Tensor> {
        let (boxes, scores) = (self.input(0)?, self.input(1)?);
        let number = |i: usize| self.maybe(i).map_or(0.0, |value| value.reshape([-1]).double_value(&[0]) as f32);
        let (most, max_iou, least) = (self.list(2)?[0] as usize, number(3), number(4));
        let (batch, classes, _) = scores.size3()?;
        let mut chosen: Vec<i64> = Vec::new();
        for image in 0..batch {
            let flat = Vec::<f32>::try_from(boxes.f_get(image)?.contiguous().reshape([-1]))?;
            let (boxes, _) = flat.as_chunks::<4>();
            for class in 0..classes {
                let scores = Vec::<f32>::try_from(scores.f_get(image)?.f_get(class)?.contiguous())?;
                let kept = suppressed(boxes, &scores, (max_iou, least), most);
                chosen.extend(kept.into_iter().flat_map(|place| [image, class, place as i64]));
            }
        }
        Ok(Tensor::from_slice(&chosen).reshape([-1, 3]))
    }

    /// `x` with `updates` `[S]` at the places `[S, 2]`.
    fn scatter(&self) -> Result<Tensor> {
        let (x, at, updates) = (self.input(0)?, self.input(1)?, self.input(2)?);
        ensure!(x.dim() == 2 && at.size().last() == Some(&2), "places of other than two sides");
        let [rows, columns] = [0, 1].map(|side| Some(at.select(1, side)));
        Ok(x.f_index_put(&[rows, columns], updates, false)?)
    }

    /// Steps of a scale, half to even, saturated to the type of the zero point.
    fn quantize(&self) -> Result<Tensor> {
        let (x, scale, zero) = (self.input(0)?, self.along_axis(1)?, self.along_axis(2)?);
        let (least, most) = match zero.kind() {
            Kind::Uint8 => (0.0, 255.0),
            Kind::Int8 => (-128.0, 127.0),
            other => bail!("a zero point of kind {other:?}, expected bytes"),
        };
        let steps = x.f_div(&scale)?.f_round()?.f_add(&zero.to_kind(Kind::Float))?;
        Ok(steps.f_clamp(least, most)?.to_kind(zero.kind()))
    }

    fn dequantize(&self) -> Result<Tensor> {
        let (steps, scale, zero) = (self.input(0)?, self.along_axis(1)?, self.along_axis(2)?);
        Ok(steps.to_kind(Kind::Float).f_sub(&zero.to_kind(Kind::Float))?.f_mul(&scale)?)
    }

    /// A scale or zero point as it stands beside the first input: one number, or one per index of the attribute `axis`.
    fn along_axis(&self, i: usize) -> Result<Tensor> {
        let values = self.input(i)?;
        if values.numel() == 1 {
            return Ok(values.f_reshape([1i64; 0])?);
        }
        let (rank, axis) = (self.input(0)?.dim(), self.int("axis", 1));
        let shape: Vec<i64> = (0..rank as i64).map(|dim| if dim == axis { -1 } else { 1 }).collect();
        Ok(values.f_reshape(shape)?)
    }

    fn simple(&self, op: &str) -> Result<Tensor> {
        let x = self.input(0)?;
        let second = || self.input(1);
        Ok(match op {
            "Identity" => x.shallow_clone(),
            "Relu" => x.f_relu()?,
            "Sigmoid" => x.f_sigmoid()?,
            "Exp" => x.f_exp()?,
            "Sqrt" => x.f_sqrt()?,
            "Neg" => x.f_neg()?,
            "Abs" => x.f_abs()?,
            "Log" => x.f_log()?,
            "Tanh" => x.f_tanh()?,
            "HardSwish" => x.f_hardswish()?,
            "HardSigmoid" => (x * self.float("alpha", 0.2) + self.float("beta", 0.5)).f_clamp(0.0, 1.0)?,
            "Clip" => {
                let bound = |i: usize, default: f64| self.maybe(i).map_or(default, |bound| bound.double_value(&[]));
                x.f_clamp(bound(1, f64::NEG_INFINITY), bound(2, f64::INFINITY))?
            }
            "Add" => x.f_add(second()?)?,
            "Sub" => x.f_sub(second()?)?,
            "Mul" => x.f_mul(second()?)?,
            "Div" if x.kind() == Kind::Int64 => x.f_div_tensor_mode(second()?, "floor")?,
            "Div" => x.f_div(second()?)?,
            "Mod" => x.f_remainder_tensor(second()?)?,
            "Max" => x.f_maximum(second()?)?,
            "Min" => x.f_minimum(second()?)?,
            "Concat" => {
                let parts = (0..self.node.input.len()).map(|i| self.input(i)).collect::<Result<Vec<&Tensor>>>()?;
                Tensor::f_cat(&parts, self.int("axis", 0))?
            }
            "Softmax" => x.f_softmax(self.int("axis", -1), None::<Kind>)?,
            "GlobalAveragePool" => x.f_mean_dim([2i64, 3].as_slice(), true, None::<Kind>)?,
            "Shape" => {
                let size = x.size();
                let end = (self.int("end", size.len() as i64) as usize).min(size.len());
                Tensor::from_slice(&size[self.int("start", 0) as usize..end])
            }
            "Gather" if second()?.dim() == 1 => x.f_index_select(self.int("axis", 0), second()?)?,
            "Gather" => {
                let index = second()?.int64_value(&[]);
                x.f_select(self.int("axis", 0), index)?
            }
            "GatherElements" => x.f_gather(self.int("axis", 0), second()?, false)?,
            "Equal" => x.f_eq_tensor(second()?)?,
            "Greater" => x.f_gt_tensor(second()?)?,
            "Where" => second()?.f_where_self(x, self.input(2)?)?,
            "Unsqueeze" => {
                let mut axes = self.list(1)?;
                axes.sort_unstable();
                axes.into_iter().try_fold(x.shallow_clone(), |x, axis| x.f_unsqueeze(axis))?
            }
            "Squeeze" => x.f_squeeze_dims(self.list(1)?)?,
            "Reshape" => {
                let (old, mut shape) = (x.size(), self.list(1)?);
                shape.iter_mut().enumerate().filter(|(_, side)| **side == 0).for_each(|(i, side)| *side = old[i]);
                x.f_reshape(shape)?
            }
            "Flatten" => x.f_flatten(1, -1)?,
            "Expand" => x.f_broadcast_to(broadcast(&x.size(), &self.list(1)?))?,
            "Transpose" => x.f_permute(self.ints("perm"))?,
            "ConstantOfShape" => {
                let value = self.attribute("value").and_then(|value| value.t.as_ref()).context("no value")?;
                from_proto(value)?.f_expand(self.list(0)?, false)?
            }
            "Range" => {
                let bound = |i: usize| Ok::<i64, anyhow::Error>(self.input(i)?.int64_value(&[]));
                Tensor::f_arange_start_step(bound(0)?, bound(1)?, bound(2)?, (Kind::Int64, Device::Cpu))?
            }
            "Cast" if self.int("to", FLOAT.into()) == i64::from(INT64) => x.to_kind(Kind::Int64),
            "Cast" => x.to_kind(Kind::Float),
            other => bail!("{other:?} is not run here"),
        })
    }
}

/// Boxes `[x0, y0, x1, y1]` of scores above `least` that no better one covers by more than `max_iou`, the best first and at most
/// `most`; of equal scores the first box is the better.
fn suppressed(boxes: &[[f32; 4]], scores: &[f32], (max_iou, least): (f32, f32), most: usize) -> Vec<usize> {
    let area = |[x0, y0, x1, y1]: &[f32; 4]| (x1 - x0) * (y1 - y0);
    let covers = |a: &[f32; 4], b: &[f32; 4]| {
        let (w, h) = (a[2].min(b[2]) - a[0].max(b[0]), a[3].min(b[3]) - a[1].max(b[1]));
        w > 0.0 && h > 0.0 && w * h / (area(a) + area(b) - w * h) > max_iou
    };
    let mut order: Vec<usize> = (0..boxes.len()).filter(|i| scores[*i] > least).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut kept: Vec<usize> = Vec::new();
    for next in order {
        if kept.len() < most && !kept.iter().any(|better| covers(&boxes[*better], &boxes[next])) {
            kept.push(next);
        }
    }
    kept
}

/// The shape of a tensor of `size` expanded to `shape`, in which a side of 1 stays as it is.
fn broadcast(size: &[i64], shape: &[i64]) -> Vec<i64> {
    let missing = shape.len().saturating_sub(size.len());
    let old = |i: usize| i.checked_sub(missing).map_or(1, |i| size[i]);
    shape.iter().enumerate().map(|(i, side)| if *side == 1 { old(i) } else { *side }).collect()
}

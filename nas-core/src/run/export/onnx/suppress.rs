//! What makes detections of the predictions of a detector, as operators of ONNX (opset 17): the best of every level, suppression of
//! doubles (`NonMaxSuppression`), the best of what is left.

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use super::convert::{int, tensor_proto};
use super::proto::{AttributeProto, FLOAT, GraphProto, INT64, NodeProto, ValueInfoProto};
use super::{Extent, INPUT, value_info_of};

/// A map whose every pixel predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictingLevel {
    /// Pixels of the image per pixel of the map.
    pub stride: i64,
    /// Predictions of a pixel.
    pub per_cell: i64,
}

/// What counts as a detection. Predictions stand in the order of the levels, of a level by pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Suppression {
    /// Finest first.
    pub levels: Vec<PredictingLevel>,
    /// Classes of a prediction.
    pub num_classes: i64,
    /// The score, 0 or more, that a detection must exceed.
    pub score: f64,
    /// Candidates, each a prediction with a class, kept of each level before suppression.
    pub per_level: i64,
    /// A candidate is dropped when a better one of its class overlaps it by more than this IoU.
    pub iou: f32,
    /// Detections of an image.
    pub max: i64,
}

/// Names of the outputs: boxes `[B, D, 4]`, scores `[B, D]`, classes `[B, D]`, and how many of the D are detections `[B]`; the rest is
/// padding of score 0 and class -1.
pub const DETECTIONS: [&str; 4] = ["detection_boxes", "detection_scores", "detection_classes", "num_detections"];

/// Makes the outputs of `graph`, `scores` `[B, N, K]` and `boxes` `[B, N, 4]` of the images, [`DETECTIONS`].
pub fn append(graph: &mut GraphProto, suppression: &Suppression) -> Result<()> {
    let names: Vec<String> = graph.output.iter().map(|output| output.name().to_string()).collect();
    let [scores, boxes] = &names[..] else { anyhow::bail!("outputs {names:?}; expected scores and boxes") };
    ensure!(graph.input.len() == 1 && graph.input[0].name() == INPUT, "expected one input, {INPUT}");
    ensure!(suppression.score >= 0.0, "scores of padding are 0");
    let batch = graph.output[0].r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()?.shape.as_ref()?.dim.first());
    let batch = batch.cloned().context("scores without a batch")?;
    let mut writer = Writer { graph, count: 0 };
    writer.suppress(scores, boxes, suppression)?;
    let free = || Extent::Free("detections".into());
    let mut outputs: Vec<ValueInfoProto> = vec![
        value_info_of(DETECTIONS[0], &[free(), free(), Extent::Known(4)], FLOAT),
        value_info_of(DETECTIONS[1], &[free(), free()], FLOAT),
        value_info_of(DETECTIONS[2], &[free(), free()], INT64),
        value_info_of(DETECTIONS[3], &[free()], INT64),
    ];
    for output in &mut outputs {
        let shape = output.r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut()?.shape.as_mut());
        shape.context("a shape")?.dim[0] = batch.clone();
    }
    writer.graph.output = outputs;
    Ok(())
}

struct Writer<'a> {
    graph: &'a mut GraphProto,
    count: usize,
}

impl Writer<'_> {
    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("nms_{}", self.count)
    }

    fn node(&mut self, op: &str, input: &[&str], attribute: Vec<AttributeProto>, output: Vec<String>) {
        let input = input.iter().map(ToString::to_string).collect();
        let name = format!("{op}_{}", self.graph.node.len());
        self.graph.node.push(NodeProto { input, output, name: Some(name), op_type: Some(op.into()), attribute });
    }

    /// An operator with one result.
    fn emit(&mut self, op: &str, input: &[&str], attribute: Vec<AttributeProto>) -> String {
        let output = self.fresh();
        self.node(op, input, attribute, vec![output.clone()]);
        output
    }

    fn constant(&mut self, tensor: &Tensor) -> Result<String> {
        let name = self.fresh();
        self.graph.initializer.push(tensor_proto(&name, tensor)?);
        Ok(name)
    }

    /// Whole numbers `[n]`.
    fn ints(&mut self, values: &[i64]) -> Result<String> {
        self.constant(&Tensor::from_slice(values))
    }

    /// A number `[1]`.
    fn float(&mut self, value: f32) -> Result<String> {
        self.constant(&Tensor::from_slice(&[value]))
    }

    /// The `k` (`[1]`) largest of every row of `xs` `[B, n]`, in falling order, of equal ones the first, and their places.
    fn top(&mut self, xs: &str, k: &str) -> [String; 2] {
        let (values, places) = (self.fresh(), self.fresh());
        let attributes = vec![int("axis", 1), int("largest", 1), int("sorted", 1)];
        self.node("TopK", &[xs, k], attributes, vec![values.clone(), places.clone()]);
        [values, places]
    }

    /// Rows `at` `[B, m]` of boxes `[B, n, 4]`.
    fn rows(&mut self, boxes: &str, at: &str) -> Result<String> {
        let (two, shape) = (self.ints(&[2])?, self.ints(&[1, 1, 4])?);
        let at = self.emit("Unsqueeze", &[at, &two], vec![]);
        let at = self.emit("Expand", &[&at, &shape], vec![]);
        Ok(self.emit("GatherElements", &[boxes, &at], vec![int("axis", 1)]))
    }

    /// A side (`[1]`) of the images: 2 is the height, 3 the width.
    fn side(&mut self, shape: &str, dim: i64) -> Result<String> {
        let dim = self.ints(&[dim])?;
        Ok(self.emit("Gather", &[shape, &dim], vec![int("axis", 0)]))
    }

    /// Scores `[B, M]` of the best candidates of every level, and their places among the `[B, N * K]` scores.
    fn candidates(&mut self, scores: &str, suppression: &Suppression) -> Result<[String; 2]> {
        let Suppression { levels, num_classes, per_level, .. } = suppression;
        let shape = self.emit("Shape", &[INPUT], vec![]);
        let (height, width) = (self.side(&shape, 2)?, self.side(&shape, 3)?);
        let (one, classes, most) = (self.ints(&[1])?, self.ints(&[*num_classes])?, self.ints(&[*per_level])?);
        let mut start = self.ints(&[0])?;
        let (mut values, mut places) = (Vec::new(), Vec::new());
        for PredictingLevel { stride, per_cell } in levels {
            let (more, stride, per_cell) =
                (self.ints(&[stride - 1])?, self.ints(&[*stride])?, self.ints(&[*per_cell])?);
            let cells: Vec<String> = [&height, &width]
                .into_iter()
                .map(|side| {
                    let side = self.emit("Add", &[side, &more], vec![]);
                    self.emit("Div", &[&side, &stride], vec![])
                })
                .collect();
            let cells = self.emit("Mul", &[&cells[0], &cells[1]], vec![]);
            let count = self.emit("Mul", &[&cells, &per_cell], vec![]);
            let end = self.emit("Add", &[&start, &count], vec![]);
            let level = self.emit("Slice", &[scores, &start, &end, &one, &one], vec![]);
            let level = self.emit("Flatten", &[&level], vec![int("axis", 1)]);
            let all = self.emit("Mul", &[&count, &classes], vec![]);
            let k = self.emit("Min", &[&all, &most], vec![]);
            let [best, at] = self.top(&level, &k);
            let before = self.emit("Mul", &[&start, &classes], vec![]);
            places.push(self.emit("Add", &[&at, &before], vec![]));
            values.push(best);
            start = end;
        }
        Ok([values, places].map(|parts| {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            self.emit("Concat", &parts, vec![int("axis", 1)])
        }))
    }

    fn suppress(&mut self, scores: &str, boxes: &str, suppression: &Suppression) -> Result<()> {
        let Suppression { num_classes, score, iou, max, .. } = suppression;
        let [values, places] = self.candidates(scores, suppression)?;
        let classes = self.ints(&[*num_classes])?;
        let rows = self.emit("Div", &[&places, &classes], vec![]);
        let labels = self.emit("Mod", &[&places, &classes], vec![]);
        let boxes = self.rows(boxes, &rows)?;

        // [B, K, M]: a candidate has a score in its own class alone, so that others do not suppress it.
        let one = self.ints(&[1])?;
        let all =
            self.constant(&Tensor::arange(*num_classes, (tch::Kind::Int64, tch::Device::Cpu)).reshape([1, -1, 1]))?;
        let of_class = self.emit("Unsqueeze", &[&labels, &one], vec![]);
        let of_class = self.emit("Equal", &[&of_class, &all], vec![]);
        let (wide, none) = (self.emit("Unsqueeze", &[&values, &one], vec![]), self.float(-1.0)?);
        let by_class = self.emit("Where", &[&of_class, &wide, &none], vec![]);
        let (most, max_iou, least) = (self.ints(&[*max])?, self.float(*iou)?, self.float(*score as f32)?);
        // [S, 3]: image, class, candidate.
        let chosen = self.emit("NonMaxSuppression", &[&boxes, &by_class, &most, &max_iou, &least], vec![]);

        // Scores of the candidates that are left, 0 of the others, in the candidates' order: of equal ones the first is the better.
        let ends = self.ints(&[0, 2])?;
        let chosen = self.emit("Gather", &[&chosen, &ends], vec![int("axis", 1)]);
        let shape = self.emit("Shape", &[&values], vec![]);
        let zeros = self.filled(&shape, 0.0)?;
        let (first, second) = (self.ints(&[0])?, self.ints(&[1])?);
        let count = self.emit("Shape", &[&chosen], vec![]);
        let count = self.emit("Gather", &[&count, &first], vec![int("axis", 0)]);
        let ones = self.filled(&count, 1.0)?;
        let kept = self.emit("ScatterND", &[&zeros, &chosen, &ones], vec![]);
        let kept = self.emit("Mul", &[&kept, &values], vec![]);
        let candidates = self.emit("Gather", &[&shape, &second], vec![int("axis", 0)]);
        let k = self.emit("Min", &[&candidates, &most], vec![]);
        let [best, at] = self.top(&kept, &k);

        let (zero, padding) = (self.float(0.0)?, self.ints(&[-1])?);
        let is_found = self.emit("Greater", &[&best, &zero], vec![]);
        let (as_float, as_int) = (vec![int("to", FLOAT.into())], vec![int("to", INT64.into())]);
        let (found, counted) = (self.emit("Cast", &[&is_found], as_float), self.emit("Cast", &[&is_found], as_int));
        let boxes = self.rows(&boxes, &at)?;
        let two = self.ints(&[2])?;
        let found = self.emit("Unsqueeze", &[&found, &two], vec![]);
        let labels = self.emit("GatherElements", &[&labels, &at], vec![int("axis", 1)]);
        let [to_boxes, to_scores, to_classes, to_count] = DETECTIONS.map(|name| vec![name.to_string()]);
        self.node("Mul", &[&boxes, &found], vec![], to_boxes);
        self.node("Identity", &[&best], vec![], to_scores);
        self.node("Where", &[&is_found, &labels, &padding], vec![], to_classes);
        self.node("ReduceSum", &[&counted, &one], vec![int("keepdims", 0)], to_count);
        Ok(())
    }

    /// A tensor of one number, of a `shape` that is a tensor.
    fn filled(&mut self, shape: &str, value: f32) -> Result<String> {
        let value = tensor_proto("value", &Tensor::from_slice(&[value]))?;
        let value =
            AttributeProto { name: Some("value".into()), t: Some(value), r#type: Some(4), ..Default::default() };
        Ok(self.emit("ConstantOfShape", &[shape], vec![value]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::run;
    use super::super::{Converted, model, proto::ModelProto};
    use super::*;
    use tch::{Device, Kind};

    /// Two images of 8x16 with 2 + 1 cells: boxes and scores are constants of the graph.
    fn model_of(scores: &Tensor, boxes: &Tensor, suppression: &Suppression) -> ModelProto {
        let mut graph = GraphProto::default();
        for (name, tensor) in [("s", scores), ("b", boxes)] {
            graph.initializer.push(tensor_proto(name, tensor).unwrap());
        }
        for (from, to) in [("s", "scores"), ("b", "boxes")] {
            let (input, output) = (vec![from.to_string()], vec![to.to_string()]);
            graph.node.push(NodeProto { input, output, op_type: Some("Identity".into()), ..Default::default() });
        }
        let free = |name: &str| Extent::Free(name.into());
        let shape = |last: i64| vec![free("batch"), free("n"), Extent::Known(last)];
        let input = [free("batch"), Extent::Known(3), free("h"), free("w")];
        let outputs = [("scores".to_string(), shape(2)), ("boxes".to_string(), shape(4))];
        let mut model = model(Converted { graph, names: Default::default() }, &input, &outputs, &[]);
        append(model.graph.as_mut().unwrap(), suppression).unwrap();
        model
    }

    #[test]
    fn doubles_of_a_class_go_the_rest_is_sorted_and_padding_is_marked() {
        let suppression = Suppression {
            levels: vec![PredictingLevel { stride: 8, per_cell: 2 }, PredictingLevel { stride: 16, per_cell: 1 }],
            num_classes: 2,
            score: 0.1,
            per_level: 3,
            iou: 0.5,
            max: 4,
        };
        // Image 0: two cells of two predictions, one coarse one. Candidates of level 0 beyond the three best are lost (0.3).
        let scores: [f32; 20] = [
            0.9, 0.0, 0.8, 0.0, 0.0, 0.7, 0.3, 0.0, 0.4, 0.6, //
            0.1, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2, 0.0,
        ];
        let scores = Tensor::from_slice(&scores).reshape([2, 5, 2]);
        let a = [0.0, 0.0, 10.0, 10.0];
        // Its overlap with `a` is 0.8.
        let b = [0.0, 0.0, 10.0, 8.0];
        let c = [20.0, 0.0, 30.0, 10.0];
        let rows: Vec<f32> = [a, b, b, c, a, a, a, a, a, c].concat();
        let boxes = Tensor::from_slice(&rows).reshape([2, 5, 4]);
        let graph = model_of(&scores, &boxes, &suppression).graph.unwrap();
        let values = run(&graph, &Tensor::zeros([2, 3, 8, 16], (Kind::Float, Device::Cpu))).unwrap();
        let floats = |name: &str| Vec::<f32>::try_from(values[name].reshape([-1])).unwrap();
        let ints = |name: &str| Vec::<i64>::try_from(values[name].reshape([-1])).unwrap();
        // Of class 0: 0.9 drops 0.8 and the coarse level's 0.4; of class 1: 0.7 drops 0.6.
        assert_eq!(floats("detection_scores"), [0.9, 0.7, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0]);
        assert_eq!(ints("detection_classes"), [0, 1, -1, -1, 0, -1, -1, -1]);
        assert_eq!(ints("num_detections"), [2, 1]);
        let padding = [0.0; 4];
        let expected = [a, b, padding, padding, c, padding, padding, padding].concat();
        assert_eq!(floats("detection_boxes"), expected);
        // A score must exceed the least: 0.1 of the second image does not.
        assert_eq!(values["detection_boxes"].size(), [2, 4, 4]);
    }
}

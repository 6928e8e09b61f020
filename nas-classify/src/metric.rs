//! Scores of a classifier: top-1, top-5, per class, and the confusion matrix.

use std::fmt;

use nas_core::nn::ranks;
use nas_core::run::confusion::Confusion;
use nas_core::run::words;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Images by true and predicted class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfusionMatrix {
    num_classes: usize,
    /// Row-major, rows are true classes.
    counts: Vec<u64>,
    top5: u64,
}

/// What a confusion matrix amounts to. Fractions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Share of images whose class is predicted first.
    pub top1: f64,
    /// Share of images whose class is among the first five.
    pub top5: f64,
    /// Mean over classes of the share that is predicted right.
    pub mean_class_acc: f64,
    /// Images that were scored.
    pub images: u64,
    /// Per class.
    pub classes: Vec<ClassScore>,
}

/// One class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// Its name.
    pub name: String,
    /// Share of its images that are predicted right; none where it has no image.
    pub acc: Option<f64>,
    /// Its images.
    pub images: u64,
}

impl ConfusionMatrix {
    /// Adds up what all processes of the run have counted.
    pub fn of_all_ranks(&mut self) {
        ranks::sum_counts(&mut self.counts);
        ranks::sum_counts(std::slice::from_mut(&mut self.top5));
    }

    /// No image yet.
    pub fn new(num_classes: usize) -> Self {
        Self { num_classes, counts: vec![0; num_classes * num_classes], top5: 0 }
    }

    /// Adds logits `[B, K]` with classes `[B]` (i64). A logit that is no number makes an image count as wrong.
    pub fn add(&mut self, logits: &Tensor, labels: &Tensor) {
        let logits = logits.to_device(tch::Device::Cpu).to_kind(Kind::Float);
        let logits = logits.nan_to_num(f64::NEG_INFINITY, None, None);
        let labels = labels.to_device(tch::Device::Cpu);
        let k = 5.min(self.num_classes as i64);
        let (_, order) = logits.topk(k, 1, true, true);
        let hits = order.eq_tensor(&labels.unsqueeze(1)).any_dim(1, false);
        self.top5 += hits.sum(Kind::Int64).int64_value(&[]) as u64;
        let list = |tensor: Tensor| Vec::<i64>::try_from(tensor.contiguous()).expect("a flat tensor of integers");
        for (truth, predicted) in list(labels).into_iter().zip(list(order.select(1, 0))) {
            self.counts[truth as usize * self.num_classes + predicted as usize] += 1;
        }
    }

    /// Images of class `truth` that are predicted as `predicted`.
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        self.counts[truth * self.num_classes + predicted]
    }

    /// The scores, with the classes' `names`.
    pub fn scores(&self, names: &[String]) -> Scores {
        let images: u64 = self.counts.iter().sum();
        let right: u64 = (0..self.num_classes).map(|class| self.count(class, class)).sum();
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let class = |(i, name): (usize, &String)| {
            let images: u64 = (0..self.num_classes).map(|predicted| self.count(i, predicted)).sum();
            let acc = (images > 0).then(|| share(self.count(i, i), images));
            ClassScore { name: name.clone(), acc, images }
        };
        let classes: Vec<ClassScore> = names.iter().enumerate().map(class).collect();
        let accs: Vec<f64> = classes.iter().filter_map(|class| class.acc).collect();
        Scores {
            top1: share(right, images),
            top5: share(self.top5, images),
            mean_class_acc: accs.iter().sum::<f64>() / accs.len().max(1) as f64,
            images,
            classes,
        }
    }

    /// The matrix with the classes' `names`.
    pub fn named(&self, names: &[String]) -> Confusion {
        let counts = self.counts.chunks(self.num_classes.max(1)).map(<[u64]>::to_vec).collect();
        Confusion { classes: names.to_vec(), counts }
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let percent = |value: f64| format!("{:.2} %", 100.0 * value);
        write!(f, "top-1 {}, top-5 {}, {} images", percent(self.top1), percent(self.top5), self.images)?;
        const SHOWN: usize = 20;
        let names = self.classes.iter().map(|class| words::name(&class.name));
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
        for ClassScore { name, acc, images } in self.classes.iter().take(SHOWN) {
            let name = words::name(name);
            write!(f, "\n  {name:width$} {:>8} of {images}", acc.map_or("-".into(), percent))?;
        }
        match self.classes.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more classes (--format json lists all)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("class {i}")).collect()
    }

    #[test]
    fn first_and_fifth_places_are_told_apart() {
        // Image 0: class 0 comes first; image 1: class 6 fifth; image 2: class 5 sixth.
        let logits = [
            [9.0f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            [9.0, 8.0, 7.0, 6.0, 0.0, 1.0, 5.0],
            [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0],
        ];
        let logits = Tensor::from_slice(logits.as_flattened()).view([3, 7]);
        let mut matrix = ConfusionMatrix::new(7);
        matrix.add(&logits, &Tensor::from_slice(&[0i64, 6, 5]));
        let scores = matrix.scores(&names(7));
        assert_eq!((scores.top1, scores.top5, scores.images), (1.0 / 3.0, 2.0 / 3.0, 3));
        assert_eq!((matrix.count(0, 0), matrix.count(6, 0), matrix.count(5, 0)), (1, 1, 1));
        let accs: Vec<Option<f64>> = scores.classes.iter().map(|class| class.acc).collect();
        assert_eq!(accs, [Some(1.0), None, None, None, None, Some(0.0), Some(0.0)]);
        assert_eq!(scores.mean_class_acc, 1.0 / 3.0);
    }

    #[test]
    fn logits_that_are_no_numbers_are_wrong_and_batches_add_up() {
        let mut matrix = ConfusionMatrix::new(2);
        matrix.add(&Tensor::from_slice(&[f32::NAN, 0.0]).view([1, 2]), &Tensor::from_slice(&[0i64]));
        matrix.add(&Tensor::from_slice(&[1.0f32, 0.0]).view([1, 2]), &Tensor::from_slice(&[0i64]));
        let scores = matrix.scores(&names(2));
        assert_eq!((scores.top1, scores.top5), (0.5, 1.0));
        let csv = String::from_utf8(matrix.named(&names(2)).csv().unwrap()).unwrap();
        assert_eq!(csv, "true\\predicted,class 0,class 1\nclass 0,1,1\nclass 1,0,0\n");
    }
}

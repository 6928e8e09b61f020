use super::*;
use crate::det::shapes::ShapesDataset;
use crate::det::{CocoId, DetClasses};
use crate::error::Problem;
use crate::split::Split;

fn config(batch_size: usize, threads: usize, prefetch: usize, cache_mb: usize) -> LoaderConfig {
    LoaderConfig { batch_size, threads, prefetch, cache_mb }
}

fn transform() -> DetTransform {
    DetTransform {
        short: 64,
        long: 96,
        scale: [0.8, 1.2],
        crop: Some(Size::new(64, 80)),
        color_jitter: 0.2,
        ..DetTransform::default()
    }
}

/// Shapes with an empty image, a crowd, and a file that cannot be read.
struct Mixed(ShapesDataset);

impl DetDataset for Mixed {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn name(&self, i: usize) -> &str {
        self.0.name(i)
    }

    fn image_id(&self, i: usize) -> CocoId {
        self.0.image_id(i)
    }

    fn load(&self, i: usize) -> Result<DetSample, DataError> {
        let mut sample = self.0.load(i)?;
        match i {
            1 => sample.objects.clear(),
            2 => sample.objects.iter_mut().for_each(|object| object.crowd = true),
            5 => return Err(Problem::new("five.png".as_ref(), "nothing", "an image").into()),
            _ => {}
        }
        Ok(sample)
    }

    fn classes(&self) -> &DetClasses {
        self.0.classes()
    }
}

fn mixed(len: usize) -> Arc<dyn DetDataset> {
    Arc::new(Mixed(ShapesDataset::new(len, 3, Split::Train).unwrap()))
}

/// Everything in a batch, as bits.
type Bits = (Vec<u32>, Vec<usize>, Vec<(Vec<u32>, Vec<i64>)>);

fn bits(batch: &DetBatch) -> Bits {
    let floats = |tensor: &Tensor| {
        let values: Vec<f32> = tensor.contiguous().view(-1).try_into().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    let labels = |tensor: &Tensor| Vec::<i64>::try_from(tensor).unwrap();
    let targets = batch.targets.iter().map(|target| (floats(&target.boxes), labels(&target.labels)));
    (floats(&batch.images), batch.indices.clone(), targets.collect())
}

#[test]
fn batches_depend_on_seed_and_epoch_alone() {
    let dataset: Arc<dyn DetDataset> = Arc::new(ShapesDataset::new(11, 0, Split::Train).unwrap());
    let loader = |config, seed| det_train_loader(dataset.clone(), None, transform(), config, seed, "train").unwrap();
    let epoch = |loader: &DetTrainLoader, epoch, from| -> Vec<_> {
        loader.epoch(epoch, from).map(|batch| bits(&batch.unwrap())).collect()
    };
    let slow = loader(config(3, 1, 0, 0), 7);
    let fast = loader(config(3, 4, 3, 100), 7);
    assert_eq!(slow.batches_per_epoch(), 3);
    let first = epoch(&slow, 0, 0);
    assert_eq!(first.len(), 3);
    assert!(first == epoch(&fast, 0, 0) && first == epoch(&fast, 0, 0), "threads and cache change nothing");
    assert!(first[2..] == epoch(&fast, 0, 2)[..], "an epoch goes on where it was left");
    let second = epoch(&fast, 1, 0);
    assert!(second == epoch(&slow, 1, 0) && first != second);
    assert!(first != epoch(&loader(config(3, 1, 0, 0), 8), 0, 0));
}

#[test]
fn images_are_padded_to_a_common_size_and_empty_ones_stay() {
    let transform = DetTransform { short: 40, long: 64, pad_multiple: 16, ..DetTransform::default() };
    let loader = det_train_loader(mixed(5), None, transform, config(5, 2, 1, 0), 0, "train").unwrap();
    let batch = loader.epoch(0, 0).next().unwrap().unwrap();
    let (n, channels, height, width) = batch.images.size4().unwrap();
    assert_eq!((n, channels, height % 16, width % 16), (5, 3, 0, 0));
    assert!(height >= 48 && width >= 48, "the longer sides are above 40");
    for (target, index) in batch.targets.iter().zip(&batch.indices) {
        let count = target.labels.size1().unwrap();
        assert_eq!(target.boxes.size(), [count, 4]);
        assert_eq!(count == 0, [1, 2].contains(index), "an image without objects and one with a crowd only");
    }
}

#[test]
fn evaluation_keeps_order_crowds_and_the_way_back() {
    let dataset = mixed(5);
    let transform = DetTransform { short: 50, long: 60, ..transform() };
    let batches = det_eval_batches(dataset.clone(), transform, &config(2, 3, 2, 0)).unwrap();
    let batches: Vec<DetEvalBatch> = batches.map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|batch| batch.images.size()[0]).collect::<Vec<_>>(), [2, 2, 1]);
    for batch in &batches {
        for (image, DetEvalSample { scaled, .. }) in (0..).zip(&batch.samples) {
            let (image, h, w) = (batch.images.get(image), i64::from(scaled.height()), i64::from(scaled.width()));
            let padding = [image.slice(1, h, None, 1), image.slice(2, w, None, 1)];
            assert!(padding.iter().all(|part| part.count_nonzero(None).int64_value(&[]) == 0));
            let last = image.narrow(1, h - 1, 1).narrow(2, 0, w);
            assert!(last.count_nonzero(None).int64_value(&[]) > 0, "the last row is a picture's");
        }
    }
    let samples: Vec<&DetEvalSample> = batches.iter().flat_map(|batch| &batch.samples).collect();
    for (i, sample) in samples.iter().enumerate() {
        let whole = dataset.load(i).unwrap();
        assert_eq!((sample.index, &sample.objects), (i, &whole.objects));
        assert_eq!(sample.original, Size::new(whole.image.height(), whole.image.width()));
        let (h, w) = (sample.scaled.height(), sample.scaled.width());
        assert!(h.min(w) <= 50 && h.max(w) <= 60 && (h.min(w) == 50 || h.max(w) == 60), "{h}x{w}");
        let all = [0.0, 0.0, f64::from(sample.original.width()), f64::from(sample.original.height())];
        assert_eq!(sample.to_original([0.0, 0.0, w as f32, h as f32]), all);
        assert_eq!(sample.to_original([-3.0, -3.0, 1e9, 1e9]), all, "clipped");
        let half = sample.to_original([0.0, 0.0, w as f32 / 2.0, 1.0]);
        assert!((half[2] - all[2] / 2.0).abs() < 1e-9);
    }
    assert!(samples[2].objects.iter().all(|object| object.crowd) && !samples[2].objects.is_empty());
}

#[test]
fn a_broken_sample_is_named_and_the_others_follow() {
    let loader = det_train_loader(mixed(8), None, transform(), config(2, 2, 4, 0), 0, "train").unwrap();
    let batches: Vec<_> = loader.epoch(0, 0).collect();
    let errors: Vec<String> = batches.iter().filter_map(|b| b.as_ref().err().map(ToString::to_string)).collect();
    assert_eq!((batches.len(), errors), (4, vec!["five.png: nothing, expected an image".to_owned()]));

    let refused = |config| det_train_loader(mixed(3), None, transform(), config, 0, "train").err().unwrap();
    assert!(refused(config(4, 1, 0, 0)).to_string().contains("3 training samples do not fill one batch of 4"));
    assert!(refused(config(0, 1, 0, 0)).to_string().contains("batch_size = 0"));
}

/// Shapes whose second image has an object of a class beyond the set's three.
struct Mislabelled(ShapesDataset);

impl DetDataset for Mislabelled {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn name(&self, i: usize) -> &str {
        self.0.name(i)
    }

    fn image_id(&self, i: usize) -> CocoId {
        self.0.image_id(i)
    }

    fn load(&self, i: usize) -> Result<DetSample, DataError> {
        let mut sample = self.0.load(i)?;
        sample.objects[0].class = if i == 1 { 3 } else { 2 };
        Ok(sample)
    }

    fn classes(&self) -> &DetClasses {
        self.0.classes()
    }
}

#[test]
fn a_class_beyond_the_sets_is_refused_by_the_samples_name() {
    let dataset: Arc<dyn DetDataset> = Arc::new(Mislabelled(ShapesDataset::new(3, 0, Split::Train).unwrap()));
    let problems = crate::det::check(&*dataset);
    assert_eq!(problems.len(), 1);
    let is_named =
        |text: String| text.contains("000002") && text.contains("class index 3") && text.contains("3 classes");
    assert!(is_named(problems[0].to_string()), "{}", problems[0]);
    let loader = det_train_loader(dataset.clone(), None, transform(), config(3, 1, 1, 1), 0, "train").unwrap();
    let error = loader.epoch(0, 0).next().unwrap().unwrap_err();
    assert!(is_named(error.to_string()), "{error}");
    let batches = det_eval_batches(dataset, transform(), &config(1, 1, 1, 0)).unwrap();
    let outcomes: Vec<bool> = batches.map(|batch| batch.is_ok()).collect();
    assert_eq!(outcomes, [true, false, true]);
}

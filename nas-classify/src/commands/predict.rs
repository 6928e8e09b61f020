//! `nas-classify predict`: the most probable classes of image files or of a split.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use image::RgbImage;
use nas_core::nn::Mode;
use nas_core::run::cli::{ComputeArgs, Format, count, print};
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::write_atomic;
use nas_core::task::commands::trained::NetworkArgs;
use nas_datasets::classify::{ClassifyDataset, eval_batches};
use nas_datasets::{DataError, Split, image_files, read_image};
use serde::Serialize;
use tch::Kind;

use super::eval::Trained;
use crate::task::logits;

/// Write the most probable classes of images as CSV
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-classify predict --run runs/derived photo.jpg holidays/ --out predictions.csv
  nas-classify predict --run runs/derived --split val --out predictions.csv --top 1")]
pub struct PredictArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Where and how to compute
    #[command(flatten)]
    compute: ComputeArgs,
    /// Image files, or folders of them
    #[arg(value_name = "IMAGE", conflicts_with = "split", required_unless_present = "split")]
    images: Vec<PathBuf>,
    /// train, val or test: the images of a split of the run's data set
    #[arg(long, value_name = "SPLIT")]
    split: Option<Split>,
    /// Classes per image
    #[arg(long, default_value_t = 5, value_name = "K", value_parser = count(1, 65_536))]
    top: usize,
    /// File to write
    #[arg(long, value_name = "FILE.csv")]
    out: PathBuf,
    /// How to print the summary
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct PredictReport {
    images: usize,
    file: PathBuf,
    predictions: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    image: String,
    /// Most probable first.
    classes: Vec<(String, f64)>,
}

impl fmt::Display for PredictReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const SHOWN: usize = 10;
        for Prediction { image, classes } in self.predictions.iter().take(SHOWN) {
            let classes: Vec<String> = classes.iter().map(|(name, p)| format!("{name} {:.1} %", 100.0 * p)).collect();
            writeln!(f, "{image}: {}", classes.join(", "))?;
        }
        write!(f, "predictions of {} images in {}", self.images, self.file.display())
    }
}

/// Image files of unknown class.
struct Files {
    paths: Vec<PathBuf>,
    classes: Vec<String>,
}

impl ClassifyDataset for Files {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn name(&self, i: usize) -> Cow<'_, str> {
        self.paths[i].to_string_lossy()
    }

    fn image(&self, i: usize) -> Result<RgbImage, DataError> {
        read_image(&self.paths[i])
    }

    fn label(&self, _i: usize) -> usize {
        0 // nobody asks
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

/// Runs the command.
pub fn run(args: &PredictArgs) -> Result<()> {
    let trained = Trained::open(&args.network, args.compute.resolve()?)?;
    let dataset: Arc<dyn ClassifyDataset> = match args.split {
        Some(split) => {
            let dataset = trained.experiment.data.open(split)?;
            trained.require_classes(&*dataset)?;
            dataset
        }
        None => Arc::new(Files { paths: image_files(&args.images)?, classes: trained.classes.clone() }),
    };
    let top = args.top.min(trained.classes.len());
    let mut progress = Progress::new("predict", dataset.len(), 0, None)?;
    let mut predictions = Vec::new();
    for batch in eval_batches(dataset.clone(), trained.transform.clone(), &trained.loader())? {
        let batch = batch?;
        let probabilities = tch::no_grad(|| logits(trained.pass(), &batch.images, Mode::EVAL)).softmax(1, Kind::Double);
        let (values, order) = probabilities.topk(top as i64, 1, true, true);
        for (row, index) in batch.indices.into_iter().enumerate() {
            let class = |k: usize| {
                let at = [row as i64, k as i64];
                (trained.classes[order.int64_value(&at) as usize].clone(), values.double_value(&at))
            };
            let image = dataset.name(index).into_owned();
            predictions.push(Prediction { image, classes: (0..top).map(class).collect() });
            progress.step(|| "images".into());
        }
    }
    drop(progress);
    write_atomic(&args.out, &csv_of(&predictions, top)?)?;
    print(&PredictReport { images: predictions.len(), file: args.out.clone(), predictions }, args.format)
}

fn csv_of(predictions: &[Prediction], top: usize) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let columns = (1..=top).flat_map(|k| [format!("class_{k}"), format!("probability_{k}")]);
    csv.write_record(std::iter::once("image".to_string()).chain(columns))?;
    for Prediction { image, classes } in predictions {
        let cells = classes.iter().flat_map(|(name, p)| [name.clone(), format!("{p:.6}")]);
        csv.write_record(std::iter::once(image.clone()).chain(cells))?;
    }
    csv.into_inner().map_err(|error| error.into_error().into())
}

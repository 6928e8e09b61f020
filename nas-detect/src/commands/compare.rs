//! `nas-detect compare`: several models, one recipe, several seeds; a table and pictures.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use nas_core::nn::Cost;
use nas_core::nn::channels_last;
use nas_core::run::cli::Compute;
use nas_core::run::config::to_toml;
use nas_core::run::picture::{side_by_side, write_png};
use nas_core::run::run_dir::RunDir;
use nas_core::task::commands::compare::{self, CompareArgs, CompareTask, images_per_sec};
use nas_datasets::Split;
use nas_datasets::Subset;
use nas_datasets::det::DetDataset;
use tch::{Kind, Tensor};

use super::eval::Trained;
use super::predict::marked;
use super::require_sound;
use crate::backbone::total;
use crate::evaluation::{Found, Reading, evaluate};
use crate::experiment::{self, CompareExperiment};
use crate::picture::{Marked, draw};

/// Runs the command.
pub fn run(args: &CompareArgs) -> Result<()> {
    let experiment: CompareExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    experiment.train.check("train")?;
    compare::run(args, &experiment)
}

impl CompareTask for CompareExperiment {
    const METRICS: &'static [(&'static str, &'static str)] = &[("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75")];

    fn seeds(&self) -> &[u64] {
        &self.seeds
    }

    fn models(&self) -> Vec<&str> {
        self.models.iter().map(|model| model.name.as_str()).collect()
    }

    fn training(&self, model: usize, seed: u64) -> Result<String> {
        let training = self.training_of(model, seed);
        training.check()?;
        Ok(to_toml(&training))
    }

    fn check_data(&self) -> Result<()> {
        require_sound(&self.data)
    }

    /// Speed is that of the forward pass and of turning it into boxes.
    fn measure(&self, model: usize, weights: &Path, compute: Compute) -> Result<(Cost, f64)> {
        let trained = self.trained(model, weights, compute)?;
        let (h, w) = self.image_size(compute)?;
        let image = channels_last(&Tensor::zeros([1, 3, h, w], (Kind::Float, compute.device)));
        let speed = images_per_sec(|| _ = tch::autocast(compute.amp, || trained.net.detect(&image)));
        Ok((total(&trained.net.cost_parts((h, w)).concat()), speed))
    }

    fn footnote(&self) -> Result<String> {
        let (h, w) = self.image_size(Compute { device: tch::Device::Cpu, threads: 1, amp: false })?;
        Ok(format!("multiply-adds and images/s (batch 1, boxes included) at {h}x{w}"))
    }

    /// One sheet per validation image: ground truth, then every model in the order of the table.
    fn draw(&self, dir: &RunDir, weights: &[PathBuf], compute: Compute) -> Result<()> {
        let val = self.data.open(Split::Val)?;
        let count = self.pictures.min(val.len());
        let indices = (0..count).map(|i| i * val.len() / count).collect();
        let shown: Arc<dyn DetDataset> = Arc::new(Subset::new(val, indices));
        let mut found: Vec<Vec<Vec<Found>>> = Vec::new();
        for (i, weights) in weights.iter().enumerate() {
            let Trained { net, reading, .. } = &self.trained(i, weights, compute)?;
            let mut of_model = Vec::new();
            evaluate(&|images| net.detect(images), &shown, reading, compute, |_, found| {
                of_model.push(found.to_vec());
                Ok(())
            })?;
            found.push(of_model);
        }
        let classes = shown.classes();
        for i in 0..shown.len() {
            let sample = shown.load(i)?;
            let truth = sample.objects.iter().map(|object| Marked {
                bbox: object.bbox,
                class: object.class,
                text: classes.names()[object.class].clone(),
            });
            let truth = draw(&sample.image, &truth.collect::<Vec<_>>());
            let of_models = found.iter().map(|found| draw(&sample.image, &marked(&found[i], classes, self.min_score)));
            let sheet: Vec<_> = std::iter::once(truth).chain(of_models).collect();
            write_png(&dir.path(&format!("pictures/{}.png", shown.name(i))), &side_by_side(&sheet))?;
        }
        Ok(())
    }
}

impl CompareExperiment {
    fn trained(&self, model: usize, weights: &Path, compute: Compute) -> Result<Trained> {
        let num_classes = self.data.open(Split::Val)?.classes().len();
        Trained::load(&self.training_of(model, self.seeds[0]), num_classes, weights, compute)
    }

    /// Height and width of the first validation image as networks see it.
    fn image_size(&self, compute: Compute) -> Result<(i64, i64)> {
        let reading = Reading::new(&self.augment, &self.loader, &self.eval, compute);
        reading.image_size(&self.data.open(Split::Val)?)
    }
}

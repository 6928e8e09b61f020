//! `nas-classify compare`: several models, one recipe, several seeds; a table.

use std::path::Path;

use anyhow::Result;
use nas_core::nn::Cost;
use nas_core::nn::Shape;
use nas_core::run::cli::Compute;
use nas_core::run::config::to_toml;
use nas_core::task::commands::compare::{self, CompareArgs, CompareTask, images_per_sec};
use nas_datasets::Split;
use tch::{Kind, Tensor};

use super::eval::Trained;
use super::require_sound;
use crate::evaluation::logits;
use crate::train_experiment::{self, CompareExperiment};

/// Runs the command.
pub fn run(args: &CompareArgs) -> Result<()> {
    let experiment: CompareExperiment = train_experiment::load(&args.run.config, &args.run.sets)?;
    compare::run(args, &experiment)
}

impl CompareTask for CompareExperiment {
    const METRICS: &'static [(&'static str, &'static str)] = &[("top1", "top-1"), ("top5", "top-5")];

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
        require_sound(&*self.data.open(Split::Train)?, "train")?;
        require_sound(&*self.data.open(Split::Val)?, "val")
    }

    fn measure(&self, model: usize, weights: &Path, compute: Compute) -> Result<(Cost, f64)> {
        let trained = Trained::load(self.training_of(model, self.seeds[0]), weights, compute)?;
        let (h, w) = self.image_size();
        let image = Tensor::zeros([1, 3, h, w], (Kind::Float, compute.device));
        // Reading a value waits for the device.
        let forward = || _ = logits(&*trained.net, &image, compute).double_value(&[0, 0]);
        Ok((trained.net.cost(Shape::new(3, h, w)), images_per_sec(forward)))
    }

    fn footnote(&self) -> Result<String> {
        let (h, w) = self.image_size();
        Ok(format!("multiply-adds and images/s (batch 1) at {h}x{w}"))
    }
}

impl CompareExperiment {
    fn image_size(&self) -> (i64, i64) {
        (self.augment.size.height().into(), self.augment.size.width().into())
    }
}

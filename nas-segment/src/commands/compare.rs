//! `nas-segment compare`: several models, one recipe, several seeds; a table and pictures.

use std::path::{Path, PathBuf};

use anyhow::Result;
use image::GrayImage;
use nas_core::nn::Cost;
use nas_core::nn::{Mode, channels_last};
use nas_core::run::cli::Compute;
use nas_core::run::config::to_toml;
use nas_core::run::picture::{side_by_side, write_png};
use nas_core::run::run_dir::RunDir;
use nas_core::task::commands::compare::{self, CompareArgs, CompareTask, images_per_sec};
use nas_datasets::{EvalTransform, Split, eval_samples};
use tch::{Kind, Tensor, no_grad};

use super::eval::Trained;
use super::require_sound;
use crate::evaluation::predict;
use crate::experiment::{self, CompareExperiment};
use crate::picture::overlay;

/// Runs the command.
pub fn run(args: &CompareArgs) -> Result<()> {
    let experiment: CompareExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    compare::run(args, &experiment)
}

impl CompareTask for CompareExperiment {
    const METRICS: &'static [(&'static str, &'static str)] = &[("miou", "mIOU")];

    fn seeds(&self) -> &[u64] {
        &self.seeds
    }

    fn models(&self) -> Vec<&str> {
        self.models.iter().map(|model| model.name.as_str()).collect()
    }

    fn training(&self, model: usize, seed: u64) -> Result<String> {
        Ok(to_toml(&self.training_of(model, seed)))
    }

    fn check_data(&self) -> Result<()> {
        require_sound(&*self.data.open(Split::Train)?, "train")?;
        require_sound(&*self.data.open(Split::Val)?, "val")
    }

    fn measure(&self, model: usize, weights: &Path, compute: Compute) -> Result<(Cost, f64)> {
        let trained = self.trained(model, weights, compute)?;
        let (h, w) = self.image_size()?;
        let image = channels_last(&Tensor::zeros([1, 3, h, w], (Kind::Float, compute.device)));
        let forward = || {
            let logits = tch::autocast(compute.amp, || trained.net.forward(&image, Mode::EVAL));
            // Reading a value waits for the device.
            logits.double_value(&[0, 0, 0, 0]);
        };
        Ok((trained.net.cost((h, w)), no_grad(|| images_per_sec(forward))))
    }

    fn footnote(&self) -> Result<String> {
        let (h, w) = self.image_size()?;
        Ok(format!("multiply-adds and images/s (batch 1) at {h}x{w}"))
    }

    /// One sheet per validation image: photo, ground truth, then every model in the order of the table.
    fn draw(&self, dir: &RunDir, weights: &[PathBuf], compute: Compute) -> Result<()> {
        let val = self.data.open(Split::Val)?;
        let models = weights.iter().enumerate().map(|(i, weights)| self.trained(i, weights, compute));
        let models: Vec<Trained> = models.collect::<Result<_>>()?;
        let transform = EvalTransform::like(&self.augment, self.eval.resize);
        let step = (val.len() / self.pictures.max(1)).max(1);
        for sample in eval_samples(val.clone(), transform, compute.threads, 1) {
            let sample = sample?;
            if sample.index % step != 0 || sample.index / step >= self.pictures {
                continue;
            }
            let photo = val.load(sample.index)?.image;
            let truth = sample.label.map(|label| overlay(&photo, &label, val.classes()));
            let (h, w) = sample.size;
            let predictions = models.iter().map(|trained| {
                let net = |xs: &Tensor, mode: Mode| trained.net.forward(xs, mode);
                let ids = predict(&net, &sample.image, (h.into(), w.into()), &trained.eval, compute);
                overlay(&photo, &GrayImage::from_raw(w, h, ids).expect("one id per pixel"), val.classes())
            });
            let sheet: Vec<_> = [Some(photo.clone()), truth].into_iter().flatten().chain(predictions).collect();
            write_png(&dir.path(&format!("pictures/{}.png", val.name(sample.index))), &side_by_side(&sheet))?;
        }
        Ok(())
    }
}

impl CompareExperiment {
    fn trained(&self, model: usize, weights: &Path, compute: Compute) -> Result<Trained> {
        Trained::load(self.training_of(model, self.seeds[0]), self.data.open(Split::Val)?, weights, compute)
    }

    /// Height and width that networks see in validation.
    fn image_size(&self) -> Result<(i64, i64)> {
        let (h, w) = match self.eval.resize {
            Some(size) => (size.height(), size.width()),
            None => {
                let image = self.data.open(Split::Val)?.load(0)?.image;
                (image.height(), image.width())
            }
        };
        Ok((h.into(), w.into()))
    }
}

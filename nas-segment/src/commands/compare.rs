//! `nas-segment compare`: several models, one recipe, several seeds; a table and pictures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use image::GrayImage;
use nas_core::cli::{Compute, Format, RunArgs, open_run, print};
use nas_core::compare::{Children, Training, run_folder};
use nas_core::config::to_toml;
use nas_core::nn::{Mode, channels_last};
use nas_core::run_dir::{RunDir, pretty, read_result, write_atomic};
use nas_datasets::{EvalTransform, SegDataset, Split, eval_samples};
use tch::{Kind, Tensor, no_grad};

use super::eval::Trained;
use super::train::TrainResult;
use super::{require_sound, write_png};
use crate::evaluation::predict;
use crate::experiment::{self, CompareExperiment, NamedModel};
use crate::picture::{overlay, side_by_side};
use crate::table::{Comparison, Row};

/// Train several models by one recipe on several seeds and compare them
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-segment compare --config configs/segment/camvid_compare.toml --set data.root=../shared/data/camvid \\
      --out runs/camvid --resume")]
pub struct CompareArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Trainings side by side [default: one per core on the CPU, 1 on CUDA]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How to print the table
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs the command.
pub fn run(args: &CompareArgs) -> Result<()> {
    let experiment: CompareExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    let compute = args.run.compute.resolve()?;
    let trainings = experiment.models.len() * experiment.seeds.len();
    if trainings == 0 {
        bail!("{}: `models` and `seeds` must not be empty", args.run.config.display());
    }
    let dir = open_run(&args.run, None, &experiment, compute)?;
    let comparison = match dir.result()? {
        Some(comparison) => comparison,
        None => {
            let default = if compute.device.is_cuda() { 1 } else { compute.threads };
            let workers = args.workers.unwrap_or(default).clamp(1, trainings);
            let threads = (compute.threads / workers).max(1);
            compare(&dir, &experiment, &Children { compute: &args.run.compute, threads, workers }, compute)?
        }
    };
    print(&comparison, args.format)
}

fn compare(dir: &RunDir, experiment: &CompareExperiment, children: &Children, compute: Compute) -> Result<Comparison> {
    require_sound(&*experiment.data.open(Split::Train)?, "train")?;
    let val = experiment.data.open(Split::Val)?;
    require_sound(&*val, "val")?;
    let mut trainings = Vec::new();
    for seed in &experiment.seeds {
        let training = |model: &NamedModel| Training {
            name: run_name(model, *seed),
            config: to_toml(&experiment.training(model, *seed)),
        };
        trainings.extend(experiment.models.iter().map(training));
    }
    children.train_all(dir, trainings, |result| {
        let number = |value: &serde_json::Value| value.as_f64().unwrap_or(f64::NAN);
        format!("mIOU {:.4} in {:.0} s", number(&result["scores"]["miou"]), number(&result["train_secs"]))
    })?;
    let rows = experiment.models.iter().map(|model| row(dir, experiment, model, compute));
    let comparison = Comparison {
        eval_size: image_size(experiment, &*val)?,
        rows: rows.collect::<Result<_>>()?,
        run: dir.root().display().to_string(),
    };
    draw(dir, experiment, &val, compute)?;
    write_atomic(&dir.path("table.txt"), format!("{comparison}\n").as_bytes())?;
    write_atomic(&dir.path("table.md"), comparison.markdown().as_bytes())?;
    write_atomic(&dir.path("table.json"), pretty(&comparison).as_bytes())?;
    dir.finish(&comparison)?;
    Ok(comparison)
}

fn run_name(model: &NamedModel, seed: u64) -> String {
    format!("{}-s{seed}", model.name)
}

fn row(dir: &RunDir, experiment: &CompareExperiment, model: &NamedModel, compute: Compute) -> Result<Row> {
    let results = experiment.seeds.iter().map(|seed| {
        let folder = run_folder(dir, &run_name(model, *seed));
        let result: Option<TrainResult> = read_result(&folder)?;
        result.with_context(|| format!("{}: no result", folder.display()))
    });
    let results: Vec<TrainResult> = results.collect::<Result<_>>()?;
    let val = experiment.data.open(Split::Val)?;
    let (h, w) = image_size(experiment, &*val)?;
    let trained = load_trained(dir, experiment, model, compute)?;
    Ok(Row {
        name: model.name.clone(),
        mious: results.iter().map(|result| result.scores.miou).collect(),
        cost: trained.net.cost((i64::from(h), i64::from(w))),
        images_per_sec: inference_speed(&trained, (i64::from(h), i64::from(w)), compute),
        train_secs: results.iter().map(|result| result.train_secs).sum::<f64>() / results.len() as f64,
    })
}

/// The network of the first seed.
fn load_trained(dir: &RunDir, experiment: &CompareExperiment, model: &NamedModel, compute: Compute) -> Result<Trained> {
    let seed = experiment.seeds[0];
    let weights = run_folder(dir, &run_name(model, seed)).join("checkpoints/last.safetensors");
    Trained::load(experiment.training(model, seed), experiment.data.open(Split::Val)?, &weights, compute)
}

/// Height and width that networks see in validation.
fn image_size(experiment: &CompareExperiment, val: &dyn SegDataset) -> Result<(u32, u32)> {
    match experiment.eval.resize {
        Some(size) => Ok((size.height(), size.width())),
        None => val.load(0).map(|sample| (sample.image.height(), sample.image.width())).map_err(Into::into),
    }
}

/// Images per second of the forward pass at batch 1, after a warm-up.
fn inference_speed(trained: &Trained, (h, w): (i64, i64), compute: Compute) -> f64 {
    let image = channels_last(&Tensor::zeros([1, 3, h, w], (Kind::Float, compute.device)));
    let forward = || {
        let logits = tch::autocast(compute.amp, || trained.net.forward(&image, Mode::EVAL));
        // Reading a value waits for the device.
        logits.double_value(&[0, 0, 0, 0])
    };
    no_grad(|| {
        (0..3).for_each(|_| _ = forward());
        let started = Instant::now();
        let mut images = 0;
        while images < 10 || started.elapsed() < Duration::from_secs(1) {
            forward();
            images += 1;
        }
        f64::from(images) / started.elapsed().as_secs_f64()
    })
}

/// One sheet per validation image: photo, ground truth, then every model in the order of the table.
fn draw(dir: &RunDir, experiment: &CompareExperiment, val: &Arc<dyn SegDataset>, compute: Compute) -> Result<()> {
    let models = experiment.models.iter().map(|model| load_trained(dir, experiment, model, compute));
    let models: Vec<Trained> = models.collect::<Result<_>>()?;
    let transform = EvalTransform::like(&experiment.augment, experiment.eval.resize);
    let step = (val.len() / experiment.pictures.max(1)).max(1);
    for sample in eval_samples(val.clone(), transform, compute.threads, 1) {
        let sample = sample?;
        if sample.index % step != 0 || sample.index / step >= experiment.pictures {
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

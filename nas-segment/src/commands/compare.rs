//! `nas-segment compare`: several models, one recipe, several seeds; a table and pictures.
//!
//! Every training is a child process with a run folder of its own (`nas-segment train`), so that trainings can run side by
//! side, be killed and go on, and give the same result whatever runs beside them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use image::GrayImage;
use nas_core::cli::{Compute, Format, RunArgs, open_run, print};
use nas_core::config::to_toml;
use nas_core::interrupt::{self, Interrupted};
use nas_core::nn::{Mode, channels_last};
use nas_core::progress::Progress;
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
            let children = Children { args, threads: (compute.threads / workers).max(1), workers };
            compare(&dir, &experiment, children, compute)?
        }
    };
    print(&comparison, args.format)
}

fn compare(dir: &RunDir, experiment: &CompareExperiment, children: Children, compute: Compute) -> Result<Comparison> {
    require_sound(&*experiment.data.open(Split::Train)?, "train")?;
    let val = experiment.data.open(Split::Val)?;
    require_sound(&*val, "val")?;
    children.train_all(dir, experiment)?;
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

/// The child processes of a comparison.
#[derive(Clone, Copy)]
struct Children<'a> {
    args: &'a CompareArgs,
    threads: usize,
    workers: usize,
}

/// A training in progress.
struct Running {
    name: String,
    child: Child,
}

impl Children<'_> {
    fn train_all(&self, dir: &RunDir, experiment: &CompareExperiment) -> Result<()> {
        let mut waiting = VecDeque::new();
        for seed in &experiment.seeds {
            for model in &experiment.models {
                let name = run_name(model, *seed);
                let config = dir.path(&format!("configs/{name}.toml"));
                fs::create_dir_all(dir.path("configs"))?;
                write_atomic(&config, to_toml(&experiment.training(model, *seed)).as_bytes())?;
                waiting.push_back((name, config));
            }
        }
        let mut progress = Progress::new("compare", waiting.len(), 0, Some(&dir.path("run.log")))?;
        let mut running = Vec::new();
        let outcome = self.drive(dir, &mut waiting, &mut running, &mut progress);
        if outcome.is_err() {
            stop(&mut running);
        }
        outcome
    }

    fn drive(
        &self,
        dir: &RunDir,
        waiting: &mut VecDeque<(String, PathBuf)>,
        running: &mut Vec<Running>,
        progress: &mut Progress,
    ) -> Result<()> {
        while !(waiting.is_empty() && running.is_empty()) {
            while running.len() < self.workers
                && let Some((name, config)) = waiting.pop_front()
            {
                running.push(Running { child: self.spawn(dir, &name, &config)?, name });
            }
            sleep(Duration::from_millis(200));
            if interrupt::requested() {
                return Err(Interrupted.into());
            }
            let mut i = 0;
            while i < running.len() {
                let Some(status) = running[i].child.try_wait()? else {
                    i += 1;
                    continue;
                };
                let Running { name, .. } = running.swap_remove(i);
                let folder = dir.path(&format!("runs/{name}"));
                if !status.success() {
                    bail!("the training {name} failed ({status}); its output is in {}", log_path(dir, &name).display());
                }
                let result: Option<TrainResult> = read_result(&folder)?;
                let result = result.with_context(|| format!("{}: no result", folder.display()))?;
                progress.line(format!("{name}: mIOU {:.4} in {:.0} s", result.scores.miou, result.train_secs));
                progress.step(|| "trainings".into());
            }
        }
        Ok(())
    }

    fn spawn(&self, dir: &RunDir, name: &str, config: &Path) -> Result<Child> {
        fs::create_dir_all(dir.path("logs"))?;
        let log = File::options().create(true).append(true).open(log_path(dir, name))?;
        let compute = &self.args.run.compute;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["train", "--resume", "--format", "json", "--config"]).arg(config);
        command.arg("--out").arg(dir.path(&format!("runs/{name}")));
        command.args(["--device", &compute.device.to_string(), "--threads", &self.threads.to_string()]);
        command.args(compute.amp.then_some("--amp"));
        command.env("OMP_WAIT_POLICY", "passive").stdout(Stdio::null()).stderr(log).stdin(Stdio::null());
        command.spawn().with_context(|| format!("cannot start the training {name}"))
    }
}

fn log_path(dir: &RunDir, name: &str) -> PathBuf {
    dir.path(&format!("logs/{name}.log"))
}

/// Asks children to save and stop, and waits until they have.
fn stop(running: &mut [Running]) {
    for Running { child, .. } in running.iter() {
        // SAFETY: kill(2) with the id of a child that has not been waited for; at worst it has ended.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    }
    // A child that cannot be waited for is gone; there is nothing left to do about it.
    running.iter_mut().for_each(|Running { child, .. }| _ = child.wait());
}

fn row(dir: &RunDir, experiment: &CompareExperiment, model: &NamedModel, compute: Compute) -> Result<Row> {
    let results = experiment.seeds.iter().map(|seed| {
        let folder = dir.path(&format!("runs/{}", run_name(model, *seed)));
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
    let weights = dir.path(&format!("runs/{}/checkpoints/last.safetensors", run_name(model, seed)));
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

//! The samples that a trained network does worst and best on.

use std::path::Path;

use anyhow::{Context, Result};
use image::DynamicImage;
use image::imageops::FilterType;
use nas_datasets::{SampleSet, Split, require_same_classes};

use super::pages::Picture;
use crate::run::cli::Compute;
use crate::run::picture::encode_png;
use crate::run::progress::Progress;
use crate::run::run_dir::read_classes;
use crate::task::commands::trained::weights_of;
use crate::task::experiment::{self, TrainExperiment};
use crate::task::supervised::trained_network;
use crate::task::{Pass, Task};

/// Width of a picture on the page, at most.
const WIDTH: u32 = 1200;

/// Pictures of the `count` worst and the `count` best samples of what a training was validated on, fewer where there are not so many.
pub fn worst_and_best<T: Task>(run: &Path, sets: &[String], count: usize, compute: Compute) -> Result<Vec<Picture>> {
    let experiment: TrainExperiment<T> = experiment::load(&run.join("config.toml"), sets)?;
    let setting = experiment.setting();
    let set = match experiment.held_out {
        None => setting.open_sound(Split::Val)?,
        Some(held_out) => setting.open_parts_sound(held_out, experiment.seed)?.1,
    };
    require_same_classes("the run", &read_classes(run)?, "the data", &T::classes(&set))
        .with_context(|| run.display().to_string())?;
    let (_weights, net) =
        trained_network::<T>(&experiment.model, T::classes(&set).len(), &weights_of(run, None), compute)?;
    let pass = Pass::<T> { net: &net, mixture: None, compute };
    let mut progress = Progress::new("samples", set.len(), 0, None)?;
    let mut judged = Vec::new();
    for index in 0..set.len() {
        judged.extend(T::judge(pass, &setting, &set, index)?.map(|(score, said)| (index, score, said)));
        progress.step(|| "images".into());
    }
    drop(progress);
    judged.sort_by(|a, b| a.1.total_cmp(&b.1));
    let ends = count.min(judged.len() / 2);
    let (worst, best) = (&judged[..ends], &judged[judged.len() - ends..]);
    let all = worst.iter().map(|sample| ("worst", sample)).chain(best.iter().rev().map(|sample| ("best", sample)));
    let picture = |(place, (index, _, said)): (&str, &(usize, f64, String))| {
        let sheet = T::sheet(&[pass], &setting, &set, *index)?;
        let mut picture = DynamicImage::from(sheet.map_or_else(|| T::picture(&set, *index), Ok)?);
        if picture.width() > WIDTH {
            picture = picture.resize(WIDTH, u32::MAX, FilterType::Triangle);
        }
        Ok(Picture::new(format!("{place}: {}, {said}", set.sample_name(*index)), &encode_png(&picture.to_rgb8())?))
    };
    all.map(picture).collect()
}

//! Trained weights as the start of another training.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nas_core::optim::Named;
use nas_core::run::config;
use nas_core::train::{all_variables, copy_into, read_tensors};
use tch::Tensor;
use tch::nn::VarStore;

use crate::backbone::BackboneConfig;
use crate::detnas::path_weights;

/// Copies a trained backbone, or a supernet in its place, into a detector: every variable below `backbone` by its name. An
/// error names the first that has no counterpart of its shape, so that nothing is left untrained in silence.
pub fn inherit_backbone(trained: &HashMap<String, Tensor>, to: &VarStore) -> Result<()> {
    let mut wanted = all_variables(to);
    wanted.retain(|(name, _)| name.starts_with("backbone."));
    copy_into(&wanted, trained)
}

/// Copies the weights of a run into a detector with `backbone`: those of a training, or those of the backbone's path through
/// the supernet of a search. A class predictor for another number of classes keeps its initial weights; whatever else has
/// no counterpart of its shape is an error that names it. Returns what was left out.
pub fn inherit_run(run: &Path, backbone: &BackboneConfig, to: &VarStore) -> Result<Vec<String>> {
    let place = || format!("train.init = {:?}", run.display().to_string());
    ensure!(run.join("result.json").exists(), "{}: no run that has ended (result.json is missing)", place());
    let mut trained = read_tensors(&run.join("checkpoints/last.safetensors")).with_context(place)?;
    if config::read_table(&run.join("config.toml"), &[])?.contains_key("supernet") {
        let BackboneConfig::Detnas(config) = backbone else {
            anyhow::bail!("{}: the run of a search serves model.backbone.kind = \"detnas\" alone", place());
        };
        trained = path_weights(&trained, &config.arch()?, "backbone");
    }
    let is_class_predictor = |(name, tensor): &Named| {
        name.starts_with("head.logits.") && trained.get(name).is_some_and(|trained| trained.size() != tensor.size())
    };
    let (left_out, wanted): (Vec<Named>, Vec<Named>) = all_variables(to).into_iter().partition(is_class_predictor);
    copy_into(&wanted, &trained).with_context(|| format!("{}: other network", place()))?;
    Ok(left_out.into_iter().map(|(name, _)| name).collect())
}

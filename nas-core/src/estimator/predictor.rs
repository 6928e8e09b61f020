//! Predictors: a value for every architecture of a space, learned from those that were evaluated.
//!
//! All learn the normal scores of the values, so that a few architectures that fail to train do not decide the fit: what
//! they predict is a rank, not an accuracy. White et al. 2021 (arXiv 2104.01177) compare their kinds.

use anyhow::{Result, ensure};
use forust_ml::objective::ObjectiveType;
use forust_ml::{GradientBooster, Matrix};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::graf::{Graf, Scale};
use crate::space::Architecture;
use crate::space::ChoiceSpace;
use crate::stats::normal_scores;
use crate::strategy::BananasConfig;
use crate::strategy::bananas::Encoding;
use crate::strategy::gaussian_process::Surrogate;
use crate::strategy::mlp::Mlp;

/// The section `[predictor]`'s kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PredictorConfig {
    /// The mean of several small networks on the path encoding, as in BANANAS (arXiv 1910.11858).
    MlpEnsemble {
        /// Networks.
        #[serde(default = "default_networks")]
        networks: usize,
        /// What they see.
        #[serde(default)]
        features: Features,
    },
    /// The mean of a Gaussian process, its kernel that of the strategy `gaussian_process`: Weisfeiler-Lehman on graphs
    /// (arXiv 2006.07556), Hamming where the space has none.
    GaussianProcess {},
    /// Gradient-boosted regression trees on choices and path encoding.
    GradientBoostedTrees {
        /// Trees.
        #[serde(default = "default_trees")]
        trees: usize,
        /// Depth of a tree.
        #[serde(default = "default_depth")]
        max_depth: usize,
        /// Shrinkage of a tree's contribution.
        #[serde(default = "default_learning_rate")]
        learning_rate: f32,
        /// What they see.
        #[serde(default)]
        features: Features,
    },
}

/// What a predictor sees of an architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// Its choices and paths, each a column.
    #[default]
    OneHot,
    /// Counts, ways and degrees of sets of operators, see [`Graf`].
    Graf,
    /// Both.
    Both,
}

fn default_networks() -> usize {
    5
}

fn default_trees() -> usize {
    200
}

fn default_depth() -> usize {
    4
}

fn default_learning_rate() -> f32 {
    0.1
}

/// Longest path encoding.
const MAX_PATHS: usize = 500;

/// A fitted predictor.
pub struct Predictor(Model);

enum Model {
    Networks(Inputs, Vec<Mlp>),
    Process(Box<Surrogate>),
    Trees(Inputs, Box<GradientBooster>),
}

impl Predictor {
    /// Learns from architectures and their values, larger is better. Fewer than two of them are an error.
    pub fn fit(
        config: &PredictorConfig,
        space: &dyn ChoiceSpace,
        evaluated: &[(Architecture, f64)],
        rng: &mut ChaCha8Rng,
    ) -> Result<Self> {
        ensure!(
            evaluated.len() >= 2,
            "{} evaluated architectures; a predictor learns from two or more",
            evaluated.len()
        );
        let archs: Vec<Architecture> = evaluated.iter().map(|(arch, _)| arch.clone()).collect();
        let scores = normal_scores(&evaluated.iter().map(|(_, value)| *value).collect::<Vec<_>>());
        let references: Vec<&Architecture> = archs.iter().collect();
        let model = match config {
            PredictorConfig::MlpEnsemble { networks, features } => {
                ensure!(*networks > 0, "predictor.networks = 0; expected at least 1");
                let inputs = Inputs::new(*features, space, &references);
                let rows: Vec<Vec<f32>> = archs.iter().map(|arch| inputs.of_network(space, arch)).collect();
                let targets: Vec<f32> = scores.iter().map(|score| *score as f32).collect();
                let config = BananasConfig::default().mlp();
                Model::Networks(inputs, (0..*networks).map(|_| Mlp::fit(config, &rows, &targets, rng)).collect())
            }
            PredictorConfig::GaussianProcess {} => Model::Process(Box::new(Surrogate::of_values(space, evaluated))),
            PredictorConfig::GradientBoostedTrees { trees, max_depth, learning_rate, features } => {
                ensure!(*trees > 0, "predictor.trees = 0; expected at least 1");
                ensure!((1..=16).contains(max_depth), "predictor.max_depth = {max_depth}; expected 1 to 16");
                ensure!(
                    *learning_rate > 0.0 && *learning_rate <= 1.0,
                    "predictor.learning_rate = {learning_rate}; expected a number above 0 and up to 1"
                );
                let inputs = Inputs::new(*features, space, &references);
                let rows: Vec<Vec<f64>> = archs.iter().map(|arch| inputs.of_tree(space, arch)).collect();
                let mut booster = GradientBooster::default()
                    .set_objective_type(ObjectiveType::SquaredLoss)
                    .set_iterations(*trees)
                    .set_max_depth(*max_depth)
                    .set_learning_rate(*learning_rate)
                    .set_min_leaf_weight(1.0)
                    .set_parallel(false);
                booster.fit_unweighted(&Matrix::new(&by_column(&rows), rows.len(), rows[0].len()), &scores, None)?;
                Model::Trees(inputs, Box::new(booster))
            }
        };
        Ok(Self(model))
    }

    /// The predicted normal score of `arch`, an architecture of the space that the predictor was fitted on.
    pub fn predict(&self, space: &dyn ChoiceSpace, arch: &Architecture) -> f64 {
        match &self.0 {
            Model::Networks(inputs, networks) => {
                let row = inputs.of_network(space, arch);
                networks.iter().map(|mlp| f64::from(mlp.predict(&row))).sum::<f64>() / networks.len() as f64
            }
            Model::Process(process) => process.mean(space, arch),
            Model::Trees(inputs, booster) => {
                let row = inputs.of_tree(space, arch);
                booster.predict(&Matrix::new(&row, 1, row.len()), false)[0]
            }
        }
    }
}

/// What predictors see of the architectures of a space.
struct Inputs {
    /// Path encoding, where it is asked for.
    paths: Option<Encoding>,
    /// Graph features, where they are asked for, and their scale among the architectures that were learned from.
    graf: Option<(Graf, Scale)>,
}

impl Inputs {
    fn new(features: Features, space: &dyn ChoiceSpace, archs: &[&Architecture]) -> Self {
        let graf = || {
            let graf = Graf::new(space, archs);
            let scale = Scale::of(&archs.iter().map(|arch| graf.of(space, arch)).collect::<Vec<_>>());
            (graf, scale)
        };
        Self {
            paths: (features != Features::Graf).then(|| Encoding::new(space, archs, MAX_PATHS)),
            graf: (features != Features::OneHot).then(graf),
        }
    }

    fn scaled(&self, space: &dyn ChoiceSpace, arch: &Architecture) -> Option<Vec<f64>> {
        self.graf.as_ref().map(|(graf, scale)| scale.apply(&graf.of(space, arch)))
    }

    fn of_network(&self, space: &dyn ChoiceSpace, arch: &Architecture) -> Vec<f32> {
        let paths = self.paths.iter().flat_map(|paths| paths.of(space, arch));
        paths.chain(self.scaled(space, arch).into_iter().flatten().map(|x| x as f32)).collect()
    }

    /// Traits as numbers and path encoding; graph features.
    fn of_tree(&self, space: &dyn ChoiceSpace, arch: &Architecture) -> Vec<f64> {
        let mut row = Vec::new();
        if let Some(paths) = &self.paths {
            row.extend(space.traits(arch).into_iter().map(f64::from));
            row.extend(paths.of(space, arch).into_iter().map(f64::from));
        }
        row.extend(self.graf.iter().flat_map(|(graf, _)| graf.of(space, arch)));
        row
    }
}

fn by_column(rows: &[Vec<f64>]) -> Vec<f64> {
    (0..rows[0].len()).flat_map(|column| rows.iter().map(move |row| row[column])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{Graph, InvalidArchitecture};
    use crate::stats::spearman;
    use nas_datasets::rng::stream;

    /// Six edges of four operators, with or without a graph.
    #[derive(Debug)]
    struct Cells {
        graphs: bool,
    }

    impl ChoiceSpace for Cells {
        fn name(&self) -> &str {
            "cells"
        }

        fn decisions(&self) -> Vec<u16> {
            vec![4; 6]
        }

        fn validate(&self, _: &Architecture) -> Result<(), InvalidArchitecture> {
            Ok(())
        }

        fn graph(&self, arch: &Architecture) -> Option<Graph> {
            let labels = [9].into_iter().chain(arch.choices().iter().copied()).chain([8]).collect();
            self.graphs
                .then(|| Graph { labels, edges: (0..6).flat_map(|i| [(i, i + 1), (i, 7)]).chain([(6, 7)]).collect() })
        }
    }

    /// Operator 2 is good everywhere, operator 0 bad in front.
    fn value(arch: &Architecture) -> f64 {
        let score = |(i, choice): (usize, &u16)| match choice {
            2 => 1.0,
            0 if i < 3 => -1.5,
            _ => 0.0,
        };
        arch.choices().iter().enumerate().map(score).sum()
    }

    #[test]
    fn predictions_rank_architectures_that_were_not_learned_from() {
        let of = |features| {
            let trees =
                PredictorConfig::GradientBoostedTrees { trees: 100, max_depth: 3, learning_rate: 0.1, features };
            [PredictorConfig::MlpEnsemble { networks: 3, features }, PredictorConfig::GaussianProcess {}, trees]
        };
        // Counts and degrees cannot say at which place an operator stands, so they are not asked to do without places.
        let all = [Features::OneHot, Features::Both].map(of).concat();
        for (config, graphs) in all.iter().flat_map(|config| [(config, false), (config, true)]) {
            let space = Cells { graphs };
            let mut rng = stream(0, "predictor", 0);
            let mut draw = |n: usize| -> Vec<Architecture> { (0..n).map(|_| space.sample(&mut rng)).collect() };
            let (learned, others) = (draw(150), draw(100));
            let evaluated: Vec<_> = learned.into_iter().map(|arch| (arch.clone(), value(&arch))).collect();
            let fit = || Predictor::fit(config, &space, &evaluated, &mut stream(0, "predictor", 1)).unwrap();
            let predict = |predictor: &Predictor| -> Vec<f64> {
                others.iter().map(|arch| predictor.predict(&space, arch)).collect()
            };
            let predicted = predict(&fit());
            assert_eq!(predicted, predict(&fit()), "{config:?} learns the same again");
            let truth: Vec<f64> = others.iter().map(value).collect();
            let rho = spearman(&predicted, &truth);
            assert!(rho > 0.7, "{config:?}, graphs {graphs}: {rho}");
        }
    }

    /// Of a value that counts decide, 30 architectures teach more by their counts than by their places.
    #[test]
    fn graph_features_need_few_architectures_where_counts_decide() {
        let space = Cells { graphs: true };
        let mut rng = stream(0, "graf", 0);
        let count = |arch: &Architecture| arch.choices().iter().filter(|choice| **choice == 2).count() as f64;
        let mut draw = |n: usize| -> Vec<Architecture> { (0..n).map(|_| space.sample(&mut rng)).collect() };
        let (learned, others) = (draw(30), draw(200));
        let evaluated: Vec<_> = learned.into_iter().map(|arch| (arch.clone(), count(&arch))).collect();
        let truth: Vec<f64> = others.iter().map(count).collect();
        for kind in ["mlp_ensemble", "gradient_boosted_trees"] {
            let rho = |features: &str| {
                let text = format!("kind = '{kind}'\nfeatures = '{features}'");
                let config: PredictorConfig = toml::from_str(&text).unwrap();
                let predictor = Predictor::fit(&config, &space, &evaluated, &mut stream(0, "graf", 1)).unwrap();
                let predicted: Vec<f64> = others.iter().map(|arch| predictor.predict(&space, arch)).collect();
                spearman(&predicted, &truth)
            };
            let (graf, one_hot) = (rho("graf"), rho("one_hot"));
            assert!(graf > one_hot && graf > 0.7, "{kind}: {graf}, by choices {one_hot}");
        }
    }

    #[test]
    fn too_few_architectures_and_impossible_sizes_are_refused() {
        let space = Cells { graphs: false };
        let fit = |config: &str, n: usize| {
            let evaluated: Vec<_> =
                space.neighbors(&Architecture::new(vec![0; 6])).into_iter().map(|a| (a, 0.5)).collect();
            let config: PredictorConfig = toml::from_str(config).unwrap();
            Predictor::fit(&config, &space, &evaluated[..n], &mut stream(0, "few", 0)).map(drop)
        };
        assert!(fit("kind = 'gaussian_process'", 1).unwrap_err().to_string().contains("1 evaluated"));
        let error = fit("kind = 'gradient_boosted_trees'\nmax_depth = 0", 5).unwrap_err().to_string();
        assert!(error.contains("max_depth = 0"), "{error}");
        fit("kind = 'gradient_boosted_trees'", 5).unwrap();
    }
}

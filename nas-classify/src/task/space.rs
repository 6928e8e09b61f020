//! `[space]` of experiments: what the frame asks of the spaces of classification networks.

use anyhow::{Result, ensure};
use nas_core::nn::VarBuilder;
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::{Architecture, ChoiceSpace, WeightSharing};
use nas_core::task::TaskSpace;

use super::{Classification, Net};
use crate::chain::ChainSpace;
use crate::drawing;
use crate::model::{ModelConfig, NasBench201Model, SearchedModel};
use crate::nasbench201::{NasBench201, NasBench201Nets};
use crate::search_net::{SearchNet, SpaceConfig};

impl TaskSpace<Classification> for SpaceConfig {
    fn choices(&self) -> Result<Box<dyn ChoiceSpace>> {
        Ok(self.build()?)
    }

    fn shared(&self) -> Result<Box<dyn WeightSharing>> {
        self.build()
    }

    /// In the space's own size: `[model]` has no part in it.
    fn derive(&self, model: Option<&ModelConfig>, arch: &Architecture) -> Result<ModelConfig> {
        ensure!(model.is_none(), "model: networks of this space come in the space's own size; leave the section out");
        self.build()?.validate(arch)?;
        match self {
            Self::Nasbench201(NasBench201Nets { channels, cells }) => {
                let (arch, channels, cells) = (arch.clone(), *channels, *cells);
                Ok(ModelConfig::Nasbench201(NasBench201Model { arch, channels, cells, stages: Vec::new() }))
            }
            Self::Cells(space) => Ok(ModelConfig::Cells(space.network(arch)?)),
            Self::Chain(_) | Self::Mobile(_) => {
                let (arch, space) = (arch.clone(), self.clone());
                Ok(ModelConfig::Searched(SearchedModel { arch, space, stages: Vec::new() }))
            }
        }
    }

    fn supernet(
        &self,
        space: &dyn WeightSharing,
        _model: Option<&ModelConfig>,
        vb: &VarBuilder,
        num_classes: usize,
    ) -> Result<Net> {
        Ok(Net::Shared(SearchNet::new(vb, space, num_classes as i64)))
    }

    fn notation(&self, arch: &Architecture) -> Result<String> {
        Ok(match self {
            Self::Nasbench201(_) => NasBench201::notation(arch),
            Self::Cells(space) => space.genotype(arch)?.to_string(),
            Self::Chain(_) | Self::Mobile(_) => arch.to_string(),
        })
    }

    fn parse(&self, notation: &str) -> Result<Architecture> {
        match self {
            Self::Nasbench201(_) if notation.contains('|') => Ok(NasBench201::parse(notation)?),
            _ => Ok(notation.parse()?),
        }
    }

    fn names(&self) -> Result<Vec<Decision>> {
        Ok(match self {
            Self::Nasbench201(_) => NasBench201::names(),
            Self::Cells(space) => space.names(),
            Self::Chain(space) => space.names(),
            Self::Mobile(space) => space.names(),
        })
    }

    fn label(&self, label: u16) -> String {
        match self {
            Self::Nasbench201(_) => NasBench201::label(label).to_string(),
            Self::Cells(space) => space.label(label),
            Self::Chain(_) => ChainSpace::label(label),
            Self::Mobile(_) => label.to_string(),
        }
    }

    fn of_notation(arch: &str) -> Option<Self> {
        arch.trim().starts_with('|').then(|| Self::Nasbench201(NasBench201Nets::default()))
    }

    fn drawing(&self, arch: &Architecture) -> Result<Option<String>> {
        Ok(match self {
            Self::Nasbench201(_) => Some(drawing::nasbench201(arch)),
            Self::Cells(space) => Some(drawing::genotype(&space.genotype(arch)?)),
            Self::Chain(space) => Some(drawing::chain(space, arch)),
            Self::Mobile(space) => Some(drawing::mobile(space, arch)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nas_core::search::analysis::motifs::Motifs;
    use nas_core::search::analysis::vocabulary::Vocabulary;
    use nas_core::search::operators::OperatorTable;
    use nas_core::space::ArchParameter;
    use nas_core::task::commands::analyse::Named;
    use nas_core::task::experiment::OneShotExperiment;
    use nas_core::task::latency::priced_latency;
    use nas_datasets::rng;

    #[test]
    fn every_space_is_drawn_and_names_its_choices_and_the_nodes_of_its_graphs() {
        for kind in [
            "kind = 'nasbench201'",
            "kind = 'cells'\nform = 'darts'",
            "kind = 'cells'\nform = 'enas'",
            "kind = 'chain'\nlayers = 5",
            "kind = 'mobile'",
            "kind = 'mobile'\npreset = 'fbnet'",
        ] {
            let space: SpaceConfig = toml::from_str(kind).unwrap();
            let choices = space.choices().unwrap();
            let counts = |names: Vec<Decision>| names.iter().map(|name| name.choices.len() as u16).collect::<Vec<_>>();
            assert_eq!(counts(space.names().unwrap()), choices.decisions(), "{kind}");
            let arch = choices.sample(&mut rng::stream(0, "test", 0));
            assert!(space.drawing(&arch).unwrap().unwrap().contains("<rect x="), "{kind}");
            if let Some(graph) = choices.graph(&arch) {
                let inner = graph.labels[1..graph.labels.len() - 1].iter().map(|label| space.label(*label));
                assert!(
                    inner.clone().all(|name| name.parse::<u16>().is_err()),
                    "{kind}: {:?}",
                    inner.collect::<Vec<_>>()
                );
            }
        }
    }

    /// Weights of 0 and 1 cost what a table of operators says of the architecture that they stand for.
    #[test]
    fn prices_of_a_table_of_operators_are_those_of_architectures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operators.csv");
        for space in [
            "kind = 'nasbench201'",
            "kind = 'mobile'\npreset = 'fbnet'",
            "kind = 'mobile'\nstages = [{ channels = [16], layers = 3, stride = 2, kernels = [3, 5], expansions = [3, 6], skip = true }]",
        ] {
            let text = format!(
                "kind = 'one_shot'\n[space]\n{space}\n[data]\nkind = 'synth'\nnum_images = 2\nnum_val = 2\nside = 32\n\
                 [latency.predict]\nkind = 'operators'\npath = '{}'\n[one_shot.method]\nkind = 'fbnet'\n\
                 cost = {{ kind = 'linear', lambda = 1.0, reference = 1e3, of = 'latency' }}",
                path.display()
            );
            let experiment: OneShotExperiment<Classification> = toml::from_str(&text).unwrap();
            let names = experiment.space.names().unwrap();
            let rows = names.iter().enumerate().flat_map(|(i, decision)| {
                (0..decision.choices.len()).map(move |j| format!("{i},{j},{}\n", (7 * i + 3 * j + 1) % 11))
            });
            std::fs::write(&path, format!("decision,choice,millis\n,,2\n{}", rows.collect::<String>())).unwrap();
            let table = OperatorTable::read(&path, &names).unwrap();
            let (fixed, prices) = priced_latency(&experiment).unwrap().unwrap();
            let shared = experiment.space.shared().unwrap();
            for seed in 0..20 {
                tch::manual_seed(seed);
                // Of every row the largest random number among the options that exist.
                let one_hot = |parameter: &ArchParameter| {
                    let any = parameter.softmax(&tch::Tensor::randn(&parameter.dims[..], tch::kind::FLOAT_CPU));
                    any.eq_tensor(&any.amax(-1, true)).to_kind(tch::Kind::Float)
                };
                let weights: Vec<tch::Tensor> = shared.arch_parameters().iter().map(one_hot).collect();
                let terms = weights.iter().zip(&prices).map(|(weights, prices)| {
                    (weights.flatten(0, -1) * tch::Tensor::from_slice(prices)).sum(tch::Kind::Double).double_value(&[])
                });
                let (found, arch) = (fixed + terms.sum::<f64>(), shared.discretize(&weights));
                assert!((found - 1e3 * table.cost(&arch).unwrap()).abs() < 1e-6, "{space}: {arch}: {found}");
            }
        }
    }

    #[test]
    fn the_motifs_of_the_resnet_cell() {
        let space = Named::<Classification>::of(SpaceConfig::of_notation("|none~0|").unwrap()).unwrap();
        let resnet = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|";
        let archs = [resnet, "0-0-0-0-0-0", "3-3-0-0-0-0"].map(|text| space.parse(text).unwrap());
        assert_eq!(archs.each_ref().map(|arch| space.is_connected(arch).unwrap()), [true, false, false]);
        let motifs = Motifs::of(&space, &archs.iter().collect::<Vec<_>>());
        for name in [
            "1<-0 nor_conv_3x3",
            "1<-0 nor_conv_3x3 & 2<-1 nor_conv_3x3",
            "at least 2 x skip_connect",
            "no avg_pool_3x3",
            "nor_conv_3x3 > nor_conv_3x3",
            "input > skip_connect > output",
            "skip_connect + skip_connect",
            "skip_connect around nor_conv_3x3 > nor_conv_3x3 > skip_connect",
            "depth of at least 3",
            "at least 2 ways",
        ] {
            // All three have no pool, so that it tells nothing.
            assert_eq!(motifs.get(name).map(|has| has[0]), (name != "no avg_pool_3x3").then_some(true), "{name}");
        }
        assert_eq!(motifs.get("depth of at least 4"), None);
        assert_eq!(motifs.get("2<-0 nor_conv_3x3"), Some([false, false, true].as_slice()));
    }
}

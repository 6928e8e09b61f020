//! What the benchmark calls its decisions and choices.

use anyhow::Result;
use nas_core::search::analysis::vocabulary::{Decision, Vocabulary};
use nas_core::space::{Architecture, ChoiceSpace, Graph};

use super::space::{EDGES, FIRST_OP, NasBench201, OPS};
use crate::drawing;

/// Edges by `child<-parent`, operators by their published names.
impl Vocabulary for NasBench201 {
    fn decisions(&self) -> Vec<Decision> {
        let choices = OPS.map(String::from).to_vec();
        EDGES.iter().map(|(from, to)| Decision { name: format!("{to}<-{from}"), choices: choices.clone() }).collect()
    }

    fn parse(&self, text: &str) -> Result<Architecture> {
        match text.trim().starts_with('|') {
            true => Ok(NasBench201::parse(text)?),
            false => Ok(text.trim().parse()?),
        }
    }

    fn notation(&self, arch: &Architecture) -> String {
        NasBench201::notation(arch)
    }

    fn graph(&self, arch: &Architecture) -> Option<Graph> {
        ChoiceSpace::graph(self, arch)
    }

    fn label(&self, label: u16) -> String {
        OPS[usize::from(label - FIRST_OP)].to_string()
    }

    fn drawing(&self, arch: &Architecture) -> Option<String> {
        Some(drawing::nasbench201(arch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nas_core::search::analysis::motifs::Motifs;

    #[test]
    fn the_motifs_of_the_resnet_cell() {
        let resnet = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|";
        let archs = [resnet, "0-0-0-0-0-0", "3-3-0-0-0-0"].map(|text| Vocabulary::parse(&NasBench201, text).unwrap());
        assert_eq!(archs.each_ref().map(|arch| NasBench201.is_connected(arch).unwrap()), [true, false, false]);
        let motifs = Motifs::of(&NasBench201, &archs.iter().collect::<Vec<_>>());
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

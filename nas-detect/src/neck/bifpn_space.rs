//! A space of BiFPNs: their depth, width, fusions and connections.

use anyhow::Result;
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::Architecture;
use nas_core::space::{ChoiceSpace, InvalidArchitecture};

use super::bifpn::num_nodes;
use super::{BiFpnConfig, BiFpnNode, Fusion, Levels, NodeInputs};

/// Depth (1 to 4 cells), width (32, 64, 96, 128), fusion of every node (fast or sum) and inputs of the bottom-up nodes
/// between the ends.
#[derive(Clone, Debug)]
pub struct BiFpnSpace {
    levels: Levels,
}

const WIDTHS: [i64; 4] = [32, 64, 96, 128];
const MAX_CELLS: u16 = 4;
const FUSIONS: [Fusion; 2] = [Fusion::Fast, Fusion::Sum];
const INPUTS: [NodeInputs; 3] = [NodeInputs::Both, NodeInputs::TopDown, NodeInputs::Input];

impl BiFpnSpace {
    /// The space of necks with these levels.
    pub fn new(levels: Levels) -> Result<Self> {
        levels.check()?;
        Ok(Self { levels })
    }

    /// Names of the decisions and of their choices.
    pub fn names(&self) -> Vec<Decision> {
        let levels = self.levels.count();
        let name = |level: usize| format!("P{}", self.levels.min as usize + level);
        let down = (0..levels - 1).rev().map(|level| format!("{} top-down fusion", name(level)));
        let up = (1..levels).map(|level| format!("{} bottom-up fusion", name(level)));
        let fusions = down.chain(up).map(|name| Decision::new(name, ["fast", "sum"]));
        let middle =
            (1..levels - 1).map(|level| Decision::new(format!("{} takes", name(level)), ["both", "top-down", "input"]));
        let sizes = [Decision::new("cells", 1..=MAX_CELLS), Decision::new("channels", WIDTHS)];
        sizes.into_iter().chain(fusions).chain(middle).collect()
    }

    /// The neck of an architecture. Decisions: cells - 1, width, fusion of each node, inputs of each middle node.
    pub fn config(&self, arch: &Architecture) -> Result<BiFpnConfig, InvalidArchitecture> {
        self.validate(arch)?;
        let choices: Vec<usize> = arch.choices().iter().map(|choice| usize::from(*choice)).collect();
        let (fusions, inputs) = choices[2..].split_at(num_nodes(self.levels));
        // bottom-up nodes start at half of the nodes; the last of them has no choice
        let first_middle = fusions.len() / 2;
        let node = |(i, fusion): (usize, &usize)| {
            let inputs = i.checked_sub(first_middle).and_then(|i| inputs.get(i)).map_or(0, |choice| *choice);
            BiFpnNode { fusion: FUSIONS[*fusion], inputs: INPUTS[inputs] }
        };
        Ok(BiFpnConfig {
            channels: WIDTHS[choices[1]],
            levels: self.levels,
            cells: choices[0] + 1,
            nodes: fusions.iter().enumerate().map(node).collect(),
            ..Default::default()
        })
    }
}

impl ChoiceSpace for BiFpnSpace {
    fn name(&self) -> &str {
        "bifpn"
    }

    fn decisions(&self) -> Vec<u16> {
        let nodes = num_nodes(self.levels);
        let fusions = vec![FUSIONS.len() as u16; nodes];
        let inputs = vec![INPUTS.len() as u16; nodes / 2 - 1];
        [vec![MAX_CELLS, WIDTHS.len() as u16], fusions, inputs].concat()
    }
}

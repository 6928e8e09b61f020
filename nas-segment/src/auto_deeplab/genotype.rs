//! An architecture in the paper's terms: a path through the trellis and one cell.

use std::fmt;

use nas_core::nn::Op;
use nas_core::space::Architecture;

/// The eight operators of the space, in the order of the columns of alpha.
pub const OPS: [Op; 8] = [
    Op::None,
    Op::MaxPool3x3,
    Op::AvgPool3x3,
    Op::SkipConnect,
    Op::SepConv3x3,
    Op::SepConv5x5,
    Op::AtrousConv3x3,
    Op::AtrousConv5x5,
];

/// One input of a block: which state, through which operator. Operators are found by the state they belong to and never
/// by their rank, so that none can be swapped with another (a bug of public re-implementations).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// 0: output of the layer before; 1: output of the layer before that; `2 + b`: block `b` of the same cell.
    pub state: usize,
    /// What is applied to it.
    pub op: Op,
}

/// A path and a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genotype {
    /// Level of each layer: 0, 1, 2, 3 for strides 4, 8, 16, 32.
    pub path: Vec<usize>,
    /// The two inputs of each block, of which the block is the sum. The cell's output is the concatenation of all blocks.
    pub cell: Vec<[Edge; 2]>,
}

impl Genotype {
    /// What Google found on Cityscapes (arXiv 1901.02985; TensorFlow's `deeplab/core/nas_network.py`, whose cell differs
    /// from the one that circulates in re-implementations).
    pub fn published() -> Self {
        let edge = |state, op| Edge { state, op };
        use Op::{AtrousConv3x3 as Atr3, AtrousConv5x5 as Atr5, SepConv3x3 as Sep3, SepConv5x5 as Sep5};
        Self {
            path: vec![0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1],
            cell: vec![
                [edge(0, Sep3), edge(1, Atr5)],
                [edge(0, Atr3), edge(1, Sep3)],
                [edge(1, Sep3), edge(3, Sep3)],
                [edge(2, Sep5), edge(4, Sep5)],
                [edge(3, Sep5), edge(5, Atr5)],
            ],
        }
    }

    /// The choices: levels, then (state, operator) of both inputs of each block.
    pub fn to_architecture(&self) -> Architecture {
        let op = |op: Op| OPS.iter().position(|other| *other == op).expect("an operator of the space") as u16;
        let cell = self.cell.iter().flatten().flat_map(|edge| [edge.state as u16, op(edge.op)]);
        Architecture::new(self.path.iter().map(|level| *level as u16).chain(cell).collect())
    }

    /// The genotype of choices over `layers` layers; says what is wrong with choices that are none.
    pub fn from_architecture(arch: &Architecture, layers: usize) -> Result<Self, String> {
        let choices: Vec<usize> = arch.choices().iter().map(|choice| usize::from(*choice)).collect();
        if choices.len() <= layers || !(choices.len() - layers).is_multiple_of(4) {
            return Err(format!("{} choices, expected {layers} levels and 4 for each block", choices.len()));
        }
        let (path, cell) = choices.split_at(layers);
        check_path(path)?;
        let cell = cell.chunks(4).enumerate().map(|(block, inputs)| block_inputs(block, inputs));
        Ok(Self { path: path.to_vec(), cell: cell.collect::<Result<_, _>>()? })
    }
}

fn check_path(path: &[usize]) -> Result<(), String> {
    let mut before = 0;
    for (layer, level) in path.iter().enumerate() {
        if *level > 3 || level.abs_diff(before) > 1 {
            return Err(format!(
                "layer {layer} is at level {level} after level {before}; expected a neighbour in 0..=3"
            ));
        }
        before = *level;
    }
    Ok(())
}

fn block_inputs(block: usize, inputs: &[usize]) -> Result<[Edge; 2], String> {
    let edge = |state: usize, op: usize| match OPS.get(op) {
        Some(Op::None) | None => Err(format!("block {block} has operator {op}; expected 1..={}", OPS.len() - 1)),
        Some(_) if state >= 2 + block => Err(format!("block {block} has state {state}; expected 0..={}", 1 + block)),
        Some(op) => Ok(Edge { state, op: *op }),
    };
    let [first, second] = [edge(inputs[0], inputs[1])?, edge(inputs[2], inputs[3])?];
    if first.state >= second.state {
        return Err(format!("block {block} has states {}, {}; expected ascending ones", first.state, second.state));
    }
    Ok([first, second])
}

impl fmt::Display for Genotype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let levels: Vec<String> = self.path.iter().map(|level| (4 << level).to_string()).collect();
        write!(f, "strides {}", levels.join(" "))?;
        for (block, [a, b]) in self.cell.iter().enumerate() {
            let name = |edge: &Edge| match edge.state {
                0 => format!("{}(H[l-1])", edge.op),
                1 => format!("{}(H[l-2])", edge.op),
                state => format!("{}(block {})", edge.op, state - 2),
            };
            write!(f, "\nblock {block} = {} + {}", name(a), name(b))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_and_genotype_round_trip() {
        let published = Genotype::published();
        let arch = published.to_architecture();
        assert_eq!(arch.choices().len(), 12 + 20);
        assert_eq!(Genotype::from_architecture(&arch, 12).unwrap(), published);
    }

    /// TensorFlow's `nas_network.py` numbers the states of a block's inputs 1, 0, 1, 0, 3, 1, 4, 2, 3, 5. In the numbering
    /// of edges of re-implementations, where H[l-2] comes first, they are the edges below; the default that circulates in
    /// those has 18 in place of 17.
    #[test]
    fn the_published_cell_has_tensorflows_edges() {
        let cell = Genotype::published().cell;
        let swapped = |state: usize| if state < 2 { 1 - state } else { state };
        let number = |block: usize, edge: &Edge| block * (block + 3) / 2 + swapped(edge.state);
        let mut edges: Vec<(usize, String)> = (0..)
            .zip(&cell)
            .flat_map(|(block, inputs)| inputs.iter().map(move |edge| (number(block, edge), edge.op.to_string())))
            .collect();
        edges.sort();
        let (sep3, sep5, atr3, atr5) = ("sep_conv_3x3", "sep_conv_5x5", "atrous_conv_3x3", "atrous_conv_5x5");
        let expected = [
            (0, atr5),
            (1, sep3),
            (2, sep3),
            (3, atr3),
            (5, sep3),
            (8, sep3),
            (11, sep5),
            (13, sep5),
            (17, sep5),
            (19, atr5),
        ];
        assert_eq!(edges, expected.map(|(edge, op)| (edge, op.to_string())));
    }

    #[test]
    fn what_is_no_genotype_is_refused_with_the_reason() {
        let refuse = |text: &str, part: &str| {
            let error = Genotype::from_architecture(&text.parse().unwrap(), 2).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        refuse("0-2-0-4-1-4", "layer 1 is at level 2");
        refuse("2-2-0-4-1-4", "layer 0 is at level 2");
        refuse("0-0-0-0-1-4", "operator 0");
        refuse("0-0-0-4-2-4", "state 2");
        refuse("0-0-1-4-1-4", "ascending");
        refuse("0-0-1", "3 choices");
    }
}

//! The search space of NAS-FPN (section 3.1.1 of the paper): for each merging cell its output's level, its operator and the
//! two maps it merges. With levels 3 to 7 and two intermediate cells it has 3.0e15 points.

use anyhow::{Result, ensure};
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::Architecture;
use nas_core::space::{ChoiceSpace, InvalidArchitecture};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Levels, MergeOp, MergingCell, NasFpnConfig};

/// Decisions of a cell: level, operator, pair of maps.
const DECISIONS: usize = 3;
const OPS: [MergeOp; 2] = [MergeOp::Sum, MergeOp::Attention];

/// The space. An architecture is valid when its output cells give every level once.
#[derive(Clone, Debug)]
pub struct NasFpnSpace {
    levels: Levels,
    intermediate: usize,
}

impl NasFpnSpace {
    /// The space of necks with these levels and `intermediate` cells before the output cells (2 in the paper).
    pub fn new(levels: Levels, intermediate: usize) -> Result<Self> {
        levels.check()?;
        ensure!(intermediate <= 16, "{intermediate} intermediate cells: expected at most 16");
        Ok(Self { levels, intermediate })
    }

    /// The levels of its necks.
    pub fn levels(&self) -> Levels {
        self.levels
    }

    fn num_cells(&self) -> usize {
        self.intermediate + self.levels.count()
    }

    /// Maps in the pool of `cell`.
    fn pool(&self, cell: usize) -> usize {
        self.levels.count() + cell
    }

    /// Names of the decisions and of their choices.
    pub fn names(&self) -> Vec<Decision> {
        let level = |i: usize| format!("P{}", self.levels.min as usize + i);
        let of_cell = |cell: usize| {
            let pool = self.pool(cell);
            let map =
                |i: usize| if i < self.levels.count() { level(i) } else { format!("cell {}", i - self.levels.count()) };
            let pairs = (0..pool * (pool - 1) / 2).map(pair).map(|[a, b]| format!("{} + {}", map(a), map(b)));
            [
                Decision::new(format!("cell {cell} level"), (0..self.levels.count()).map(level)),
                Decision::new(format!("cell {cell} operator"), ["sum", "attention"]),
                Decision::new(format!("cell {cell} inputs"), pairs),
            ]
        };
        (0..self.num_cells()).flat_map(of_cell).collect()
    }

    /// The cells of an architecture.
    pub fn cells(&self, arch: &Architecture) -> Result<Vec<MergingCell>, InvalidArchitecture> {
        self.validate(arch)?;
        let cells = arch.choices().chunks_exact(DECISIONS).map(|choices| MergingCell {
            level: self.levels.min + u32::from(choices[0]),
            op: OPS[usize::from(choices[1])],
            inputs: pair(usize::from(choices[2])),
        });
        Ok(cells.collect())
    }

    /// The architecture of cells whose inputs are in rising order, if it is of this space.
    pub fn encode(&self, cells: &[MergingCell]) -> Option<Architecture> {
        let choices = cells.iter().map(|cell| {
            let [a, b] = cell.inputs;
            let op = OPS.iter().position(|op| *op == cell.op)?;
            let level = cell.level.checked_sub(self.levels.min)?;
            (a < b).then(|| [level as u16, op as u16, (b * (b - 1) / 2 + a) as u16])
        });
        let choices: Option<Vec<[u16; DECISIONS]>> = choices.collect();
        let arch = Architecture::new(choices?.concat());
        self.validate(&arch).is_ok().then_some(arch)
    }

    /// The published cells, which lie in the space of levels 3 to 7 with two intermediate cells.
    pub fn published() -> (Self, Architecture) {
        let space = Self { levels: Levels::default(), intermediate: 2 };
        let arch = space.encode(&NasFpnConfig::default().cells).expect("the published cells are of their space");
        (space, arch)
    }

    fn output_levels<'a>(&self, choices: &'a [u16]) -> impl Iterator<Item = u16> + use<'a> {
        choices.chunks_exact(DECISIONS).skip(self.intermediate).map(|choices| choices[0])
    }
}

/// Two maps `a < b` by the number of their pair, which grows with `b`, then `a`.
fn pair(index: usize) -> [usize; 2] {
    let b = (1..).find(|b| index < b * (b + 1) / 2).expect("pairs are countable");
    [index - b * (b - 1) / 2, b]
}

impl ChoiceSpace for NasFpnSpace {
    fn name(&self) -> &str {
        "nas_fpn"
    }

    fn decisions(&self) -> Vec<u16> {
        let levels = self.levels.count() as u16;
        let cell = |cell| {
            let pool = self.pool(cell);
            [levels, OPS.len() as u16, (pool * (pool - 1) / 2) as u16]
        };
        (0..self.num_cells()).flat_map(cell).collect()
    }

    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        self.check_choices(arch)?;
        let given = |level| self.output_levels(arch.choices()).any(|choice| choice == level);
        match (0..self.levels.count() as u16).find(|level| !given(*level)) {
            Some(level) => {
                let level = self.levels.min + u32::from(level);
                Err(self.invalid(arch, format!("no output cell gives level {level}; expected every level once")))
            }
            None => Ok(()),
        }
    }

    fn sample(&self, rng: &mut ChaCha8Rng) -> Architecture {
        let mut choices: Vec<u16> = self.decisions().iter().map(|options| rng.random_range(0..*options)).collect();
        let mut levels: Vec<u16> = (0..self.levels.count() as u16).collect();
        levels.shuffle(rng);
        for (cell, level) in choices.chunks_exact_mut(DECISIONS).skip(self.intermediate).zip(levels) {
            cell[0] = level;
        }
        Architecture::new(choices)
    }

    /// Another choice of one decision; output cells swap their levels.
    fn mutate(&self, parent: &Architecture, rng: &mut ChaCha8Rng) -> Architecture {
        let decisions = self.decisions();
        let mut choices = parent.choices().to_vec();
        let i = rng.random_range(0..decisions.len());
        choices[i] = (choices[i] + rng.random_range(1..decisions[i])) % decisions[i];
        self.give_back(parent, &mut choices, i);
        Architecture::new(choices)
    }

    fn neighbors(&self, arch: &Architecture) -> Vec<Architecture> {
        let mut neighbors = Vec::new();
        for (i, options) in self.decisions().into_iter().enumerate() {
            for choice in (0..options).filter(|choice| *choice != arch.choices()[i]) {
                let mut choices = arch.choices().to_vec();
                choices[i] = choice;
                self.give_back(arch, &mut choices, i);
                let neighbor = Architecture::new(choices);
                // a swap is met from both of its ends
                if !neighbors.contains(&neighbor) {
                    neighbors.push(neighbor);
                }
            }
        }
        neighbors
    }
}

impl NasFpnSpace {
    /// Where decision `i` took the level of another output cell, gives that cell the level that is free now.
    fn give_back(&self, parent: &Architecture, choices: &mut [u16], i: usize) {
        let first_output = self.intermediate * DECISIONS;
        if i < first_output || !i.is_multiple_of(DECISIONS) {
            return;
        }
        let taken = choices[i];
        let other = (first_output..choices.len()).step_by(DECISIONS).find(|j| *j != i && choices[*j] == taken);
        if let Some(other) = other {
            choices[other] = parent.choices()[i];
        }
    }
}

//! Which morphisms a search may draw, and random children.

use std::collections::HashSet;
use std::mem::discriminant;

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{ConvNet, Morphing, Morphism, MorphismError, Trained, morph};

/// Bounds of the networks that a search may reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MorphismSpace {
    /// Most blocks.
    pub max_blocks: usize,
    /// Most channels of a block.
    pub max_width: i64,
    /// Largest side of a kernel.
    pub max_ksize: i64,
}

impl Default for MorphismSpace {
    fn default() -> Self {
        Self { max_blocks: 24, max_width: 512, max_ksize: 7 }
    }
}

impl MorphismSpace {
    /// Every morphism of `net` within the bounds: widening by a half and by the whole, new blocks of sides 3 and 5,
    /// additions, larger kernels.
    pub fn neighbours(&self, net: &ConvNet) -> Vec<Morphism> {
        let blocks = || 1..=net.len();
        let leaders = blocks().filter(|&block| net.tied(block).first() == Some(&block));
        let widen = leaders.flat_map(|block| {
            let width = net.width(block);
            let mut widths = vec![width + (width + 1) / 2, 2 * width];
            widths.dedup();
            widths.into_iter().map(move |width| (block, width))
        });
        let widen = widen.filter(|&(_, width)| width <= self.max_width);
        let deepen = blocks().flat_map(|after| [3, 5].map(|ksize| Morphism::Deepen { after, ksize }));
        let deepen = deepen.filter(|_| net.len() < self.max_blocks);
        let skip = blocks().flat_map(|to| (1..to).map(move |from| Morphism::AddSkip { from, to }));
        let grow = blocks().map(|block| Morphism::GrowKernel { block });
        widen
            .map(|(block, width)| Morphism::Widen { block, width })
            .chain(deepen)
            .chain(skip)
            .chain(grow)
            .filter(|morphism| morphism.apply(net).is_ok_and(|net| self.contains(&net)))
            .collect()
    }

    fn contains(&self, net: &ConvNet) -> bool {
        let within = |width, ksize| width <= self.max_width && ksize <= self.max_ksize;
        net.len() <= self.max_blocks && net.blocks().iter().all(|block| within(block.width, block.ksize))
    }

    /// A random neighbour: its kind first (as in NASH), uniformly among those that are possible, then the morphism. None
    /// where the bounds are reached.
    pub fn random(&self, net: &ConvNet, rng: &mut ChaCha8Rng) -> Option<Morphism> {
        let mut kinds: Vec<Vec<Morphism>> = Vec::new();
        for morphism in self.neighbours(net) {
            match kinds.iter_mut().find(|kind| discriminant(&kind[0]) == discriminant(&morphism)) {
                Some(kind) => kind.push(morphism),
                None => kinds.push(vec![morphism]),
            }
        }
        kinds.choose(rng)?.choose(rng).copied()
    }
}

/// A network with the way it came about.
#[derive(Debug)]
pub struct Child {
    /// Morphisms from the parent, in order.
    pub morphisms: Vec<Morphism>,
    /// The network, its weights and its optimizer's state.
    pub trained: Trained,
}

/// `n` children of `parent`, each `chain` random morphisms away: what one step of NASH's hill climbing trains and compares.
/// Children differ from each other where a few draws suffice for it. Where the bounds are reached a chain is shorter, and
/// a child may be the parent itself.
pub fn children(
    parent: &Trained,
    (n, chain): (usize, usize),
    space: &MorphismSpace,
    with: &Morphing,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Child>, MorphismError> {
    const DRAWS: usize = 20;
    let mut seen = HashSet::new();
    let mut draw = || {
        for attempt in 1.. {
            let mut net = parent.net.clone();
            let mut morphisms = Vec::new();
            for _ in 0..chain {
                let Some(morphism) = space.random(&net, rng) else { break };
                net = morphism.apply(&net)?;
                morphisms.push(morphism);
            }
            if seen.insert(net) || attempt == DRAWS {
                return Ok(morphisms);
            }
        }
        unreachable!("the loop ends by returning")
    };
    let plans: Vec<Vec<Morphism>> = (0..n).map(|_| draw()).collect::<Result<_, MorphismError>>()?;
    plans.into_iter().map(|morphisms| child(parent, morphisms, with, rng)).collect()
}

fn child(
    parent: &Trained,
    morphisms: Vec<Morphism>,
    with: &Morphing,
    rng: &mut ChaCha8Rng,
) -> Result<Child, MorphismError> {
    let mut trained = parent.shallow_clone();
    for morphism in &morphisms {
        trained = morph(&trained, morphism, with, rng)?;
    }
    Ok(Child { morphisms, trained })
}

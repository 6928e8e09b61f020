//! Spaces in which operators alone are choices, as SqueezeNAS' (Shaw et al. 2019, arXiv 1908.01748): there every position can be
//! the sum of all its operators by weight, for methods that learn by gradient (DARTS, FBNet), and costs are a sum over positions.

use nas_core::nn::{ConvNorm, Cost, Mode, Module, Shape, VarBuilder};
use nas_core::space::{ArchParameter, Architecture, Backbone, Choice, FeatureInfo};
use tch::{Kind, Tensor};

use super::block::{Block, Place};
use super::config::{MobileSegConfig, Tap};
use super::network::{BodyNames, Slot, Trunk};
use super::operator::Operator;
use super::space::{HeadChoices, MobileSegSpace, StageChoices};

/// The positions of a space that chooses operators alone.
#[derive(Clone, Debug)]
pub(super) struct Relaxation {
    /// One network of the space: all that operators do not decide.
    config: MobileSegConfig,
    /// The space's operators, which the supernet's weights are called after.
    names: Vec<Operator>,
    /// Choices of an architecture; those of operators stand at `decisions`.
    choices: Vec<u16>,
    decisions: Vec<usize>,
    positions: Vec<Position>,
}

/// A block and what it can be.
#[derive(Clone, Debug)]
struct Position {
    place: Place,
    stage: usize,
    /// Number in its stage.
    number: usize,
    /// By the space's operators: the operator that is built, dilated where a stride is left out; none where it cannot stand here.
    operators: Vec<Option<Operator>>,
}

/// Whether a head has no choices.
fn is_fixed(head: &HeadChoices) -> bool {
    match head {
        HeadChoices::Fixed { .. } => true,
        HeadChoices::Chosen { contexts, channels, decoders, taps, convs, low_level_channels, decoder_channels } => {
            let counts = [contexts.len(), channels.len(), decoders.len(), taps.len(), convs.len()];
            counts.into_iter().chain([low_level_channels.len(), decoder_channels.len()]).all(|count| count == 1)
        }
    }
}

impl Relaxation {
    /// That of `space`; none where anything else is a choice, or the head takes what only some operators have.
    pub fn of(space: &MobileSegSpace) -> Option<Self> {
        let single = |stage: &StageChoices| stage.channels.len() * stage.depths.len() * stage.strides.len() == 1;
        if space.stem.len() != 1 || !space.stages.iter().all(single) || !is_fixed(&space.head) {
            return None;
        }
        let mut decisions = Vec::new();
        let (mut at, mut places) = (1, Vec::new());
        for (stage, choices) in space.stages.iter().enumerate() {
            decisions.extend(at + 3..at + 3 + choices.max_depth());
            places.extend((0..choices.max_depth()).map(|number| (stage, number)));
            at += 3 + choices.max_depth();
        }
        // Some form of a network, whose blocks stand where its choices do.
        let choices = space.any_choices();
        let config = space.decode(&Architecture::new(choices.clone())).ok()?;
        if config.head.taps().iter().any(|(_, tap)| *tap != Tap::Output) {
            return None;
        }
        let blocks = config.blocks();
        let position = |(i, (stage, number)): (usize, (usize, usize))| {
            let built = |operator: usize| {
                let mut choices = choices.clone();
                choices[decisions[i]] = operator as u16;
                Some(space.decode(&Architecture::new(choices)).ok()?.blocks()[i].operator)
            };
            let operators = (0..space.operators.len()).map(built).collect();
            Position { place: blocks[i].place, stage, number, operators }
        };
        let positions = places.into_iter().enumerate().map(position).collect();
        Some(Self { config, names: space.operators.clone(), choices, decisions, positions })
    }

    /// Positions by operators.
    pub fn parameter(&self) -> ArchParameter {
        let exists: Vec<bool> = self.positions.iter().flat_map(|p| p.operators.iter().map(Option::is_some)).collect();
        let dims = [self.positions.len() as i64, (exists.len() / self.positions.len()) as i64];
        let all = exists.iter().all(|exists| *exists);
        let exists = if all { Vec::new() } else { exists };
        ArchParameter { exists, ..ArchParameter::new("operators", &dims, Choice::Operator) }
    }

    /// The operator of most weight at every position: the choices that the supernet's weights are called after, which need not be
    /// the form that stands for their network.
    pub fn discretize(&self, weights: &Tensor) -> Architecture {
        let mut choices = self.choices.clone();
        let rows = weights.size()[0];
        for ((decision, position), row) in self.decisions.iter().zip(&self.positions).zip(0..rows) {
            let weights = Vec::<f64>::try_from(weights.get(row).to_kind(Kind::Double)).expect("a row of numbers");
            let possible = weights.iter().zip(&position.operators).enumerate();
            let possible = possible.filter_map(|(i, (weight, operator))| operator.map(|_| (i, *weight)));
            let best = possible.reduce(|best, next| if next.1 > best.1 { next } else { best });
            choices[*decision] = best.expect("an operator can stand everywhere").0 as u16;
        }
        Architecture::new(choices)
    }

    /// Multiply-adds on an image of `input`: of what no operator changes, head for one class included, and of every operator.
    pub fn macs_table(&self, space: &MobileSegSpace, input: Shape) -> Option<(u64, Vec<f64>)> {
        let dry = VarBuilder::dry();
        let macs = |choices: &[u16]| space.network_cost(&Architecture::new(choices.to_vec()), 1, input.size()).ok();
        let total = macs(&self.choices)?.macs;
        let (mut table, mut own) = (Vec::new(), 0);
        let mut xs = self.stem(&BodyNames::Shared { vb: &dry, slots: Vec::new() }).cost(input, &mut Cost::default());
        for (position, decision) in self.positions.iter().zip(&self.decisions) {
            let mut ys = xs;
            for (i, operator) in position.operators.iter().enumerate() {
                let mut cost = Cost::default();
                if let Some(operator) = operator {
                    ys = Block::new(&dry, *operator, position.place, self.config.style()).cost(xs, &mut cost).1;
                }
                own += if i == usize::from(self.choices[*decision]) { cost.macs } else { 0 };
                table.push(cost.macs as f64);
            }
            xs = ys;
        }
        Some((total - own, table))
    }

    fn stem(&self, names: &BodyNames) -> ConvNorm {
        Trunk::stem(names, self.config.stem, self.config.style())
    }

    /// The body with all operators at work by `weights`, a row for each position, but for those that are not `active` (row-major).
    pub fn trunk(&self, vb: &VarBuilder, weights: &Tensor, active: Option<&[bool]>) -> MixedTrunk {
        let names = BodyNames::Shared { vb, slots: Vec::new() };
        let style = self.config.style();
        let (columns, rows) = (weights.size()[1] as usize, weights.unbind(0));
        let block = |(row, position): (usize, &Position)| {
            let candidates = position.operators.iter().zip(&self.names).zip(rows[row].unbind(0)).enumerate();
            let candidates = candidates.filter_map(|(column, ((operator, name), weight))| {
                let operator = operator.filter(|_| active.is_none_or(|active| active[row * columns + column]))?;
                let slot = Slot { stage: position.stage, position: position.number, operator: *name };
                Some((weight, Block::new(&slot.place(vb), operator, position.place, style)))
            });
            candidates.collect()
        };
        let plain = Trunk::new(&VarBuilder::dry(), &self.config);
        let c_out = self.positions.last().map_or(self.config.stem, |position| position.place.channels.1);
        MixedTrunk {
            stem: self.stem(&names),
            blocks: self.positions.iter().enumerate().map(block).collect(),
            last: (self.config.last > 0).then(|| Trunk::last(&names, (c_out, self.config.last), style)),
            plain,
        }
    }

    /// A network of the space, for what all have in common.
    pub fn config(&self) -> &MobileSegConfig {
        &self.config
    }
}

/// A body whose blocks are sums of candidates by weight.
#[derive(Debug)]
pub(super) struct MixedTrunk {
    stem: ConvNorm,
    blocks: Vec<Vec<(Tensor, Block)>>,
    last: Option<ConvNorm>,
    /// One of the bodies, without weights: which maps the head takes.
    pub plain: Trunk,
}

impl Backbone for MixedTrunk {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let mut xs = self.stem.forward(xs, mode);
        let mut features = Vec::new();
        for (i, candidates) in self.blocks.iter().enumerate() {
            let weighted = candidates.iter().map(|(weight, block)| block.forward(&xs, mode).1 * weight);
            xs = weighted.reduce(|sum, term| sum + term).expect("an operator is at work at every position");
            features.extend(self.plain.tapped(i, &None, &xs, Tensor::shallow_clone));
        }
        features.push(self.last.as_ref().map_or_else(|| xs.shallow_clone(), |last| last.forward(&xs, mode)));
        features
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.plain.feature_info()
    }

    /// Of one of the bodies.
    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        self.plain.cost_parts(input)
    }
}

#[cfg(test)]
mod tests {
    use nas_core::space::{ChoiceSpace, Mixture, SearchSpace, WeightSharing};
    use nas_core::train::all_variables;
    use tch::nn::VarStore;
    use tch::{Device, Tensor};

    use super::super::MobileSegSupernet;
    use super::super::space::SpacePreset;
    use super::*;

    /// Operators alone are choices: of SqueezeNAS, and around strides that are left out, which dilate.
    fn spaces() -> [MobileSegSpace; 2] {
        let text = "stem = [4]
            output_strides = [8]
            operators = ['ib_k3_e2', 'ib_k5_e3', 'ds_k5', 'ffn_e2', 'skip']
            stages = [
              { channels = [4], depths = [2], strides = [2], plain_stride = 2 },
              { channels = [8], depths = [2], strides = [2], plain_stride = 2 },
              { channels = [12], depths = [2], strides = [1], plain_stride = 2 },
            ]
            [head]
            kind = 'chosen'
            contexts = ['pooling']
            channels = [6]
            decoders = [[4]]
            taps = ['output']
            convs = [1]
            low_level_channels = [3]
            decoder_channels = [4]";
        let own: MobileSegSpace = nas_core::run::config::from_table(text.parse().unwrap(), "test").unwrap();
        own.check().unwrap();
        [own, SpacePreset::SqueezenasSmall.into()]
    }

    fn random(space: &MobileSegSpace, relaxation: &Relaxation, seed: u64) -> (Architecture, Tensor) {
        let parameter = relaxation.parameter();
        tch::manual_seed(seed as i64);
        let weights = parameter.softmax(&Tensor::randn(&parameter.dims[..], (Kind::Double, Device::Cpu)));
        let arch = relaxation.discretize(&weights);
        assert!(space.decode(&arch).is_ok());
        let hot: Vec<i64> = relaxation.decisions.iter().map(|at| i64::from(arch.choices()[*at])).collect();
        (arch, Tensor::from_slice(&hot).one_hot(parameter.dims[1]).to_kind(Kind::Double))
    }

    #[test]
    fn one_operator_of_all_weight_is_its_path() {
        for space in spaces() {
            let relaxation = Relaxation::of(&space).unwrap();
            tch::manual_seed(5);
            let mut vs = VarStore::new(Device::Cpu);
            let supernet = MobileSegSupernet::new(&VarBuilder::new(&vs), &space, 3);
            vs.double();
            tch::no_grad(|| {
                let vectors = all_variables(&vs).into_iter().filter(|(name, _)| name.ends_with("running_var"));
                vectors.for_each(|(_, tensor)| drop(tensor.shallow_clone().uniform_(0.5, 2.0)));
            });
            let images = Tensor::randn([2, 3, 64, 96], (Kind::Double, Device::Cpu));
            let (arch, weights) = random(&space, &relaxation, 1);
            let list = [weights];
            let active = [Vec::<bool>::try_from(list[0].reshape([-1]).to_kind(Kind::Bool)).unwrap()];
            let run = |mixture| tch::no_grad(|| supernet.forward_mixture(&images, mixture, Mode::EVAL));
            let expected = run(Mixture::Path(&arch));
            let sampled = Mixture::Sampled { weights: &list, active: &active, skip_dropout: 0.0, undrawn: false };
            for mixture in [Mixture::Weights(&list), sampled] {
                let difference = (run(mixture) - &expected).abs().max().double_value(&[]);
                assert!(difference < 1e-9 * expected.abs().max().double_value(&[]).max(1.0), "{arch}: {difference}");
            }
        }
    }

    #[test]
    fn costs_are_sums_over_positions() {
        let input = Shape::new(3, 96, 160);
        for space in spaces() {
            let relaxation = Relaxation::of(&space).unwrap();
            let (fixed, table) = space.macs_table(input).unwrap();
            for seed in 0..5 {
                let (arch, weights) = random(&space, &relaxation, seed);
                let sum = (weights.reshape([-1]) * Tensor::from_slice(&table[0])).sum(Kind::Double).double_value(&[]);
                // In the form that stands for the network too.
                let normal = space.standing_for(arch.choices().to_vec()).unwrap();
                for arch in [arch, normal] {
                    assert_eq!(space.cost(&arch, input).unwrap().macs, fixed + sum as u64, "{arch}");
                }
            }
        }
    }

    #[test]
    fn an_operator_that_cannot_stand_somewhere_has_no_weight_there() {
        let [own, squeezenas] = spaces();
        let parameter = Relaxation::of(&own).unwrap().parameter();
        // A feed-forward block has no depthwise kernel and thus no stride.
        let ffn: Vec<bool> = parameter.exists.chunks(5).map(|row| row[3]).collect();
        assert_eq!((parameter.dims, ffn), (vec![6, 5], vec![false, true, false, true, true, true]));
        assert_eq!(squeezenas.arch_parameters()[0].dims, [20, 13]);
    }

    #[test]
    fn other_choices_leave_no_parameters() {
        assert!(MobileSegSpace::default().arch_parameters().is_empty());
        let [own, _] = spaces();
        let changed: [fn(&mut MobileSegSpace); 3] = [
            |space| space.stem.push(8),
            |space| space.stages[0].channels.push(8),
            |space| {
                let HeadChoices::Chosen { convs, .. } = &mut space.head else { unreachable!() };
                convs.push(2);
            },
        ];
        for change in changed {
            let mut space = own.clone();
            change(&mut space);
            assert!(space.arch_parameters().is_empty() && space.macs_table(Shape::new(3, 64, 64)).is_none());
        }
    }
}

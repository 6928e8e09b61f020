//! One network with the weights of every architecture of the space, run one path at a time or, where operators alone are choices,
//! as a mixture of them.
//!
//! Every (stage, position, operator) has weights of its own, as wide as the widest choices around it; narrower paths use the
//! first channels (Yu et al. 2019, arXiv 1812.08928; Cai et al. 2020, arXiv 1908.09791). A path's network is built of views of
//! these tensors by the same code that builds it on its own, so the two cannot differ. Context modules share nothing between
//! their widths, and the first convolution of a decoder step nothing between the widths of the map that it refines: their
//! inputs are several maps side by side, of which the first channels would be those of other maps.

use std::collections::{BTreeSet, HashMap};

use nas_core::nn::{Mode, Notes, Shape, VarBuilder};
use nas_core::space::{
    ArchParameter, Architecture, Backbone, ChoiceSpace, FeatureInfo, InvalidArchitecture, Mixture, Supernet,
    WeightSharing,
};
use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::block::{Block, Place};
use super::config::{MobileSegConfig, Tap};
use super::head::{self, SharedHead};
use super::network::{BodyNames, Slot, Trunk};
use super::operator::Operator;
use super::relaxed::Relaxation;
use super::space::{HeadChoices, MobileSegSpace};
use crate::model::SegNet;

/// All networks of a space, heads included.
#[derive(Debug)]
pub struct MobileSegSupernet {
    space: MobileSegSpace,
    num_classes: i64,
    tensors: HashMap<String, Tensor>,
    relaxation: Option<Relaxation>,
}

impl MobileSegSupernet {
    /// The supernet of `space`, which is checked, for `num_classes`; its weights under `vb`.
    pub fn new(vb: &VarBuilder, space: &MobileSegSpace, num_classes: i64) -> Self {
        let notes = Notes::default();
        let widest = Widest { space, num_classes, config: space.any_config() };
        widest.declare(&vb.noting(&notes));
        let tensors = notes.into_inner().into_iter().collect();
        Self { space: space.clone(), num_classes, tensors, relaxation: Relaxation::of(space) }
    }

    /// The network of `arch` on the supernet's weights. It is to be used with gradients switched as they are now.
    pub fn network(&self, arch: &Architecture) -> Result<SegNet, InvalidArchitecture> {
        self.network_at(&VarBuilder::shared(&self.tensors), arch)
    }

    fn network_at(&self, vb: &VarBuilder, arch: &Architecture) -> Result<SegNet, InvalidArchitecture> {
        let config = self.space.decode(arch)?;
        let trunk = Trunk::with_names(&config, &BodyNames::Shared { vb, slots: self.space.slots(arch) });
        let head = head::build_shared(vb, &config, &trunk, self.num_classes);
        Ok(SegNet { backbone: Box::new(trunk), head })
    }

    /// Logits `[B, K, H, W]` of images `[B, 3, H, W]` by the network of `arch`.
    pub fn forward(&self, xs: &Tensor, arch: &Architecture, mode: Mode) -> Result<Tensor, InvalidArchitecture> {
        Ok(self.network(arch)?.forward(xs, mode))
    }

    /// Logits `[B, K, H, W]` of images `[B, 3, H, W]` under `mixture`.
    ///
    /// # Panics
    /// For an architecture of another space, and for weights where operators are not the only choices: methods find no architecture
    /// parameters there.
    pub fn forward_mixture(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Tensor {
        self.under(mixture).forward(xs, mode)
    }

    fn under(&self, mixture: Mixture) -> SegNet {
        match mixture {
            Mixture::Path(arch) => self.network(arch).expect("an architecture of the supernet's space"),
            Mixture::Weights(weights) => self.mixed(&weights[0], None),
            Mixture::Sampled { weights, active, .. } => self.mixed(&weights[0], Some(&active[0])),
        }
    }

    fn mixed(&self, weights: &Tensor, active: Option<&[bool]>) -> SegNet {
        let relaxation = self.relaxation.as_ref().expect("operators are the only choices");
        let vb = VarBuilder::shared(&self.tensors);
        let trunk = relaxation.trunk(&vb, weights, active);
        let head = head::build_shared(&vb, relaxation.config(), &trunk.plain, self.num_classes);
        SegNet { backbone: Box::new(trunk), head }
    }

    /// The weights and statistics of `arch`'s network by the names that it has on its own, as views of the supernet's.
    pub fn weights_of(&self, arch: &Architecture) -> Result<Vec<(String, Tensor)>, InvalidArchitecture> {
        let (own, shared) = (Notes::default(), Notes::default());
        self.network_at(&VarBuilder::shared(&self.tensors).noting(&shared), arch)?;
        let vs = VarStore::new(Device::Cpu);
        let alone = self.space.decode(arch)?.build(&VarBuilder::new(&vs).noting(&own), self.num_classes);
        alone.expect("the same network was built of the supernet's weights");
        let names = own.into_inner().into_iter().map(|(name, _)| name);
        Ok(names.zip(shared.into_inner()).map(|(name, (_, tensor))| (name, tensor)).collect())
    }
}

/// Makes every tensor at its largest.
struct Widest<'a> {
    space: &'a MobileSegSpace,
    num_classes: i64,
    /// Any network of the space, for what all have in common.
    config: MobileSegConfig,
}

impl Widest<'_> {
    fn declare(&self, vb: &VarBuilder) {
        let style = self.config.style();
        let slots = |vb| BodyNames::Shared { vb, slots: Vec::new() };
        let stem = self.space.stem.iter().copied().max().unwrap_or(1);
        let names = slots(vb);
        Trunk::stem(&names, stem, style);
        let mut before = stem;
        for (s, stage) in self.space.stages.iter().enumerate() {
            let width = stage.channels.iter().copied().max().unwrap_or(1);
            for i in 0..stage.max_depth() {
                let c_in = if i == 0 { before } else { width };
                let declared = self.space.operators.iter().collect::<BTreeSet<_>>();
                for operator in declared {
                    let vb = (Slot { stage: s, position: i, operator: *operator }).place(vb);
                    let place = Place { channels: (c_in, width), stride: 1 };
                    match operator {
                        Operator::Skip if i > 0 => {}
                        Operator::Skip => Block::declare_skip(&vb, place, &stage.strides, style),
                        Operator::Bottleneck(_) => drop(Block::new(&vb, *operator, place, style)),
                    }
                }
            }
            before = before.max(width);
        }
        if self.config.last > 0 {
            Trunk::last(&names, (before, self.config.last), style);
        }
        let last = if self.config.last > 0 { self.config.last } else { before };
        let low_level = |tap: Tap| match tap {
            Tap::Output => before,
            Tap::Hidden => before * self.space.operators.iter().map(|o| o.expansion()).max().unwrap_or(1),
        };
        let shared = SharedHead { vb, config: &self.config, last, low_level: &low_level, classes: self.num_classes };
        match &self.space.head {
            HeadChoices::Fixed { head } => shared.declare_fixed(head),
            HeadChoices::Chosen { contexts, channels, decoders, taps, convs, low_level_channels, decoder_channels } => {
                let contexts: Vec<_> =
                    contexts.iter().flat_map(|c| channels.iter().map(|w| c.head(*w, Vec::new()))).collect();
                shared.declare_contexts(&contexts);
                let widest = |list: &[i64]| list.iter().copied().max().unwrap_or(1);
                let convs = convs.iter().copied().max().unwrap_or(1);
                let (low, out) = (widest(low_level_channels), widest(decoder_channels));
                shared.declare_decoders(decoders, taps, channels, decoder_channels, (low, out, convs));
            }
        }
    }
}

/// The body alone, for what asks for maps.
#[derive(Debug)]
struct Body(MobileSegSupernet);

impl Supernet for Body {
    /// The maps that the head takes, finest first.
    ///
    /// # Panics
    /// As [`MobileSegSupernet::forward_mixture`].
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor> {
        self.0.under(mixture).backbone.features(&nas_core::nn::channels_last(xs), mode)
    }

    /// Those of some path.
    fn feature_info(&self) -> Vec<FeatureInfo> {
        Trunk::new(&VarBuilder::dry(), &self.0.space.any_config()).feature_info()
    }
}

impl WeightSharing for MobileSegSpace {
    fn supernet(&self, vb: &VarBuilder) -> Box<dyn Supernet> {
        Box::new(Body(MobileSegSupernet::new(vb, self, 1)))
    }

    /// The operators of every position where nothing else is a choice; else none, and candidates are run one at a time.
    fn arch_parameters(&self) -> Vec<ArchParameter> {
        Relaxation::of(self).iter().map(Relaxation::parameter).collect()
    }

    /// Without architecture parameters there are no weights that speak for an architecture: any.
    fn discretize(&self, weights: &[Tensor]) -> Architecture {
        match (Relaxation::of(self), weights) {
            (Some(relaxation), [weights]) => relaxation.discretize(weights),
            _ => self.sample(&mut nas_datasets::rng::stream(0, "discretize", 0)),
        }
    }

    fn macs_table(&self, input: Shape) -> Option<(u64, Vec<Vec<f64>>)> {
        let (fixed, table) = Relaxation::of(self)?.macs_table(self, input)?;
        Some((fixed, vec![table]))
    }
}

#[cfg(test)]
mod tests {
    use nas_core::space::SearchSpace;
    use nas_core::train::{all_variables, copy_into};
    use nas_datasets::rng;
    use tch::Kind;

    use super::super::space::SpacePreset;
    use super::*;

    const CLASSES: i64 = 5;

    /// A space with every form of block and head, and little else.
    fn small() -> MobileSegSpace {
        let text = "stem = [4, 8]
            output_strides = [8, 16]
            operators = ['ib_k3_e2', 'ib_k5_e3_d2', 'ib_k3_e1_g2', 'ds_k5', 'extra_k3_k5_e2', 'convnext_k5_e2', 'ffn_e2', 'skip']
            stages = [
              { channels = [4, 8], depths = [0, 1, 2], strides = [1, 2], plain_stride = 2 },
              { channels = [8, 12], depths = [0, 1, 2], strides = [1, 2], plain_stride = 2 },
              { channels = [8, 16], depths = [0, 1, 2], strides = [1, 2], plain_stride = 2 },
            ]
            [head]
            kind = 'chosen'
            contexts = [{ separable_aspp = [2, 4, 8] }, 'lr_aspp', 'pooling']
            channels = [6, 10]
            decoders = [[], [4], [8], [8, 4]]
            taps = ['output', 'hidden']
            convs = [1, 2]
            low_level_channels = [3, 5]
            decoder_channels = [4, 7]";
        nas_core::run::config::from_table(text.parse().unwrap(), "test").unwrap()
    }

    fn supernet(space: &MobileSegSpace) -> (VarStore, MobileSegSupernet) {
        space.check().unwrap();
        tch::manual_seed(5);
        let mut vs = VarStore::new(Device::Cpu);
        let supernet = MobileSegSupernet::new(&VarBuilder::new(&vs), space, CLASSES);
        vs.double();
        tch::no_grad(|| {
            for (name, tensor) in all_variables(&vs) {
                match name.ends_with("running_var") {
                    true => drop(tensor.shallow_clone().uniform_(0.5, 2.0)),
                    false => drop(tensor.shallow_clone().normal_(0.0, 0.3)),
                }
            }
        });
        (vs, supernet)
    }

    fn images() -> Tensor {
        tch::manual_seed(6);
        Tensor::randn([2, 3, 33, 48], (Kind::Double, Device::Cpu))
    }

    /// Logits of a mode, with what is dropped drawn anew.
    fn logits(net: &SegNet, mode: Mode) -> Tensor {
        tch::manual_seed(7);
        tch::no_grad(|| net.forward(&images(), mode))
    }

    #[test]
    fn a_path_is_the_derived_network_with_the_supernets_weights() {
        for (space, count) in [(small(), 25), (SpacePreset::SqueezenasSmall.into(), 2)] {
            let (_vs, supernet) = supernet(&space);
            let mut rng = rng::stream(1, "supernet", 0);
            for _ in 0..count {
                let arch = space.sample(&mut rng);
                let mut vs = VarStore::new(Device::Cpu);
                let derived = space.decode(&arch).unwrap().build(&VarBuilder::new(&vs), CLASSES).unwrap();
                vs.double();
                let weights: HashMap<String, Tensor> = supernet.weights_of(&arch).unwrap().into_iter().collect();
                assert_eq!(weights.len(), vs.len());
                copy_into(&all_variables(&vs), &weights).unwrap();
                // The second pass sees the statistics that the first left.
                for mode in [Mode::EVAL, Mode::train(0.0), Mode::EVAL] {
                    let expected = logits(&derived, mode);
                    let found = logits(&supernet.network(&arch).unwrap(), mode);
                    let difference = (&found - &expected).abs().max().double_value(&[]);
                    assert!(
                        difference < 1e-9 * expected.abs().max().double_value(&[]).max(1.0),
                        "{arch}: {difference}"
                    );
                }
            }
        }
    }

    #[test]
    fn weights_off_the_path_have_no_gradient_and_narrow_paths_reach_the_first_channels() {
        let space = small();
        let (vs, supernet) = supernet(&space);
        let mut rng = rng::stream(2, "supernet", 0);
        let arch = std::iter::repeat_with(|| space.sample(&mut rng))
            .find(|arch| space.stem[usize::from(arch.choices()[0])] == 4);
        let arch = arch.unwrap();
        supernet.forward(&images(), &arch, Mode::train(0.0)).unwrap().square().mean(Kind::Double).backward();
        let weights = vs.variables();
        let reached = |name: &str| weights[name].grad().defined();
        let slots = space.slots(&arch);
        for (name, weight) in
            weights.iter().filter(|(name, weight)| name.starts_with("body.") && weight.requires_grad())
        {
            let on_path = slots
                .iter()
                .any(|slot| name.starts_with(&format!("body.{}.{}.{}.", slot.stage, slot.position, slot.operator)));
            assert!(on_path || !weight.grad().defined(), "{name}");
        }
        assert!(reached("stem.0.weight"));
        let gradient = weights["stem.0.weight"].grad();
        let norms = [(0, 4), (4, 4)].map(|(start, len)| gradient.narrow(0, start, len).norm().double_value(&[]));
        assert!(norms[0] > 0.0 && norms[1] == 0.0, "{norms:?}");
    }

    #[test]
    fn the_largest_path_is_as_wide_and_deep_as_can_be_and_the_smallest_as_little() {
        let space = small();
        let input = nas_core::nn::Shape::new(3, 64, 96);
        let [smallest, largest] = nas_core::one_shot::extremes(&space, input).unwrap();
        let mut rng = rng::stream(3, "supernet", 0);
        let macs = |arch: &Architecture| space.cost(arch, input).unwrap().macs;
        for _ in 0..200 {
            let arch = space.sample(&mut rng);
            assert!((macs(&smallest)..=macs(&largest)).contains(&macs(&arch)), "{arch}");
        }
        let config = space.decode(&largest).unwrap();
        assert_eq!((config.stem, config.blocks().len(), config.output_stride()), (8, 6, 8));
        assert!(config.stages.iter().map(|stage| stage.channels).eq([8, 12, 16]));
    }

    #[test]
    fn every_named_network_is_a_path() {
        let space = MobileSegSpace::default();
        space.check().unwrap();
        let vs = VarStore::new(Device::Cpu);
        let supernet = MobileSegSupernet::new(&VarBuilder::new(&vs), &space, CLASSES);
        for (name, config) in super::super::presets() {
            let Some(arch) = space.encode(&config) else { continue };
            let net = supernet.network(&arch).unwrap();
            assert_eq!(net.cost((64, 96)), config.build(&VarBuilder::dry(), CLASSES).unwrap().cost((64, 96)), "{name}");
        }
    }
}

//! Weight inheritance: a candidate starts from the trained weights of one that it differs little from, as a child does from its
//! parent (Real et al. 2017, arXiv 1703.01041; Net2Net, Chen et al. 2016, arXiv 1511.05641; NASH, Elsken et al. 2018, arXiv
//! 1711.04528).
//!
//! A child that only grew computes what its parent does, up to rounding: wider layers keep the parent's channels first, and what
//! these would read of new channels is zero; a larger kernel has the parent's in its middle and zeros around it; a new residual
//! block starts with its branch at zero. What has shrunk keeps its first channels and the middle of its kernels, and computes
//! something else; where it is known what a parent's channels are worth ([`Taken`]), the best ones stay in their place. All
//! other values are the child's own initial ones.

use std::collections::HashMap;

use tch::Tensor;

use crate::optim::Named;

/// What the variables of a child are in its parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Prefixes of the child's names, and of the parent's in their place; none for a part that the parent has not. What begins
    /// with none of them is called the same in both.
    pub parts: Vec<(String, Option<String>)>,
    /// Scales of the last norms of new residual branches, which start at zero.
    pub silent: Vec<String>,
}

/// A block of a network of stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockParts {
    /// Its stage, and its number there: blocks of one place are each other's.
    pub place: (usize, usize),
    /// What its layers are, and the prefixes of their variables.
    pub layers: Vec<(&'static str, String)>,
    /// Scale of the last norm, where the block is a residual one.
    pub silencer: Option<String>,
}

impl Lineage {
    /// That of networks of blocks: layers of one place and one name are each other's.
    pub fn of_blocks(child: &[BlockParts], parent: &[BlockParts]) -> Self {
        let mut lineage = Self::default();
        for block in child {
            let theirs = parent.iter().find(|theirs| theirs.place == block.place);
            if theirs.is_none() {
                lineage.silent.extend(block.silencer.clone());
            }
            let counterpart = |name: &str| theirs?.layers.iter().find(|(known, _)| *known == name);
            let parts = block.layers.iter().map(|(name, prefix)| {
                let theirs = counterpart(name).map(|(_, prefix)| prefix.clone());
                (prefix.clone(), theirs)
            });
            lineage.parts.extend(parts);
        }
        lineage
    }

    /// The parent's name of a child's variable.
    pub fn name_of(&self, child: &str) -> Option<String> {
        let part = self.parts.iter().find_map(|(prefix, theirs)| Some((child.strip_prefix(prefix.as_str())?, theirs)));
        match part {
            None => Some(child.to_string()),
            Some((rest, theirs)) => theirs.as_ref().map(|prefix| format!("{prefix}{rest}")),
        }
    }
}

/// How many variables of a child come from its parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Inherited {
    /// Equal to the parent's.
    pub whole: usize,
    /// Cut from the parent's, or grown around them.
    pub in_part: usize,
    /// New ones.
    pub new: usize,
}

/// Which entries of an axis of a parent's tensor the child's of this name has, entry by entry, none for new ones; `None` for the
/// first ones.
pub type Taken<'a> = dyn Fn(&str, usize) -> Option<Vec<Option<i64>>> + 'a;

/// Gives the variables of a child, which have their initial values, what the parent's say of them.
pub fn inherit(child: &[Named], parent: &HashMap<String, Tensor>, lineage: &Lineage, taken: &Taken) -> Inherited {
    let mut count = Inherited::default();
    for (name, variable) in child {
        let their_name = lineage.name_of(name);
        let theirs = their_name.as_ref().and_then(|name| parent.get(name));
        tch::no_grad(|| match theirs {
            Some(theirs) if theirs.size() == variable.size() => {
                variable.shallow_clone().copy_(theirs);
                count.whole += 1;
            }
            Some(theirs) if theirs.dim() == variable.dim() => {
                overlap(variable, theirs, &|axis| taken(name, axis));
                count.in_part += 1;
            }
            _ => {
                if lineage.silent.contains(name) {
                    let _ = variable.shallow_clone().zero_();
                }
                count.new += 1;
            }
        });
    }
    count
}

/// Copies what two variables of one rank share: of outputs and inputs (axes 0 and 1) what is `taken`, by default the first, the middle
/// of their kernels (the other axes). What else the shared outputs would read is zero.
fn overlap(variable: &Tensor, theirs: &Tensor, taken: &dyn Fn(usize) -> Option<Vec<Option<i64>>>) {
    let mut target = variable.shallow_clone();
    let mut places = Vec::new();
    let mut values = theirs.shallow_clone();
    for axis in 0..variable.dim() {
        let (ours, their) = (variable.size()[axis], theirs.size()[axis]);
        let shared = ours.min(their);
        let start = |length: i64| if axis < 2 { 0 } else { (length - shared) / 2 };
        let middle = || (0..shared).map(|i| (start(ours) + i, start(their) + i)).unzip();
        let fits = |taken: &Vec<Option<i64>>| taken.len() as i64 == ours;
        let (to, from): (Vec<i64>, Vec<i64>) = match taken(axis).filter(fits) {
            Some(taken) => {
                taken.iter().zip(0..).filter_map(|(theirs, ours)| theirs.map(|theirs| (ours, theirs))).unzip()
            }
            None => middle(),
        };
        let [to, from] = [to, from].map(|places| Tensor::from_slice(&places).to_device(variable.device()));
        if axis == 0 {
            let _ = target.index_fill_(0, &to, 0.0);
        }
        values = values.index_select(axis as i64, &from);
        let mut dims = vec![1; variable.dim()];
        dims[axis] = -1;
        places.push(Some(to.view(dims.as_slice())));
    }
    let _ = target.index_put_(&places, &values.to_kind(variable.kind()), false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Activation, BnConfig, ConvConfig, ConvNorm, Init, Mode, Module, VarBuilder, build_on, conv_bn};
    use crate::train::all_variables;
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    /// Two layers and a residual branch of one, where it has one.
    struct Net {
        vs: VarStore,
        layers: Vec<ConvNorm>,
        branch: Option<ConvNorm>,
    }

    impl Net {
        fn new(width: i64, ksize: i64, branch: bool) -> Self {
            let (vs, (layers, branch)) = build_on(Device::Cpu, |vb| {
                let layer = |vb: &VarBuilder, channels, ksize, activation| {
                    let conv = ConvConfig { init: Init::KaimingFanOut, ..Default::default() };
                    conv_bn(vb, channels, ksize, conv, BnConfig::default(), activation)
                };
                let layers = vec![
                    layer(&vb.sub("first"), (3, width), ksize, Activation::Relu),
                    layer(&vb.sub("second"), (width, 4), 3, Activation::Relu),
                ];
                (layers, branch.then(|| layer(&vb.sub("branch"), (4, 4), 3, Activation::Identity)))
            });
            let mut vs = vs;
            vs.double();
            let net = Self { vs, layers, branch };
            // Statistics, scales and shifts that are not the initial ones.
            tch::no_grad(|| {
                for (name, variable) in all_variables(&net.vs) {
                    if name.contains(".bn.") {
                        variable.shallow_clone().copy_(&(variable.rand_like() + 0.5));
                    }
                }
            });
            net
        }

        fn forward(&self, xs: &Tensor) -> Tensor {
            let xs = self.layers.iter().fold(xs.shallow_clone(), |xs, layer| layer.forward(&xs, Mode::EVAL));
            self.branch.as_ref().map_or_else(|| xs.shallow_clone(), |branch| branch.forward(&xs, Mode::EVAL) + &xs)
        }

        fn tensors(&self) -> HashMap<String, Tensor> {
            all_variables(&self.vs).into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect()
        }
    }

    fn images() -> Tensor {
        Tensor::randn([2, 3, 9, 8], (Kind::Double, Device::Cpu))
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn a_child_that_grew_computes_what_its_parent_does() {
        tch::manual_seed(1);
        let (parent, xs) = (Net::new(5, 3, false), images());
        let branch = Lineage { parts: Vec::new(), silent: vec!["branch.bn.weight".into(), "branch.bn.bias".into()] };
        for (width, ksize, has_branch) in [(5, 3, false), (9, 3, false), (5, 5, false), (5, 3, true), (8, 7, true)] {
            let child = Net::new(width, ksize, has_branch);
            assert!(difference(&child.forward(&xs), &parent.forward(&xs)) > 0.1);
            inherit(&all_variables(&child.vs), &parent.tensors(), &branch, &|_, _| None);
            let error = difference(&child.forward(&xs), &parent.forward(&xs));
            assert!(error < 1e-12, "{width} channels, kernel {ksize}, branch {has_branch}: off by {error}");
        }
    }

    #[test]
    fn what_shrinks_keeps_its_first_channels_and_the_middle_of_its_kernels() {
        tch::manual_seed(2);
        let (parent, child) = (Net::new(6, 5, true), Net::new(4, 3, false));
        let count = inherit(&all_variables(&child.vs), &parent.tensors(), &Lineage::default(), &|_, _| None);
        let (theirs, ours) = (&parent.tensors()["first.conv.weight"], &child.tensors()["first.conv.weight"]);
        let middle = theirs.narrow(0, 0, 4).narrow(2, 1, 3).narrow(3, 1, 3);
        assert_eq!(difference(ours, &middle), 0.0);
        // All of the first layer and what the second reads have other shapes; the second's norm has not.
        assert_eq!(count, Inherited { whole: 4, in_part: 6, new: 0 });
    }

    #[test]
    fn blocks_of_one_place_are_each_others_and_a_new_one_is_silent() {
        let block = |place, layers: &[(&'static str, &str)], silencer: &str| BlockParts {
            place,
            layers: layers.iter().map(|(name, prefix)| (*name, prefix.to_string())).collect(),
            silencer: Some(silencer.to_string()),
        };
        let parent = [block((1, 0), &[("depthwise", "1.0."), ("project", "1.1.")], "1.n")];
        let child = [
            block((0, 0), &[("depthwise", "1.0.")], "1.n"),
            block((1, 0), &[("expand", "2.0."), ("depthwise", "2.1.")], "2.n"),
        ];
        let lineage = Lineage::of_blocks(&child, &parent);
        let part = |ours: &str, theirs: Option<&str>| (ours.to_string(), theirs.map(String::from));
        assert_eq!(lineage.parts, [part("1.0.", None), part("2.0.", None), part("2.1.", Some("1.0."))]);
        assert_eq!(lineage.silent, ["1.n"]);
    }

    #[test]
    fn parts_are_found_under_the_parents_names_and_new_ones_keep_their_values() {
        let named = |name: &str, value: f64| (name.to_string(), Tensor::from(value).view([1]));
        let child =
            [named("features.1.w", 0.0), named("features.10.w", 0.0), named("features.2.w", 7.0), named("head.w", 0.0)];
        let parent =
            [named("features.4.w", 1.0), named("features.10.w", 2.0), named("head.w", 3.0)].into_iter().collect();
        let parts = vec![("features.1.".to_string(), Some("features.4.".to_string())), ("features.2.".into(), None)];
        let count = inherit(&child, &parent, &Lineage { parts, silent: Vec::new() }, &|_, _| None);
        let values: Vec<f64> = child.iter().map(|(_, tensor)| tensor.double_value(&[0])).collect();
        assert_eq!(values, [1.0, 2.0, 7.0, 3.0]);
        assert_eq!(count, Inherited { whole: 3, in_part: 0, new: 1 });
    }
}

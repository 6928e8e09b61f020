//! Operators of a block, by a notation of their own: SqueezeNAS' thirteen (arXiv 1908.01748), the forms of MobileNetV4's
//! universal inverted bottleneck (Qin et al. 2024, arXiv 2404.10518), and the fused bottleneck (Tan and Le 2021, arXiv 2104.00298).
//!
//! | notation | layers |
//! |---|---|
//! | `ds_k3` | depthwise 3x3, 1x1: MobileNetV2's block of expansion 1 |
//! | `ib_k5_e3` | 1x1 to three times the channels, depthwise 5x5, 1x1: the inverted bottleneck |
//! | `extra_k3_k5_e4` | depthwise 3x3, then `ib_k5_e4`: the extra depthwise form |
//! | `convnext_k5_e4` | depthwise 5x5, 1x1 to four times the channels, 1x1 |
//! | `ffn_e4` | 1x1 to four times the channels, 1x1 |
//! | `fused_k3_e4` | full 3x3 to four times the channels, 1x1 |
//! | `skip` | nothing where the block may be left out; else SqueezeNAS' change of channels or stride |
//!
//! `_se` scales the channels before the last 1x1 by their means (squeeze-and-excitation as in MobileNetV3, arXiv 1905.02244),
//! `_g2` divides the convolutions that are not depthwise in two groups, `_d2` dilates those of more than
//! one pixel.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a block of the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
pub enum Operator {
    /// The identity, or what stands for it where channels or stride change.
    Skip,
    /// Convolutions.
    Bottleneck(Bottleneck),
}

/// A universal inverted bottleneck: up to two depthwise convolutions around a 1x1 expansion, then a linear 1x1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bottleneck {
    /// Side of the depthwise kernel before the expansion.
    pub start: Option<i64>,
    /// Side of the depthwise kernel after the expansion.
    pub middle: Option<i64>,
    /// Hidden channels per channel of the input; none for a block without an expansion, whose hidden channels are the
    /// input's.
    pub expansion: Option<i64>,
    /// Groups of the convolutions that are not depthwise.
    pub groups: i64,
    /// Distance between the taps of the kernels.
    pub dilation: i64,
    /// Whether one full convolution of the middle's kernel stands for expansion and depthwise convolution.
    pub fused: bool,
    /// Whether the channels after the middle are scaled by a function of their means.
    pub squeeze: bool,
}

impl Bottleneck {
    /// Values that the means of `hidden` channels are squeezed to: a quarter, a multiple of 8.
    pub fn squeezed(hidden: i64) -> i64 {
        ((hidden / 4 + 4) / 8 * 8).max(8)
    }
}

impl Operator {
    /// The inverted bottleneck of a depthwise kernel and an expansion.
    pub const fn inverted(ksize: i64, expansion: i64) -> Self {
        let (start, middle, expansion) = (None, Some(ksize), Some(expansion));
        Self::Bottleneck(Bottleneck { start, middle, expansion, groups: 1, dilation: 1, fused: false, squeeze: false })
    }

    /// A depthwise and a 1x1 convolution.
    pub const fn separable(ksize: i64) -> Self {
        let (start, middle, expansion) = (None, Some(ksize), None);
        Self::Bottleneck(Bottleneck { start, middle, expansion, groups: 1, dilation: 1, fused: false, squeeze: false })
    }

    /// A full convolution that expands, and a 1x1.
    pub const fn fused(ksize: i64, expansion: i64) -> Self {
        let (start, middle, expansion) = (None, Some(ksize), Some(expansion));
        Self::Bottleneck(Bottleneck { start, middle, expansion, groups: 1, dilation: 1, fused: true, squeeze: false })
    }

    /// The operator with convolutions of `groups` groups.
    pub const fn grouped(self, groups: i64) -> Self {
        match self {
            Self::Skip => self,
            Self::Bottleneck(bottleneck) => Self::Bottleneck(Bottleneck { groups, ..bottleneck }),
        }
    }

    /// The operator on taps `rate` times as far apart.
    pub const fn dilated(self, rate: i64) -> Self {
        match self {
            Self::Bottleneck(b) if self.has_kernel() => {
                Self::Bottleneck(Bottleneck { dilation: b.dilation * rate, ..b })
            }
            _ => self,
        }
    }

    /// The operator with squeeze-and-excitation, where a kernel follows the expansion.
    pub const fn squeezing(self) -> Self {
        match self {
            Self::Bottleneck(b) if self.has_hidden() => Self::Bottleneck(Bottleneck { squeeze: true, ..b }),
            _ => self,
        }
    }

    /// Whether a stride or a dilation has a kernel to act on.
    pub const fn has_kernel(self) -> bool {
        matches!(self, Self::Bottleneck(b) if b.start.is_some() || b.middle.is_some())
    }

    /// Whether a map after the expansion and the kernel that follows it can be tapped.
    pub const fn has_hidden(self) -> bool {
        matches!(self, Self::Bottleneck(b) if b.middle.is_some())
    }

    /// Channels after the expansion per channel before it.
    pub fn expansion(self) -> i64 {
        match self {
            Self::Skip => 1,
            Self::Bottleneck(bottleneck) => bottleneck.expansion.unwrap_or(1),
        }
    }

    /// What it is beside the size of its expansion, part by part; a skip has no parts.
    pub(super) fn form(self) -> [u16; 7] {
        let Self::Bottleneck(Bottleneck { start, middle, expansion, groups, dilation, fused, squeeze }) = self else {
            return [u16::MAX; 7];
        };
        let [start, middle] = [start, middle].map(|side| side.unwrap_or(0));
        let [expands, fused, squeeze] = [expansion.is_some(), fused, squeeze].map(i64::from);
        [start, middle, expands, groups, dilation, fused, squeeze].map(|part| part as u16)
    }

    /// Whether it can be the first block of a stage of stride 2.
    pub const fn can_stride(self) -> bool {
        matches!(self, Self::Skip) || self.has_kernel()
    }

    /// SqueezeNAS' operators in its order, 0 to 12.
    pub fn squeezenas() -> Vec<Self> {
        let forms = |ksize| {
            let [plain, three, six] = [1, 3, 6].map(|expansion| Self::inverted(ksize, expansion));
            [plain, plain.grouped(2), three, six]
        };
        let dilated = forms(3).map(|operator| operator.dilated(2));
        [forms(3), forms(5), dilated].into_iter().flatten().chain([Self::Skip]).collect()
    }

    /// The operators of the space where a config does not list them: SqueezeNAS', expansions 2 and 4 beside its 1, 3 and 6, and
    /// the universal inverted bottleneck's forms. Fused ones and those with squeeze-and-excitation have to be listed.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::separable(3), Self::separable(5)];
        for expansion in [1, 2, 3, 4, 6] {
            let [small, large] = [3, 5].map(|ksize| Self::inverted(ksize, expansion));
            all.extend([small, large, small.dilated(2)]);
        }
        all.extend(Self::squeezenas().into_iter().filter(|o| matches!(o, Self::Bottleneck(b) if b.groups == 2)));
        let form = |start, middle, expansion| {
            let expansion = Some(expansion);
            let (groups, dilation, fused, squeeze) = (1, 1, false, false);
            Self::Bottleneck(Bottleneck { start, middle, expansion, groups, dilation, fused, squeeze })
        };
        for expansion in [2, 4] {
            all.extend([
                form(Some(3), Some(3), expansion),
                form(Some(3), Some(5), expansion),
                form(Some(5), None, expansion),
                form(None, None, expansion),
            ]);
        }
        all.push(Self::Skip);
        all
    }

    /// Says which number no block can be made of.
    pub fn check(self) -> Result<(), String> {
        let Self::Bottleneck(Bottleneck { start, middle, expansion, groups, dilation, .. }) = self else {
            return Ok(());
        };
        for ksize in [start, middle].into_iter().flatten() {
            if ksize % 2 == 0 || !(1..=15).contains(&ksize) {
                return Err(format!("a kernel of side {ksize}; expected an odd side of 1 to 15"));
            }
        }
        let range = |what: &str, value: i64, most: i64| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(format!("{what} {value}; expected 1 to {most}")),
        };
        range("expansion", expansion.unwrap_or(1), 16)?;
        range("groups", groups, 8)?;
        range("dilation", dilation, 64)
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self::Bottleneck(Bottleneck { start, middle, expansion, groups, dilation, fused, squeeze }) = self else {
            return f.write_str("skip");
        };
        f.write_str(match (start, middle, expansion) {
            _ if *fused => "fused",
            (None, Some(_), None) => "ds",
            (None, Some(_), Some(_)) => "ib",
            (Some(_), Some(_), _) => "extra",
            (Some(_), None, _) => "convnext",
            (None, None, _) => "ffn",
        })?;
        [start, middle].into_iter().flatten().try_for_each(|ksize| write!(f, "_k{ksize}"))?;
        expansion.iter().try_for_each(|expansion| write!(f, "_e{expansion}"))?;
        let other = |name: char, value: i64| if value == 1 { String::new() } else { format!("_{name}{value}") };
        let squeeze = if *squeeze { "_se" } else { "" };
        write!(f, "{}{}{squeeze}", other('g', *groups), other('d', *dilation))
    }
}

/// A text that is no operator.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is no operator: {reason}; expected such as skip, ds_k3, ib_k5_e3, ib_k3_e1_g2_d2, extra_k3_k5_e4, convnext_k5_e4, ffn_e4 or fused_k3_e4"
)]
pub struct ParseOperatorError {
    text: String,
    reason: String,
}

impl FromStr for Operator {
    type Err = ParseOperatorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason| ParseOperatorError { text: text.into(), reason };
        let operator = parse(text).map_err(error)?;
        operator.check().map_err(error)?;
        Ok(operator)
    }
}

fn parse(text: &str) -> Result<Operator, String> {
    let (kind, rest) = text.split_once('_').unwrap_or((text, ""));
    let mut kernels = Vec::new();
    let (mut expansion, mut groups, mut dilation, mut squeeze) = (None, 1, 1, false);
    for part in rest.split('_').filter(|part| !part.is_empty()) {
        if part == "se" {
            squeeze = true;
            continue;
        }
        let mut letters = part.chars();
        let (name, number) = (letters.next(), letters.as_str());
        let number: i64 = number.parse().map_err(|_| format!("{part:?} has no number"))?;
        match name {
            Some('k') => kernels.push(number),
            Some('e') => expansion = Some(number),
            Some('g') => groups = number,
            Some('d') => dilation = number,
            _ => return Err(format!("{part:?} is neither k, e, g, d nor se")),
        }
    }
    let (start, middle) = match (kind, &kernels[..], expansion) {
        ("skip", [], None) if rest.is_empty() => return Ok(Operator::Skip),
        ("ds", [middle], None) | ("ib" | "fused", [middle], Some(_)) => (None, Some(*middle)),
        ("extra", [start, middle], Some(_)) => (Some(*start), Some(*middle)),
        ("convnext", [start], Some(_)) => (Some(*start), None),
        ("ffn", [], Some(_)) if dilation == 1 => (None, None),
        _ => return Err("kind, kernels and expansion do not make one".into()),
    };
    if squeeze && middle.is_none() {
        return Err("se follows a kernel after the expansion, and there is none".into());
    }
    let fused = kind == "fused";
    Ok(Operator::Bottleneck(Bottleneck { start, middle, expansion, groups, dilation, fused, squeeze }))
}

impl TryFrom<String> for Operator {
    type Error = ParseOperatorError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Operator> for String {
    fn from(operator: Operator) -> String {
        operator.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations_round_trip_and_are_distinct() {
        let all = Operator::all();
        let names: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), all.len());
        let fused = Operator::fused(3, 4);
        let much = fused.dilated(2).grouped(2).squeezing();
        assert_eq!(much.to_string(), "fused_k3_e4_g2_d2_se");
        let listed = [fused, much, Operator::separable(5).squeezing()];
        for operator in all.iter().chain(&Operator::squeezenas()).chain(&listed) {
            assert_eq!(operator.to_string().parse::<Operator>().unwrap(), *operator);
        }
        let squeezenas = Operator::squeezenas();
        assert!(squeezenas.iter().all(|operator| all.contains(operator)));
        let names = squeezenas.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            [&names[1][..], &names[7], &names[9], &names[12]],
            ["ib_k3_e1_g2", "ib_k5_e6", "ib_k3_e1_g2_d2", "skip"]
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("ib_k3", "do not make one"),
            ("ib_k4_e2", "side 4"),
            ("ib_k3_e0", "expansion 0"),
            ("ib_k3_e2_d0", "dilation 0"),
            ("ffn_e2_d2", "do not make one"),
            ("ib_kx_e2", "\"kx\""),
            ("conv", "do not make one"),
            ("fused_k3", "do not make one"),
            ("ffn_e4_se", "there is none"),
            ("", "do not make one"),
        ] {
            let error = text.parse::<Operator>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

//! The space: where the strides are, widths, depths, operators, context module and decoder, each a choice.
//!
//! An architecture stands for a [`MobileSegConfig`]. Two choices that give the same network are one architecture: those that
//! nothing of the network depends on are 0, blocks stand in the first stages that can hold them, and blocks that do nothing
//! are left out ([`MobileSegSpace::encode`]).

use anyhow::{Context as _, Result, ensure};
use nas_core::nn::{Activation, BnConfig, Cost, Shape, VarBuilder};
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::{Architecture, Backbone, ChoiceSpace, InvalidArchitecture, SearchSpace};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::block::{Names, Place};
use super::config::{
    DecoderStep, HeadConfig, MobileSegConfig, PlacedBlock, STEM_STRIDE, StageConfig, Tap, default_activation,
    default_dropout, rate,
};
use super::network::{Slot, Trunk};
use super::operator::Operator;
use super::presets::{SqueezeSize, presets};
use super::traits;

/// The forms of the space that have names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpacePreset {
    /// MobileNetV2's stages; strides, widths, depths, operators, head and decoder are choices.
    #[default]
    MobilenetV2,
    /// SqueezeNAS' smallest table: operators alone are choices.
    SqueezenasSmall,
    /// SqueezeNAS' second table.
    SqueezenasLarge,
    /// SqueezeNAS' largest table.
    SqueezenasXlarge,
}

/// A space of inverted residuals for dense prediction. In a config every key that is not given is the preset's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "Settings")]
#[schemars(!from, deny_unknown_fields, transform = nothing_required)]
pub struct MobileSegSpace {
    /// Where keys that a config does not give come from.
    pub preset: SpacePreset,
    /// Channels of the first convolution.
    pub stem: Vec<i64>,
    /// The stages.
    pub stages: Vec<StageChoices>,
    /// What a block can be.
    pub operators: Vec<Operator>,
    /// Strides that the last map can have.
    pub output_strides: Vec<i64>,
    /// Channels of a last 1x1 convolution; 0 for none.
    pub last: i64,
    /// Follows the norms of the body.
    pub activation: Activation,
    /// Names of the variables.
    pub names: Names,
    /// All norms.
    pub bn: BnConfig,
    /// Probability of dropping a value of the context module's output in training.
    pub dropout: f64,
    /// What makes logits of the maps.
    pub head: HeadChoices,
}

fn nothing_required(schema: &mut Schema) {
    schema.remove("required");
}

/// The keys of a config.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    preset: SpacePreset,
    stem: Option<Vec<i64>>,
    stages: Option<Vec<StageChoices>>,
    operators: Option<Vec<Operator>>,
    output_strides: Option<Vec<i64>>,
    last: Option<i64>,
    activation: Option<Activation>,
    names: Option<Names>,
    bn: Option<BnConfig>,
    dropout: Option<f64>,
    head: Option<HeadChoices>,
}

/// What a stage can be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageChoices {
    /// Channels of its blocks.
    pub channels: Vec<i64>,
    /// Blocks; 0 for no stage at all.
    pub depths: Vec<usize>,
    /// Strides of the first block.
    pub strides: Vec<i64>,
    /// The stride whose loss dilation makes up for.
    pub plain_stride: i64,
}

/// What a head can be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum HeadChoices {
    /// One head for all.
    Fixed {
        /// The head.
        head: HeadConfig,
    },
    /// Context and decoder are choices.
    Chosen {
        /// Context modules.
        contexts: Vec<Context>,
        /// Channels of the context module.
        channels: Vec<i64>,
        /// Strides of the maps that decoders take, the coarser first; an empty one is no decoder.
        decoders: Vec<Vec<i64>>,
        /// Which maps of a block decoders take.
        taps: Vec<Tap>,
        /// Separable convolutions of a decoder step.
        convs: Vec<usize>,
        /// Channels that finer maps are reduced to.
        low_level_channels: Vec<i64>,
        /// Channels of decoder steps.
        decoder_channels: Vec<i64>,
    },
}

/// A context module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// A separable pyramid of these rates on a map of stride 16.
    SeparableAspp([i64; 3]),
    /// A 1x1 convolution with a gate.
    LrAspp,
    /// A 1x1 convolution and the mean of the image.
    Pooling,
}

impl Context {
    /// The head with this context module.
    pub(super) fn head(self, channels: i64, decoder: Vec<DecoderStep>) -> HeadConfig {
        match self {
            Self::SeparableAspp(rates) => HeadConfig::SeparableAspp { rates, channels, decoder },
            Self::LrAspp => HeadConfig::LrAspp { channels, decoder },
            Self::Pooling => HeadConfig::Pooling { channels, decoder },
        }
    }
}

/// The widths of MobileNetV2's stages times 0.5, 0.75, 1 and 1.25, as multiples of 8 and each once; and their plain strides.
const MOBILENET_V2: [(&[i64], i64); 6] = [
    (&[8, 16, 24], 1),
    (&[16, 24, 32], 2),
    (&[16, 24, 32, 40], 2),
    (&[32, 48, 64, 80], 2),
    (&[48, 72, 96, 120], 1),
    (&[80, 120, 160, 200], 2),
];
const MAX_DEPTH: usize = 4;

impl From<Settings> for MobileSegSpace {
    fn from(settings: Settings) -> Self {
        let base = match settings.preset {
            SpacePreset::MobilenetV2 => Self::mobilenet_v2(),
            SpacePreset::SqueezenasSmall => Self::squeezenas(settings.preset, SqueezeSize::Small),
            SpacePreset::SqueezenasLarge => Self::squeezenas(settings.preset, SqueezeSize::Large),
            SpacePreset::SqueezenasXlarge => Self::squeezenas(settings.preset, SqueezeSize::Xlarge),
        };
        Self {
            preset: base.preset,
            stem: settings.stem.unwrap_or(base.stem),
            stages: settings.stages.unwrap_or(base.stages),
            operators: settings.operators.unwrap_or(base.operators),
            output_strides: settings.output_strides.unwrap_or(base.output_strides),
            last: settings.last.unwrap_or(base.last),
            activation: settings.activation.unwrap_or(base.activation),
            names: settings.names.unwrap_or(base.names),
            bn: settings.bn.unwrap_or(base.bn),
            dropout: settings.dropout.unwrap_or(base.dropout),
            head: settings.head.unwrap_or(base.head),
        }
    }
}

impl Default for MobileSegSpace {
    fn default() -> Self {
        Self::mobilenet_v2()
    }
}

impl From<SpacePreset> for MobileSegSpace {
    fn from(preset: SpacePreset) -> Self {
        Settings { preset, ..Default::default() }.into()
    }
}

impl MobileSegSpace {
    fn mobilenet_v2() -> Self {
        let stage = |(channels, plain_stride): (&[i64], i64)| StageChoices {
            channels: channels.to_vec(),
            depths: (0..=MAX_DEPTH).collect(),
            strides: vec![1, 2],
            plain_stride,
        };
        let [small, middle, large] = [[2, 4, 8], [3, 6, 9], [6, 12, 18]].map(Context::SeparableAspp);
        Self {
            preset: SpacePreset::MobilenetV2,
            stem: vec![8, 16, 24, 32],
            stages: MOBILENET_V2.map(stage).to_vec(),
            operators: Operator::all(),
            output_strides: vec![8, 16, 32],
            last: 0,
            activation: default_activation(),
            names: Names::Torchvision,
            bn: BnConfig::default(),
            dropout: default_dropout(),
            head: HeadChoices::Chosen {
                contexts: vec![small, middle, large, Context::LrAspp, Context::Pooling],
                channels: vec![32, 48, 64, 96],
                decoders: vec![vec![], vec![4], vec![8], vec![8, 4]],
                taps: vec![Tap::Output, Tap::Hidden],
                convs: vec![1, 2],
                low_level_channels: vec![16, 24, 32],
                decoder_channels: vec![32, 48, 64],
            },
        }
    }

    fn squeezenas(preset: SpacePreset, size: SqueezeSize) -> Self {
        let stage = |(channels, blocks, stride)| StageChoices {
            channels: vec![channels],
            depths: vec![blocks],
            strides: vec![stride],
            plain_stride: stride,
        };
        Self {
            preset,
            stem: vec![size.stem()],
            stages: size.stages().into_iter().map(stage).collect(),
            operators: Operator::squeezenas(),
            output_strides: vec![16],
            last: size.last(),
            activation: Activation::Relu,
            names: Names::Squeezenas,
            bn: BnConfig::default(),
            dropout: 0.0,
            head: HeadChoices::Fixed { head: size.head() },
        }
    }

    /// Names of the decisions and of their choices, in the order in which an architecture holds them.
    pub fn names(&self) -> Vec<Decision> {
        let mut names = vec![Decision::new("stem channels", &self.stem)];
        for (i, stage) in self.stages.iter().enumerate() {
            names.push(Decision::new(format!("stage {i} channels"), &stage.channels));
            names.push(Decision::new(format!("stage {i} depth"), &stage.depths));
            names.push(Decision::new(format!("stage {i} stride"), &stage.strides));
            let block = |block| Decision::new(format!("stage {i} block {block}"), &self.operators);
            names.extend((0..stage.max_depth()).map(block));
        }
        if let HeadChoices::Chosen { contexts, channels, decoders, taps, convs, low_level_channels, decoder_channels } =
            &self.head
        {
            let debug = |choices: &[Context]| choices.iter().map(|choice| format!("{choice:?}")).collect::<Vec<_>>();
            names.push(Decision::new("context", debug(contexts)));
            names.push(Decision::new("context channels", channels));
            names.push(Decision::new("decoder strides", decoders.iter().map(|strides| format!("{strides:?}"))));
            names.push(Decision::new("decoder takes", taps.iter().map(|tap| format!("{tap:?}"))));
            names.push(Decision::new("decoder convolutions", convs));
            for step in 0..self.decoder_steps() {
                names.push(Decision::new(format!("decoder {step} low level channels"), low_level_channels));
                names.push(Decision::new(format!("decoder {step} channels"), decoder_channels));
            }
        }
        names
    }

    /// Says which key has an impossible value.
    pub fn check(&self) -> Result<()> {
        let Self { stem, stages, operators, output_strides, .. } = self;
        let channels = |key: &str, list: &[i64]| {
            let sound = !list.is_empty() && list.iter().all(|c| (1..=4096).contains(c));
            ensure!(sound, "space.{key} = {list:?}: expected numbers of 1 to 4096");
            let distinct = list.iter().collect::<std::collections::BTreeSet<_>>().len() == list.len();
            ensure!(distinct, "space.{key} = {list:?}: expected each number once");
            Ok(())
        };
        channels("stem", stem)?;
        channels("output_strides", output_strides)?;
        ensure!(!operators.is_empty(), "space.operators = []: expected at least one");
        ensure!(!stages.is_empty(), "space.stages = []: expected at least one");
        for (i, stage) in stages.iter().enumerate() {
            let StageChoices { channels: widths, depths, strides, plain_stride } = stage;
            channels(&format!("stages[{i}].channels"), widths)?;
            let sound = !depths.is_empty() && depths.is_sorted_by(|a, b| a < b) && depths.iter().all(|d| *d <= 32);
            ensure!(sound, "space.stages[{i}].depths = {depths:?}: expected rising numbers of 0 to 32");
            channels(&format!("stages[{i}].strides"), strides)?;
            let sound = strides.iter().chain([plain_stride]).all(|stride| (1..=2).contains(stride));
            ensure!(sound, "space.stages[{i}]: strides {strides:?}, plain_stride {plain_stride}; expected 1 and 2");
        }
        if let HeadChoices::Chosen {
            contexts,
            channels: widths,
            decoders,
            taps,
            convs,
            low_level_channels,
            decoder_channels,
        } = &self.head
        {
            channels("head.channels", widths)?;
            channels("head.low_level_channels", low_level_channels)?;
            channels("head.decoder_channels", decoder_channels)?;
            for (key, empty) in [
                ("contexts", contexts.is_empty()),
                ("decoders", decoders.is_empty()),
                ("taps", taps.is_empty()),
                ("convs", convs.is_empty()),
            ] {
                ensure!(!empty, "space.head.{key} = []: expected at least one");
            }
        }
        self.sample_config(&mut nas_datasets::rng::stream(0, "check", 0)).map(drop)
    }

    /// Decisions of a stage: channels, depth, stride, operators.
    fn stage_decisions(stage: &StageChoices) -> usize {
        3 + stage.max_depth()
    }

    /// Decoder steps that a head can have.
    pub(super) fn decoder_steps(&self) -> usize {
        match &self.head {
            HeadChoices::Fixed { .. } => 0,
            HeadChoices::Chosen { decoders, .. } => decoders.iter().map(Vec::len).max().unwrap_or(0),
        }
    }

    /// The network that `arch` stands for.
    pub fn decode(&self, arch: &Architecture) -> Result<MobileSegConfig, InvalidArchitecture> {
        self.check_choices(arch)?;
        self.decode_checked(arch.choices()).map_err(|error| self.invalid(arch, format!("{error:#}")))
    }

    fn decode_checked(&self, choices: &[u16]) -> Result<MobileSegConfig> {
        let mut choices = choices.iter().map(|choice| usize::from(*choice));
        let mut next = || choices.next().expect("as many as there are decisions");
        let stem = self.stem[next()];
        let mut stages = Vec::new();
        for stage in &self.stages {
            let channels = stage.channels[next()];
            let depth = stage.depths[next()];
            let stride = stage.strides[next()];
            let blocks: Vec<Operator> = (0..stage.max_depth()).map(|_| self.operators[next()]).collect();
            if depth > 0 {
                let plain_stride = (stride != stage.plain_stride).then_some(stage.plain_stride);
                stages.push(StageConfig { channels, stride, plain_stride, blocks: blocks[..depth].to_vec() });
            }
        }
        let mut config = MobileSegConfig {
            stem,
            stages,
            last: self.last,
            activation: self.activation,
            names: self.names,
            bn: self.bn,
            dropout: self.dropout,
            head: HeadConfig::Pooling { channels: 1, decoder: Vec::new() },
        };
        let output_stride = config.output_stride();
        ensure!(
            self.output_strides.contains(&output_stride),
            "output stride {output_stride}, expected one of {:?}",
            self.output_strides
        );
        config.head = self.decode_head(&config.blocks(), &mut next);
        config.validate()?;
        Ok(config)
    }

    fn decode_head(&self, blocks: &[PlacedBlock], next: &mut impl FnMut() -> usize) -> HeadConfig {
        let (contexts, widths, decoders, taps, convs, low_level, decoder_channels) = match &self.head {
            HeadChoices::Fixed { head } => return head.clone(),
            HeadChoices::Chosen { contexts, channels, decoders, taps, convs, low_level_channels, decoder_channels } => {
                (contexts, channels, decoders, taps, convs, low_level_channels, decoder_channels)
            }
        };
        let (context, channels) = (contexts[next()], widths[next()]);
        let (strides, tap, convs) = (&decoders[next()], taps[next()], convs[next()]);
        let step = |stride: &i64| {
            let tap = if has_hidden(blocks, *stride) { tap } else { Tap::Output };
            let (low_level_channels, channels) = (low_level[next()], decoder_channels[next()]);
            DecoderStep { stride: *stride, tap, low_level_channels, channels, convs }
        };
        let decoder = strides.iter().map(step).collect();
        context.head(channels, decoder)
    }

    /// The architecture of choices such as `1-0-3`, or of a network with a name. An error where it is not of the space.
    pub fn parse(&self, text: &str) -> Result<Architecture> {
        let named = presets().into_iter().find(|(name, _)| *name == text);
        let Some((_, mut config)) = named else {
            return text.parse().with_context(|| format!("{text:?} is no network with a name and no list of choices"));
        };
        // A network's name stands for its choices, whatever the activation that all networks of the space have.
        config.activation = self.activation;
        self.encode(&config)
            .with_context(|| format!("{text} is not of this space: its choices do not hold that network"))
    }

    /// The one architecture that stands for `config`; none where it is not of the space.
    pub fn encode(&self, config: &MobileSegConfig) -> Option<Architecture> {
        let Self { last, activation, names, bn, dropout, .. } = self;
        let common = (config.last, config.activation, config.names, config.bn, config.dropout);
        if (*last, *activation, *names, *bn, *dropout) != common {
            return None;
        }
        let mut choices = vec![index(&self.stem, &config.stem)?];
        let blocks = config.blocks();
        let mut body: Vec<PlacedBlock> = blocks.clone();
        body.retain(|block| block.operator != Operator::Skip || !block.place.is_residual());
        let start = Placing { c_in: config.stem, actual: STEM_STRIDE, plain: STEM_STRIDE };
        if !self.place(&body, 0, start, &mut choices) || !self.output_strides.contains(&config.output_stride()) {
            return None;
        }
        self.encode_head(&config.head, &blocks, &mut choices)?;
        Some(Architecture::new(choices))
    }

    /// Distributes `blocks` over the stages from `stage` on, as many as possible to the first, and appends their choices.
    fn place(&self, blocks: &[PlacedBlock], stage: usize, at: Placing, choices: &mut Vec<u16>) -> bool {
        let Some(choices_of_stage) = self.stages.get(stage) else { return blocks.is_empty() };
        let longest = choices_of_stage.max_depth().min(blocks.len());
        for taken in (0..=longest).rev() {
            let (here, rest) = blocks.split_at(taken);
            let before = choices.len();
            if let Some(after) = self.place_stage(choices_of_stage, here, at, choices)
                && self.place(rest, stage + 1, after, choices)
            {
                return true;
            }
            choices.truncate(before);
        }
        false
    }

    fn place_stage(
        &self,
        stage: &StageChoices,
        blocks: &[PlacedBlock],
        at: Placing,
        choices: &mut Vec<u16>,
    ) -> Option<Placing> {
        let (depth, options) = stage.depths.iter().enumerate().find(|(_, depth)| **depth >= blocks.len())?;
        let padding = options - blocks.len();
        let skip = if padding > 0 { index(&self.operators, &Operator::Skip)? } else { 0 };
        let void = stage.max_depth() - options;
        let Some(first) = blocks.first() else {
            if padding == 0 {
                choices.extend([0, depth as u16]);
                choices.extend(std::iter::repeat_n(0, Self::stage_decisions(stage) - 2));
                return Some(at);
            }
            // A stage that must be there and does nothing.
            choices.extend([index(&stage.channels, &at.c_in)?, depth as u16, index(&stage.strides, &1)?]);
            choices.extend(std::iter::repeat_n(skip, padding).chain(std::iter::repeat_n(0, void)));
            return Some(Placing { plain: at.plain * stage.plain_stride, ..at });
        };
        let Place { channels: (_, channels), stride } = first.place;
        let uniform = |block: &PlacedBlock| block.place.channels.1 == channels && block.place.stride == 1;
        if !blocks[1..].iter().all(uniform) {
            return None;
        }
        choices.extend([index(&stage.channels, &channels)?, depth as u16, index(&stage.strides, &stride)?]);
        let after = Placing { c_in: channels, actual: at.actual * stride, plain: at.plain * stage.plain_stride };
        for (i, block) in blocks.iter().enumerate() {
            let rate = if i == 0 { at.rate() } else { after.rate() };
            let operator = self.operators.iter().position(|operator| operator.dilated(rate) == block.operator)?;
            choices.push(operator as u16);
        }
        choices.extend(std::iter::repeat_n(skip, padding).chain(std::iter::repeat_n(0, void)));
        Some(after)
    }

    fn encode_head(&self, head: &HeadConfig, blocks: &[PlacedBlock], choices: &mut Vec<u16>) -> Option<()> {
        let HeadChoices::Chosen {
            contexts,
            channels: widths,
            decoders,
            taps,
            convs,
            low_level_channels,
            decoder_channels,
        } = &self.head
        else {
            return (HeadChoices::Fixed { head: head.clone() } == self.head).then_some(());
        };
        let (context, channels, decoder) = match head {
            HeadConfig::SeparableAspp { rates, channels, decoder } => {
                (Context::SeparableAspp(*rates), channels, decoder)
            }
            HeadConfig::LrAspp { channels, decoder } => (Context::LrAspp, channels, decoder),
            HeadConfig::Pooling { channels, decoder } => (Context::Pooling, channels, decoder),
            HeadConfig::SqueezenasLrAspp { .. } | HeadConfig::SqueezenasAspp { .. } => return None,
        };
        let strides: Vec<i64> = decoder.iter().map(|step| step.stride).collect();
        choices.extend([index(contexts, &context)?, index(widths, channels)?, index(decoders, &strides)?]);
        let hidden: Vec<Tap> =
            decoder.iter().filter(|step| has_hidden(blocks, step.stride)).map(|step| step.tap).collect();
        let all_convs = decoder.first().map_or(convs[0], |step| step.convs);
        let same = hidden.iter().all(|tap| *tap == hidden[0]) && decoder.iter().all(|step| step.convs == all_convs);
        let tap = hidden.first().copied().map_or(Some(0), |tap| index(taps, &tap));
        choices.extend([tap.filter(|_| same)?, index(convs, &all_convs)?]);
        for step in decoder {
            choices.extend([
                index(low_level_channels, &step.low_level_channels)?,
                index(decoder_channels, &step.channels)?,
            ]);
        }
        choices.extend(std::iter::repeat_n(0, 2 * (self.decoder_steps() - decoder.len())));
        Some(())
    }

    /// The cost of the network of `arch` for `num_classes` on an image of `size` (height, width), head and logits included.
    pub fn network_cost(&self, arch: &Architecture, num_classes: i64, size: (i64, i64)) -> Result<Cost> {
        Ok(self.decode(arch)?.build(&VarBuilder::dry(), num_classes)?.cost(size))
    }

    /// Choices drawn one by one, strides among those that end at an output stride of the space.
    fn sample_config(&self, rng: &mut ChaCha8Rng) -> Result<MobileSegConfig> {
        const TRIES: usize = 10_000;
        for _ in 0..TRIES {
            let choices: Vec<u16> = self.decisions().iter().map(|options| rng.random_range(0..*options)).collect();
            if let Ok(config) = self.decode_checked(&choices)
                && self.encode(&config).is_some()
            {
                return Ok(config);
            }
        }
        anyhow::bail!("space: none of {TRIES} random choices makes a network; are strides and output_strides at odds?")
    }
}

impl StageChoices {
    pub(super) fn max_depth(&self) -> usize {
        self.depths.last().copied().unwrap_or(0)
    }
}

/// What is before a stage.
#[derive(Clone, Copy)]
struct Placing {
    c_in: i64,
    actual: i64,
    plain: i64,
}

impl Placing {
    fn rate(self) -> i64 {
        rate(self.plain, self.actual)
    }
}

fn index<T: PartialEq>(list: &[T], value: &T) -> Option<u16> {
    list.iter().position(|entry| entry == value).map(|i| i as u16)
}

/// Whether the last block of `stride` has a map between its depthwise and its last convolution.
fn has_hidden(blocks: &[PlacedBlock], stride: i64) -> bool {
    blocks.iter().rfind(|block| block.output_stride == stride).is_some_and(|block| block.operator.has_hidden())
}

impl ChoiceSpace for MobileSegSpace {
    fn name(&self) -> &str {
        "mobile_seg"
    }

    /// Stem; of every stage channels, depth, stride and operators; context, its channels, decoder, tap, convolutions, and of
    /// every decoder step its low-level channels and channels.
    fn decisions(&self) -> Vec<u16> {
        let mut decisions = vec![self.stem.len()];
        for stage in &self.stages {
            decisions.extend([stage.channels.len(), stage.depths.len(), stage.strides.len()]);
            decisions.extend(std::iter::repeat_n(self.operators.len(), stage.max_depth()));
        }
        if let HeadChoices::Chosen { contexts, channels, decoders, taps, convs, low_level_channels, decoder_channels } =
            &self.head
        {
            decisions.extend([contexts.len(), channels.len(), decoders.len(), taps.len(), convs.len()]);
            let step = [low_level_channels.len(), decoder_channels.len()];
            decisions.extend(step.repeat(self.decoder_steps()));
        }
        decisions.into_iter().map(|options| options as u16).collect()
    }

    fn traits(&self, arch: &Architecture) -> Vec<u16> {
        traits::of(self, arch)
    }

    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        let config = self.decode(arch)?;
        let normal = self.encode(&config);
        if normal.as_ref() == Some(arch) {
            return Ok(());
        }
        let normal = normal.map_or("none".into(), |normal| normal.to_string());
        let reason = format!("the same network is {normal}");
        Err(self.invalid(arch, reason))
    }

    /// Every decision is drawn uniformly until the choices make a network; then they are brought into the form that
    /// stands for it.
    fn sample(&self, rng: &mut ChaCha8Rng) -> Architecture {
        let config = self.sample_config(rng).expect("a checked space has networks");
        self.encode(&config).expect("drawn from the space")
    }

    fn standing_for(&self, choices: Vec<u16>) -> Option<Architecture> {
        self.decode_checked(&choices).ok().and_then(|config| self.encode(&config))
    }

    /// One decision is drawn anew. Decisions that this one wakes, such as operators of a block that was not there, are drawn
    /// too.
    fn mutate(&self, parent: &Architecture, rng: &mut ChaCha8Rng) -> Architecture {
        let decisions = self.decisions();
        let open: Vec<usize> = (0..decisions.len()).filter(|i| decisions[*i] > 1).collect();
        assert!(!open.is_empty(), "the space {} has one architecture", self.name());
        loop {
            let i = *open.choose(rng).expect("not empty");
            let mut choices = parent.choices().to_vec();
            choices[i] = (choices[i] + rng.random_range(1..decisions[i])) % decisions[i];
            for void in self.void_decisions(parent) {
                if void != i {
                    choices[void] = rng.random_range(0..decisions[void]);
                }
            }
            if let Some(child) = self.standing_for(choices).filter(|child| child != parent) {
                return child;
            }
        }
    }
}

impl MobileSegSpace {
    /// Decisions that nothing of the network of `arch` depends on.
    fn void_decisions(&self, arch: &Architecture) -> Vec<usize> {
        let mut void = Vec::new();
        let mut at = 1;
        for stage in &self.stages {
            let depth = stage.depths[usize::from(arch.choices()[at + 1])];
            if depth == 0 {
                void.extend([at, at + 2]);
            }
            void.extend(at + 3 + depth..at + Self::stage_decisions(stage));
            at += Self::stage_decisions(stage);
        }
        if let HeadChoices::Chosen { decoders, .. } = &self.head {
            let steps = decoders[usize::from(arch.choices()[at + 2])].len();
            if steps == 0 {
                void.extend([at + 3, at + 4]);
            }
            void.extend(at + 5 + 2 * steps..at + 5 + 2 * self.decoder_steps());
        }
        void
    }
}

impl MobileSegSpace {
    /// Choices of some network of the space, each the first that it can be.
    pub(super) fn any_choices(&self) -> Vec<u16> {
        let decisions = self.decisions();
        let mut choices = self.encode(&self.any_config()).expect("drawn from the space").choices().to_vec();
        for (i, options) in decisions.iter().enumerate() {
            let first = (0..*options).find(|option| {
                let mut choices = choices.clone();
                choices[i] = *option;
                self.decode_checked(&choices).is_ok()
            });
            choices[i] = first.unwrap_or(choices[i]);
        }
        choices
    }

    /// Some network of the space.
    pub(super) fn any_config(&self) -> MobileSegConfig {
        self.sample_config(&mut nas_datasets::rng::stream(0, "any", 0)).expect("a checked space has networks")
    }

    /// What the blocks of `arch` are, in the order of its network's.
    pub(super) fn slots(&self, arch: &Architecture) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut at = 1;
        for (s, stage) in self.stages.iter().enumerate() {
            let choices = &arch.choices()[at..];
            for position in 0..stage.depths[usize::from(choices[1])] {
                let operator = self.operators[usize::from(choices[3 + position])];
                slots.push(Slot { stage: s, position, operator });
            }
            at += Self::stage_decisions(stage);
        }
        slots
    }
}

impl SearchSpace for MobileSegSpace {
    /// The body alone; [`MobileSegSpace::decode`] gives the network with its head.
    fn build(&self, vb: &VarBuilder, arch: &Architecture) -> Result<Box<dyn Backbone>, InvalidArchitecture> {
        Ok(Box::new(Trunk::new(vb, &self.decode(arch)?)))
    }

    /// With its head, which has choices too, for one class.
    fn cost(&self, arch: &Architecture, input: Shape) -> Result<Cost, InvalidArchitecture> {
        self.network_cost(arch, 1, input.size()).map_err(|error| self.invalid(arch, format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nas_datasets::rng;

    use super::*;

    fn space(preset: SpacePreset) -> MobileSegSpace {
        let space = MobileSegSpace::from(preset);
        space.check().unwrap();
        space
    }

    const ALL: [SpacePreset; 4] = [
        SpacePreset::MobilenetV2,
        SpacePreset::SqueezenasSmall,
        SpacePreset::SqueezenasLarge,
        SpacePreset::SqueezenasXlarge,
    ];

    #[test]
    fn named_networks_are_points_of_a_space() {
        for (name, config) in presets() {
            let found = ALL.into_iter().find_map(|preset| {
                let space = space(preset);
                space.encode(&config).map(|arch| (space, arch))
            });
            let (space, arch) = found.unwrap_or_else(|| panic!("{name}"));
            space.validate(&arch).unwrap();
            let decoded = space.decode(&arch).unwrap();
            let cost = |config: &MobileSegConfig| config.build(&VarBuilder::dry(), 19).unwrap().cost((256, 512));
            assert_eq!(cost(&decoded), cost(&config), "{name}");
            assert_eq!(space.encode(&decoded), Some(arch), "{name}");
        }
    }

    #[test]
    fn samples_and_mutants_are_valid_and_mutants_differ() {
        for preset in ALL {
            let space = space(preset);
            let mut rng = rng::stream(0, "mobile_seg", 0);
            let mut parent = space.sample(&mut rng);
            let mut seen = BTreeSet::new();
            for _ in 0..200 {
                space.validate(&space.sample(&mut rng)).unwrap();
                let child = space.mutate(&parent, &mut rng);
                space.validate(&child).unwrap();
                assert_ne!(child, parent);
                seen.insert(child.clone());
                parent = child;
            }
            assert!(seen.len() > 150, "{preset:?}");
        }
    }

    #[test]
    fn neighbors_are_valid_and_hold_every_width_of_the_stem() {
        let space = space(SpacePreset::MobilenetV2);
        let arch = space.encode(&presets()[1].1).unwrap();
        let neighbors = space.neighbors(&arch);
        neighbors.iter().for_each(|neighbor| space.validate(neighbor).unwrap());
        let stems: BTreeSet<u16> = neighbors.iter().map(|neighbor| neighbor.choices()[0]).collect();
        assert_eq!(stems.len(), 4);
    }

    /// Blocks that do nothing, stages at another place, dilation by the operator or by the stride that is left out.
    #[test]
    fn equal_networks_are_equal_architectures() {
        let space = space(SpacePreset::MobilenetV2);
        let (_, base) = presets().into_iter().find(|(name, _)| *name == "mobile_seg_hand_c").unwrap();
        let expected = space.encode(&base).unwrap();
        let text = "1-1-1-0-0-0-0-0-1-2-1-9-9-0-0-3-3-1-9-9-9-0-2-3-1-15-15-15-0-0-0-0-0-0-0-0-0-0-0-0-0-0-0-1-1-3-0-0-1-1-0-0";
        assert_eq!(expected.to_string(), text);
        let mut skips = base.clone();
        skips.stages[2].blocks.insert(1, Operator::Skip);
        let mut split = base.clone();
        let mut last = split.stages[3].clone();
        last.blocks = vec![split.stages[3].blocks.pop().unwrap()];
        last.stride = 1;
        split.stages.push(last);
        for other in [skips, split] {
            assert_ne!(other, base);
            assert_eq!(space.encode(&other).as_ref(), Some(&expected));
        }
        // The stage of 24 channels as the first one, which can have 24 too, is the form that counts.
        let mut without_first = base.clone();
        without_first.stages.remove(0);
        let arch = space.encode(&without_first).unwrap();
        assert_eq!(arch.choices()[1..4], [2, 2, 1]);
    }

    #[test]
    fn a_form_that_does_not_stand_for_its_network_is_refused_with_the_one_that_does() {
        let space = space(SpacePreset::MobilenetV2);
        let arch = space.encode(&presets()[1].1).unwrap();
        let mut choices = arch.choices().to_vec();
        // The second block of the first stage, which has one.
        choices[5] = 3;
        let error = space.validate(&Architecture::new(choices)).unwrap_err().to_string();
        assert!(error.contains(&arch.to_string()), "{error}");
    }

    #[test]
    fn equal_costs_within_ten_percent_of_a_bound_are_found_by_drawing() {
        use nas_core::search::goals::{Constraint, Restricted};
        let space = space(SpacePreset::MobilenetV2);
        let cost = |arch: &Architecture| {
            let macs = space.network_cost(arch, 11, (360, 480)).unwrap().macs as f64;
            [("macs".to_string(), macs)].into()
        };
        for upper in [0.473e9, 0.786e9] {
            let bound = Constraint { metric: "macs".into(), upper: Some(upper), lower: Some(0.9 * upper) };
            let restricted = Restricted::new(&space, &[bound], &cost).unwrap();
            let mut rng = rng::stream(0, "bounded", 0);
            let parent = restricted.sample(&mut rng);
            for arch in [parent.clone(), restricted.mutate(&parent, &mut rng)] {
                let macs = restricted.costs(&arch)["macs"];
                assert!((0.9 * upper..=upper).contains(&macs), "{macs}");
            }
        }
    }

    #[test]
    fn a_config_gives_what_differs_from_its_preset() {
        let read = |text: &str| -> Result<MobileSegSpace, _> {
            nas_core::run::config::from_table::<MobileSegSpace>(text.parse().unwrap(), "test")
        };
        let found = read("stem = [16]\noperators = ['ib_k3_e6', 'skip']").unwrap();
        let expected = MobileSegSpace {
            stem: vec![16],
            operators: vec![Operator::inverted(3, 6), Operator::Skip],
            ..Default::default()
        };
        assert_eq!(found, expected);
        assert_eq!(read(&nas_core::run::config::to_toml(&expected)).unwrap(), expected);
        assert_eq!(read("preset = 'squeezenas_large'").unwrap().output_strides, [16]);
        for (text, key) in [
            ("stem = []", "space.stem"),
            ("operators = []", "space.operators"),
            ("output_strides = [256]", "output_strides"),
            ("stages = [{ channels = [8, 8], depths = [1], strides = [2], plain_stride = 2 }]", "stages[0].channels"),
            ("stages = [{ channels = [8], depths = [2, 1], strides = [2], plain_stride = 2 }]", "stages[0].depths"),
            ("stages = [{ channels = [8], depths = [1], strides = [4], plain_stride = 2 }]", "stages[0]"),
        ] {
            let error = read(text).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
        assert!(read("widths = [1]").unwrap_err().to_string().contains("widths"));
    }
}

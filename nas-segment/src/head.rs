//! The head of DeepLab's networks: atrous spatial pyramid pooling (Chen et al. 2017, arXiv 1706.05587) and the decoder of
//! DeepLabv3+ (Chen et al. 2018, arXiv 1802.02611). It turns the feature maps of any backbone into logits per pixel.

use std::fmt;

use anyhow::{Result, ensure};
use nas_core::nn::Cost;
use nas_core::nn::{
    Activation, BnConfig, Conv2d, ConvConfig, ConvNorm, Init, Mode, Module, Shape, VarBuilder, channels_last, conv_bn,
    dropout, resize_bilinear,
};
use nas_core::space::FeatureInfo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::separable::SeparableConv;

/// What a [`Head`] consists of. The defaults are those of the published Auto-DeepLab and of DeepLabv3+ with ResNet-101;
/// DeepLabv3+ with Xception is `separable`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// Channels of every branch of the pyramid and of its output.
    pub channels: i64,
    /// The pyramid has three 3x3 branches.
    pub atrous_convs: bool,
    /// Atrous rates of the 3x3 branches *on a map of stride 16*. The rate that is used follows from the stride `s` of the
    /// final feature map: `rate * 16 / s`, thus 12, 24 and 36 at stride 8. So rates and output stride cannot disagree.
    pub rates: [i64; 3],
    /// The pyramid has a branch with the mean of the image.
    pub image_pooling: bool,
    /// Depthwise-separable 3x3 convolutions in pyramid and decoder.
    pub separable: bool,
    /// Probability of dropping a value of the pyramid's output in training.
    pub dropout: f64,
    /// Norms of the head.
    pub bn: BnConfig,
    /// Refines the pyramid's output by the low-level features. A config says `decoder = false` for none.
    #[serde(with = "section_or_false")]
    #[schemars(schema_with = "section_or_false::schema")]
    pub decoder: Option<DecoderConfig>,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self {
            channels: 256,
            atrous_convs: true,
            rates: [6, 12, 18],
            image_pooling: true,
            separable: false,
            dropout: 0.1,
            bn: BnConfig { momentum: 3e-4, eps: 1e-5, affine: true },
            decoder: Some(DecoderConfig::default()),
        }
    }
}

impl HeadConfig {
    /// Says which key has a value that no head can be made of.
    pub fn validate(&self) -> Result<()> {
        let Self { channels, rates, .. } = self;
        ensure!((1..=8192).contains(channels), "model.head.channels = {channels}: expected 1 to 8192");
        ensure!(rates.iter().all(|rate| *rate > 0), "model.head.rates = {rates:?}: expected three positive numbers");
        ensure!(
            (0.0..1.0).contains(&self.dropout),
            "model.head.dropout = {}: expected a probability below 1",
            self.dropout
        );
        let Some(decoder) = self.decoder else { return Ok(()) };
        for (key, channels) in [("low_level_channels", decoder.low_level_channels), ("channels", decoder.channels)] {
            ensure!(channels > 0, "model.head.decoder.{key} = {channels}: expected a positive number");
        }
        Ok(())
    }
}

/// What the decoder of a [`Head`] consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels that the low-level features are reduced to.
    pub low_level_channels: i64,
    /// Channels of the two refining convolutions.
    pub channels: i64,
}

impl Default for DecoderConfig {
    fn default() -> Self {
        Self { low_level_channels: 48, channels: 256 }
    }
}

/// Turns the feature maps of a backbone into logits.
pub trait DenseHead: fmt::Debug {
    /// Logits `[B, K, size]` of feature maps `[B, C_i, H_i, W_i]`, finest first.
    fn forward(&self, features: &[Tensor], size: (i64, i64), mode: Mode) -> Tensor;

    /// Cost by named part on feature maps of the given shapes.
    fn cost_parts(&self, features: &[Shape]) -> Vec<(String, Cost)>;

    /// Why the head computes in another way on maps of another size, where it does.
    fn varies_with_size(&self) -> Option<&'static str> {
        None
    }
}

/// Pyramid, decoder, logits.
#[derive(Debug)]
pub struct Head {
    aspp: Aspp,
    decoder: Option<Decoder>,
    logits: Conv2d,
}

impl Head {
    /// The head over `features`, low-level first and final last, for `num_classes`.
    pub fn new(vb: &VarBuilder, features: &[FeatureInfo], num_classes: i64, config: &HeadConfig) -> Self {
        let (low_level, last) = ends(features);
        let decoder =
            config.decoder.map(|decoder| Decoder::new(&vb.sub("decoder"), low_level.channels, config, decoder));
        let logits = ConvConfig { bias: true, init: Init::Normal(0.01), ..Default::default() };
        let channels = config.decoder.map_or(config.channels, |decoder| decoder.channels);
        Self {
            aspp: Aspp::new(&vb.sub("aspp"), *last, config),
            decoder,
            logits: Conv2d::new(&vb.sub("logits"), channels, num_classes, 1, logits),
        }
    }
}

impl DenseHead for Head {
    /// Low-level first and final last. The final map arrives as the pyramid takes it: a backbone that ends without an
    /// activation applies it itself.
    fn forward(&self, features: &[Tensor], size: (i64, i64), mode: Mode) -> Tensor {
        let (low_level, last) = ends(features);
        let ys = self.aspp.forward(last, mode);
        let ys = match &self.decoder {
            Some(decoder) => decoder.forward(&ys, low_level, mode),
            None => ys,
        };
        resize_bilinear(&self.logits.forward(&ys, mode), size)
    }

    /// `aspp`, `decoder` (where there is one) and `logits`.
    fn cost_parts(&self, features: &[Shape]) -> Vec<(String, Cost)> {
        let (low_level, last) = ends(features);
        let mut parts = Vec::new();
        let mut cost = Cost::default();
        let mut ys = self.aspp.cost(*last, &mut cost);
        parts.push(("aspp".to_string(), cost));
        if let Some(decoder) = &self.decoder {
            let mut cost = Cost::default();
            ys = decoder.cost(ys, *low_level, &mut cost);
            parts.push(("decoder".to_string(), cost));
        }
        let mut cost = Cost::default();
        self.logits.cost(ys, &mut cost);
        parts.push(("logits".to_string(), cost));
        parts
    }
}

/// The low-level and the final feature.
fn ends<T>(features: &[T]) -> (&T, &T) {
    let [first, .., last] = features else { panic!("a head takes low-level and final features") };
    (first, last)
}

/// Atrous spatial pyramid pooling: views of several widths side by side, then mixed.
#[derive(Debug)]
pub(crate) struct Aspp {
    branches: Vec<Box<dyn Module>>,
    pooling: Option<ConvNorm>,
    projection: ConvNorm,
    dropout: f64,
}

impl Aspp {
    pub(crate) fn new(vb: &VarBuilder, input: FeatureInfo, config: &HeadConfig) -> Self {
        let c = config.channels;
        let pointwise = |name: &str, c_in| {
            let conv = ConvConfig::default();
            conv_bn(&vb.sub(name), (c_in, c), 1, conv, config.bn, Activation::Relu)
        };
        let mut branches: Vec<Box<dyn Module>> = vec![Box::new(pointwise("conv_1x1", input.channels))];
        if config.atrous_convs {
            branches.extend(config.rates.iter().enumerate().map(|(i, rate)| {
                let vb = vb.sub(format!("atrous_{i}"));
                let rate = (rate * 16 / input.stride).max(1);
                conv_3x3(&vb, (input.channels, c), rate, config)
            }));
        }
        let pooling = config.image_pooling.then(|| pointwise("image_pooling", input.channels));
        let views = branches.len() + usize::from(config.image_pooling);
        Self { branches, pooling, projection: pointwise("projection", c * views as i64), dropout: config.dropout }
    }

    pub(crate) fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let mut views: Vec<Tensor> = self.branches.iter().map(|branch| branch.forward(xs, mode)).collect();
        if let Some(pooling) = &self.pooling {
            let mean = xs.mean_dim([2i64, 3].as_slice(), true, None::<Kind>);
            let view = pooling.forward(&mean, mode);
            let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
            // Bilinear interpolation of one pixel is that pixel everywhere.
            views.push(channels_last(&view.expand([-1, -1, h, w], false)));
        }
        let ys = self.projection.forward(&Tensor::cat(&views, 1), mode);
        dropout(&ys, self.dropout, mode.train)
    }

    pub(crate) fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let mut c = 0;
        for branch in &self.branches {
            c += branch.cost(xs, cost).c;
        }
        if let Some(pooling) = &self.pooling {
            c += pooling.cost(xs.with_size((1, 1)), cost).c;
        }
        self.projection.cost(xs.with_channels(c), cost)
    }
}

/// The decoder: the pyramid's output beside low-level features, refined by two 3x3 convolutions.
#[derive(Debug)]
struct Decoder {
    low_level: ConvNorm,
    refine: [Box<dyn Module>; 2],
}

impl Decoder {
    fn new(vb: &VarBuilder, low_level_channels: i64, head: &HeadConfig, config: DecoderConfig) -> Self {
        let reduced = config.low_level_channels;
        let refine = |i: usize, c_in| conv_3x3(&vb.sub(format!("refine_{i}")), (c_in, config.channels), 1, head);
        Self {
            low_level: conv_bn(
                &vb.sub("low_level"),
                (low_level_channels, reduced),
                1,
                ConvConfig::default(),
                head.bn,
                Activation::Relu,
            ),
            refine: [refine(0, head.channels + reduced), refine(1, config.channels)],
        }
    }

    fn forward(&self, xs: &Tensor, low_level: &Tensor, mode: Mode) -> Tensor {
        let low_level = self.low_level.forward(low_level, mode);
        let (_, _, h, w) = low_level.size4().expect("a feature map has four dimensions");
        let ys = Tensor::cat(&[resize_bilinear(xs, (h, w)), low_level], 1);
        self.refine.iter().fold(ys, |ys, conv| conv.forward(&ys, mode))
    }

    fn cost(&self, xs: Shape, low_level: Shape, cost: &mut Cost) -> Shape {
        let reduced = self.low_level.cost(low_level, cost);
        let ys = reduced.with_channels(xs.c + reduced.c);
        self.refine.iter().fold(ys, |ys, conv| conv.cost(ys, cost))
    }
}

/// 3x3 convolution, norm, ReLU; regular or separable.
pub(crate) fn conv_3x3(vb: &VarBuilder, channels: (i64, i64), dilation: i64, config: &HeadConfig) -> Box<dyn Module> {
    let conv = ConvConfig { dilation, ..Default::default() };
    match config.separable {
        true => Box::new(SeparableConv::new(vb, channels, conv, config.bn, Activation::Relu)),
        false => Box::new(conv_bn(vb, channels, 3, conv, config.bn, Activation::Relu)),
    }
}

/// The optional decoder in a config: `false` for none, since TOML has no null, `true` for the default one, or a section.
mod section_or_false {
    use std::fmt;

    use schemars::{Schema, SchemaGenerator, json_schema};
    use serde::de::value::MapAccessDeserializer;
    use serde::de::{MapAccess, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::DecoderConfig;

    pub fn serialize<S: Serializer>(section: &Option<DecoderConfig>, to: S) -> Result<S::Ok, S::Error> {
        match section {
            Some(section) => section.serialize(to),
            None => to.serialize_bool(false),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DecoderConfig>, D::Error> {
        from.deserialize_any(SectionVisitor)
    }

    pub fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, generator.subschema_for::<DecoderConfig>()] })
    }

    struct SectionVisitor;

    impl<'de> Visitor<'de> for SectionVisitor {
        type Value = Option<DecoderConfig>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("false, true or a section for `decoder`")
        }

        fn visit_bool<E>(self, wanted: bool) -> Result<Self::Value, E> {
            Ok(wanted.then(DecoderConfig::default))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            DecoderConfig::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, nn::VarStore};

    /// The features of Auto-DeepLab-S.
    const FEATURES: [FeatureInfo; 2] =
        [FeatureInfo { channels: 100, stride: 4 }, FeatureInfo { channels: 200, stride: 8 }];

    #[test]
    fn parts_have_the_published_parameters() {
        let head = Head::new(&VarBuilder::dry(), &FEATURES, 19, &HeadConfig::default());
        let parts = head.cost_parts(&[Shape::new(100, 81, 81), Shape::new(200, 41, 41)]);
        let params = parts.iter().map(|(name, cost)| (name.as_str(), cost.params));
        let expected = [("aspp", 1_815_552), ("decoder", 1_296_160), ("logits", 4_883)];
        assert_eq!(params.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn rates_follow_the_stride_of_the_features() {
        let head = |stride, rates| {
            let last = FeatureInfo { channels: 5, stride };
            let config = HeadConfig { channels: 4, rates, ..Default::default() };
            let vs = VarStore::new(Device::Cpu);
            (Aspp::new(&VarBuilder::new(&vs), last, &config), vs)
        };
        let xs = Tensor::randn([1, 5, 41, 41], (Kind::Float, Device::Cpu));
        let (at_8, weights) = head(8, [6, 12, 18]);
        for (rates, same) in [([12, 24, 36], true), ([6, 12, 18], false)] {
            let (at_16, mut copy) = head(16, rates);
            copy.copy(&weights).unwrap();
            let equal = at_8.forward(&xs, Mode::EVAL).allclose(&at_16.forward(&xs, Mode::EVAL), 1e-5, 1e-5, false);
            assert_eq!(equal, same, "{rates:?}");
        }
    }

    #[test]
    fn image_pooling_sees_the_whole_image_and_nothing_else_of_the_pyramid_does() {
        let reacts = |image_pooling| {
            let config = HeadConfig { channels: 8, atrous_convs: false, image_pooling, ..Default::default() };
            let vs = VarStore::new(Device::Cpu);
            let aspp = Aspp::new(&VarBuilder::new(&vs), FEATURES[1], &config);
            let xs = Tensor::rand([1, 200, 9, 9], (Kind::Float, Device::Cpu));
            let corner = |xs: &Tensor| aspp.forward(xs, Mode::EVAL).select(3, 0).select(2, 0);
            let before = corner(&xs);
            let _ = xs.select(3, 8).fill_(50.0);
            !before.allclose(&corner(&xs), 1e-6, 1e-6, false)
        };
        assert_eq!([reacts(true), reacts(false)], [true, false]);
    }
}

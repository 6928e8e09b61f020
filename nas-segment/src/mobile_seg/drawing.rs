//! A network of the space as a picture: one box per block, as wide as its channels and as high as its map.

use nas_core::run::drawing::Boxes;

use super::config::{HeadConfig, MobileSegConfig, STEM_STRIDE, Tap};
use super::operator::Operator;

/// The picture as an SVG document: stem, blocks with their operators, and the head with what it takes.
pub fn svg(config: &MobileSegConfig) -> String {
    let mut boxes = Boxes::default();
    boxes.add(config.stem, STEM_STRIDE, "#9e9e9e", &format!("stem, {} channels, stride {STEM_STRIDE}", config.stem));
    let blocks = config.blocks();
    let taps = config.head.taps();
    for (i, block) in blocks.iter().enumerate() {
        let (channels, stride) = (block.place.channels.1, block.output_stride);
        let is_last = !blocks[i + 1..].iter().any(|other| other.output_stride == stride);
        let tap = taps.iter().find(|(of, _)| is_last && *of == stride).map(|(_, tap)| match tap {
            Tap::Output => ", to the decoder",
            Tap::Hidden => ", its hidden map to the decoder",
        });
        let title = format!("{}, {channels} channels, stride {stride}{}", block.operator, tap.unwrap_or_default());
        boxes.add(channels, stride, color(block.operator), &title);
    }
    let output_stride = config.output_stride();
    boxes.add(config.head.channels(), output_stride, "#6a1b9a", &format!("context: {}", context(&config.head)));
    for step in config.head.decoder().unwrap_or_default() {
        let title =
            format!("decoder, {} + {} channels, stride {}", step.channels, step.low_level_channels, step.stride);
        boxes.add(step.channels, step.stride, "#ad1457", &title);
    }
    boxes.picture().document()
}

fn color(operator: Operator) -> &'static str {
    match operator {
        Operator::Skip => "#cfd8dc",
        Operator::Bottleneck(form) if form.fused => "#6d4c41",
        Operator::Bottleneck(form) => match (form.start, form.middle, form.expansion) {
            (None, Some(3), _) => "#1976d2",
            (None, Some(_), _) => "#2e7d32",
            (Some(_), Some(_), _) => "#ef6c00",
            (Some(_), None, _) => "#c62828",
            (None, None, _) => "#fbc02d",
        },
    }
}

fn context(head: &HeadConfig) -> String {
    match head {
        HeadConfig::SeparableAspp { rates, channels, .. } => {
            let rates = rates.map(|rate| rate.to_string()).join("-");
            format!("separable ASPP {rates}, {channels} channels")
        }
        HeadConfig::LrAspp { channels, .. } => format!("LR-ASPP, {channels} channels"),
        HeadConfig::Pooling { channels, .. } => format!("pooling, {channels} channels"),
        HeadConfig::SqueezenasLrAspp { channels, .. } => format!("SqueezeNAS LR-ASPP, {channels} channels"),
        HeadConfig::SqueezenasAspp { channels, .. } => format!("SqueezeNAS ASPP, {channels} channels"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::presets::presets;
    use super::*;

    #[test]
    fn every_block_is_a_box_with_its_operator_and_tapped_ones_say_so() {
        for (name, config) in presets() {
            let picture = svg(&config);
            let decoder = config.head.decoder().map_or(0, <[_]>::len);
            let titles = picture.matches("<title>").count();
            assert_eq!(titles, 2 + config.blocks().len() + decoder, "{name}");
            for block in config.blocks() {
                assert!(picture.contains(&format!("<title>{},", block.operator)), "{name}");
            }
            assert_eq!(picture.matches("to the decoder").count(), config.head.taps().len(), "{name}");
            assert!(
                picture.contains(&format!(">context: {}</text>", context(&config.head).split(',').next().unwrap()))
            );
            assert!(!picture.contains("ASPP ["), "{name}: the label would end within the rates");
        }
    }
}

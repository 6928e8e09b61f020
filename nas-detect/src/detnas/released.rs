//! The architectures that DetNAS' authors released.

use nas_core::space::Architecture;

use super::DetNasSize;

/// A released architecture.
#[derive(Clone, Debug)]
pub struct Released {
    /// Its name here: data set, detector, size.
    pub name: &'static str,
    /// The space it is of.
    pub size: DetNasSize,
    /// Its choices.
    pub arch: Architecture,
}

const COCO_FPN_300M: &[u16] = &[2, 1, 2, 0, 2, 1, 1, 2, 3, 3, 1, 3, 0, 0, 3, 1, 3, 1, 3, 2];
const COCO_RETINANET_300M: &[u16] = &[2, 3, 1, 1, 3, 2, 1, 3, 3, 1, 1, 1, 3, 3, 2, 0, 3, 3, 3, 3];
const VOC_FPN_300M: &[u16] = &[2, 1, 0, 3, 1, 3, 0, 3, 2, 0, 1, 1, 3, 3, 3, 3, 3, 3, 3, 1];
const COCO_FPN_LARGE: &[u16] = &[
    0, 0, 3, 1, 2, 1, 0, 2, 0, 3, 1, 2, 3, 3, 2, 0, 2, 1, 1, 3, 2, 0, 2, 2, 2, 1, 3, 1, 0, 3, 3, 3, 1, 3, 3, 3, 3, 3,
    3, 3,
];

/// Every released architecture. That of 3.8G is the one of 1.3G in a wider space; its published size (3.8 G, 29.5 M
/// parameters) is not what its files give (see the tests).
pub fn released() -> Vec<Released> {
    let released = |name, size, choices: &[u16]| Released { name, size, arch: Architecture::new(choices.to_vec()) };
    vec![
        released("coco_fpn_300m", DetNasSize::Mega300, COCO_FPN_300M),
        released("coco_retinanet_300m", DetNasSize::Mega300, COCO_RETINANET_300M),
        released("voc_fpn_300m", DetNasSize::Mega300, VOC_FPN_300M),
        released("coco_fpn_1.3g", DetNasSize::Giga1_3, COCO_FPN_LARGE),
        released("coco_fpn_3.8g", DetNasSize::Giga3_8, COCO_FPN_LARGE),
    ]
}

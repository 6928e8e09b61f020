//! Class names and colours of the public sets.

use super::Classes;

/// One class of a table: name, colour, id in label files.
type Row = (&'static str, [u8; 3], u8);

/// Cityscapes' 19 evaluated classes in the order of their train ids (cityscapesScripts, `labels.py`).
const CITYSCAPES: [Row; 19] = [
    ("road", [128, 64, 128], 7),
    ("sidewalk", [244, 35, 232], 8),
    ("building", [70, 70, 70], 11),
    ("wall", [102, 102, 156], 12),
    ("fence", [190, 153, 153], 13),
    ("pole", [153, 153, 153], 17),
    ("traffic light", [250, 170, 30], 19),
    ("traffic sign", [220, 220, 0], 20),
    ("vegetation", [107, 142, 35], 21),
    ("terrain", [152, 251, 152], 22),
    ("sky", [70, 130, 180], 23),
    ("person", [220, 20, 60], 24),
    ("rider", [255, 0, 0], 25),
    ("car", [0, 0, 142], 26),
    ("truck", [0, 0, 70], 27),
    ("bus", [0, 60, 100], 28),
    ("train", [0, 80, 100], 31),
    ("motorcycle", [0, 0, 230], 32),
    ("bicycle", [119, 11, 32], 33),
];

/// CamVid's 11 classes as SegNet groups and numbers them.
const CAMVID: [Row; 11] = [
    ("sky", [128, 128, 128], 0),
    ("building", [128, 0, 0], 1),
    ("pole", [192, 192, 128], 2),
    ("road", [128, 64, 128], 3),
    ("pavement", [60, 40, 222], 4),
    ("tree", [128, 128, 0], 5),
    ("signsymbol", [192, 128, 128], 6),
    ("fence", [64, 64, 128], 7),
    ("car", [64, 0, 128], 8),
    ("pedestrian", [64, 64, 0], 9),
    ("bicyclist", [0, 128, 192], 10),
];

/// Cityscapes' classes; file ids are its label ids.
pub fn cityscapes() -> Classes {
    from_rows(&CITYSCAPES)
}

/// CamVid's classes.
pub fn camvid() -> Classes {
    from_rows(&CAMVID)
}

fn from_rows(rows: &[Row]) -> Classes {
    Classes {
        names: rows.iter().map(|row| row.0.to_owned()).collect(),
        colors: rows.iter().map(|row| row.1).collect(),
        file_ids: rows.iter().map(|row| row.2).collect(),
    }
}

/// Colour `i` of an endless palette of distinct colours, none of them black: the bits of `i + 1` dealt to the high
/// bits of the three channels in turn, as Pascal VOC does.
pub fn distinct(i: usize) -> [u8; 3] {
    let bit = |position: usize| ((i + 1) >> position & 1) as u8;
    [0, 1, 2].map(|channel| bit(channel) << 7 | bit(channel + 3) << 6 | bit(channel + 6) << 5)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn colours_are_distinct_within_each_palette() {
        for classes in [cityscapes(), camvid()] {
            assert_eq!(classes.colors.iter().collect::<HashSet<_>>().len(), classes.len());
        }
        let endless: HashSet<_> = (0..255).map(distinct).collect();
        assert!(endless.len() == 255 && !endless.contains(&[0, 0, 0]));
        assert_eq!(distinct(0), [128, 0, 0]); // Pascal VOC's second colour
        assert_eq!(distinct(14), [192, 128, 128]); // ... and its sixteenth
    }
}

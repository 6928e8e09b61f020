//! Object detection: backbones, necks, heads and mAP. Empty so far.

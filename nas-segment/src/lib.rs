//! nas-segment

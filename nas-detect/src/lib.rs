//! nas-detect

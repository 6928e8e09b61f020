//! nas-classify

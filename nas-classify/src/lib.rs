//! Image classification: cell and block search spaces, heads and metrics. Empty so far.

#pragma once
// What norm_act.cpp asks of its loops. Maps lie as rows of channels; pointers are to their first row.

#include <cstdint>

// As `Activation` in Rust.
enum Act : int64_t { IDENTITY, RELU, RELU6, HSWISH };

// Rows of `channels` values one after the other.
struct Rows {
  int64_t from, count, channels;
};

// What a map is normalised by, per channel: x * scale + shift.
struct Affine {
  const float *mean, *scale, *shift;
};

struct Kernels {
  // y = act(x * scale + shift).
  void (*apply)(Act act, const float* x, float* y, Rows rows, Affine by);
  // Adds the gradients of shift (`sums[0..C]`) and of scale, times the standard deviation (`sums[C..2C]`).
  void (*gradient)(Act act, const float* x, const float* dy, Rows rows, Affine by, float* sums);
  // dx = scale * g + tilt * x + offset, with g the gradient before the activation.
  void (*back)(Act act, const float* x, const float* dy, float* dx, Rows rows, Affine by, const float* tilt, const float* offset);
  // Mean, and sum of squared distances to it, of a block of rows that stays in the cache.
  void (*block_moments)(const float* x, Rows rows, float* mean, float* squares);
};

extern const Kernels nas_kernels_any;
#ifdef NAS_AVX2
extern const Kernels nas_kernels_avx2;
#endif

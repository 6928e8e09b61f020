#pragma once
// What the operators on maps ask of their loops. Maps lie as rows of channels; pointers are to their first row.

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

// Maps of a state's operators and what they are multiplied by. Own maps are rows of `edges * width` channels, shared ones of `width`;
// coefficients are by map, source, edge and channel.
struct Mixed {
  int64_t rows, sources, edges, width, own, shared;
  const float *const *own_maps, *const *shared_maps;
  const float *own_by, *shared_by;
};

// Channels of each of several groups, multiples of eight.
struct Groups {
  int64_t count, from, to;
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
  // Of pixels: y `[edges, rows, width]` = shift + sum over maps of x * coefficient, plus `before` unless null.
  void (*mix)(const Mixed& mix, Rows pixels, const float* shift, const float* before, float* y);
  // Adds sums of dy, and of dy * (x - mean) for own and for shared maps, by source, edge and channel each.
  void (*mix_sums)(const Mixed& mix, Rows pixels, const float* own_mean, const float* shared_mean, const float* dy, float* sums);
  // dx = coefficient * dy + tilt * x + offset: both by map, and then by source, edge and channel, of shared maps by source and channel.
  void (*mix_back)(const Mixed& mix, Rows pixels, const float* dy, const float* own, const float* shared, float* const* of_own,
                   float* const* of_shared);
  // y `[rows, groups, to]`: x `[rows, groups, from]` times the groups' matrices `[from, to]`.
  void (*grouped)(const float* x, const float* matrices, float* y, Rows rows, Groups groups);
  // The sums over rows of dy `[rows, groups, to]` times x, `[groups, to, from]`, written to `sums`.
  void (*grouped_sums)(const float* x, const float* dy, float* sums, Rows rows, Groups groups);
};

extern const Kernels nas_kernels_any;
#ifdef NAS_AVX2
extern const Kernels nas_kernels_avx2;
#endif

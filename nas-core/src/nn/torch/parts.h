#pragma once
// What the operators on norms have in common: loops for the processor at hand, rows in parts, threads, statistics.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <dlfcn.h>

#include <algorithm>
#include <vector>

#include "norm_act.h"

inline const Kernels& kernels() {
#ifdef NAS_AVX2
  static const bool wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (wide) return nas_kernels_avx2;
#endif
  return nas_kernels_any;
}

// Adds `count` values of mean `mean` and squares `squares` to `seen` others (Chan et al. 1983).
template <typename T>
void merge(double* total_mean, double* total_squares, int64_t seen, const T* mean, const T* squares, int64_t count, int64_t C) {
  const double share = static_cast<double>(count) / static_cast<double>(seen + count);
  for (int64_t c = 0; c < C; ++c) {
    const double apart = static_cast<double>(mean[c]) - total_mean[c];
    total_mean[c] += apart * share;
    total_squares[c] += static_cast<double>(squares[c]) + apart * apart * static_cast<double>(seen) * share;
  }
}

// Rows in fixed parts, whatever the number of threads, and blocks of them that stay in the cache.
struct Parts {
  int64_t rows, channels, count, block;

  Parts(int64_t rows, int64_t channels) : rows(rows), channels(channels) {
    count = std::clamp<int64_t>(rows * channels / 16384, 1, std::min<int64_t>(64, rows));
    block = std::max<int64_t>(1, 4096 / channels);
  }

  Rows part(int64_t i) const {
    const int64_t from = rows * i / count;
    return {from, rows * (i + 1) / count - from, channels};
  }

  template <typename F>
  void each_block(int64_t i, const F& run) const {
    const Rows all = part(i);
    for (int64_t at = 0; at < all.count; at += block) run(Rows{all.from + at, std::min(block, all.count - at), channels});
  }
};

// Runs `f(0)` to `f(count - 1)` on the threads that libtorch's own loops run on: the OpenMP library that it has loaded.
template <typename F>
void in_parallel(int64_t count, const F& f) {
  using Region = void (*)(void (*)(void*), void*, unsigned, unsigned);
  static const auto region = reinterpret_cast<Region>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  static const auto thread = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
  static const auto threads = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
  const int64_t most = std::min<int64_t>(count, at::in_parallel_region() ? 1 : at::get_num_threads());
  if (most <= 1 || !region || !thread || !threads) {
    for (int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  struct Job {
    const F& f;
    int64_t count;
  } job{f, count};
  const auto run = [](void* data) {
    const Job& job = *static_cast<Job*>(data);
    for (int64_t i = thread(); i < job.count; i += threads()) job.f(i);
  };
  region(run, &job, static_cast<unsigned>(most), 0);
}

inline bool on_floats(const at::Tensor& tensor) {
  return !tensor.defined() || (tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous());
}

// Whether it is a batch of maps that the loops can walk.
inline bool is_map(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.dim() == 4 && tensor.numel() > 0 &&
         tensor.is_contiguous(at::MemoryFormat::ChannelsLast);
}

// `count` sums of what `add` adds for each part.
template <typename F>
std::vector<double> sums_of(const Parts& parts, int64_t count, const F& add) {
  std::vector<double> sums(parts.count * count, 0.0);
  in_parallel(parts.count, [&](int64_t i) { add(i, sums.data() + i * count); });
  for (int64_t i = 1; i < parts.count; ++i)
    for (int64_t j = 0; j < count; ++j) sums[j] += sums[i * count + j];
  sums.resize(count);
  return sums;
}

// Mean, and sum of squared distances to it, of each column: `[2, channels]`. Sums over fixed parts of the rows.
inline std::vector<double> moments_of(const float* from, const Parts& parts) {
  const int64_t C = parts.channels;
  std::vector<double> moments(parts.count * 2 * C, 0.0);
  in_parallel(parts.count, [&](int64_t i) {
    std::vector<float> block(2 * C);
    double* mine = moments.data() + i * 2 * C;
    int64_t seen = 0;
    parts.each_block(i, [&](Rows rows) {
      kernels().block_moments(from, rows, block.data(), block.data() + C);
      merge(mine, mine + C, seen, block.data(), block.data() + C, rows.count, C);
      seen += rows.count;
    });
  });
  double *mean = moments.data(), *squares = mean + C;
  int64_t seen = parts.part(0).count;
  for (int64_t i = 1; i < parts.count; ++i) {
    const double* theirs = moments.data() + i * 2 * C;
    merge(mean, squares, seen, theirs, theirs + C, parts.part(i).count, C);
    seen += parts.part(i).count;
  }
  moments.resize(2 * C);
  return moments;
}

// The loops of the operators on maps (norm_act.cpp, mixture.cpp, grouped.cpp), compiled once for every processor and once for those with AVX2: NAS_KERNELS names the table.

#include "norm_act.h"

#include <algorithm>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

namespace {

// Eight floats side by side, by the compiler's own vectors: what becomes of plain loops hangs on its version.
typedef float Lanes __attribute__((vector_size(32)));

template <typename T>
INLINE T load(const float* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <typename T>
INLINE void store(float* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

// Runs `f` on all channels, eight at once as far as possible.
template <typename F>
INLINE void each_channel(int64_t channels, const F& f) {
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8) f.template operator()<Lanes>(c);
  for (; c < channels; ++c) f.template operator()<float>(c);
}

#define CHANNELS [&]<typename T>(int64_t c) __attribute__((always_inline))

template <Act A, typename T>
INLINE T activated(T z) {
  const T zero{}, six = zero + 6.0f;
  if (A == RELU) return z < 0.0f ? zero : z;
  if (A == RELU6) return z < 0.0f ? zero : (z > 6.0f ? six : z);
  if (A == HSWISH) return z * (z < -3.0f ? zero : (z > 3.0f ? six : z + 3.0f)) * (1.0f / 6);
  return z;
}

// `dy` times the derivative, which is libtorch's at the corners.
template <Act A, typename T>
INLINE T gated(T dy, T z) {
  const T zero{}, one = zero + 1.0f;
  if (A == RELU) return z > 0.0f ? dy : zero;
  if (A == RELU6) return z > 0.0f ? (z < 6.0f ? dy : zero) : zero;
  if (A == HSWISH) return dy * (z < -3.0f ? zero : (z > 3.0f ? one : z * (1.0f / 3) + 0.5f));
  return dy;
}

// What a map is normalised to before the activation.
template <typename T>
INLINE T normalised(Affine by, T x, int64_t c) {
  return x * load<T>(by.scale + c) + load<T>(by.shift + c);
}

template <Act A>
INLINE void apply_rows(const float* x, float* y, Rows rows, Affine by) {
  for (int64_t at = rows.from * rows.channels; at < (rows.from + rows.count) * rows.channels; at += rows.channels)
    each_channel(rows.channels, CHANNELS { store(y + at + c, activated<A>(normalised(by, load<T>(x + at + c), c))); });
}

// Adds the gradients of shift (`sums[0..C]`) and of scale, times the standard deviation (`sums[C..2C]`).
template <Act A>
INLINE void gradient_rows(const float* x, const float* dy, Rows rows, Affine by, float* sums) {
  for (int64_t at = rows.from * rows.channels; at < (rows.from + rows.count) * rows.channels; at += rows.channels)
    each_channel(rows.channels, CHANNELS {
      const T xs = load<T>(x + at + c), g = gated<A>(load<T>(dy + at + c), normalised(by, xs, c));
      float *of_shift = sums + c, *of_scale = sums + rows.channels + c;
      store(of_shift, load<T>(of_shift) + g);
      store(of_scale, load<T>(of_scale) + g * (xs - load<T>(by.mean + c)));
    });
}

// dx = scale * g + tilt * x + offset.
template <Act A>
INLINE void back_rows(const float* x, const float* dy, float* dx, Rows rows, Affine by, const float* tilt, const float* offset) {
  for (int64_t at = rows.from * rows.channels; at < (rows.from + rows.count) * rows.channels; at += rows.channels)
    each_channel(rows.channels, CHANNELS {
      const T xs = load<T>(x + at + c), g = gated<A>(load<T>(dy + at + c), normalised(by, xs, c));
      store(dx + at + c, load<T>(by.scale + c) * g + (load<T>(tilt + c) * xs + load<T>(offset + c)));
    });
}

#define BY_ACTIVATION(run, ...)                        \
  switch (act) {                                       \
    case RELU: return run<RELU>(__VA_ARGS__);          \
    case RELU6: return run<RELU6>(__VA_ARGS__);        \
    case HSWISH: return run<HSWISH>(__VA_ARGS__);      \
    default: return run<IDENTITY>(__VA_ARGS__);        \
  }

void apply(Act act, const float* x, float* y, Rows rows, Affine by) {
  BY_ACTIVATION(apply_rows, x, y, rows, by)
}

void gradient(Act act, const float* x, const float* dy, Rows rows, Affine by, float* sums) {
  BY_ACTIVATION(gradient_rows, x, dy, rows, by, sums)
}

void back(Act act, const float* x, const float* dy, float* dx, Rows rows, Affine by, const float* tilt,
                       const float* offset) {
  BY_ACTIVATION(back_rows, x, dy, dx, rows, by, tilt, offset)
}

// Mean, and sum of squared distances to it, of a block of rows that stays in the cache.
void block_moments(const float* x, Rows rows, float* mean, float* squares) {
  const int64_t first = rows.from * rows.channels, end = first + rows.count * rows.channels;
  std::fill(mean, mean + rows.channels, 0.0f);
  std::fill(squares, squares + rows.channels, 0.0f);
  for (int64_t at = first; at < end; at += rows.channels)
    each_channel(rows.channels, CHANNELS { store(mean + c, load<T>(mean + c) + load<T>(x + at + c)); });
  for (int64_t c = 0; c < rows.channels; ++c) mean[c] /= static_cast<float>(rows.count);
  for (int64_t at = first; at < end; at += rows.channels)
    each_channel(rows.channels, CHANNELS {
      const T d = load<T>(x + at + c) - load<T>(mean + c);
      store(squares + c, load<T>(squares + c) + d * d);
    });
}

// Runs `f` on each source of each pixel: with the number of its row, and that of its first coefficient.
template <typename F>
INLINE void each_row(const Mixed& mix, Rows pixels, const F& f) {
  for (int64_t row = pixels.from * mix.sources, source = 0; row < (pixels.from + pixels.count) * mix.sources; ++row) {
    f(row, source * mix.edges * mix.width);
    source = source + 1 == mix.sources ? 0 : source + 1;
  }
}

void mix(const Mixed& mix, Rows pixels, const float* shift, const float* before, float* y) {
  const int64_t of_map = mix.sources * mix.edges * mix.width;
  each_row(mix, pixels, [&](int64_t row, int64_t first) __attribute__((always_inline)) {
    for (int64_t edge = 0; edge < mix.edges; ++edge) {
      const int64_t at = first + edge * mix.width, to = (edge * mix.rows + row) * mix.width;
      const int64_t own = (row * mix.edges + edge) * mix.width, shared = row * mix.width;
      each_channel(mix.width, CHANNELS {
        T sum = load<T>(shift + at + c);
        if (before) sum += load<T>(before + to + c);
        for (int64_t k = 0; k < mix.own; ++k) sum += load<T>(mix.own_maps[k] + own + c) * load<T>(mix.own_by + k * of_map + at + c);
        for (int64_t k = 0; k < mix.shared; ++k)
          sum += load<T>(mix.shared_maps[k] + shared + c) * load<T>(mix.shared_by + k * of_map + at + c);
        store(y + to + c, sum);
      });
    }
  });
}

void mix_sums(const Mixed& mix, Rows pixels, const float* own_mean, const float* shared_mean, const float* dy, float* sums) {
  const int64_t of_map = mix.sources * mix.edges * mix.width;
  each_row(mix, pixels, [&](int64_t row, int64_t first) __attribute__((always_inline)) {
    for (int64_t edge = 0; edge < mix.edges; ++edge) {
      const int64_t at = first + edge * mix.width, from = (edge * mix.rows + row) * mix.width;
      const int64_t own = (row * mix.edges + edge) * mix.width, shared = row * mix.width;
      each_channel(mix.width, CHANNELS {
        const T g = load<T>(dy + from + c);
        float* to = sums + at + c;
        const auto add = [&](T more) __attribute__((always_inline)) {
          store(to, load<T>(to) + more);
          to += of_map;
        };
        add(g);
        for (int64_t k = 0; k < mix.own; ++k) add(g * (load<T>(mix.own_maps[k] + own + c) - load<T>(own_mean + k * of_map + at + c)));
        for (int64_t k = 0; k < mix.shared; ++k)
          add(g * (load<T>(mix.shared_maps[k] + shared + c) - load<T>(shared_mean + k * of_map + at + c)));
      });
    }
  });
}

void mix_back(const Mixed& mix, Rows pixels, const float* dy, const float* own, const float* shared, float* const* of_own,
              float* const* of_shared) {
  const int64_t of_map = mix.sources * mix.edges * mix.width, narrow = mix.sources * mix.width;
  each_row(mix, pixels, [&](int64_t row, int64_t first) __attribute__((always_inline)) {
    for (int64_t edge = 0; edge < mix.edges; ++edge) {
      const int64_t at = first + edge * mix.width, from = (edge * mix.rows + row) * mix.width;
      const int64_t to = (row * mix.edges + edge) * mix.width;
      each_channel(mix.width, CHANNELS {
        const T g = load<T>(dy + from + c);
        for (int64_t k = 0; k < mix.own; ++k) {
          const float *tilt = own + 2 * k * of_map + at + c, *x = mix.own_maps[k] + to + c;
          store(of_own[k] + to + c, load<T>(mix.own_by + k * of_map + at + c) * g + (load<T>(tilt) * load<T>(x) + load<T>(tilt + of_map)));
        }
      });
    }
    for (int64_t k = 0; k < mix.shared; ++k)
      each_channel(mix.width, CHANNELS {
        const float* tilt = shared + 2 * k * narrow + first / mix.edges + c;
        T sum = load<T>(tilt) * load<T>(mix.shared_maps[k] + row * mix.width + c) + load<T>(tilt + narrow);
        for (int64_t edge = 0; edge < mix.edges; ++edge)
          sum += load<T>(mix.shared_by + k * of_map + first + edge * mix.width + c) * load<T>(dy + (edge * mix.rows + row) * mix.width + c);
        store(of_shared[k] + row * mix.width + c, sum);
      });
  });
}

// Of `R` rows, whose inputs lie `stride` apart, times a matrix `[from, width]` to `V` vectors of outputs each. A row of `inputs` holds
// one number for each row of the matrix, `step` apart.
template <int R, int V>
INLINE void product(const float* inputs, int64_t stride, int64_t step, const float* matrix, int64_t from, int64_t width, float* y,
                    int64_t apart) {
  Lanes sums[R][V] = {};
  for (int64_t i = 0; i < from; ++i)
    for (int v = 0; v < V; ++v) {
      const Lanes row = load<Lanes>(matrix + i * width + 8 * v);
      for (int r = 0; r < R; ++r) sums[r][v] += row * inputs[r * stride + i * step];
    }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(y + r * apart + 8 * v, sums[r][v]);
}

// Calls `f<V>(first column)` on all columns, by two vectors as far as possible.
template <typename F>
INLINE void each_column(int64_t columns, const F& f) {
  int64_t c = 0;
  for (; c + 16 <= columns; c += 16) f.template operator()<2>(c);
  if (c < columns) f.template operator()<1>(c);
}

#define COLUMNS [&]<int V>(int64_t c) __attribute__((always_inline))

void grouped(const float* x, const float* matrices, float* y, Rows rows, Groups groups) {
  const auto [count, from, to] = groups;
  const int64_t stride = count * from, apart = count * to;
  for (int64_t group = 0; group < count; ++group)
    each_column(to, COLUMNS {
      const float *matrix = matrices + group * from * to + c, *in = x + rows.from * stride + group * from;
      float* out = y + rows.from * apart + group * to + c;
      int64_t row = 0;
      for (; row + 4 <= rows.count; row += 4) product<4, V>(in + row * stride, stride, 1, matrix, from, to, out + row * apart, apart);
      for (; row < rows.count; ++row) product<1, V>(in + row * stride, stride, 1, matrix, from, to, out + row * apart, apart);
    });
}

// As products too: of the columns of dy, four at once, with the rows of x.
void grouped_sums(const float* x, const float* dy, float* sums, Rows rows, Groups groups) {
  const auto [count, from, to] = groups;
  const int64_t stride = count * to, width = count * from;
  for (int64_t group = 0; group < count; ++group)
    each_column(from, COLUMNS {
      for (int64_t o = 0; o < to; o += 4)
        product<4, V>(dy + rows.from * stride + group * to + o, 1, stride, x + rows.from * width + group * from + c, rows.count, width,
                      sums + (group * to + o) * from + c, from);
    });
}

}  // namespace

extern const Kernels NAS_KERNELS{apply, gradient, back, block_moments, mix, mix_sums, mix_back, grouped, grouped_sums};

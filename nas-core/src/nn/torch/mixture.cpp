// What a state of a relaxed cell gives to the edges that leave it, as one operator on the CPU: the weighted sum of the batch norms of
// all operators' maps. Maps are read where convolutions left them, and their gradients written as convolutions take them.

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/rsqrt.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <cmath>
#include <optional>
#include <vector>

#include "guarded.h"
#include "norm_act.h"
#include "parts.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Pixels have rows of `sources`, each with `width` channels for each of `edges`. The first `shared` maps have those of one edge, and
// so has the identity, the last of `columns` weights. Norms are numbered by source, map, edge and channel.
struct Sizes {
  int64_t pixels, sources, edges, width, shared, columns, maps;

  int64_t edges_of(int64_t map) const { return map < shared ? 1 : edges; }
  int64_t first_edge(int64_t map) const { return map < shared ? map : shared + (map - shared) * edges; }
  int64_t all() const { return first_edge(maps) * width; }
  int64_t norm(int64_t source, int64_t map, int64_t edge, int64_t channel) const {
    return source * all() + (first_edge(map) + edge) * width + channel;
  }
  // Channels of all edges of all sources, by source, edge and channel.
  int64_t row() const { return sources * edges * width; }
  // Calls `f(source, edge, channel, number in a row)`.
  template <typename F>
  void each(const F& f) const {
    for (int64_t at = 0; at < row(); ++at) f(at / width / edges, at / width % edges, at % width, at);
  }
};

// Mean, inverse of the standard deviation and its product with the scale `[3, norms]`, in double precision.
enum : int64_t { MEAN, INVERSE, SCALE };

// What the loops take, by map or column and then as a row.
struct Coefficients {
  std::vector<float> own, shared, own_mean, shared_mean, shift;
};

Coefficients coefficients(const Sizes& sizes, const at::Tensor& norms, const at::Tensor& weights) {
  const int64_t row = sizes.row(), own = sizes.maps - sizes.shared, count = sizes.sources * sizes.all();
  const double *mean = norms.const_data_ptr<double>() + MEAN * count, *scale = norms.const_data_ptr<double>() + SCALE * count;
  const float* weight = weights.const_data_ptr<float>();
  const auto room = [&](int64_t maps) { return std::vector<float>(maps * row); };
  Coefficients by{room(own), room(sizes.columns), room(own), room(sizes.columns), room(1)};
  sizes.each([&](int64_t s, int64_t e, int64_t c, int64_t at) {
    double shift = 0;
    for (int64_t k = 0; k < own; ++k) {
      const int64_t i = sizes.norm(s, sizes.shared + k, e, c);
      by.own[k * row + at] = static_cast<float>(scale[i]);
      by.own_mean[k * row + at] = static_cast<float>(mean[i]);
      shift -= mean[i] * scale[i];
    }
    for (int64_t q = 0; q < sizes.columns; ++q) {
      const double share = weight[e * sizes.columns + q];
      const int64_t i = sizes.norm(s, q, 0, c);
      const bool normed = q < sizes.shared;
      by.shared[q * row + at] = static_cast<float>(normed ? share * scale[i] : share);
      by.shared_mean[q * row + at] = static_cast<float>(normed ? mean[i] : 0);
      if (normed) shift -= share * mean[i] * scale[i];
    }
    by.shift[at] = static_cast<float>(shift);
  });
  return by;
}

// Statistics of all maps, which go to `mean` and `var` too.
at::Tensor measured(at::TensorList maps, const Sizes& sizes, const at::Tensor& scale, const at::Tensor& mean, const at::Tensor& var,
                    double eps) {
  const int64_t count = sizes.sources * sizes.all();
  auto norms = at::empty({3, count}, scale.options().dtype(at::kDouble));
  double* to = norms.data_ptr<double>();
  float *means = mean.data_ptr<float>(), *vars = var.data_ptr<float>();
  const float* scales = scale.const_data_ptr<float>();
  const double pixels = static_cast<double>(sizes.pixels);
  for (int64_t k = 0; k < sizes.maps; ++k) {
    const int64_t channels = sizes.edges_of(k) * sizes.width, all = sizes.sources * channels;
    const auto moments = moments_of(maps[k].const_data_ptr<float>(), Parts(sizes.pixels, all));
    for (int64_t j = 0; j < all; ++j) {
      const int64_t i = sizes.norm(j / channels, k, 0, j % channels);
      const double squares = moments[all + j], inverse = 1 / std::sqrt(squares / pixels + eps);
      means[i] = static_cast<float>(moments[j]);
      vars[i] = static_cast<float>(squares / (pixels - 1));
      to[MEAN * count + i] = moments[j];
      to[INVERSE * count + i] = inverse;
      to[SCALE * count + i] = inverse * scales[i];
    }
  }
  return norms;
}

// Maps as the loops take them: those of edges, then those that edges share.
struct Maps {
  std::vector<const float*> own, shared;

  Maps(at::TensorList maps, const at::Tensor& xs, const Sizes& sizes) {
    for (int64_t k = 0; k < sizes.maps; ++k) (k < sizes.shared ? shared : own).push_back(maps[k].const_data_ptr<float>());
    if (xs.defined()) shared.push_back(xs.const_data_ptr<float>());
  }
};

Mixed mixed(const Sizes& sizes, const Maps& maps, const Coefficients& by) {
  return {sizes.pixels * sizes.sources, sizes.sources, sizes.edges, sizes.width, static_cast<int64_t>(maps.own.size()), sizes.columns,
          maps.own.data(), maps.shared.data(), by.own.data(), by.shared.data()};
}

at::Tensor forward_of(at::TensorList maps, const at::Tensor& weights, const at::Tensor& norms, const at::Tensor& xs, const at::Tensor& sum,
                      const Sizes& sizes) {
  const auto by = coefficients(sizes, norms, weights);
  const auto& map = maps.back();
  auto y = at::empty({sizes.edges, map.size(0), map.size(2), map.size(3), sizes.width}, weights.options());
  const Maps places(maps, xs, sizes);
  const Parts parts(sizes.pixels, sizes.row());
  const float* before = sum.defined() ? sum.const_data_ptr<float>() : nullptr;
  float* to = y.data_ptr<float>();
  in_parallel(parts.count,
              [&](int64_t i) { kernels().mix(mixed(sizes, places, by), parts.part(i), by.shift.data(), before, to); });
  return y;
}

// Of maps, weights, scale and identity.
variable_list gradients(at::TensorList maps, const at::Tensor& weights, const at::Tensor& norms, const at::Tensor& xs,
                        const at::Tensor& given, const Sizes& sizes) {
  const auto by = coefficients(sizes, norms, weights);
  const auto dy = given.contiguous();
  const float* up = dy.const_data_ptr<float>();
  const Maps places(maps, xs, sizes);
  const Mixed mix = mixed(sizes, places, by);
  const Parts parts(sizes.pixels, sizes.row());
  const int64_t row = sizes.row(), kinds = 1 + mix.own + mix.shared;
  const auto sums = sums_of(parts, kinds * row, [&](int64_t i, double* mine) {
    std::vector<float> block(kinds * row);
    parts.each_block(i, [&](Rows rows) {
      std::fill(block.begin(), block.end(), 0.0f);
      kernels().mix_sums(mix, rows, by.own_mean.data(), by.shared_mean.data(), up, block.data());
      for (int64_t c = 0; c < kinds * row; ++c) mine[c] += block[c];
    });
  });
  // Sums of the gradient, and of its products with centred maps.
  const double* ups = sums.data();
  const auto of_own = [&](int64_t k) { return sums.data() + (1 + k) * row; };
  const auto of_shared = [&](int64_t q) { return sums.data() + (1 + mix.own + q) * row; };

  const int64_t count = sizes.sources * sizes.all();
  const double *mean = norms.const_data_ptr<double>(), *inverse = mean + INVERSE * count, *scale = mean + SCALE * count;
  auto of_weights = at::empty_like(weights), of_scale = at::empty({count}, weights.options());
  float *to_scale = of_scale.data_ptr<float>(), *to_weights = of_weights.data_ptr<float>();
  const float* weight = weights.const_data_ptr<float>();
  // dx = coefficient * dy + tilt * x + offset.
  const int64_t narrow = sizes.sources * sizes.width;
  std::vector<float> own(2 * mix.own * row), shared(2 * mix.shared * narrow, 0.0f);
  const double pixels = static_cast<double>(sizes.pixels);
  const auto lean = [&](int64_t i, double ups, double products, float* tilt, float* offset) {
    const double lean = scale[i] * inverse[i] * inverse[i] * products / pixels;
    to_scale[i] = static_cast<float>(products * inverse[i]);
    *tilt = static_cast<float>(-lean);
    *offset = static_cast<float>(mean[i] * lean - scale[i] * ups / pixels);
  };
  for (int64_t k = 0; k < mix.own; ++k)
    sizes.each([&](int64_t s, int64_t e, int64_t c, int64_t at) {
      float* tilt = own.data() + 2 * k * row + at;
      lean(sizes.norm(s, sizes.shared + k, e, c), ups[at], of_own(k)[at], tilt, tilt + row);
    });
  std::vector<double> of_weight(weights.numel(), 0.0);
  for (int64_t q = 0; q < mix.shared; ++q) {
    std::vector<double> own_ups(narrow, 0.0), products(narrow, 0.0);
    sizes.each([&](int64_t s, int64_t e, int64_t c, int64_t at) {
      const double share = weight[e * mix.shared + q], product = of_shared(q)[at];
      own_ups[s * sizes.width + c] += share * ups[at];
      products[s * sizes.width + c] += share * product;
      of_weight[e * mix.shared + q] += q < sizes.shared ? product * scale[sizes.norm(s, q, 0, c)] : product;
    });
    for (int64_t at = 0; at < narrow && q < sizes.shared; ++at) {
      float* tilt = shared.data() + 2 * q * narrow + at;
      lean(sizes.norm(at / sizes.width, q, 0, at % sizes.width), own_ups[at], products[at], tilt, tilt + narrow);
    }
  }
  std::copy(of_weight.begin(), of_weight.end(), to_weights);

  variable_list result;
  std::vector<float*> to_own, to_shared;
  for (int64_t k = 0; k < sizes.maps; ++k) {
    result.push_back(at::empty_like(maps[k]));
    (k < sizes.shared ? to_shared : to_own).push_back(result.back().data_ptr<float>());
  }
  const auto of_identity = xs.defined() ? at::empty_like(xs) : at::Tensor();
  if (xs.defined()) to_shared.push_back(of_identity.data_ptr<float>());
  in_parallel(parts.count, [&](int64_t i) {
    kernels().mix_back(mix, parts.part(i), up, own.data(), shared.data(), to_own.data(), to_shared.data());
  });
  result.insert(result.end(), {of_weights, of_scale, of_identity});
  return result;
}

// The sum without what was before, by operators that can be derived once more.
at::Tensor derivable(at::TensorList maps, const at::Tensor& weights, const at::Tensor& scale, const at::Tensor& xs, const Sizes& sizes,
                     double eps, at::IntArrayRef shape) {
  const auto rows = [&](const at::Tensor& map) {
    return map.permute({0, 2, 3, 1}).reshape({sizes.pixels, sizes.sources, -1, sizes.width});
  };
  const auto share = [&](int64_t q) { return weights.select(1, q).view({-1, 1}); };
  const auto scales = scale.view({sizes.sources, -1, sizes.width});
  at::Tensor total;
  const auto add = [&](const at::Tensor& term) { total = total.defined() ? total + term : term; };
  for (int64_t k = 0; k < sizes.maps; ++k) {
    const auto map = rows(maps[k]);
    const auto centred = map - map.mean(0, true);
    const auto normal = centred * at::rsqrt(centred.square().mean(0, true) + eps);
    const auto scaled = normal * scales.narrow(1, sizes.first_edge(k), sizes.edges_of(k));
    add(k < sizes.shared ? scaled * share(k) : scaled);
  }
  if (xs.defined()) add(rows(xs) * share(sizes.shared));
  return total.permute({2, 0, 1, 3}).reshape(shape);
}

struct Mixture : torch::autograd::Function<Mixture> {
  using Optional = std::optional<at::Tensor>;

  static at::Tensor forward(AutogradContext* ctx, at::TensorList maps, const at::Tensor& weights, const at::Tensor& scale,
                            const Optional& xs, const Optional& sum, const at::Tensor& mean, const at::Tensor& var, double eps,
                            const Sizes& sizes) {
    const auto given = [](const Optional& tensor) { return tensor.value_or(at::Tensor()); };
    const auto norms = measured(maps, sizes, scale, mean, var, eps);
    auto saved = maps.vec();
    saved.insert(saved.end(), {weights, scale, given(xs), norms});
    ctx->save_for_backward(saved);
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["adds"] = sum.has_value();
    ctx->saved_data["sizes"] = std::vector<int64_t>{sizes.pixels, sizes.sources, sizes.edges, sizes.width, sizes.shared, sizes.columns};
    return forward_of(maps, weights, norms, given(xs), given(sum), sizes);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::TensorList maps(saved.data(), saved.size() - 4);
    const auto *rest = saved.data() + maps.size(), &weights = rest[0], &scale = rest[1], &xs = rest[2], &norms = rest[3];
    const auto of = ctx->saved_data["sizes"].toIntVector();
    const Sizes sizes{of[0], of[1], of[2], of[3], of[4], of[5], static_cast<int64_t>(maps.size())};
    variable_list result;
    if (!grads[0].defined()) return variable_list(maps.size() + 8);
    if (at::GradMode::is_enabled()) {
      const auto y = derivable(maps, weights, scale, xs, sizes, ctx->saved_data["eps"].toDouble(), grads[0].sizes());
      variable_list inputs;
      const auto is_derived = [](const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); };
      std::copy_if(saved.begin(), saved.end() - 1, std::back_inserter(inputs), is_derived);
      auto found = torch::autograd::grad({y}, inputs, {grads[0]}, true, true, true);
      auto next = found.begin();
      for (size_t i = 0; i + 1 < saved.size(); ++i) result.push_back(is_derived(saved[i]) ? *next++ : at::Tensor());
    } else {
      result = gradients(maps, weights, norms, xs, grads[0], sizes);
    }
    // Of the sum before, and of what is not derived: mean, var, eps, sizes.
    if (ctx->saved_data["adds"].toBool()) result.push_back(grads[0]);
    result.resize(maps.size() + 8);
    return result;
  }
};

bool serves(at::TensorList maps, const at::Tensor& xs, std::initializer_list<at::Tensor> others) {
  return std::all_of(maps.begin(), maps.end(), is_map) && (!xs.defined() || is_map(xs)) &&
         std::all_of(others.begin(), others.end(), on_floats) && !torch::jit::tracer::isTracing();
}

}  // namespace

extern "C" {

// What the maps `[B, channels, H, W * sources]` of a state's operators are worth to its edges, written to `out`
// `[edges, B, H, W * sources, width]`, which stays undefined where this does not serve. Norms lie by source, map, edge and channel in
// `scale`, and in `mean` and `var`, which become those of the batch. The first `shared` maps are of all edges, and so is `xs`, or
// null; their shares are `weights` `[edges, shared + 1]`, or without the last. `sum`, or null, is what the edges have already.
char* nas_mixture(const at::Tensor* const* list, size_t len, size_t shared, const at::Tensor* xs, const at::Tensor* weights,
                  const at::Tensor* scale, const at::Tensor* sum, const at::Tensor* mean, const at::Tensor* var, int64_t sources,
                  double eps, at::Tensor* out) {
  return guarded([&] {
    const auto given = [](const at::Tensor* tensor) { return tensor ? *tensor : at::Tensor(); };
    const auto optional = [](const at::Tensor* tensor) { return tensor ? std::optional(*tensor) : std::nullopt; };
    std::vector<at::Tensor> maps;
    for (size_t i = 0; i < len; ++i) maps.push_back(*list[i]);
    if (!serves(maps, given(xs), {*weights, *scale, given(sum), *mean, *var})) return;
    const auto& last = maps.back();
    const int64_t edges = weights->size(0), width = last.size(1) / edges, pixels = last.numel() / last.size(1) / sources;
    if (pixels < 2) return;
    const Sizes sizes{pixels, sources, edges, width, static_cast<int64_t>(shared), weights->size(1), static_cast<int64_t>(len)};
    *out = Mixture::apply(at::TensorList(maps), *weights, *scale, optional(xs), optional(sum), *mean, *var, eps, sizes);
  });
}
}

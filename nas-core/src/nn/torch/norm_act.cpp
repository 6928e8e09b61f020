// Batch norm and the activation after it as one operator, on channels-last maps of floats on the CPU: three passes over memory
// forward and five backward where libtorch's two operators make six and eight. Batch statistics are sums over fixed parts of the
// rows, so that they do not hang on the number of threads.

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "guarded.h"
#include "norm_act.h"
#include "parts.h"

namespace {

float at_or(const at::Tensor& tensor, int64_t i, float otherwise) {
  return tensor.defined() ? tensor.const_data_ptr<float>()[i] : otherwise;
}

// Moves running statistics towards those of a batch, whose variance is recorded as that of what it is drawn from.
void record(const at::Tensor& running_mean, const at::Tensor& running_var, const double* mean, const double* squares, int64_t C,
            int64_t count, double momentum) {
  if (!running_mean.defined()) return;
  float *means = running_mean.data_ptr<float>(), *vars = running_var.data_ptr<float>();
  for (int64_t c = 0; c < C; ++c) {
    means[c] = static_cast<float>((1 - momentum) * means[c] + momentum * mean[c]);
    vars[c] = static_cast<float>((1 - momentum) * vars[c] + momentum * squares[c] / static_cast<double>(count - 1));
  }
}

constexpr int64_t MEAN = 0, INVERSE = 1, SCALE = 2, SHIFT = 3;

at::Tensor applied(const at::Tensor& x, const at::Tensor& by, Act act) {
  const int64_t C = x.size(1);
  const Parts parts(x.numel() / C, C);
  auto y = at::empty_like(x);
  const float *from = x.const_data_ptr<float>(), *row = by.const_data_ptr<float>();
  float* to = y.data_ptr<float>();
  const Affine affine{row + MEAN * C, row + SCALE * C, row + SHIFT * C};
  in_parallel(parts.count, [&](int64_t i) { kernels().apply(act, from, to, parts.part(i), affine); });
  return y;
}

// Mean, inverse of the standard deviation, scale and shift `[4, C]`.
template <typename M, typename V>
at::Tensor affine(const at::Tensor& like, const at::Tensor& weight, const at::Tensor& bias, const M& mean, const V& var, double eps) {
  const int64_t C = like.size(1);
  auto by = at::empty({4, C}, like.options().memory_format(at::MemoryFormat::Contiguous));
  float* row = by.template data_ptr<float>();
  for (int64_t c = 0; c < C; ++c) {
    const double inverse = 1 / std::sqrt(var(c) + eps), scale = inverse * at_or(weight, c, 1);
    row[MEAN * C + c] = static_cast<float>(mean(c));
    row[INVERSE * C + c] = static_cast<float>(inverse);
    row[SCALE * C + c] = static_cast<float>(scale);
    row[SHIFT * C + c] = static_cast<float>(at_or(bias, c, 0) - mean(c) * scale);
  }
  return by;
}

at::Tensor batch_affine(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& running_mean,
                        const at::Tensor& running_var, double momentum, double eps) {
  const int64_t C = x.size(1), rows = x.numel() / C;
  const auto moments = moments_of(x.const_data_ptr<float>(), Parts(rows, C));
  const double *mean = moments.data(), *squares = mean + C;
  record(running_mean, running_var, mean, squares, C, rows, momentum);
  const auto var = [&](int64_t c) { return squares[c] / static_cast<double>(rows); };
  return affine(x, weight, bias, [&](int64_t c) { return mean[c]; }, var, eps);
}

using Gradients = std::array<at::Tensor, 3>;

// Of input, weight and bias.
Gradients gradients(const at::Tensor& x, const at::Tensor& by, const at::Tensor& given, Act act) {
  const int64_t C = x.size(1), rows = x.numel() / C;
  const Parts parts(rows, C);
  const auto dy = given.contiguous(at::MemoryFormat::ChannelsLast);
  const float *from = x.const_data_ptr<float>(), *up = dy.const_data_ptr<float>(), *row = by.const_data_ptr<float>();
  const Affine affine{row + MEAN * C, row + SCALE * C, row + SHIFT * C};
  const auto sums = sums_of(parts, 2 * C, [&](int64_t i, double* mine) {
    std::vector<float> block(2 * C);
    parts.each_block(i, [&](Rows rows) {
      std::fill(block.begin(), block.end(), 0.0f);
      kernels().gradient(act, from, up, rows, affine, block.data());
      for (int64_t c = 0; c < 2 * C; ++c) mine[c] += block[c];
    });
  });
  auto flat = by.options();
  auto of_weight = at::empty({C}, flat), of_bias = at::empty({C}, flat), slopes = at::empty({2, C}, flat);
  float *weights = of_weight.data_ptr<float>(), *biases = of_bias.data_ptr<float>();
  float *tilt = slopes.data_ptr<float>(), *offset = tilt + C;
  const double count = static_cast<double>(rows);
  for (int64_t c = 0; c < C; ++c) {
    const double inverse = row[INVERSE * C + c], scale = row[SCALE * C + c], mean = row[MEAN * C + c];
    const double lean = scale * inverse * inverse * sums[C + c] / count;
    weights[c] = static_cast<float>(sums[C + c] * inverse);
    biases[c] = static_cast<float>(sums[c]);
    tilt[c] = static_cast<float>(-lean);
    offset[c] = static_cast<float>(mean * lean - scale * sums[c] / count);
  }
  auto of_input = at::empty_like(x);
  float* to = of_input.data_ptr<float>();
  in_parallel(parts.count, [&](int64_t i) { kernels().back(act, from, up, to, parts.part(i), affine, tilt, offset); });
  return {of_input, of_weight, of_bias};
}

// The same by operators that can be derived once more.
Gradients derivable(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& dy, double eps, Act act) {
  const std::vector<int64_t> over{0, 2, 3};
  const auto column = [&](const at::Tensor& tensor) { return tensor.view({1, -1, 1, 1}); };
  const auto centred = x - x.mean(over, true);
  const auto inverse = at::rsqrt(centred.square().mean(over, true) + eps);
  const auto normal = centred * inverse;
  auto z = weight.defined() ? normal * column(weight) : normal;
  if (bias.defined()) z = z + column(bias);
  at::Tensor g = dy;
  if (act == RELU) g = dy * (z > 0);
  if (act == RELU6) g = dy * (z > 0).logical_and(z < 6);
  if (act == HSWISH) g = dy * at::where(z < -3, at::zeros_like(z), at::where(z > 3, at::ones_like(z), z / 3 + 0.5));
  const auto scale = weight.defined() ? inverse * column(weight) : inverse;
  const auto of_input = scale * (g - g.mean(over, true) - normal * (g * normal).mean(over, true));
  return {of_input, (g * normal).sum(over), g.sum(over)};
}

struct NormAct : torch::autograd::Function<NormAct> {
  // Of undefined tensors autograd wants to know the device: absent ones are none.
  using Optional = std::optional<at::Tensor>;

  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const Optional& weight, const Optional& bias,
                            const Optional& running_mean, const Optional& running_var, double momentum, double eps, int64_t act) {
    const auto given = [](const Optional& tensor) { return tensor.value_or(at::Tensor()); };
    const auto by =
        batch_affine(x, given(weight), given(bias), given(running_mean), given(running_var), momentum, eps);
    ctx->save_for_backward({x, given(weight), given(bias), by});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["act"] = act;
    return applied(x, by, static_cast<Act>(act));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &bias = saved[2];
    const auto act = static_cast<Act>(ctx->saved_data["act"].toInt());
    torch::autograd::variable_list result(8);
    if (!grads[0].defined()) return result;
    auto [of_input, of_weight, of_bias] = at::GradMode::is_enabled()
        ? derivable(x, weight, bias, grads[0], ctx->saved_data["eps"].toDouble(), act)
        : gradients(x, saved[3], grads[0], act);
    result[0] = of_input;
    if (weight.defined()) result[1] = of_weight;
    if (bias.defined()) result[2] = of_bias;
    return result;
  }
};

bool serves(const at::Tensor& x, const std::array<at::Tensor, 4>& others, bool train) {
  const bool sound = is_map(x) && std::all_of(others.begin(), others.end(), on_floats);
  if (!sound || torch::jit::tracer::isTracing()) return false;
  if (train) return x.numel() > x.size(1);
  const auto derived = [](const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); };
  return !(at::GradMode::is_enabled() && (derived(x) || derived(others[0]) || derived(others[1])));
}

}  // namespace

extern "C" {

// Batch norm over `x` `[B, C, H, W]` and the activation of number `act`, written to `out`, which stays undefined where this does
// not serve. Absent tensors are null; without `train` the running statistics are what `x` is normalised by.
char* nas_norm_act(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias, const at::Tensor* running_mean,
                   const at::Tensor* running_var, bool train, double momentum, double eps, int64_t act, at::Tensor* out) {
  return guarded([&] {
    const auto given = [](const at::Tensor* tensor) { return tensor ? *tensor : at::Tensor(); };
    const std::array<at::Tensor, 4> others{given(weight), given(bias), given(running_mean), given(running_var)};
    if (!serves(*x, others, train)) return;
    const auto& [w, b, mean, var] = others;
    if (train) {
      const auto optional = [](const at::Tensor& tensor) { return tensor.defined() ? std::optional(tensor) : std::nullopt; };
      *out = NormAct::apply(*x, optional(w), optional(b), optional(mean), optional(var), momentum, eps, act);
      return;
    }
    const float *means = mean.const_data_ptr<float>(), *vars = var.const_data_ptr<float>();
    const auto by = affine(*x, w, b, [&](int64_t c) { return means[c]; }, [&](int64_t c) { return vars[c]; }, eps);
    *out = applied(*x, by, static_cast<Act>(act));
  });
}
}

// 1x1 convolutions in groups, of small channels-last maps of floats on the CPU: oneDNN's take longer to begin than to sum up.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <vector>

#include "guarded.h"
#include "norm_act.h"
#include "parts.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows of `groups * from` channels times a matrix `[from, to]` of each group: `[B, groups * to, H, W]`.
at::Tensor product(const at::Tensor& x, const float* matrices, int64_t groups, int64_t from, int64_t to) {
  auto y = at::empty({x.size(0), groups * to, x.size(2), x.size(3)}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  const Parts parts(x.numel() / x.size(1), x.size(1));
  const float* in = x.const_data_ptr<float>();
  float* out = y.data_ptr<float>();
  in_parallel(parts.count, [&](int64_t i) { kernels().grouped(in, matrices, out, parts.part(i), {groups, from, to}); });
  return y;
}

// Of each group, `[from, to]` for weights `[to, from]`.
std::vector<float> turned(const at::Tensor& w, int64_t groups) {
  const int64_t to = w.size(0) / groups, from = w.size(1);
  const float* weights = w.const_data_ptr<float>();
  std::vector<float> result(w.numel());
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t o = 0; o < to; ++o)
      for (int64_t i = 0; i < from; ++i) result[(group * from + i) * to + o] = weights[(group * to + o) * from + i];
  return result;
}

at::Tensor of_weights(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& w, int64_t groups) {
  const int64_t to = w.size(0) / groups, from = w.size(1), count = w.numel();
  const Parts parts(x.numel() / x.size(1), x.size(1));
  const float *in = x.const_data_ptr<float>(), *up = dy.const_data_ptr<float>();
  const auto sums = sums_of(parts, count, [&](int64_t i, double* mine) {
    std::vector<float> block(count);
    const Rows all = parts.part(i);
    constexpr int64_t AT_ONCE = 128;
    for (int64_t at = 0; at < all.count; at += AT_ONCE) {
      kernels().grouped_sums(in, up, block.data(), {all.from + at, std::min(AT_ONCE, all.count - at), all.channels}, {groups, from, to});
      for (int64_t j = 0; j < count; ++j) mine[j] += block[j];
    }
  });
  auto dw = at::empty_like(w);
  std::copy(sums.begin(), sums.end(), dw.data_ptr<float>());
  return dw;
}

struct Grouped : torch::autograd::Function<Grouped> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& w, int64_t groups) {
    ctx->save_for_backward({x, w});
    ctx->saved_data["groups"] = groups;
    return product(x, turned(w, groups).data(), groups, w.size(1), w.size(0) / groups);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].defined()) return variable_list(3);
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &w = saved[1];
    const int64_t groups = ctx->saved_data["groups"].toInt();
    const bool needs_x = ctx->needs_input_grad(0), needs_w = ctx->needs_input_grad(1);
    if (at::GradMode::is_enabled()) {
      const auto [dx, dw, none] = at::convolution_backward(grads[0], x, w, std::nullopt, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, groups,
                                                           {needs_x, needs_w, false});
      return {dx, dw, none};
    }
    const auto dy = grads[0].contiguous(at::MemoryFormat::ChannelsLast);
    const auto dx = needs_x ? product(dy, w.const_data_ptr<float>(), groups, w.size(0) / groups, w.size(1)) : at::Tensor();
    return {dx, needs_w ? of_weights(x, dy, w, groups) : at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

// The 1x1 convolution of `x` `[B, groups * I, H, W]` by `w` `[groups * O, I, 1, 1]`, written to `out`, which stays undefined where this
// does not serve: for many pixels and for channels that are not multiples of eight, too.
char* nas_grouped(const at::Tensor* x, const at::Tensor* w, int64_t groups, at::Tensor* out) {
  return guarded([&] {
    const bool sound = is_map(*x) && on_floats(*w) && !torch::jit::tracer::isTracing();
    constexpr int64_t FEW_PIXELS = 2048;
    if (!sound || x->numel() / x->size(1) > FEW_PIXELS || w->size(1) % 8 || w->size(0) / groups % 8) return;
    *out = Grouped::apply(*x, *w, groups);
  });
}
}

// Dense convolutions of few pixels by many weights on the CPU: libtorch copies their gradients twice on the way from oneDNN's memory
// order to its own, which takes longer than the sums. Here they are products of matrices, written where they stay. Taps that no pixel
// meets are left out.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "guarded.h"
#include "parts.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Pair = std::array<int64_t, 2>;

// A kernel's taps that meet pixels at all, and how they lie.
struct Geometry {
  Pair first, count, padding, dilation;

  Geometry(const at::Tensor& x, const at::Tensor& w, const Pair& padding, const Pair& dilation) : padding(padding), dilation(dilation) {
    for (int64_t side : {0, 1}) {
      const auto meets = [&](int64_t tap) { return std::abs(tap * dilation[side] - padding[side]) < x.size(2 + side); };
      int64_t end = w.size(2 + side);
      first[side] = 0;
      while (!meets(first[side])) ++first[side];
      while (!meets(end - 1)) --end;
      count[side] = end - first[side];
      this->padding[side] -= first[side] * dilation[side];
    }
  }

  at::Tensor kept(const at::Tensor& w) const {
    return w.narrow(2, first[0], count[0]).narrow(3, first[1], count[1]);
  }
};

// Of weights `[O, I, height, width]`, channels-last as they are: for each row of taps the product of `dy` `[O, pixels]` and what the
// taps see, `[pixels, taps * I]`.
at::Tensor of_weights(const at::Tensor& x, const at::Tensor& w, const at::Tensor& given, const Geometry& of) {
  const auto dy = given.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t B = x.size(0), I = x.size(1), H = x.size(2), W = x.size(3), O = w.size(0), pixels = B * H * W;
  auto dw = at::empty_like(w);
  if (of.count[0] < w.size(2) || of.count[1] < w.size(3)) dw.zero_();
  const auto to = of.kept(dw).permute({0, 2, 3, 1});
  const auto up = dy.permute({0, 2, 3, 1}).view({pixels, O}).t();
  auto seen = at::empty({pixels, of.count[1] * I}, x.options().memory_format(at::MemoryFormat::Contiguous));
  const float* from = x.const_data_ptr<float>();
  for (int64_t row = 0; row < of.count[0]; ++row) {
    float* see = seen.data_ptr<float>();
    for (int64_t b = 0; b < B; ++b)
      for (int64_t h = 0; h < H; ++h)
        for (int64_t v = 0; v < W; ++v)
          for (int64_t tap = 0; tap < of.count[1]; ++tap, see += I) {
            const int64_t at = h + row * of.dilation[0] - of.padding[0], beside = v + tap * of.dilation[1] - of.padding[1];
            if (at < 0 || at >= H || beside < 0 || beside >= W) std::fill(see, see + I, 0.0f);
            else std::memcpy(see, from + ((b * H + at) * W + beside) * I, I * sizeof(float));
          }
    auto part = to.select(1, row).flatten(1, 2);
    at::mm_out(part, up, seen);
  }
  return dw;
}

struct Conv : torch::autograd::Function<Conv> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& w, const Pair& padding, const Pair& dilation) {
    ctx->save_for_backward({x, w});
    ctx->saved_data["geometry"] = std::vector<int64_t>{padding[0], padding[1], dilation[0], dilation[1]};
    const Geometry of(x, w, padding, dilation);
    return at::convolution(x, of.kept(w), std::nullopt, {1, 1}, of.padding, of.dilation, false, {0, 0}, 1);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].defined()) return variable_list(4);
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &w = saved[1], &dy = grads[0];
    const auto numbers = ctx->saved_data["geometry"].toIntVector();
    const Geometry of(x, w, {numbers[0], numbers[1]}, {numbers[2], numbers[3]});
    const bool needs_x = ctx->needs_input_grad(0), needs_w = ctx->needs_input_grad(1);
    const auto derived = [&](const at::Tensor& w, const Pair& padding, bool of_w) {
      return at::convolution_backward(dy, x, w, std::nullopt, {1, 1}, padding, of.dilation, false, {0, 0}, 1, {needs_x, of_w, false});
    };
    if (at::GradMode::is_enabled()) {
      const auto [dx, dw, none] = derived(w, {numbers[0], numbers[1]}, needs_w);
      return {dx, dw, none, none};
    }
    const auto dx = std::get<0>(derived(of.kept(w), of.padding, false));
    return {dx, needs_w ? of_weights(x, w, dy, of) : at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

bool serves(const at::Tensor& x, const at::Tensor& w) {
  return is_map(x) && is_map(w) && x.numel() / x.size(1) <= w.size(0) && at::GradMode::is_enabled() && w.requires_grad() &&
         !torch::jit::tracer::isTracing();
}

}  // namespace

extern "C" {

// The dense convolution of `x` `[B, I, H, W]` by `w` `[O, I, height, width]` at every pixel, written to `out`, which stays undefined
// where this does not serve: where there are not more outputs than pixels, too. The result has the size of `x`.
char* nas_conv(const at::Tensor* x, const at::Tensor* w, const int64_t* padding, const int64_t* dilation, at::Tensor* out) {
  return guarded([&] {
    if (!serves(*x, *w)) return;
    *out = Conv::apply(*x, *w, Pair{padding[0], padding[1]}, Pair{dilation[0], dilation[1]});
  });
}
}

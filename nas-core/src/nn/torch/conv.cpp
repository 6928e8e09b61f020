// Dense convolutions of few pixels by many weights on the CPU: libtorch copies their gradients twice on the way from oneDNN's memory
// order to its own, which takes longer than the sums. Here they are products of matrices, written where they stay.

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

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Pair = std::array<int64_t, 2>;

struct Geometry {
  Pair padding, dilation;
};

// Taps of one side of a kernel that meet pixels at all, by their place.
Pair alive(int64_t taps, int64_t side, int64_t padding, int64_t dilation) {
  const auto meets = [&](int64_t tap) { return std::abs(tap * dilation - padding) < side; };
  int64_t first = 0, end = taps;
  while (first < end && !meets(first)) ++first;
  while (end > first && !meets(end - 1)) --end;
  return {first, end};
}

// Of weights `[O, I, height, width]`, channels-last as they are: for each row of taps the product of `dy` `[O, pixels]` and what the
// taps see, `[pixels, taps * I]`.
at::Tensor of_weights(const at::Tensor& x, const at::Tensor& w, const at::Tensor& given, const Geometry& of) {
  const auto dy = given.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t B = x.size(0), I = x.size(1), H = x.size(2), W = x.size(3), O = w.size(0), pixels = B * H * W;
  const int64_t height = w.size(2), width = w.size(3);
  const auto rows = alive(height, H, of.padding[0], of.dilation[0]), columns = alive(width, W, of.padding[1], of.dilation[1]);
  const int64_t live = columns[1] - columns[0];
  auto dw = at::empty_like(w);
  if (live < width || rows[1] - rows[0] < height) dw.zero_();
  // As rows: `[O, height, width * I]`.
  const auto to = dw.permute({0, 2, 3, 1}).view({O, height, width * I});
  const auto up = dy.permute({0, 2, 3, 1}).view({pixels, O}).t();
  auto seen = at::empty({pixels, live * I}, x.options().memory_format(at::MemoryFormat::Contiguous));
  const float* from = x.const_data_ptr<float>();
  for (int64_t row = rows[0]; row < rows[1]; ++row) {
    float* see = seen.data_ptr<float>();
    for (int64_t b = 0; b < B; ++b)
      for (int64_t h = 0; h < H; ++h)
        for (int64_t v = 0; v < W; ++v)
          for (int64_t tap = columns[0]; tap < columns[1]; ++tap, see += I) {
            const int64_t at = h + row * of.dilation[0] - of.padding[0], beside = v + tap * of.dilation[1] - of.padding[1];
            if (at < 0 || at >= H || beside < 0 || beside >= W) std::fill(see, see + I, 0.0f);
            else std::memcpy(see, from + ((b * H + at) * W + beside) * I, I * sizeof(float));
          }
    auto part = to.select(1, row).narrow(1, columns[0] * I, live * I);
    at::mm_out(part, up, seen);
  }
  return dw;
}

struct Conv : torch::autograd::Function<Conv> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& w, const Geometry& of) {
    ctx->save_for_backward({x, w});
    ctx->saved_data["geometry"] = std::vector<int64_t>{of.padding[0], of.padding[1], of.dilation[0], of.dilation[1]};
    return at::convolution(x, w, std::nullopt, {1, 1}, of.padding, of.dilation, false, {0, 0}, 1);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto of = ctx->saved_data["geometry"].toIntVector();
    const Geometry geometry{{of[0], of[1]}, {of[2], of[3]}};
    if (!grads[0].defined()) return variable_list(3);
    const bool twice = at::GradMode::is_enabled(), needs_x = ctx->needs_input_grad(0), needs_w = ctx->needs_input_grad(1);
    const auto found = at::convolution_backward(grads[0], saved[0], saved[1], std::nullopt, {1, 1}, geometry.padding, geometry.dilation,
                                                false, {0, 0}, 1, {needs_x, needs_w && twice, false});
    const auto dw = needs_w && !twice ? of_weights(saved[0], saved[1], grads[0], geometry) : std::get<1>(found);
    return {std::get<0>(found), dw, at::Tensor()};
  }
};

bool serves(const at::Tensor& x, const at::Tensor& w) {
  const auto sound = [](const at::Tensor& tensor) {
    return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.dim() == 4 && tensor.numel() > 0 &&
           tensor.is_contiguous(at::MemoryFormat::ChannelsLast);
  };
  return sound(x) && sound(w) && x.numel() / x.size(1) <= w.size(0) && at::GradMode::is_enabled() && w.requires_grad() &&
         !torch::jit::tracer::isTracing();
}

}  // namespace

extern "C" {

// The dense convolution of `x` `[B, I, H, W]` by `w` `[O, I, height, width]` at every pixel, written to `out`, which stays undefined
// where this does not serve: where there are not more outputs than pixels, too. The result has the size of `x`.
char* nas_conv(const at::Tensor* x, const at::Tensor* w, const int64_t* padding, const int64_t* dilation, at::Tensor* out) {
  return guarded([&] {
    if (!serves(*x, *w)) return;
    *out = Conv::apply(*x, *w, Geometry{{padding[0], padding[1]}, {dilation[0], dilation[1]}});
  });
}
}

// What tch lacks of libtorch's C++ interface, as C functions: operators over lists of tensors, mixed precision by device,
// numeric switches, the allocator's figures. Each returns null, or a message that the caller frees.

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/headeronly/version.h>

#include <vector>

#include "guarded.h"

namespace {

using Handle = at::Tensor*;

std::vector<at::Tensor> list(const Handle* tensors, size_t len) {
  std::vector<at::Tensor> result;
  result.reserve(len);
  for (size_t i = 0; i < len; ++i) result.push_back(*tensors[i]);
  return result;
}

std::optional<at::Tensor> optional(Handle tensor) { return tensor ? std::optional<at::Tensor>(*tensor) : std::nullopt; }

// Whether both walk memory in the same order: strides of sides of length 1 do not count.
bool same_order(const at::Tensor& a, const at::Tensor& b) {
  for (int64_t dim = 0; dim < a.dim(); ++dim)
    if (a.size(dim) != 1 && a.stride(dim) != b.stride(dim)) return false;
  return true;
}

// Gradients in the memory order of their parameters, which the fused operators walk without looking at strides.
std::vector<at::Tensor> laid_out(const std::vector<at::Tensor>& grads, const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> result;
  result.reserve(grads.size());
  for (size_t i = 0; i < grads.size(); ++i) {
    const auto &grad = grads[i], &parameter = parameters[i];
    if (grad.strides() == parameter.strides()) result.push_back(grad);
    else if (same_order(grad, parameter)) result.push_back(grad.as_strided(parameter.sizes(), parameter.strides()));
    else result.push_back(at::empty_like(parameter).copy_(grad));
  }
  return result;
}

}  // namespace

extern "C" {

const char* nas_torch_version() { return TORCH_VERSION; }

char* nas_sgd_step(const Handle* parameters, const Handle* grads, const Handle* velocities, size_t len, double lr,
                   double momentum, double weight_decay, bool nesterov, Handle overflow) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto of = list(parameters, len);
    // Without momentum there is nothing to remember.
    auto velocity = momentum == 0.0 ? std::vector<at::Tensor>() : list(velocities, len);
    at::_fused_sgd_(of, laid_out(list(grads, len), of), velocity, weight_decay, momentum, lr, 0.0, nesterov && momentum > 0.0,
                    false, false, {}, optional(overflow));
  });
}

char* nas_adam_step(const Handle* parameters, const Handle* grads, const Handle* firsts, const Handle* seconds,
                    const Handle* steps, size_t len, double lr, double beta1, double beta2, double weight_decay, double eps,
                    bool decoupled, Handle overflow) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto of = list(parameters, len);
    auto counts = list(steps, len);
    at::_foreach_add_(counts, 1);
    auto as_laid_out = laid_out(list(grads, len), of);
    auto first = list(firsts, len), second = list(seconds, len);
    if (decoupled)
      at::_fused_adamw_(of, as_laid_out, first, second, {}, counts, lr, beta1, beta2, weight_decay, eps, false, false, {},
                        optional(overflow));
    else
      at::_fused_adam_(of, as_laid_out, first, second, {}, counts, lr, beta1, beta2, weight_decay, eps, false, false, {},
                       optional(overflow));
    if (overflow) at::_foreach_sub_(counts, std::vector<at::Tensor>(len, overflow->squeeze()));
  });
}

// Multiplies each tensor by `factor`, a tensor of one number.
char* nas_scale(const Handle* tensors, size_t len, Handle factor) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto all = list(tensors, len);
    at::_foreach_mul_(all, *factor);
  });
}

// `averages <- decay * averages + (1 - decay) * values`.
char* nas_average(const Handle* averages, const Handle* values, size_t len, double decay) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto all = list(averages, len);
    at::_foreach_lerp_(all, list(values, len), 1.0 - decay);
  });
}

// Writes the Euclidean norms of the tensors, stacked, to `norms`.
char* nas_norms(const Handle* tensors, size_t len, Handle norms) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    *norms = at::stack(at::_foreach_norm(list(tensors, len)));
  });
}

// Multiplies each tensor by `inverse_scale` and sets `overflow` to 1 where a number is not finite.
char* nas_unscale(const Handle* tensors, size_t len, Handle overflow, Handle inverse_scale) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto all = list(tensors, len);
    at::_amp_foreach_non_finite_check_and_unscale_(all, *overflow, *inverse_scale);
  });
}

// Mixed precision on CUDA devices, for this thread, until the matching `nas_autocast_exit`.
char* nas_autocast_enter(bool bfloat16, bool* before) {
  return guarded([&] {
    *before = at::autocast::is_autocast_enabled(at::kCUDA);
    at::autocast::set_autocast_enabled(at::kCUDA, true);
    at::autocast::set_autocast_dtype(at::kCUDA, bfloat16 ? at::kBFloat16 : at::kHalf);
    at::autocast::increment_nesting();
  });
}

char* nas_autocast_exit(bool before) {
  return guarded([&] {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCUDA, before);
  });
}

char* nas_set_tf32(bool on) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(on);
    at::globalContext().setAllowTF32CuDNN(on);
  });
}

// What has no deterministic form warns.
char* nas_set_deterministic() {
  return guarded([&] {
    at::globalContext().setDeterministicAlgorithms(true, true);
    at::globalContext().setDeterministicCuDNN(true);
    at::globalContext().setBenchmarkCuDNN(false);
  });
}

// Bytes held by tensors on a CUDA device: now, and the most so far.
char* nas_device_memory(int8_t index, int64_t* now, int64_t* peak) {
  return guarded([&] {
    auto* allocator = at::getDeviceAllocator(c10::DeviceType::CUDA);
    TORCH_CHECK(allocator->initialized(), "the allocator is not in use");
    const auto stats = allocator->getDeviceStats(index);
    const auto& bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
    *now = bytes.current;
    *peak = bytes.peak;
  });
}
}

// Sums and broadcasts between processes by libtorch's own c10d, as C functions. Each returns null, or a message that the caller
// frees. Tensors lie in the host's memory: Gloo moves them over TCP.

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "guarded.h"

namespace {

using Group = c10::intrusive_ptr<c10d::Backend>;

// Sums over all processes in place. What is thrown says what `ranks.rs` looks for: in a backward pass it goes through autograd.
void sum(const Group& group, at::Tensor& tensor) {
  try {
    std::vector<at::Tensor> list{tensor};
    group->allreduce(list, c10d::AllreduceOptions())->wait();
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string("another process of this run cannot be reached: ") + error.what());
  }
}

at::Tensor summed(const Group& group, const at::Tensor& tensor) {
  auto host = tensor.detach().to(at::kCPU, tensor.scalar_type(), false, true).contiguous();
  sum(group, host);
  return host.to(tensor.device());
}

Group* current = nullptr;

// The sum over all processes; the gradient of what each gave is the sum of the gradients of what each got.
struct Summed : torch::autograd::Function<Summed> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& tensor) { return summed(*current, tensor); }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*, torch::autograd::variable_list grads) {
    return {summed(*current, grads[0])};
  }
};

}  // namespace

extern "C" {

// Joins a group of `world` processes, whose process 0 listens on `host`:`port`. `interface` may be empty.
char* nas_group_join(const char* host, int port, int rank, int world, const char* interface, int64_t millis) {
  return guarded([&] {
    const auto timeout = std::chrono::milliseconds(millis);
    c10d::TCPStoreOptions at;
    at.port = static_cast<uint16_t>(port);
    at.isServer = rank == 0;
    at.numWorkers = world;
    // All are started together: one that does not come soon never will.
    at.timeout = std::min(timeout, std::chrono::milliseconds(std::chrono::minutes(5)));
    auto tcp = c10::make_intrusive<c10d::TCPStore>(std::string(host), at);
    auto store = c10::make_intrusive<c10d::PrefixStore>("nas", tcp);
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    const bool local = !std::strcmp(host, "127.0.0.1") || !std::strcmp(host, "localhost");
    options->devices.push_back(*interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                               : local    ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                                          : c10d::ProcessGroupGloo::createDefaultDevice());
    current = new Group(c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world, options));
  });
}

// Leaves the group.
void nas_group_leave() {
  delete current;
  current = nullptr;
}

char* nas_group_sum(at::Tensor* tensor) {
  return guarded([&] { sum(*current, *tensor); });
}

char* nas_group_broadcast(at::Tensor* tensor, int root) {
  return guarded([&] {
    std::vector<at::Tensor> list{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    (*current)->broadcast(list, options)->wait();
  });
}

char* nas_group_summed(const at::Tensor* tensor, at::Tensor* out) {
  return guarded([&] { *out = Summed::apply(*tensor); });
}
}

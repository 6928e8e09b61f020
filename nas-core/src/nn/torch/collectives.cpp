// Sums and broadcasts between processes, as C functions. Each returns null, or a message that the caller frees. Tensors in the
// host's memory go over TCP, by Gloo of libtorch's own c10d; those on cards, once `nas_group_cards_join` was called, by NCCL.

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
#include "nccl.h"

namespace {

using Group = c10::intrusive_ptr<c10d::Backend>;

Group* current = nullptr;
nas::Cards* cards = nullptr;

// What is thrown says what `ranks.rs` looks for: in a backward pass it goes through autograd.
template <typename F>
void reached(F f) {
  try {
    f();
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string("another process of this run cannot be reached: ") + error.what());
  }
}

// Sums over all processes in place.
void sum(at::Tensor& tensor) {
  reached([&] {
    if (tensor.is_cuda()) return cards->sum(tensor);
    std::vector<at::Tensor> list{tensor};
    (*current)->allreduce(list, c10d::AllreduceOptions())->wait();
  });
}

at::Tensor summed(const at::Tensor& tensor) {
  auto own = tensor.detach().to(cards ? tensor.device() : at::Device(at::kCPU), tensor.scalar_type(), false, true).contiguous();
  sum(own);
  return own.to(tensor.device());
}

// The sum over all processes; the gradient of what each gave is the sum of the gradients of what each got.
struct Summed : torch::autograd::Function<Summed> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& tensor) { return summed(tensor); }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*, torch::autograd::variable_list grads) {
    return {summed(grads[0])};
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

// The version of NCCL, if it is found.
char* nas_nccl_version(int* version) {
  return guarded([&] { *version = nas::nccl_version(); });
}

// What `nas_group_cards_join` takes, 128 bytes.
char* nas_nccl_id(char* id) {
  return guarded([&] {
    const auto made = nas::nccl_id();
    std::copy(std::begin(made.bytes), std::end(made.bytes), id);
  });
}

// Tensors on cards go from card to card from now on. All processes of the group call it at the same time, with the same `id`.
char* nas_group_cards_join(const char* id, int rank, int world, int device) {
  return guarded([&] {
    nas::NcclId same;
    std::copy(id, id + sizeof same.bytes, same.bytes);
    cards = new nas::Cards(same, rank, world, c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device)));
  });
}

// Tensors on cards do not go from card to card any more.
void nas_group_cards_leave() {
  delete cards;
  cards = nullptr;
}

// Leaves the group.
void nas_group_leave() {
  nas_group_cards_leave();
  delete current;
  current = nullptr;
}

char* nas_group_sum(at::Tensor* tensor) {
  return guarded([&] { sum(*tensor); });
}

char* nas_group_broadcast(at::Tensor* tensor, int root) {
  return guarded([&] {
    if (tensor->is_cuda()) return cards->broadcast(*tensor, root);
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

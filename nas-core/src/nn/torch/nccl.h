#pragma once
// NCCL (NVIDIA's collectives between cards), found when the program runs: nothing of it is needed to build.

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace nas {

// What the processes of a group agree on: made by one of them, the same for all.
struct NcclId {
  char bytes[128];
};

// The version of the library that is found, such as 22707; throws what is missing.
int nccl_version();

NcclId nccl_id();

// Sums and broadcasts of tensors on this process' card, on its default stream, on which all of a program's work runs: nothing
// waits for the host. A process that is lost leaves the others waiting for good.
class Cards {
 public:
  // All processes of the group make it at the same time, each on a card of its own; throws where two have the same.
  Cards(const NcclId& id, int rank, int world, c10::Device device);
  ~Cards();
  Cards(const Cards&) = delete;
  Cards& operator=(const Cards&) = delete;

  // In place; `tensor` is contiguous.
  void sum(const at::Tensor& tensor) const;
  void broadcast(const at::Tensor& tensor, int root) const;

 private:
  void* comm_ = nullptr;
  c10::Device device_;
};

}  // namespace nas

#include "nccl.h"

#include <c10/core/DeviceGuard.h>
#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace nas {
namespace {

// NCCL's C interface, which it has kept since version 2.0: results are 0 or an error's number, streams and communicators pointers.
struct Api {
  int (*get_version)(int*);
  int (*get_unique_id)(NcclId*);
  int (*init_rank)(void**, int, NcclId, int);
  int (*destroy)(void*);
  int (*all_reduce)(const void*, void*, size_t, int, int, void*, void*);
  int (*broadcast)(const void*, void*, size_t, int, int, void*, void*);
  const char* (*error_string)(int);
};

// The default stream of a card.
constexpr void* kStream = nullptr;
constexpr int kSum = 0;

Api load() {
  // libtorch's packages have it under the name with its version alone; without it a build of NCCL from source is found.
  void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  const auto find = [&](auto& function, const char* name) {
    void* symbol = dlsym(library, name);
    if (!symbol) throw std::runtime_error(std::string("libnccl.so.2 has no ") + name);
    function = reinterpret_cast<std::decay_t<decltype(function)>>(symbol);
  };
  Api api{};
  find(api.get_version, "ncclGetVersion");
  find(api.get_unique_id, "ncclGetUniqueId");
  find(api.init_rank, "ncclCommInitRank");
  find(api.destroy, "ncclCommDestroy");
  find(api.all_reduce, "ncclAllReduce");
  find(api.broadcast, "ncclBroadcast");
  find(api.error_string, "ncclGetErrorString");
  return api;
}

const Api& api() {
  static const Api it = load();
  return it;
}

void require(int result, const char* what) {
  if (result) throw std::runtime_error(std::string(what) + ": " + api().error_string(result));
}

int kind_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kByte:
    case at::kBool: return 1;
    case at::kInt: return 2;
    case at::kLong: return 4;
    case at::kHalf: return 6;
    case at::kFloat: return 7;
    case at::kDouble: return 8;
    case at::kBFloat16: return 9;
    default: throw std::runtime_error(std::string("NCCL has no ") + c10::toString(tensor.scalar_type()));
  }
}

}  // namespace

int nccl_version() {
  int version = 0;
  require(api().get_version(&version), "ncclGetVersion");
  return version;
}

NcclId nccl_id() {
  NcclId id{};
  require(api().get_unique_id(&id), "ncclGetUniqueId");
  return id;
}

Cards::Cards(const NcclId& id, int rank, int world, c10::Device device) : device_(device) {
  const c10::DeviceGuard guard(device_);
  require(api().init_rank(&comm_, world, id, rank), "ncclCommInitRank");
}

Cards::~Cards() {
  const c10::DeviceGuard guard(device_);
  // The work is done, and nobody is left to hear of an error.
  (void)api().destroy(comm_);
}

void Cards::sum(const at::Tensor& tensor) const {
  const c10::DeviceGuard guard(device_);
  void* data = tensor.data_ptr();
  require(api().all_reduce(data, data, tensor.numel(), kind_of(tensor), kSum, comm_, kStream), "ncclAllReduce");
}

void Cards::broadcast(const at::Tensor& tensor, int root) const {
  const c10::DeviceGuard guard(device_);
  void* data = tensor.data_ptr();
  require(api().broadcast(data, data, tensor.numel(), kind_of(tensor), root, comm_, kStream), "ncclBroadcast");
}

}  // namespace nas

// A CUDA device that is none: memory and arithmetic are the CPU's, everything else behaves like a card.
//
// Built as `libtorch_cuda.so` (build.sh) it takes the place of libtorch's CUDA library, so that a program's whole CUDA path
// runs on a machine without a GPU: placement of tensors, mixed precision (the AutocastCUDA rules live in libtorch_cpu.so),
// checkpoints, several "cards". A tensor of the CPU that meets one of the device is an error, as on a real card.
// At exit it writes to $FAKE_CUDA_REPORT what a card would have had to do: kernel launches, copies, synchronisations of the
// host, peak memory, which cards were used (one bit each). $FAKE_CUDA_DEVICES is the number of cards (1). Random numbers of the device are refused: a card's generator
// draws others than the CPU's, so a program that is to compute the same on both may not ask for them.
// What it cannot show: speed, cuDNN's algorithms and workspaces, errors of asynchronous execution.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace {

c10::DeviceIndex num_devices() {
  static const c10::DeviceIndex count = [] {
    const char* text = std::getenv("FAKE_CUDA_DEVICES");
    return static_cast<c10::DeviceIndex>(text ? std::atoi(text) : 1);
  }();
  return count;
}

thread_local c10::DeviceIndex current_device = 0;

}  // namespace

// For `nccl.cpp`, which refuses two processes on one card.
extern "C" int fake_cuda_current_device() { return current_device; }

namespace {

// ---- what a card would have had to do ----

struct Report {
  std::mutex mutex;
  std::map<std::string, int64_t> launches, syncs;
  int64_t to_device = 0, to_device_bytes = 0, to_host = 0, to_host_bytes = 0;
  std::atomic<int64_t> bytes{0}, peak{0}, cards{0};

  void launch(const std::string& op, int64_t times = 1) { std::lock_guard<std::mutex> lock(mutex); launches[op] += times; }
  void sync(const std::string& op) { std::lock_guard<std::mutex> lock(mutex); ++syncs[op]; }
  void held(int64_t change) {
    int64_t now = bytes += change, seen = peak;
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {}
  }
  ~Report() {
    const char* path = std::getenv("FAKE_CUDA_REPORT");
    if (!path) return;
    std::ofstream out(path, std::ios::app);
    auto counts = [&](const std::map<std::string, int64_t>& map) {
      int64_t sum = 0;
      out << "{";
      bool first = true;
      for (auto& [name, n] : map) { out << (first ? "" : ", ") << '"' << name << "\": " << n; first = false; sum += n; }
      out << "}";
      return sum;
    };
    out << "{\"by_op\": ";
    int64_t launched = counts(launches);
    out << ", \"syncs_by_op\": ";
    int64_t synced = counts(syncs);
    out << ", \"launches\": " << launched << ", \"syncs\": " << synced << ", \"to_device\": " << to_device
        << ", \"to_device_bytes\": " << to_device_bytes << ", \"to_host\": " << to_host << ", \"to_host_bytes\": "
        << to_host_bytes << ", \"peak_bytes\": " << peak << ", \"cards\": " << cards << "}\n";
  }
};
Report& report() { static Report* it = new Report; return *it; }
struct AtExit { ~AtExit() { report().~Report(); } } at_exit;

}  // namespace

// Launches, synchronisations, copies to and from the card until now.
extern "C" void fake_cuda_work(int64_t counts[4]) {
  std::lock_guard<std::mutex> lock(report().mutex);
  auto sum = [](const std::map<std::string, int64_t>& map) { int64_t all = 0; for (auto& [name, n] : map) all += n; return all; };
  counts[0] = sum(report().launches);
  counts[1] = sum(report().syncs);
  counts[2] = report().to_device;
  counts[3] = report().to_host;
}

namespace {

// ---- memory, streams, generators ----

struct Header { int64_t size; };
constexpr size_t kPad = 64;

void release(void* block) {
  auto* header = reinterpret_cast<Header*>(static_cast<char*>(block) - kPad);
  report().held(-header->size);
  std::free(header);
}

struct Allocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t size) override {
    auto* base = static_cast<char*>(std::aligned_alloc(kPad, (size + 2 * kPad - 1) / kPad * kPad));
    TORCH_CHECK(base, "out of memory");
    // A card hands out memory in blocks of 512 bytes.
    reinterpret_cast<Header*>(base)->size = static_cast<int64_t>((size + 511) / 512 * 512);
    report().held(reinterpret_cast<Header*>(base)->size);
    report().cards |= int64_t{1} << current_device;
    return {base + kPad, base + kPad, &release, c10::Device(c10::kCUDA, current_device)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override { report().peak = report().bytes.load(); }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    auto& bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
    bytes.current = report().bytes;
    bytes.peak = report().peak;
    return stats;
  }
};
Allocator allocator;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device device) const override {
    auto before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {c10::kCUDA, current_device}; }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.index() < num_devices(), "CUDA error: invalid device ordinal");
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) current_device = device.index();
  }
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return num_devices(); }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return num_devices() > 0; }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  long versionCUDART() const override { return 13000; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return num_devices(); }
  int getNumGPUs() const override { return num_devices(); }
  c10::DeviceIndex current_device() const override { return ::current_device; }
  void setCurrentDevice(c10::DeviceIndex device) const override { ::current_device = device; }
  c10::DeviceIndex getCurrentDevice() const override { return ::current_device; }
  c10::Allocator* getCUDADeviceAllocator() const override { return &allocator; }
  void deviceSynchronize(c10::DeviceIndex) const override { report().sync("deviceSynchronize"); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex device) const override {
    static std::map<int, at::Generator> generators;
    auto it = generators.find(device);
    if (it == generators.end()) it = generators.emplace(device, at::make_generator<at::CPUGeneratorImpl>(0)).first;
    return it->second;
  }
};
using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks);

// ---- tensors ----

bool on_device(const at::Tensor& tensor) { return tensor.defined() && tensor.is_cuda(); }

// The same memory as a tensor of the CPU.
at::Tensor to_cpu(const at::Tensor& tensor) {
  if (!on_device(tensor)) return tensor;
  TORCH_CHECK(tensor.layout() == at::kStrided, "fake CUDA: only dense tensors");
  auto keep = tensor.storage();
  return at::from_blob(
      tensor.numel() ? const_cast<void*>(tensor.const_data_ptr()) : nullptr, tensor.sizes(), tensor.strides(), [keep](void*) {},
      at::TensorOptions().dtype(tensor.dtype()).device(at::kCPU));
}

struct Held { at::Tensor tensor; int64_t bytes; };

// A result of the CPU as a tensor of the device that keeps the CPU's memory.
at::Tensor to_cuda(const at::Tensor& tensor, c10::Device device) {
  if (!tensor.defined() || tensor.is_cuda()) return tensor;
  auto bytes = static_cast<int64_t>((tensor.storage().nbytes() + 511) / 512 * 512);
  report().held(bytes);
  auto* held = new Held{tensor, bytes};
  auto* data = tensor.storage().mutable_data();
  c10::DataPtr pointer(data, held, [](void* it) {
    auto* held = static_cast<Held*>(it);
    report().held(-held->bytes);
    delete held;
  }, device);
  auto storage = c10::Storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), std::move(pointer), &allocator, false);
  auto result = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), tensor.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return result;
}

// Results that live on the CPU whatever the operands' device, and operators whose index tensors may.
const std::set<std::string> kMixed = {"aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::index.Tensor_out",
                                      "aten::_unsafe_index.Tensor", "aten::_unsafe_index_put"};
// What a card cannot do without telling the host a number.
const std::set<std::string> kSync = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal",
                                     "aten::unique_dim", "aten::_unique2", "aten::is_nonzero", "aten::repeat_interleave.Tensor"};

// Kernels of one operator over lists of tensors: each takes the addresses of so many tensors of each of its lists, as in
// ATen/native/cuda/MultiTensorApply.cuh.
int64_t launches_of(const c10::FunctionSchema& schema, const torch::jit::Stack& arguments) {
  constexpr int64_t kTensors[] = {110, 64, 48, 36, 30};
  size_t lists = 0, longest = 0;
  for (const auto& value : arguments) {
    if (!value.isTensorList() || value.toTensorVector().empty()) continue;
    ++lists;
    longest = std::max(longest, value.toTensorVector().size());
  }
  const auto& name = schema.name();
  const bool over_lists = name.find("_foreach_") != std::string::npos || name.find("_fused_") != std::string::npos;
  if (!over_lists || lists == 0) return 1;
  const int64_t each = kTensors[std::min<size_t>(lists, 5) - 1];
  return (static_cast<int64_t>(longest) + each - 1) / each;
}

void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto name = c10::toString(op.operator_name());
  const auto num_arguments = schema.arguments().size();
  const auto begin = stack->size() - num_arguments;
  std::vector<c10::IValue> originals(stack->begin() + begin, stack->end());
  c10::optional<c10::Device> device;
  bool host = false, mask = false;
  std::string host_argument;
  auto see = [&](const at::Tensor& tensor, const std::string& argument) {
    if (on_device(tensor)) device = tensor.device();
    else if (tensor.defined() && tensor.dim() > 0) { host = true; host_argument = argument; }
    if (tensor.defined() && tensor.scalar_type() == at::kBool && kMixed.count(name)) mask = true;
  };
  TORCH_CHECK(name != "aten::native_dropout", "fake CUDA: ", name, " draws on the device");
  for (size_t i = 0; i < num_arguments; ++i) {
    const auto& argument = schema.arguments()[i];
    auto& value = (*stack)[begin + i];
    TORCH_CHECK(argument.name() != "generator", "fake CUDA: ", name, " draws on the device");
    if (value.isTensor()) {
      see(value.toTensor(), argument.name());
      // An output without elements is there to be given a size, which memory that is not its own cannot have.
      const auto* written = argument.alias_info();
      const bool grows = written && written->isWrite() && on_device(value.toTensor()) && value.toTensor().numel() == 0;
      value = grows ? at::empty({0}, value.toTensor().options().device(at::kCPU)) : to_cpu(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) { see(tensor, argument.name()); list.push_back(to_cpu(tensor)); }
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<c10::optional<at::Tensor>> list;
      for (c10::optional<at::Tensor> tensor : value.toOptionalTensorList()) {
        if (tensor) see(*tensor, argument.name());
        list.push_back(tensor ? c10::optional<at::Tensor>(to_cpu(*tensor)) : tensor);
      }
      value = list;
    } else if (value.isDevice() && value.toDevice().is_cuda()) {
      device = value.toDevice().has_index() ? value.toDevice() : c10::Device(c10::kCUDA, current_device);
      value = c10::Device(c10::kCPU);
    } else if (value.isGenerator()) {
      value = c10::IValue();
    }
  }
  TORCH_CHECK(!(host && device) || kMixed.count(name),
              "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (", name,
              ", argument ", host_argument, ")");
  const auto at = device.value_or(c10::Device(c10::kCUDA, current_device));
  (kSync.count(name) || mask) ? (report().sync(name), report().launch(name)) : report().launch(name, launches_of(schema, originals));
  // What libtorch 2.11 returns of several outputs refers to arguments that are gone by then.
  const std::vector<c10::IValue> alive(stack->begin() + begin, stack->end());
  op.callBoxed(stack);
  const auto num_returns = schema.returns().size();
  const auto first = stack->size() - num_returns;
  for (size_t i = 0; i < num_returns; ++i) {
    auto& value = (*stack)[first + i];
    const auto* alias = schema.returns()[i].alias_info();
    if (alias && alias->isWrite()) {
      // An argument that was written to is its own result; it takes over a new shape.
      for (size_t j = 0; j < num_arguments; ++j) {
        const auto* written = schema.arguments()[j].alias_info();
        if (!written || !written->isWrite() || written->beforeSets() != alias->beforeSets()) continue;
        if (originals[j].isTensor() && value.isTensor()) {
          auto original = originals[j].toTensor();
          auto computed = value.toTensor();
          if (on_device(original) && computed.sizes() != original.sizes()) {
            original.resize_(computed.sizes());
            to_cpu(original).copy_(computed);
          }
        }
        value = originals[j];
        break;
      }
    } else if (value.isTensor()) {
      value = to_cuda(value.toTensor(), at);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(to_cuda(tensor, at));
      value = list;
    }
  }
}

at::Tensor empty(c10::SymIntArrayRef size, c10::optional<at::ScalarType> dtype, c10::optional<at::Layout>,
                 c10::optional<at::Device> device, c10::optional<bool>, c10::optional<at::MemoryFormat> format) {
  c10::impl::VirtualGuardImpl guard(c10::kCUDA);
  auto before = current_device;
  if (device && device->has_index()) current_device = device->index();
  auto tensor = at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                          dtype.value_or(at::get_default_dtype_as_scalartype()), format);
  current_device = before;
  return tensor;
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, c10::optional<at::ScalarType> dtype,
                         c10::optional<at::Layout>, c10::optional<at::Device> device, c10::optional<bool>) {
  auto before = current_device;
  if (device && device->has_index()) current_device = device->index();
  auto tensor = at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
      dtype.value_or(at::get_default_dtype_as_scalartype()));
  current_device = before;
  return tensor;
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& src, bool) {
  auto bytes = static_cast<int64_t>(src.nbytes());
  if (on_device(self) && on_device(src)) report().launch("aten::copy_");
  else {
    std::lock_guard<std::mutex> lock(report().mutex);
    if (on_device(self)) { ++report().to_device; report().to_device_bytes += bytes; }
    else { ++report().to_host; report().to_host_bytes += bytes; ++report().syncs["copy to host"]; }
  }
  to_cpu(self).copy_(to_cpu(src));
  return self;
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, c10::optional<c10::SymInt> offset) {
  c10::optional<int64_t> at = offset ? c10::optional<int64_t>(offset->guard_int(__FILE__, __LINE__)) : c10::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), at);
}
at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) { return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size)); }
at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
const at::Tensor& resize_(const at::Tensor& self, c10::SymIntArrayRef size, c10::optional<at::MemoryFormat> format) {
  return at::native::resize_(self, C10_AS_INTARRAYREF_SLOW(size), format);
}

struct Setup {
  Setup() { c10::SetAllocator(c10::kCUDA, &allocator); }
} setup;

}  // namespace

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy_);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("resize_", resize_);
  m.impl("unfold", at::native::unfold);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("view_as_complex", at::native::view_as_complex);
  // The first choose a library by the device of their input; here they are the CPU's. The others have kernels over lists on a
  // card, where the CPU walks the list.
  for (const char* name : {"convolution", "convolution_backward", "_fused_sdp_choice", "_foreach_norm.Scalar", "_foreach_mul_.Tensor",
                           "_foreach_mul_.Scalar", "_foreach_add_.Scalar", "_foreach_add_.List", "_foreach_lerp_.Scalar", "_foreach_sub_.List"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
  }
}

// What libtorch offers and tch does not: gradient buffers and hooks, fused Adam, streams and events,
// what operators are called, CPU settings.

#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <malloc.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/record_function.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/version.h>

#include "shim.h"

namespace {

// Calls back once a leaf's gradient has been accumulated, on the thread that runs backward.
struct Accumulated : torch::autograd::PostAccumulateGradHook {
  Accumulated(void (*callback)(void*, size_t), void* context, size_t index)
      : callback(callback), context(context), index(index) {}
  void operator()(const at::Tensor&) override {
    callback(context, index);
  }
  void (*callback)(void*, size_t);
  void* context;
  size_t index;
};

// What one thread, and those that run its backward, have called since it began to count.
struct Calls {
  std::map<std::string, uint64_t> operators; // how often each is called
  std::atomic<uint64_t> waits = 0;           // they read a device's results, or copy from or to it
  at::CallbackHandle handle = 0;
};

Calls calls;
std::mutex counting; // a GPU's backward has threads of its own
thread_local bool in_optimizer = false;

constexpr const char* OPTIMIZER = "aten::_fused_adamw_";

// Whether an operator waits for the device that it works on. A copy to or from it is waited for if it is
// made by `to(device)`, the form of tch's `to_device`, which names no kind; on a CPU it is called, too.
bool waits(const at::RecordFunction& function) {
  const std::string_view name = function.name();
  for (const auto* read : {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero"}) {
    if (name == read) return true;
  }
  const auto full = function.operator_name();
  const bool is_form = name == "aten::to" && full && full->overload_name == "dtype_layout";
  return is_form && function.inputs()[1].isNone();
}

std::unique_ptr<at::ObserverContext> called(const at::RecordFunction& function) {
  {
    const std::lock_guard lock(counting);
    ++calls.operators[function.name()];
  }
  if (std::string_view(function.name()) == OPTIMIZER) in_optimizer = true;
  // On a CPU, that one reads its own step counter.
  if (!in_optimizer && waits(function)) ++calls.waits;
  return nullptr;
}

void ended(const at::RecordFunction& function, at::ObserverContext*) {
  if (std::string_view(function.name()) == OPTIMIZER) in_optimizer = false;
}

} // namespace

extern "C" {

void tandem_free(char* message) {
  std::free(message);
}

const char* tandem_torch_version() {
  return TORCH_VERSION;
}

const char* tandem_torch_config() {
  static const std::string config = at::show_config();
  return config.c_str();
}

const char* tandem_cpu_capability() {
  static const std::string capability = at::get_cpu_capability();
  return capability.c_str();
}

char* tandem_set_grad(at::Tensor* parameter, at::Tensor* grad) {
  return guarded([&] { parameter->mutable_grad() = *grad; });
}

char* tandem_on_accumulated(
    at::Tensor* parameter, void (*callback)(void*, size_t), void* context, size_t index) {
  return guarded([&] {
    torch::autograd::impl::set_post_acc_grad_hooks(
        *parameter, std::make_unique<Accumulated>(callback, context, index));
  });
}

// Changes nothing if `skipped` is 1.
char* tandem_fused_adam(
    at::Tensor* weights, at::Tensor* grads, at::Tensor* exp_avg, at::Tensor* exp_avg_sq,
    at::Tensor* step, at::Tensor* skipped, double lr, double beta1, double beta2, double eps) {
  return guarded([&] {
    at::NoGradGuard guard;
    at::_fused_adamw_(
        {*weights}, {*grads}, {*exp_avg}, {*exp_avg_sq}, {}, {*step}, lr, beta1, beta2,
        /*weight_decay=*/0.0, eps, /*amsgrad=*/false, /*maximize=*/false,
        /*grad_scale=*/{}, /*found_inf=*/*skipped);
  });
}

// Multiplies the values of leaves, of which autograd takes no note.
char* tandem_multiply_all(at::Tensor** leaves, size_t count, at::Tensor* factor) {
  return guarded([&] {
    at::NoGradGuard guard;
    std::vector<at::Tensor> values;
    for (size_t index = 0; index < count; ++index) {
      values.push_back(leaves[index]->variable_data());
    }
    at::_foreach_mul_(values, *factor);
  });
}

char* tandem_count_calls() {
  return guarded([] {
    calls.operators.clear();
    calls.waits = 0;
    at::RecordFunctionCallback callback(called, ended);
    callback.needsInputs(true).scopes({at::RecordScope::FUNCTION});
    calls.handle = at::addThreadLocalCallback(callback);
  });
}

// Names each operator that was called with the number of its calls.
char* tandem_counted_calls(
    void (*named)(void*, const char*, uint64_t), void* context, uint64_t* waits) {
  return guarded([&] {
    at::removeCallback(calls.handle);
    for (const auto& [name, count] : calls.operators) named(context, name.c_str(), count);
    *waits = calls.waits;
  });
}

// Lets a GPU round the factors of f32 products to TF32, or not.
char* tandem_use_tf32(bool used) {
  return guarded([&] { at::globalContext().setFloat32MatmulPrecision(used ? "high" : "highest"); });
}

// f32 products through oneDNN where that is as exact, and big blocks kept by the process instead
// of mapped anew.
char* tandem_tune_cpu() {
  return guarded([] {
    at::globalContext().setFloat32MatmulPrecision("medium");
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, -1);
    mallopt(M_TOP_PAD, 64 << 20);
  });
}

// A stream of a GPU beside the default one: libtorch's number of it, and CUDA's handle. What is
// queued in it goes before other work of the GPU.
char* tandem_new_stream(int8_t gpu, int64_t* id, void** handle) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    c10::Device device(c10::DeviceType::CUDA, gpu);
    c10::Stream stream = cuda.getStreamFromGlobalPool(device, /*isHighPriority=*/true);
    *id = stream.id();
    *handle = stream.native_handle();
  });
}

// An event behind all that the calling thread has queued on a GPU.
char* tandem_record_event(int8_t gpu, c10::Event** made) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    auto event = std::make_unique<c10::Event>(c10::DeviceType::CUDA);
    event->record(cuda.getStream(c10::Device(c10::DeviceType::CUDA, gpu)));
    *made = event.release();
  });
}

char* tandem_wait_for_event(c10::Event* event) {
  return guarded([&] { event->synchronize(); });
}

void tandem_free_event(c10::Event* event) {
  delete event;
}

// Lets libtorch queue in that stream what the calling thread computes on the GPU.
char* tandem_use_stream(int8_t gpu, int64_t id) {
  return guarded([&] {
    c10::Device device(c10::DeviceType::CUDA, gpu);
    c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA)
        .exchangeStream(c10::Stream(c10::Stream::UNSAFE, device, id));
  });
}

// Bytes of a GPU that this process's tensors take, and that libtorch holds for them.
char* tandem_gpu_memory(int8_t gpu, uint64_t* allocated, uint64_t* reserved) {
  return guarded([&] {
    auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(gpu);
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *allocated = stats.allocated_bytes[all].current;
    *reserved = stats.reserved_bytes[all].current;
  });
}

} // extern "C"

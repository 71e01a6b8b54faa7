// What libtorch offers and tch does not: gradient buffers and hooks, fused Adam, streams, CPU
// settings.

#include <cstdlib>
#include <malloc.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/ops/_fused_adamw.h>
#include <c10/core/CachingDeviceAllocator.h>
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

char* tandem_fused_adam(
    at::Tensor* weights, at::Tensor* grads, at::Tensor* exp_avg, at::Tensor* exp_avg_sq,
    at::Tensor* step, double lr, double beta1, double beta2, double eps) {
  return guarded([&] {
    at::NoGradGuard guard;
    at::_fused_adamw_(
        {*weights}, {*grads}, {*exp_avg}, {*exp_avg_sq}, {}, {*step}, lr, beta1, beta2,
        /*weight_decay=*/0.0, eps, /*amsgrad=*/false, /*maximize=*/false);
  });
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

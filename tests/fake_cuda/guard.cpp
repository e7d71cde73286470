// What PyTorch's C++ core asks of CUDA, answered on the host: one device, streams that are always
// idle, and page-locked memory that can be told from pageable memory.
//
// Without these, autograd and `pin_memory` end the process in a CPU build of PyTorch.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>

namespace {

const c10::Device kDevice(c10::DeviceType::CUDA, 0);

// Page-locked blocks by their address. Never destroyed: tensors may outlive static objects.
class Blocks {
 public:
  static Blocks& all() {
    static auto* blocks = new Blocks();
    return *blocks;
  }
  void* make(size_t bytes) {
    const size_t rounded = (bytes / 64 + 1) * 64;
    void* start = std::aligned_alloc(64, rounded);
    std::lock_guard<std::mutex> hold(lock_);
    sizes_[reinterpret_cast<uintptr_t>(start)] = rounded;
    return start;
  }
  static void drop(void* start) {
    Blocks& blocks = all();
    {
      std::lock_guard<std::mutex> hold(blocks.lock_);
      blocks.sizes_.erase(reinterpret_cast<uintptr_t>(start));
    }
    std::free(start);
  }
  bool contain(const void* pointer) {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    std::lock_guard<std::mutex> hold(lock_);
    auto next = sizes_.upper_bound(address);
    if (next == sizes_.begin()) return false;
    --next;
    return address - next->first < next->second;
  }

 private:
  std::mutex lock_;
  std::map<uintptr_t, size_t> sizes_;
};

struct PageLocked final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* start = Blocks::all().make(bytes);
    return {start, start, &Blocks::drop, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Blocks::drop; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

struct OneDevice final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Device getDevice() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(kDevice); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag)
      const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};

}  // namespace

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, OneDevice)
}

namespace at {

// The name is the key under which PyTorch looks the hooks up.
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  void deviceSynchronize(DeviceIndex) const override {}
  Allocator* getPinnedMemoryAllocator() const override {
    static auto* allocator = new PageLocked();
    return allocator;
  }
  bool isPinnedPtr(const void* pointer) const override { return Blocks::all().contain(pointer); }
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    return detail::getDefaultCPUGenerator();
  }
  Generator getNewGenerator(DeviceIndex) const override { return detail::createCPUGenerator(); }
};

REGISTER_CUDA_HOOKS(CUDAHooks);

}  // namespace at

#include "device.h"

namespace emulator {

constinit thread_local Context context{};

void fault(const Fault& fault) {
    context.host->fault(&fault);
    __builtin_unreachable(); // a thread that failed is never resumed
}

} // namespace emulator

extern "C" emulator::Context* backstitch_emulator_context() { return &emulator::context; }

// The host's meaning of device.cuh: kernels run as fibers on the processor, and every access to memory
// is checked and counted. The Rust side (src/backend/cuda/driver/emulator) schedules the threads and
// owns the memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

namespace emulator {

struct Index {
    unsigned x, y, z;
};

// What a kernel did, summed over its threads.
struct Counters {
    uint64_t global_read, global_written, shared_read, shared_written; // bytes
    uint64_t multiply_adds;
    uint64_t matrix_multiply_adds; // of the matrix units
};

// An allocation; no base means freed.
struct Region {
    char* base;
    uint64_t bytes;
};

enum class Space : uint32_t { Global, Shared };

enum class FaultKind : uint32_t {
    ReadOutOfBounds,
    WriteOutOfBounds,
    Uninitialized,
    BadAddress,
    Misaligned,
    SharedTooSmall,
    AbsentLane,
};

// `base` is the start of the allocation, or of the piece of shared memory; null where there is none.
struct Fault {
    FaultKind kind;
    Space space;
    const char* base;
    int64_t offset;
    uint64_t bytes, size;
};

enum class Meeting : uint32_t { Barrier, Warp };

// The Rust side's functions.
struct Host {
    // Suspends the thread until all others of its block or warp have come here too.
    void (*wait)(Meeting, uint32_t line);
    // Ends the launch.
    void (*fault)(const Fault*);
    // Whether bytes that look unwritten were written so.
    bool (*written)(const void*, uint64_t bytes);
    // Remembers that bytes that look unwritten were written.
    void (*wrote)(const void*, uint64_t bytes);
};

constexpr unsigned MAX_THREADS = 1024;
// Values that a lane can give to others at once.
constexpr unsigned MAX_VALUES = 16;

// Where the emulation on this thread of the machine stands: set by the scheduler before a kernel's
// thread goes on.
struct Context {
    Index thread, block, block_size, grid;
    Counters counters;
    const Region* regions;
    uint64_t region_count;
    char* shared;
    uint64_t shared_bytes;
    const Host* host;
    // Values on their way between lanes, for two meetings: a lane may be one ahead of another. By turn,
    // value and thread.
    uint64_t* lanes;
    uint8_t turn[MAX_THREADS];
};

extern constinit thread_local Context context;

[[noreturn, gnu::cold, gnu::noinline]] void fault(const Fault& fault);

// Memory that was never written holds this byte. Reading a word of nothing else asks the host, which
// knows whether it was written so: exact, and cheaper than a second memory of what was written.
constexpr uint32_t UNWRITTEN = 0xa5;

template <typename T> inline bool looks_unwritten(const T& value) {
    if constexpr (sizeof(T) % 4 == 0) {
        uint32_t words[sizeof(T) / 4];
        std::memcpy(words, &value, sizeof(T));
        bool any = false;
        for (uint32_t word : words) {
            any |= word == 0x01010101 * UNWRITTEN;
        }
        return any;
    } else {
        static_assert(sizeof(T) == 2, "an element has 2 or a multiple of 4 bytes");
        uint16_t half;
        std::memcpy(&half, &value, sizeof(T));
        return half == 0x0101 * UNWRITTEN;
    }
}

// A pointer that knows its allocation.
template <typename T, Space space> class Pointer {
    using Value = std::remove_const_t<T>;

    T* at;
    const char* base;
    uint64_t size;
    // Offsets below this one have room for an element.
    uint64_t end;

    template <typename, Space> friend class Pointer;

    Pointer(T* at, const Pointer& other) : at(at), base(other.base), size(other.size), end(other.end) {}

    [[noreturn, gnu::cold, gnu::noinline]] void refuse(FaultKind kind, T* element) const {
        fault({kind, space, base, reinterpret_cast<const char*>(element) - base, sizeof(T), size});
    }

    T* checked(ptrdiff_t index, FaultKind kind) const {
        // By integers: a pointer out of its object may not even be computed.
        const uintptr_t element = reinterpret_cast<uintptr_t>(at) + index * sizeof(T);
        if (element - reinterpret_cast<uintptr_t>(base) >= end) [[unlikely]] {
            refuse(kind, reinterpret_cast<T*>(element));
        }
        return reinterpret_cast<T*>(element);
    }

    Value read(ptrdiff_t index) const {
        T* element = checked(index, FaultKind::ReadOutOfBounds);
        (space == Space::Global ? context.counters.global_read : context.counters.shared_read) += sizeof(T);
        const Value value = *element;
        if (looks_unwritten(value)) [[unlikely]] {
            if (!context.host->written(element, sizeof(T))) {
                refuse(FaultKind::Uninitialized, element);
            }
        }
        return value;
    }

    void write(ptrdiff_t index, Value value) const {
        T* element = checked(index, FaultKind::WriteOutOfBounds);
        (space == Space::Global ? context.counters.global_written : context.counters.shared_written) += sizeof(T);
        *element = value;
        if (looks_unwritten(value)) [[unlikely]] {
            context.host->wrote(element, sizeof(T));
        }
    }

    // An element that may be written. Not for keeping: it turns into a value, or is written, where it
    // stands.
    class Element {
        const Pointer& pointer;
        ptrdiff_t index;

    public:
        Element(const Pointer& pointer, ptrdiff_t index) : pointer(pointer), index(index) {}
        Element(const Element&) = delete;
        operator Value() && { return pointer.read(index); }
        void operator=(Value value) && { pointer.write(index, value); }
        void operator+=(Value value) && { pointer.write(index, pointer.read(index) + value); }
    };

public:
    Pointer(T* at, const char* base, uint64_t size)
        : at(at), base(base), size(size), end(size < sizeof(T) ? 0 : size - sizeof(T) + 1) {
        check_alignment(alignof(T));
    }

    // Ends the launch if the first element does not lie at a multiple of so many bytes.
    void check_alignment(size_t bytes) const {
        if ((reinterpret_cast<const char*>(at) - base) % bytes != 0) [[unlikely]] {
            refuse(FaultKind::Misaligned, at);
        }
    }

    operator Pointer<const T, space>() const
        requires(!std::is_const_v<T>)
    {
        return Pointer<const T, space>(at, base, size);
    }

    Pointer operator+(ptrdiff_t elements) const {
        return Pointer(reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(at) + elements * sizeof(T)), *this);
    }

    auto operator[](ptrdiff_t index) const {
        if constexpr (std::is_const_v<T>) {
            return read(index);
        } else {
            return Element(*this, index);
        }
    }

    // The same place as that of an element of another type, which it must be aligned for.
    template <typename U> Pointer<U, space> as() const {
        return Pointer<U, space>(reinterpret_cast<U*>(at), base, size);
    }

    // Adds indivisibly; counts as a read and a write.
    Value add(Value value) const {
        T* element = checked(0, FaultKind::WriteOutOfBounds);
        read(0);
        if constexpr (space == Space::Global) {
            context.counters.global_written += sizeof(T);
        } else {
            context.counters.shared_written += sizeof(T);
        }
        Value old = __atomic_load_n(element, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(element, &old, old + value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        }
        return old;
    }
};

// Where an allocation's number ends and the offset into it begins, in a device address.
constexpr unsigned OFFSET_BITS = 40;

} // namespace emulator

template <typename T> using Global = emulator::Pointer<T, emulator::Space::Global>;
template <typename T> using Shared = emulator::Pointer<T, emulator::Space::Shared>;

// A device address: an allocation's number and an offset.
template <typename T> struct Buffer {
    uint64_t address;

    operator Global<T>() const {
        using namespace emulator;
        const uint64_t number = address >> OFFSET_BITS;
        const uint64_t offset = address & ((uint64_t(1) << OFFSET_BITS) - 1);
        if (number >= context.region_count || !context.regions[number].base ||
            offset > context.regions[number].bytes) [[unlikely]] {
            fault({FaultKind::BadAddress, Space::Global, nullptr, int64_t(address), sizeof(T), 0});
        }
        const Region& region = context.regions[number];
        return Global<T>(reinterpret_cast<T*>(region.base + offset), region.base, region.bytes);
    }
    Global<T> operator+(ptrdiff_t elements) const { return Global<T>(*this) + elements; }
    auto operator[](ptrdiff_t index) const
        requires(std::is_const_v<T>)
    {
        return Global<T>(*this)[index];
    }
};

class SharedMemory {
    uint64_t next = 0;

public:
    template <typename T> Shared<T> take(size_t count) {
        using namespace emulator;
        const uint64_t start = next, bytes = count * sizeof(T);
        next += (bytes + 15) / 16 * 16;
        if (next > context.shared_bytes) [[unlikely]] {
            fault({FaultKind::SharedTooSmall, Space::Shared, nullptr, int64_t(start), next, context.shared_bytes});
        }
        char* base = context.shared + start;
        return Shared<T>(reinterpret_cast<T*>(base), base, bytes);
    }
};

using std::max;
using std::min;

#define DEVICE [[maybe_unused]] static inline

#define threadIdx (emulator::context.thread)
#define blockIdx (emulator::context.block)
#define blockDim (emulator::context.block_size)
#define gridDim (emulator::context.grid)

DEVICE void barrier(uint32_t line = __builtin_LINE()) {
    emulator::context.host->wait(emulator::Meeting::Barrier, line);
}

struct alignas(16) Float4 {
    float lane[4];
};

template <typename T, emulator::Space space> DEVICE Float4 read4(emulator::Pointer<T, space> from) {
    return from.template as<const Float4>()[0];
}
template <emulator::Space space> DEVICE void write4(emulator::Pointer<float, space> to, const Float4& values) {
    to.template as<Float4>()[0] = values;
}

namespace emulator {

// Gives values to the lanes of the warp, and returns where theirs are: the k-th of thread t at
// k * MAX_THREADS + t.
template <typename T, int COUNT> inline const uint64_t* exchange(const T (&values)[COUNT], uint32_t line) {
    static_assert(sizeof(T) <= sizeof(uint64_t) && COUNT <= int(MAX_VALUES));
    const unsigned thread = context.thread.x;
    const uint8_t turn = context.turn[thread] ^= 1;
    uint64_t* lanes = context.lanes + turn * MAX_VALUES * MAX_THREADS;
    for (int k = 0; k < COUNT; ++k) {
        std::memcpy(&lanes[k * MAX_THREADS + thread], &values[k], sizeof(T));
    }
    context.host->wait(Meeting::Warp, line);
    return lanes;
}

// Ends the launch if a lane is not there.
inline void check_lane(unsigned lane) {
    if (lane >= context.block_size.x) [[unlikely]] {
        fault({FaultKind::AbsentLane, Space::Shared, nullptr, lane, 0, context.block_size.x});
    }
}

} // namespace emulator

template <typename T> DEVICE T shuffle_xor(T value, unsigned mask, uint32_t line = __builtin_LINE()) {
    const unsigned from = threadIdx.x ^ (mask % 32);
    emulator::check_lane(from);
    const T values[1] = {value};
    std::memcpy(&value, emulator::exchange(values, line) + from, sizeof(T));
    return value;
}

template <typename T, int COUNT> DEVICE void warp_sum(T (&values)[COUNT], uint32_t line = __builtin_LINE()) {
    const unsigned first = threadIdx.x / 32 * 32;
    emulator::check_lane(first + 31);
    const uint64_t* lanes = emulator::exchange(values, line) + first;
    for (int k = 0; k < COUNT; ++k) {
        T tree[32];
        for (unsigned lane = 0; lane < 32; ++lane) {
            std::memcpy(&tree[lane], &lanes[k * emulator::MAX_THREADS + lane], sizeof(T));
        }
        for (unsigned half = 16; half > 0; half /= 2) {
            for (unsigned lane = 0; lane < half; ++lane) {
                tree[lane] += tree[lane + half];
            }
        }
        values[k] = tree[0];
    }
}

template <typename T, emulator::Space space>
DEVICE T atomic_add(emulator::Pointer<T, space> at, T value) {
    return at.add(value);
}

DEVICE uint32_t unknown(uint32_t value) { return value; }

DEVICE float multiply_add(float a, float b, float c) {
    emulator::context.counters.multiply_adds += 1;
    return __builtin_fmaf(a, b, c);
}
DEVICE double multiply_add(double a, double b, double c) {
    emulator::context.counters.multiply_adds += 1;
    return __builtin_fma(a, b, c);
}

DEVICE void store_pair(Global<float> at, float first, float second) {
    at.check_alignment(2 * sizeof(float));
    at[0] = first;
    at[1] = second;
}

struct alignas(16) BFloat16x8 {
    uint32_t words[4];
};

namespace emulator {

inline uint32_t round_to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// A number of a pair: the one in the low half, or the other.
inline float of_bfloat16(uint32_t pair, unsigned which) {
    const uint32_t bits = which == 0 ? pair << 16 : pair & 0xffff0000;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// What the warp's lanes give at load_matrices.
struct Rows {
    const uint64_t* lanes;

    // Row `row` of matrix `matrix`.
    BFloat16x8 operator()(unsigned matrix, unsigned row) const {
        BFloat16x8 values;
        const uint64_t* at = lanes + matrix * 8 + row;
        std::memcpy(&values.words[0], at, 8);
        std::memcpy(&values.words[2], at + MAX_THREADS, 8);
        return values;
    }
};

inline Rows exchange_rows(Shared<const BFloat16x8> row, uint32_t line) {
    const unsigned first = context.thread.x / 32 * 32;
    check_lane(first + 31);
    const BFloat16x8 values = row[0];
    uint64_t words[2];
    std::memcpy(words, &values, sizeof words);
    return {exchange(words, line) + first};
}

} // namespace emulator

DEVICE uint32_t to_bfloat16(float low, float high) {
    return emulator::round_to_bfloat16(low) | emulator::round_to_bfloat16(high) << 16;
}

// What is copied lands when it is waited for, and not before: until then the destination is what it was.
class AsyncCopies {
    struct Copy {
        Shared<BFloat16x8> to;
        BFloat16x8 values;
        unsigned group;
    };
    // Where there are more under way, the oldest lands: it may at any time.
    static constexpr unsigned MOST = 64;
    std::optional<Copy> copies[MOST];
    unsigned first = 0, next = 0, group = 0;

    void land() {
        const Copy& copy = *copies[first++ % MOST];
        copy.to[0] = copy.values;
    }

public:
    void copy(Shared<BFloat16x8> to, Global<const BFloat16x8> from, bool there) {
        const BFloat16x8 values = there ? from[0] : BFloat16x8{};
        if (next - first == MOST) {
            land();
        }
        copies[next++ % MOST].emplace(Copy{to, values, group});
    }
    void commit() { ++group; }
    template <int GROUPS> void wait() {
        while (first != next && int(group - copies[first % MOST]->group) > GROUPS) {
            land();
        }
    }
};

DEVICE void load_matrices(uint32_t (&fragment)[4], Shared<const BFloat16x8> row, uint32_t line = __builtin_LINE()) {
    const emulator::Rows rows = emulator::exchange_rows(row, line);
    const unsigned lane = threadIdx.x % 32;
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
        fragment[matrix] = rows(matrix, lane / 4).words[lane % 4];
    }
}

DEVICE void load_transposed(uint32_t (&fragment)[4], Shared<const BFloat16x8> row, uint32_t line = __builtin_LINE()) {
    const emulator::Rows rows = emulator::exchange_rows(row, line);
    const unsigned lane = threadIdx.x % 32, column = lane / 4;
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
        uint32_t pair[2];
        for (unsigned k = 0; k < 2; ++k) {
            pair[k] = rows(matrix, lane % 4 * 2 + k).words[column / 2] >> column % 2 * 16 & 0xffff;
        }
        fragment[matrix] = pair[0] | pair[1] << 16;
    }
}

// Products are exact; their sum with what is there is rounded once.
DEVICE void multiply_matrices(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                              uint32_t line = __builtin_LINE()) {
    using namespace emulator;
    const unsigned lane = threadIdx.x % 32, first = threadIdx.x - lane;
    check_lane(first + 31);
    const uint32_t values[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const uint64_t* lanes = exchange(values, line) + first;
    for (unsigned k = 0; k < 4; ++k) {
        const unsigned row = lane / 4, column = lane % 4 * 2 + k % 2;
        double total = sum[k];
        for (unsigned i = 0; i < 16; ++i) {
            const unsigned quarter = k / 2 + i / 8 * 2, pair = i % 8 / 2;
            const uint32_t left = lanes[quarter * MAX_THREADS + row * 4 + pair];
            const uint32_t right = lanes[(4 + i / 8) * MAX_THREADS + column * 4 + pair];
            total += double(of_bfloat16(left, i % 2)) * double(of_bfloat16(right, i % 2));
        }
        sum[k] = float(total);
    }
    // The lane's part of 16 * 8 * 16.
    context.counters.matrix_multiply_adds += 64;
}

DEVICE float sin_turns(float turns) { return float(std::sin(6.283185307179586 * turns)); }
DEVICE float cos_turns(float turns) { return float(std::cos(6.283185307179586 * turns)); }

#define UNROLL
#define ROLLED

#define KERNEL(name, Arguments, ...)                                                               \
    static void name(const Arguments& args);                                                       \
    extern "C" void backstitch_kernel_##name(const void* args) {                                   \
        name(*static_cast<const Arguments*>(args));                                                \
    }                                                                                              \
    static void name(const Arguments& args)

namespace emulator {
// A field of an argument struct; the last one has no name, and the struct's size.
struct Field {
    const char* name;
    uint64_t offset, bytes;
};
} // namespace emulator

#define ARGUMENTS(Type, ...)                                                                       \
    extern "C" const emulator::Field* backstitch_arguments_##Type() {                              \
        static const emulator::Field fields[] = {                                                  \
            EMULATOR_EXPAND(EMULATOR_FIELDS(Type, __VA_ARGS__)){nullptr, 0, sizeof(Type)}};        \
        return fields;                                                                             \
    }

// One entry for each of up to 64 names.
#define EMULATOR_FIELDS(Type, field, ...)                                                          \
    {#field, offsetof(Type, field), sizeof(Type::field)},                                          \
        __VA_OPT__(EMULATOR_AGAIN EMULATOR_PARENTHESES(Type, __VA_ARGS__))
#define EMULATOR_AGAIN() EMULATOR_FIELDS
#define EMULATOR_PARENTHESES ()
#define EMULATOR_EXPAND(...) EMULATOR_EXPAND_16(EMULATOR_EXPAND_16(EMULATOR_EXPAND_16(EMULATOR_EXPAND_16(__VA_ARGS__))))
#define EMULATOR_EXPAND_16(...) EMULATOR_EXPAND_4(EMULATOR_EXPAND_4(EMULATOR_EXPAND_4(EMULATOR_EXPAND_4(__VA_ARGS__))))
#define EMULATOR_EXPAND_4(...) EMULATOR_EXPAND_1(EMULATOR_EXPAND_1(EMULATOR_EXPAND_1(EMULATOR_EXPAND_1(__VA_ARGS__))))
#define EMULATOR_EXPAND_1(...) __VA_ARGS__

// What the DIP kernels share. Every launch works on many instances, each with its own numbers:
// blockIdx.y counts the instances in use, `slots` says which they are, and a Maps where one's numbers
// start.
#pragma once

#include "device.cuh"

// Feature maps, parameters or the like of all slots: slot s has its own at data + s * stride.
struct Maps {
    Buffer<float> data;
    uint64_t stride; // in elements
};

DEVICE Global<float> of_slot(const Maps& maps, uint32_t slot) {
    return maps.data + size_t(slot) * maps.stride;
}

// The coordinate that is read for one up to half a kernel beyond the edge; -1 in zero padding.
DEVICE int source(int at, int n, bool reflect) {
    if (0 <= at && at < n) {
        return at;
    }
    if (!reflect) {
        return -1;
    }
    return at < 0 ? -at : 2 * (n - 1) - at;
}

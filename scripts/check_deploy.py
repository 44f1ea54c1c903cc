#!/usr/bin/env python3
"""Checks the examples in server/deploy against the schemas that the Python clients of Kubernetes and KServe carry.

    check_deploy.py FILE...

Every field must be one of its object's, with a value of its type, and no required field may be missing. Needs
PyPI's kserve, which brings kubernetes. Prints what is wrong, one line each, and then exits with 1.
"""

import re
import sys
from pathlib import Path

import kserve.models
import kubernetes.client.models
import pydantic
import yaml

KINDS = {
    "apps/v1 Deployment": "V1Deployment",
    "v1 Service": "V1Service",
    "serving.kserve.io/v1alpha1 ServingRuntime": "V1alpha1ServingRuntime",
    "serving.kserve.io/v1beta1 InferenceService": "V1beta1InferenceService",
}
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def model(name):
    return getattr(kserve.models, name, None) or getattr(kubernetes.client.models, name)


def check(value, kind, path):
    """What is wrong with `value`, which should be of `kind`, as the clients write types."""
    if match := re.fullmatch(r"[Ll]ist\[(.*)\]", kind):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [wrong for i, item in enumerate(value) for wrong in check(item, match[1], f"{path}[{i}]")]
    if match := re.fullmatch(r"[Dd]ict[\[(]str, (.*)[\])]", kind):
        if not isinstance(value, dict):
            return [f"{path} is no object"]
        return [wrong for key, item in value.items() for wrong in check(item, match[1], f"{path}.{key}")]
    if kind in PLAIN:
        same = isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))
        return [] if same else [f"{path} is no {kind}: {value!r}"]
    if kind == "object":
        return []
    if not isinstance(value, dict):
        return [f"{path} is no {kind}"]
    schema = model(kind)
    if hasattr(schema, "model_validate"):
        try:
            schema.model_validate(value)
        except pydantic.ValidationError as error:
            place = lambda one: ".".join([path, *map(str, one["loc"])])
            return [f"{place(one)}: {one['msg']}" for one in error.errors()]
        return []
    fields = {json: name for name, json in schema.attribute_map.items()}
    wrong = [f"{path}.{key} is no field of {kind}" for key in value if key not in fields]
    known = {key: item for key, item in value.items() if key in fields}
    for key, item in known.items():
        wrong += check(item, schema.openapi_types[fields[key]], f"{path}.{key}")
    try:
        # KServe's client checks required fields when an object is made.
        schema(**{fields[key]: item for key, item in known.items()})
    except ValueError as error:
        wrong.append(f"{path}: {error}")
    return wrong


def main(files):
    wrong = []
    for file in files:
        for document in yaml.safe_load_all(Path(file).read_text()):
            kind = f"{document['apiVersion']} {document['kind']}"
            if kind not in KINDS:
                wrong.append(f"{file}: no schema of {kind}")
            else:
                wrong += [f"{file}: {line}" for line in check(document, KINDS[kind], document["kind"])]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The quickstart's own parts: the ONNX export, the crop and the before/after panel."""

import contextlib
import hashlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import crop  # noqa: E402
import export_efficientnet_lite0 as export  # noqa: E402
import fetch_from_wheel  # noqa: E402
import panel  # noqa: E402


def weights_of_any_shape():
    """Weights that fit: found by letting the builder ask for them."""
    found = {}

    def weight(graph, key, shape):
        found[key] = np.zeros(shape, np.float32)
        graph.used.add(key)
        return graph.constant(key, found[key])

    with mock.patch.object(export.Graph, "weight", weight):
        export.build({})
    return found


class Export(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.weights = weights_of_any_shape()

    def test_the_graph_is_efficientnet_lite0(self):
        model = export.build(self.weights)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        shapes = {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
        }
        self.assertEqual(shapes["image"], ["batch", 3, 224, 224])
        self.assertEqual(shapes["_conv_stem"], ["batch", 32, 112, 112])
        self.assertEqual(shapes["_blocks.15._project_conv"], ["batch", 320, 7, 7])
        self.assertEqual(shapes["logits"], ["batch", 1000])
        kinds = [node.op_type for node in model.graph.node]
        self.assertEqual((kinds.count("Conv"), kinds.count("Add")), (49, 9))
        # The published count, without the batch normalizations' running statistics.
        parameters = sum(
            tensor.size for key, tensor in self.weights.items() if ".running_" not in key
        )
        self.assertEqual(parameters, 4_652_008)

    def test_odd_padding_comes_after_the_image(self):
        model = export.build(self.weights)
        (stem,) = (node for node in model.graph.node if node.name == "_conv_stem")
        pads = [list(a.ints) for a in stem.attribute if a.name == "pads"]
        self.assertEqual(pads, [[0, 0, 1, 1]])

    def test_other_checkpoints_are_refused(self):
        missing = {key: value for key, value in self.weights.items() if key != "_fc.bias"}
        surplus = self.weights | {"_blocks.3._se_reduce.weight": np.zeros(1, np.float32)}
        reshaped = self.weights | {"_fc.bias": np.zeros(10, np.float32)}
        for weights, message in (
            (missing, "_fc.bias is missing"), (surplus, "nothing uses"), (reshaped, "of shape"),
        ):
            with self.assertRaisesRegex(SystemExit, message):
                export.build(weights)


class Crop(unittest.TestCase):
    def test_the_center_square_is_kept(self):
        picture = Image.new("L", (30, 10))
        picture.paste(255, (10, 0, 20, 10))
        square = crop.center_square(picture, 20)
        self.assertEqual((square.mode, square.size), ("RGB", (20, 20)))
        self.assertEqual(np.asarray(square).min(), 255)


class Fetch(unittest.TestCase):
    def test_files_with_the_right_hash_are_not_fetched_again(self):
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / "a.bin").write_bytes(b"content")
            members = {"package/a.bin": hashlib.sha256(b"content").hexdigest()}
            with mock.patch("subprocess.run", side_effect=AssertionError("downloaded")):
                with contextlib.redirect_stdout(io.StringIO()):
                    fetch_from_wheel.fetch("package==1", Path(temporary), members)
                members["package/a.bin"] = "0"
                with self.assertRaisesRegex(AssertionError, "downloaded"):
                    with contextlib.redirect_stdout(io.StringIO()):
                        fetch_from_wheel.fetch("package==1", Path(temporary), members)


class Panel(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        random = np.random.default_rng(3)
        clean = random.integers(8, 248, (224, 224, 3))
        attacked = clean + random.choice([-4, 4], clean.shape)
        for place, pixels in (
            ("photos", clean), ("attacked/images", attacked), ("purified/images", clean),
        ):
            (self.folder / place).mkdir(parents=True)
            Image.fromarray(pixels.astype(np.uint8)).save(self.folder / place / "cup.png")
        for stage, label in (("clean", 1), ("attacked", 0), ("purified", 1)):
            line = {"image": "cup.png", "label": None, "top": [{"label": label, "confidence": 0.5}]}
            (self.folder / f"{stage}.jsonl").write_text(json.dumps(line) + "\n")
        result = {"image": "cup.png", "verdict": "adversarial"}
        (self.folder / "purified/results.jsonl").write_text(json.dumps(result) + "\n")
        (self.folder / "names.json").write_text('{"0": "soup, broth", "1": "espresso"}')

    def run_main(self):
        printed = io.StringIO()
        arguments = ["panel.py", str(self.folder), str(self.folder / "names.json")]
        with mock.patch("sys.argv", arguments), contextlib.redirect_stdout(printed):
            panel.main()
        return printed.getvalue()

    def test_the_table_and_the_picture_show_before_and_after(self):
        printed = self.run_main()
        self.assertRegex(printed, r"cup +espresso 50% +soup 50% +espresso 50% +adversarial")
        self.assertIn("brought back 1 of 1", printed)
        with Image.open(self.folder / "panel.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        left, top = panel.GAP, panel.HEADING + panel.GAP
        shown = pixels[top : top + panel.CELL, left : left + panel.CELL]
        with Image.open(self.folder / "photos/cup.png") as photo:
            np.testing.assert_array_equal(shown, np.asarray(photo))

    def test_the_difference_is_amplified_to_the_full_range(self):
        self.run_main()
        with Image.open(self.folder / "panel.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        left, top = panel.GAP + 2 * (panel.CELL + panel.GAP), panel.HEADING + panel.GAP
        shown = pixels[top : top + panel.CELL, left : left + panel.CELL]
        self.assertEqual(sorted(np.unique(shown)), [0, 254])

    def test_a_photograph_without_a_result_is_an_error(self):
        (self.folder / "purified/results.jsonl").write_text("")
        with self.assertRaisesRegex(SystemExit, "nothing about cup"):
            self.run_main()


if __name__ == "__main__":
    unittest.main()

"""Every form of array gives the same, or an error that says what is wrong with it."""

from __future__ import annotations

import numpy as np
import pytest
from common import pictures

import backstitch


def forms(x):
    wide = np.zeros((x.shape[0], 3, 32, 64), np.float32)
    wide[..., ::2] = x
    return {
        "channels last": np.ascontiguousarray(x.transpose(0, 2, 3, 1)),
        "strided": wide[..., ::2],
        "reversed": x[::-1, :, ::-1].copy()[::-1, :, ::-1],
        "fortran": np.asfortranarray(x),
        "float64": x.astype(np.float64),
        "uint8": np.round(x * 255).astype(np.uint8),
        "uint8, channels last": np.round(x.transpose(0, 2, 3, 1) * 255).astype(np.uint8),
        "list": list(x),
        "list, channels last": [picture.transpose(1, 2, 0) for picture in x],
        "unaligned": np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
        "dlpack": Exported(x),
    }


class Exported:
    """What has nothing but DLPack."""

    def __init__(self, x):
        self.x = x.copy()

    def __len__(self):
        return len(self.x)

    def __dlpack__(self, **arguments):
        return self.x.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


def test_forms(purifier, x, result):
    for name, form in forms(x).items():
        found = purifier.purify(form)
        images = found.images
        if "last" in name:
            images = images.transpose(0, 3, 1, 2)
        assert np.array_equal(images, result.images), name
        assert np.array_equal(found.logits, result.logits), name


def test_inputs_are_unchanged(purifier, x):
    for name, form in forms(x).items():
        if isinstance(form, np.ndarray):
            before = form.copy()
            purifier.purify(form)
            purifier.gradient(form, np.zeros(len(x), int), through="decision")
            assert np.array_equal(form, before), name


def test_float16_is_nearly_the_same(purifier, x):
    found = purifier.classify(x.astype(np.float16))
    assert np.allclose(found.logits, purifier.classify(x).logits, atol=0.1)


def test_empty_batches(purifier):
    for empty in (np.zeros((0, 3, 32, 32), np.float32), np.zeros((0, 32, 32, 3), np.uint8), []):
        result = purifier.purify(empty)
        assert len(result) == 0 and list(result) == [] and result.errors == {}
        assert sorted(result.images.shape) == [0, 3, 32, 32]
        assert purifier.classify(empty).labels.shape == (0,)
        assert purifier.classify(empty).confidences.shape == (0,)
        assert purifier.gradient(empty, []).size == 0


def test_gray_and_other_sizes():
    from common import MODEL, QUICK

    purifier = backstitch.Purifier(MODEL, **QUICK, size=(32, 32))
    big, small = pictures(1, size=(48, 40))[0], pictures(1)[0]
    gray = small[:1]
    result = purifier.purify([big, small, gray])
    assert result.images.shape == (3, 3, 32, 32) and result.errors == {}
    assert np.array_equal(result.images[1:2], purifier.purify(small[None]).images)
    assert np.array_equal(result.images[2], purifier.purify(np.repeat(gray, 3, 0)[None]).images[0])


def test_pictures_that_do_not_fit_are_errors_of_their_own(purifier):
    good, big = pictures(1)[0], pictures(1, size=(48, 48))[0]
    result = purifier.purify([good, big])
    assert list(result.errors) == [1] and 'size="32x32"' in result.errors[1]
    assert result.verdicts[1] == "failed" and result.labels[1] == -1
    assert np.isnan(result.scores[1]) and np.isnan(result.images[1]).all()
    assert result[1].error == result.errors[1] and result[1].record == {}
    assert np.array_equal(result.images[0], purifier.purify(good[None]).images[0])


def spoiled(value):
    x = pictures(2)
    x[1, 2, 3, 4] = value
    return x


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (pictures(2) * 255, ["float32", "[0, 0, 0, 0]", "0 to 255: divide by 255"]),
        (spoiled(np.nan), ["NaN at [1, 2, 3, 4]", "not finite"]),
        (spoiled(np.inf), ["inf at [1, 2, 3, 4]"]),
        (spoiled(1.01), ["1.01 at [1, 2, 3, 4]", "clip the numbers"]),
        (spoiled(0).transpose(0, 2, 3, 1) * 2 - 0.5, ["looks normalized"]),
        (spoiled(-2).transpose(0, 2, 3, 1), ["-2 at [1, 3, 4, 2]"]),
        ([pictures(1)[0], spoiled(3)[1]], ["picture 1 (float32)", "3 at [2, 3, 4]"]),
        (pictures(2).astype(int), ["int64 of shape [2, 3, 32, 32]", "uint8, or floats from 0 to 1"]),
        (pictures(2).astype(complex), ["complex128"]),
        (np.array(["a"]), ["<U1"]),
        (pictures(2)[0], ["[3, 32, 32]", "x[None]"]),
        (np.float32(0.5), ["[]", "4 axes"]),
        (np.zeros((2, 3, 3, 3), np.float32), ["fits channels first and channels last", 'layout="nchw"']),
        (np.zeros((2, 4, 32, 32), np.float32), ["[2, 4, 32, 32]", "no axis is 1 or 3 channels"]),
        (np.zeros((2, 3, 0, 32), np.float32), ["has no pixels"]),
        (np.zeros((1, 3, 1, 20000), np.float32), ["too large"]),
        ([pictures(1)], ["picture 0", "[1, 3, 32, 32]", "3 axes"]),
    ],
)
def test_what_is_no_picture_is_refused(purifier, x, said):
    for call in (purifier.purify, purifier.classify, purifier.detect):
        with pytest.raises(backstitch.InvalidError) as error:
            call(x)
        assert isinstance(error.value, ValueError)
        for words in said:
            assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_layout_settles_what_the_shape_leaves_open(purifier):
    from common import MODEL, QUICK

    purifier = backstitch.Purifier(MODEL, **QUICK, size=32)
    x = pictures(1, size=(3, 3))
    first = purifier.classify(x, layout="nchw")
    last = purifier.classify(x.transpose(0, 2, 3, 1), layout="nhwc")
    assert np.array_equal(first.logits, last.logits)
    with pytest.raises(backstitch.InvalidError, match="nchw, nhwc"):
        purifier.classify(x, layout="hwcn")


def test_image_files(purifier, x, result):
    files = [backstitch._backstitch.png(picture) for picture in x]
    damaged = files[1][:100]
    found = purifier.purify([files[0], damaged, b"", x[1]])
    assert sorted(found.errors) == [1, 2]
    assert "picture 1 cannot be decoded" in found.errors[1] and "is empty" in found.errors[2]
    assert np.array_equal(found.images[[0, 3]], result.images[:2])
    with pytest.raises(backstitch.InvalidError, match="picture 1 cannot be decoded"):
        purifier.classify([files[0], damaged])

"""The GPU bundle's run.sh, on a machine that only looks as if it had a GPU: its parts are stand-ins."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "gpu-bundle-run.sh"

# A test binary: test_binary NAMES... lists and passes them, but for those in $FAILING.
BINARY = r"""#!/usr/bin/env bash
names=(@NAMES@)
if [ "$1" = --list ]; then printf '%s: test\n' "${names[@]}"; exit; fi
[ "$BACKSTITCH_TEST_GPU" = require ] || exit 3
case " $FAILING " in *" $2 "*) echo "$2 went wrong"; exit 101 ;; esac
case " $SLOW " in *" $2 "*) sleep 30 ;; esac
case " $ABSENT " in *" $2 "*) echo 'test result: ok. 0 passed; 0 failed'; exit ;; esac
echo 'test result: ok. 1 passed; 0 failed'
"""
SANITIZER = r"""#!/usr/bin/env bash
tool=$2
while [ "${1#bin/}" = "$1" ]; do shift; done
case " $RACING " in *" $tool:$3 "*) echo 'a hazard'; exit 86 ;; esac
"$@" || exit
case " $UNUSED " in *" $3 "*)
    echo 'Error: Target application terminated before first instrumented API call'; exit 1 ;;
esac
"""
BENCHMARK = r"""#!/usr/bin/env bash
[ "$1 $2 $3 $4" = "bench --device cuda --json" ] || exit 2
[ -z "$BROKEN" ] || { echo 'no such device' >&2; exit 1; }
printf '{"device":"cuda:0","presets":[{"preset":"tiles","ms_per_iteration":0.5}]%s}\n' "${6:+,\"classifier\":\"$6\"}"
"""
UNIT = "backend::cuda::dip::tests::a backend::cuda::images::tests::b"
OTHERS = "backend::cpu::c backend::cuda::kernels::report::d"


class Run(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="gpu bundle "))
        self.addCleanup(shutil.rmtree, self.folder)
        for name in ["bin", "path", "out"]:
            (self.folder / name).mkdir()
        shutil.copy(SCRIPT, self.folder / "run.sh")
        (self.folder / "COMMIT").write_text("0123abc with changes\n")
        self.program("bin/unit", BINARY.replace("@NAMES@", f"{OTHERS} {UNIT}"))
        self.program("bin/golden_dip", BINARY.replace("@NAMES@", "cuda_is_close cpu_is_close"))
        self.program("bin/backstitch", BENCHMARK)
        self.program("path/nvidia-smi", "#!/bin/sh\necho 'NVIDIA \"Fast\" GPU, 580.65.06'\n")
        self.program("path/compute-sanitizer", SANITIZER)

    def program(self, path, text):
        (self.folder / path).write_text(text)
        (self.folder / path).chmod(0o755)

    def run_bundle(self, *arguments, **settings):
        blank = dict.fromkeys(["FAILING", "SLOW", "ABSENT", "RACING", "UNUSED", "BROKEN"], "")
        path = f"{self.folder / 'path'}:{os.environ['PATH']}"
        done = subprocess.run(
            [self.folder / "run.sh", *arguments],
            env={**os.environ, **blank, "PATH": path, "OUT": str(self.folder / "out"), **settings},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )
        results = self.folder / "out/results.json"
        return done, json.loads(results.read_text()) if results.exists() else None

    def test_everything_passes(self):
        model = self.folder / "model.onnx"
        model.touch()
        done, results = self.run_bundle(str(model))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(results["result"], "ok")
        self.assertEqual(results["commit"], "0123abc with changes")
        self.assertEqual(
            results["devices"], [{"name": 'NVIDIA "Fast" GPU', "driver": "580.65.06"}]
        )
        names = [test["test"] for test in results["tests"]]
        self.assertEqual(names, [*UNIT.split(), "cuda_is_close"])
        self.assertEqual({test["result"] for test in results["tests"]}, {"ok"})
        tools = {tool["tool"]: tool["result"] for tool in results["sanitizers"]}
        self.assertEqual(
            tools, dict.fromkeys(["memcheck", "racecheck", "initcheck", "synccheck"], "ok")
        )
        self.assertEqual(results["benchmarks"][0]["presets"][0]["ms_per_iteration"], 0.5)
        self.assertEqual(results["benchmarks"][0]["classifier"], str(model))
        self.assertIn("tests        3 of 3 passed", done.stdout)
        self.assertIn("preset:tiles", done.stdout)

    def test_no_gpu_is_one_line(self):
        self.program("path/nvidia-smi", "#!/bin/sh\nexit 9\n")
        done, results = self.run_bundle()
        self.assertEqual((done.returncode, done.stdout, results), (1, "", None))
        self.assertEqual(done.stderr.count("\n"), 1)
        self.assertIn("no GPU", done.stderr)

    def test_no_tests_is_an_error(self):
        for name in ["unit", "golden_dip"]:
            self.program(f"bin/{name}", "#!/bin/sh\nexit 1\n")
        done, results = self.run_bundle()
        self.assertEqual((done.returncode, results), (1, None))

    def test_a_failing_test_fails(self):
        failing = UNIT.split()[1]
        done, results = self.run_bundle(FAILING=failing)
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))
        by_name = {test["test"]: test["result"] for test in results["tests"]}
        self.assertEqual(by_name[failing], "FAILED")
        self.assertIn(f"{failing} FAILED", done.stdout)
        self.assertIn("went wrong", (self.folder / "out/log.txt").read_text())

    def test_a_name_that_matches_nothing_fails(self):
        done, results = self.run_bundle(ABSENT="cuda_is_close")
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))

    def test_what_a_sanitizer_finds_fails(self):
        done, results = self.run_bundle(RACING="racecheck:cuda_is_close")
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))
        tools = {tool["tool"]: tool for tool in results["sanitizers"]}
        self.assertEqual(tools["racecheck"]["tests"][2]["result"], "FAILED")
        self.assertEqual(tools["memcheck"]["result"], "ok")

    def test_tests_without_a_gpu_show_a_sanitizer_nothing(self):
        unit = UNIT.split()
        done, results = self.run_bundle(UNUSED=unit[0])
        self.assertEqual((done.returncode, results["result"]), (0, "ok"))
        self.assertEqual(results["sanitizers"][0]["tests"][0]["result"], "unused")
        self.assertIn("memcheck     2 of 2 passed", done.stdout)
        done, results = self.run_bundle(UNUSED=" ".join([*unit, "cuda_is_close"]))
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))

    def test_a_missing_sanitizer_is_said(self):
        if Path("/usr/local/cuda/bin/compute-sanitizer").exists() or shutil.which(
            "compute-sanitizer"
        ):
            self.skipTest("this machine has compute-sanitizer")
        (self.folder / "path/compute-sanitizer").unlink()
        done, results = self.run_bundle()
        self.assertEqual((done.returncode, results["result"]), (0, "ok"))
        self.assertEqual({tool["result"] for tool in results["sanitizers"]}, {"missing"})
        self.assertEqual(done.stdout.count("NOT RUN"), 4)

    def test_tests_that_are_too_slow_under_a_tool_are_said(self):
        slow = UNIT.split()[0]
        done, results = self.run_bundle(SLOW=slow, TEST_SECONDS="1", TOOL_SECONDS="20")
        # Too slow on its own is a failure; under a tool it is not.
        self.assertEqual((done.returncode, results["tests"][0]["result"]), (1, "slow"))
        memcheck = results["sanitizers"][0]
        self.assertEqual(memcheck["result"], "partial")
        self.assertEqual([t["result"] for t in memcheck["tests"]], ["slow", "ok", "ok"])
        self.assertIn("memcheck     2 of 3 passed, 0 failed, 1 not finished", done.stdout)
        done, results = self.run_bundle(TOOL_SECONDS="0")
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))
        self.assertEqual(results["sanitizers"][0]["tests"][0]["result"], "not-run")

    def test_a_benchmark_that_fails_fails(self):
        done, results = self.run_bundle(BROKEN="yes")
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))
        self.assertEqual(results["benchmarks"], [])
        self.assertIn("benchmark    FAILED: no such device", done.stdout)


if __name__ == "__main__":
    unittest.main()

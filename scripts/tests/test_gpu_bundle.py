"""The GPU bundle's run.sh, on a machine that only looks as if it had a GPU: its parts are stand-ins."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "gpu-bundle-run.sh"

# A test binary. The tests @NAMES@ pass, but for those in $FAILING, and in $CROWDED when they are not alone.
BINARY = r"""#!/usr/bin/env bash
names=(@NAMES@)
result() {
    case " $FAILING " in *" $1 "*) echo "$1 went wrong" >&2; return 101 ;; esac
    case " $SLOW " in *" $1 "*) sleep 30 ;; esac
}
if [ "$1" = --exact ]; then
    [ "$BACKSTITCH_TEST_GPU" = require ] || exit 3
    case " $ABSENT " in *" $2 "*) echo 'test result: ok. 0 passed; 0 failed'; exit ;; esac
    result "$2" || exit
    echo 'test result: ok. 1 passed; 0 failed'
    exit
fi
wanted=$1 skipped=nothing
[ "$2" != --skip ] || skipped=$3
for name in "${names[@]}"; do
    [[ $name == *$wanted* && $name != *$skipped* ]] || continue
    case "$*" in *--list*) echo "$name: test"; continue ;; esac
    case " $CROWDED " in *" $name "*) printf 'test %s ... ' "$name"; exit 139 ;; esac
    case " $ABSENT " in *" $name "*) continue ;; esac
    if result "$name"; then echo "test $name ... ok"; else echo "test $name ... FAILED"; fi
done
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
[ "$1 $2 $3" = "bench --device cuda" ] || exit 2
case "$*" in *"$BROKEN"*) [ -z "$BROKEN" ] || { echo 'no such device' >&2; exit 1; } ;; esac
classifier=
case "$*" in *--classifier*) classifier=',"classifier":"'${@: -1}'"' ;; esac
printf '{"device":"cuda:0","presets":[{"preset":"tiles","ms_per_iteration":0.5}]%s}\n' "$classifier"
"""
NCU = r"""#!/usr/bin/env bash
[ -z "$CLOSED" ] || { echo 'ERR_NVGPUCTRPERM'; exit 1; }
echo '"ID","Kernel Name"'
"""
UNIT = "backend::cuda::dip::resident::tests::a backend::cuda::images::tests::b"
GOLDEN = "golden_dip::cuda_is_close"
OTHERS = "backend::cpu::c backend::cuda::kernels::report::d"


def drop_seconds(test):
    return {"test": test["test"], "result": test["result"]}


class Run(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="gpu bundle "))
        self.addCleanup(shutil.rmtree, self.folder)
        for name in ["bin", "path", "out"]:
            (self.folder / name).mkdir()
        shutil.copy(SCRIPT, self.folder / "run.sh")
        (self.folder / "COMMIT").write_text("0123abc with changes\n")
        self.program("bin/unit", BINARY.replace("@NAMES@", f"{OTHERS} {UNIT}"))
        self.program("bin/suite", BINARY.replace("@NAMES@", f"{GOLDEN} golden_dip::cpu_is_close"))
        self.program("bin/backstitch", BENCHMARK)
        self.program("path/nvidia-smi", "#!/bin/sh\necho 'NVIDIA \"Fast\" GPU, 580.65.06'\n")
        self.program("path/compute-sanitizer", SANITIZER)
        self.program("path/ncu", NCU)

    def program(self, path, text):
        (self.folder / path).write_text(text)
        (self.folder / path).chmod(0o755)

    def run_bundle(self, *arguments, **settings):
        blank = dict.fromkeys(["FAILING", "CROWDED", "SLOW", "ABSENT", "RACING", "UNUSED", "BROKEN", "CLOSED"], "")
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
        self.assertEqual(names, [*UNIT.split(), GOLDEN])
        self.assertEqual({test["result"] for test in results["tests"]}, {"ok"})
        tools = {tool["tool"]: tool["result"] for tool in results["sanitizers"]}
        self.assertEqual(
            tools, dict.fromkeys(["memcheck", "racecheck", "synccheck", "initcheck"], "ok")
        )
        self.assertEqual(len(results["benchmarks"]), 7)
        self.assertEqual(results["benchmarks"][0]["presets"][0]["ms_per_iteration"], 0.5)
        self.assertEqual(results["benchmarks"][-1]["classifier"], str(model))
        self.assertEqual([profile["preset"] for profile in results["profiles"]], ["tiles", "skip"])
        self.assertTrue((self.folder / "out/ncu-skip.csv").exists())
        self.assertIn("tests        3 of 3 passed", done.stdout)
        self.assertIn("memcheck     1 of 1 passed", done.stdout, "only what is hard")
        self.assertIn("preset:tiles", done.stdout)

    def test_no_gpu_is_one_line(self):
        self.program("path/nvidia-smi", "#!/bin/sh\nexit 9\n")
        done, results = self.run_bundle()
        self.assertEqual((done.returncode, done.stdout, results), (1, "", None))
        self.assertEqual(done.stderr.count("\n"), 1)
        self.assertIn("no GPU", done.stderr)

    def test_no_tests_is_an_error(self):
        for name in ["unit", "suite"]:
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

    def test_what_passes_alone_passes(self):
        crowded = UNIT.split()[0]
        done, results = self.run_bundle(CROWDED=crowded)
        self.assertEqual((done.returncode, results["result"]), (0, "ok"))
        self.assertIn("2 ran alone, since they did not pass together", done.stdout)
        alone = {test["test"] for test in results["tests"] if test["seconds"] is not None}
        self.assertEqual(alone, set(UNIT.split()), "those after the one that ended the process, too")

    def test_a_name_that_matches_nothing_fails(self):
        done, results = self.run_bundle(ABSENT=GOLDEN)
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))

    def test_what_a_sanitizer_finds_fails(self):
        done, results = self.run_bundle(RACING=f"racecheck:{UNIT.split()[0]}")
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))
        tools = {tool["tool"]: tool for tool in results["sanitizers"]}
        self.assertEqual(tools["racecheck"]["tests"][0]["result"], "FAILED")
        self.assertEqual(tools["memcheck"]["result"], "ok")

    def test_tests_without_a_gpu_show_a_sanitizer_nothing(self):
        done, results = self.run_bundle(UNUSED=UNIT.split()[0])
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))
        self.assertEqual(results["sanitizers"][0]["tests"][0]["result"], "unused")

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
        done, results = self.run_bundle(SLOW=slow, TESTS_SECONDS="3", TEST_SECONDS="1", TOOL_SECONDS="20")
        # Too slow on its own is a failure; under a tool it is not.
        self.assertEqual(done.returncode, 1)
        self.assertIn({"test": slow, "result": "slow"}, [drop_seconds(t) for t in results["tests"]])
        self.assertEqual(results["sanitizers"][0]["tests"][0]["result"], "slow")
        self.assertIn("memcheck     0 of 1 passed, 0 failed, 1 not finished", done.stdout)
        done, results = self.run_bundle(TOOL_SECONDS="0")
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))
        self.assertEqual(results["sanitizers"][0]["tests"][0]["result"], "not-run")

    def test_what_was_finished_is_written(self):
        # The run is killed in its first benchmark.
        self.program("bin/backstitch", "#!/bin/sh\nkill -9 $(ps -o ppid= -p $PPID)\nsleep 5\n")
        done, results = self.run_bundle()
        self.assertEqual(done.returncode, -9)
        self.assertEqual(results["result"], "unfinished")
        self.assertEqual(len(results["tests"]), 3)

    def test_programs_are_unpacked_anew(self):
        packed = ["tar", "-C", self.folder, "-czf", self.folder / "bin.tar.gz", "bin"]
        subprocess.run(packed, check=True)
        self.program("bin/unit", "#!/bin/sh\nexit 1\n")
        (self.folder / "bin/stale").touch()
        done, _ = self.run_bundle()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertFalse((self.folder / "bin/stale").exists())

    def test_closed_counters_are_no_failure(self):
        done, results = self.run_bundle(CLOSED="yes")
        self.assertEqual((done.returncode, results["profiles"]), (0, []))
        self.assertIn("ncu          nothing for tiles: ERR_NVGPUCTRPERM", done.stdout)

    def test_a_benchmark_that_fails_fails(self):
        done, results = self.run_bundle(BROKEN="cifar")
        self.assertEqual((done.returncode, results["result"]), (1, "FAILED"))
        self.assertEqual(len(results["benchmarks"]), 5)
        self.assertIn("benchmark    FAILED: --preset cifar --instances 2048 no such device", done.stdout)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""Tests of launch/deps.sh, launch/build.sh and launch/quickstart.sh with an apt-get, a dpkg-query and a cmake that only
pretend. Run: python3 -m unittest discover -s tests/tools"""
import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FAKES = {
    # Everything is installed once the file is there.
    "dpkg-query": 'if [ -e "$STATE/installed" ]; then printf installed; else exit 1; fi',
    "sudo": '[ "$1" = -v ] && exit 0; exec "$@"',
    "apt-get": r'''
echo "$*" >>"$STATE/apt-calls"
case "$*" in
  *update*)
    if [ -e "$STATE/locked" ]; then
      rm "$STATE/locked"; echo "E: Could not get lock /var/lib/apt/lists/lock"; exit 100
    fi ;;
  *install*)
    trap 'echo "W: Operation was interrupted"; exit 0' INT
    i=0; while [ $i -lt "${APT_TENTHS:-1}" ]; do echo "Unpacking $i"; sleep 0.1; i=$((i+1)); done
    [ -n "${APT_FORGETS:-}" ] || : >"$STATE/installed" ;;
esac''',
    "cmake": r'''
echo "$*" >>"$STATE/cmake-calls"
case "$*" in *--build*) i=0; while [ $i -lt 25 ]; do echo "[$i/25] Building"; sleep 0.1; i=$((i+1)); done ;; esac''',
}


class Launch(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state = folder.name
        self.bin = os.path.join(self.state, "bin")
        os.mkdir(self.bin)
        for name, body in FAKES.items():
            path = os.path.join(self.bin, name)
            with open(path, "w", encoding="utf-8") as stream:
                stream.write("#!/bin/sh\n" + body + "\n")
            os.chmod(path, 0o755)

    def start(self, script, *arguments, **environment):
        env = {**os.environ, "PATH": self.bin + ":" + os.environ["PATH"], "STATE": self.state, "TMPDIR": self.state,
               "NMOE_PROGRESS_S": "1", **environment}
        env.pop("NMOE_BINARY", None)
        return subprocess.Popen([os.path.join(ROOT, "launch", script), *arguments], env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                                preexec_fn=self.hear_interrupts)

    @staticmethod
    def hear_interrupts():
        """A job started in the background ignores SIGINT, and a shell cannot trap what it inherits as ignored."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def run_script(self, script, *arguments, **environment):
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self, program):
        path = os.path.join(self.state, program + "-calls")
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as stream:
            return stream.read().splitlines()

    def test_packages_are_installed_with_signs_of_life(self):
        code, out, err = self.run_script("deps.sh", APT_TENTHS="35")
        self.assertEqual((code, err), (0, ""))
        self.assertGreaterEqual(out.count("deps: apt-get install: "), 2)
        self.assertIn("s: Unpacking", out)
        self.assertIn("deps: installed", out)

    def test_packages_are_looked_for_again_after_apt(self):
        code, _, err = self.run_script("deps.sh", APT_FORGETS="1")
        self.assertEqual(code, 70)
        self.assertIn("these packages are not installed: build-essential", err)

    def test_another_system_is_sent_to_the_documents(self):
        for name in ("bash", "dirname"):  # and no dpkg-query or apt-get
            os.symlink(shutil.which(name), os.path.join(self.state, name))
        done = subprocess.run([os.path.join(ROOT, "launch", "deps.sh")], env={"PATH": self.state}, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (78, 1), done.stderr)
        self.assertIn("docs/install.md", done.stderr)

    def test_ctrl_c_is_obeyed(self):
        process = self.start("deps.sh", APT_TENTHS="200")
        for _ in range(200):
            if any("install" in call for call in self.calls("apt-get")):
                break
            time.sleep(0.05)
        time.sleep(0.5)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertLess(time.monotonic() - began, 10)
        self.assertIn("stopp", err)

    def test_no_script_waits_in_a_read_with_a_timeout(self):
        """A trap inside one makes bash 5.2 abort, one stop in some fifty on a busy machine."""
        for script in glob.glob(os.path.join(ROOT, "launch", "*.sh")):
            with open(script, encoding="utf-8") as stream:
                self.assertNotRegex(re.sub(r"#.*", "", stream.read()), r"\bread +-\w*t", script)

    def test_a_lock_is_waited_for(self):
        open(os.path.join(self.state, "locked"), "w", encoding="utf-8").close()
        code, out, _ = self.run_script("deps.sh")
        self.assertEqual(code, 0)
        self.assertIn("another program holds apt's lock", out)
        self.assertTrue(all("DPkg::Lock::Timeout=300" in call for call in self.calls("apt-get")))

    def test_build_goes_where_it_is_told_and_counts(self):
        builds = os.path.join(self.state, "builds")
        code, out, err = self.run_script("build.sh", "release", "neuronmoe", NMOE_BUILD_ROOT=builds)
        self.assertEqual((code, err), (0, ""))
        self.assertIn(f"--preset release -B {builds}/release", self.calls("cmake")[0])
        self.assertIn(f"--build {builds}/release", self.calls("cmake")[1])
        self.assertRegex(out, r"build: compiling: 1 s: \[\d+/25\]")

    def test_wrong_options_are_refused_before_anything_is_done(self):
        for options, word in ((["--target", "fr"], "'fr'"), (["--target", "en"], "replay"), (["--ranks", "0"], "--ranks 0"),
                              (["--control", "x"], "--control x"), (["--limit", "-1"], "--limit -1")):
            code, _, err = self.run_script("quickstart.sh", "--workdir", os.path.join(self.state, "work"), *options)
            self.assertEqual(code, 78, options)
            self.assertIn(word, err)
        self.assertEqual(self.calls("apt-get") + self.calls("cmake"), [])
        self.assertFalse(os.path.exists(os.path.join(self.state, "work")))


class Advice(unittest.TestCase):
    """What the program says of a wrong launch is in the words of its launcher."""

    def run_check(self, **environment):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_COMM", "PMI", "SLURM_", "HYDI_"))}
        binary = os.environ.get("NMOE_TEST_BINARY", os.path.join(ROOT, "build", "release", "neuronmoe"))
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(["taskset", "-c", str(min(os.sched_getaffinity(0))), binary, "check"], cwd=folder, text=True, timeout=60,
                                  env={**env, "OMP_NUM_THREADS": "3", **environment}, capture_output=True)
        return done.returncode, done.stdout + done.stderr

    def test_it_names_the_launcher(self):
        srun, open_mpi, hydra = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}, {"OMPI_COMMAND": "x"}, {"HYDI_CONTROL_FD": "9"}
        for launcher, words in (({}, "taskset"), (srun, "srun --cpus-per-task=3"), ({**srun, **open_mpi}, "mpirun --map-by slot:PE=3"),
                                ({**srun, **hydra}, "mpiexec with 3 cores")):
            _, text = self.run_check(**launcher)
            warning = next(line for line in text.splitlines() if "warning: 3 threads on 1 cores" in line)
            self.assertIn(words, warning)
            by_srun = launcher == srun
            code, text = self.run_check(**{**launcher, "SLURM_STEP_NUM_TASKS" if by_srun else "PMI_SIZE": "2"})
            self.assertEqual((code, "cray_shasta for Cray MPICH" in text, "start with mpirun" in text), (78, by_srun, not by_srun), text)


if __name__ == "__main__":
    unittest.main()

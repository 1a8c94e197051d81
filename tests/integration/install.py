#!/usr/bin/env python3
"""Installs the build into a prefix with a blank and a quote in its path and runs from there: program, launch scripts, configs,
tools, documents, Slurm files, modulefile. Nothing may be written into the prefix.

    install.py CMAKE BUILD_DIR
"""
import glob
import os
import re
import subprocess
import sys
import tempfile

LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
ROOT_PATH = re.compile(r"\$\{?root\}?/((?:launch|slurm|configs|tools|docs)/[\w./-]*[\w])")


def fail(text):
    sys.exit(f"install.py: {text}")


def run(command, folder, code=0):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("NMOE_BINARY", "NMOE_ROOT", "NMOE_SITE", "SLURM_JOB_ID"):
        env.pop(name, None)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    if done.returncode != code:
        fail(f"{command} ended with {done.returncode}, not {code}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def files_of(folder):
    """Returns {path: (size, time of the last change)} of every file below the folder."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            state = os.lstat(path)
            found[os.path.relpath(path, folder)] = (state.st_size, state.st_mtime_ns)
    return found


def read(path):
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def check_references(share):
    """What scripts name below their root, and what the documents link to, is there."""
    for script in glob.glob(os.path.join(share, "launch", "*.sh")) + glob.glob(os.path.join(share, "slurm", "*")):
        for path in ROOT_PATH.findall(read(script)):
            if os.path.basename(path) in ("build.sh", "test.sh") or path.endswith("/env"):
                continue  # of a checkout; and env/$NMOE_SITE.sh
            if not os.path.exists(os.path.join(share, path)):
                fail(f"{os.path.relpath(script, share)} names {path}, which is not installed")
    pages = glob.glob(os.path.join(share, "*.md")) + glob.glob(os.path.join(share, "docs", "*.md"))
    if len(pages) < 10:
        fail(f"{len(pages)} pages of documentation are installed")
    for page in pages:
        for link in LINK.findall(read(page)):
            if not os.path.exists(os.path.join(os.path.dirname(page), link)):
                fail(f"{os.path.relpath(page, share)} links to {link}, which is not installed")


def main():
    cmake, build = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, "a user's prefix")
        here = os.path.join(folder, "some where")
        os.mkdir(here)
        run([cmake, "--install", build, "--prefix", prefix], folder)
        share = os.path.join(prefix, "share", "neuronmoe")
        before = files_of(prefix)

        if not re.match(r"neuronmoe \d", run([os.path.join(prefix, "bin", "neuronmoe"), "--version"], here)):
            fail("bin/neuronmoe --version does not say neuronmoe")
        launch = os.path.join(share, "launch")
        text = run([os.path.join(launch, "run.sh"), "2", "check"], here)
        if "ready" not in text:
            fail(f"launch/run.sh 2 check does not say ready:\n{text}")
        configs = os.path.join(share, "configs")
        machines = sorted(glob.glob(os.path.join(configs, "machines", "*.cfg")))
        if not machines:
            fail("no configs/machines/*.cfg is installed")
        run([os.path.join(launch, "run.sh"), "1", "plan", "--config", machines[0], "--print-config"], here)
        run([os.path.join(launch, "pipeline.sh"), os.path.join(configs, "quickstart.cfg"), "--options-only"], here)
        run([os.path.join(launch, "quickstart.sh"), "--help"], here)
        # The pipeline gets as far as its text, in a folder of the user's: not in the prefix.
        text = run([os.path.join(launch, "pipeline.sh"), os.path.join(configs, "quickstart.cfg")], here, code=65)
        if "no text in" not in text or here not in text:
            fail(f"launch/pipeline.sh does not work in the user's folder:\n{text}")
        for tool in ("report.py", "prepare_corpus.py", "make_corpus.py"):
            run(["/usr/bin/python3", "-B", os.path.join(share, "tools", tool), "--help"], here)
        for script in glob.glob(os.path.join(share, "slurm", "*.sbatch")) or fail("no slurm/*.sbatch is installed"):
            run(["bash", "-n", script], here)
        check_references(share)
        for path in glob.glob(os.path.join(share, "modulefiles", "neuronmoe", "*")) or fail("no modulefile is installed"):
            if f'setenv NMOE_ROOT "{share}"' not in read(path):
                fail(f"{path} does not name {share}")

        after = {path: state for path, state in files_of(prefix).items() if "__pycache__" not in path}
        if after != before:
            fail(f"the prefix was written into: {sorted(set(after.items()) ^ set(before.items()))}")
    print("install.py: everything runs from the prefix")


if __name__ == "__main__":
    main()

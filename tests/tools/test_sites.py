#!/usr/bin/env python3
"""Tests of what cannot be tried here: launch/env/*.sh, launch/stripe.sh and launch/miyabi.pbs, with a `module`, an lfs and a
run.sh that only say what they were asked for."""
import glob
import os
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SITES = sorted(set(glob.glob(os.path.join(ROOT, "launch", "env", "*.sh"))) - {os.path.join(ROOT, "launch", "env", "local.sh")})


class Sites(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.join(folder.name, "a folder")
        os.makedirs(os.path.join(self.folder, "bin"))

    def program(self, path, body):
        path = os.path.join(self.folder, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write("#!/bin/bash\n" + body + "\n")
        os.chmod(path, 0o755)

    def run_it(self, *command, **environment):
        env = {"PATH": os.path.join(self.folder, "bin") + ":/usr/bin:/bin", "HOME": self.folder, **environment}
        done = subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def source(self, site, **environment):
        """Returns (modules, {variable: value}) after run.sh has read the file of the site, in its strict mode."""
        script = ('set -euo pipefail; module() { : "$NOT_SET"; echo "module $*" >&2; }; source "$0"; '
                  'for v in NMOE_MPI NMOE_SRUN_OPTIONS NMOE_MPIRUN_OPTIONS NCCL_NET; do echo "$v=${!v:-}"; done')
        code, out, err = self.run_it("bash", "-c", script, site, **environment)
        self.assertEqual(code, 0, (site, err))
        return err, dict(line.split("=", 1) for line in out.splitlines())

    def test_every_site_can_be_read_and_says_where_it_is_from(self):
        self.assertGreaterEqual(len(SITES), 5)
        for site in SITES:
            _, variables = self.source(site)
            self.assertIn(variables["NMOE_MPI"], ("", "pmix", "pmi2", "cray_shasta", "none"), site)
            with open(site, encoding="utf-8") as stream:
                text = stream.read()
            if os.path.basename(site) != "generic.sh":
                self.assertRegex(text.replace("\n# ", " "), r"From (the site's )?documentation.*?, untried", site)

    def test_every_site_is_in_the_documents(self):
        with open(os.path.join(ROOT, "docs", "install.md"), encoding="utf-8") as stream:
            page = stream.read()
        for site in SITES:
            self.assertIn(f"| `{os.path.basename(site)[:-3]}` |", page)

    def test_the_user_wins(self):
        for site in SITES:
            _, variables = self.source(site, NMOE_MPI="pmi2", NMOE_SRUN_OPTIONS="--mine", NMOE_MPIRUN_OPTIONS="--too", NCCL_NET="IB")
            self.assertEqual((variables["NMOE_MPI"], variables["NCCL_NET"]), ("pmi2", "IB"), site)
            self.assertTrue(variables["NMOE_SRUN_OPTIONS"].endswith("--mine"), site)
            self.assertTrue(variables["NMOE_MPIRUN_OPTIONS"].endswith("--too"), site)

    def test_sites_of_slingshot(self):
        for name in ("alps", "isambard"):
            _, variables = self.source(os.path.join(ROOT, "launch", "env", name + ".sh"))
            self.assertEqual((variables["NMOE_MPI"], variables["NCCL_NET"]), ("cray_shasta", "AWS Libfabric"))

    def test_modules_can_be_named_or_left_out(self):
        site = os.path.join(ROOT, "launch", "env", "miyabi.sh")
        self.assertIn("module load nvidia nv-hpcx hdf5", self.source(site)[0])
        self.assertIn("module load gcc mpi", self.source(site, NMOE_MODULES="gcc mpi")[0])
        self.assertEqual(self.source(site, NMOE_NO_MODULES="1")[0], "")

    def test_stripe_without_lustre_says_so(self):
        stripe = os.path.join(ROOT, "launch", "stripe.sh")
        code, out, err = self.run_it(stripe, "new/one")
        self.assertEqual((code, err, out.count("\n")), (0, "", 1))
        self.assertIn("no lfs here", out)
        self.assertTrue(os.path.isdir(os.path.join(self.folder, "new", "one")))
        self.program("bin/lfs", "exit 1")
        code, out, _ = self.run_it(stripe, "new")
        self.assertEqual((code, "not on Lustre" in out), (0, True))
        self.assertEqual(self.run_it(stripe)[0], 78)
        self.assertEqual(self.run_it(stripe, "bin/lfs")[0], 78)

    def test_stripe_on_lustre(self):
        self.program("bin/lfs", '[[ $1 == getstripe ]] || echo "$*" >>calls')
        code, out, err = self.run_it(os.path.join(ROOT, "launch", "stripe.sh"), "a b")
        self.assertEqual((code, err), (0, ""), out)
        with open(os.path.join(self.folder, "calls"), encoding="utf-8") as stream:
            self.assertEqual(stream.read(), "setstripe -E 4M -c 1 -E 64M -c 4 -E -1 -c 32 -S 4M a b\n")
        self.program("bin/lfs", "[[ $1 == getstripe ]]")
        self.assertEqual(self.run_it(os.path.join(ROOT, "launch", "stripe.sh"), "c")[0], 70)

    def miyabi(self, **variables):
        with open(os.path.join(self.folder, "nodes"), "w", encoding="utf-8") as stream:
            stream.write("n2\nn1\nn2\n")
        return self.run_it("bash", os.path.join(ROOT, "launch", "miyabi.pbs"), PBS_O_WORKDIR=self.folder,
                           PBS_NODEFILE=os.path.join(self.folder, "nodes"), **variables)

    def test_miyabi(self):
        self.assertEqual(self.miyabi(WHAT="check")[0], 78)  # not the folder
        self.program("launch/run.sh", 'echo "$NMOE_SITE $*"; trap "exit 85" USR1; [[ $2 != sleep ]] || for i in {1..200}; do sleep 0.1; done')
        self.program("launch/pipeline.sh", 'echo "pipeline $*"')
        self.assertEqual(self.miyabi(WHAT="train --stage 1")[:2], (0, "miyabi 2 train --stage 1\n"))
        self.assertEqual(self.miyabi(PIPELINE="x.cfg --target el")[:2], (0, "pipeline x.cfg --target el --ranks 2\n"))
        for wrong in ({}, {"WHAT": "a", "PIPELINE": "b"}):
            code, _, err = self.miyabi(**wrong)
            self.assertEqual((code, err.count("\n")), (78, 1))
        code, _, err = self.miyabi(WHAT="sleep", NMOE_SECONDS="301")
        self.assertEqual((code, "submit the same line again" in err), (85, True))


if __name__ == "__main__":
    unittest.main()

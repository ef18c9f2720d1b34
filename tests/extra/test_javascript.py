"""The official JavaScript clients; Node.js is in the test environment."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent / "javascript"
#: Where `make test-extra` has put node and npm.
BIN = pathlib.Path(sys.executable).parent
PATH = f"{BIN}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    npm = shutil.which("npm", path=str(BIN))
    assert npm, "npm is not in the test environment: `make test-extra` installs it"
    folder = tmp_path_factory.mktemp("javascript")
    for file in HERE.iterdir():
        shutil.copy(file, folder)
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env={**os.environ, "PATH": PATH})
    assert done.returncode == 0, done.stderr
    return folder


def test_the_official_clients_work_unmodified(stack, installed):
    env = {**stack.env, "PATH": PATH}
    done = subprocess.run([str(BIN / "node"), "clients.mjs"], cwd=installed, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "all hold" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("ok  ") == 7


def test_the_documents_javascript_does_what_is_said(stack, installed):
    text = (HERE.parents[2] / "docs" / "api.md").read_text()
    blocks = re.findall(r"^```javascript\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        (installed / "block.mjs").write_text(block)
        env = {**stack.env, "PATH": PATH}
        done = subprocess.run([str(BIN / "node"), "block.mjs"], cwd=installed, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and done.stdout.strip(), done.stdout + done.stderr

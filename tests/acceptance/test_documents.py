"""Every call in the documents, as a reader would copy it."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def blocks(name: str, language: str) -> list:
    text = (ROOT / "docs" / name).read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/{name} has no {language}"
    return [pytest.param(block, id=f"{name}-{language}-{number}") for number, block in enumerate(found, 1)]


def run(stack, command: list, block: str) -> str:
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**stack.env, "PATH": path, "HOME": str(stack.dir)}
    done = subprocess.run([*command, block], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("block", blocks("api.md", "sh") + blocks("prompts.md", "sh"))
def test_commands_do_what_is_said(stack, block):
    run(stack, ["bash", "-euo", "pipefail", "-c"], block)


@pytest.mark.parametrize("block", blocks("api.md", "python"))
def test_python_does_what_is_said(stack, block):
    assert run(stack, [sys.executable, "-c"], block).strip()

"""The demo's own processes and its real model, on free ports, for clients that nobody here wrote."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIR = ROOT / "target" / "acceptance"
#: Building comes first and may take long on a new machine; everything after it is quick.
BUILD_SECONDS = 3600


class Stack:
    """A running demo: its environment and what can be seen of it."""

    def __init__(self, env: dict, directory: pathlib.Path) -> None:
        self.env = env
        self.dir = directory

    def __getitem__(self, name: str) -> str:
        return self.env[name]

    def token(self, *options: str) -> str:
        return self.postern("token", *options).stdout.strip()

    def postern(self, *words: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess:
        return subprocess.run([self["POSTERN"], *words], input=stdin, capture_output=True, text=True, check=check, timeout=60)

    def log(self, name: str) -> str:
        return (self.dir / "logs" / f"{name}.log").read_text()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        with urllib.request.urlopen(f"http://{self['POSTERN_GATEWAY_OPS']}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        total = 0.0
        for line in text.splitlines():
            match = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
            if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                total += float(match[2])
        return total

    def eventually(self, what: str, holds) -> None:
        """Waits, within bounds, until something that is under way has happened."""
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end, f"{what} did not happen"
            time.sleep(0.02)


def read_env(path: pathlib.Path) -> dict:
    """The file as a shell reads it."""
    shown = subprocess.run(["sh", "-c", f". '{path}' && env -0"], capture_output=True, check=True, env={"PATH": os.environ["PATH"]})
    pairs = (item.split("=", 1) for item in shown.stdout.decode().split("\0") if item)
    return {name: value for name, value in pairs}


def demo_command(directory: pathlib.Path, *options: str) -> list:
    return [sys.executable, str(ROOT / "deploy/demo/demo.py"), "--dir", str(directory), "--any-port",
            "--model-threads", "1", *options]


@pytest.fixture(scope="session")
def stack():
    shutil.rmtree(DIR, ignore_errors=True)
    DIR.mkdir(parents=True)
    output = open(DIR / "demo.log", "w")
    process = subprocess.Popen(demo_command(DIR), stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + BUILD_SECONDS
        while not (DIR / "env").exists():
            assert process.poll() is None, f"the demo ended with code {process.returncode}:\n{(DIR / 'demo.log').read_text()}"
            assert time.monotonic() < end, "the demo was not ready in time"
            time.sleep(0.05)
        yield Stack(read_env(DIR / "env"), DIR)
        assert process.poll() is None, f"the demo ended during the tests:\n{(DIR / 'demo.log').read_text()}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        output.close()
    assert process.returncode == 0, "SIGTERM ends the demo cleanly"
    assert not (DIR / "env").exists(), "the environment is gone with what it names"

"""What only packets can show: each scene is a process of its own, in networks of its own (scenes.py)."""

import subprocess
import sys

import pytest

from system import HERE, ROOT


@pytest.mark.parametrize("scene", ["managed", "offline"])
def test_packets(bin_dir, scene):
    directory = ROOT / "target" / "chaos" / f"scene-{scene}"
    command = [sys.executable, HERE / "scenes.py", scene, bin_dir, directory]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n(it needs user and network namespaces, or root)"

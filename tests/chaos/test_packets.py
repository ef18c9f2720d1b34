"""What only packets can show: each scene is a process of its own, in networks of its own (scenes.py)."""

import subprocess
import sys

from system import HERE, ROOT


def plays(bin_dir, scene: str) -> None:
    directory = ROOT / "target" / "chaos" / f"scene-{scene}"
    command = [sys.executable, HERE / "scenes.py", scene, bin_dir, directory]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n(it needs user and network namespaces, or root)"


def test_a_firewalled_instance_uses_a_providers_gateway_and_nobody_dials_in(bin_dir):
    plays(bin_dir, "managed")


def test_nothing_leaves_a_process_that_is_offline(bin_dir):
    plays(bin_dir, "offline")

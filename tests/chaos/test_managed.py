"""The managed configuration as processes: an instance without gateway or model of its own, behind a firewall, and a provider who has both. Each
has a database of its own; nobody ever connects to the one behind the firewall but its own people."""

import base64
import json
import shutil
import subprocess
import threading

import psutil

from system import ROOT, System

AUDIENCE = "postern-gateway:gateway"


class Watch:
    """Looks, for as long as it runs, at which of some ports the processes of a system connect to."""

    def __init__(self, system: System, ports: set) -> None:
        self.system, self.ports = system, ports
        self.seen = set()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self) -> None:
        while not self.over.is_set():
            for name, process in list(self.system.processes.items()):
                try:
                    connections = psutil.Process(process.pid).net_connections("tcp")
                except psutil.NoSuchProcess:
                    # It is being started again.
                    continue
                self.seen |= {(name, one.raddr.port) for one in connections if one.raddr and one.raddr.port in self.ports}
            self.over.wait(0.005)

    def end(self) -> set:
        self.over.set()
        self.thread.join()
        return self.seen


def claims(token: str) -> dict:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def test_a_firewalled_instance_uses_a_providers_gateway_and_nobody_dials_in(start, bin_dir, request):
    provider = start()
    directory = ROOT / "target" / "chaos" / f"{request.node.name}-customer"
    shutil.rmtree(directory, ignore_errors=True)
    customer = System(bin_dir, directory)
    inwards = Watch(provider, {customer.port[f"instance_{kind}"] for kind in ("grpc", "http", "ops")})
    outwards = Watch(customer, {provider.port["instance_grpc"], provider.port["gateway_grpc"]})
    try:
        use_it(provider, customer)
    finally:
        inside, outside = inwards.end(), outwards.end()
        customer.stop()
    # That the one watch sees what there is to see makes it count that the other saw nothing.
    assert outside == {("instance", port) for port in outwards.ports}
    assert inside == set(), "the provider dialled in"


def use_it(provider: System, customer: System) -> None:
    gateway = f"http://127.0.0.1:{provider.port['gateway_grpc']}"
    subprocess.run([customer.bin / "instance-svc", "--config", customer.dir / "instance.toml", "bootstrap", "--credential-file",
                    customer.dir / "admin.token"], check=True, capture_output=True)
    customer.start("instance")
    login = ["login", "--instance", f"http://127.0.0.1:{customer.port['instance_grpc']}", "--gateway", gateway, "--credential-file"]
    customer.postern(*login, customer.dir / "admin.token")
    customer.postern("fleet", "add", "gateway", "provider", "--managed", "--address", gateway, "--audience", AUDIENCE)
    customer.postern("feature", "bind", "chat", "--managed", "provider")
    customer.postern("user", "add", "eve")
    customer.postern("user", "token", "add", "eve", "--out", customer.dir / "eve.token")
    customer.postern(*login, customer.dir / "eve.token", profile="user")
    said = claims(customer.postern("token", "--scope", "feature:chat", "--audience", AUDIENCE, profile="user").strip())
    assert said["postern_realm"] == "managed" and said["aud"] == AUDIENCE

    # The provider says what the customer may, and the customer publishes its keys from within.
    credential = customer.dir / "provider.credential"
    provider.postern("fleet", "add", "instance", "acme", "--issuer-url", said["iss"], "--instance-id", said["postern_instance"],
                     "--scope", "feature:chat", "--credential-file", credential)
    chat = lambda *words: customer.postern("--json", "chat", "hi", *words, profile="user", check=False)
    assert chat("--via", "instance") == "", "its keys are not known yet"
    config = customer.dir / "instance.toml"
    publish = f'[[publish]]\naddress = "http://127.0.0.1:{provider.port["instance_grpc"]}"\ncredential_file = "{credential}"\n'
    config.write_text(config.read_text() + publish)
    customer.kill("instance")
    customer.start("instance")
    customer.until("an answer from the provider's model", lambda: chat("--via", "instance") != "")
    assert json.loads(chat("--via", "instance"))["text"]

    # What one is not entitled to stays shut, and what ends at home ends afar.
    refused = customer.postern("--json", "code", "x", "--via", "instance", profile="user", check=False)
    assert refused == "", "code completion is bound to nothing"
    customer.postern("user", "remove", "eve")
    customer.until("the end of eve's access", lambda: chat("--via", "instance") == "")

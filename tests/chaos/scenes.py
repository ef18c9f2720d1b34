"""What only packets can show, each scene in networks of its own: `scenes.py NAME BIN_DIR DIRECTORY`."""

import base64
import datetime
import ipaddress
import json
import pathlib
import shutil
import socket
import subprocess
import sys

from network import Network, Packets, leave_this_network

AUDIENCE = "postern-gateway:gateway"
PROVIDER, CUSTOMER = "10.77.0.1", "10.77.0.2"
#: Somewhere in the world.
FAR = "93.184.215.14"


def certificates(directory: pathlib.Path, host: str) -> pathlib.Path:
    """An authority for all scenes, and a certificate for this address."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def made(name: str, issuer, signer, extension):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
        builder = builder.not_valid_after(now + datetime.timedelta(hours=5)).add_extension(extension, critical=issuer is None)
        return builder.sign(signer or key, hashes.SHA256()), key

    pem = serialization.Encoding.PEM
    authority, signer = made("scene", None, None, x509.BasicConstraints(ca=True, path_length=None))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    certificate, key = made(host, authority.subject, signer, names)
    directory.mkdir(parents=True, exist_ok=True)
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name, text in (("ca.pem", authority.public_bytes(pem)), ("cert.pem", certificate.public_bytes(pem)), ("key.pem", private)):
        (directory / name).write_bytes(text)
    return directory


def claims(token: str) -> dict:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def managed(bin_dir: pathlib.Path, directory: pathlib.Path) -> None:
    """An instance without gateway or model of its own, behind a firewall, and a provider who has both, each in a network of its own and
    with a database of its own. All that the one is not the first to say is kept out."""
    from system import System

    outside, inside = Network(), Network(other=True)
    outside.link("wire", PROVIDER, inside, CUSTOMER)
    packets = Packets(inside, "wire")
    tls = {who: certificates(directory / who, host) for who, host in (("provider-tls", PROVIDER), ("customer-tls", CUSTOMER))}
    # Each believes the other's authority.
    both = "".join((one / "ca.pem").read_text() for one in tls.values())
    for one in tls.values():
        (one / "ca.pem").write_text(both)
    provider = System(bin_dir, directory / "provider", host=PROVIDER, tls=tls["provider-tls"])
    customer = System(bin_dir, directory / "customer", host=CUSTOMER, tls=tls["customer-tls"])
    try:
        provider.set_up()
        with inside.within():
            uses_the_providers_gateway(provider, customer)
        assert packets.seen("in") == set(), f"somebody dialled in: {packets.seen('in')}"
        ports = {("tcp", PROVIDER, provider.port[name]) for name in ("instance_grpc", "gateway_grpc")}
        assert packets.seen("out") == ports, packets.seen("out")
        # That a packet from outside is seen is what makes it count that there was none.
        port = customer.port["instance_grpc"]
        socket.create_connection((CUSTOMER, port), timeout=10).close()
        customer.until("the packet to be seen", lambda: packets.seen("in") == {("tcp", PROVIDER, port)})
    finally:
        provider.stop()
        customer.stop()
        packets.end()
        inside.end()


def uses_the_providers_gateway(provider, customer) -> None:
    gateway = provider.url("gateway_grpc")
    subprocess.run([customer.bin / "instance-svc", "--config", customer.dir / "instance.toml", "bootstrap", "--credential-file",
                    customer.dir / "admin.token"], check=True, capture_output=True)
    customer.start("instance")
    customer.login(customer.dir / "admin.token", gateway=gateway)
    customer.postern("fleet", "add", "gateway", "provider", "--managed", "--address", gateway, "--audience", AUDIENCE)
    customer.postern("feature", "bind", "chat", "--managed", "provider")
    customer.postern("user", "add", "eve")
    customer.postern("user", "token", "add", "eve", "--out", customer.dir / "eve.token")
    customer.login(customer.dir / "eve.token", gateway=gateway, profile="user")
    said = claims(customer.postern("token", "--scope", "feature:chat", "--audience", AUDIENCE, profile="user").strip())
    assert said["postern_realm"] == "managed" and said["aud"] == AUDIENCE

    # The provider says what the customer may, and the customer publishes its keys from within.
    credential = customer.dir / "provider.credential"
    provider.postern("fleet", "add", "instance", "acme", "--issuer-url", said["iss"], "--instance-id", said["postern_instance"],
                     "--scope", "feature:chat", "--credential-file", credential)
    chat = lambda: customer.postern("--json", "chat", "hi", "--via", "instance", profile="user", check=False)
    assert chat() == "", "its keys are not known yet"
    config = customer.dir / "instance.toml"
    publish = f'[[publish]]\naddress = "{provider.url("instance_grpc")}"\ncredential_file = "{credential}"\n'
    config.write_text(config.read_text() + publish)
    customer.kill("instance")
    customer.start("instance")
    customer.until("an answer from the provider's model", lambda: chat() != "")
    assert json.loads(chat())["text"]

    # What one is not entitled to stays shut, and what ends at home ends afar.
    refused = customer.postern("--json", "code", "x", "--via", "instance", profile="user", check=False)
    assert refused == "", "code completion is bound to nothing"
    customer.postern("user", "remove", "eve")
    customer.until("the end of eve's access", lambda: chat() == "")


def offline(bin_dir: pathlib.Path, directory: pathlib.Path) -> None:
    """Everything on one machine that keeps within itself, with a way to the world that nothing takes, whatever is registered."""
    from system import System

    here, world = Network(), Network(other=True)
    here.link("world", "10.99.0.1", world, "10.99.0.2")
    here.route_everything("10.99.0.2")
    packets = Packets(here, "world")
    within = "[egress]\noffline = true\n"
    far_keys = f'[[issuers]]\nissuer = "https://far.example"\naudience = "{AUDIENCE}"\njwks_url = "https://{FAR}/keys"\n'
    system = System(bin_dir, directory, instance=within, gateway=within + far_keys, adapter=within)
    try:
        system.set_up()
        system.postern("model", "add", "far", "--url", f"http://{FAR}/v1", "--endpoint-network", "0.0.0.0/0", "--no-api-key")
        system.postern("model", "add", "public", "--url", f"https://{FAR}/v1", "--no-api-key")
        system.postern("feature", "bind", "chat", "demo", "far", "public")
        system.postern("issuer", "add", "https://far.example", "--audience", "x", "--jwks-url", f"https://{FAR}/keys", check=False)
        assert system.ask(system.user).status == 200, "what is inside is reached"
        for name in ("far", "public"):
            assert system.postern("model", "check", name, check=False) == ""
            system.until("the gateway to know the model", lambda: system.ask(system.user, model=name).status != 404)
            assert system.ask(system.user, model=name).status >= 500, name
        assert packets.seen("out") == set(), f"something left: {packets.seen('out')}"
        # The same without the bound leaves, and is seen.
        config = system.dir / "adapter.toml"
        config.write_text(config.read_text().replace(within, ""))
        system.kill("adapter")
        system.start("adapter")
        system.postern("model", "check", "far", check=False)
        system.until("a packet to be seen", lambda: packets.seen("out") == {("tcp", FAR, 80)})
    finally:
        system.stop()
        packets.end()
        world.end()


if __name__ == "__main__":
    scene, bin_dir, directory = globals()[sys.argv[1]], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    shutil.rmtree(directory, ignore_errors=True)
    leave_this_network()
    scene(bin_dir, directory)

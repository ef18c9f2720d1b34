"""Tests of the system as processes, for what only processes can show."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from proxy import Proxy  # noqa: E402
from system import ROOT, System, build  # noqa: E402


@pytest.fixture(scope="session")
def bin_dir() -> pathlib.Path:
    return build()


@pytest.fixture
def start(bin_dir, request):
    """Starts a system with more lines for the instance's and the gateway's configuration; it ends with the test."""
    systems, proxies = [], []

    def begin(instance: str = "", gateway: str = "", seed: "int | None" = None) -> System:
        directory = ROOT / "target" / "chaos" / request.node.name
        system = System(bin_dir, directory, instance, gateway, through_proxy=seed is not None)
        systems.append(system)
        if seed is not None:
            system.proxy = Proxy(system.port["proxy"], system.port["instance_grpc"], seed)
            proxies.append(system.proxy)
        return system.set_up()

    yield begin
    for one in systems + proxies:
        one.stop()

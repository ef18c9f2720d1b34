"""Networks of a test's own, without root: namespaces of this process, links between them, and every packet that crosses one (packet(7)).

Python threads and children have namespaces of their own, so one script can stand in several networks at once."""

import contextlib
import ctypes
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading

from pyroute2 import IPRoute

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
OUTGOING = 4
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments) -> None:
    if getattr(LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def leave_this_network() -> None:
    """Puts this process, which must have one thread, into an empty network in which it may do everything."""
    user, group = os.getuid(), os.getgid()
    try:
        call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
    except OSError:
        # Root may do without a user namespace, where none is to be had.
        call("unshare", CLONE_NEWNET)
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        pathlib.Path(f"/proc/self/{name}").write_text(text)


class Network:
    """A network: the one that this script stands in, or another."""

    def __init__(self, other: bool = False) -> None:
        self.holder = None
        if other:
            # A namespace lives as long as somebody is in it.
            script = "import ctypes, sys; ctypes.CDLL(None).unshare(0x40000000); print('there', flush=True); sys.stdin.read()"
            self.holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert self.holder.stdout.readline() == "there\n"
        self.pid = self.holder.pid if self.holder else os.getpid()
        self.file = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        with self.within(), IPRoute() as links:
            links.link("set", index=links.link_lookup(ifname="lo")[0], state="up")

    def enter(self) -> None:
        """Moves this thread here; a child does so before it becomes a program."""
        call("setns", self.file, CLONE_NEWNET)

    @contextlib.contextmanager
    def within(self):
        before = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        self.enter()
        try:
            yield self
        finally:
            call("setns", before, CLONE_NEWNET)
            os.close(before)

    def link(self, name: str, address: str, other: "Network", other_address: str) -> None:
        """A link to another network."""
        with self.within(), IPRoute() as links:
            links.link("add", ifname=name, kind="veth", peer={"ifname": name, "net_ns_pid": other.pid})
        for network, own in ((self, address), (other, other_address)):
            with network.within(), IPRoute() as links:
                index = links.link_lookup(ifname=name)[0]
                links.addr("add", index=index, address=own, prefixlen=24)
                links.link("set", index=index, state="up")

    def route_everything(self, gateway: str) -> None:
        """What is nowhere else is there."""
        with self.within(), IPRoute() as links:
            links.route("add", dst="default", gateway=gateway)

    def end(self) -> None:
        if self.holder:
            self.holder.kill()
            self.holder.wait()


class Packets:
    """Who began what over a link, as its packets tell: (direction, protocol, other side's address, port)."""

    def __init__(self, network: Network, link: str) -> None:
        with network.within():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self.socket.bind((link, ETH_P_ALL))
        self.socket.settimeout(0.2)
        self.begun, self.over, self.lock = set(), threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(TimeoutError):
                packet, (_, protocol, kind, *_) = self.socket.recvfrom(65535)
                self.take(packet, protocol, "out" if kind == OUTGOING else "in")

    def take(self, packet: bytes, protocol: int, direction: str) -> None:
        if protocol == ETH_P_ARP or (protocol == ETH_P_IPV6 and (packet[6] == socket.IPPROTO_ICMPV6 or packet[24] == 0xFF)):
            # Neighbours who introduce themselves.
            return
        if protocol != ETH_P_IP:
            told = (direction, f"protocol {protocol:#06x}", "", 0)
        else:
            header = (packet[0] & 15) * 4
            source, target = (socket.inet_ntoa(packet[at:at + 4]) for at in (12, 16))
            _, port = struct.unpack("!HH", packet[header:header + 4])
            other = target if direction == "out" else source
            if packet[9] == socket.IPPROTO_TCP:
                syn, ack = packet[header + 13] & 2, packet[header + 13] & 16
                if not syn or ack:
                    # It belongs to a connection that somebody began.
                    return
                told = (direction, "tcp", other, port)
            else:
                told = (direction, f"ip {packet[9]}", other, port)
        with self.lock:
            self.begun.add(told)

    def seen(self, direction: str) -> set:
        with self.lock:
            return {one[1:] for one in self.begun if one[0] == direction}

    def end(self) -> None:
        self.over.set()
        self.thread.join()
        self.socket.close()

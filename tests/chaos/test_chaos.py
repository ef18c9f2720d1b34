"""What must hold while processes die, stop, race and are flooded. The numbers are those of a short run, or of `make soak`."""

import base64
import contextlib
import json
import random
import signal
import socket
import sqlite3
import time
import urllib.request

from system import SOAK, Client, Load

#: Keys that sign for two seconds each, published one second before.
FAST = "[keys]\nalgorithm = \"ES256\"\nrotation_seconds = 2\nlead_seconds = 1\n"


def keys(system) -> list:
    return json.loads(system.postern("--json", "keys", "list"))["keys"]


def active(system) -> str:
    signing = [key["kid"] for key in keys(system) if key["state"] == "active"]
    assert len(signing) == 1, "there is one key that signs"
    return signing[0]


def rotations(system, count: int) -> None:
    seen, last = 0, active(system)
    end = time.monotonic() + 10 * count + 30
    while seen < count:
        assert time.monotonic() < end, f"only {seen} of {count} rotations happened"
        time.sleep(0.2)
        now = active(system)
        seen, last = seen + (now != last), now


def test_rotating_under_load_refuses_nobody(start):
    system = start(instance=FAST)
    with Load(system) as load:
        rotations(system, 200 if SOAK else 6)
    assert load.refused == [] and load.answered > 100, (load.answered, load.refused[:3])


def test_two_replicas_race_to_rotate_and_there_is_one_key_that_signs(start):
    system = start(instance=FAST)
    system.start("second")
    with Load(system) as load:
        rotations(system, 60 if SOAK else 4)
    assert load.refused == [] and load.answered > 50, (load.answered, load.refused[:3])
    for replica in ("instance", "second"):
        assert "panicked" not in system.log(replica)
    # Both sign with the same key.
    other = Client(system.port["second_http"])
    assert system.ask(json.loads(system.exchange(client=other).text)["access_token"]).status == 200
    assert system.postern("audit", "verify")


def test_what_was_acknowledged_survives_kill_9_at_any_moment(start):
    system = start()
    chance = random.Random(7)
    acknowledged = []
    for _ in range(40 if SOAK else 4):
        kill_at = time.monotonic() + chance.uniform(0.05, 0.6)
        while time.monotonic() < kill_at:
            name = f"u{len(acknowledged)}-{chance.randrange(1 << 30)}"
            if system.postern("user", "add", name, check=False):
                acknowledged.append(name)
        system.kill("instance")
        system.start("instance")
    known = {user["name"] for user in json.loads(system.postern("--json", "user", "list"))}
    assert acknowledged and set(acknowledged) <= known, set(acknowledged) - known
    assert system.postern("audit", "verify")
    told = {event["target"] for event in json.loads(system.postern("--json", "audit", "list", "--limit", "1000"))}
    assert set(acknowledged[-100:]) <= told, "each acknowledged act is in the log"
    assert system.ask(system.token()).status == 200


def test_a_full_disk_is_a_clear_error_and_loses_nothing(start):
    system = start()
    system.send("instance", signal.SIGTERM)
    system.processes["instance"].wait()
    database = system.dir / "instance.db"
    size = max(file.stat().st_size for file in system.dir.glob("instance.db*"))
    system.start("instance", limit_file_bytes=size + 200_000)
    acknowledged, refused = [], 0
    for number in range(400):
        name = f"u{number}"
        if system.postern("user", "add", name, check=False):
            acknowledged.append(name)
        else:
            refused += 1
            if refused > 5:
                break
    assert refused > 5 and acknowledged, "the disk was never full"
    answer = system.exchange()
    assert answer.status in (200, 503), answer
    system.kill("instance")
    assert database.exists()
    system.start("instance")
    known = {user["name"] for user in json.loads(system.postern("--json", "user", "list"))}
    assert set(acknowledged) <= known, set(acknowledged) - known
    assert system.postern("audit", "verify")
    system.until("the gateway is fed again", lambda: system.ask(system.token()).status == 200)


def test_an_outage_longer_than_a_tokens_life_with_a_gateway_restarted_in_the_middle(start):
    system = start()
    short, longer = system.token(lifetime=1), system.token(lifetime=60)
    assert system.ask(short).status == 200
    system.kill("instance")
    # Ended by more than the leeway of 30 s.
    ends = time.monotonic() + 33
    assert system.ask(longer).status == 200
    system.kill("gateway")
    system.start("gateway")
    assert system.ask(longer).status == 200, "from its notes the gateway knows keys, revocations and routes"
    client = Client(system.port["gateway_http"])
    while time.monotonic() < ends:
        assert system.ask(longer, client).status == 200
        time.sleep(0.2)
    refused = system.ask(short, client)
    assert (refused.status, refused.code()) == (401, "token_expired"), refused
    system.start("instance")
    assert system.ask(system.token(), client).status == 200


def test_a_flood_of_unknown_keys_disturbs_nobody(start):
    system = start()
    token = system.token()
    head, payload, signature = token.split(".")
    client = Client(system.port["gateway_http"])
    with Load(system, users=2) as load:
        for number in range(20_000 if SOAK else 2000):
            kid = f"{number:043d}"
            header = base64.urlsafe_b64encode(json.dumps({"alg": "ES256", "kid": kid, "typ": "at+jwt"}).encode()).rstrip(b"=")
            refused = system.ask(f"{header.decode()}.{payload}.{signature}", client)
            assert (refused.status, refused.code()) == (401, "key_unknown"), refused
    assert load.refused == [] and load.answered > 0, load.refused[:3]
    assert system.memory_mib("gateway") < 100


def test_a_flood_of_bad_secrets_is_turned_away_and_who_is_known_is_not(start):
    system = start()
    assert system.exchange().status == 200
    client = Client(system.port["instance_http"])
    seen = set()
    for number in range(5000 if SOAK else 500):
        seen.add(system.exchange(f"postern_pat_{number}", client).status)
        if number % 50 == 0:
            assert system.exchange(client=client).status == 200, "who was known before the flood"
    assert seen == {400, 429}, seen
    assert system.memory_mib("instance") < 100


def test_a_gateway_that_was_stopped_across_a_revocation_never_serves_what_was_revoked(start):
    system = start(gateway="[trust]\nwhen_stale = \"refuse\"\nstale_seconds = 5\n")
    for _ in range(10 if SOAK else 1):
        token = system.token(lifetime=60)
        assert system.ask(token).status == 200
        system.send("gateway", signal.SIGSTOP)
        form = "token=" + token
        revoked = Client(system.port["instance_http"]).post(
            "/oauth/revoke", form, {"content-type": "application/x-www-form-urlencoded"})
        assert revoked.status == 200, revoked
        # Longer than news may be old.
        time.sleep(6)
        system.send("gateway", signal.SIGCONT)
        client, codes = Client(system.port["gateway_http"]), []
        while "token_revoked" not in codes:
            answer = system.ask(token, client)
            assert answer.status in (401, 503), f"served after its revocation: {answer}"
            codes.append(answer.code())
            assert len(codes) < 2000
        assert set(codes) <= {"trust_stale", "token_revoked"}, set(codes)
        system.until("fresh tokens are served", lambda: system.ask(system.token()).status == 200)


def test_the_bounds_of_refusal_hold_whatever_becomes_of_the_network(start):
    """Between instance and gateway everything is delayed, cut into pieces, held back or broken, by chance. A revoked token is
    refused within a second where the feed delivers, and from the bound on (5 s) where it does not."""
    system = start(gateway="[trust]\nwhen_stale = \"refuse\"\nstale_seconds = 5\n", seed=11)
    chance, client = random.Random(11), Client(system.port["gateway_http"])
    revoke = Client(system.port["instance_http"])
    worst = {}
    for round_number in range(30 if SOAK else 4):
        system.proxy.mode = "pass"
        token = system.token(lifetime=60)
        system.until("the gateway is fed again", lambda: system.ask(token, client).status == 200)
        mode = chance.choice(("pass", "stall", "reset")) if round_number > 2 else ("pass", "stall", "reset")[round_number]
        system.proxy.mode = mode
        answer = revoke.post("/oauth/revoke", "token=" + token, {"content-type": "application/x-www-form-urlencoded"})
        committed = time.monotonic()
        assert answer.status == 200, answer
        last_served = committed
        bound = 1.0 if mode == "pass" else 5.0
        while time.monotonic() < committed + bound + 2:
            asked = time.monotonic()
            answer = system.ask(token, client)
            if answer.status == 200:
                last_served = asked
            else:
                assert answer.code() in ("token_revoked", "trust_stale"), answer
            if round_number % 2 and mode == "stall" and chance.random() < 0.05:
                system.proxy.mode = mode = "reset"
        worst[mode] = max(worst.get(mode, 0), last_served - committed)
        assert last_served - committed <= bound, f"{mode}: served {last_served - committed:.2f} s after its revocation"
    system.proxy.mode = "pass"
    system.until("the gateway is fed again", lambda: system.ask(system.token(), client).status == 200)
    print("served at most so many seconds after the revocation:", worst)


def test_streams_that_nobody_reads_hold_a_bounded_memory(start):
    """The model would write for ever; every stream stalls with what fits in sockets and windows, and the processes hold little of it."""
    system = start()
    count = 400 if SOAK else 60
    body = json.dumps({"model": "demo", "stream": True, "messages": [{"role": "user", "content": "flood"}]})
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {system.user}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n")
    sent = lambda: int(urllib.request.urlopen(f"http://127.0.0.1:{system.port['model']}/sent").read())
    assert system.ask(system.user).status == 200
    before = {name: system.memory_mib(name) for name in ("gateway", "adapter")}
    readers = []
    try:
        for _ in range(count):
            reader = socket.socket()
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            reader.connect(("127.0.0.1", system.port["gateway_http"]))
            reader.sendall((head + body).encode())
            readers.append(reader)
        stalled = [0.0, -1]

        def all_stalled() -> bool:
            now = sent()
            if now != stalled[1]:
                stalled[:] = [time.monotonic(), now]
            return now > count * 4000 and time.monotonic() > stalled[0] + 2

        system.until("the model to be stopped by its readers", all_stalled)
        grown = {name: (system.memory_mib(name) - before[name]) / count for name in before}
        print(f"{count} streams that nobody reads: MiB each {grown}, sent by the model {stalled[1] / count / 2**20:.2f} MiB each")
        assert all(each < 0.5 for each in grown.values()), grown
        # Nobody else is stopped by them.
        assert system.ask(system.user).status == 200
    finally:
        for reader in readers:
            reader.close()


def test_a_backup_that_was_made_while_it_ran_is_restored(start):
    system = start()
    system.postern("user", "add", "before")
    with contextlib.closing(sqlite3.connect(system.dir / "instance.db")) as live, \
            contextlib.closing(sqlite3.connect(system.dir / "backup.db")) as backup:
        live.backup(backup)
    system.postern("user", "add", "after")
    system.kill("instance")
    for file in system.dir.glob("instance.db*"):
        file.unlink()
    (system.dir / "backup.db").rename(system.dir / "instance.db")
    system.start("instance")
    users = {user["name"] for user in json.loads(system.postern("--json", "user", "list"))}
    assert users == {"admin", "before", "eve"}
    assert system.postern("audit", "verify")
    # The gateway takes the state from the start, and the model is used as before.
    system.until("tokens are served", lambda: system.ask(system.token()).status == 200)
    system.postern("user", "revoke-access", "eve")

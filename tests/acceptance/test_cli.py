"""The command line, as an administrator and as a user."""

import json
import os
import pathlib
import stat

import pytest


def as_json(stack, *words):
    return json.loads(stack.postern("--json", *words).stdout)


def test_a_chat_streams_to_standard_output_and_its_cost_to_standard_error(stack):
    for via in ("gateway", "instance"):
        done = stack.postern("chat", "Say hello.", "--max-tokens", "8", "--via", via)
        assert done.stdout.strip() and "tokens read" in done.stderr
    answer = as_json(stack, "chat", "Say hello.", "--max-tokens", "8")
    assert answer["text"] and answer["usage"]["output_tokens"] <= 8


def test_code_comes_from_standard_input_too(stack):
    done = stack.postern("code", "--max-tokens", "8", stdin="def add(a, b):\n    return ")
    assert done.stdout.strip()


def test_status_says_what_can_be_used(stack):
    status = as_json(stack, "status")
    assert status["gateway"]["health"] == status["instance"]["health"] == "serving"
    [model] = status["models"]
    assert model["name"] == "demo" and {"chat", "code_completion", "embed", "explain_code"} <= set(model["features"])
    assert "administration" in stack.postern("--profile", "admin", "status").stdout
    assert as_json(stack, "--profile", "admin", "status")["instance"]["id"].startswith("ins_")


def test_a_model_is_added_checked_changed_bound_and_removed(stack, tmp_path):
    key = tmp_path / "key"
    key.write_text(stack["DEMO_MODEL_KEY"] + "\n")
    admin = lambda *words, **options: stack.postern("--profile", "admin", *words, **options)
    url = stack["DEMO_MODEL_URL"] + "/v1"
    admin("model", "add", "second", "--url", url, "--endpoint-network", "127.0.0.1/32", "--api-key-file", str(key))
    shown = json.loads(admin("--json", "model", "show", "second").stdout)
    assert shown["credential"] == "api_key" and stack["DEMO_MODEL_KEY"] not in json.dumps(shown)
    assert "can be used" in admin("model", "check", "second").stdout
    key.write_text("wrong\n")
    admin("model", "update", "second", "--api-key-file", str(key))
    failed = admin("model", "check", "second", check=False)
    assert failed.returncode == 1 and "FAIL  authenticate" in failed.stdout and "MODEL_CREDENTIAL_REJECTED" in failed.stdout
    admin("feature", "bind", "chat", "demo", "second")
    assert "demo, second" in admin("feature", "list").stdout
    assert "IN_USE" in admin("model", "remove", "second", check=False).stderr
    admin("feature", "bind", "chat", "demo")
    admin("model", "remove", "second")
    assert "second" not in admin("model", "list").stdout


def test_errors_say_what_to_do(stack):
    cases = [
        (("--profile", "nobody", "status"), "postern login"),
        (("model", "list"), "--profile"),
        (("chat", "hi", "--model", "nobody"), "MODEL_NOT_FOUND"),
        (("--profile", "admin", "model", "add", "x", "--url", "ftp://x", "--no-api-key"), "model.endpoints.url"),
        (("--profile", "admin", "model", "show", "nobody"), "postern model list"),
        (("--profile", "admin", "user", "token", "revoke", "crd_x"), "postern user token list"),
    ]
    for words, expected in cases:
        done = stack.postern(*words, check=False)
        assert done.returncode == 1 and expected in done.stderr, (words, done.stderr)
        assert json.loads(stack.postern("--json", *words, check=False).stdout)["error"]["message"]


def test_a_user_comes_and_goes(stack, tmp_path):
    admin = lambda *words, **options: stack.postern("--profile", "admin", *words, **options)
    file = tmp_path / "token"
    admin("user", "add", "bob")
    admin("user", "token", "add", "bob", "--label", "laptop", "--expires-in-days", "30", "--out", str(file))
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    listed = json.loads(admin("--json", "user", "token", "list", "bob").stdout)
    assert [token["label"] for token in listed] == ["laptop"] and listed[0]["expires_at"]
    login = ["--config-dir", str(tmp_path / "cli"), "login", "--instance", f"http://{stack['POSTERN_INSTANCE_GRPC']}",
             "--gateway", f"http://{stack['POSTERN_GATEWAY_GRPC']}", "--credential-file", str(file)]
    assert "for inference" in stack.postern(*login).stdout
    admin("user", "token", "revoke", listed[0]["id"])
    assert "CREDENTIAL_INVALID" in stack.postern(*login, check=False).stderr
    admin("user", "remove", "bob")
    assert "bob" not in admin("user", "list").stdout


def test_no_secret_is_in_any_log(stack):
    token = stack.token()
    secrets = [token, token.split(".")[2], stack["OPENAI_API_KEY"], stack["DEMO_MODEL_KEY"]]
    secrets += [pathlib.Path(stack.dir / name).read_text().strip()
                for name in ("admin.token", "gateway.credential", "adapter.credential", "seal.key")]
    for log in (stack.dir / "logs").iterdir():
        text = log.read_text()
        for secret in secrets:
            assert secret not in text, log.name


def test_logs_are_one_json_object_a_line(stack):
    for name in ("instance-svc", "gateway-svc", "model-adapter"):
        lines = [json.loads(line) for line in stack.log(name).splitlines()]
        assert lines and all({"timestamp", "level", "message"} <= line.keys() for line in lines)


@pytest.mark.parametrize("name", ["admin.token", "user.token", "seal.key", "gateway.credential", "env", "model.key"])
def test_what_holds_a_secret_is_its_owners_alone(stack, name):
    assert stat.S_IMODE(os.stat(stack.dir / name).st_mode) == 0o600


def test_a_feature_of_the_prompt_registry_is_run(stack, tmp_path):
    code = tmp_path / "add.py"
    code.write_text("def add(a, b):\n    return a + b\n")
    words = ["run", "explain_code", "--var-file", f"code={code}", "--var", "language=python", "--max-tokens", "12"]
    for via in ("gateway", "instance"):
        answer = as_json(stack, *words, "--via", via)
        assert answer["text"].strip() and answer["prompt"] == "explain_code/base/1.0.0"
    missing = stack.postern("run", "explain_code", check=False)
    assert missing.returncode == 1 and "variables.code" in missing.stderr
    assert "PROMPT_NOT_FOUND" in stack.postern(*words, "--prompt-version", "9.9.9", check=False).stderr
    rendered = stack.postern("prompt", "render", "explain_code", "--var-file", f"code={code}").stdout
    assert "return a + b" in rendered


CODE = "code=def add(a, b):\n    return a + b"
DIFF = "diff=--- a/add.py\n+++ b/add.py\n@@ -1 +1 @@\n-def add(a, b): return a - b\n+def add(a, b): return a + b"


@pytest.mark.parametrize("feature,variables", [
    ("code_generation", ["instruction=a function that adds two numbers", "language=python"]),
    ("explain_code", [CODE]),
    ("write_tests", [CODE, "framework=pytest"]),
    ("review_changes", [DIFF]),
    ("refactor_code", [CODE]),
    ("fix_code", [CODE, "problem=it subtracts"]),
    ("explain_vulnerability", [CODE, "finding=SQL injection"]),
    ("resolve_vulnerability", [CODE, "finding=SQL injection"]),
    ("summarize_changes", [DIFF]),
    ("summarize_discussion", ["discussion=Ann: Shall we ship? Bob: Yes, tomorrow."]),
    ("commit_message", [DIFF]),
    ("issue_description", ["notes=the button does nothing on a phone"]),
    ("troubleshoot_job", ["log=error: package foo not found"]),
    ("shell_command", ["request=list files by size"]),
])
def test_every_feature_is_answered_by_the_real_model(stack, feature, variables):
    words = [word for variable in variables for word in ("--var", variable)]
    answer = as_json(stack, "run", feature, *words, "--max-tokens", "16")
    assert answer["text"].strip() and answer["prompt"] == f"{feature}/base/1.0.0" and answer["finish_reason"] in ("stop", "length")


def test_texts_are_embedded(stack):
    answer = as_json(stack, "embed", "a cat", "a dog")
    assert len(answer["vectors"]) == 2 and len(answer["vectors"][0]) > 100

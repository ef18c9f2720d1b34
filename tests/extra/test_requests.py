"""What is sent, held against the vendors' own types: no member that they do not know, and each of the kind that they say."""

import json
import pathlib
import subprocess

import anthropic.types.message_create_params as messages
import botocore.loaders
import botocore.model
import botocore.validate
import openai.types.chat.completion_create_params as chat
import openai.types.embedding_create_params as embeddings
import openai.types.responses.response_create_params as responses
import pydantic
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def requests():
    command = ["cargo", "run", "--locked", "--release", "-q", "-p", "postern-tests", "--example", "requests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def of(requests, provider, path):
    found = [request for request in requests if request["provider"] == provider and request["path"] == path]
    assert found, f"nothing was sent to {provider} at {path}"
    return found


def check(params, body):
    # A list of one, for a type that has no settings takes those of what it stands in.
    pydantic.TypeAdapter(list[params], config=pydantic.ConfigDict(extra="forbid")).validate_python([body])


@pytest.mark.parametrize("provider,path,params,count", [
    ("openai", "/chat/completions", chat.CompletionCreateParamsNonStreaming, 2),
    ("openai", "/responses", responses.ResponseCreateParamsNonStreaming, 4),
    ("openai", "/embeddings", embeddings.EmbeddingCreateParams, 1),
    ("anthropic", "/messages", messages.MessageCreateParamsNonStreaming, 4),
])
def test_what_is_sent_is_of_the_vendors_own_types(requests, provider, path, params, count):
    found = of(requests, provider, path)
    assert len(found) == count
    for request in found:
        check(params, request["body"])
        with pytest.raises(pydantic.ValidationError):
            check(params, request["body"] | {"telepathy": True})


def test_what_is_sent_to_bedrock_is_what_its_service_model_takes(requests):
    loaded = botocore.loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    shape = botocore.model.ServiceModel(loaded).operation_model("Converse").input_shape
    found = [request for request in requests if request["provider"] == "bedrock"]
    assert len(found) == 2
    for request in found:
        # Bytes go as base64 on the wire, and as bytes here.
        body = request["body"] | {"modelId": "the-model"}
        report = botocore.validate.ParamValidator().validate(body, shape)
        assert not report.has_errors(), report.generate_report()
        wrong = botocore.validate.ParamValidator().validate(body | {"telepathy": True}, shape)
        assert wrong.has_errors()

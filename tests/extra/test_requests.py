"""What is sent, held against the vendors' own types: no member that they do not know, and each of the kind that they say."""

import json
import pathlib
import subprocess

import anthropic.types.message_count_tokens_params as counting
import anthropic.types.message_create_params as messages
import botocore.loaders
import botocore.model
import botocore.validate
import openai.types.chat.completion_create_params as chat
import openai.types.embedding_create_params as embeddings
import openai.types.responses.response_create_params as responses
import pydantic
import pytest
from google.genai import types as gemini
from mistralai.client import models as mistral

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
    ("anthropic", "/messages/count_tokens", counting.MessageCountTokensParams, 4),
])
def test_what_is_sent_is_of_the_vendors_own_types(requests, provider, path, params, count):
    found = of(requests, provider, path)
    assert len(found) == count
    for request in found:
        for item in request["body"]["input"] if path == "/responses" else []:
            if item["type"] == "reasoning":
                # Its types demand an id, which its server looks for among items that were not kept.
                item["id"] = "rs_1"
        check(params, request["body"])
        with pytest.raises(pydantic.ValidationError):
            check(params, request["body"] | {"telepathy": True})


@pytest.mark.parametrize("path,operation", [("/model/the-model/converse", "Converse"), ("/model/the-model/count-tokens", "CountTokens")])
def test_what_is_sent_to_bedrock_is_what_its_service_model_takes(requests, path, operation):
    loaded = botocore.loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    shape = botocore.model.ServiceModel(loaded).operation_model(operation).input_shape
    found = of(requests, "bedrock", path)
    assert len(found) == 2
    for request in found:
        # Bytes go as base64 on the wire, and as bytes here.
        body = request["body"] | {"modelId": "the-model"}
        report = botocore.validate.ParamValidator().validate(body, shape)
        assert not report.has_errors(), report.generate_report()
        wrong = botocore.validate.ParamValidator().validate(body | {"telepathy": True}, shape)
        assert wrong.has_errors()


#: What a request to Gemini is made of.
GEMINI = {"contents": list[gemini.Content], "systemInstruction": gemini.Content, "tools": list[gemini.Tool], "toolConfig": gemini.ToolConfig,
          "generationConfig": gemini.GenerationConfig}


def test_what_is_sent_to_gemini_is_of_its_own_types(requests):
    found = of(requests, "gemini", "/models/the-model:generateContent")
    counted = of(requests, "gemini", "/models/the-model:countTokens")
    bodies = [request["body"] for request in found]
    for body in bodies + [{name: value for name, value in request["body"]["generateContentRequest"].items() if name != "model"} for request in counted]:
        for name, value in body.items():
            pydantic.TypeAdapter(GEMINI[name]).validate_python(value)
            assert not set(spelled(value)) & {"max_output_tokens", "function_call"}, "names are those of the wire"
    assert {name for body in bodies for name in body} == set(GEMINI), "everything was looked at"
    with pytest.raises(pydantic.ValidationError):
        gemini.GenerationConfig.model_validate({"telepathy": True})
    for request in of(requests, "gemini", "/models/the-model:batchEmbedContents"):
        for one in request["body"]["requests"]:
            assert set(one) == {"model", "content", "outputDimensionality"}
            gemini.Content.model_validate(one["content"])


def spelled(value):
    """All names within."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from spelled(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from spelled(inner)


@pytest.mark.parametrize("path,model", [("/chat/completions", mistral.ChatCompletionRequest), ("/fim/completions", mistral.FIMCompletionRequest),
                                        ("/embeddings", mistral.EmbeddingRequest)])
def test_what_is_sent_to_mistral_is_of_its_own_types(requests, path, model):
    known = {field.alias or name for name, field in model.model_fields.items()}
    for request in of(requests, "mistral", path):
        model.model_validate(request["body"])
        # Its types pass over what they do not know; its server does not.
        assert set(request["body"]) <= known, set(request["body"]) - known

"""grpcio with stubs that grpcio-tools makes of our .proto files, and grpcio-health-checking."""

import pathlib
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from google.rpc import error_details_pb2, status_pb2

from conftest import DIR, ROOT


@pytest.fixture(scope="module")
def stubs(stack):
    out = DIR / "stubs"
    out.mkdir(exist_ok=True)
    files = sorted(str(path) for path in (ROOT / "proto" / "postern").rglob("*.proto"))
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}",
                    f"--grpc_python_out={out}", *files], check=True)
    sys.path.insert(0, str(out))
    from postern.completion.v1 import completion_pb2
    from postern.gateway.v1 import completion_service_pb2, completion_service_pb2_grpc

    class Stubs:
        completion = completion_pb2
        messages = completion_service_pb2
        service = completion_service_pb2_grpc.CompletionServiceStub

    return Stubs


@pytest.fixture(params=["gateway", "instance"])
def door(request, stack, stubs):
    """The same service at the gateway, with an access token, and at the instance, with the credential."""
    bearer = stack.token() if request.param == "gateway" else stack["OPENAI_API_KEY"]
    with grpc.insecure_channel(stack[f"POSTERN_{request.param.upper()}_GRPC"]) as channel:
        yield stubs.service(channel), [("authorization", f"Bearer {bearer}")]


def chat(stubs, text="Say hello.", **settings):
    part = stubs.completion.ContentPart(text=text)
    message = stubs.completion.Message(role=stubs.completion.ROLE_USER, content=[part])
    return stubs.messages.Chat(messages=[message], parameters=stubs.completion.Parameters(max_tokens=8, **settings))


def reason(error: grpc.RpcError) -> str:
    """The reason in google.rpc.ErrorInfo, as any client reads it."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "postern.dev"
            return info.reason
    raise AssertionError(f"no ErrorInfo in {status}")


def test_a_chat_is_answered(stubs, door):
    service, metadata = door
    answer = service.Chat(stubs.messages.ChatRequest(chat=chat(stubs)), metadata=metadata, timeout=60).completion
    assert answer.model == "demo" and answer.choices[0].text.strip()
    assert answer.usage.provenance == stubs.completion.USAGE_PROVENANCE_REPORTED and answer.usage.output_tokens > 0


def test_a_chat_streams_start_deltas_usage_end(stubs, door):
    service, metadata = door
    call = service.StreamChat(stubs.messages.StreamChatRequest(chat=chat(stubs)), metadata=metadata, timeout=60)
    kinds = [answer.event.WhichOneof("event") for answer in call]
    assert kinds[0] == "start" and kinds[-2:] == ["usage", "end"] and set(kinds[1:-2]) == {"delta"}
    assert call.code() == grpc.StatusCode.OK


def test_code_is_completed(stubs, door):
    service, metadata = door
    code = stubs.messages.Code(prefix="def add(a, b):\n    return ", parameters=stubs.completion.Parameters(max_tokens=8))
    answer = service.CompleteCode(stubs.messages.CompleteCodeRequest(code=code), metadata=metadata, timeout=60)
    assert answer.completion.choices[0].text
    call = service.StreamCompleteCode(stubs.messages.StreamCompleteCodeRequest(code=code), metadata=metadata, timeout=60)
    assert [answer.event.WhichOneof("event") for answer in call][-1] == "end"


def test_models_are_listed(stubs, door):
    service, metadata = door
    models = service.ListModels(stubs.messages.ListModelsRequest(), metadata=metadata, timeout=60).models
    assert [model.name for model in models] == ["demo"]
    assert list(models[0].features)[:3] == ["chat", "code_completion", "embed"] and "explain_code" in models[0].features


@pytest.mark.parametrize("bearer,code,expected", [
    (None, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
    ("Bearer x", grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MALFORMED"),
])
def test_a_bad_token_names_its_reason(stack, stubs, bearer, code, expected):
    with grpc.insecure_channel(stack["POSTERN_GATEWAY_GRPC"]) as channel:
        metadata = [("authorization", bearer)] if bearer else []
        with pytest.raises(grpc.RpcError) as caught:
            stubs.service(channel).Chat(stubs.messages.ChatRequest(chat=chat(stubs)), metadata=metadata, timeout=60)
    assert caught.value.code() == code and reason(caught.value) == expected


def test_an_unknown_model_is_not_found(stubs, door):
    service, metadata = door
    asked = chat(stubs)
    asked.model = "nobody"
    with pytest.raises(grpc.RpcError) as caught:
        service.Chat(stubs.messages.ChatRequest(chat=asked), metadata=metadata, timeout=60)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND and reason(caught.value) == "MODEL_NOT_FOUND"


def test_a_request_id_goes_through_all_three_and_comes_back(stack, stubs):
    metadata = [("authorization", f"Bearer {stack['OPENAI_API_KEY']}"), ("x-request-id", "acceptance-7")]
    with grpc.insecure_channel(stack["POSTERN_INSTANCE_GRPC"]) as channel:
        call = stubs.service(channel).Chat.with_call
        _, call = call(stubs.messages.ChatRequest(chat=chat(stubs)), metadata=metadata, timeout=60)
    assert dict(call.initial_metadata())["x-request-id"] == "acceptance-7"
    for name in ("instance-svc", "gateway-svc", "model-adapter"):
        stack.eventually(f"the request id in {name}'s log", lambda: "acceptance-7" in stack.log(name))


def test_cancelling_a_stream_stops_it(stack, stubs, door):
    service, metadata = door
    cancelled = lambda: stack.metric("postern_gateway_completions_total", outcome="CANCELLED")
    before = cancelled()
    asked = chat(stubs, "Tell a very long story.")
    asked.parameters.max_tokens = 2000
    call = service.StreamChat(stubs.messages.StreamChatRequest(chat=asked), metadata=metadata, timeout=60)
    next(call)
    call.cancel()
    stack.eventually("the end of the completion", lambda: cancelled() > before)


@pytest.mark.parametrize("name,service", [
    ("INSTANCE", "postern.instance.v1.TokenService"),
    ("GATEWAY", "postern.gateway.v1.CompletionService"),
    ("ADAPTER", "postern.model.v1.ModelService"),
])
@pytest.mark.parametrize("port", ["GRPC", "OPS"])
def test_health_is_what_an_orchestrator_expects(stack, name, service, port):
    with grpc.insecure_channel(stack[f"POSTERN_{name}_{port}"]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for asked in ("", service):
            answer = health.Check(health_pb2.HealthCheckRequest(service=asked), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        watch = health.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()

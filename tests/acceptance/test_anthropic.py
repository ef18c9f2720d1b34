"""The official anthropic package, with nothing changed but base URL and key."""

import anthropic
import pytest

QUESTION = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def client(stack):
    return anthropic.Anthropic(
        base_url=stack["POSTERN_GATEWAY_HTTP"], api_key=stack["OPENAI_API_KEY"], max_retries=0, timeout=60
    )


@pytest.fixture(scope="module")
def model(stack):
    return stack["DEMO_MODEL_NAME"]


def test_a_message_is_answered(client, model):
    answer = client.messages.create(
        model=model, max_tokens=12, extra_body={"temperature": 0}, system="Be brief.", messages=QUESTION
    )
    assert answer.type == "message" and answer.role == "assistant" and answer.model == model
    assert answer.content[0].type == "text" and answer.content[0].text.strip()
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) > 0
    assert 0 < answer.usage.output_tokens <= 12
    assert answer._request_id


def test_a_streamed_message_says_the_same(client, model):
    settings = dict(model=model, max_tokens=12, extra_body={"temperature": 0}, messages=QUESTION)
    whole = client.messages.create(**settings)
    with client.messages.stream(**settings) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 3, "it comes in pieces"
    assert "".join(pieces) == whole.content[0].text == final.content[0].text
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens
    kinds = [event.type for event in client.messages.create(**settings, stream=True)]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]


def test_a_bearer_is_taken_too(stack, model):
    client = anthropic.Anthropic(base_url=stack["POSTERN_GATEWAY_HTTP"], auth_token=stack.token(), max_retries=0, timeout=60)
    assert client.messages.create(model=model, max_tokens=8, messages=QUESTION).usage.output_tokens


def test_tokens_are_estimated(client, model):
    short = client.messages.count_tokens(model=model, messages=QUESTION).input_tokens
    long = client.messages.count_tokens(model=model, messages=[{"role": "user", "content": "hello " * 400}]).input_tokens
    assert 0 < short < 30 < 300 < long < 1500


def test_failures_are_those_that_the_client_knows(stack, client, model):
    with pytest.raises(anthropic.NotFoundError) as refused:
        client.messages.create(model="nobody", max_tokens=2, messages=QUESTION)
    assert refused.value.body["type"] == "error" and refused.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(model=model, max_tokens=2, messages=[{"role": "king", "content": "x"}])
    assert "messages[0].role" in refused.value.message
    stranger = anthropic.Anthropic(base_url=stack["POSTERN_GATEWAY_HTTP"], api_key="sk-ant-x", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError) as refused:
        stranger.messages.create(model=model, max_tokens=2, messages=QUESTION)
    assert "sk-ant-x" not in str(refused.value)


def test_a_stream_that_is_left_stops_the_model(stack, client, model):
    def cancelled():
        return stack.metric("postern_gateway_completions_total", feature="chat", outcome="CANCELLED")

    before = cancelled()
    with client.messages.stream(model=model, max_tokens=2000, messages=[{"role": "user", "content": "Count to 1000."}]) as stream:
        next(iter(stream.text_stream))
    stack.eventually("a cancelled request", lambda: cancelled() > before)

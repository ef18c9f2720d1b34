"""The official openai package, with nothing changed but base URL and key."""

import json
import urllib.request

import openai
import pytest

QUESTION = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def client(stack):
    return openai.OpenAI(base_url=stack["OPENAI_BASE_URL"], api_key=stack["OPENAI_API_KEY"], max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def model(stack):
    return stack["DEMO_MODEL_NAME"]


def test_a_chat_is_answered(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=12, temperature=0)
    assert answer.object == "chat.completion" and answer.model == model
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens > 0 and 0 < answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_says_the_same_as_an_unstreamed_one(client, model):
    settings = dict(model=model, messages=QUESTION, max_tokens=12, temperature=0, seed=1)
    whole = client.chat.completions.create(**settings).choices[0].message.content
    chunks = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole
    assert len(chunks) > 4, "it comes in pieces"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0


def test_the_answer_ends_where_it_was_told_to(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=1)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 1


def test_a_completion_is_raw(client, model):
    answer = client.completions.create(model=model, prompt="One, two, three,", max_tokens=8, temperature=0)
    assert answer.object == "text_completion" and "four" in answer.choices[0].text
    chunks = list(client.completions.create(model=model, prompt="One, two, three,", max_tokens=8, temperature=0, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def test_how_likely_tokens_were_is_told(client, model):
    settings = dict(model=model, messages=QUESTION, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2)
    tokens = client.chat.completions.create(**settings).choices[0].logprobs.content
    assert 0 < len(tokens) <= 3
    for token in tokens:
        assert token.logprob <= 0 and bytes(token.bytes).decode() == token.token
        assert len(token.top_logprobs) == 2 and token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
    chunks = [chunk for chunk in client.chat.completions.create(**settings, stream=True) if chunk.choices]
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in tokens]
    columns = client.completions.create(model=model, prompt="One, two, three,", max_tokens=3, temperature=0, logprobs=2).choices[0]
    assert "".join(columns.logprobs.tokens) == columns.text and columns.logprobs.text_offset[0] == 0
    assert len(columns.logprobs.top_logprobs[0]) == 2


def test_llamacpps_own_api_says_the_same(stack, client, model, tmp_path):
    key = tmp_path / "key"
    key.write_text(stack["DEMO_MODEL_KEY"] + "\n")
    admin = lambda *words: stack.postern("--profile", "admin", *words)
    is_listed = lambda: "native" in [found.id for found in client.models.list()]
    admin("model", "add", "native", "--provider", "llamacpp", "--url", stack["DEMO_MODEL_URL"], "--endpoint-network", "127.0.0.1/32",
          "--identifier", stack["DEMO_MODEL_NAME"], "--api-key-file", str(key))
    try:
        admin("feature", "bind", "code_completion", model, "native")
        assert "can be used" in admin("model", "check", "native").stdout
        stack.eventually("the new model's coming", is_listed)
        settings = dict(prompt="One, two, three,", max_tokens=8, temperature=0, logprobs=2)
        [ours], [theirs] = [client.completions.create(model=name, **settings).choices for name in ("native", model)]
        assert ours.text == theirs.text and ours.finish_reason == theirs.finish_reason == "length"
        assert ours.logprobs.tokens == theirs.logprobs.tokens and len(ours.logprobs.top_logprobs[0]) == 2
        chunks = list(client.completions.create(model="native", stream=True, **settings))
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == ours.text
        assert len(client.completions.create(model="native", prompt="One,", max_tokens=2, n=2).choices) == 2
    finally:
        admin("feature", "bind", "code_completion", model)
        admin("model", "remove", "native")
        stack.eventually("the model's going", lambda: not is_listed())


def test_models_are_listed_and_found(client, model):
    assert [found.id for found in client.models.list()] == [model]
    assert client.models.retrieve(model).id == model


def test_an_access_token_is_as_good_as_the_key(stack, model):
    client = openai.OpenAI(base_url=stack["OPENAI_BASE_URL"], api_key=stack.token(), max_retries=0)
    assert client.chat.completions.create(model=model, messages=QUESTION, max_tokens=2).choices


@pytest.mark.parametrize("key", ["sk-nonsense", "postern_pat_" + "a" * 49, "a.b.c"])
def test_a_wrong_key_is_an_authentication_error(stack, model, key):
    client = openai.OpenAI(base_url=stack["OPENAI_BASE_URL"], api_key=key, max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model=model, messages=QUESTION)
    assert caught.value.code in ("credential_invalid", "token_malformed") and caught.value.request_id


def test_an_unknown_model_is_a_not_found_error(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=QUESTION)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


@pytest.mark.parametrize("wrong", [
    {"messages": []}, {"temperature": 9}, {"n": 0}, {"max_tokens": 0}, {"extra_body": {"functions": [{"name": "f"}]}},
    {"messages": [{"role": "king", "content": "x"}]}, {"messages": [{"role": "user", "content": ""}]},
])
def test_a_wrong_request_is_a_bad_request_error(client, model, wrong):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": model, "messages": QUESTION, **wrong})
    assert caught.value.code == "request_invalid" and caught.value.message


def test_a_prompt_beyond_the_context_is_a_bad_request_error(client, model):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "word " * 20_000}])
    assert caught.value.code == "context_length_exceeded"


def test_an_endpoint_that_is_not_offered_is_a_not_found_error(client, model):
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model=model, prompt="x")


def cancelled(stack) -> float:
    return stack.metric("postern_gateway_completions_total", outcome="CANCELLED")


def test_closing_a_stream_early_stops_the_model(stack, client, model):
    before = cancelled(stack)
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Tell a very long story."}], max_tokens=2000, stream=True)
    next(iter(stream))
    stream.close()
    stack.eventually("the end of the completion", lambda: cancelled(stack) > before)
    # The real server says itself whether it is still at work.
    stack.eventually("an idle model server", lambda: not busy(stack))


def busy(stack) -> bool:
    headers = {"authorization": f"Bearer {stack['DEMO_MODEL_KEY']}"}
    request = urllib.request.Request(stack["DEMO_MODEL_URL"] + "/slots", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return any(slot["is_processing"] for slot in json.load(answer))


def test_texts_are_embedded(client, model):
    texts = ["a cat sleeps", "a cat naps", "interest rates rise"]
    answer = client.embeddings.create(model=model, input=texts)
    assert answer.model == model and answer.usage.prompt_tokens > 0
    assert [item.index for item in answer.data] == [0, 1, 2]
    numbers = [item.embedding for item in answer.data]
    assert len({len(vector) for vector in numbers}) == 1 and len(numbers[0]) > 100

    def alike(one, other):
        dot = sum(a * b for a, b in zip(one, other))
        return dot / (sum(a * a for a in one) ** 0.5 * sum(b * b for b in other) ** 0.5)

    assert alike(numbers[0], numbers[1]) > alike(numbers[0], numbers[2])
    # The client asks for base64 unless it is told otherwise.
    plain = client.embeddings.create(model=model, input=texts[0], encoding_format="float").data[0].embedding
    assert alike(plain, numbers[0]) > 0.9999
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model=model, input="")
    # Some clients cut texts into tokens themselves.
    assert len(client.embeddings.create(model=model, input=[[1, 2, 3], [4, 5]]).data) == 2
    assert refused.value.param == "input"


def test_a_response_is_answered_whole_and_streamed(client, model):
    settings = dict(model=model, instructions="Be brief.", input="Say hello.", max_output_tokens=12, temperature=0)
    whole = client.responses.create(**settings)
    assert whole.object == "response" and whole.status in ("completed", "incomplete") and whole.model == model
    assert whole.output_text.strip() and whole.usage.output_tokens > 0
    assert whole.instructions == "Be brief." and whole.store is False
    events = list(client.responses.create(**settings, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    assert events[-1].type == f"response.{whole.status}" and events[-1].response.output_text == text
    # The client's own gatherer wants an answer that was not cut short.
    with client.responses.stream(**(settings | {"max_output_tokens": 200})) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text.startswith(text)


def test_what_a_response_would_need_a_memory_for_is_refused(client, model):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=model, input="and?", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"

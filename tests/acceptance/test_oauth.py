"""Authlib, an OAuth client that knows nothing of Postern, finds its way from the metadata and does the whole round."""

import json
import urllib.request

import openai
import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
CREDENTIAL = "urn:postern:params:oauth:token-type:credential"


@pytest.fixture(scope="module")
def metadata(stack):
    with urllib.request.urlopen(f"{stack['POSTERN_INSTANCE_HTTP']}/.well-known/oauth-authorization-server", timeout=10) as answer:
        metadata = AuthorizationServerMetadata(json.load(answer))
    # Authlib demands https of every URL; on loopback the demo has none. Everything else it checks.
    for check in AuthorizationServerMetadata.REGISTRY_KEYS:
        if check not in ("issuer", "jwks_uri", "token_endpoint", "introspection_endpoint", "revocation_endpoint"):
            getattr(metadata, f"validate_{check}")()
    return metadata


@pytest.fixture(scope="module")
def robot(stack):
    """A service account's client secret."""
    stack.postern("--profile", "admin", "user", "add", "robot", "--service")
    return stack.postern("--profile", "admin", "user", "token", "add", "robot").stdout.strip()


def session(metadata, secret, method="client_secret_basic", **options):
    assert method in metadata["token_endpoint_auth_methods_supported"]
    return OAuth2Session("robot", secret, token_endpoint_auth_method=method, **options)


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_client_credentials_buy_a_token_that_the_gateway_takes(stack, metadata, robot, method):
    with session(metadata, robot, method, scope="feature:chat") as client:
        token = client.fetch_token(metadata["token_endpoint"], grant_type="client_credentials")
    assert token["token_type"] == "Bearer" and token["scope"] == "feature:chat" and token["expires_in"] == 300
    with openai.OpenAI(base_url=stack["OPENAI_BASE_URL"], api_key=token["access_token"]) as chat:
        answer = chat.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
    assert answer.choices[0].message.content


def test_a_user_s_token_is_exchanged_for_a_narrower_one(stack, metadata, robot):
    user = (stack.dir / "user.token").read_text().strip()
    with session(metadata, robot) as client:
        token = client.fetch_token(
            metadata["token_endpoint"], grant_type="urn:ietf:params:oauth:grant-type:token-exchange",
            subject_token=user, subject_token_type=CREDENTIAL, scope="feature:chat", audience="postern-gateway:gateway")
    assert token["issued_token_type"] == ACCESS_TOKEN and token["scope"] == "feature:chat"


def test_what_is_introspected_is_active_until_it_is_revoked(stack, metadata, robot):
    admin = (stack.dir / "admin.token").read_text().strip()
    with session(metadata, robot, scope="feature:chat") as client, OAuth2Session("admin", admin) as administrator:
        token = client.fetch_token(metadata["token_endpoint"], grant_type="client_credentials")["access_token"]

        def told():
            return administrator.introspect_token(metadata["introspection_endpoint"], token).json()

        assert told()["active"] is True and told()["scope"] == "feature:chat"
        assert client.revoke_token(metadata["revocation_endpoint"], token).status_code == 200
        stack.eventually("the revocation", lambda: told() == {"active": False})


def test_an_error_is_one_that_a_client_knows(metadata, robot):
    for secret, scope, error in ((robot, "instance:admin", "invalid_scope"), ("wrong", "feature:chat", "invalid_client")):
        with session(metadata, secret, scope=scope) as client, pytest.raises(OAuthError) as raised:
            client.fetch_token(metadata["token_endpoint"], grant_type="client_credentials")
        assert raised.value.error == error

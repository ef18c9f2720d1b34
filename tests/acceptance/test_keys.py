"""PyJWT verifies a minted token from the published keys, as any resource server would."""

import json
import urllib.request

import jwt
import pytest


@pytest.fixture(scope="module")
def discovery(stack):
    with urllib.request.urlopen(f"{stack['POSTERN_INSTANCE_HTTP']}/.well-known/openid-configuration", timeout=10) as answer:
        return json.load(answer)


def decode(stack, discovery, token, **changes):
    key = jwt.PyJWKClient(discovery["jwks_uri"]).get_signing_key_from_jwt(token)
    required = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id"]
    settings = {"audience": "postern-gateway:gateway", "issuer": discovery["issuer"], **changes}
    return jwt.decode(token, key, algorithms=["RS256"], options={"require": required}, **settings)


def test_a_minted_token_verifies(stack, discovery):
    token = stack.token()
    claims = decode(stack, discovery, token)
    assert jwt.get_unverified_header(token).keys() == {"alg", "kid", "typ"}
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    assert claims["exp"] - claims["iat"] == 300
    assert claims["sub"].startswith("usr_") and claims["scope"].startswith("feature:chat feature:code_completion feature:embed ")


def test_it_is_for_one_audience_and_of_one_issuer(stack, discovery):
    token = stack.token()
    with pytest.raises(jwt.InvalidAudienceError):
        decode(stack, discovery, token, audience="somebody-else")
    with pytest.raises(jwt.InvalidIssuerError):
        decode(stack, discovery, token, issuer="https://evil.example")


def test_a_token_holds_only_what_was_asked_for(stack, discovery):
    claims = decode(stack, discovery, stack.token("--scope", "feature:chat", "--lifetime", "60"))
    assert claims["scope"] == "feature:chat" and claims["exp"] - claims["iat"] == 60

"""Read data of a user from Human API: client.py USER [PATH]"""

import hashlib
import os
import sys

import requests

SIDECAR = os.environ.get("SIDECAR_URL", "http://localhost:8080")
DATA_API = os.environ.get("DATA_API_URL", "https://api.humanapi.co")
TIMEOUT = 20  # seconds, longer than the sidecar itself waits for the auth service (17)

sidecar = requests.Session()  # keeps its connections
sidecar.trust_env = False  # the sidecar is not asked through HTTP_PROXY
data_api = requests.Session()


class TokenError(Exception):
    """The sidecar has no token; errorCode says why, Retry-After when to ask again."""

    def __init__(self, answer):
        error = answer.json()
        super().__init__(f"{error['errorCode']}: {error['message']}")
        self.code = error["errorCode"]
        self.retry_after = answer.headers.get("Retry-After")


def call_sidecar(method, user, headers=None):
    headers = dict(headers or {})
    if path := os.environ.get("CALLER_TOKEN_FILE"):
        with open(path, encoding="utf-8") as file:
            headers["Authorization"] = f"Bearer {file.read().strip()}"
    answer = sidecar.request(
        method, f"{SIDECAR}/token", params={"client_user_id": user}, headers=headers, timeout=TIMEOUT
    )
    if not answer.ok:
        raise TokenError(answer)
    return answer


def ask(user):
    return call_sidecar("GET", user).json()["access_token"]


def forget(user, token):
    """Forget this very token. A newer one, which another caller may have got meanwhile, stays."""
    call_sidecar("DELETE", user, {"X-Rejected-Token-Hash": hashlib.sha256(token.encode()).hexdigest()})


def use(token, path):
    return data_api.get(DATA_API + path, headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT)


def read(user, path):
    token = ask(user)
    answer = use(token, path)
    if answer.status_code == 401:  # revoked: forget it, and ask once more
        forget(user, token)
        answer = use(ask(user), path)
    answer.raise_for_status()
    return answer.text


if __name__ == "__main__":
    print(read(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/v1/human/profile"))

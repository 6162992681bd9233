"""The clients of Python; see client in habits_test.go."""

import sys
import threading
import time

import requests

how, base = sys.argv[1:]


def generator(body):
    yield body[:5].encode()
    yield body[5:].encode()


def post():
    with requests.Session() as session:
        for line in sys.stdin:
            path, kind, control, body = line.rstrip("\n").split("\t")
            headers = {"Content-Type": kind, "Cache-Control": control}
            headers = {name: value for name, value in headers.items() if value}
            answer = session.post(base + path, data=generator(body), headers=headers, timeout=60)
            print(answer.status_code, answer.text.strip(), sep="\t", flush=True)


def busy():
    """Ask on connections that are kept until told to leave, or failing."""

    def call():
        with requests.Session() as session:
            last, count, said = time.monotonic(), 0, ""
            while True:
                try:
                    answer = session.get(base + "/token", params={"client_user_id": "busy"}, timeout=60)
                    if answer.status_code != 200:
                        said = f"{answer.status_code} {answer.headers.get('Connection')}"
                except requests.RequestException as error:
                    said = f"error {error}"
                if said:
                    print(f"{round((time.monotonic() - last) * 1000)}\t{said}", flush=True)
                    return
                last, count = time.monotonic(), count + 1
                if count == 20:
                    print("busy", flush=True)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()


{"generator": post, "busy": busy}[how]()

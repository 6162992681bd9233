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
    """Ask on connections that are kept until there is no token."""

    def call():
        with requests.Session() as session:
            last, before, count = time.monotonic(), "", 0
            while True:
                try:
                    answer = session.get(base + "/token", params={"client_user_id": "busy"}, timeout=60)
                    status, connection = answer.status_code, answer.headers.get("Connection", "")
                except requests.RequestException as error:
                    status, connection = 0, error
                if status != 200:
                    paused = round((time.monotonic() - last) * 1000)
                    sys.stdout.write(f"{paused}\t{before}\t{status}\t{connection}\n")  # at once: they are threads
                    return
                last, before, count = time.monotonic(), connection, count + 1
                if count == 20:
                    sys.stdout.write("busy\n")
                    sys.stdout.flush()

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()


{"generator": post, "busy": busy}[how]()

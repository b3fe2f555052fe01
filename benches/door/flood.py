"""Sends requests at a rate, pipelined on a few connections, and prints how many were answered."""
import base64
import secrets
import socket
import sys
import time
from urllib.parse import urlsplit

CONNECTIONS = 4
TICK = 0.01
# Several times what the server remembers of what was wrong.
SIGNATURES = 5_000


def forged(token):
    """Tokens that say the same and are each signed otherwise, with a number that a 2048-bit key could make."""
    said = token.rpartition(".")[0]
    for _ in range(SIGNATURES):
        signature = base64.urlsafe_b64encode(b"\0" + secrets.token_bytes(255)).rstrip(b"=").decode()
        yield f"{said}.{signature}"


def main():
    url, rate, seconds, kind, token = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5]
    parts = urlsplit(url)
    ids = [f"GET {parts.path}{number:08} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for number in range(SIGNATURES)]
    tokens = [f"GET {parts.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {each}\r\n\r\n".encode()
              for each in ([token] if kind == "repeated" else forged(token))]
    lines = {"ids": ids, "repeated": tokens, "forged": tokens,
             "both": [line for pair in zip(ids, tokens) for line in pair]}[kind]
    sockets = [socket.create_connection((parts.hostname, parts.port)) for _ in range(CONNECTIONS)]
    for each in sockets:
        each.setblocking(False)
    pending = [b""] * CONNECTIONS
    sent = answered = 0
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        due = int(elapsed * rate) - sent
        for index, each in enumerate(sockets):
            share = due // CONNECTIONS
            if not pending[index] and share:
                pending[index] = b"".join(lines[(sent + n) % len(lines)] for n in range(share))
                sent += share
            try:
                if pending[index]:
                    pending[index] = pending[index][each.send(pending[index]):]
            except BlockingIOError:
                pass
            try:
                answered += each.recv(1 << 20).count(b"HTTP/1.1 ")
            except BlockingIOError:
                pass
        time.sleep(TICK)
    print(answered)


if __name__ == "__main__":
    main()

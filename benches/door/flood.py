"""Sends requests at a rate, pipelined on a few connections, and prints how many were answered."""
import socket
import sys
import time
from urllib.parse import urlsplit

CONNECTIONS = 4
TICK = 0.01


def main():
    url, rate, seconds, token = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    parts = urlsplit(url)
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    # An id ends in a number of its own unless a token names the user.
    paths = [parts.path if token else f"{parts.path}{number:08}" for number in range(1000)]
    lines = [f"GET {path} HTTP/1.1\r\nHost: x\r\n{bearer}\r\n".encode() for path in paths]
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

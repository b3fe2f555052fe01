"""Sends requests at a rate, pipelined on a few connections, and prints how many were answered."""
import base64
import itertools
import secrets
import socket
import sys
import time
from urllib.parse import urlsplit

CONNECTIONS = 4
TICK = 0.01


def requests(kind, path, token):
    """One after the other, without end. Made as they are sent: a long list of them would take the cache that the
    server shares."""
    bearer = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    # Each token is signed otherwise, with a number that a 2048-bit key could make: it begins with a zero.
    said = token.rpartition(".")[0]
    signature = base64.urlsafe_b64encode(b"\0" + secrets.token_bytes(255)).rstrip(b"=").decode()
    forged = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {said}.{signature[:16]}%016x{signature[32:]}\r\n\r\n"
    forged = forged.encode()
    unknown = f"GET {path}%08d HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for number in itertools.count():
        if kind == "repeated":
            yield bearer
        elif kind == "forged" or kind == "both" and number % 2:
            yield forged % number
        else:
            yield unknown % number


def main():
    url, rate, seconds, kind, token = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5]
    parts = urlsplit(url)
    each_request = requests(kind, parts.path, token)
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
                pending[index] = b"".join(itertools.islice(each_request, share))
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

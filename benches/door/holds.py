"""Holds as much of a server as it lets one have, until it is stopped: URL KIND COUNT [TOKEN]. What the server closes
is opened again. Prints `ready` when all are open."""
import resource
import socket
import sys
import time
from urllib.parse import urlsplit

TICK = 0.001
EVERY = 2
UPLOAD = 6 << 20
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def beginning(kind, number, token):
    """What is sent at first, and what every two seconds."""
    bearer = f"Authorization: Bearer {token}\r\n"
    if kind == "deliveries":
        # Nobody can tell from the header that it is not a good one.
        return (f"POST /webhooks/clerk HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\nsvix-id: msg_{number}\r\n"
                f"svix-timestamp: {int(time.time())}\r\nsvix-signature: {SIGNATURE}\r\n\r\n{{").encode(), b" "
    if kind == "readers":
        return f"GET /ada?limit=500 HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n".encode(), b""
    if kind == "uploads":
        header = (f"POST /ada HTTP/1.1\r\nHost: localhost\r\n{bearer}Content-Type: application/json\r\n"
                  f"Content-Length: {UPLOAD}\r\n\r\n").encode()
        return header + b'{"text":"' + b"x" * (UPLOAD - 1000), b""
    if kind == "heads":
        return f"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 20_000, b""
    whole = b"GET /api/admin/tenants HTTP/1.1\r\nHost: localhost\r\n"
    return [(b"", b""), (whole + b"x-slow: ", b"x"), (whole + b"\r\n", b"")][number % 3]


class Hold:
    def __init__(self, address, kind, number, token):
        self.address, self.kind, self.number, self.token = address, kind, number, token
        self.open()

    def open(self):
        self.socket = socket.socket()
        if self.kind in ("readers", "heads"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.socket.settimeout(5)
        self.socket.connect(self.address)
        self.socket.setblocking(False)
        self.pending, self.drip = beginning(self.kind, self.number, self.token)
        self.turn = 0
        self.push()

    def push(self):
        try:
            while self.pending:
                self.pending = self.pending[self.socket.send(self.pending):]
        except BlockingIOError:
            pass
        except OSError:
            # Refused: opened again at its next turn.
            self.pending = b""

    def nudge(self):
        self.turn += 1
        try:
            # Readers take 64 KiB every eight seconds; what nobody answers is only looked at.
            if self.kind != "heads" and (self.kind != "readers" or self.turn % 4 == 0):
                if not self.socket.recv(65536):
                    raise ConnectionResetError
        except BlockingIOError:
            pass
        except OSError:
            return self.again()
        self.pending = self.pending or self.drip
        self.push()

    def again(self):
        self.socket.close()
        try:
            self.open()
        except OSError:
            pass


def main():
    parts, kind, count = urlsplit(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    token = sys.argv[4] if len(sys.argv) > 4 else ""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    holds = [Hold((parts.hostname, parts.port), kind, number, token) for number in range(count)]
    print("ready", flush=True)
    at, due = 0, 0.0
    each = count * TICK / EVERY
    while True:
        due += each
        while due >= 1:
            holds[at % count].nudge()
            at, due = at + 1, due - 1
        time.sleep(TICK)


if __name__ == "__main__":
    main()

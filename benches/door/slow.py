"""Holds slow sockets to a server until it is stopped: half a header, half a body, or nothing, and a byte of
it now and then. One that the server closes is opened again. Prints `ready` when all are open."""
import resource
import socket
import sys
import time
from urllib.parse import urlsplit

HALVES = [
    (b"GET /ada HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"x"),
    (b"POST /ada HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 999999\r\n\r\n{", b" "),
    (b"", b""),
]
TICK = 0.001


class Slow:
    def __init__(self, address, number):
        self.address, (self.first, self.drip) = address, HALVES[number % len(HALVES)]
        self.open()

    def open(self):
        self.socket = socket.create_connection(self.address)
        self.socket.sendall(self.first)
        self.socket.setblocking(False)

    def nudge(self):
        try:
            if self.socket.recv(4096):
                return
        except BlockingIOError:
            try:
                self.socket.send(self.drip)
                return
            except OSError:
                pass
        except OSError:
            pass
        self.socket.close()
        self.open()


def main():
    parts, count = urlsplit(sys.argv[1]), int(sys.argv[2])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sockets = [Slow((parts.hostname, parts.port), number) for number in range(count)]
    print("ready", flush=True)
    # Each once in two seconds, as evenly as it goes: in bursts they would be a test of the machine's scheduler.
    each = max(1, int(count * TICK / 2))
    at = 0
    while True:
        for number in range(at, at + each):
            sockets[number % count].nudge()
        at += each
        time.sleep(TICK)


if __name__ == "__main__":
    main()

"""When one process of a run is gone, the others end too, within a minute and with a line that says why.

A process that waits for a dead one in a collective operation waits long: with nccl for ever, as seen from Python. So each holds a
connection to the first process, outside of torch, which the system closes with the process; a thread waits for that. Machines that
vanish without closing anything are told by the system's keep-alive probes. A busy or stopped process is not taken for a dead one.
"""

from __future__ import annotations

import os
import re
import secrets
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from aib.backbones import one_line
from aib.train.processes import World
from aib.train.stopping import Interrupted

__all__ = ["Watch"]

GRACE = 10.0
"""Seconds that a process has to end by itself after another is gone, before it is ended."""

WORD_SECONDS = 5.0
"""How long a process that fails waits for word of another that failed before it."""

LAST_SECONDS = 600.0
"""How long the others wait for the first process to leave, which may still be saving: launchers end all when one has ended."""

CONNECT_SECONDS = 60.0
"""How long the processes may take to connect."""

DONE, FAILED, LOST = b"d", b"f", b"l"
"""What a process says before it leaves: as agreed, or with an error of which it tells itself; and what is said of one that left
without a word."""

MESSAGE = struct.Struct("!cI")
"""One of the above, and the rank that it is about."""

CONTACT = re.compile("gloo|nccl|process group|connection|timed out", re.IGNORECASE)
"""What torch's errors of collective operations speak of."""

PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
"""A silent machine counts as gone after half a minute."""


class Watch:
    """Context in which a process ends when another one of its world does, unless that one has left as agreed.

    What waits in a collective operation is ended from a thread, at once and without cleaning up; a run goes on from its last
    checkpoint. Of the processes the first one speaks, or all others if it is the one that is gone.

    Args:
        world: the processes; nothing is watched where there is only one.
        broadcast: gives every process the first one's value.
        agreed: exceptions that all processes raise together.
        advice: how to go on, the end of the message.
    """

    def __init__(
        self, world: World, broadcast: Callable[[Any], Any], agreed: tuple[type[BaseException], ...], advice: Callable[[], str]
    ) -> None:
        self.world, self.broadcast, self.agreed, self.advice = world, broadcast, agreed, advice
        self.links: dict[int, socket.socket] = {}
        self.gone: tuple[int, bool] | None = None  # who, and whether it has told why
        self.known, self.heard, self.left = threading.Event(), threading.Event(), threading.Event()

    def __enter__(self) -> Watch:
        if self.world.size > 1:
            self._connect()
            threading.Thread(target=self._listen, daemon=True, name="watch").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.world.size == 1:
            return
        failed = value is not None and not isinstance(value, self.agreed)
        if failed and isinstance(value, RuntimeError) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it as soon as a process is gone; this one ends anyway
        if failed and (isinstance(value, RuntimeError) or self.world.rank > 0):
            self.known.wait(WORD_SECONDS)  # of one that is gone, which breaks collective operations, or that says the same error
        if not failed and self.world.rank > 0:
            self.heard.wait(LAST_SECONDS)
        self.left.set()
        self._say(FAILED if failed else DONE, self.world.rank)
        for link in self.links.values():
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        broken = isinstance(value, RuntimeError) or (not failed and self.world.rank > 0)
        if self.gone is not None and broken:
            if self._speaks():
                raise ConnectionError(self._message()) from None
            raise SystemExit(2)
        if isinstance(value, RuntimeError) and CONTACT.search(str(value)):
            raise ConnectionError(f"the processes have lost each other ({one_line(value)}){self.advice()}") from value
        if self.world.rank > 0 and value is not None and (not failed or (self.gone is not None and self.gone[1])):
            raise SystemExit(130 if isinstance(value, Interrupted | KeyboardInterrupt) else 2)  # it has been said once

    def _connect(self) -> None:
        """Connect every process to the first one, which knows them by a secret that went through the process group."""
        where, until = os.environ["MASTER_ADDR"], time.monotonic() + CONNECT_SECONDS
        if self.world.rank > 0:
            port, secret = self.broadcast(None)
            link = socket.create_connection((where, port), CONNECT_SECONDS)
            link.sendall(secret + struct.pack("!I", self.world.rank))
            self.links[0] = _probed(link)
            return
        alone = where in ("127.0.0.1", "localhost")
        dual = not alone and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(
            ("127.0.0.1" if alone else "", 0), family=family, backlog=self.world.size, dualstack_ipv6=dual
        ) as server:
            secret = secrets.token_bytes(16)
            self.broadcast((server.getsockname()[1], secret))
            while len(self.links) < self.world.size - 1:
                server.settimeout(max(0.1, until - time.monotonic()))
                try:
                    link, _ = server.accept()
                except TimeoutError:
                    raise ConnectionError(
                        f"{self.world.size - 1 - len(self.links)} of {self.world.size} processes did not connect within "
                        f"{CONNECT_SECONDS:.0f} s; is a firewall between the machines?"
                    ) from None
                link.settimeout(CONNECT_SECONDS)
                said = _receive(link, len(secret) + 4)
                if secrets.compare_digest(said[: len(secret)], secret):
                    self.links[struct.unpack("!I", said[len(secret) :])[0]] = _probed(link)
                else:
                    link.close()

    def _listen(self) -> None:
        """Wait for the word, or the end, of the others; each says one word."""
        with selectors.DefaultSelector() as selector:
            for rank, link in self.links.items():
                selector.register(link, selectors.EVENT_READ, rank)
            while selector.get_map() and not self.left.is_set():
                for key, _ in selector.select():
                    said = _receive(self.links[key.data], MESSAGE.size)
                    selector.unregister(key.fileobj)
                    word, rank = MESSAGE.unpack(said) if said else (LOST, key.data)
                    if word != DONE:
                        self._end_after(rank, told=word == FAILED)
                    elif self.world.rank > 0:
                        self.heard.set()

    def _end_after(self, rank: int, told: bool) -> None:
        """Tell the others that ``rank`` is gone, give this process the time to end by itself, then end it."""
        if self.left.is_set() or self.gone is not None:
            return
        self.gone = rank, told
        self.known.set()
        self.heard.set()
        if self.world.rank == 0:
            self._say(FAILED if told else LOST, rank)
        if self.left.wait(GRACE):
            return
        if self._speaks():
            cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a bar may have hidden it
            print(f"{cursor}aib train: {self._message()}", file=sys.stderr, flush=True)
        os._exit(2)

    def _say(self, word: bytes, rank: int) -> None:
        for link in self.links.values():
            with suppress(OSError):
                link.sendall(MESSAGE.pack(word, rank))

    def _speaks(self) -> bool:
        return self.world.rank == 0 or self.gone == (0, False)

    def _message(self) -> str:
        assert self.gone is not None
        rank, told = self.gone
        why = "has failed, as it says itself" if told else "is gone (killed, out of memory, or its machine is)"
        return f"process {rank} of {self.world.size} {why}; the others stop too{self.advice()}"


def _probed(link: socket.socket) -> socket.socket:
    """The connection with the system's keep-alive probes, as far as it has them."""
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in PROBES.items():
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return link


def _receive(link: socket.socket, count: int) -> bytes:
    """``count`` bytes, or none where the connection ends before."""
    said = b""
    with suppress(OSError):
        while len(said) < count and (more := link.recv(count - len(said))):
            said += more
    return said if len(said) == count else b""

"""Two hosts on one machine: network namespaces, each with an address of its own, and a wire."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .run_helpers import CommandResult, environment

ADDRESSES = ("10.99.0.1", "10.99.0.2")
WIRE = "lan"

# Host 0 is the namespace of this shell, host 1 that of its child. Each prints the process to enter.
_SETUP = f"""
set -e
ip link set lo up
ip link add {WIRE} type veth peer name far
unshare --net sleep 3600 &
other=$!
# until the child has left this namespace
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.02; done
ip link set far netns $other
ip addr add {ADDRESSES[0]}/24 dev {WIRE}
ip link set {WIRE} up
nsenter --net --target $other sh -c \\
  'ip link set lo up; ip link set far name {WIRE}; ip addr add {ADDRESSES[1]}/24 dev {WIRE};
   ip link set {WIRE} up'
echo "$$ $other"
wait $other
"""


class TwoHosts:
    """Starts processes on two hosts, and cuts the wire between them."""

    def __init__(self, holders: tuple[int, int]) -> None:
        self._holders = holders
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self, host: int, folder: Path, *command: str, **variables: str
    ) -> subprocess.Popen[str]:
        """Starts Python with arguments and environment variables on host 0 or 1, in `folder`."""
        process = subprocess.Popen(
            [*self._enter(host), sys.executable, *command],
            cwd=folder,
            # gloo takes the address of the host's name otherwise
            env=environment() | {"GLOO_SOCKET_IFNAME": WIRE} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def cut_wire(self) -> None:
        """From now on nothing arrives, and nobody is told: as after a power failure."""
        subprocess.run([*self._enter(0), "ip", "link", "set", WIRE, "down"], check=True)

    def mend_wire(self) -> None:
        """Undoes :meth:`cut_wire`."""
        subprocess.run([*self._enter(0), "ip", "link", "set", WIRE, "up"], check=True)

    def lose(self, host: int) -> None:
        """Kills all processes of a host at once."""
        holder = self._holders[host]
        network = os.readlink(f"/proc/{holder}/ns/net")
        for entry in Path("/proc").glob("[0-9]*/ns/net"):
            pid = int(entry.parts[2])
            # processes come and go meanwhile
            with contextlib.suppress(OSError):
                if pid != holder and os.readlink(entry) == network:
                    os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """Kills whatever is left."""
        for host in (0, 1):
            self.lose(host)
        for process in self._started:
            process.communicate()

    def _enter(self, host: int) -> list[str]:
        target = str(self._holders[host])
        return ["nsenter", "--user", "--net", "--preserve-credentials", "--target", target]


def outcome(process: subprocess.Popen[str], timeout: float = 240) -> CommandResult:
    """Waits for a process and returns what it left."""
    out, err = process.communicate(timeout=timeout)
    return CommandResult(process.returncode, out, err)


@contextlib.contextmanager
def two_hosts() -> Iterator[TwoHosts | str]:
    """Yields two connected hosts, or the reason why this machine gives none."""
    needed = ("unshare", "nsenter", "ip")
    if lacking := [name for name in needed if shutil.which(name) is None]:
        yield f"network namespaces need the commands {', '.join(lacking)}"
        return
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--net", "bash", "-c", _SETUP],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert holder.stdout is not None and holder.stderr is not None
    try:
        line = holder.stdout.readline().split()
        if len(line) != 2:
            reason = " ".join(holder.stderr.read().split()) or "no reason given"
            yield f"this machine allows no network namespaces: {reason}"
            return
        hosts = TwoHosts((int(line[0]), int(line[1])))
        try:
            yield hosts
        finally:
            hosts.end()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate()

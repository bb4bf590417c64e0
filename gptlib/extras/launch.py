"""Start a script in several processes through torchrun, and never leave one behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path


def launch(
    script: str | Path,
    *arguments: str,
    n_processes: int = 2,
    max_restarts: int = 0,
    timeout: float = 300,
) -> str:
    """Run a script as `torchrun --nproc-per-node N script arguments` does, on this machine.

    The processes meet at a free port of 127.0.0.1 and talk through the loopback interface, so
    nothing leaves the machine. Each uses one CPU thread.

    Args:
        script: The Python file.
        arguments: What follows it on the command line.
        n_processes: Processes to start.
        max_restarts: How often torchrun starts all of them again after one has failed.
        timeout: Seconds until everything is ended by force.

    Returns:
        What the processes wrote to their standard output.

    Raises:
        RuntimeError: If they failed or took too long; the message ends with what they said.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n_processes)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--monitor-interval"]
    command += ["0.1", "--max-restarts", str(max_restarts), str(script), *arguments]
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": _loopback()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, complaints = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        _end(process)
        _, complaints = process.communicate()
        late = f"{Path(script).name} did not end within {timeout:g} s"
        raise RuntimeError(f"{late}\n{complaints[-3000:]}") from error
    finally:
        if process.poll() is None:
            _end(process)
            process.communicate()  # close the pipes
    if process.returncode:
        raise RuntimeError(f"{Path(script).name} failed\n{complaints[-3000:]}")
    # Before PyTorch 2.11, Gloo writes there too.
    lines = said.splitlines(keepends=True)
    return "".join(line for line in lines if "number of connected peer ranks is" not in line)


def _loopback() -> str:
    """Name the network interface of the machine to itself."""
    return "lo0" if sys.platform == "darwin" else "lo"


def _end(process: "subprocess.Popen[str]") -> None:
    """End the launcher and all that it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGTERM)  # torchrun ends its processes, and itself
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()

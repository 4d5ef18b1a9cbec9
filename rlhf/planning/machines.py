"""Machines that a run can be planned for."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.errors import UserError

GIB = 1024**3


@dataclass(frozen=True)
class Machine:
    """One machine; rates are the manufacturer's, per GPU unless stated otherwise."""

    name: str
    gpus: int
    """0 if the machine computes on its CPU."""
    device: str
    """Part of the device's name in torch."""
    device_memory_bytes: int
    """Memory of one GPU as torch reports it; of the machine if it has no GPU."""
    host_memory_bytes: int
    flops: dict[str, float]
    """Operations per second of dense matrix products, by dtype."""
    memory_bandwidth: float
    """Bytes per second."""
    interconnect_bandwidth: float
    """Bytes per second that a GPU sends to the other GPUs of the machine."""
    network_bandwidth: float
    """Bytes per second from the machine to other machines."""
    dollars_per_hour: float | None
    source: str
    """Source of these numbers, with date and region of the price."""


MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            name="p4d.24xlarge",
            gpus=8,
            device="A100-SXM4-40GB",
            device_memory_bytes=int(39.4 * GIB),
            host_memory_bytes=1152 * GIB,
            flops={"bfloat16": 312e12, "float32": 19.5e12},
            memory_bandwidth=1555e9,
            interconnect_bandwidth=300e9,
            network_bandwidth=50e9,
            dollars_per_hour=21.96,
            source="NVIDIA A100 40 GB data sheet, dense; on-demand price of Linux in us-east-1 since June 2025, an "
            "assumption that --dollars-per-hour replaces",
        ),
        Machine(
            name="p5.48xlarge",
            gpus=8,
            device="H100 80GB",
            device_memory_bytes=int(79.1 * GIB),
            host_memory_bytes=2048 * GIB,
            flops={"bfloat16": 989e12, "float32": 67e12},
            memory_bandwidth=3350e9,
            interconnect_bandwidth=450e9,
            network_bandwidth=400e9,
            dollars_per_hour=55.04,
            source="NVIDIA H100 SXM data sheet, dense; on-demand price of Linux in us-east-1 since June 2025, an "
            "assumption that --dollars-per-hour replaces",
        ),
        Machine(
            name="h100",
            gpus=1,
            device="H100 80GB",
            device_memory_bytes=int(79.1 * GIB),
            host_memory_bytes=128 * GIB,
            flops={"bfloat16": 989e12, "float32": 67e12},
            memory_bandwidth=3350e9,
            interconnect_bandwidth=450e9,
            network_bandwidth=12.5e9,
            dollars_per_hour=6.88,
            source="NVIDIA H100 SXM data sheet, dense; price: an eighth of p5.48xlarge, an assumption that "
            "--dollars-per-hour replaces",
        ),
        Machine(
            name="cpu",
            gpus=0,
            device="cpu",
            device_memory_bytes=16 * GIB,
            host_memory_bytes=16 * GIB,
            flops={"bfloat16": 60e9, "float32": 60e9},
            memory_bandwidth=20e9,
            interconnect_bandwidth=10e9,
            network_bandwidth=1e9,
            dollars_per_hour=None,
            source="a machine of 16 GiB; 60 GFLOP/s per thread if runs/bench.json has no measured peak",
        ),
    )
}
DEFAULT_MACHINE, DEFAULT_CPU = "p4d.24xlarge", "cpu"


def find_machine(name: str) -> Machine:
    """The machine of that name.  Raises UserError if it is not known."""
    if name not in MACHINES:
        raise UserError(f"--machine ({name}) is not known; there are {', '.join(MACHINES)}")
    return MACHINES[name]


def machine_of(device: str, gpus: int) -> Machine | None:
    """The smallest known machine with this device and at least `gpus` GPUs, or None."""
    fitting = [machine for machine in MACHINES.values() if machine.device in device and (machine.gpus or gpus) >= gpus]
    return min(fitting, key=lambda machine: machine.gpus, default=None)

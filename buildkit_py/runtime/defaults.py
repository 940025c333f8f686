"""What every step gets that does not ask for something else; plain values, for both programs."""

from __future__ import annotations

DEFAULT_CAPABILITIES = 0xA804_25FB
"""Docker's fourteen: chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service
net_raw sys_chroot mknod audit_write setfcap."""

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/system/cpu/cpu*/thermal_throttle",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

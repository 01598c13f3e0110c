"""Tries to leave the sandbox. Prints one line per way: `held NAME` or `ESCAPED NAME: what it reached`.

Arguments: a file on the host that must not be readable, a TCP port on the host's loopback that answers, an abstract
Unix socket name on the host, the id of another sandbox, and a word that only that sandbox and the host know.
"""
import ctypes
import glob
import os
import socket
import struct
import sys

canary, host_port, abstract, other, word = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
libc = ctypes.CDLL(None, use_errno=True)


def way(name):
    """Runs the decorated probe: a true result is what it reached; an exception or a false result is a held wall."""

    def run(probe):
        try:
            reached = probe()
        except Exception as problem:  # whatever stops it has held
            print(f"held {name} ({type(problem).__name__}: {str(problem)[:80]})")
            return
        print(f"ESCAPED {name}: {str(reached)[:200]}" if reached else f"held {name}")

    return run


def connect(host, port, timeout=2):
    with socket.create_connection((host, port), timeout):
        return f"connected to {host}:{port}"


def read(path, limit=4096):
    with open(path, "rb") as file:
        return file.read(limit)


# --- the host's files
@way("host shadow file")
def _():
    return [line for line in open("/etc/shadow") if line.split(":")[1] not in ("", "*", "!", "!*", "x")]


@way("host canary by path")
def _():
    return read(canary)


@way("host canary through /proc/1/root")
def _():
    return read("/proc/1/root" + canary)


@way("host canary by climbing")
def _():
    return read("../" * 40 + canary.lstrip("/"))


@way("host canary after chroot escape")
def _():
    os.makedirs("/tmp/jail", exist_ok=True)
    top = os.open("/", os.O_RDONLY)
    os.chroot("/tmp/jail")
    os.fchdir(top)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    return read(canary)


@way("host's local programs")
def _():
    return os.listdir("/usr/local/bin")


@way("host home directories")
def _():
    return [p for p in glob.glob("/home/*") if p != "/home/user"] + glob.glob("/root/.ssh/*")


@way("host's ssh configuration")
def _():
    return glob.glob("/etc/ssh/*")


@way("host's machine id")
def _():
    return read("/etc/machine-id").strip()


@way("host's /var/lib")
def _():
    return glob.glob("/var/lib/stacyvm/*") + glob.glob("/var/lib/dpkg/*")


@way("writing to the host's /usr")
def _():
    open("/usr/bin/stacyvm-canary", "w").write("x")
    return "wrote /usr/bin"


@way("replacing a host program")
def _():
    os.rename("/usr/bin/env", "/usr/bin/env.old")
    return "renamed /usr/bin/env"


@way("remounting /usr writable")
def _():
    if libc.mount(b"none", b"/usr", None, 32, None) != 0:  # MS_REMOUNT
        raise OSError(ctypes.get_errno(), "mount")
    open("/usr/bin/stacyvm-canary", "w").write("x")
    return "wrote after remount"


# --- the host's devices and kernel
@way("block devices")
def _():
    return [p for p in glob.glob("/dev/[svx]d*") + glob.glob("/dev/vd*") + glob.glob("/dev/nvme*")]


@way("making a block device")
def _():
    os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0))
    return read("/tmp/disk", 512)


@way("/dev/mem")
def _():
    return read("/dev/mem", 16)


@way("/dev/kmsg")
def _():
    return os.open("/dev/kmsg", os.O_RDONLY)


@way("/dev/kvm")
def _():
    return os.open("/dev/kvm", os.O_RDWR)


@way("kernel core")
def _():
    return read("/proc/kcore", 64)


@way("sysrq trigger")
def _():
    open("/proc/sysrq-trigger", "w").write("h")
    return "wrote sysrq"


@way("core pattern")
def _():
    open("/proc/sys/kernel/core_pattern", "w").write("|/bin/sh")
    return "set core_pattern"


@way("loading a kernel module")
def _():
    if libc.syscall(313, -1, b"", 0) != 0:  # finit_module
        raise OSError(ctypes.get_errno(), "finit_module")
    return "loaded"


@way("release agent of a control group")
def _():
    os.makedirs("/tmp/cg", exist_ok=True)
    if libc.mount(b"cgroup", b"/tmp/cg", b"cgroup", 0, b"memory") != 0:
        raise OSError(ctypes.get_errno(), "mount")
    open("/tmp/cg/release_agent", "w").write("/tmp/x")
    return "set release_agent"


@way("mounting the host's disk")
def _():
    os.makedirs("/tmp/disk-mount", exist_ok=True)
    for device in (b"/dev/vda", b"/dev/sda1", b"/dev/root"):
        if libc.mount(device, b"/tmp/disk-mount", b"ext4", 1, None) == 0:
            return device
    raise OSError(ctypes.get_errno(), "mount")


@way("setting the clock")
def _():
    if libc.settimeofday(struct.pack("qq", 1, 0), None) != 0:
        raise OSError(ctypes.get_errno(), "settimeofday")
    return "set the clock"


@way("rebooting")
def _():
    if libc.syscall(169, 0xFEE1DEAD, 672274793, 0x4321FEDC, None) != 0:
        raise OSError(ctypes.get_errno(), "reboot")
    return "rebooting"


@way("eBPF")
def _():
    if libc.syscall(321, 0, ctypes.create_string_buffer(128), 128) < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return "made a map"


# --- other processes and sandboxes
@way("host processes")
def _():
    names = [read(p).decode(errors="replace") for p in glob.glob("/proc/[0-9]*/cmdline")]
    return [n for n in names if "stacyvm serve" in n.replace("\0", " ") or "stacyvm-sentry" in n or word in n and str(os.getpid()) not in n and "probe" not in n]


@way("another sandbox's word in any file")
def _():
    found = []
    for top in ("/workspace", "/tmp", "/root", "/home", "/var", "/run", "/mnt", "/dev/shm"):
        for folder, _, files in os.walk(top):
            for name in files:
                path = os.path.join(folder, name)
                if os.path.getsize(path) < 1 << 20 and word.encode() in read(path, 1 << 20) and "probe" not in path:
                    found.append(path)
    return found


@way("another sandbox's id on the file system")
def _():
    return glob.glob(f"/**/{other}*", recursive=False) + glob.glob(f"/run/**/{other}*", recursive=True)


@way("host abstract socket")
def _():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\0" + abstract)
        return "connected"


@way("host unix sockets by path")
def _():
    found = []
    for path in ("/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket"):
        with socket.socket(socket.AF_UNIX) as s:
            if s.connect_ex(path) == 0:
                found.append(path)
    return found


# --- process 1 and its secret
def in_memory_of_guest():
    maps = [line.split()[0] for line in open("/proc/1/maps") if " rw" in line]
    with open("/proc/1/mem", "rb") as memory:
        for span in maps:
            begin, _ = (int(x, 16) for x in span.split("-"))
            memory.seek(begin)
            return memory.read(64)


way("memory of process 1")(in_memory_of_guest)


@way("environment of process 1")
def _():
    return read("/proc/1/environ")


@way("descriptors of process 1")
def _():
    return [os.readlink(p) for p in glob.glob("/proc/1/fd/*")]


@way("tracing process 1")
def _():
    if libc.ptrace(16, 1, 0, 0) != 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")
    return "attached"


@way("process_vm_readv of process 1")
def _():
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("QQ", ctypes.addressof(buffer), 8)
    remote = struct.pack("QQ", 0x400000, 8)
    if libc.syscall(310, 1, local, 1, remote, 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return buffer.raw


@way("a descriptor of process 1")
def _():
    pidfd = libc.syscall(434, 1, 0)
    if pidfd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open")
    if libc.syscall(438, pidfd, 3, 0) < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return "got descriptor 3"


@way("the guest program's port without the secret")
def _():
    with socket.create_connection(("127.0.0.1", 49983), 2) as s:
        s.sendall(
            b"POST /stacyvm.guest.v1.SystemService/Ping HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}"
        )
        answer = s.recv(4096)
        return answer if b"boot" in answer else None


@way("the guest program's file")
def _():
    program = os.readlink("/proc/1/exe")
    with open(program, "r+b") as file:
        file.write(b"x")
    return f"wrote {program}"


# --- the network
@way("metadata address")
def _():
    return connect("169.254.169.254", 80)


@way("host loopback")
def _():
    return connect("127.0.0.1", host_port)


@way("host loopback over IPv6")
def _():
    return connect("::1", host_port)


@way("host by every address it has")
def _():
    for address in ("10.0.0.1", "172.17.0.1", "192.168.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0"):
        try:
            return connect(address, host_port, 1)
        except OSError:
            pass
    return None


@way("the API on its usual port")
def _():
    return connect("127.0.0.1", 7423)


@way("DNS by name")
def _():
    return socket.getaddrinfo("example.com", 80)


@way("DNS by packet")
def _():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(2)
        query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01"
        for server in ("127.0.0.53", "127.0.0.11"):
            try:
                s.sendto(query, (server, 53))
                return s.recv(512)
            except OSError:
                pass
    return None


@way("interfaces beyond loopback")
def _():
    return [name for _, name in socket.if_nameindex() if name != "lo"]


@way("routes")
def _():
    return [line for line in open("/proc/net/route").read().splitlines()[1:] if not line.startswith("lo")]


@way("raw packets")
def _():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    return "a raw socket"


@way("packet sockets")
def _():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)
    return "a packet socket"


@way("vsock to the host")
def _():
    with socket.socket(40, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        s.connect((2, 1024))
        return "connected"


@way("joining another network namespace")
def _():
    return [p for p in glob.glob("/run/netns/*")]

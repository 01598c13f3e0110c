#!/usr/bin/env bash
# The first thing that a newcomer sees: a Python program in a fresh gVisor sandbox.
# usage: demo.sh path/to/stacyvm
set -euo pipefail
stacyvm=$1

if [ ! -x /usr/bin/python3 ]; then
	if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
		DEBIAN_FRONTEND=noninteractive apt-get -q update
		DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends python3
	else
		echo "The demo runs Python from this machine's /usr/bin, which has none: install the package python3." >&2
		exit 1
	fi
fi

echo "this machine's kernel: $(uname -sr)"
exec "$stacyvm" run -- /usr/bin/python3 -c '
import os, platform, socket, sys

def reaches(host, port):
    try:
        socket.create_connection((host, port), 1).close()
        return "reachable"
    except OSError as problem:
        return f"out of reach ({problem.strerror or problem})"

print("inside the sandbox:")
print("  kernel     ", platform.system(), platform.release())
print("  python     ", sys.version.split()[0])
print("  processes  ", sorted(int(p) for p in os.listdir("/proc") if p.isdigit()))
print("  metadata   ", reaches("169.254.169.254", 80))
open("/workspace/hello.txt", "w").write("written in the sandbox\n")
print("  file       ", open("/workspace/hello.txt").read().strip())
print("  sum        ", sum(i * i for i in range(1_000_000)))
'

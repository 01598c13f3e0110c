#!/usr/bin/python3
"""Runs scripts that the test sends over a virtio port: one line "ID BASE64" each, answered by "ID STATUS BASE64"."""
import base64
import glob
import os
import subprocess
import tempfile
import threading
import time


def find_port():
    while True:
        for name in glob.glob("/sys/class/virtio-ports/*/name"):
            with open(name) as file:
                if file.read().strip() == "agent":
                    return "/dev/" + name.split("/")[-2]
        time.sleep(0.2)


writing = threading.Lock()


def answer(port, line):
    number, script = line.split()
    # A file and not a pipe: what a script leaves running does not hold up the answer.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(["bash", "-c", base64.b64decode(script)], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                              env={**os.environ, "HOME": "/root"})
        output.seek(0)
        text = b"%s %d %s\n" % (number, done.returncode, base64.b64encode(output.read()))
    with writing:
        while text:
            text = text[os.write(port, text):]


def main():
    port = os.open(find_port(), os.O_RDWR)
    pending = b""
    while True:
        piece = os.read(port, 65536)
        if not piece:  # the host is not there
            time.sleep(0.2)
            continue
        pending += piece
        *lines, pending = pending.split(b"\n")
        for line in lines:
            threading.Thread(target=answer, args=(port, line)).start()


main()

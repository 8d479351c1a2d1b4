#!/usr/bin/env python3
"""Servers and clients in the namespaces of a materialised cluster.

Reads one JSON value: {"servers": [{"ns", "proto", "port", "name"}], "flows": [{"ns", "proto", "ip", "port", "wait"}]};
prints one: a list with {"result", "errno", "server", "seen", "ttl"} for each flow, in order. All flows run at once.
A server answers with its name, the source it saw, and for UDP the time to live of what arrived.
"""
import ctypes
import errno as errors
import json
import os
import socket
import struct
import sys
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
LOCK = threading.Lock()
HOME = os.open("/proc/self/ns/net", os.O_RDONLY)


def inside(name, make):
    """Makes a socket in a namespace; it stays there."""
    with LOCK:
        fd = os.open("/run/netns/" + name, os.O_RDONLY)
        try:
            if LIBC.setns(fd, 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), "setns " + name)
            return make()
        finally:
            LIBC.setns(HOME, 0x40000000)
            os.close(fd)


def serve_tcp(listener, name):
    while True:
        connection, source = listener.accept()
        connection.sendall(json.dumps([name, source[0], None]).encode())
        connection.close()


def serve_udp(server, name):
    """Answers from the address that was asked, as name servers do."""
    while True:
        _, ancillary, _, source = server.recvmsg(2000, 200)
        ttl, asked = None, []
        for level, kind, data in ancillary:
            if kind == 2:  # IP_TTL
                ttl = struct.unpack("i", data[:4])[0]
            elif kind == 8:  # IP_PKTINFO
                asked = [(level, kind, struct.pack("i4s4s", 0, data[8:12], b"\0\0\0\0"))]
        try:
            server.sendmsg([json.dumps([name, source[0], ttl]).encode()], asked, 0, source)
        except OSError:
            pass  # A rule of this world drops the answer; the server serves on.


def start(server):
    kind = socket.SOCK_STREAM if server["proto"] == "tcp" else socket.SOCK_DGRAM

    def make():
        s = socket.socket(socket.AF_INET, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.SOCK_DGRAM:
            for option in (12, 8):  # IP_RECVTTL, IP_PKTINFO
                s.setsockopt(socket.IPPROTO_IP, option, 1)
        s.bind(("0.0.0.0", server["port"]))
        if kind == socket.SOCK_STREAM:
            s.listen(64)
        return s

    s = inside(server["ns"], make)
    run = serve_tcp if kind == socket.SOCK_STREAM else serve_udp
    threading.Thread(target=run, args=(s, server["name"]), daemon=True).start()


def attempt(flow):
    family = socket.AF_INET6 if ":" in flow["ip"] else socket.AF_INET
    kind = socket.SOCK_STREAM if flow["proto"] == "tcp" else socket.SOCK_DGRAM
    s = inside(flow["ns"], lambda: socket.socket(family, kind))
    s.settimeout(flow["wait"])
    try:
        s.connect((flow["ip"], flow["port"]))
        if kind == socket.SOCK_DGRAM:
            s.send(b"hello")
        name, seen, ttl = json.loads(s.recv(2000))
        seen = seen[7:] if seen.startswith("::ffff:") else seen
        return {"result": "connected", "errno": None, "server": name, "seen": seen, "ttl": ttl}
    except socket.timeout:
        return {"result": "timeout", "errno": None, "server": None, "seen": None, "ttl": None}
    except OSError as error:
        return {"result": "error", "errno": errors.errorcode[error.errno], "server": None, "seen": None, "ttl": None}
    finally:
        s.close()


def main():
    world = json.load(sys.stdin)
    for server in world["servers"]:
        start(server)
    results = [None] * len(world["flows"])

    def one(n):
        results[n] = attempt(world["flows"][n])

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(results, sys.stdout)


main()

#!/usr/bin/env python3
"""Servers and clients in the namespaces of a materialised cluster.

Reads one JSON value: {"servers": [{"ns", "proto", "family", "port", "name"}], "flows": [{"ns", "proto", "ip", "port",
"wait", "bytes", "discovery", "from_port"}], "one_by_one", "pause", "namespaces": ["ns"]}; prints one: a list with
{"began", "result", "errno", "server", "seen", "seen_port", "ttl"} for each flow, in order. All flows run at once, or each after the
other with a pause between, and the known path MTUs forgotten in the namespaces before it. A request says how long it is. A server answers with its name, the source it saw and the time to
live of what arrived, and closes after its client.
"""
import ctypes
import errno as errors
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
LOCK = threading.Lock()
HOME = os.open("/proc/self/ns/net", os.O_RDONLY)
USUAL = {"tcp": 78, "udp": 64}
ANSWER = {"tcp": 200, "udp": 64}
IP, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23


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


def answer(proto, name, source, ttl):
    """As short as it can be said: an answer over UDP has 64 bytes."""
    return json.dumps([name, source[0], source[1], ttl], separators=(",", ":")).ljust(ANSWER[proto]).encode()


def serve_tcp(listener, name, v6):
    def serve(connection, source):
        # What came with the handshake is remembered where an answer's would be set (`tcp_v4_syn_recv_sock`).
        ttl = connection.getsockopt(*((IPV6, 18) if v6 else (IP, 33)))
        try:
            request = b""
            while len(request) < 8 or len(request) < int(request[:8]):
                more = connection.recv(65536)
                if not more:
                    return
                request += more
            connection.sendall(answer("tcp", name, source, ttl))
            connection.recv(1)
        except OSError:
            pass  # What this world does to its connections.
        finally:
            connection.close()

    while True:
        threading.Thread(target=serve, args=listener.accept(), daemon=True).start()


def serve_udp(server, name, _):
    """Answers from the address that was asked, as name servers do."""
    while True:
        try:
            _, ancillary, _, source = server.recvmsg(70000, 200)
        except OSError:
            continue  # An error about an earlier answer.
        ttl, asked = None, []
        for level, kind, data in ancillary:
            if (level, kind) in ((IP, 2), (IPV6, 52)):  # IP_TTL, IPV6_HOPLIMIT
                ttl = struct.unpack("i", data[:4])[0]
            elif (level, kind) == (IP, 8):  # IP_PKTINFO
                asked = [(level, kind, struct.pack("i4s4s", 0, data[8:12], b"\0\0\0\0"))]
            elif (level, kind) == (IPV6, 50):  # IPV6_PKTINFO
                asked = [(level, kind, data[:16] + b"\0\0\0\0")]
        try:
            server.sendmsg([answer("udp", name, source, ttl)], asked, 0, source)
        except OSError:
            pass  # A rule of this world drops the answer; the server serves on.


def start(server):
    kind = socket.SOCK_STREAM if server["proto"] == "tcp" else socket.SOCK_DGRAM
    v6 = server["family"] == "IPv6"

    def make():
        s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if v6:
            s.setsockopt(IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            # IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT; IP_PKTINFO, IP_RECVTTL
            for option in (49, 51) if v6 else (8, 12):
                s.setsockopt(IPV6 if v6 else IP, option, 1)
        s.bind(("::" if v6 else "0.0.0.0", server["port"]))
        if kind == socket.SOCK_STREAM:
            s.listen(64)
        return s

    s = inside(server["ns"], make)
    run = serve_tcp if kind == socket.SOCK_STREAM else serve_udp
    threading.Thread(target=run, args=(s, server["name"], v6), daemon=True).start()


def attempt(flow):
    v6 = ":" in flow["ip"]
    kind = socket.SOCK_STREAM if flow["proto"] == "tcp" else socket.SOCK_DGRAM
    s = inside(flow["ns"], lambda: socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind))
    s.setsockopt(*((IPV6, IPV6_MTU_DISCOVER) if v6 else (IP, IP_MTU_DISCOVER)), flow["discovery"])
    if "from_port" in flow:
        s.bind(("", flow["from_port"]))
    began = time.time_ns() // 1000
    until = time.monotonic() + flow["wait"]
    size = flow["bytes"] or USUAL[flow["proto"]]

    def wait():
        s.settimeout(max(until - time.monotonic(), 0.001))

    nothing = {"began": began, "errno": None, "server": None, "seen": None, "ttl": None}
    try:
        wait()
        s.connect((flow["ip"], flow["port"]))
        wait()
        s.sendall(b"%08d" % size + b"." * (size - 8))
        got = b""
        while len(got) < ANSWER[flow["proto"]]:
            wait()
            more = s.recv(65536)
            if not more:
                return {**nothing, "result": "error", "errno": "reset"}
            got += more
        name, seen, port, ttl = json.loads(got)
        return {**nothing, "result": "connected", "server": name, "seen": seen, "seen_port": port, "ttl": ttl}
    except socket.timeout:
        return {**nothing, "result": "timeout"}
    except OSError as error:
        return {**nothing, "result": "error", "errno": errors.errorcode[error.errno]}
    finally:
        s.close()


def main():
    world = json.load(sys.stdin)
    for server in world["servers"]:
        start(server)
    results = [None] * len(world["flows"])

    def one(n):
        results[n] = attempt(world["flows"][n])

    if world["one_by_one"]:
        for n in range(len(results)):
            for name in world["namespaces"]:
                for family in ("-4", "-6"):
                    subprocess.run(["ip", "-n", name, family, "route", "flush", "cache"], check=True)
            one(n)
            time.sleep(world["pause"])
        json.dump(results, sys.stdout)
        return

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(results, sys.stdout)


main()

#!/usr/bin/env python3
"""A real router for the tests of the kernel: one namespace with two devices, and somebody at both ends of its wires.

Usage: router.py PREFIX SAVE RESTORE (the suffix of iptables: -legacy or -nft). Reads one JSON command a line, answers
one JSON value a line, and takes the namespaces away when its input ends.

  {"op": "restore", "v4": TEXT, "v6": TEXT, "nft": TEXT, "sysctl": {NAME: VALUE}}  -> {"ok": true} | {"error": TEXT}
  {"op": "nft"}                                                       -> {"text": TEXT}
  {"op": "send", "dev": "a0"|"b0"|"local", "family": 4|6, "frame": HEX}
      -> {"errno": NAME, "counters": {"TABLE CHAIN": [PACKETS…]}, "frames": [[DEV, HEX]…], "delivered": N}
  {"op": "conntrack"}                                                 -> {"lines": [TEXT…]}
  {"op": "fill", "assured": BOOL}                                     -> {"max": N, "count": N}
      fills the table with connections from 198.18.0.0/16 to 10.9.9.9:53
  {"op": "forget", "from": N, "count": N}                             -> {"ok": true}
"""
import ctypes
import errno as errors
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import ctnetlink

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
PREFIX, BACKEND = sys.argv[1], sys.argv[2]
DUT, TAP = PREFIX + "-dut", PREFIX + "-tap"


def run(*command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError("%s: %s" % (" ".join(command), done.stderr.strip()))
    return done.stdout


def enter(name):
    fd = os.open("/run/netns/" + name, os.O_RDONLY)
    if LIBC.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns " + name)
    os.close(fd)


def tear_down():
    for name in (DUT, TAP):
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def build():
    tear_down()
    for name in (DUT, TAP):
        run("ip", "netns", "add", name)
    run("ip", "netns", "exec", TAP, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    quiet = ["net.ipv6.conf.%s.%s" % (d, s) for d in ("all", "default") for s in ("accept_ra=0", "router_solicitations=0", "dad_transmits=0", "autoconf=0")]
    quiet += ["net.ipv4.icmp_ratemask=0", "net.ipv6.icmp.ratelimit=0", "net.ipv4.icmp_ratelimit=0", "net.ipv4.ipfrag_time=3600",
              "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.forwarding=1"]
    quiet += ["net.ipv4.conf.%s.%s=0" % (d, s) for d in ("all", "default") for s in ("send_redirects", "rp_filter", "secure_redirects", "accept_redirects")]
    run("ip", "netns", "exec", DUT, "sysctl", "-qw", *quiet)
    commands = ["link set lo up"]
    for n, dev in ((1, "a0"), (2, "b0")):
        run("ip", "link", "add", dev, "netns", DUT, "address", "02:00:00:00:0%d:01" % n, "type", "veth",
            "peer", "name", dev, "netns", TAP, "address", "02:00:00:00:0%d:02" % n)
        run("ip", "-n", TAP, "link", "set", dev, "arp", "off", "up")
        commands += ["link set %s addrgenmode none up" % dev,
                     "addr add 10.%d.0.1/24 brd + dev %s" % (n, dev), "addr add fd0%d::1/64 dev %s nodad" % (n, dev)]
        for host in range(2, 6):
            mac = "02:00:00:00:0%d:02" % n
            commands += ["neigh add 10.%d.0.%d lladdr %s nud permanent dev %s" % (n, host, mac, dev),
                         "neigh add fd0%d::%d lladdr %s nud permanent dev %s" % (n, host, mac, dev)]
    for net, via in (("0.0.0.0/0", "10.2.0.2"), ("::/0", "fd02::2")):
        commands.append("route add %s via %s dev b0" % (net, via))
    for kind, n in (("blackhole", 66), ("unreachable", 67), ("prohibit", 68)):
        commands += ["route add %s 10.%d.0.0/16" % (kind, n), "route add %s fd%d::/32" % (kind, n)]
    run("ip", "-n", DUT, "-batch", "-", text="\n".join(commands) + "\n")
    time.sleep(3)  # reports of multicast groups go out now or never


def tap():
    sockets = {}
    for dev in ("a0", "b0"):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        s.bind((dev, 3))
        s.setblocking(False)
        sockets[dev] = s
    return sockets


RULE = re.compile(r"^\[(\d+):\d+\] -A (\S+)")


def counters(family):
    tool = ("ip" if family == 4 else "ip6") + "tables" + BACKEND + "-save"
    found, table = {}, ""
    for line in run(tool, "-c").splitlines():
        if line.startswith("*"):
            table = line[1:]
        rule = RULE.match(line)
        if rule:
            found.setdefault(table + " " + rule[2], []).append(int(rule[1]))
    return found


def received(sockets):
    frames = []
    for dev, s in sockets.items():
        while True:
            try:
                frame, where = s.recvfrom(65535)
            except BlockingIOError:
                break
            if where[2] != socket.PACKET_OUTGOING:
                frames.append([dev, frame.hex()])
    return frames


def main():
    build()
    enter(TAP)
    sockets = tap()
    enter(DUT)
    listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", 53))
    listener.setblocking(False)
    raw = {4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
           6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)}
    raw[6].setsockopt(socket.IPPROTO_IPV6, 36, 1)  # IPV6_HDRINCL
    print(json.dumps({"ok": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = handle(command, sockets, listener, raw)
        except RuntimeError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


def handle(command, sockets, listener, raw):
    if command["op"] == "restore":
        for name, value in command["sysctl"].items():
            run("sysctl", "-qw", "%s=%s" % (name, value))
        for v, tool in (("v4", "ip"), ("v6", "ip6")):
            if command[v]:
                run(tool + "tables" + BACKEND + "-restore", text=command[v])
        if command["nft"]:
            run("nft", "-f", "-", text="flush ruleset\n" + command["nft"] + "\n")
        for family in ("ipv4", "ipv6"):
            subprocess.run(["conntrack", "-F", "-f", family], capture_output=True)
        subprocess.run(["ip", "route", "flush", "cache"], capture_output=True)
        for name in os.listdir("/proc/self/net/xt_recent") if os.path.isdir("/proc/self/net/xt_recent") else []:
            with open("/proc/self/net/xt_recent/" + name, "w") as table:
                table.write("/")
        received(sockets)
        return {"ok": True}
    if command["op"] == "fill":
        return ctnetlink.fill(command["assured"])
    if command["op"] == "forget":
        ctnetlink.forget(command["from"], command["count"])
        return {"ok": True}
    if command["op"] == "nft":
        return {"text": run("nft", "list", "ruleset")}
    if command["op"] == "conntrack":
        return {"lines": run("conntrack", "-L").splitlines() + run("conntrack", "-L", "-f", "ipv6").splitlines()}
    frame, errno, family = bytes.fromhex(command["frame"]), "", command["family"]
    try:
        if command["dev"] == "local":
            if family == 4:
                raw[4].sendto(frame, (socket.inet_ntop(socket.AF_INET, frame[16:20]), 0))
            else:
                raw[6].sendto(frame, (socket.inet_ntop(socket.AF_INET6, frame[24:40]), 0))
        else:
            sockets[command["dev"]].send(frame)
    except OSError as error:
        errno = errors.errorcode[error.errno]
    found = counters(family)
    delivered = 0
    while select.select([listener], [], [], 0)[0]:
        listener.recv(65535)
        delivered += 1
    return {"errno": errno, "counters": found, "frames": received(sockets), "delivered": delivered}


if __name__ == "__main__":
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, lambda *_: sys.exit(1))
    try:
        main()
    finally:
        tear_down()

#!/usr/bin/env python3
"""Fills the table of connections of the namespace it runs in, by ctnetlink: UDP from 198.18.0.0/16 to 10.9.9.9:53.

Entries are ASSURED; `router.py` uses it as a module.
"""
import socket
import struct
import sys


def attribute(kind, data):
    return struct.pack("=HH", len(data) + 4, kind) + data + bytes(-len(data) % 4)


def nested(kind, *attributes):
    return attribute(kind | 0x8000, b"".join(attributes))


class Ctnetlink:
    """UDP connections by number, put into the table and taken away (ctnetlink)."""
    NEW, DELETE = 0, 2
    ADDR, PORT, TO, SECONDS = b"\xc6\x12\xaa\xbb", b"\xcc\xdd", b"\x0a\x09\x09\x09", 100000

    def __init__(self, kind, flags, status=0):
        def tuple_of(name, src, dst, sport, dport):
            ports = [attribute(1, b"\x11"), attribute(2, sport), attribute(3, dport)]
            return nested(name, nested(1, attribute(1, src), attribute(2, dst)), nested(2, *ports))
        body = struct.pack("=BBH", socket.AF_INET, 0, 0)
        body += tuple_of(1, self.ADDR, self.TO, self.PORT, b"\0\x35")
        if kind == self.NEW:
            body += tuple_of(2, self.TO, self.ADDR, b"\0\x35", self.PORT)
            body += attribute(3, struct.pack(">I", status)) + attribute(7, struct.pack(">I", self.SECONDS))
        self.message = bytearray(struct.pack("=IHHII", 16 + len(body), 1 << 8 | kind, flags, 0, 0) + body)
        find = lambda what: [n for n in range(len(self.message)) if self.message.startswith(what, n)]
        self.numbers = list(zip(find(self.ADDR), find(self.PORT)))

    def send(self, numbers):
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
        netlink.bind((0, 0))
        batch = bytearray()
        for number in numbers:
            for addr, port in self.numbers:
                struct.pack_into(">H", self.message, addr + 2, number >> 16)
                struct.pack_into(">H", self.message, port, number & 0xffff)
            batch += self.message
            if len(batch) > 30000:
                netlink.send(batch)
                batch.clear()
        if batch:
            netlink.send(batch)
        netlink.close()


def limit(name):
    with open("/proc/sys/net/netfilter/nf_conntrack_" + name) as value:
        return int(value.read())


def fill(assured):
    """Leaves no room; says how much there may be and how much there is."""
    seen_reply, is_assured, confirmed = 2, 4, 8
    status = confirmed | (seen_reply | is_assured if assured else 0)
    request, create, exclusive = 1, 0x400, 0x200
    Ctnetlink(Ctnetlink.NEW, request | create | exclusive, status).send(range(limit("max") - limit("count")))
    return {"max": limit("max"), "count": limit("count")}


def forget(first, count):
    Ctnetlink(Ctnetlink.DELETE, 1).send(range(first, first + count))


if __name__ == "__main__":
    print(fill(True))

"""A second reader of what litestream stores, written from litestream-format(5) alone.

usage: second_reader.py DIRECTORY [OUTPUT]

DIRECTORY holds generations/. Every object of every generation is decoded, of both versions; every position is replayed that
a snapshot leads to, along every object that passes it; and all checksums are computed anew: of headers, payloads, frames,
snapshots, and of the whole database behind each member. It prints what it has read, a line for each generation, writes
the latest state to OUTPUT, and ends with a complaint and status 1 at the first thing that is not as the manual says.
"""

import os
import re
import struct
import sys
import zlib

MASK64 = 2**64 - 1
POINT = r"[0-9a-f]{8}\.[0-9a-f]{12}"
TIME = r"\d{8}T\d{6}\.\d{3}Z"
SNAPSHOT = re.compile(f"({POINT})-({TIME})\\.gz")
SEGMENT = re.compile(f"({POINT})-({POINT})-({TIME})-({TIME})(\\.part)?\\.gz")
BIG_ENDIAN, PART, BROKEN, NO_WAL, BEGINS, SUMMED = 1, 2, 4, 8, 16, 32


class Wrong(Exception):
    pass


def need(fact, complaint):
    if not fact:
        raise Wrong(complaint)


def point_of(text):
    return int(text[:8], 16), int(text[9:], 16)


def show(point):
    return "%08x.%012x" % point


# Members.

def members(data):
    """The members of an object: (fields, subfields, payload, crc32 of the payload)."""
    need(data, "is empty")
    while data:
        need(len(data) >= 16 and data[:4] == b"\x1f\x8b\x08\x04" and data[8:10] == b"\x00\xff", "gzip header")
        need(data[12:14] == b"LS", "the first subfield is not LS")
        extra, fields_length = struct.unpack_from("<H2xH", data, 10)
        end, body = 16 + fields_length, 12 + extra
        need(fields_length >= 6 and end <= body <= len(data), "lengths of the gzip header")
        need(zlib.crc32(data[:end - 4]) == struct.unpack_from("<I", data, end - 4)[0], "header crc32")
        inflate = zlib.decompressobj(-15)
        try:
            payload = inflate.decompress(data[body:]) + inflate.flush()
        except zlib.error as error:
            raise Wrong(f"deflate: {error}") from None
        rest = inflate.unused_data
        need(inflate.eof and len(rest) >= 8, "is cut off")
        crc, size = struct.unpack_from("<II", rest)
        need(zlib.crc32(payload) == crc, "crc32 of the payload")
        need(len(payload) & 0xffffffff == size, "length of the payload")
        yield data[16:end], subfields(data[end:body]), payload, crc
        data = rest[8:]


def subfields(data):
    found = {}
    while data:
        need(len(data) >= 4, "a subfield is cut off")
        length = 4 + struct.unpack_from("<H", data, 2)[0]
        need(length <= len(data), "a subfield is cut off")
        found[data[:2]], data = data[:length], data[length:]
    return found


# Checksums.

def mix(z):
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9 & MASK64
    z = (z ^ z >> 27) * 0x94d049bb133111eb & MASK64
    return z ^ z >> 31


def page_sum(number, page):
    if number == 2**30 // len(page) + 1:
        return 0
    return mix((zlib.crc32(page) << 32 | zlib.adler32(page)) + number * 0x9e3779b97f4a7c15 & MASK64)


def chained(chain, big_endian, data):
    a, b = chain
    for x, y in struct.iter_unpack(">II" if big_endian else "<II", data):
        a = (a + x + b) & 0xffffffff
        b = (b + y + a) & 0xffffffff
    return a, b


class Database:
    """A database as its pages, with its checksum. Copies share their pages."""

    def __init__(self, page_size):
        self.size, self.pages, self.sum, self.blank = page_size, [], 0, bytes(page_size)

    def copy(self):
        other = Database(self.size)
        other.pages, other.sum = list(self.pages), self.sum
        return other

    def resize(self, count):
        while len(self.pages) > count:
            self.sum -= page_sum(len(self.pages), self.pages.pop())
        while len(self.pages) < count:
            self.pages.append(self.blank)
            self.sum += page_sum(len(self.pages), self.blank)
        self.sum &= MASK64

    def page(self, number):
        return self.pages[number - 1] if number <= len(self.pages) else self.blank

    def put(self, number, page):
        if number > len(self.pages):
            self.resize(number)
        self.sum = (self.sum + page_sum(number, page) - page_sum(number, self.page(number))) & MASK64
        self.pages[number - 1] = page

    def checksum(self):
        return sum(page_sum(number, page) for number, page in enumerate(self.pages, 1)) & MASK64

    def same_as(self, other):
        return self.pages == other.pages


# Frames.

def raw_frames(payload, size):
    for at in range(0, len(payload), 24 + size):
        yield payload[at:at + 24], payload[at + 24:at + 24 + size]


class Numbers:
    """The varints of a payload, one after the other."""

    def __init__(self, data, at, end):
        self.data, self.at, self.end = data, at, end

    def byte(self):
        need(self.at < self.end, "the steps are cut off")
        self.at += 1
        return self.data[self.at - 1]

    def number(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            need(shift <= 70, "a number is too long")
            if byte < 128:
                return value

    def signed(self):
        value = self.number()
        return value >> 1 if value & 1 == 0 else -(value + 1 >> 1)


def differences(payload, pages, database):
    """Yields (page, commit, content) of each frame; the database must have taken the one before."""
    numbers = Numbers(payload, 0, 0)
    literals, size, page = 0, database.size, 0

    def literal(count):
        nonlocal literals
        need(count <= size and literals + count <= len(payload), "a literal is cut off")
        literals += count
        return payload[literals - count:literals]

    while numbers.at < numbers.end or literals < len(payload):
        if numbers.at == numbers.end:
            numbers.at, numbers.end = literals, len(payload)
            length = numbers.number()
            literals = numbers.end = numbers.at + length
            need(0 < length and literals <= len(payload), "the steps are longer than the payload")
        page = page + numbers.signed() & 0xffffffff
        need(page > 0, "a frame of page 0")
        form = numbers.byte()
        need(form & 3 != 3 and form < 8, "a form that is not known")
        commit = pages + numbers.signed() & 0xffffffff if form & 4 else 0
        old, new = database.page(page), b""
        if form & 3 == 0:
            new = literal(size)
        while len(new) < size:
            if form & 3 == 1:
                same = numbers.number()
                need(same <= size - len(new), "a page is longer than it may be")
                new += old[len(new):len(new) + same]
                if len(new) < size:
                    new += literal(numbers.number())
            else:
                new += literal(numbers.number())
                if len(new) < size:
                    start = len(new) + numbers.signed()
                    copied = numbers.number()
                    need(0 <= start and start + copied <= size, "a copy from outside of the page")
                    new += old[start:start + copied]
        need(len(new) == size, "a page is longer than it may be")
        yield page, commit, new


# Objects.

class Member:
    """What a member of a segment says, with what it takes from the one before."""

    def __init__(self, generation, before, fields, payload, crc):
        self.payload, self.crc, self.version = payload, crc, fields[0]
        need(self.version in (1, 2, 3), f"version {self.version} is not known")
        need(fields[1] == 1, "another kind of object")
        if self.version == 1:
            need(len(fields) == 100, "length of the fields")
            (_, _, self.flags, owner, index, offset, self.index, self.begin, self.stop, self.size, salt1, salt2, sum1,
             sum2, sum3, sum4, self.pages, self.since, self.seen, self.previous,
             _) = struct.unpack("<BBHQIQIQQIIIIIIIIQQII", fields)
            need(owner == generation, "is of another generation")
            self.start, self.wal = (index, offset), (self.size, salt1, salt2, self.flags & BIG_ENDIAN)
            self.before, self.after, self.checksum = (sum1, sum2), (sum3, sum4), None
            need(self.begin in (0, offset), "the payload does not begin where the member does")
            self.count = (self.stop - max(self.begin, 32)) // (24 + self.size)
        elif self.version == 3:
            need(len(fields) == 62, "length of the fields")
            (_, _, self.flags, self.index, self.stop, sum3, sum4, self.least, self.pages, seen, self.checksum, self.size,
             salt1, salt2, _) = struct.unpack("<BBHIQIIII6sQIIII", fields)
            self.seen, self.start, self.after = int.from_bytes(seen, "little"), before["point"], (sum3, sum4)
            self.wal = (self.size, salt1, salt2, self.flags & BIG_ENDIAN)
            self.begin, self.before, self.previous, self.crc = 0, None, None, None
            need((self.index, self.stop) > self.start, "a rollup that leads nowhere")
        else:
            need(len(fields) in (38, 50, 54), "length of the fields")
            _, _, self.flags, self.count, sum3, sum4, self.pages = struct.unpack_from("<BBHIIII", fields)
            self.seen = int.from_bytes(fields[20:26], "little")
            self.checksum, = struct.unpack_from("<Q", fields, 26)
            self.start, self.after, self.previous = before["point"], (sum3, sum4), None
            self.wal, told = before["wal"], ()
            if len(fields) > 38:
                told = struct.unpack_from("<" + "I" * ((len(fields) - 38) // 4), fields, 34)
                self.wal = (*told[:3], self.flags & BIG_ENDIAN)
            need(self.wal is not None, "the first member does not say of which WAL it is")
            self.size = self.wal[0]
            self.index, self.begin, self.before = self.start[0], self.start[1], None
            if self.flags & BEGINS:
                need(len(told) == 4, "a WAL begins, and its checkpoint counter is not told")
                self.index, self.begin = self.start[0] + (self.start[1] != 0), 0
                head = struct.pack(">IIIIII", 0x377f0682 | self.wal[3], 3007000, self.size, told[3], *self.wal[1:3])
                self.before = chained((0, 0), self.wal[3], head)
            self.stop = (self.begin or 32) + self.count * (24 + self.size)
        self.end = self.index, self.stop

    def apply(self, database, chain):
        """Applies the frames, and checks what they end in."""
        need(self.size == database.size, "the page size is another one")
        if self.version == 3:
            return self.roll(database)
        wal, big_endian = self.wal[1:3], self.wal[3]
        if self.version == 1:
            frames = self.payload
            if self.begin == 0:
                head, frames = frames[:32], frames[32:]
                need(len(head) == 32, "the header of the WAL is cut off")
                magic, version, size, _, salt1, salt2, sum1, sum2 = struct.unpack(">8I", head)
                need((magic, version, size) == (0x377f0682 | big_endian, 3007000, self.size), "header of the WAL")
                need((salt1, salt2) == wal and chained((0, 0), big_endian, head[:24]) == (sum1, sum2), "header of the WAL")
                if not self.flags & BROKEN:
                    need((sum1, sum2) == self.before, "checksum before")
            need(len(frames) == self.count * (24 + self.size), "the payload has another length than the header says")
        else:
            need(not self.flags & BROKEN, "differences with a broken chain")
        running = self.before if self.before is not None else chain
        for page, commit, content, header in self.frames(database):
            running = chained(chained(running, big_endian, struct.pack(">II", page, commit)), big_endian, content)
            if header is not None and not self.flags & BROKEN:
                need(struct.unpack(">IIII", header[8:]) == (*wal, *running), f"checksum of a frame of page {page}")
            database.put(page, content)
            if commit:
                database.resize(commit)
            last = commit
        need((last == 0) == bool(self.flags & PART), "whether it is a part")
        if not self.flags & BROKEN:
            need(running == self.after, "the pages do not lead to the checksum of the last frame")
        if not self.flags & PART:
            need(last == self.pages, "the size of the database")
        if self.checksum is not None:
            need(database.sum == self.checksum, "the database checksum differs")
        return self.after

    def roll(self, database):
        database.resize(self.least)
        before = 0
        for page, commit, content in differences(self.payload, self.pages, database):
            need(not commit and before < page <= self.pages, "the pages of a rollup")
            database.put(page, content)
            before = page
        need(len(database.pages) <= self.pages, "the size of the database")
        database.resize(self.pages)
        need(database.sum == self.checksum, "the database checksum differs")
        return self.after

    def frames(self, database):
        if self.version == 1:
            need(self.count > 0, "no frames")
            start = 32 if self.begin == 0 else 0
            for header, content in raw_frames(self.payload[start:], self.size):
                page, commit = struct.unpack_from(">II", header)
                need(page > 0, "a frame of page 0")
                yield page, commit, content, header
        else:
            need(self.count > 0, "no frames")
            done = 0
            for page, commit, content in differences(self.payload, self.pages, database):
                yield page, commit, content, None
                done += 1
            need(done == self.count, "the payload holds more than its frames")


def milliseconds(text):
    import datetime
    moment = datetime.datetime.strptime(text[:-1] + "+0000", "%Y%m%dT%H%M%S.%f%z")
    return (moment - datetime.datetime.fromtimestamp(0, datetime.timezone.utc)) // datetime.timedelta(milliseconds=1)


class Generation:
    """The objects of one generation, and the states that they lead to."""

    def __init__(self, root, name):
        self.root, self.number = os.path.join(root, name), int(name, 16)
        self.states, self.count = {}, {1: 0, 2: 0, 3: 0, "passed over": 0}
        self.snapshots = self.names("snapshots", SNAPSHOT)
        self.segments = self.names("wal", SEGMENT)

    def names(self, kind, pattern):
        path = os.path.join(self.root, kind)
        names = sorted(os.listdir(path)) if os.path.isdir(path) else []
        matched = [(name, pattern.fullmatch(name)) for name in names]
        for name, match in matched:
            need(match, f"{name}: not a name of the manual")
        return [match.groups() + (os.path.join(path, name),) for name, match in matched]

    def replay(self):
        for at, time, path in self.snapshots:
            self.named(path, self.read_snapshot, point_of(at), milliseconds(time))
        # What is before the first snapshot leads nowhere: an earlier attempt at one did not get through.
        self.first = min(self.states, default=None)
        # A segment is replayed when the state that it begins at is known, whichever objects lead there.
        for start, end, first, last, part, path in sorted(self.segments):
            self.named(path, self.read_segment, point_of(start), point_of(end), milliseconds(first), milliseconds(last), part)

    def named(self, path, read, *given):
        with open(path, "rb") as file:
            data = file.read()
        try:
            read(data, *given)
        except Wrong as wrong:
            raise Wrong(f"{path}: {wrong}") from None

    def reach(self, point, database, chain, previous):
        """Any way that leads to a point leads to the same database."""
        if point not in self.states:
            self.states[point] = database.copy(), chain, previous
            return
        known, known_chain, known_crc = self.states[point]
        need(known.same_as(database), f"two ways lead to different databases at {show(point)}")
        if (0, 0) not in (chain[2:], known_chain[2:]):
            need(known_chain == chain, f"two ways lead to different checksums at {show(point)}")
        self.states[point] = known, known_chain, known_crc if known_crc is not None else previous

    def read_snapshot(self, data, point, time):
        found = list(members(data))
        need(len(found) == 1, "a snapshot is one member")
        fields, more, payload, crc = found[0]
        need(fields[0] in (1, 2) and fields[1] == 2 and len(fields) == 60, "another kind of object")
        (_, _, flags, owner, index, offset, size, salt1, salt2, sum1, sum2, pages, when,
         _) = struct.unpack("<BBHQIQIIIIIIQI", fields)
        need(owner == self.number and (index, offset) == point and when == time, "is another snapshot by its header")
        need(len(payload) == pages * size, "size by its header")
        if flags & NO_WAL:
            need(sum1 in (0, crc), "checksum of the file")
        database = Database(size)
        for at in range(0, len(payload), size):
            database.put(at // size + 1, payload[at:at + size])
        for letters in (b"LI", b"LC"):
            if letters in more:
                field = more[letters]
                need(zlib.crc32(field[:-4]) == struct.unpack("<I", field[-4:])[0], "crc32 of a subfield")
        need((b"LC" in more) == bool(flags & SUMMED), "whether it has a database checksum")
        if flags & SUMMED:
            need(struct.unpack_from("<Q", more[b"LC"], 4)[0] == database.sum, "the database checksum differs")
        chain = (0, 0, 0, 0) if flags & NO_WAL else (salt1, salt2, sum1, sum2)
        self.reach(point, database, chain, None)

    def read_segment(self, data, start, end, first, last, part):
        before = {"point": start, "wal": None}
        state, seen, sizes, rolled = self.states.get(start), None, set(), False
        member = None
        for fields, _, payload, crc in members(data):
            member = Member(self.number, before, fields, payload, crc)
            need(member.start == before["point"], f"a member does not start at {show(before['point'])}")
            told = 0 if member.version == 3 else member.seen
            need(seen is not None or told == first, "its first batch was seen at another time")
            need(not rolled, "a rollup that is not alone")
            rolled = member.version == 3
            seen, before = member.seen, {"point": member.end, "wal": member.wal}
            if state is None:
                self.count["passed over"] += 1
                state = self.states.get(member.end)
                continue
            database, chain, previous = state
            database = database.copy()
            if member.begin != 0 and chain[2:] != (0, 0):
                need(chain[:2] == member.wal[1:3], "the salts are others")
                need(member.before in (None, chain[2:]), "checksum before")
            need(None in (previous, member.previous) or previous == member.previous, "previous crc32")
            after = member.apply(database, chain[2:])
            state = database, (*member.wal[1:3], *after), member.crc
            need(member.flags & PART or database.sum == database.checksum(), "the sums of this reader")
            self.reach(member.end, *state)
            self.count[member.version] += 1
        need(before["point"] == end, f"ends at {show(before['point'])}")
        need(seen == last and bool(member.flags & PART) == bool(part), "its last batch is another one")
        before_first = self.first is None or end <= self.first
        need(state is not None or before_first, f"a gap: nothing leads to {show(start)} or beyond")

    def latest(self):
        """The last state that is not inside of a transaction."""
        inside = {point_of(end) for _, end, _, _, part, _ in self.segments if part}
        whole = [point for point in self.states if point not in inside]
        return max(whole, default=None)


def main(directory, output=None):
    root, latest = os.path.join(directory, "generations"), None
    for name in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        if re.fullmatch("owner-[0-9a-f]{8}", name):
            continue
        need(re.fullmatch("[0-9a-f]{16}", name), f"{name}: not a generation")
        generation = Generation(root, name)
        if not generation.snapshots:
            print(f"{name} no snapshot")
            continue
        generation.replay()
        count = generation.count
        print(f"{name} {show(generation.latest())} snapshots={len(generation.snapshots)} segments={len(generation.segments)} "
              f"v1={count[1]} v2={count[2]} v3={count[3]} passed={count['passed over']} positions={len(generation.states)}")
        latest = generation.states[generation.latest()][0]
    if output and latest:
        with open(output, "wb") as file:
            file.write(b"".join(latest.pages))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except Wrong as wrong:
        sys.exit(f"second_reader.py: {wrong}")

"""A client for Tern, written from `spec/` and `protocol/tern.proto` alone: messages, over TLS/TCP, in one thread.

What must not be lost is in one SQLite file: the device's id, entries and cursors, sends that have no answer yet.
One request is under way at a time: no write waits for a server that waits to be read. Any `OSError` says that the
connection is gone: `connect` again, after a backoff; nothing is lost.
"""
import random, socket, sqlite3, ssl, time, uuid
import tern_pb2 as pb

FRAME_BYTES_MAX, DEAD_AFTER_S, WAITING_BEAT_S, TRIES_MAX = 1 << 20, 30, 2, 8
# Error codes, from spec/errors.md. `internal` and what is not in the table are tried again for some time only.
# Of BY_NUMBER nothing was stored under this number, or something else: take one above the highest.
LATER, CLOSES, FINAL, BY_NUMBER = (23, 24, 25, 26, 28), (1, 2, 3, *range(6, 12)), (4, 5, *range(12, 21), 22), (21, 29)
TABLES = ("device (id blob)", "epoch (only primary key, id blob)", "conversation (id blob primary key, cursor)",
    "entry (conversation blob, seq, bytes blob, primary key (conversation, seq))",
    "number (user blob primary key, last)", "outbox (place integer primary key autoincrement, send blob)")


class Refused(Exception):
    """`args[0]` is the server's `Error`; its codes are in spec/errors.md."""


def user_id(sub):
    return uuid.uuid5(uuid.UUID("deaedae0-d1b5-4423-8c45-4db2e917ef63"), sub).bytes


def varint(number):
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


class Client:
    def __init__(self, host, port, ca_file, token, path):
        self.address, self.token = (host, port), token
        self.tls = ssl.create_default_context(cafile=ca_file)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self.tls.set_alpn_protocols(["tern/1"])
        self.db = sqlite3.connect(path)
        self.db.executescript("".join(f"create table if not exists {table};" for table in TABLES)
                              + "insert into device select randomblob(8) where not exists (select * from device)")
        self.device = int.from_bytes(self.value("select id from device"), "little")

    def value(self, query, *values):
        return next((row[0] for row in self.db.execute(query, values)), None)

    def connect(self):
        """Logs in, learns what was missed, sends again what has no answer. -> the entries that were missed"""
        self.buffer, self.requests, self.behind, self.fresh = b"", 0, set(), []
        self.heartbeat_s, self.heard, self.spoken = 60, time.monotonic(), time.monotonic()
        self.socket = self.tls.wrap_socket(socket.create_connection(self.address, 10), server_hostname=self.address[0])
        login = {"token": self.token, "device": self.device, "version_min": 1, "version_max": 1, "client": "tern.py"}
        ok = self.ask(login=login).login_ok
        self.heartbeat_s, epoch, known = ok.heartbeat_ms / 1000, ok.store_epoch, self.value("select id from epoch")
        self.reset = bool(epoch and known and epoch != known)
        with self.db:  # of another history of the server's store entries and cursors go, sends stay
            for table in ("entry", "conversation") if self.reset else ():
                self.db.execute("delete from " + table)
            self.db.execute("replace into epoch values (1, ?)", [epoch or known])
        self.sync()
        self.flush()
        return self.receive(0)

    def write(self, data):
        self.socket.settimeout(DEAD_AFTER_S)
        self.socket.sendall(data)
        self.spoken = time.monotonic()

    def cut_frame(self):
        """Takes the first whole frame off what has come; None: it is not all there yet."""
        end = next((at for at, byte in enumerate(self.buffer[:3], 1) if byte < 0x80), 0)
        length = sum((byte & 0x7F) << 7 * at for at, byte in enumerate(self.buffer[:end]))
        if (not end and len(self.buffer) > 2) or length > FRAME_BYTES_MAX or (end > 1 and self.buffer[end - 1] == 0):
            raise ConnectionError("the server's bytes are no frames")
        if end and len(self.buffer) >= end + length:
            frame, self.buffer = self.buffer[end : end + length], self.buffer[end + length :]
            return frame

    def read(self, until=None):
        """-> the next frame with something in it, or None at `until`. Without `until` an answer is waited for."""
        while True:
            while (frame := self.cut_frame()) is not None:
                content = pb.ServerFrame.FromString(frame)
                if content.WhichOneof("body") == "error":
                    raise Refused(content.error)
                if frame:
                    return content
            now = time.monotonic()
            if until is not None and now >= until:
                return None
            quiet_s = WAITING_BEAT_S if until is None else self.heartbeat_s
            beat_at = quiet_s + (max(self.spoken, self.heard) if until is None else self.spoken)
            if now > self.heard + quiet_s + DEAD_AFTER_S:
                raise ConnectionError("the server has been silent for too long")
            try:
                if now >= beat_at:
                    self.write(b"\0")
                self.socket.settimeout(max(0.001, min(until or beat_at, beat_at) - now))
                data = self.socket.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise ConnectionError("the server has closed the connection")
            self.buffer, self.heard = self.buffer + data, time.monotonic()

    def ask(self, **request):
        self.requests += 1
        frame = pb.ClientFrame(request_id=self.requests, **request).SerializeToString()
        self.write(varint(len(frame)) + frame)
        while (answer := self.read()).request_id != self.requests:
            self.handle(answer)
        return answer

    def receive(self, timeout_s):
        """-> new entries, as (conversation, Entry): those at hand, or the first that come within `timeout_s`."""
        until = time.monotonic() + timeout_s
        self.catch_up()
        while not self.fresh and (event := self.read(until)):
            self.handle(event)
            self.catch_up()
        fresh, self.fresh = self.fresh, []
        return fresh

    def cursor(self, conversation):
        return self.value("select cursor from conversation where id = ?", conversation) or 0

    def handle(self, event):
        kind = event.WhichOneof("body")
        if kind == "push" and event.push.entry.seq <= self.cursor(event.push.conversation) + 1:
            self.store(event.push.conversation, [event.push.entry])
        elif kind in ("push", "head_moved"):
            self.behind.add(getattr(event, kind).conversation)

    def store(self, conversation, entries, floor=0, head=0):
        """Stores the entries above the cursor, which have no gap, and moves the cursor, in one transaction."""
        cursor = max(self.cursor(conversation), min(floor - 1, head))  # nobody gets what is below the floor
        new = [entry for entry in entries if entry.seq > cursor]
        if [entry.seq for entry in new] != list(range(cursor + 1, cursor + 1 + len(new))):
            raise ConnectionError("the server has left out an entry")
        with self.db:
            self.db.executemany(
                "insert into entry values (?, ?, ?)", [(conversation, e.seq, e.SerializeToString()) for e in new])
            self.db.execute("replace into conversation values (?, ?)", [conversation, cursor + len(new)])
        self.fresh += [(conversation, entry) for entry in new]

    def sync(self):
        rows = self.db.execute("select id, cursor from conversation order by id")
        sync = pb.Sync(known=[pb.Known(conversation=id, seq=cursor) for id, cursor in rows])
        while True:
            page = self.ask(sync=sync).sync_page
            for state in page.conversations:
                self.store(state.conversation, state.entries, state.floor, state.head)
                if self.cursor(state.conversation) < state.head:
                    self.behind.add(state.conversation)
            if not page.covered_until:
                return
            sync.after = page.covered_until

    def catch_up(self):
        while self.behind:
            id, page = self.behind.pop(), pb.HistoryPage(head=2**64 - 1)
            while self.cursor(id) < page.head:
                page = self.ask(history={"conversation": id, "from": self.cursor(id) + 1}).history_page
                self.store(id, page.entries, page.floor, page.head)

    def send(self, user, text):
        """Sends text to the direct chat with `user`. -> its seq, which says that it is safe"""
        message = {"content_type": "text/plain", "payload": text.encode()}
        self.put(None, pb.Send(user=user, client_seq=self.number(user), message=message))
        return self.flush()

    def number(self, user):
        return (self.value("select last from number where user = ?", user) or 0) + 1

    def put(self, place, send):
        with self.db:
            self.db.execute("replace into number values (?, ?)", [send.user, send.client_seq])
            self.db.execute("replace into outbox values (?, ?)", [place, send.SerializeToString()])

    def flush(self):
        """Sends what is in the outbox, in its order, each until its answer is final. -> the last one's seq"""
        seq, tries = None, 0
        while row := self.db.execute("select place, send from outbox order by place").fetchone():
            place, send = row[0], pb.Send.FromString(row[1])
            try:
                seq, tries, error = self.ask(send=send).send_ok.seq, 0, pb.Error()
            except Refused as refused:
                error, tries = refused.args[0], tries + 1
            if error.code in CLOSES:
                raise Refused(error)
            if error.code in BY_NUMBER:
                send.client_seq = max(self.number(send.user), error.client_seq + 1)
                self.put(place, send)
            elif error.code in LATER or (error.code and error.code not in FINAL and tries < TRIES_MAX):
                time.sleep(error.retry_after_ms / 1000 * random.uniform(1, 2) or random.uniform(0, min(60, 2**tries)))
            else:
                with self.db:
                    self.db.execute("delete from outbox where place = ?", [place])
                if error.code:
                    raise Refused(error)
        return seq

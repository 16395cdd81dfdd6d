"""Runs tern.py against a real server: python check.py PATH-OF-TERND. Exits with 1 if a promise is broken."""
import json, os, socket, subprocess, sys, tempfile
import tern
import tern_pb2 as pb


def cut(client):
    """The network goes away: no close_notify, no last words."""
    client.socket.shutdown(socket.SHUT_RDWR)
    client.socket.close()


def texts(received):
    return [entry.message.payload.decode() for _, entry in received]


def receive(client, count):
    """-> at least `count` entries, or what came before nothing came for 10 s"""
    received = []
    while len(received) < count and (some := client.receive(10)):
        received += some
    return received


def client_of(server, directory, name):
    host, port = server["tcp"].rsplit(":", 1)
    store = os.path.join(directory, name + ".sqlite")
    return tern.Client(host, int(port), server["ca"], server["tokens"][name], store)


def check(server, directory, backup):
    def client(name):
        return client_of(server, directory, name)

    alice, bob, to_bob = client("alice"), client("bob"), tern.user_id("bob")
    assert alice.connect() == [] and bob.connect() == [], "both begin with nothing"

    assert [alice.send(to_bob, f"live {n}") for n in range(3)] == [1, 2, 3]
    live = receive(bob, 3)
    assert texts(live) == ["live 0", "live 1", "live 2"], texts(live)
    assert {entry.sender for _, entry in live} == {tern.user_id("alice")}

    # More than a page holds, so that the sync has to go on with History.
    cut(bob)
    sent = [f"missed {n}" + 60_000 * "." for n in range(20)]
    assert [alice.send(to_bob, text) for text in sent] == list(range(4, 24))

    # The answer to a send is lost with the connection; the outbox outlives the process.
    alice.write = lambda data, write=alice.write: (write(data), cut(alice))
    try:
        alice.send(to_bob, "unanswered")
        raise AssertionError("an answer came over a connection that was cut")
    except OSError:
        alice.db.close()
    alice = client("alice")
    alice.connect()
    assert alice.value("select count(*) from outbox") == 0, "the send has no answer yet"

    # Bob resumes as a new process with what he had stored.
    bob.db.close()
    bob = client("bob")
    missed = bob.connect()
    seqs = [entry.seq for _, entry in missed]
    assert seqs == list(range(4, 25)), seqs
    assert texts(missed) == sent + ["unanswered"], "the texts are not those that were sent"

    # The same send again, long answered: the seq that it got then, and nobody hears of it twice.
    again = pb.Send(user=to_bob, client_seq=2, message=pb.Message(content_type="text/plain", payload=b"live 1"))
    answer = alice.ask(send=again).send_ok
    assert (answer.seq, answer.duplicate) == (2, True), answer
    backup()
    assert alice.send(to_bob, "last") == 25
    assert texts(receive(bob, 1)) == ["last"]
    stored = [seq for (seq,) in bob.db.execute("select seq from entry order by rowid")]
    assert stored == list(range(1, 26)), "each entry once and in order"

    # Her file comes back from a backup, and numbers as it has numbered.
    with alice.db:
        alice.db.execute("update number set last = 1")
    assert [alice.send(to_bob, text) for text in ("new", "newer")] == [26, 27], "nothing is taken for what was sent before"
    assert texts(receive(bob, 2)) == ["new", "newer"]

    try:
        alice.ask(send=pb.Send(user=b"short", client_seq=9999))
        raise AssertionError("a user id of 5 bytes was taken")
    except tern.Refused as refused:
        assert refused.args[0].code == 13, refused
    # Or the server would wait for them when it is told to end.
    cut(alice)
    cut(bob)


def check_restored(server, directory):
    """The server has lost what came after its backup, and what comes now gets the numbers of that."""
    alice, bob, to_bob = client_of(server, directory, "alice"), client_of(server, directory, "bob"), tern.user_id("bob")
    assert len(alice.connect()) == 24 and alice.reset, "everything anew"
    assert [alice.send(to_bob, text) for text in ("another", "more")] == [25, 26]
    anew = bob.connect()
    assert bob.reset and texts(anew)[-2:] == ["another", "more"], texts(anew)[-2:]
    assert [entry.seq for _, entry in anew] == list(range(1, 27)), "one history"
    cut(bob)
    assert bob.connect() == [] and not bob.reset, "once"
    cut(alice)
    cut(bob)


def serving(ternd, data, use):
    command = [ternd, "dev", "--json", "--listen", "127.0.0.1:0", "--data", data]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        use(json.loads(server.stdout.readline()))
    finally:
        server.terminate()
        server.wait()


def main():
    ternd = sys.argv[1]
    with tempfile.TemporaryDirectory() as directory:
        data, file = os.path.join(directory, "data"), os.path.join(directory, "backup")

        def keep(what):
            subprocess.run([ternd, what, "--data", data, file], check=True, stdout=subprocess.DEVNULL)

        serving(ternd, data, lambda server: check(server, directory, lambda: keep("backup")))
        os.rename(os.path.join(data, "store"), os.path.join(directory, "store.old"))
        keep("restore")
        serving(ternd, data, lambda server: check_restored(server, directory))
    print("ok: sent, received, resumed, synced, begun anew after a restore")


if __name__ == "__main__":
    main()

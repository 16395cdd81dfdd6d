//! What conversations hold that were filled before a measurement, as their writers were told, to hold against it what
//! others are given later.

use tern_protocol::event::SendOk;
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, UserId};
use tern_protocol::model::{Change, Entry};

use tern_check::stream::{self as check, Faults};

/// A conversation with one writer.
#[derive(Debug, Clone)]
pub struct Book {
    /// Which.
    pub conversation: ConversationId,
    /// Who has written all of it.
    pub writer: UserId,
    payload_bytes: usize,
    /// Under which number the writer has sent the entry, by seq; 0: nobody has said.
    entries: Vec<u64>,
    faults: Faults,
}

impl Book {
    /// With nothing in it.
    pub fn new(conversation: ConversationId, writer: UserId, payload_bytes: usize) -> Self {
        Self { conversation, writer, payload_bytes, entries: Vec::new(), faults: Faults::default() }
    }

    /// The last entry.
    pub fn head(&self) -> Seq {
        Seq(self.entries.len() as u64)
    }

    /// The payload of the message that goes out under this number: no other message of the run has the same.
    pub fn payload(&self, client_seq: ClientSeq) -> Vec<u8> {
        check::payload(self.mark(), self.label(client_seq), self.payload_bytes)
    }

    fn label(&self, client_seq: ClientSeq) -> u64 {
        check::label(self.conversation, self.writer, client_seq)
    }

    fn mark(&self) -> u64 {
        let id = u128::from_le_bytes(*self.conversation.as_bytes());
        (id >> 64) as u64 ^ id as u64
    }

    /// The writer was told that an entry is stored.
    pub fn note(&mut self, client_seq: ClientSeq, ok: &SendOk) {
        self.faults.duplicated += u64::from(ok.duplicate);
        self.faults.altered += u64::from(ok.conversation != self.conversation);
        // Others do not write, so no seq is above the number of sends.
        if ok.seq == Seq(0) || ok.seq.get() > client_seq.get() {
            self.faults.altered += 1;
            return;
        }
        let at = ok.seq.prev().get() as usize;
        if at >= self.entries.len() {
            self.entries.resize(at + 1, 0);
        }
        self.faults.split += u64::from(self.entries[at] != 0);
        self.entries[at] = client_seq.get();
    }

    /// What was wrong while it was filled: to be asked when everything is answered.
    pub fn faults(&self) -> Faults {
        let holes = self.entries.iter().filter(|client_seq| **client_seq == 0).count();
        let falls = self.entries.windows(2).filter(|pair| pair[1] != 0 && pair[1] <= pair[0]).count();
        Faults { lost: holes as u64, reordered: falls as u64, ..self.faults }
    }

    /// Entries that have to follow without a gap on what the reader has up to `cursor`, which is moved on. Returns how
    /// many there were.
    pub fn follow(&self, cursor: &mut Seq, entries: &[Entry], faults: &mut Faults) -> u64 {
        for entry in entries {
            if entry.seq <= *cursor {
                faults.duplicated += 1;
                continue;
            }
            faults.lost += entry.seq.get() - cursor.next().get();
            faults.altered += u64::from(!self.holds(entry));
            *cursor = entry.seq;
        }
        entries.len() as u64
    }

    /// Whether this is the entry that the writer has sent to this place.
    fn holds(&self, entry: &Entry) -> bool {
        let at = entry.seq.prev().get() as usize;
        self.entries.get(at) == Some(&entry.client_seq.get())
            && entry.sender.user == self.writer
            && match &entry.change {
                Change::Message(message) => {
                    message.payload.len() == self.payload_bytes
                        && check::made(&message.payload, self.label(entry.client_seq)) == Some(self.mark())
                }
                Change::Create { .. } => at == 0 && self.conversation.is_group(),
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use tern_protocol::ids::DeviceId;
    use tern_protocol::model::{Message, Sender, WallMillis};

    use super::*;

    const BYTES: usize = 20;

    fn book(acks: &[(u64, u64)]) -> Book {
        let (writer, reader) = (UserId::from_sub("writer"), UserId::from_sub("reader"));
        let mut book = Book::new(ConversationId::direct(writer, reader), writer, BYTES);
        for (client_seq, seq) in acks {
            let conversation = book.conversation;
            let ok = SendOk { conversation, seq: Seq(*seq), time: WallMillis(0), duplicate: false };
            book.note(ClientSeq(*client_seq), &ok);
        }
        book
    }

    fn entry(book: &Book, seq: u64, client_seq: u64) -> Entry {
        let payload = book.payload(ClientSeq(client_seq)).into();
        Entry {
            seq: Seq(seq),
            time: WallMillis(0),
            sender: Sender { user: book.writer, device: DeviceId::new(1).expect("not 0") },
            client_seq: ClientSeq(client_seq),
            change: Change::Message(Message { content_type: String::new(), payload, reply_to: None }),
        }
    }

    #[test]
    fn acks_make_a_book() {
        let none = Faults::default();
        assert_eq!(book(&[(1, 1), (3, 2), (4, 3)]).faults(), none);
        assert_eq!(book(&[(2, 2), (1, 1)]).faults(), none);
        assert_eq!(book(&[(1, 1), (3, 3)]).faults(), Faults { lost: 1, ..none });
        assert_eq!(book(&[(1, 2), (2, 1)]).faults(), Faults { altered: 1, ..none });
        assert_eq!(book(&[(3, 1), (2, 2)]).faults(), Faults { reordered: 1, ..none });
        assert_eq!(book(&[(1, 1), (2, 1)]).faults(), Faults { split: 1, ..none });
    }

    #[test]
    fn what_is_read_is_held_against_it() {
        let book = book(&[(1, 1), (3, 2), (4, 3)]);
        #[track_caller]
        fn check(book: &Book, from: u64, entries: &[Entry], to: u64, expected: Faults) {
            let (mut cursor, mut faults) = (Seq(from), Faults::default());
            book.follow(&mut cursor, entries, &mut faults);
            assert_eq!((cursor, faults), (Seq(to), expected));
        }
        let none = Faults::default();
        let [one, two, three] = [(1, 1), (2, 3), (3, 4)].map(|(seq, sent)| entry(&book, seq, sent));
        check(&book, 0, &[one.clone(), two.clone(), three.clone()], 3, none);
        check(&book, 1, &[two.clone(), three.clone()], 3, none);
        check(&book, 0, &[one.clone(), three.clone()], 3, Faults { lost: 1, ..none });
        check(&book, 0, &[one.clone(), one], 1, Faults { duplicated: 1, ..none });
        check(&book, 2, &[entry(&book, 3, 3)], 3, Faults { altered: 1, ..none });
        check(&book, 3, &[entry(&book, 4, 5)], 4, Faults { altered: 1, ..none });
        let mut other = two;
        if let Change::Message(message) = &mut other.change {
            message.payload = check::payload(0, book.label(ClientSeq(3)), BYTES).into();
        }
        check(&book, 1, &[other], 2, Faults { altered: 1, ..none });
    }
}

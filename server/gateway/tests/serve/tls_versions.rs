//! TLS 1.3 and nothing older: a ClientHello by hand, since no library in the tree could send one of TLS 1.2.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::served::Files;
use crate::support::PATIENCE;

/// Content types (RFC 8446, 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// RFC 8446, 6.
const FATAL: u8 = 2;
const PROTOCOL_VERSION: u8 = 70;
/// RFC 8446, 4.2.
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

/// With its length in front, in so many bytes.
fn sized(length_bytes: usize, contents: &[u8]) -> Vec<u8> {
    let length = (contents.len() as u32).to_be_bytes();
    [&length[4 - length_bytes..], contents].concat()
}

fn extension(kind: u16, contents: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(2, contents)].concat()
}

/// A record with a ClientHello that offers these versions: TLS 1.2 is offered by the field that is there for it, and the
/// newer ones by an extension.
fn client_hello(offers_1_3: bool) -> Vec<u8> {
    // ECDHE with ECDSA and RSA, AES-128-GCM, then TLS_AES_128_GCM_SHA256.
    let suites: &[u8] = &[0xc0, 0x2b, 0xc0, 0x2f, 0x13, 0x01];
    let mut extensions = [
        // P-256 and X25519; ECDSA with P-256, RSA-PSS, RSA-PKCS1, each with SHA-256.
        extension(SUPPORTED_GROUPS, &sized(2, &[0, 23, 0, 29])),
        extension(SIGNATURE_ALGORITHMS, &sized(2, &[4, 3, 8, 4, 4, 1])),
        extension(ALPN, &sized(2, &sized(1, tern_protocol::limits::ALPN))),
    ]
    .concat();
    if offers_1_3 {
        extensions.extend(extension(SUPPORTED_VERSIONS, &sized(1, &[3, 4, 3, 3])));
        // None at all: the server has to ask for one, which is an answer as well.
        extensions.extend(extension(KEY_SHARE, &sized(2, &[])));
    }
    let hello =
        [&[3, 3][..], &[7; 32], &sized(1, &[]), &sized(2, suites), &sized(1, &[0]), &sized(2, &extensions)]
            .concat();
    let message = [&[1][..], &sized(3, &hello)].concat();
    [&[HANDSHAKE, 3, 1][..], &sized(2, &message)].concat()
}

/// The content type and the contents of the first record that answers.
fn answer(address: SocketAddr, hello: &[u8]) -> (u8, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("ternd accepts connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("possible");
    stream.write_all(hello).expect("taken");
    let mut header = [0; 5];
    stream.read_exact(&mut header).expect("a record");
    let mut contents = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    stream.read_exact(&mut contents).expect("all of it");
    (header[0], contents)
}

#[test]
fn a_client_without_tls_1_3_is_refused() {
    let files = Files::new();
    let served = files.serve();
    let (kind, contents) = answer(served.tcp[0], &client_hello(true));
    assert_eq!(kind, HANDSHAKE, "the same hello that offers TLS 1.3 as well is answered: {contents:?}");
    let (kind, contents) = answer(served.tcp[0], &client_hello(false));
    assert_eq!((kind, contents), (ALERT, vec![FATAL, PROTOCOL_VERSION]));
}

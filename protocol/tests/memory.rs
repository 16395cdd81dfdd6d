//! What memory a frame takes for a moment, whatever is in it.
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use prost::Message as _;
use tern_protocol::convert::parse_request;
use tern_protocol::error::ErrorCode;
use tern_protocol::ids::RequestId;
use tern_protocol::limits::{FRAME_BYTES_MAX, SYNC_KNOWN_MAX};
use tern_protocol::pb::{self, client_frame::Request as R, send};

/// As many times the longest frame. The longest list that is allowed, of 16,000 conversations, is there as the frame says it
/// and as the server has it, and the first grows by doubling.
const TIMES_MAX: usize = 3;

struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    let taken = TAKEN.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(taken, Ordering::Relaxed);
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }

    // As if it were always copied: what a growing list takes at its worst.
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How it was answered, and the most bytes that were taken at once meanwhile.
fn most_bytes(frame: Bytes) -> (Result<RequestId, (RequestId, ErrorCode)>, usize) {
    let before = TAKEN.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = parse_request(frame).map(|request| request.id).map_err(|error| (error.id, error.code));
    (result, MOST.load(Ordering::Relaxed) - before)
}

const ID: u64 = 7;

fn frame(request: R) -> Vec<u8> {
    let frame = pb::ClientFrame { request_id: ID, request: Some(request) }.encode_to_vec();
    assert!(frame.len() <= FRAME_BYTES_MAX, "{}", frame.len());
    frame
}

fn send(change: send::Change) -> R {
    let target = Some(send::Target::User(Bytes::from_static(&[1; 16])));
    R::Send(pb::Send { client_seq: 1, target, change: Some(change) })
}

/// One test: there is one allocator.
#[test]
fn a_frame_takes_no_more_than_some_times_its_length() {
    let room = FRAME_BYTES_MAX - 64;
    let tiny = |n: usize| vec![Bytes::new(); n];
    let known = vec![pb::Known::default(); room / 2];
    let marks = vec![pb::Watermark::default(); room / 2];
    let members = tiny(room / 2);
    let group = pb::GroupCreate { title: String::new(), members: members.clone() };
    let login = pb::Login { features: vec![1; room], ..Default::default() };
    let few = frame(R::Sync(pb::Sync { known: vec![pb::Known::default(); 20], ..Default::default() }));
    let many = R::Sync(pb::Sync {
        known: (1..=SYNC_KNOWN_MAX as u64)
            .map(|n| pb::Known {
                conversation: Bytes::copy_from_slice(&u128::from(n).to_be_bytes()),
                ..pb::Known::default()
            })
            .collect(),
        ..Default::default()
    });
    let invalid = Err((RequestId(ID), ErrorCode::InvalidArgument));
    let cases: [(&str, Vec<u8>, _); 8] = [
        ("known", frame(R::Sync(pb::Sync { known, ..Default::default() })), invalid),
        ("marks", frame(R::Mark(pb::Mark { marks })), invalid),
        ("members of a new group", frame(send(send::Change::Create(group))), invalid),
        ("members to be added", frame(send(send::Change::Add(pb::MembersAdd { members }))), invalid),
        ("features", frame(R::Login(login)), invalid),
        ("many short lists", few.repeat(FRAME_BYTES_MAX / few.len()), invalid),
        // Number 100, a varint: two bytes of number, one of value.
        ("unknown fields", [&[0x08, ID as u8][..], &[0xa0, 0x06, 0x01].repeat(room / 3)].concat(), {
            Err((RequestId(ID), ErrorCode::UnknownRequest))
        }),
        ("as many as are allowed", frame(many), Ok(RequestId(ID))),
    ];
    for (what, bytes, expected) in cases {
        let length = bytes.len();
        let (result, most) = most_bytes(bytes.into());
        println!("{what}: {length} bytes take {most}");
        assert_eq!(result, expected, "{what}");
        assert!(most <= TIMES_MAX * FRAME_BYTES_MAX, "{what}: {length} bytes take {most} at once");
    }
}

//! Counts what a request lists before memory is taken for it: an element may be two bytes of a frame and 64 in memory, and
//! a list that grows is there twice for a moment, so a frame could take fifty times its length.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::ids::RequestId;
use crate::limits::{FEATURES_MAX, FRAME_BEFORE_LOGIN_BYTES_MAX, MARKS_MAX, MEMBERS_MAX, SYNC_KNOWN_MAX};

/// A list that is too long, in the words of the answer.
pub(super) const FEATURES: &str = "more than 64 features";
pub(super) const MEMBERS: &str = "more than 1024 members";
pub(super) const MARKS: &str = "more than 1024 watermarks";
pub(super) const KNOWN: &str =
    "known names more than 16000 conversations: split the range with after and until";

const REQUEST_ID: u32 = 1;

struct List {
    /// The numbers of the fields on the way to it from a `ClientFrame`.
    path: &'static [u32],
    max: usize,
    excess: &'static str,
    /// Numbers, of which a field may hold many.
    packs: bool,
}

/// Every `repeated` field of a request. A test compares it with the schema.
const LISTS: [List; 5] = [
    List { path: &[2, 5], max: FEATURES_MAX, excess: FEATURES, packs: true },
    List { path: &[3, 5, 2], max: MEMBERS_MAX, excess: MEMBERS, packs: false },
    List { path: &[3, 6, 1], max: MEMBERS_MAX, excess: MEMBERS, packs: false },
    List { path: &[4, 1], max: MARKS_MAX, excess: MARKS, packs: false },
    List { path: &[5, 1], max: SYNC_KNOWN_MAX, excess: KNOWN, packs: false },
];

/// The request's number, and what is wrong with the first list of a frame that is longer than any may be. `None`: nothing,
/// or the bytes are no protobuf, which whoever decodes them finds.
///
/// What is short is not looked at: the parser finds its lists too long as well. Of two members of a `oneof` the last counts,
/// and their elements are counted together here, which no client means.
pub(super) fn excess(frame: &[u8]) -> Option<(RequestId, &'static str)> {
    if frame.len() <= FRAME_BEFORE_LOGIN_BYTES_MAX {
        return None;
    }
    let (mut id, mut found, mut counts) = (0, None, [0; LISTS.len()]);
    let mut rest = frame;
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).ok()?;
        match wire {
            WireType::Varint if number == REQUEST_ID => id = decode_varint(&mut rest).ok()?,
            WireType::LengthDelimited => {
                let message = delimited(&mut rest)?;
                for (list, count) in LISTS.iter().zip(&mut counts) {
                    if found.is_none() && list.path[0] == number {
                        list.count(&list.path[1..], message, count)?;
                        found = (*count > list.max).then_some(list.excess);
                    }
                }
            }
            _ => skip_field(wire, number, &mut rest, DecodeContext::default()).ok()?,
        }
    }
    found.map(|found| (RequestId(id), found))
}

impl List {
    /// Counts the elements in a message from which this path leads to them, as far as it matters: not far beyond `max`.
    fn count(&self, path: &[u32], message: &[u8], count: &mut usize) -> Option<()> {
        let mut rest = message;
        while !rest.is_empty() && *count <= self.max {
            let (number, wire) = decode_key(&mut rest).ok()?;
            match (wire, path) {
                (WireType::LengthDelimited, [last]) if *last == number => {
                    let element = delimited(&mut rest)?;
                    // Each packed number ends with a byte below 0x80.
                    *count +=
                        if self.packs { element.iter().filter(|byte| **byte < 0x80).count() } else { 1 };
                }
                (WireType::Varint, [last]) if *last == number => {
                    decode_varint(&mut rest).ok()?;
                    *count += 1;
                }
                (WireType::LengthDelimited, [first, further @ ..]) if *first == number => {
                    self.count(further, delimited(&mut rest)?, count)?;
                }
                _ => skip_field(wire, number, &mut rest, DecodeContext::default()).ok()?,
            }
        }
        Some(())
    }
}

/// The bytes of a field with a length, taken off the front.
fn delimited<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
    let (field, further) = rest.split_at_checked(length)?;
    *rest = further;
    Some(field)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn every_list_of_the_schema_is_counted() {
        let descriptors = protox::compile(["tern.proto"], [env!("CARGO_MANIFEST_DIR")]);
        let messages = descriptors.expect("tern.proto compiles").file.remove(0).message_type;
        let of = |name: &str| {
            let name = name.rsplit('.').next();
            messages.iter().find(|message| message.name.as_deref() == name).expect("it is in the schema")
        };
        let (mut found, mut walks) = (Vec::new(), vec![(Vec::new(), String::from("ClientFrame"))]);
        while let Some((path, name)) = walks.pop() {
            for field in &of(&name).field {
                let path = [&path[..], &[field.number() as u32]].concat();
                let message =
                    messages.iter().any(|m| field.type_name().rsplit('.').next() == m.name.as_deref());
                match field.label().as_str_name() {
                    "LABEL_REPEATED" => found.push(path),
                    _ if message => walks.push((path, field.type_name().into())),
                    _ => {}
                }
            }
        }
        found.sort();
        assert_eq!(found, LISTS.map(|list| list.path), "each `repeated` field of a request has a bound");
    }
}

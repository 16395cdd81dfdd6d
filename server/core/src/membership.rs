//! Who may do what in a conversation, and what a change does to its members.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use tern_protocol::error::ErrorCode;
use tern_protocol::ids::{Seq, UserId};
use tern_protocol::limits::MEMBERS_MAX;
use tern_protocol::model::{Change, Conversation, Kind, Membership, Role};

use crate::limits::MEMBER_RECORDS_MAX;

/// The members of a conversation, past ones included.
#[derive(Debug, Clone)]
pub struct Members {
    all: BTreeMap<UserId, Membership>,
    active: usize,
    audience: Option<Arc<[UserId]>>,
}

impl Members {
    /// From stored records.
    pub fn new(all: impl IntoIterator<Item = (UserId, Membership)>) -> Self {
        let all: BTreeMap<_, _> = all.into_iter().collect();
        let active = all.values().filter(|m| m.is_active()).count();
        Self { all, active, audience: None }
    }

    /// The record of a user who is or was a member.
    pub fn get(&self, user: UserId) -> Option<&Membership> {
        self.all.get(&user)
    }

    /// The record of a user who is a member now.
    pub fn active(&self, user: UserId) -> Option<&Membership> {
        self.get(user).filter(|m| m.is_active())
    }

    /// How many are members now.
    pub fn active_count(&self) -> usize {
        self.active
    }

    /// Those who are members now, rising. Made once per change of the members and shared.
    pub fn audience(&mut self) -> Arc<[UserId]> {
        if let Some(audience) = &self.audience {
            return audience.clone();
        }
        let audience: Arc<[UserId]> =
            self.all.iter().filter(|(_, m)| m.is_active()).map(|(u, _)| *u).collect();
        self.audience = Some(audience.clone());
        audience
    }

    /// Those whose membership has ended after this entry, each with the entry that ended it.
    pub fn left_after(&self, seq: Seq) -> impl Iterator<Item = (UserId, Seq)> {
        self.all.iter().filter_map(move |(user, m)| Some((*user, m.left.filter(|left| *left > seq)?)))
    }

    fn set(&mut self, user: UserId, membership: Membership) {
        let is = membership.is_active();
        let was = self.all.insert(user, membership).is_some_and(|m| m.is_active());
        self.active = self.active + usize::from(is) - usize::from(was);
        if is != was {
            self.audience = None;
        }
    }

    fn join(&mut self, user: UserId, role: Role, at: Seq, changed: &mut Vec<UserId>) {
        self.set(user, Membership { role, joined: at, left: None });
        changed.push(user);
    }

    fn leave(&mut self, user: UserId, at: Seq, changed: &mut Vec<UserId>) {
        if let Some(membership) = self.active(user).copied() {
            self.set(user, Membership { left: Some(at), ..membership });
            changed.push(user);
        }
    }

    fn set_role(&mut self, user: UserId, role: Role, changed: &mut Vec<UserId>) {
        if let Some(membership) = self.active(user).copied() {
            self.set(user, Membership { role, ..membership });
            changed.push(user);
        }
    }

    /// Who becomes the owner when the owner leaves: the longest-standing admin, else the longest-standing member; of
    /// several who joined with the same entry, the lowest id. Clients follow the same rule.
    fn heir(&self, leaving: UserId) -> Option<UserId> {
        self.all
            .iter()
            .filter(|(user, m)| m.is_active() && **user != leaving)
            .min_by_key(|(user, m)| (core::cmp::Reverse(m.role), m.joined, **user))
            .map(|(user, _)| *user)
    }
}

/// Checks whether `user` may make this change, and reduces it to what it really changes (members who are already in
/// are left out of an `Add`).
///
/// # Errors
/// The code that the sender is told; nothing has changed.
pub fn permit(
    conversation: &Conversation,
    members: &Members,
    last: Seq,
    user: UserId,
    change: Change,
) -> Result<Change, ErrorCode> {
    if matches!(change, Change::Create { .. }) {
        return Err(ErrorCode::ConversationExists);
    }
    if members.active(user).is_none() {
        return Err(match conversation.kind {
            // Anybody can compute the id of two others' direct chat: say nothing about it.
            Kind::Direct => ErrorCode::UnknownConversation,
            Kind::Group => ErrorCode::NotMember,
        });
    }
    if conversation.kind == Kind::Direct && !matches!(change, Change::Message(_)) {
        return Err(ErrorCode::InvalidArgument);
    }
    let role = members.active(user).map_or(Role::Member, |m| m.role);
    let at_least = |needed: Role| if role >= needed { Ok(()) } else { Err(ErrorCode::Forbidden) };
    match change {
        Change::Message(message) => match message.reply_to {
            Some(seq) if seq > last => Err(ErrorCode::InvalidArgument),
            _ => Ok(Change::Message(message)),
        },
        Change::Add { members: mut new } => {
            at_least(Role::Admin)?;
            new.retain(|user| members.active(*user).is_none());
            if new.is_empty() {
                return Err(ErrorCode::NoChange);
            }
            let strangers = new.iter().filter(|user| members.get(**user).is_none()).count();
            if members.active_count() + new.len() > MEMBERS_MAX
                || members.all.len() + strangers > MEMBER_RECORDS_MAX
            {
                return Err(ErrorCode::TooManyMembers);
            }
            Ok(Change::Add { members: new })
        }
        Change::Remove { member } => {
            at_least(Role::Admin)?;
            let target = members.active(member).ok_or(ErrorCode::NoChange)?;
            if member == user {
                return Err(ErrorCode::InvalidArgument);
            }
            if target.role >= role {
                return Err(ErrorCode::Forbidden);
            }
            Ok(Change::Remove { member })
        }
        Change::Leave => Ok(Change::Leave),
        Change::Title { title } => {
            at_least(Role::Admin)?;
            if title == conversation.title {
                return Err(ErrorCode::NoChange);
            }
            Ok(Change::Title { title })
        }
        Change::Role { member, role: new } => {
            at_least(Role::Owner)?;
            if member == user {
                return Err(ErrorCode::InvalidArgument);
            }
            let target = members.active(member).ok_or(ErrorCode::InvalidArgument)?;
            if target.role == new {
                return Err(ErrorCode::NoChange);
            }
            Ok(Change::Role { member, role: new })
        }
        Change::Create { .. } | Change::Unknown => Err(ErrorCode::UnknownRequest),
    }
}

/// What a change did to the records.
#[derive(Debug, Default)]
pub struct Applied {
    /// Whose membership record is new or changed.
    pub members: Vec<UserId>,
    /// Whether the conversation's record is new or changed.
    pub record: bool,
    /// Who is a member no longer; still gets this entry.
    pub gone: Option<UserId>,
}

/// Applies a permitted change that `user` made with the entry `at`.
pub fn apply(
    conversation: &mut Conversation,
    members: &mut Members,
    user: UserId,
    at: Seq,
    change: &Change,
) -> Applied {
    let mut applied = Applied::default();
    match change {
        Change::Message(_) | Change::Unknown => {}
        Change::Create { title, members: invited } => {
            conversation.title.clone_from(title);
            applied.record = true;
            members.join(user, Role::Owner, at, &mut applied.members);
            for &member in invited.iter().filter(|member| **member != user) {
                members.join(member, Role::Member, at, &mut applied.members);
            }
        }
        Change::Add { members: new } => {
            for &member in new {
                members.join(member, Role::Member, at, &mut applied.members);
            }
        }
        Change::Remove { member } => {
            members.leave(*member, at, &mut applied.members);
            applied.gone = Some(*member);
        }
        Change::Leave => {
            let owner = members.active(user).is_some_and(|m| m.role == Role::Owner);
            if let Some(heir) = members.heir(user).filter(|_| owner) {
                members.set_role(heir, Role::Owner, &mut applied.members);
            }
            members.leave(user, at, &mut applied.members);
            applied.gone = Some(user);
        }
        Change::Title { title } => {
            conversation.title.clone_from(title);
            applied.record = true;
        }
        Change::Role { member, role } => {
            members.set_role(*member, *role, &mut applied.members);
            if *role == Role::Owner {
                members.set_role(user, Role::Admin, &mut applied.members);
            }
        }
    }
    applied
}

/// The two (or, with oneself, one) members that a direct chat has from its first entry on.
pub fn direct(a: UserId, b: UserId) -> Members {
    let membership = Membership { role: Role::Member, joined: Seq(1), left: None };
    Members::new([(a, membership), (b, membership)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;
    use tern_protocol::model::Message;

    fn user(n: u8) -> UserId {
        UserId::from_bytes([n; 16])
    }

    /// A group: 1 is the owner, 2 an admin, 3 and 4 members, 5 left.
    fn group() -> (Conversation, Members) {
        let m =
            |role, joined, left: Option<u64>| Membership { role, joined: Seq(joined), left: left.map(Seq) };
        let members = Members::new([
            (user(1), m(Role::Owner, 1, None)),
            (user(2), m(Role::Admin, 4, None)),
            (user(3), m(Role::Member, 3, None)),
            (user(4), m(Role::Member, 2, None)),
            (user(5), m(Role::Member, 1, Some(6))),
        ]);
        (Conversation { kind: Kind::Group, title: String::from("t") }, members)
    }

    fn title(t: &str) -> Change {
        Change::Title { title: String::from(t) }
    }

    #[test]
    fn permissions() {
        #[track_caller]
        fn check(by: u8, change: Change, expected: Result<(), ErrorCode>) {
            let (conversation, members) = group();
            let got = permit(&conversation, &members, Seq(9), user(by), change).map(|_| ());
            assert_eq!(got, expected);
        }
        let message = |reply_to: Option<u64>| {
            Change::Message(Message {
                content_type: String::new(),
                payload: Default::default(),
                reply_to: reply_to.map(Seq),
            })
        };
        let add = |users: &[u8]| Change::Add { members: users.iter().map(|n| user(*n)).collect() };
        let remove = |n| Change::Remove { member: user(n) };
        let role = |n, role| Change::Role { member: user(n), role };
        check(4, message(None), Ok(()));
        check(4, message(Some(9)), Ok(()));
        check(4, message(Some(10)), Err(ErrorCode::InvalidArgument));
        check(5, message(None), Err(ErrorCode::NotMember));
        check(6, message(None), Err(ErrorCode::NotMember));
        check(3, add(&[6]), Err(ErrorCode::Forbidden));
        check(2, add(&[6]), Ok(()));
        check(2, add(&[5]), Ok(()));
        check(2, add(&[1, 3]), Err(ErrorCode::NoChange));
        check(2, remove(3), Ok(()));
        check(2, remove(1), Err(ErrorCode::Forbidden));
        check(2, remove(2), Err(ErrorCode::InvalidArgument));
        check(2, remove(5), Err(ErrorCode::NoChange));
        check(1, remove(2), Ok(()));
        check(3, remove(4), Err(ErrorCode::Forbidden));
        check(3, Change::Leave, Ok(()));
        check(5, Change::Leave, Err(ErrorCode::NotMember));
        check(3, title("x"), Err(ErrorCode::Forbidden));
        check(2, title("x"), Ok(()));
        check(2, title("t"), Err(ErrorCode::NoChange));
        check(2, role(3, Role::Admin), Err(ErrorCode::Forbidden));
        check(1, role(3, Role::Admin), Ok(()));
        check(1, role(2, Role::Admin), Err(ErrorCode::NoChange));
        check(1, role(5, Role::Admin), Err(ErrorCode::InvalidArgument));
        check(1, role(1, Role::Admin), Err(ErrorCode::InvalidArgument));
        check(
            1,
            Change::Create { title: String::new(), members: vec![] },
            Err(ErrorCode::ConversationExists),
        );
        check(1, Change::Unknown, Err(ErrorCode::UnknownRequest));
    }

    #[test]
    fn a_direct_chat_is_nobody_elses_business() {
        let conversation = Conversation { kind: Kind::Direct, title: String::new() };
        let members = direct(user(1), user(2));
        let by = |n, change| permit(&conversation, &members, Seq(1), user(n), change).map(|_| ());
        assert_eq!(by(3, Change::Leave), Err(ErrorCode::UnknownConversation));
        assert_eq!(by(1, Change::Leave), Err(ErrorCode::InvalidArgument));
        assert_eq!(direct(user(1), user(1)).active_count(), 1);
    }

    #[test]
    fn a_group_has_a_bound() {
        let members = Members::new((0..MEMBERS_MAX).map(|n| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(n as u64).to_be_bytes());
            (UserId::from_bytes(id), Membership { role: Role::Owner, joined: Seq(1), left: None })
        }));
        let (conversation, _) = group();
        let add = Change::Add { members: vec![user(9)] };
        let by = UserId::from_bytes([0; 16]);
        assert_eq!(permit(&conversation, &members, Seq(1), by, add), Err(ErrorCode::TooManyMembers));
    }

    #[test]
    fn leaving_cuts_and_hands_over() {
        let (mut conversation, mut members) = group();
        let mut leave = |n, at| {
            let applied = apply(&mut conversation, &mut members, user(n), Seq(at), &Change::Leave);
            (applied.members, members.audience().to_vec())
        };
        assert_eq!(
            leave(1, 10),
            (vec![user(2), user(1)], vec![user(2), user(3), user(4)]),
            "the admin inherits"
        );
        assert_eq!(
            leave(2, 11),
            (vec![user(4), user(2)], vec![user(3), user(4)]),
            "the longest-standing inherits"
        );
        assert_eq!(leave(3, 12), (vec![user(3)], vec![user(4)]));
        assert_eq!(leave(4, 13), (vec![user(4)], vec![]));
        assert_eq!(members.get(user(1)).and_then(|m| m.left), Some(Seq(10)));
        assert_eq!(members.active_count(), 0);
    }

    #[test]
    fn ownership_is_handed_over_by_role() {
        let (mut conversation, mut members) = group();
        let change = Change::Role { member: user(3), role: Role::Owner };
        apply(&mut conversation, &mut members, user(1), Seq(10), &change);
        let role = |n| members.active(user(n)).map(|m| m.role);
        assert_eq!((role(1), role(3)), (Some(Role::Admin), Some(Role::Owner)));
    }

    #[test]
    fn added_again_sees_from_there_on() {
        let (mut conversation, mut members) = group();
        apply(&mut conversation, &mut members, user(1), Seq(10), &Change::Add { members: vec![user(5)] });
        assert_eq!(
            members.get(user(5)),
            Some(&Membership { role: Role::Member, joined: Seq(10), left: None })
        );
        assert_eq!(members.active_count(), 5);
    }
}

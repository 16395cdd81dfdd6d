-- Numbers are 64 bits, ids are 16 bytes. Enlarge `user_version` when this changes, and bring older files up to it.

-- One row. `moves` counts cursors that moved. `history_bytes` is the sum of entries.bytes.
CREATE TABLE device (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  device INTEGER,
  user BLOB,
  -- Of the server's store: the cursors are of that history.
  epoch BLOB,
  base INTEGER NOT NULL DEFAULT 0,
  moves INTEGER NOT NULL DEFAULT 0,
  history_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO device (only) VALUES (1);

-- What must not be forgotten of a conversation; then what the app's list shows.
CREATE TABLE conversations (
  id BLOB PRIMARY KEY,
  cursor INTEGER NOT NULL DEFAULT 0,
  read INTEGER NOT NULL DEFAULT 0,
  peer_delivered INTEGER NOT NULL DEFAULT 0,
  peer_read INTEGER NOT NULL DEFAULT 0,
  next INTEGER NOT NULL DEFAULT 0,
  -- `device.moves` when the cursor moved last; 0: never.
  moved INTEGER NOT NULL DEFAULT 0,
  -- Whether it is in the list.
  listed INTEGER NOT NULL DEFAULT 0,
  title TEXT NOT NULL DEFAULT '',
  peer BLOB,
  -- 1 member, 2 admin, 3 owner; 0: the membership has ended; null: not told yet.
  role INTEGER,
  last_seq INTEGER NOT NULL DEFAULT 0,
  last_time INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX by_time ON conversations (listed, last_time, id);

CREATE TABLE outbox (
  conversation BLOB NOT NULL,
  client_seq INTEGER NOT NULL,
  send BLOB NOT NULL,
  PRIMARY KEY (conversation, client_seq)
) STRICT, WITHOUT ROWID;

-- The local history. The order of `rowid` is that of arrival, in which the oldest are dropped.
CREATE TABLE entries (
  conversation BLOB NOT NULL,
  seq INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  entry BLOB NOT NULL,
  UNIQUE (conversation, seq)
) STRICT;

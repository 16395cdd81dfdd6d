-- Messages of this device that the server had confirmed, and that its history has no more since it was restored. Those
-- that turn out to be there are taken out as they come. The order of `rowid` is that in which they were lost.
CREATE TABLE lost (
  conversation BLOB NOT NULL,
  client_seq INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  entry BLOB NOT NULL,
  UNIQUE (conversation, client_seq)
) STRICT;

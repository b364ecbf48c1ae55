"""The tables, as a list of steps: step N takes a file from `user_version` N to N + 1. Steps are only ever added."""

STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        # `server`, `app` and `name` are the publisher's real path: this file (mode 0600) is the only place that holds
        # it, so that a cut or an undo can go on after a restart.
        """CREATE TABLE incidents (
            incident_id TEXT PRIMARY KEY,
            stream_id TEXT NOT NULL,
            session TEXT NOT NULL,
            server TEXT NOT NULL,
            app TEXT NOT NULL,
            name TEXT NOT NULL,
            connection TEXT NOT NULL,
            opened_at_ms INTEGER NOT NULL,
            action INTEGER NOT NULL,
            is_live INTEGER NOT NULL,
            signals TEXT NOT NULL,
            refused_by TEXT,
            detail TEXT NOT NULL,
            cut_state TEXT NOT NULL,
            gone_at_ms INTEGER,
            confirmed_at_ms INTEGER,
            time_to_cut_ms INTEGER,
            undone_at_ms INTEGER
        )""",
        "CREATE INDEX incidents_by_time ON incidents (opened_at_ms)",
        "CREATE INDEX incidents_by_stream ON incidents (stream_id, opened_at_ms)",
        "CREATE INDEX incidents_being_cut ON incidents (opened_at_ms) WHERE cut_state = 'pending'",
        """CREATE TABLE alerts (
            alert_id TEXT PRIMARY KEY,
            seq INTEGER NOT NULL UNIQUE,
            stream_id TEXT NOT NULL,
            incident_id TEXT,
            is_cut INTEGER NOT NULL,
            payload BLOB NOT NULL,
            queued_at_ms INTEGER NOT NULL,
            expires_at_ms INTEGER NOT NULL
        )""",
        """CREATE TABLE deliveries (
            alert_id TEXT NOT NULL REFERENCES alerts ON DELETE CASCADE,
            sink TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'acked', 'expired')),
            attempts INTEGER NOT NULL DEFAULT 0,
            next_attempt_at_ms INTEGER NOT NULL DEFAULT 0,
            settled_at_ms INTEGER,
            PRIMARY KEY (alert_id, sink)
        ) WITHOUT ROWID""",
        "CREATE INDEX deliveries_open ON deliveries (sink, next_attempt_at_ms) WHERE state IN ('pending', 'sent')",
        "CREATE INDEX deliveries_expired ON deliveries (settled_at_ms) WHERE state = 'expired'",
        """CREATE TABLE coverage (
            stream_id TEXT NOT NULL,
            session TEXT NOT NULL,
            seen_seconds REAL NOT NULL,
            skipped_seconds TEXT NOT NULL,
            blind_seconds TEXT NOT NULL,
            max_gap_seconds REAL NOT NULL,
            updated_at_ms INTEGER NOT NULL,
            PRIMARY KEY (stream_id, session)
        ) WITHOUT ROWID""",
        "CREATE TABLE retained_topics (topic TEXT PRIMARY KEY) WITHOUT ROWID",
    ),
    (
        # What retention leaves of the rows that it removes: kept for ever. The day is YYYY-MM-DD (UTC).
        """CREATE TABLE days (
            day TEXT NOT NULL,
            key TEXT NOT NULL,
            value INTEGER NOT NULL,
            PRIMARY KEY (day, key)
        ) WITHOUT ROWID""",
        "CREATE INDEX coverage_by_time ON coverage (updated_at_ms)",
        "CREATE INDEX coverage_by_stream ON coverage (stream_id, updated_at_ms)",
        "CREATE INDEX alerts_by_time ON alerts (queued_at_ms, alert_id)",
        "CREATE INDEX alerts_by_incident ON alerts (incident_id)",
    ),
    (
        # The last number of each key that commands us, and the alerts that a consumer acted on. `floor_id` is the
        # highest id of those that made room: what is not above it may have been seen. Ids rise with the time.
        "CREATE TABLE command_seqs (key_id TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID",
        """CREATE TABLE seen_alerts (
            key_id TEXT NOT NULL,
            alert_id TEXT NOT NULL,
            seq INTEGER,
            expires_at_ms INTEGER NOT NULL,
            state TEXT,
            PRIMARY KEY (key_id, alert_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX seen_alerts_by_expiry ON seen_alerts (expires_at_ms)",
        """CREATE TABLE seen_floors (
            key_id TEXT PRIMARY KEY,
            floor_id TEXT NOT NULL
        ) WITHOUT ROWID""",
    ),
    (
        # Not only whether it asks for a cut, but what goes first: 3 is a cut, 1 a review (detector/alerts/urgency.py).
        "ALTER TABLE alerts RENAME COLUMN is_cut TO urgency",
        "UPDATE alerts SET urgency = CASE urgency WHEN 0 THEN 1 ELSE 3 END",
    ),
    (
        # A cutter's: what it was asked for, its signed answers, and what is not to be cut any more.
        """CREATE TABLE asked_alerts (
            alert_id TEXT PRIMARY KEY,
            stream_id TEXT NOT NULL,
            incident_id TEXT NOT NULL,
            session TEXT NOT NULL,
            expires_at_ms INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('received', 'cut', 'rejected')),
            ack BLOB NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX asked_alerts_by_expiry ON asked_alerts (expires_at_ms)",
        "CREATE INDEX asked_alerts_by_incident ON asked_alerts (incident_id)",
        "CREATE TABLE taken_back (incident_id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID",
    ),
    (
        # Keyed hashes of accounts that may publish nothing for a while, and the incidents of which they were cut.
        """CREATE TABLE denied_accounts (
            account TEXT NOT NULL,
            incident_id TEXT NOT NULL,
            until_ms INTEGER NOT NULL,
            PRIMARY KEY (account, incident_id)
        ) WITHOUT ROWID""",
    ),
    (
        # When it was over and told to be; those of earlier versions were over when they opened.
        "ALTER TABLE incidents ADD COLUMN closed_at_ms INTEGER",
        "UPDATE incidents SET closed_at_ms = opened_at_ms",
        "CREATE INDEX incidents_not_closed ON incidents (opened_at_ms) WHERE closed_at_ms IS NULL",
    ),
    (
        # What people said of entries that an exchange gave, for that exchange: the last word on each. `hashes` are the
        # entry's own, in hex with commas, as they were when it was judged.
        """CREATE TABLE feedback (
            exchange TEXT NOT NULL,
            bank TEXT NOT NULL,
            entry TEXT NOT NULL,
            hashes TEXT NOT NULL,
            verdict TEXT NOT NULL CHECK (verdict IN ('confirmed', 'false_match')),
            judged_at_ms INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'refused')),
            attempts INTEGER NOT NULL DEFAULT 0,
            next_attempt_at_ms INTEGER NOT NULL DEFAULT 0,
            settled_at_ms INTEGER,
            detail TEXT NOT NULL DEFAULT '',
            PRIMARY KEY (exchange, bank, entry)
        ) WITHOUT ROWID""",
        "CREATE INDEX feedback_open ON feedback (exchange, next_attempt_at_ms) WHERE state = 'pending'",
    ),
)

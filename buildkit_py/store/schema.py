"""The tables of state.db, a fragment for each area that keeps rows.

Snapshots are nodes of a tree; each names a layer, and several may name the same one (`COPY --link`
put on two bases, an image layer on two parents). A layer is a directory, a blob, or both.
Digests are stored as text with their algorithm, times as seconds, JSON as text.
"""

from __future__ import annotations

VERSION = 4

_META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)"

_CONTENT = """
CREATE TABLE IF NOT EXISTS blobs (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    media_type TEXT NOT NULL DEFAULT '',
    synced INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    last_used REAL NOT NULL
) WITHOUT ROWID
"""

_SNAPSHOTS = """
CREATE TABLE IF NOT EXISTS layers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    directory TEXT NOT NULL UNIQUE,     -- name below snapshots/
    unpacked INTEGER NOT NULL,          -- whether the directory is there
    diff_id TEXT,                       -- digest of the uncompressed tar, once known
    size INTEGER,                       -- bytes of its files, once known
    tar_size INTEGER,                   -- bytes of the uncompressed tar, once known
    blob TEXT,                          -- descriptor (JSON) of the layer as it came from outside
    origin TEXT NOT NULL DEFAULT '',    -- where that blob can be fetched from
    synced INTEGER NOT NULL DEFAULT 0,
    settle INTEGER                      -- later times become this in its tar (seconds)
);
CREATE INDEX IF NOT EXISTS layers_diff_id ON layers (diff_id);
CREATE TABLE IF NOT EXISTS layer_blobs (
    layer INTEGER NOT NULL REFERENCES layers (id) ON DELETE CASCADE,
    variant TEXT NOT NULL,              -- compression, level and time stamps
    descriptor TEXT NOT NULL,
    diff_id TEXT NOT NULL,
    PRIMARY KEY (layer, variant)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    parent INTEGER REFERENCES snapshots (id),
    layer INTEGER NOT NULL REFERENCES layers (id),
    chain TEXT,                         -- chain_id, once known
    kind TEXT NOT NULL DEFAULT 'regular',
    description TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL,
    last_used REAL NOT NULL,
    uses INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS snapshots_parent ON snapshots (parent);
CREATE INDEX IF NOT EXISTS snapshots_layer ON snapshots (layer);
CREATE INDEX IF NOT EXISTS snapshots_chain ON snapshots (chain);
"""

_IMAGES = """
CREATE TABLE IF NOT EXISTS images (
    id TEXT PRIMARY KEY,                -- digest of the config
    platform TEXT NOT NULL,
    snapshot INTEGER REFERENCES snapshots (id),
    manifest TEXT,                      -- descriptor (JSON) of the manifest it was stored with
    created TEXT,                       -- as its config says, RFC 3339
    parent TEXT NOT NULL DEFAULT '',
    stored REAL NOT NULL,
    last_used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image_names (
    name TEXT NOT NULL,                 -- docker.io/library/debian:bookworm
    platform TEXT NOT NULL,
    image TEXT NOT NULL REFERENCES images (id),
    tagged REAL NOT NULL,
    PRIMARY KEY (name, platform)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS image_names_image ON image_names (image);
CREATE TABLE IF NOT EXISTS image_lists (
    name TEXT PRIMARY KEY,              -- a name that leads to several platforms, or soon will
    data TEXT NOT NULL                  -- what its index says besides the images (JSON)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image_digests (
    repository TEXT NOT NULL,           -- docker.io/library/debian
    digest TEXT NOT NULL,               -- of the manifest or index it was pulled or pushed by
    image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    PRIMARY KEY (repository, digest, image)
) WITHOUT ROWID;
"""

_LEASES = """
CREATE TABLE IF NOT EXISTS leases (
    lease TEXT NOT NULL,                -- a process' lock file, or a named owner
    kind TEXT NOT NULL,                 -- snapshot, blob, cache-mount
    item TEXT NOT NULL,
    PRIMARY KEY (lease, kind, item)
) WITHOUT ROWID;
"""

_CACHE = """
CREATE TABLE IF NOT EXISTS cache_records (
    key TEXT PRIMARY KEY,
    canonical TEXT NOT NULL,
    snapshot INTEGER REFERENCES snapshots (id) ON DELETE CASCADE,
    parts TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',   -- the instruction as written
    slot TEXT NOT NULL DEFAULT '',      -- its place: build, stage and number
    created REAL NOT NULL,
    last_used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS cache_records_snapshot ON cache_records (snapshot);
CREATE INDEX IF NOT EXISTS cache_records_description ON cache_records (description);
CREATE INDEX IF NOT EXISTS cache_records_slot ON cache_records (slot);
CREATE TABLE IF NOT EXISTS cache_files (
    content TEXT PRIMARY KEY,           -- digest of a selection
    files BLOB NOT NULL,                -- what it was taken of: JSON, compressed
    created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS snapshot_digests (
    snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    selection TEXT NOT NULL,            -- digest of the selection's JSON
    content TEXT NOT NULL,
    PRIMARY KEY (snapshot, selection)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cache_mounts (
    id TEXT PRIMARY KEY,
    directory TEXT NOT NULL UNIQUE,     -- name below cache-mounts/
    description TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL,
    last_used REAL NOT NULL
) WITHOUT ROWID;
"""

_BUILDS = """
CREATE TABLE IF NOT EXISTS builds (
    ref TEXT PRIMARY KEY,
    started REAL NOT NULL,
    completed REAL,
    status TEXT NOT NULL,
    image TEXT,
    data TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS builds_started ON builds (started);
"""

_SOURCES = """
CREATE TABLE IF NOT EXISTS http_records (
    key TEXT PRIMARY KEY,               -- digest of the URL and of the credentials used
    digest TEXT NOT NULL,
    etag TEXT NOT NULL DEFAULT '',
    last_modified TEXT NOT NULL DEFAULT '',
    checked REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS git_records (
    key TEXT PRIMARY KEY,               -- digest of the remote
    remote TEXT NOT NULL,
    directory TEXT NOT NULL UNIQUE,     -- name below git/
    last_used REAL NOT NULL
) WITHOUT ROWID;
"""

_STEPS = """
CREATE TABLE IF NOT EXISTS steps (
    id TEXT PRIMARY KEY,                -- digits of the step's id
    text TEXT NOT NULL,                 -- the instruction as written
    stage TEXT NOT NULL DEFAULT '',
    snapshot INTEGER,                   -- the file system after it; may be gone
    config TEXT NOT NULL,               -- container config after it (JSON)
    created REAL NOT NULL
) WITHOUT ROWID
"""

_CONTAINERS = """
CREATE TABLE IF NOT EXISTS containers (
    id TEXT PRIMARY KEY,
    name TEXT UNIQUE,
    image TEXT NOT NULL,                -- as it was asked for
    image_id TEXT,                      -- digest of the image's config, if it was an image
    command TEXT NOT NULL,              -- words (JSON)
    config TEXT NOT NULL,               -- what it was started with (JSON)
    platform TEXT NOT NULL,
    base INTEGER,                       -- snapshot that it was started on
    snapshot INTEGER,                   -- its files; pinned; null while it runs
    lease TEXT NOT NULL,                -- of the process that runs it
    code INTEGER,                       -- null while it runs
    created REAL NOT NULL,
    ended REAL
) WITHOUT ROWID
"""

_RECALLS = """
CREATE TABLE IF NOT EXISTS recalls (
    key BLOB PRIMARY KEY,               -- command line, place, environment
    data BLOB NOT NULL,                 -- what was read and what it gave (marshal)
    last_used REAL NOT NULL
)
"""

SCHEMA = (
    _META,
    _CONTENT,
    _SNAPSHOTS,
    _IMAGES,
    _LEASES,
    _CACHE,
    _BUILDS,
    _SOURCES,
    _STEPS,
    _CONTAINERS,
    _RECALLS,
)
"""Every statement may be repeated; a change of a table that exists goes into MIGRATIONS."""

MIGRATIONS: dict[int, str] = {1: "ALTER TABLE layers ADD COLUMN settle INTEGER", 2: "", 3: ""}
"""Script that takes a database of the given version to the next one."""

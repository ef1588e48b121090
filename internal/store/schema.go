package store

// migrations bring an empty database to the newest schema, one step each; PRAGMA user_version
// counts the steps done. A step that has landed is never edited: a change of the schema is a new
// step.
var migrations = []string{
	`
CREATE TABLE images (
	id         TEXT PRIMARY KEY,
	name       TEXT NOT NULL UNIQUE,
	source     TEXT NOT NULL,
	size_bytes INTEGER NOT NULL,
	stamp      TEXT NOT NULL,
	created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE kernels (
	id         TEXT PRIMARY KEY,
	name       TEXT NOT NULL UNIQUE,
	release    TEXT NOT NULL,
	source     TEXT NOT NULL,
	size_bytes INTEGER NOT NULL,
	stamp      TEXT NOT NULL,
	created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE vms (
	id              TEXT PRIMARY KEY,
	name            TEXT NOT NULL UNIQUE,
	image_id        TEXT NOT NULL REFERENCES images (id),
	kernel_id       TEXT NOT NULL REFERENCES kernels (id),
	cpus            INTEGER NOT NULL,
	memory_mib      INTEGER NOT NULL,
	disk_mib        INTEGER NOT NULL,
	env             TEXT NOT NULL,
	auto_remove     INTEGER NOT NULL,
	leased          INTEGER NOT NULL DEFAULT 0,
	state           TEXT NOT NULL,
	reason          TEXT NOT NULL DEFAULT '',
	vmm_binary      TEXT NOT NULL DEFAULT '',
	vmm_pid         INTEGER NOT NULL DEFAULT 0,
	vmm_start_ticks INTEGER NOT NULL DEFAULT 0,
	created_at      INTEGER NOT NULL,
	started_at      INTEGER NOT NULL DEFAULT 0,
	stopped_at      INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX vms_image ON vms (image_id);
CREATE INDEX vms_kernel ON vms (kernel_id);
`,
	// VMs of before there was a network have none.
	`
ALTER TABLE vms ADD COLUMN network TEXT NOT NULL DEFAULT 'none';
ALTER TABLE vms ADD COLUMN address TEXT NOT NULL DEFAULT '';
ALTER TABLE vms ADD COLUMN nat INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN isolated INTEGER NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX vms_address ON vms (address) WHERE address <> '';
`,
	// One address of the host leads to one VM.
	`
CREATE TABLE forwards (
	vm_id      TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
	protocol   TEXT NOT NULL,
	host       TEXT NOT NULL,
	host_port  INTEGER NOT NULL,
	guest_port INTEGER NOT NULL,
	PRIMARY KEY (protocol, host, host_port)
) STRICT;
CREATE INDEX forwards_vm ON forwards (vm_id);
`,
	// Artifacts have any number of names, and an image may name its kernel. SQLite cannot drop a
	// UNIQUE column: the tables are made anew, and the references of VMs to them are checked at the
	// end of the transaction. A name equal to the id stood for none.
	`
PRAGMA defer_foreign_keys = 1;
CREATE TABLE old_images AS SELECT * FROM images;
CREATE TABLE old_kernels AS SELECT * FROM kernels;
DROP TABLE images;
DROP TABLE kernels;

CREATE TABLE kernels (
	id         TEXT PRIMARY KEY,
	source     TEXT NOT NULL,
	size_bytes INTEGER NOT NULL,
	stamp      TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	release    TEXT
) STRICT;
CREATE TABLE kernel_names (
	name      TEXT PRIMARY KEY,
	kernel_id TEXT NOT NULL REFERENCES kernels (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX kernel_names_id ON kernel_names (kernel_id);

CREATE TABLE images (
	id         TEXT PRIMARY KEY,
	source     TEXT NOT NULL,
	size_bytes INTEGER NOT NULL,
	stamp      TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	kernel_id  TEXT REFERENCES kernels (id)
) STRICT;
CREATE INDEX images_kernel ON images (kernel_id);
CREATE TABLE image_names (
	name     TEXT PRIMARY KEY,
	image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX image_names_id ON image_names (image_id);

INSERT INTO kernels (id, source, size_bytes, stamp, created_at, release) SELECT id, source, size_bytes, stamp, created_at, release FROM old_kernels;
INSERT INTO kernel_names (name, kernel_id) SELECT name, id FROM old_kernels WHERE name <> id;
INSERT INTO images (id, source, size_bytes, stamp, created_at) SELECT id, source, size_bytes, stamp, created_at FROM old_images;
INSERT INTO image_names (name, image_id) SELECT name, id FROM old_images WHERE name <> id;
DROP TABLE old_images;
DROP TABLE old_kernels;
`,
	`
ALTER TABLE vms ADD COLUMN host_key TEXT NOT NULL DEFAULT '';
ALTER TABLE vms ADD COLUMN host_services TEXT NOT NULL DEFAULT 'null';
ALTER TABLE vms ADD COLUMN mtu INTEGER NOT NULL DEFAULT 0;
`,
	`ALTER TABLE vms ADD COLUMN builds TEXT NOT NULL DEFAULT '';`,
}

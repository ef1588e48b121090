package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"banger/internal/hostinfo"
)

// toolDeadline bounds one run of an e2fsprogs tool on a filesystem of a few GiB.
const toolDeadline = 10 * time.Minute

// MakeWritable turns a copy of an image's root filesystem into one that a guest can write to:
// sizeBytes long (a multiple of the block size, not less than it is), with free inodes to match,
// and with a journal. Nothing may have it mounted. On an error the file is of no use.
func MakeWritable(ctx context.Context, path string, sizeBytes int64) error {
	// Filesystems of FromTar have small faults, which e2fsck knows how to mend, and a mark that
	// forbids writing.
	if err := check(ctx, path); err != nil {
		return err
	}
	if err := os.Truncate(path, sizeBytes); err != nil {
		return fmt.Errorf("grow %s: %w", path, err)
	}
	if err := e2fs(ctx, "resize2fs", path); err != nil {
		return err
	}
	return e2fs(ctx, "tune2fs", "-O", "^read-only,has_journal", path)
}

// MakeReadOnly is the way back: it repairs what an unclean end left, drops the journal and
// everything that is free, and forbids writing. The file has its least size then, and the same
// label. A filesystem that could not be written, as happens to guests of a host whose disk is full,
// is refused: a repair makes it whole again, but not what should be in it.
func MakeReadOnly(ctx context.Context, path string) error {
	if v, err := VolumeOf(path); err != nil {
		return err
	} else if v.HasErrors {
		return fmt.Errorf("filesystem %s: %w: its kernel met errors", path, ErrDamaged)
	}
	if err := check(ctx, path); err != nil {
		return err
	}
	if err := e2fs(ctx, "tune2fs", "-O", "^has_journal", path); err != nil {
		return err
	}
	if err := check(ctx, path); err != nil { // resize2fs wants to see it checked since the last change
		return err
	}
	if err := e2fs(ctx, "resize2fs", "-M", path); err != nil { // cuts the file, too
		return err
	}
	if err := check(ctx, path, "-E", "discard"); err != nil { // free blocks become holes
		return err
	}
	return e2fs(ctx, "tune2fs", "-O", "read-only", path)
}

// check has e2fsck repair the filesystem without asking. Its exit status is 1 when it has mended
// something, and from 4 on when something is left, see e2fsck(8).
func check(ctx context.Context, path string, options ...string) error {
	err := e2fs(ctx, "e2fsck", append(append([]string{"-f", "-y"}, options...), path)...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return nil
	}
	return err
}

// e2fs runs a tool of e2fsprogs; its last words stand in the error.
func e2fs(ctx context.Context, tool string, args ...string) error {
	path, err := hostinfo.FindTool(tool, "e2fsprogs")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, toolDeadline)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		const most = 1 << 10
		return fmt.Errorf("run %s: %w: %s", tool, err, bytes.TrimSpace(out[max(0, len(out)-most):]))
	}
	return nil
}

package disk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"banger/api"
	"banger/internal/hostinfo"
)

const (
	blockBytes = 4096

	// MinExt4Bytes is the smallest filesystem CreateExt4 makes: below it mkfs leaves out the
	// journal.
	MinExt4Bytes = 16 << 20

	mkfsDeadline = 2 * time.Minute

	// maxTarExt4Bytes is how large a filesystem FromTar can make; tables are reserved for it, 4 KiB
	// per 16 GiB.
	maxTarExt4Bytes = 256 << 30
)

// CreateExt4 makes a sparse file of sizeBytes at path with an empty, journalled ext4 filesystem, by
// the host's mkfs.ext4 (package e2fsprogs). The path must not exist; on an error nothing stays
// there.
func CreateExt4(ctx context.Context, path string, sizeBytes int64, label string) error {
	if err := checkLabel(label); err != nil {
		return err
	}
	if sizeBytes < MinExt4Bytes || sizeBytes%blockBytes != 0 {
		return api.Errorf(
			api.CodeInvalid,
			"disk size %d: want a multiple of %d bytes, at least %d MiB",
			sizeBytes,
			blockBytes,
			MinExt4Bytes>>20,
		)
	}
	mkfs, err := hostinfo.FindTool("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return err
	}
	return createFile(path, 0o600, func(file *os.File) error {
		if err := file.Truncate(sizeBytes); err != nil {
			return fmt.Errorf("set disk size: %w", err)
		}
		ctx, cancel := context.WithTimeout(ctx, mkfsDeadline)
		defer cancel()
		cmd := exec.CommandContext(ctx, mkfs, mkfsArgs(path, label)...)
		out, err := cmd.CombinedOutput()
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("make filesystem: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}

// mkfsArgs is the command line of mkfs.ext4. It gives no size, which would be in KiB: mkfs takes
// the file's own. Inode tables are marked as zeroed now, which costs nothing in a sparse file, so
// that no guest spends its first minutes writing zeroes; the journal is left to be zeroed lazily,
// because mkfs would allocate it in full.
func mkfsArgs(path, label string) []string {
	return []string{
		"-q", "-F", "-L", label, "-b", "4096", "-m", "0",
		"-E", "lazy_itable_init=0,lazy_journal_init=1", "--", path,
	}
}

// FromTar writes the tar stream as a read-only ext4 filesystem to path, without root. It has no
// journal and no free blocks; blocks of zeroes, as sparse files are full of, are holes of the
// host's file. It reads r to its end, past the archive's end mark, so that the writer of a pipe can
// finish. The path must not exist; on an error nothing stays there. The same stream gives the same
// bytes.
func FromTar(ctx context.Context, r io.Reader, path, label string) error {
	if err := checkLabel(label); err != nil {
		return err
	}
	return createFile(path, 0o644, func(file *os.File) error {
		r := contextReader{ctx, r}
		sparse := &holeWriter{file: file}
		err := tar2ext4.ConvertTarToExt4(r, sparse, tar2ext4.MaximumDiskSize(maxTarExt4Bytes))
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		if err == nil {
			err = sparse.finish()
		}
		if err != nil {
			return fmt.Errorf("convert tar to ext4: %w", err)
		}
		return setLabel(file, label)
	})
}

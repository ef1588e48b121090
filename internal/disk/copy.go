package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyChunkBytes bounds how long a copy runs between two looks at its context.
const copyChunkBytes = 32 << 20

// Copy copies the file src to dst, which must not exist: by reflink where the filesystem can
// (nothing is copied until written), else data by data, keeping holes. On an error nothing stays at
// dst.
func Copy(ctx context.Context, src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("copy disk: %w", err)
	}
	defer in.Close()
	return createFile(dst, 0o600, func(out *os.File) error {
		// Which error refuses a reflink differs by filesystem (EOPNOTSUPP, EXDEV, EINVAL, ENOTTY):
		// any of them means copying; a real fault shows there again.
		if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
			return nil
		}
		if err := copySparse(ctx, in, out); err != nil {
			return fmt.Errorf("copy disk %s: %w", src, err)
		}
		return nil
	})
}

// copySparse copies only what SEEK_DATA finds and leaves the rest a hole.
func copySparse(ctx context.Context, in, out *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	return dataRanges(in, info.Size(), func(start, end int64) error { return copyRange(ctx, in, out, start, end) })
}

// dataRanges calls each for the parts of a file that are no holes, as SEEK_DATA finds them.
func dataRanges(file *os.File, size int64, each func(start, end int64) error) error {
	for at := int64(0); at < size; {
		data, err := file.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return fmt.Errorf("seek data: %w", err)
		}
		hole, err := file.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("seek hole: %w", err)
		}
		if err := each(data, hole); err != nil {
			return err
		}
		at = hole
	}
	return nil
}

// DataBytes returns how much of the file at path is no hole, in whole blocks of WriteSparse.
func DataBytes(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	var sum int64
	err = dataRanges(file, info.Size(), func(start, end int64) error {
		sum += (end+sparseBlockBytes-1)&^(sparseBlockBytes-1) - start&^(sparseBlockBytes-1)
		return nil
	})
	return sum, err
}

// copyRange copies the bytes from start to end; io.CopyN lets the kernel move them
// (copy_file_range).
func copyRange(ctx context.Context, in, out *os.File, start, end int64) error {
	if _, err := in.Seek(start, io.SeekStart); err != nil {
		return err
	}
	if _, err := out.Seek(start, io.SeekStart); err != nil {
		return err
	}
	for left := end - start; left > 0; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := io.CopyN(out, in, min(left, copyChunkBytes))
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

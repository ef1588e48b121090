package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	// sparseBlockBytes is the length of zeroes that becomes a hole: what filesystems allocate.
	sparseBlockBytes = 4 << 10
	readBlockBytes   = 256 << 10
)

var zeroes [sparseBlockBytes]byte

// WriteSparse writes exactly size bytes of r to the file at path, which must not exist, with holes for its zeroes. It takes
// what it writes off budget and fails when that is used up: a small stream must not fill a disk. On an error nothing stays.
func WriteSparse(path string, r io.Reader, size int64, budget *int64) error {
	return createFile(path, 0o644, func(file *os.File) error {
		if err := file.Truncate(size); err != nil {
			return fmt.Errorf("set file size: %w", err)
		}
		buffer := make([]byte, readBlockBytes)
		for at := int64(0); at < size; {
			n, err := io.ReadFull(r, buffer[:min(readBlockBytes, size-at)])
			if err != nil {
				return err
			}
			if err := writeBlocks(file, buffer[:n], at, budget); err != nil {
				return err
			}
			at += int64(n)
		}
		return nil
	})
}

// writeBlocks writes the blocks of data that are not all zeroes, neighbours at once.
func writeBlocks(file *os.File, data []byte, at int64, budget *int64) error {
	isZero := func(i int) bool {
		block := data[i:min(i+sparseBlockBytes, len(data))]
		return bytes.Equal(block, zeroes[:len(block)])
	}
	for i := 0; i < len(data); i += sparseBlockBytes {
		if isZero(i) {
			continue
		}
		start := i
		for i += sparseBlockBytes; i < len(data) && !isZero(i); i += sparseBlockBytes {
		}
		part := data[start:min(i, len(data))]
		if *budget -= int64(len(part)); *budget < 0 {
			return errors.New("more data than was announced")
		}
		if _, err := file.WriteAt(part, at+int64(start)); err != nil {
			return err
		}
	}
	return nil
}

// WithContext ends a stream when its context does.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return contextReader{ctx, r} }

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

// WriteSparse writes exactly size bytes of r to the file at path, which must not exist, with holes
// for its zeroes. It takes what it writes off budget and fails when that is used up: a small stream
// must not fill a disk. On an error nothing stays.
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

// holeWriter is a new file for a writer that goes to and fro: zeroes where nothing was written yet
// stay a hole. The file may end in one, so call finish last.
type holeWriter struct {
	file *os.File
	at   int64 // where the next byte goes
	end  int64 // of all that was written
}

func (h *holeWriter) Write(p []byte) (int, error) {
	old := min(int64(len(p)), max(0, h.end-h.at))
	if n, err := h.file.WriteAt(p[:old], h.at); err != nil {
		return n, err
	}
	budget := int64(len(p))
	if err := writeBlocks(h.file, p[old:], h.at+old, &budget); err != nil {
		return int(old), err
	}
	h.at += int64(len(p))
	if len(p) > 0 { // a seek alone makes no file longer
		h.end = max(h.end, h.at)
	}
	return len(p), nil
}

func (h *holeWriter) Read(p []byte) (int, error) {
	n, err := h.file.ReadAt(p, h.at)
	h.at += int64(n)
	return n, err
}

func (h *holeWriter) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += h.at
	case io.SeekEnd:
		offset += h.end
	}
	if offset < 0 {
		return h.at, os.ErrInvalid
	}
	h.at = offset
	return offset, nil
}

// finish gives the file its length.
func (h *holeWriter) finish() error { return h.file.Truncate(h.end) }

// WithContext ends a stream when its context does.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return contextReader{ctx, r} }

package oci

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

	"banger/internal/compression"
)

const (
	blobBuffer = 256 << 10

	// maxWindowBytes bounds what a decompressor keeps in memory; zstd --ultra and xz -9 need that
	// much.
	maxWindowBytes = 128 << 20
)

// unpack returns what is packed in r, or r itself when it is not packed. Close it to free its
// memory.
func unpack(r io.Reader) (*compression.Reader, error) {
	return compression.Open(bufio.NewReaderSize(r, blobBuffer), maxWindowBytes)
}

// hashed reads a layer from its first byte to its last and knows, at the end, whether it was the
// announced one.
type hashed struct {
	io.Reader // the tar in the layer

	layer          layer
	raw            io.Reader
	limit          *compression.Limited // of the tar
	rawSum, tarSum hash.Hash            // tarSum is nil when the layer is not packed: rawSum is of the same bytes
	close          func() error
}

// openHashed opens the layer for one pass. maxBytes bounds the tar in it.
func (l layer) openHashed(maxBytes int64) (*hashed, error) {
	h := &hashed{layer: l, rawSum: sha256.New()}
	h.raw = io.TeeReader(io.NewSectionReader(l.blob, 0, l.size), h.rawSum)
	plain, err := unpack(h.raw)
	if err != nil {
		return nil, err
	}
	h.close = plain.Close
	h.limit = compression.Limit(plain, maxBytes)
	h.Reader = h.limit
	if plain.Packed() {
		h.tarSum = sha256.New()
		h.Reader = io.TeeReader(h.Reader, h.tarSum)
	}
	return h, nil
}

// tarBytes is how much of the tar was read.
func (h *hashed) tarBytes() int64 { return h.limit.Bytes() }

// verify reads the rest, which no tar reader asks for, compares the sums and returns the blob's.
func (h *hashed) verify() (digest string, err error) {
	if _, err := io.Copy(io.Discard, h.Reader); err != nil {
		return "", err
	}
	if _, err := io.Copy(io.Discard, h.raw); err != nil {
		return "", err
	}
	digest = hex.EncodeToString(h.rawSum.Sum(nil))
	if h.layer.digest != "" && digest != h.layer.digest {
		return "", fmt.Errorf("sha256 %.12s, want %.12s", digest, h.layer.digest)
	}
	sum := digest
	if h.tarSum != nil {
		sum = hex.EncodeToString(h.tarSum.Sum(nil))
	}
	if h.layer.diffID != "" && sum != h.layer.diffID {
		return "", fmt.Errorf("sha256 %.12s of what is in it, want %.12s", sum, h.layer.diffID)
	}
	return digest, nil
}

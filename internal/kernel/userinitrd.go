package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"banger/internal/compression"
)

// The newc format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst): a header of
// hex digits, the name and the data, each padded to 4 bytes; a name of its own ends the archive.
const (
	newcMagic         = "070701"
	newcChecksumMagic = "070702"
	newcHeaderBytes   = 110
	newcSizeOffset    = 54
	newcNameOffset    = 94
	newcEnd           = "TRAILER!!!"

	maxInitrdBytes = 1 << 30 // packed or plain; it must fit into the guest's memory anyway
)

var errNotInitrd = errors.New("not an initrd")

// plainInitrd returns a user's initrd without compression, ready for another archive to follow. An
// initrd is any number of plain newc archives, then at most one compressed one that holds the same:
// that is how distributions put microcode before the rest. Unpacking it here spares each boot the
// time, and the kernel the need to know the compression.
func plainInitrd(data []byte) ([]byte, error) {
	plain, err := plainArchives(data, true)
	if err != nil {
		return nil, fmt.Errorf("read initrd: %w", err)
	}
	if len(plain) == 0 {
		return nil, fmt.Errorf("read initrd: %w: it is empty", errNotInitrd)
	}
	return append(plain, make([]byte, (512-len(plain)%512)%512)...), nil
}

func plainArchives(data []byte, unpack bool) ([]byte, error) {
	end := 0
	for {
		rest := bytes.TrimLeft(data[end:], "\x00") // padding between archives
		if len(rest) == 0 {
			return bytes.Clone(data[:end]), nil
		}
		at := len(data) - len(rest)
		if bytes.HasPrefix(rest, []byte(newcMagic)) || bytes.HasPrefix(rest, []byte(newcChecksumMagic)) {
			n, err := archiveLength(rest)
			if err != nil {
				return nil, err
			}
			end = at + n
			continue
		}
		if !unpack {
			return nil, fmt.Errorf("%w: something else follows the archives", errNotInitrd)
		}
		inner, err := unpackArchives(rest)
		if err != nil {
			return nil, err
		}
		before := append(bytes.Clone(data[:end]), make([]byte, (4-end%4)%4)...)
		return append(before, inner...), nil
	}
}

func unpackArchives(packed []byte) ([]byte, error) {
	r, err := unpacked(packed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotInitrd, err)
	}
	defer r.Close()
	r.SingleStream() // zeroes may follow, as padding
	plain, err := io.ReadAll(compression.Limit(r, maxInitrdBytes))
	if err != nil {
		return nil, fmt.Errorf("unpack initrd: %w", err)
	}
	return plainArchives(plain, false)
}

// archiveLength returns the length of the newc archive that data begins with.
func archiveLength(data []byte) (int, error) {
	at := 0
	for {
		if len(data)-at < newcHeaderBytes {
			return 0, fmt.Errorf("%w: archive is cut", errNotInitrd)
		}
		header := data[at:]
		if magic := string(header[:len(newcMagic)]); magic != newcMagic && magic != newcChecksumMagic {
			return 0, fmt.Errorf("%w: bad header at %d", errNotInitrd, at)
		}
		size, sizeErr := strconv.ParseUint(string(header[newcSizeOffset:newcSizeOffset+8]), 16, 32)
		nameSize, nameErr := strconv.ParseUint(string(header[newcNameOffset:newcNameOffset+8]), 16, 16)
		if err := errors.Join(sizeErr, nameErr); err != nil {
			return 0, fmt.Errorf("%w: bad header at %d: %w", errNotInitrd, at, err)
		}
		name := at + newcHeaderBytes
		body := (name + int(nameSize) + 3) &^ 3
		next := (body + int(size) + 3) &^ 3
		if nameSize == 0 || body > len(data) || body+int(size) > len(data) {
			return 0, fmt.Errorf("%w: archive is cut", errNotInitrd)
		}
		if string(bytes.TrimRight(data[name:name+int(nameSize)], "\x00")) == newcEnd {
			return min(next, len(data)), nil
		}
		at = next
	}
}

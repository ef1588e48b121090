package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// The ext4 superblock: 1024 bytes at offset 1024 (kernel:
// Documentation/filesystems/ext4/super.rst).
const (
	superblockOffset = 1024
	superblockSize   = 1024

	offsetBlocks      = 0x4
	offsetLogBlock    = 0x18 // block size is 1024 << this
	offsetMagic       = 0x38
	offsetState       = 0x3a
	offsetIncompat    = 0x60
	offsetROCompat    = 0x64
	offsetUUID        = 0x68
	offsetVolumeName  = 0x78
	offsetChecksum    = 0x3fc
	superblockMagic   = 0xef53
	offsetBlocksHigh  = 0x150
	roCompatChecksums = 0x400 // metadata_csum
	incompatRecover   = 0x4   // the journal must be replayed first
	incompat64Bit     = 0x80
	stateErrors       = 0x2
	maxLogBlock       = 6

	// MaxLabel is the longest label, in bytes.
	MaxLabel = 16
)

// Labels of the drives banger makes; the guest finds its drives by them.
const (
	LabelImage   = "banger-image"   // an image's root filesystem, read-only
	LabelModules = "banger-modules" // a kernel's modules, read-only
)

// ErrNotExt4 says that a file holds no ext4 filesystem.
var ErrNotExt4 = errors.New("not an ext4 filesystem")

// Volume is what an ext4 filesystem says of itself.
type Volume struct {
	Label        string
	UUID         string // 32 hex digits
	SizeBytes    int64
	NeedsJournal bool // it was not unmounted cleanly: it can not be mounted from a read-only drive
	HasErrors    bool // a kernel found it damaged, or could not write it, and nobody has checked it since
}

// VolumeOf reads the superblock of the ext4 filesystem in the file at path.
func VolumeOf(path string) (Volume, error) {
	file, err := os.Open(path)
	if err != nil {
		return Volume{}, err
	}
	defer file.Close()
	sb, err := readSuperblock(file)
	if err != nil {
		return Volume{}, err
	}
	name, _, _ := bytes.Cut(sb[offsetVolumeName:offsetVolumeName+MaxLabel], []byte{0})
	incompat := binary.LittleEndian.Uint32(sb[offsetIncompat:])
	blocks, logBlock := uint64(binary.LittleEndian.Uint32(sb[offsetBlocks:])), binary.LittleEndian.Uint32(sb[offsetLogBlock:])
	if incompat&incompat64Bit != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(sb[offsetBlocksHigh:])) << 32
	}
	if logBlock > maxLogBlock || blocks > 1<<46 {
		return Volume{}, fmt.Errorf("read superblock of %s: %w: %d blocks of %d", path, ErrNotExt4, blocks, logBlock)
	}
	return Volume{
		Label: string(name), UUID: hex.EncodeToString(sb[offsetUUID : offsetUUID+16]),
		SizeBytes: int64(blocks << (10 + logBlock)), NeedsJournal: incompat&incompatRecover != 0,
		HasErrors: binary.LittleEndian.Uint16(sb[offsetState:])&stateErrors != 0,
	}, nil
}

// Label returns the label of the ext4 filesystem in the file at path.
func Label(path string) (string, error) {
	v, err := VolumeOf(path)
	return v.Label, err
}

// SetLabel writes the label of an ext4 filesystem that nothing has mounted. Copies of the
// superblock further down keep the old label, as after e2label; nothing reads them but a repair.
func SetLabel(path, label string) error {
	if err := checkLabel(label); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := setLabel(file, label); err != nil {
		return errors.Join(err, file.Close())
	}
	return file.Close()
}

func setLabel(file *os.File, label string) error {
	sb, err := readSuperblock(file)
	if err != nil {
		return err
	}
	name := sb[offsetVolumeName : offsetVolumeName+MaxLabel]
	clear(name)
	copy(name, label)
	if binary.LittleEndian.Uint32(sb[offsetROCompat:])&roCompatChecksums != 0 {
		binary.LittleEndian.PutUint32(sb[offsetChecksum:], superblockChecksum(sb))
	}
	if _, err := file.WriteAt(sb, superblockOffset); err != nil {
		return fmt.Errorf("write superblock of %s: %w", file.Name(), err)
	}
	return nil
}

// superblockChecksum is ext4's crc32c: seeded with all ones and, unlike Go's, not inverted at the
// end.
func superblockChecksum(sb []byte) uint32 {
	return ^crc32.Checksum(sb[:offsetChecksum], crc32.MakeTable(crc32.Castagnoli))
}

func readSuperblock(file *os.File) ([]byte, error) {
	sb := make([]byte, superblockSize)
	if _, err := file.ReadAt(sb, superblockOffset); err != nil {
		return nil, fmt.Errorf("read superblock of %s: %w: %w", file.Name(), ErrNotExt4, err)
	}
	if binary.LittleEndian.Uint16(sb[offsetMagic:]) != superblockMagic {
		return nil, fmt.Errorf("read superblock of %s: %w", file.Name(), ErrNotExt4)
	}
	return sb, nil
}

func checkLabel(label string) error {
	if len(label) == 0 || len(label) > MaxLabel {
		return fmt.Errorf("label %q: want 1 to %d bytes", label, MaxLabel)
	}
	return nil
}

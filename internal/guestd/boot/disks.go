package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// File system labels of the drives.
const (
	LabelImage   = "banger-image"   // the image, shared and read-only
	LabelDisk    = "banger-disk"    // the VM's own
	LabelModules = "banger-modules" // the tree of /lib/modules, read-only
)

const diskPoll = 5 * time.Millisecond

// Disks are the device nodes of the drives. Modules is empty when there is no such drive.
type Disks struct {
	Image, Disk, Modules string
}

// waitDisks looks for the drives until it has the image and, unless ownRoot, the disk, at most for
// deadline; the modules drive has grace to follow them, for drives appear one after another. image
// is the UUID of an image without our label, or empty.
func waitDisks(
	ctx context.Context, sysBlock, dev, image string, ownRoot bool, deadline, grace time.Duration,
) (Disks, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	tick := time.NewTicker(diskPoll)
	defer tick.Stop()
	var graceOver <-chan time.Time
	for {
		d, seen := scanDisks(sysBlock, dev, image)
		if d.Image != "" && (d.Disk != "" || ownRoot) {
			if d.Modules != "" || grace == 0 {
				return d, nil
			}
			if graceOver == nil {
				graceOver = time.After(grace)
			}
		}
		select {
		case <-tick.C:
		case <-graceOver:
			return d, nil
		case <-ctx.Done():
			return d, missingDisks(d, image, seen)
		}
	}
}

func missingDisks(d Disks, image string, seen []string) error {
	what := fmt.Sprintf("the ext4 label %q", LabelImage)
	switch {
	case d.Image != "":
		what = fmt.Sprintf("the ext4 label %q", LabelDisk)
	case image != "":
		what = "the ext4 UUID " + image
	}
	drives := "no virtio drive at all"
	if len(seen) > 0 {
		drives = strings.Join(seen, ", ")
	}
	return fmt.Errorf("no drive with %s (there is: %s)", what, drives)
}

// scanDisks reads the label of every virtio-blk drive, and lists what it saw as "vda (label)" for
// an error's sake. The first drive of a label counts; with a UUID the image is the drive that has
// it, whatever its label.
func scanDisks(sysBlock, dev, image string) (d Disks, seen []string) {
	drives, _ := filepath.Glob(filepath.Join(sysBlock, "vd*"))
	for _, drive := range drives {
		name := filepath.Base(drive)
		node := filepath.Join(dev, name)
		label, uuid, err := readVolume(node)
		if err != nil {
			seen = append(seen, name+" (no ext4)")
			continue
		}
		seen = append(seen, fmt.Sprintf("%s (%s)", name, label))
		if image != "" && uuid == image {
			d.Image = node
			continue
		}
		for want, field := range map[string]*string{LabelImage: &d.Image, LabelDisk: &d.Disk, LabelModules: &d.Modules} {
			if label == want && *field == "" && (image == "" || want != LabelImage) {
				*field = node
			}
		}
	}
	return d, seen
}

func readVolume(node string) (label, uuid string, err error) {
	f, err := os.Open(node)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	return ReadVolume(f)
}

// ErrNotExt4 says that a drive holds no ext4 (or ext2, ext3) file system.
var ErrNotExt4 = errors.New("no ext4 superblock")

// ReadVolume reads the volume's name and its UUID (32 hex digits) from an ext4 superblock: kernel
// documentation, filesystems/ext4/globals, s_magic at 0x38, s_uuid at 0x68 and s_volume_name at
// 0x78 of the block at byte 1024.
func ReadVolume(r io.ReaderAt) (label, uuid string, err error) {
	var sb [0x88]byte
	if n, err := r.ReadAt(sb[:], 1024); n < len(sb) {
		if errors.Is(err, io.EOF) {
			return "", "", ErrNotExt4
		}
		return "", "", fmt.Errorf("read superblock: %w", err)
	}
	if binary.LittleEndian.Uint16(sb[0x38:]) != 0xEF53 {
		return "", "", ErrNotExt4
	}
	name, _, _ := bytes.Cut(sb[0x78:0x88], []byte{0})
	return string(name), hex.EncodeToString(sb[0x68:0x78]), nil
}

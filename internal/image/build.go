package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger/internal/debian"
	"banger/internal/disk"
	"banger/internal/progress"
)

const (
	// buildDeadline ends a build that hangs; on a slow line and an old machine one takes ten
	// minutes.
	buildDeadline = 45 * time.Minute

	workBytes   = 1536 << 20 // packages, the unpacked root, and some air
	rootfsBytes = 768 << 20

	// workRoot is where mmdebstrap works. Its helper ids must reach it, so it can not be in a
	// private home; and it is not /tmp, which is often memory.
	workRoot = "/var/tmp"
)

// Build makes the image of a distribution from mirror in dir, an empty folder that the caller
// publishes. work is a folder below workRoot. On an error the content of dir is of no use, and
// nothing of the build runs any more.
func Build(ctx context.Context, source Source, mirror, work, dir string) (Manifest, error) {
	from := source.distribution
	if err := CheckHost(); err != nil {
		return Manifest{}, err
	}
	if err := errors.Join(disk.RequireFree(work, workBytes), disk.RequireFree(dir, rootfsBytes)); err != nil {
		return Manifest{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, buildDeadline, fmt.Errorf("image build took longer than %s", buildDeadline))
	defer cancel()
	p := plan{
		suite:      from.suite,
		components: from.components,
		mirror:     strings.TrimRight(mirror, "/"),
		keyring:    filepath.Join(work, "keyring.gpg"),
		statusFile: filepath.Join(work, "status"),
	}
	if err := os.WriteFile(p.keyring, from.keyring, 0o644); err != nil {
		return Manifest{}, err
	}
	if err := stream(ctx, p, work, filepath.Join(dir, rootfsName)); err != nil {
		return Manifest{}, fmt.Errorf("build image %s: %w", source, err)
	}
	m := Manifest{Source: "mmdebstrap from " + p.mirror}
	var err error
	m.Packages, m.Architecture, err = installed(ctx, p.statusFile)
	return m, err
}

// stream runs mmdebstrap and turns what it writes into the root filesystem at path.
func stream(ctx context.Context, p plan, work, path string) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stage := progress.Start(ctx, "build image")
	defer func() { stage.End(err) }()
	b, err := startBootstrap(ctx, p.args(), work, stage)
	if err != nil {
		return err
	}
	converted := disk.FromTar(ctx, b.tar, path, disk.LabelImage)
	if converted != nil && !errors.Is(converted, io.ErrUnexpectedEOF) {
		cancel(converted) // mmdebstrap has nobody to write to; a broken-off stream means that it ends by itself
	}
	if err := b.wait(); err != nil {
		return err
	}
	return converted
}

// installed reads dpkg's status file: the packages, and the architecture of the machine.
func installed(ctx context.Context, statusFile string) (list []string, architecture string, err error) {
	file, err := os.Open(statusFile)
	if err != nil {
		return nil, "", fmt.Errorf("read package list: %w", err)
	}
	defer file.Close()
	err = debian.Stanzas(ctx, file, func(s debian.Stanza) error {
		if strings.HasSuffix(s["Status"], " installed") {
			list = append(list, s["Package"]+" "+s["Version"])
		}
		if s["Package"] == "dpkg" {
			architecture = s["Architecture"]
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("read package list: %w", err)
	}
	slices.Sort(list)
	return list, architecture, nil
}

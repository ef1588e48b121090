// Package builder makes images inside throw-away VMs: it joins the plan of package provision, the
// VM of package vm and the catalog of package image, and keeps the log of each image's last build.
package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"banger/api"
	"banger/internal/artifact"
	"banger/internal/config"
	"banger/internal/download"
	"banger/internal/guest"
	"banger/internal/image"
	"banger/internal/provision"
	"banger/internal/store"
	"banger/internal/vm"
)

// defaultSizeMiB is the size of a root while it is built.
const defaultSizeMiB = 8 << 10

// Builder builds images. It is safe for concurrent use.
type Builder struct {
	vms       *vm.Manager
	images    *image.Catalog
	downloads *download.Cache
	logDir    string

	mu      sync.Mutex      // guards running; never held over I/O
	running map[string]bool // by the image's name
}

// New returns a Builder that keeps its logs and downloads below the home folder. Call it once a
// daemon's life, before anything is built.
func New(vms *vm.Manager, images *image.Catalog, c config.Config) (*Builder, error) {
	b := &Builder{
		vms: vms, images: images, logDir: c.Home.Builds(), running: map[string]bool{},
		downloads: &download.Cache{Dir: c.Home.Downloads(), Registry: c.NPMRegistry},
	}
	return b, b.downloads.Sweep()
}

// Build makes an image, or returns the one of that name when it was made from the same inputs. What
// is said on the way goes to follow and to the log. A second build of the name is refused while the
// first one goes on. c is the configuration to build with.
func (b *Builder) Build(
	ctx context.Context, want api.BuildImage, c config.Config, follow io.Writer,
) (api.Image, error) {
	if err := artifact.CheckName(want.Name); err != nil {
		return api.Image{}, err
	}
	plan, err := provision.NewPlan(want, c)
	if err != nil {
		return api.Image{}, err
	}
	end, err := b.begin(want.Name)
	if err != nil {
		return api.Image{}, err
	}
	defer end()
	source, err := b.images.Ensure(ctx, cmp.Or(want.From, c.Image))
	if err != nil {
		return api.Image{}, err
	}
	inputs, err := plan.InputsSHA256(ctx, source.ID)
	if err != nil {
		return api.Image{}, err
	}
	if there, err := b.images.Inspect(ctx, want.Name); err == nil && there.InputsSHA256 == inputs && !want.Force {
		return there, b.images.Verify(ctx, there.ID)
	}
	log, err := b.openLog(want.Name, follow)
	if err != nil {
		return api.Image{}, err
	}
	id, err := b.build(ctx, job{want, plan, source, inputs, log})
	if err != nil {
		fmt.Fprintf(log, "== failed: %v\n", err)
		log.file.Close()
		return api.Image{}, withLog(err, want)
	}
	fmt.Fprintf(log, "== built %s (%.12s)\n", want.Name, id)
	if err := log.file.Close(); err != nil {
		return api.Image{}, fmt.Errorf("write build log: %w", err)
	}
	return b.images.Inspect(ctx, id)
}

// withLog adds to the error of a build where more of it is to be seen.
func withLog(err error, want api.BuildImage) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err
	}
	_ = e.WithRemedy(api.OpBuildLog.Remedy(api.BuildLog{Image: want.Name}, "the whole log is kept"))
	if !want.KeepOnFailure {
		again := want
		again.KeepOnFailure, again.Sources = true, nil
		_ = e.WithRemedy(api.OpBuildImage.Remedy(again, "keep the machine the next time, to look around in it"))
	}
	return err
}

// begin makes this the one build of the name.
func (b *Builder) begin(name string) (end func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running[name] {
		return nil, api.Errorf(api.CodeConflict, "image %s is being built already", name).
			WithRemedy(api.OpBuildLog.Remedy(api.BuildLog{Image: name, Follow: true}, "watch it"))
	}
	b.running[name] = true
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.running, name)
	}, nil
}

// job is one build, checked.
type job struct {
	want   api.BuildImage
	plan   provision.Plan
	source store.Image
	inputs string // hash of what it is made of
	log    *buildLog
}

// build runs the VM and publishes what came of it, and returns the image's id.
func (b *Builder) build(ctx context.Context, j job) (id string, err error) {
	size := j.want.SizeMiB
	if size == 0 {
		size = max(defaultSizeMiB, int(j.source.SizeBytes>>20)+defaultSizeMiB/2) // a larger source has room, too
	}
	var packages []string
	var architecture string
	err = b.vms.Build(ctx, vm.Build{
		ImageName: j.want.Name, From: j.source, Kernel: cmp.Or(j.source.KernelID, j.want.KernelDefault),
		CPUs: j.want.CPUs, MemoryMiB: j.want.MemoryMiB, SizeMiB: size,
		Network: api.NetworkUser, Keep: j.want.KeepOnFailure,
		BootTimeout: time.Duration(j.want.BootTimeoutMS) * time.Millisecond,
		StopTimeout: time.Duration(j.want.StopTimeoutMS) * time.Millisecond,
		MakeInputs: func(ctx context.Context, path string) error {
			if err := j.plan.Fetch(ctx, b.downloads); err != nil {
				return err
			}
			return j.plan.MakeInputs(ctx, path)
		},
		Work: func(ctx context.Context, agent *guest.Client) (err error) {
			if err := j.plan.Run(ctx, agent, j.log); err != nil {
				return err
			}
			packages, architecture, err = provision.Installed(ctx, agent)
			return err
		},
		Take: func(ctx context.Context, path string) error {
			m, err := b.manifest(ctx, j, packages, architecture)
			if err != nil {
				return err
			}
			made, err := b.images.Make(ctx, j.want.Name, func(_ context.Context, dir string) (image.Manifest, error) {
				return m, os.Rename(path, image.RootfsPath(dir))
			})
			id = made.ID
			return err
		},
	})
	return id, err
}

// manifest says what the image is; the catalog fills in what it knows itself. The source's
// services, kernel and defaults go on.
func (b *Builder) manifest(ctx context.Context, j job, packages []string, architecture string) (image.Manifest, error) {
	source, err := b.images.Inspect(ctx, j.source.ID)
	if err != nil {
		return image.Manifest{}, err
	}
	services := j.plan.Services
	for _, s := range source.Services {
		known := false
		for _, have := range j.plan.Services {
			known = known || have.Name == s.Name
		}
		if !known {
			services = append(services, s)
		}
	}
	return image.Manifest{
		Name: j.want.Name, Source: fmt.Sprintf("built from %s (%.12s)", j.source.Name, j.source.ID),
		Architecture: architecture, Packages: packages,
		Preset: j.plan.Preset, PresetSHA256: j.plan.PresetSHA256, InputsSHA256: j.inputs, Services: services,
		Kernel: source.KernelID, Defaults: source.Defaults,
	}, nil
}

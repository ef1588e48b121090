package control

import (
	"context"
	"io"

	"banger/api"
	"banger/internal/config"
	"banger/internal/image"
)

// Images lists all images.
func (c *Control) Images(ctx context.Context, _ api.None) ([]api.Image, error) {
	return c.o.Images.List(ctx)
}

// Image returns one image.
func (c *Control) Image(ctx context.Context, in api.ImageRef) (api.Image, error) {
	return c.o.Images.Inspect(ctx, in.Image)
}

// PullImage makes an image from a registry, a file or a distribution's archive.
func (c *Control) PullImage(ctx context.Context, in api.PullImage) (api.Image, error) {
	source, err := image.ParseSource(in.Source)
	if err != nil {
		return api.Image{}, err
	}
	rec, err := c.o.Images.Pull(ctx, source, in.Name)
	if err != nil {
		return api.Image{}, err
	}
	return c.o.Images.Inspect(ctx, rec.ID)
}

// BuildImage makes an image inside a machine that is thrown away; what is said in it goes to log.
func (c *Control) BuildImage(ctx context.Context, in api.BuildImage, log io.Writer) (api.Image, error) {
	sources, err := config.WithSources(c.o.Config, in.Sources)
	if err != nil {
		return api.Image{}, err
	}
	for _, timeout := range []struct {
		field string
		ms    int64
	}{{"boot_timeout_ms", in.BootTimeoutMS}, {"stop_timeout_ms", in.StopTimeoutMS}} {
		if _, err := milliseconds(timeout.field, timeout.ms); err != nil {
			return api.Image{}, err
		}
	}
	return c.o.Builder.Build(ctx, in, sources, log)
}

// BuildLog writes the log of an image's last build, and with Follow goes on until it has ended.
func (c *Control) BuildLog(ctx context.Context, in api.BuildLog, to Stream) error {
	return c.o.Builder.Log(ctx, in.Image, in.Follow, to, to.Flush)
}

// RemoveImage takes a name from an image, or deletes it.
func (c *Control) RemoveImage(ctx context.Context, in api.ImageRef) (api.None, error) {
	return api.None{}, c.o.Images.Remove(ctx, in.Image)
}

// TagImage gives an image one more name.
func (c *Control) TagImage(ctx context.Context, in api.TagImage) (api.Image, error) {
	return c.o.Images.Tag(ctx, in.Image, in.Name)
}

// PromoteImage copies a registered image into the store.
func (c *Control) PromoteImage(ctx context.Context, in api.ImageRef) (api.Image, error) {
	return c.o.Images.Promote(ctx, in.Image)
}

// SaveImage writes an image as an archive.
func (c *Control) SaveImage(ctx context.Context, in api.ImageRef, to Stream) error {
	return c.o.Images.Save(ctx, in.Image, to)
}

// RegisterImage makes an image of a filesystem that stays where it is.
func (c *Control) RegisterImage(ctx context.Context, in api.RegisterImage) (api.Image, error) {
	return c.o.Images.Register(ctx, in)
}

// LoadImage makes the image of an archive.
func (c *Control) LoadImage(ctx context.Context, in api.LoadImage, archive io.Reader) (api.Image, error) {
	return c.o.Images.Load(ctx, archive, in.Name)
}

// PruneImages deletes the images that nobody can name or uses.
func (c *Control) PruneImages(ctx context.Context, in api.Prune) (api.Pruned, error) {
	return c.o.Images.Prune(ctx, in.DryRun)
}

// Kernels lists all kernel bundles.
func (c *Control) Kernels(ctx context.Context, _ api.None) ([]api.Kernel, error) {
	return c.o.Kernels.List(ctx)
}

// Kernel returns one kernel bundle.
func (c *Control) Kernel(ctx context.Context, in api.KernelRef) (api.Kernel, error) {
	return c.o.Kernels.Inspect(ctx, in.Kernel)
}

// PullKernel fetches a kernel bundle.
func (c *Control) PullKernel(ctx context.Context, in api.PullKernel) (api.Kernel, error) {
	return c.o.Kernels.Pull(ctx, in)
}

// ImportKernel makes a kernel bundle of the host's files.
func (c *Control) ImportKernel(ctx context.Context, in api.ImportKernel) (api.Kernel, error) {
	if in.Name == "" {
		return api.Kernel{}, api.Errorf(api.CodeInvalid, "the kernel needs a name")
	}
	return c.o.Kernels.Import(ctx, in)
}

// PruneKernels deletes the kernels that nobody can name or uses.
func (c *Control) PruneKernels(ctx context.Context, in api.Prune) (api.Pruned, error) {
	return c.o.Kernels.Prune(ctx, in.DryRun)
}

// RemoveKernel takes a name from a kernel bundle, or deletes it.
func (c *Control) RemoveKernel(ctx context.Context, in api.KernelRef) (api.None, error) {
	return api.None{}, c.o.Kernels.Remove(ctx, in.Kernel)
}

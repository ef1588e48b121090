package daemon

import (
	"context"
	"io"
	"net/http"
	"time"

	"banger/api"
)

func (s *Server) listImages(r *http.Request) ([]api.Image, error) { return s.images.List(r.Context()) }

func (s *Server) inspectImage(r *http.Request) (api.Image, error) {
	return s.images.Inspect(r.Context(), r.PathValue("image"))
}

func (s *Server) pullImage(r *http.Request) (api.Image, error) {
	body, err := decode[api.PullImage](r)
	if err != nil {
		return api.Image{}, err
	}
	rec, err := s.images.Pull(r.Context(), body.Source, body.Name)
	if err != nil {
		return api.Image{}, err
	}
	return s.images.Inspect(r.Context(), rec.ID)
}

func (s *Server) removeImage(r *http.Request) (struct{}, error) {
	return struct{}{}, s.images.Remove(r.Context(), r.PathValue("image"))
}

func (s *Server) tagImage(r *http.Request) (api.Image, error) {
	body, err := decode[api.TagImage](r)
	if err != nil {
		return api.Image{}, err
	}
	return s.images.Tag(r.Context(), r.PathValue("image"), body.Name)
}

func (s *Server) pruneImages(r *http.Request) (api.Pruned, error) {
	dryRun, err := queryBool(r, "dry_run")
	if err != nil {
		return api.Pruned{}, err
	}
	return s.images.Prune(r.Context(), dryRun)
}

func (s *Server) registerImage(r *http.Request) (api.Image, error) {
	body, err := decode[api.RegisterImage](r)
	if err != nil {
		return api.Image{}, err
	}
	return s.images.Register(r.Context(), body)
}

func (s *Server) promoteImage(r *http.Request) (api.Image, error) {
	return s.images.Promote(r.Context(), r.PathValue("image"))
}

// saveImage answers with an archive; an error after its first byte cuts the connection.
func (s *Server) saveImage(w http.ResponseWriter, r *http.Request) {
	body := &startedWriter{ResponseWriter: w}
	w.Header().Set("Content-Type", "application/zstd")
	if err := s.images.Save(r.Context(), r.PathValue("image"), body); err != nil {
		if body.started {
			s.log.Warn("save image", "path", r.URL.Path, "error", err)
			panic(http.ErrAbortHandler)
		}
		fail(w, err)
	}
}

func (s *Server) loadImage(r *http.Request) (api.Image, error) {
	return s.images.Load(r.Context(), r.Body, r.URL.Query().Get("name"))
}

// leftoverTimeout is how long a client may go on sending what nobody wants any more.
const leftoverTimeout = 10 * time.Second

// duplex lets a handler answer while it reads the request. What the client still sends after the answer is thrown away, for
// a client that cannot write may never look for the answer.
func duplex(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		connection := http.NewResponseController(w)
		if err := connection.EnableFullDuplex(); err != nil {
			fail(w, err)
			return
		}
		next(w, r)
		if connection.Flush() == nil && connection.SetReadDeadline(time.Now().Add(leftoverTimeout)) == nil {
			_, _ = io.Copy(io.Discard, r.Body) // the client is done, or gone
		}
	}
}

func (s *Server) importKernel(r *http.Request) (api.Kernel, error) {
	body, err := decode[api.ImportKernel](r)
	if err != nil {
		return api.Kernel{}, err
	}
	if body.Name == "" {
		return api.Kernel{}, api.Errorf(api.CodeInvalid, "the kernel needs a name")
	}
	return s.kernels.Import(r.Context(), body)
}

func (s *Server) pruneKernels(r *http.Request) (api.Pruned, error) {
	dryRun, err := queryBool(r, "dry_run")
	if err != nil {
		return api.Pruned{}, err
	}
	return s.kernels.Prune(r.Context(), dryRun)
}

func (s *Server) listKernels(r *http.Request) ([]api.Kernel, error) {
	return s.kernels.List(r.Context())
}

func (s *Server) inspectKernel(r *http.Request) (api.Kernel, error) {
	return s.kernels.Inspect(r.Context(), r.PathValue("kernel"))
}

func (s *Server) pullKernel(r *http.Request) (api.Kernel, error) {
	body, err := decode[api.PullKernel](r)
	if err != nil {
		return api.Kernel{}, err
	}
	return s.kernels.Pull(r.Context(), body)
}

func (s *Server) removeKernel(r *http.Request) (struct{}, error) {
	return struct{}{}, s.kernels.Remove(r.Context(), r.PathValue("kernel"))
}

// anyKernel returns the vmlinux of a kernel that is there, for a trial boot, or "".
func (s *Server) anyKernel(ctx context.Context) string {
	kernels, err := s.kernels.List(ctx)
	if err != nil || len(kernels) == 0 {
		return ""
	}
	return s.kernels.Vmlinux(kernels[0].ID)
}
